//! Accepted events with the outcome of their deliveries, as the API and the CLI list them.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use super::{DeliverySeq, DeliveryState};
use crate::core::event::Event;
use crate::core::time::Millis;

/// Selects events of one namespace, or of `ALL_NAMESPACES`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    pub namespace: String,
    pub source: Option<String>,
    /// The event's name.
    pub event: Option<String>,
    /// The name of a hook that has a delivery of the event.
    pub hook: Option<String>,
    /// `api`, `relay`, `stream`; or `relay/NAME`, `stream/NAME`.
    pub origin: Option<String>,
    pub outcome: Option<EventOutcome>,
    /// A part of the id; with `searches_data` also of the data as JSON text.
    pub text: Option<String>,
    pub searches_data: bool,
    /// Accepted at or after this time.
    pub since: Option<Millis>,
    /// Accepted before this time.
    pub until: Option<Millis>,
}

/// The outcome of an event. As a filter: `Dropped` and `Dead` match an event with at least one such delivery, `Matched` one
/// with any delivery.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema, strum::IntoStaticStr, strum::EnumString,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum EventOutcome {
    /// At least one hook matched it.
    Matched,
    /// No hook matched it.
    Unmatched,
    /// Gates dropped all its deliveries.
    Dropped,
    /// At least one of its deliveries is dead.
    Dead,
}

impl EventOutcome {
    /// Returns the outcome of an event with deliveries in these states.
    pub fn of(states: impl IntoIterator<Item = DeliveryState>) -> Self {
        let (mut outcome, mut has_other) = (EventOutcome::Unmatched, false);
        for state in states {
            match state {
                DeliveryState::Dead => return EventOutcome::Dead,
                DeliveryState::Dropped => outcome = EventOutcome::Dropped,
                DeliveryState::Pending | DeliveryState::Delivered | DeliveryState::Cancelled => {
                    has_other = true
                }
            }
        }
        if has_other { EventOutcome::Matched } else { outcome }
    }
}

/// A listed event.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRecord {
    /// Its data is null if it was not requested.
    pub event: Arc<Event>,
    pub accepted: Millis,
    pub outcome: EventOutcome,
    /// The hooks and states of its newest deliveries, up to a bounded number.
    pub deliveries: Vec<(Arc<str>, DeliveryState)>,
    /// True if it has further deliveries.
    pub has_more: bool,
}

/// A part of a list of events.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventPage {
    pub records: Vec<EventRecord>,
    /// Continues the list, as `DeliveryPage::next` does.
    pub next: Option<DeliverySeq>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use DeliveryState::{Cancelled, Dead, Delivered, Dropped, Pending};

    #[test]
    fn a_dead_delivery_outweighs_others() {
        for (states, outcome) in [
            (&[][..], EventOutcome::Unmatched),
            (&[Delivered, Dead, Dropped], EventOutcome::Dead),
            (&[Dropped, Dropped], EventOutcome::Dropped),
            (&[Dropped, Pending], EventOutcome::Matched),
            (&[Cancelled], EventOutcome::Matched),
        ] {
            assert_eq!(EventOutcome::of(states.iter().copied()), outcome, "{states:?}");
        }
    }
}
