//! The content of a store in a form that is independent of its engine, and the two sides of a copy between engines.
//!
//! Rows refer to each other by the numbers of their source: a place (a namespace, or a deleted one of that name), the row id of
//! a hook, the sequence numbers of events and deliveries. Both engines keep the last three unchanged.
//!
//! Out of scope: the order of the steps of a copy (`copy`), SQL (the engines).

mod batch;
mod marker;
mod rows;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use tokio::sync::mpsc::{Receiver, Sender};

use super::{EventSeq, StoreError};
pub(super) use batch::{Batch, BatchSink, SinkClosed};
pub(super) use marker::{FENCE, SEALED, Seal, UNFINISHED, UnfinishedCopy};
pub(super) use rows::*;

/// What is counted on both sides of a copy.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, strum::IntoStaticStr, strum::VariantArray,
)]
#[serde(rename_all = "camelCase")]
pub enum CopiedKind {
    #[strum(serialize = "hooks")]
    Hooks,
    #[strum(serialize = "held hooks")]
    HeldHooks,
    #[strum(serialize = "events")]
    Events,
    #[strum(serialize = "unmatched events")]
    UnmatchedEvents,
    #[strum(serialize = "idempotency keys")]
    Keys,
    #[strum(serialize = "pending deliveries")]
    Pending,
    #[strum(serialize = "delivered deliveries")]
    Delivered,
    #[strum(serialize = "dead deliveries")]
    Dead,
    #[strum(serialize = "dropped deliveries")]
    Dropped,
    #[strum(serialize = "cancelled deliveries")]
    Cancelled,
    #[strum(serialize = "attempts")]
    Attempts,
    #[strum(serialize = "kept responses")]
    Responses,
    #[strum(serialize = "gate memory")]
    Gates,
    #[strum(serialize = "candidates of gates")]
    Candidates,
    #[strum(serialize = "replays")]
    Replays,
}

/// Rows by kind. Kinds without rows may be absent.
pub(super) type Counts = BTreeMap<CopiedKind, u64>;

/// What a source says about itself before it is read.
#[derive(Clone, Debug, Default)]
pub(super) struct SourceInfo {
    /// Where it is, for people: never with a secret.
    pub(super) location: String,
    /// The installation that it belongs to. None: no worker has used it yet.
    pub(super) installation: Option<String>,
    /// The time of its last commit.
    pub(super) clock: Option<i64>,
    /// No later event has existed, so the target continues with the next number.
    pub(super) last_event: EventSeq,
    /// All kinds except `Keys`, which are counted while they are read.
    pub(super) counts: Counts,
    /// It was copied before.
    pub(super) seal: Option<Seal>,
    /// The arguments of `hookstream store unseal` for it.
    pub(super) unseal: String,
}

/// What a target has after everything was written and before anything is visible.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    pub(super) counts: Counts,
    /// Idempotency keys that a later event of the source had too, so that they count once.
    pub(super) replaced_keys: u64,
}

/// How far a copy is. Clones show the same copy.
#[derive(Clone, Debug, Default)]
pub struct CopyProgress {
    total: Arc<AtomicU64>,
    copied: Arc<AtomicU64>,
}

impl CopyProgress {
    /// Returns the rows that were copied, and all rows. 0: not known yet.
    pub fn rows(&self) -> (u64, u64) {
        (self.copied.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    pub(super) fn set_total(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    pub(super) fn add(&self, rows: usize) {
        self.copied.fetch_add(rows as u64, Ordering::Relaxed);
    }
}

/// The source of a copy: opened, checked, and kept from workers until it is dropped.
pub(super) trait CopySource: Sized {
    fn info(&self) -> &SourceInfo;

    /// Sends all rows. Returns the number of idempotency keys. Ends early without an error if the receiver is gone.
    fn read(&mut self, batches: Sender<Batch>) -> impl Future<Output = Result<u64, StoreError>>;

    /// Makes workers refuse it from now on.
    fn seal(&mut self, seal: &Seal) -> impl Future<Output = Result<(), StoreError>>;
}

/// The target of a copy: empty, or with an unfinished copy.
pub(super) trait CopyTarget: Sized {
    /// Where it is, for people: never with a secret.
    fn location(&self) -> &str;

    /// The installation that it belongs to. None: no worker has used it yet.
    fn installation(&self) -> Option<&str>;

    /// An earlier copy that did not finish. Nothing of it is visible.
    fn unfinished(&self) -> Option<&UnfinishedCopy>;

    /// Makes workers refuse it until `finish` or `abandon`, also after a crash of this process. Keeps others from copying to it.
    fn begin(&mut self, copy: &UnfinishedCopy) -> impl Future<Output = Result<(), StoreError>>;

    /// Writes all rows until the sender is gone, counts them, and checks their references. Nothing is visible yet.
    fn write(
        &mut self,
        source: &SourceInfo,
        batches: Receiver<Batch>,
        progress: &CopyProgress,
    ) -> impl Future<Output = Result<Written, StoreError>>;

    /// Makes everything visible and durable at once. Workers may use it from now on.
    fn finish(self) -> impl Future<Output = Result<(), StoreError>>;

    /// Removes everything that this copy wrote.
    fn abandon(self) -> impl Future<Output = Result<(), StoreError>>;
}
