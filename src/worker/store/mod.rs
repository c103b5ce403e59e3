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

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use uuid::Uuid;

use crate::core::event::Event;
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
    /// The numbers of its deliveries, in the order given; of those of the first event that retention has left, for a
    /// duplicate.
    pub deliveries: Vec<Seq>,
}

/// A delivery that waits for its next attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Pending {
    pub seq: Seq,
    /// The `webhook-id`.
    pub id: Uuid,
    pub hook: HookId,
    pub event: Arc<Event>,
    /// When the event was accepted.
    pub accepted: Millis,
    /// How many attempts were made.
    pub attempts: u32,
    pub due: Millis,
}

/// The outcome of one attempt, or of giving up without one.
///
/// A settlement of a delivery that is finished or gone changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Settlement {
    pub delivery: Seq,
    /// When it came out so.
    pub at: Millis,
    /// None: no attempt was made (a delivery died of age while it waited).
    pub attempt: Option<Attempt>,
    pub next: Next,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString)]
#[strum(serialize_all = "lowercase")]
pub enum State {
    Pending,
    Delivered,
    Dead,
}

/// A hook with deliveries that wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    pub hook: HookId,
    pub next_due: Millis,
}

/// How long what is finished is kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    pub history_age: Duration,
    pub dead_letter_age: Duration,
}

/// Why the store could not do it.
#[derive(Debug, Clone, thiserror::Error, strum::IntoStaticStr)]
pub enum StoreError {
    #[error("the disk is full")]
    Full,
    #[error("the store is busy: its queue is full")]
    Busy,
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
}

/// Where accepted events are kept.
pub trait Store: Send + Sync + 'static {
    /// Stores events, all or none. Durable when it returns.
    fn accept(&self, events: Vec<NewEvent>, now: Millis) -> BoxFuture<'_, Result<Vec<Accepted>, StoreError>>;

    /// Notes the outcome of an attempt; returns when it is durable.
    fn settle(&self, settlement: Settlement) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The pending deliveries of a hook that are due by `now`, the longest due first, at most `limit`.
    fn due(
        &self,
        hook_uid: &str,
        now: Millis,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Pending>, StoreError>>;

    /// When the earliest pending delivery of a hook after `after` is due.
    fn next_due(&self, hook_uid: &str, after: Millis) -> BoxFuture<'_, Result<Option<Millis>, StoreError>>;

    /// Every hook with pending deliveries. Read at the start; must not read every delivery of a large backlog.
    fn backlog(&self) -> BoxFuture<'_, Result<Vec<Backlog>, StoreError>>;

    /// One delivery of a hook in this namespace by its `webhook-id`, with its attempts.
    fn delivery(&self, namespace: &str, id: Uuid) -> BoxFuture<'_, Result<Option<Record>, StoreError>>;

    /// Removes a bounded number of what retention lets go: finished deliveries, events without deliveries, keys out of
    /// their window. True: there is more. Never stalls `accept` for long.
    fn sweep(&self, retention: Retention, now: Millis) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Resolves when the store can no longer be trusted; the process must end.
    fn failed(&self) -> BoxFuture<'static, StoreError>;

    /// Commits what is queued, refuses what comes after, and closes.
    fn close(&self) -> BoxFuture<'_, ()>;
}
