//! The dispatcher's commands, and the handle that sends them.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::hold::Hold;
use crate::core::fair_pool::Grant;
use crate::core::receiver_breaker::{AttemptPermit, ReceiverEvidence};
use crate::core::time::Millis;
use crate::worker::store::{DeliverySeq, DueDeliveries, HookId, NextStep, PendingDelivery, StoreError};

/// Sends commands to the dispatcher. Waits while the command queue is full. Drops commands to a stopped dispatcher,
/// which loses nothing: the deliveries are on disk.
#[derive(Clone)]
pub struct DispatchHandle {
    pub(super) commands: mpsc::Sender<DispatchCommand>,
}

#[derive(Debug)]
pub(super) enum DispatchCommand {
    /// Deliveries were committed and may be sent.
    Accepted(Vec<PendingDelivery>),
    /// The hook was created, edited or deleted, or an object that it references changed.
    HookChanged(Arc<str>),
    /// The grace period of a deleted hook is over and its pending deliveries are dead. `hook`: its name, if it is known.
    BacklogEnded { uid: Arc<str>, hook: Option<HookId> },
    /// The namespace of this name was deleted, or deleted and recreated.
    NamespaceEnded(Arc<str>),
    /// A delivery of the hook became due on disk.
    NotifyDue(Arc<str>),
    /// A delivery of a hook that may be deleted became due on disk. The id contains the hook's name, by which a
    /// recreated hook adopts the delivery.
    NotifyHook(HookId),
    /// A delivery was replayed or cancelled; its hook may be deleted.
    DeliveryChanged { hook: HookId, seq: DeliverySeq },
    /// A read of the hook's backlog ended: the due deliveries, and when the next one is due.
    Loaded { uid: Arc<str>, serial: u64, result: Result<(DueDeliveries, Option<Millis>), StoreError> },
    /// An attempt ended: the hook may send its next delivery.
    AttemptEnded { uid: Arc<str>, signal: ReceiverSignal, evidence: ReceiverEvidence, ticket: AttemptTicket },
    /// No attempt was made, because something that the hook needs is missing (for example a Secret). Holds its
    /// deliveries.
    AttemptPostponed { uid: Arc<str>, missing: Option<Hold>, ticket: AttemptTicket },
    /// The filter failed on an event: the delivery is evaluated again until it is too old.
    Undecided { uid: Arc<str>, generation: Option<i64>, why: String },
    /// The store cannot record outcomes (true), or can again. Meanwhile no attempt may start: an attempt whose outcome is
    /// lost in a crash is repeated.
    StoreFull(bool),
    /// Outcomes were committed, or the commit failed. Either way the deliveries are no longer claimed.
    Settled(Vec<SettledDelivery>),
}

/// What an attempt holds until it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptTicket {
    pub seq: DeliverySeq,
    /// The serial of the queue that started it.
    pub queue: u64,
    /// The slot and the memory of the attempt.
    pub grant: Grant,
    pub permit: AttemptPermit,
    /// The length of the event's data.
    pub data_len: usize,
    /// When it started, on the steady clock.
    pub started: Millis,
}

/// A delivery whose outcome was written to the store.
#[derive(Clone, Debug)]
pub(super) struct SettledDelivery {
    pub uid: Arc<str>,
    pub seq: DeliverySeq,
    /// None: the outcome could not be stored.
    pub next: Option<NextStep>,
    /// True if the outcome made another delivery of the hook due.
    pub notify: bool,
}

/// The receiver's health, as one attempt shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReceiverSignal {
    /// It answered. Includes refusals with a terminal status.
    Healthy,
    /// The attempt failed, with this error. `is_handler`: not the receiver but the hook's own script failed.
    Failing { error: String, is_handler: bool },
    /// It answered 410.
    Gone,
    /// The egress policy denies its address.
    Denied(String),
    /// Unknown: no request was made.
    Unknown,
}

impl DispatchHandle {
    /// Hands over deliveries that were just committed.
    pub async fn enqueue_accepted(&self, pending: Vec<PendingDelivery>) {
        if !pending.is_empty() {
            self.send(DispatchCommand::Accepted(pending)).await;
        }
    }

    /// Notifies the dispatcher that a delivery of the hook became due on disk.
    pub async fn notify_due(&self, uid: Arc<str>) {
        self.send(DispatchCommand::NotifyDue(uid)).await;
    }

    /// Notifies the dispatcher that a delivery of the hook, which may be deleted, became due on disk.
    pub async fn notify_hook(&self, hook: HookId) {
        self.send(DispatchCommand::NotifyHook(hook)).await;
    }

    /// Reports that a delivery was replayed or cancelled. The hook may be deleted.
    pub async fn delivery_changed(&self, hook: HookId, seq: DeliverySeq) {
        self.send(DispatchCommand::DeliveryChanged { hook, seq }).await;
    }

    /// Reports that the namespace of this name was deleted, or deleted and recreated. Its pending deliveries end with it.
    pub async fn namespace_ended(&self, name: Arc<str>) {
        self.send(DispatchCommand::NamespaceEnded(name)).await;
    }

    /// Reports that the hook or an object that it references changed.
    pub async fn hook_changed(&self, uid: Arc<str>) {
        self.send(DispatchCommand::HookChanged(uid)).await;
    }

    pub(super) async fn send(&self, command: DispatchCommand) {
        self.commands.send(command).await.ok();
    }
}
