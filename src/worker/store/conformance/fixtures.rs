//! Events, deliveries and shorthands that the conformance suite and the engines' own tests use.

use super::*;
use crate::core::delivery_reason::DeliveryReason;
use crate::core::gate::{ChangeCheck, Snooze, SnoozeCheck};

/// The location of a store. A test can drop the store and open it again.
pub(in super::super) trait Subject {
    type Store: Store;
    /// Runs of the model test. Fewer for an engine whose stores take long to open.
    const MODEL_RUNS: u32 = 64;
    fn new() -> Self;
    fn open(&self) -> impl Future<Output = Self::Store>;
}

/// Shorthands for calls that production code makes in batches.
pub(in super::super) trait TestStore: Store {
    /// Accepts the events and returns the result.
    fn accept(
        &self,
        events: Vec<NewEvent>,
        now: Millis,
    ) -> BoxFuture<'_, Result<Vec<AcceptedEvent>, StoreError>> {
        async move {
            let (sender, result) = oneshot::channel();
            self.accept_then(events, now, Box::new(|_, accepted| drop(sender.send(accepted))));
            match result.await {
                Ok(accepted) => accepted,
                Err(_) => Err(self.failed().now_or_never().unwrap_or(StoreError::Closed)),
            }
        }
        .boxed()
    }

    /// Settles one delivery. True: another delivery of the hook became due.
    fn settle(&self, settlement: Settlement) -> BoxFuture<'_, Result<bool, StoreError>> {
        let settled = self.settle_many(vec![settlement]);
        settled.map(|settled| settled.map(|others_due| others_due.first() == Some(&true))).boxed()
    }

    /// Reads up to `rows` due deliveries without excluding any.
    async fn due_by(&self, uid: &str, now: Millis, rows: usize) -> Result<Vec<PendingDelivery>, StoreError> {
        let limit = ReadLimit { rows, bytes: usize::MAX, is_strict: false };
        let mut due = self.due(uid, now, FastSet::default(), limit).await?.pending;
        // The embedded store has none.
        due.iter_mut().for_each(|pending| pending.epoch = None);
        Ok(due)
    }
}

impl<S: Store> TestStore for S {}

pub(in super::super) const T0: Millis = Millis(1_700_000_000_000);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const LATE: Millis = Millis(T0.0 * 2);
pub(in super::super) const RETENTION: Retention = Retention {
    history_age: Duration::from_secs(24 * 3600),
    dead_letter_age: Duration::from_secs(48 * 3600),
    unmatched_age: Duration::from_secs(24 * 3600),
    history_bytes: u64::MAX,
    dead_letter_bytes: u64::MAX,
};

pub(in super::super) fn hook(name: &str) -> HookId {
    HookId { uid: format!("uid-{name}").into(), namespace: "shop".into(), name: name.into() }
}

pub(in super::super) fn event(id: &str) -> Arc<Event> {
    event_with(id, r#"{"n":1}"#)
}

pub(in super::super) fn event_with(id: &str, data: &str) -> Arc<Event> {
    Arc::new(Event {
        id: id.into(),
        namespace: "shop".into(),
        origin: Origin::Api,
        source: "orders".into(),
        event: "paid".into(),
        time: "2023-11-14T22:13:20Z".into(),
        data: RawValue::from_string(data.into()).unwrap().into(),
        attributes: BTreeMap::new(),
    })
}

pub(in super::super) fn delivery(hook_name: &str, due: Millis) -> NewDelivery {
    NewDelivery {
        epoch: None,
        hook: hook(hook_name),
        id: Uuid::now_v7(),
        due,
        gate_request: GateRequest::default(),
        dead: None,
    }
}

pub(in super::super) fn new(id: &str, hooks: &[&str], due: Millis) -> NewEvent {
    let deliveries = hooks.iter().map(|name| delivery(name, due)).collect();
    NewEvent { event: event(id), dedup: None, deliveries }
}

pub(in super::super) fn key(n: u8, window: Duration) -> Option<Dedup> {
    Some(Dedup { key: [n; 32], window })
}

pub(super) fn attempt(at: Millis, status: u16) -> AttemptRecord {
    AttemptRecord {
        at,
        duration: Duration::from_millis(120),
        status: Some(status),
        error: (status >= 300).then(|| "Status".to_owned()),
        detail: (status >= 300).then(|| "the receiver refused it".to_owned()),
    }
}

pub(in super::super) fn settled(
    delivery: DeliverySeq,
    at: Millis,
    status: u16,
    next: NextStep,
) -> Settlement {
    let attempt = attempt(at, status);
    Settlement {
        delivery,
        at: at + attempt.duration,
        attempt: Some(attempt),
        next,
        progress: None,
        exchange: ExchangeChange::Nothing,
    }
}

pub(in super::super) fn seqs_of<'a>(
    accepted: impl IntoIterator<Item = &'a AcceptedEvent>,
) -> Vec<DeliverySeq> {
    accepted.into_iter().flat_map(|a| &a.deliveries).map(|d| d.seq).collect()
}

/// Returns the `webhook-id` of each delivery.
pub(in super::super) fn ids_of<'a>(accepted: impl IntoIterator<Item = &'a AcceptedEvent>) -> Vec<Uuid> {
    accepted.into_iter().flat_map(|a| &a.deliveries).map(|d| d.id).collect()
}

pub(super) async fn due_ids(store: &impl Store, name: &str, now: Millis) -> Vec<DeliverySeq> {
    store.due_by(&hook(name).uid, now, 1000).await.unwrap().iter().map(|p| p.seq).collect()
}

pub(super) async fn sweep_all(store: &impl Store, now: Millis) {
    while store.sweep(RETENTION, now).await.unwrap() {}
}

/// Returns the gates of an event of a group.
pub(super) fn request(group: u8, value: Option<u8>, trailing: bool) -> GateRequest {
    let rule = Snooze { period: MINUTE, trailing };
    GateRequest {
        change: value.map(|value| ChangeCheck { key: [group; 16], value: [value; 16] }),
        snooze: Some(SnoozeCheck { key: [group; 16], rule }),
    }
}

/// Returns a check for a change of the value.
pub(super) fn change(value: u8) -> GateRequest {
    GateRequest { change: Some(ChangeCheck { key: [0; 16], value: [value; 16] }), snooze: None }
}

/// Accepts one event for the hook `x`. Returns its delivery's id, sequence number and fate.
pub(super) async fn accept_one(
    store: &impl Store,
    gate_request: GateRequest,
    now: Millis,
) -> (Uuid, DeliverySeq, Fate) {
    let delivery = NewDelivery { gate_request, ..delivery("x", now) };
    let new = NewEvent { deliveries: vec![delivery], ..new("e", &[], now) };
    let accepted = store.accept(vec![new], now).await.unwrap().remove(0).deliveries[0];
    (accepted.id, accepted.seq, accepted.fate)
}

pub(super) async fn state_of(store: &impl Store, id: Uuid) -> (DeliveryState, Option<String>) {
    let record = store.delivery("shop", id).await.unwrap().unwrap();
    (record.state, record.reason)
}

pub(super) async fn settle_dead(
    store: &impl Store,
    seq: DeliverySeq,
    reason: DeliveryReason,
    now: Millis,
) -> bool {
    let next = NextStep::Dead { reason };
    store
        .settle(Settlement {
            delivery: seq,
            at: now,
            attempt: None,
            next,
            progress: None,
            exchange: ExchangeChange::Nothing,
        })
        .await
        .unwrap()
}

pub(super) fn pending_since(due: Millis, suppressed: u32) -> Fate {
    Fate::Pending { due, suppressed }
}
