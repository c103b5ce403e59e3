//! Events in memory: several deliveries of one event share one copy, which counts once.

use std::sync::Arc;

use crate::core::event::Event;
use crate::core::fast_map::FastMap;
use crate::worker::store::{DeliverySeq, EventSeq, PendingDelivery, event_seq};

/// Events with less data than this are not shared: a copy costs less than finding the other one.
const MIN_SHARED: usize = 4096;

/// The events of deliveries that are ready or in flight.
#[derive(Default)]
pub struct SharedEvents {
    events: FastMap<EventSeq, SharedEvent>,
}

struct SharedEvent {
    event: Arc<Event>,
    /// Deliveries in memory that use it.
    holders: usize,
}

impl SharedEvents {
    /// Adds a delivery. Replaces its event by the copy that is in memory, if there is one. Returns the bytes that this
    /// adds to the memory.
    pub fn add(&mut self, pending: &mut PendingDelivery) -> usize {
        let len = pending.event.data.get().len();
        if len < MIN_SHARED {
            return len;
        }
        let shared = self
            .events
            .entry(event_seq(pending.seq))
            .or_insert_with(|| SharedEvent { event: pending.event.clone(), holders: 0 });
        shared.holders += 1;
        if shared.holders == 1 {
            return len;
        }
        pending.event = shared.event.clone();
        0
    }

    /// Removes a delivery with this length of data. Returns the bytes that this frees.
    pub fn remove(&mut self, seq: DeliverySeq, len: usize) -> usize {
        if len < MIN_SHARED {
            return len;
        }
        let seq = event_seq(seq);
        let Some(shared) = self.events.get_mut(&seq) else { return len };
        shared.holders = shared.holders.saturating_sub(1);
        if shared.holders > 0 {
            return 0;
        }
        self.events.remove(&seq);
        len
    }

    /// Returns the number of shared events in memory.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.events.len()
    }
}
