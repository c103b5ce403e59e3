//! A store with the history of many hooks.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use hookstream::core::delivery_reason::DeliveryReason;
use hookstream::core::event::{Event, Origin};
use hookstream::core::time::Millis;
use hookstream::worker::store::sqlite::SqliteStore;
use hookstream::worker::store::{
    AcceptedEvent, AttemptRecord, DispatchStore, ExchangeChange, HookId, IngestStore, MaintenanceStore,
    NewEvent, NextStep, Settlement,
};
use serde_json::json;
use serde_json::value::RawValue;

use crate::common::preload::{copy_store, delivery_to, fill_once};
use crate::common::settings::number;

/// The namespace of all hooks: the largest that a page can show.
pub const NAMESPACE: &str = "default";
/// Deliveries of an event, of a different hook each.
pub const FAN_OUT: usize = 100;
/// Events of one commit.
const BATCH: usize = 10;
/// Batches in flight while the store is filled.
const IN_FLIGHT: usize = 16;
/// The time over which the events were accepted. Retention must not remove one while the store is kept.
const SPREAD: Duration = Duration::from_secs(12 * 3600);
/// The age at which a kept store is filled again, so that its dead letters are those of the last 24 hours.
const MAX_AGE: Duration = Duration::from_secs(8 * 3600);
/// Every hundredth delivery is dead.
const DEAD: usize = 100;
/// The newest events have pending deliveries, which are due long after the measurement.
const PENDING_EVENTS: usize = 100;
const PENDING_DUE: i64 = 30 * 86_400_000;

/// The content of the store.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    pub hooks: usize,
    pub deliveries: usize,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} hooks and {} deliveries", self.hooks, self.deliveries)
    }
}

impl Content {
    /// The size that the goal names, or that of `BENCH_HOOKS` and `BENCH_DELIVERIES`.
    pub fn from_environment() -> Content {
        Content {
            hooks: number("BENCH_HOOKS", 100_000).max(FAN_OUT),
            deliveries: number("BENCH_DELIVERIES", 10_000_000),
        }
    }

    pub fn events(self) -> usize {
        self.deliveries.div_ceil(FAN_OUT)
    }

    /// Creates the folder `data` with a copy of such a store, which is filled first if there is none.
    pub fn copy_to(self, data: &Path) {
        let name = format!("console-{}-{}", self.hooks, self.deliveries);
        let kept = fill_once(&name, &self.to_string(), MAX_AGE, async |data: &Path| self.fill(data).await);
        copy_store(&kept, data);
    }

    async fn fill(self, data: &Path) {
        let store = SqliteStore::open(data).expect("a store");
        let hooks: Vec<HookId> = (0..self.hooks).map(hook_id).collect();
        let (end, total) = (Millis::now(), self.events());
        let mut in_flight = FuturesOrdered::new();
        for first in (0..total).step_by(BATCH) {
            let age = SPREAD.as_millis() as u64 * (total - first) as u64 / total as u64;
            let now = Millis(end.0 - i64::try_from(age).expect("a time"));
            let numbers: Vec<usize> = (first..(first + BATCH).min(total)).collect();
            in_flight.push_back(self.accept_and_settle(&store, numbers, &hooks, now));
            if in_flight.len() >= IN_FLIGHT {
                in_flight.next().await;
            }
        }
        while in_flight.next().await.is_some() {}
        store.close().await;
    }

    async fn accept_and_settle(
        self,
        store: &SqliteStore,
        numbers: Vec<usize>,
        hooks: &[HookId],
        now: Millis,
    ) {
        let events = numbers.iter().map(|number| self.event(*number, hooks, now)).collect();
        let (sender, accepted) = tokio::sync::oneshot::channel();
        store.accept_then(events, now, Box::new(|_, result| drop(sender.send(result))));
        let accepted = accepted.await.expect("a result").expect("the store accepts");
        let finished = numbers.iter().zip(accepted).filter(|(number, _)| !self.is_pending(**number));
        let settlements: Vec<Settlement> =
            finished.flat_map(|(number, event)| settlements(*number, &event, now)).collect();
        if !settlements.is_empty() {
            store.settle_many(settlements).await.expect("the store settles");
        }
    }

    fn is_pending(self, event: usize) -> bool {
        event + PENDING_EVENTS.min(self.events() / 10) >= self.events()
    }

    fn event(self, number: usize, hooks: &[HookId], now: Millis) -> NewEvent {
        let data =
            json!({"order": number, "customer": format!("customer-{}", number % 1000), "total": 129.9});
        let event = Event {
            id: event_id(number),
            namespace: NAMESPACE.into(),
            origin: Origin::Api,
            source: "shop".into(),
            event: "order.created".into(),
            time: now.rfc3339(),
            data: RawValue::from_string(data.to_string()).expect("JSON").into(),
            attributes: [].into(),
        };
        let deliveries = (0..FAN_OUT).map(|place| {
            let mut delivery = delivery_to(&hooks[hook_of(number, place, hooks.len())], now);
            if self.is_pending(number) {
                delivery.due = Millis(now.0 + PENDING_DUE);
            }
            delivery
        });
        NewEvent { event: Arc::new(event), dedup: None, deliveries: deliveries.collect() }
    }
}

/// Returns the id of an event.
pub fn event_id(number: usize) -> String {
    format!("order-{number}")
}

/// Returns the name of a hook.
pub fn hook_name(number: usize) -> String {
    format!("h{number}")
}

/// Returns the identity of a hook in the store.
fn hook_id(number: usize) -> HookId {
    HookId { uid: hook_uid(number).into(), namespace: NAMESPACE.into(), name: hook_name(number).into() }
}

pub fn hook_uid(number: usize) -> String {
    format!("uid-{number}")
}

/// Returns which hook gets a delivery of an event: the hooks take turns.
fn hook_of(event: usize, place: usize, hooks: usize) -> usize {
    (event * FAN_OUT + place) % hooks
}

/// Returns the outcomes of an event's deliveries.
fn settlements(number: usize, event: &AcceptedEvent, now: Millis) -> Vec<Settlement> {
    let outcome = |place: usize| (number * FAN_OUT + place).is_multiple_of(DEAD);
    let deliveries = event.deliveries.iter().enumerate();
    deliveries
        .map(|(place, delivery)| {
            let is_dead = outcome(place);
            let next = match is_dead {
                true => NextStep::Dead { reason: DeliveryReason::MaxAttempts },
                false => NextStep::Delivered,
            };
            Settlement {
                delivery: delivery.seq,
                at: now,
                attempt: Some(AttemptRecord {
                    at: now,
                    duration: Duration::from_millis(7),
                    status: Some(if is_dead { 503 } else { 200 }),
                    error: is_dead.then(|| "Status".into()),
                    detail: None,
                }),
                next,
                progress: None,
                exchange: ExchangeChange::Nothing,
            }
        })
        .collect()
}
