//! What was accepted, kept.
//!
//! Purpose: one trait behind which the worker keeps events, deliveries and their attempts; `sqlite` is the embedded
//! engine.
//!
//! Invariants: `accept` returns after the commit and its fsync, and an event, its deliveries and its idempotency key
//! commit together or not at all; `settle` rides in the next group, for losing one costs a repeat and never a loss; a
//! failed fsync is fatal, for the kernel may have dropped what it could not write; nothing here knows HTTP or hooks'
//! specs; time is an argument.
//!
//! Left to others: which hooks match (`route`), when to try again (`core::retry`), who is sent next (`dispatch`).

pub mod sqlite;

#[cfg(test)]
mod conformance;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::core::event::Event;
use crate::core::gate::Asked;
pub use crate::core::retry::Next;
use crate::core::time::Millis;

/// A row's number: ascending in the order of acceptance, never used twice.
pub type Seq = i64;

/// An event to accept, with all that commits with it.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub event: Arc<Event>,
    /// Where set, a second event with this key within the window is a duplicate: nothing is stored for it.
    pub dedup: Option<Dedup>,
    pub deliveries: Vec<NewDelivery>,
}

/// An idempotency key.
#[derive(Clone, Debug)]
pub struct Dedup {
    /// A hash of what makes the event the same (at least 128 bits).
    pub key: [u8; 32],
    pub window: Duration,
}

/// A delivery to make: one event to one hook.
#[derive(Clone, Debug)]
pub struct NewDelivery {
    pub hook: HookId,
    /// The `webhook-id`, the same at every attempt.
    pub id: Uuid,
    /// When it is due.
    pub due: Millis,
    /// What it asks of the hook's gates.
    pub asked: Asked,
    /// Some: it is not to be sent but kept as a dead letter at once, for this reason.
    pub dead: Option<&'static str>,
}

/// A hook, as the store names it.
///
/// The uid tells them apart; under one uid the namespace and the name stay what they were first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HookId {
    pub uid: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// What became of an accepted event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The number of the stored event; of the first one, for a duplicate.
    pub seq: Seq,
    /// The id of the stored event; of the first one, for a duplicate.
    pub event_id: String,
    /// True: the event was accepted before, and nothing was stored now.
    pub duplicate: bool,
    /// Its deliveries, in the order given; those of the first event that retention has left, for a duplicate, as they
    /// stand now.
    pub deliveries: Vec<AcceptedDelivery>,
    /// Hooks that got something due besides what is told above: trailing candidates whose period was over, and
    /// deliveries that were dead of age or attempts and that the repeat of their event revived, which it does for the
    /// hooks that it is for. Who called wakes them.
    pub woken: Vec<HookId>,
}

/// What became of a delivery when its event was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedDelivery {
    pub seq: Seq,
    pub fate: Fate,
}

/// What became of a delivery when its event was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It waits to be sent. `suppressed`: how many of its group the gates dropped since the last one went.
    Pending { due: Millis, suppressed: u32 },
    /// A trailing candidate: from `due` on it waits for `promote`, and is not to be sent before that.
    Candidate { due: Millis },
    /// A gate dropped it.
    Dropped,
    /// It is a dead letter.
    Dead,
    /// It was delivered or cancelled since (of a duplicate only).
    Ended,
}

impl Accepted {
    /// How many of its deliveries no gate dropped: what the sender is told.
    pub fn kept(&self) -> usize {
        self.deliveries.iter().filter(|d| d.fate != Fate::Dropped).count()
    }
}

/// A delivery that waits for its next attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Pending {
    pub seq: Seq,
    /// The `webhook-id`.
    pub id: Uuid,
    pub hook: HookId,
    pub event: Arc<Event>,
    /// When its age began: when the event was accepted, or this delivery last replayed or revived.
    pub accepted: Millis,
    /// How many attempts were made since it was accepted, or replayed.
    pub attempts: u32,
    pub due: Millis,
    /// How long its hook was held since it was accepted: its age clock stood still.
    pub held: Duration,
    /// How many of its group the gates dropped since the last one went.
    pub suppressed: u32,
    /// How often it was replayed.
    pub replays: u32,
    /// What its handler noted at an earlier attempt; the store does not know what it means.
    pub progress: Progress,
}

/// How much is read at a time: so many rows, and as many as have so many bytes of events, but one at least.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    pub rows: usize,
    pub bytes: usize,
}

/// Deliveries that are due.
#[derive(Debug, Default)]
pub struct Due {
    pub pending: Vec<Pending>,
    /// There are more, which were too many to be read.
    pub more: bool,
}

/// What a handler did for a delivery and is not to do again. Empty: nothing.
pub type Progress = Vec<u8>;

/// The outcome of one attempt, or of giving up without one.
///
/// A settlement of a delivery that is finished or gone changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Settlement {
    pub delivery: Seq,
    /// When it came out so.
    pub at: Millis,
    /// None: no attempt was made. With another one to come, it could not be decided whether the delivery is wanted: it
    /// waits with the reason `Undecided`, and does not age.
    pub attempt: Option<Attempt>,
    pub next: Next,
    /// Some: takes the place of what was noted before. A delivery that was delivered keeps none, so that its replay does
    /// all of it again.
    pub progress: Option<Progress>,
}

/// One attempt, for the history.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    pub at: Millis,
    pub duration: Duration,
    /// The HTTP status, where there was an answer.
    pub status: Option<u16>,
    /// A stable reason (`Timeout`, `Connect`, `Status`, ...), None for a success.
    pub error: Option<String>,
    /// A few words for people, redacted, bounded.
    pub detail: Option<String>,
}

/// A delivery with its history.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub seq: Seq,
    pub id: Uuid,
    pub hook: HookId,
    pub event_id: String,
    pub state: State,
    pub reason: Option<String>,
    pub accepted: Millis,
    pub due: Option<Millis>,
    pub attempts: Vec<Attempt>,
}

/// Where a delivery stands.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr, strum::EnumString,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum State {
    Pending,
    Delivered,
    Dead,
    /// A gate dropped it; the reason says which (`Snoozed`, `Unchanged`, `Superseded`).
    Dropped,
    Cancelled,
}

/// Which deliveries are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    pub namespace: String,
    /// The name of the hook.
    pub hook: Option<String>,
    pub state: Option<State>,
    /// The id of the event.
    pub event: Option<String>,
    /// Accepted at or after.
    pub since: Option<Millis>,
    /// Accepted before.
    pub until: Option<Millis>,
}

/// An accepted event with all its deliveries.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    pub event: Arc<Event>,
    pub accepted: Millis,
    pub deliveries: Vec<Record>,
}

/// A replay of many deliveries, and how far it is. It goes on after a restart.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    pub id: Uuid,
    pub filter: Filter,
    /// Deliveries a second, at most.
    pub rate: u32,
    pub replayed: u64,
    pub done: bool,
}

/// A hook with deliveries that wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    pub hook: HookId,
    pub next_due: Millis,
}

/// How much waits, and how big the store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Deliveries that wait, trailing candidates among them.
    pub waiting: u64,
    /// Bytes of events that wait, one time a delivery.
    pub waiting_bytes: u64,
    /// The same of the hook, and of the namespace, that has the most.
    pub fullest_hook: u64,
    pub fullest_namespace: u64,
    /// When the oldest that waits was accepted.
    pub oldest: Option<Millis>,
    /// Bytes of the store.
    pub bytes: u64,
}

/// How long what is finished is kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    pub history_age: Duration,
    pub dead_letter_age: Duration,
    /// Bytes of events that are kept for deliveries that ended well, were dropped or cancelled, and for no delivery at all;
    /// the oldest go first. An event counts once for each of its deliveries. Within its idempotency window it loses only
    /// its data (`null` is left).
    pub history_bytes: u64,
    /// The same for dead letters.
    pub dead_letter_bytes: u64,
}

/// How much of the disk a backlog may take up. An event that waits for several hooks counts for each; what is bigger than
/// a whole share passes alone.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    /// Bytes of events that wait for one hook; what comes on top is a dead letter at once, reason `BacklogFull`, or is
    /// refused (`HookFull`) where its sender comes again.
    pub hook_bytes: u64,
    /// Bytes of events that wait in one namespace; what comes on top is refused (`NamespaceFull`).
    pub namespace_bytes: u64,
}

impl Default for Shares {
    fn default() -> Self {
        Shares { hook_bytes: u64::MAX, namespace_bytes: u64::MAX }
    }
}

/// Why the store could not do it.
#[derive(Debug, Clone, thiserror::Error, strum::IntoStaticStr)]
pub enum StoreError {
    #[error("the disk is full")]
    Full,
    #[error("the store is busy: its queue is full")]
    Busy,
    /// The namespace's backlog has its whole share of the disk.
    #[error("the namespace has used up its share of the disk: its receivers are behind")]
    NamespaceFull,
    /// The hook's backlog has its whole share, and the sender comes again (`Origin::comes_again`).
    #[error("the hook has used up its share of the disk: its receiver is behind")]
    HookFull,
    #[error("the store is stopping")]
    Closed,
    /// This operation alone could not be done; nothing of it is stored, and trying it again as it is does not help.
    #[error("the store refused the operation: {0}")]
    Refused(String),
    /// What was written may not be on the disk: the process must end and read again what is.
    #[error("the store failed: {0}")]
    Fatal(String),
    #[error(
        "the store was written by a newer version (format {found}, this program reads up to {known}): start that version, or restore a backup"
    )]
    Newer { found: i64, known: i64 },
    #[error("cannot open the store: {0}")]
    Open(String),
    /// What another installation accepted would be delivered by this one.
    #[error(
        "the store belongs to another installation ({found}; this is {own}): give the worker its own volume, or take the store over for good with --accept-new-store"
    )]
    Foreign { found: String, own: String },
}

/// Who is told what became of events, and gets those that were accepted back.
pub type Then = Box<dyn FnOnce(Vec<NewEvent>, Result<Vec<Accepted>, StoreError>) + Send>;

/// Where accepted events are kept.
pub trait Store: Send + Sync + 'static {
    /// Stores events, all or none. Durable when it returns.
    fn accept(&self, events: Vec<NewEvent>, now: Millis) -> BoxFuture<'_, Result<Vec<Accepted>, StoreError>>;

    /// Stores events as `accept` does, and tells `then`, which must be quick: the engine's own thread waits for it. It is
    /// dropped unasked where the engine ends first.
    fn accept_then(&self, events: Vec<NewEvent>, now: Millis, then: Then);

    /// Notes many outcomes as `settle` does, all or none.
    fn settle_many(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Result<Vec<bool>, StoreError>>;

    /// Notes the outcome of an attempt; returns when it is durable. True: something else of the hook became due by it
    /// (a trailing candidate goes at once when the delivery before it dies).
    fn settle(&self, settlement: Settlement) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// The pending deliveries of a hook that are due by `now`, the longest due first, but those that the caller has.
    fn due(
        &self,
        hook_uid: &str,
        now: Millis,
        has: HashSet<Seq>,
        most: Most,
    ) -> BoxFuture<'_, Result<Due, StoreError>>;

    /// When the earliest pending delivery of a hook after `after` is due.
    fn next_due(&self, hook_uid: &str, after: Millis) -> BoxFuture<'_, Result<Option<Millis>, StoreError>>;

    /// Every hook with pending deliveries. Read at the start; must not read every delivery of a large backlog.
    fn backlog(&self) -> BoxFuture<'_, Result<Vec<Backlog>, StoreError>>;

    /// One delivery by its `webhook-id`, with its attempts.
    fn delivery(&self, namespace: &str, id: Uuid) -> BoxFuture<'_, Result<Option<Record>, StoreError>>;

    /// The event of a delivery. Its id alone would not do: two sources may use the same.
    fn event_of(&self, namespace: &str, id: Uuid) -> BoxFuture<'_, Result<Option<Arc<Event>>, StoreError>>;

    /// Deliveries, newest first, at most `limit`, older than `before`; with their attempts.
    fn list(
        &self,
        filter: Filter,
        before: Option<Seq>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>, StoreError>>;

    /// An event by its id (the newest of that id) with all its deliveries.
    fn explain(
        &self,
        namespace: &str,
        event_id: &str,
    ) -> BoxFuture<'_, Result<Option<Explained>, StoreError>>;

    /// Makes a finished delivery pending again, under its `webhook-id`, attempts and age starting anew. It passes by the
    /// gates. None: there is no such delivery. One that is pending stays as it is.
    fn replay(
        &self,
        namespace: &str,
        id: Uuid,
        now: Millis,
    ) -> BoxFuture<'_, Result<Option<HookId>, StoreError>>;

    /// Ends a pending delivery (`Cancelled`) and clears the gate memory that is its own; a candidate behind it goes at once.
    /// None: there is no such delivery. One that is finished stays as it is. An attempt that is under way may still arrive.
    fn cancel(
        &self,
        namespace: &str,
        id: Uuid,
        now: Millis,
    ) -> BoxFuture<'_, Result<Option<HookId>, StoreError>>;

    /// Begins a replay of many: of all that is finished, where the filter names no state. Its steps are made by
    /// `step_replays`. A rate of 0, and the state pending, are refused.
    fn start_replay(
        &self,
        filter: Filter,
        rate: u32,
        now: Millis,
    ) -> BoxFuture<'_, Result<Replay, StoreError>>;

    /// Goes on with every replay that is not done, by as many deliveries as its rate allows for the time since the last
    /// step (at most a second's worth); the hooks that got something due. Deliveries that were accepted or that finished
    /// after the replay began are not its own. Done replays are forgotten after a day.
    fn step_replays(&self, now: Millis) -> BoxFuture<'_, Result<Vec<HookId>, StoreError>>;

    /// A replay of many, and how far it is.
    fn replay_progress(&self, namespace: &str, id: Uuid)
    -> BoxFuture<'_, Result<Option<Replay>, StoreError>>;

    /// The hook is held from now on (paused, gone, invalid, a Secret missing, deleted), or no longer: while it is held the
    /// age clock of its deliveries stands still. Kept over restarts. Saying the same again changes nothing.
    fn set_held(&self, hook: &HookId, held: bool, now: Millis) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The hooks that are held. Read at the start.
    fn held(&self) -> BoxFuture<'_, Result<Vec<HookId>, StoreError>>;

    /// What was put off without an attempt (the hook's filter failed on it) is due now: the filter may be another. True:
    /// call again, there is more.
    fn decide_again(&self, uid: &str, now: Millis) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// The waiting deliveries of a hook that was deleted become another's of the same name. The gate memory of the old one
    /// is forgotten, its trailing candidates go out when their period ends, and its hold ends: whether the other one is
    /// held is said by `set_held`. True: call again, there are more.
    fn take_up(&self, from: &HookId, to: &HookId, now: Millis) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Sends on their way the trailing candidates whose period is over: both memories are set by them and a new period
    /// opens. `accept` does the same first, and tells it by `Accepted::woken`. A bounded number at a time: `next_promotion`
    /// tells when there is more. The hooks concerned.
    fn promote(&self, now: Millis) -> BoxFuture<'_, Result<Vec<HookId>, StoreError>>;

    /// When the next trailing candidate's period is over.
    fn next_promotion(&self) -> BoxFuture<'_, Result<Option<Millis>, StoreError>>;

    /// Removes a bounded number of what retention lets go: finished deliveries, events without deliveries, keys out of
    /// their window. True: there is more. Never stalls `accept` for long.
    fn sweep(&self, retention: Retention, now: Millis) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// How much waits. Reads an index over what waits, so it is for now and then.
    fn stats(&self) -> BoxFuture<'_, Result<Stats, StoreError>>;

    /// The same of one hook; no size, and nothing of shares. For the few hooks that ask for it.
    fn hook_stats(&self, uid: &str) -> BoxFuture<'_, Result<Stats, StoreError>>;

    /// Says which installation the store is for. A store of another one is refused (`Foreign`), unless it is `adopted`.
    fn belongs_to(&self, installation: &str, adopted: bool) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The names of the namespaces that the store has anything of.
    fn namespaces(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>>;

    /// The namespace of this name has this uid now; None: there is none. True: it was another one before. What that one
    /// left is nobody's from now on, its waiting deliveries too, and is removed by `sweep`.
    fn namespace_is(&self, name: &str, uid: Option<&str>) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Resolves when the store can no longer be trusted; the process must end.
    fn failed(&self) -> BoxFuture<'static, StoreError>;

    /// Commits what is queued, refuses what comes after, and closes.
    fn close(&self) -> BoxFuture<'_, ()>;
}
