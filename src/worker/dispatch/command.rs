//! The dispatcher's commands, and the handle that sends them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::crowding::CrowdedNamespaces;
use super::hold::Hold;
use crate::core::bucket::Rate;
use crate::core::fair_pool::Grant;
use crate::core::receiver_breaker::{AttemptPermit, ReceiverEvidence};
use crate::core::time::Millis;
use crate::memory::Reservation;
use crate::worker::store::{
    DeliverySeq, DueDeliveries, HookBacklog, HookId, NextStep, PendingDelivery, StoreError,
};

/// Sends commands to the dispatcher. Waits while the command queue is full. Drops commands to a stopped dispatcher,
/// which loses nothing: the deliveries are on disk.
#[derive(Clone)]
pub struct DispatchHandle {
    pub(super) commands: mpsc::Sender<DispatchCommand>,
    pub(super) crowded: Arc<CrowdedNamespaces>,
}

#[derive(Debug)]
pub(super) enum DispatchCommand {
    /// Deliveries were committed and may be sent. `memory`: the memory of their events, until the dispatcher counts them.
    Accepted { pending: Vec<PendingDelivery>, memory: Vec<Reservation> },
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
    /// An attempt ended: the hook may send its next delivery. `start_delay`: how late the attempt started, because the
    /// worker had other work.
    AttemptEnded {
        uid: Arc<str>,
        signal: ReceiverSignal,
        evidence: ReceiverEvidence,
        ticket: AttemptTicket,
        start_delay: Duration,
    },
    /// No attempt was made, or it ended without an outcome.
    AttemptPostponed { uid: Arc<str>, why: Postponement, ticket: AttemptTicket },
    /// The filter failed on an event: the delivery is evaluated again until it is too old.
    Undecided { uid: Arc<str>, generation: Option<i64>, why: String },
    /// Other hooks belong to this process now. `held` and `backlogs`: what the store has of them.
    OwnershipChanged { held: Vec<HookId>, backlogs: Vec<HookBacklog> },
    /// The store cannot record outcomes (true), or can again. Meanwhile no attempt may start: an attempt whose outcome is
    /// lost in a crash is repeated.
    StoreFull(bool),
    /// Outcomes were committed, or the commit failed. Either way the deliveries are no longer claimed.
    Settled(Vec<SettledDelivery>),
}

/// Why a delivery is attempted again without an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Postponement {
    /// Something that the hook needs is missing, for example a Secret. Holds all its deliveries.
    Missing(Hold),
    /// The hook was deleted or became invalid, which holds it.
    HookChanged,
    /// The receiver granted another rate than the one under which the attempt started: it starts again within that rate.
    RateChanged,
    /// Another worker may send the hook's deliveries now.
    NotOwned,
    /// Only this delivery waits: the process had no memory for the attempt, or the attempt ended without an outcome.
    DeliveryOnly,
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
    /// The rate limit under which it started.
    pub rate: Option<Rate>,
    /// When it started, on the steady clock.
    pub started: Millis,
    /// When the delivery's age starts, and the time that its hook was held since then.
    pub accepted: Millis,
    pub held: Duration,
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

/// What a failed attempt shows, for the hook's condition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailureKind {
    #[default]
    Receiver,
    /// The receiver does not permit deliveries.
    HandshakeRefused,
    /// Not the receiver but the hook's own script failed.
    Handler,
}

/// The receiver's health, as one attempt shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReceiverSignal {
    /// It accepted the delivery.
    Delivered,
    /// It refused the delivery for good, and would accept others.
    Refused,
    /// The attempt failed, with this error.
    Failing { error: String, kind: FailureKind },
    /// It answered 410.
    Gone,
    /// The egress policy denies its address.
    Denied(String),
    /// Unknown: no request was made.
    Unknown,
}

impl DispatchHandle {
    /// Hands over deliveries that were just committed, with the memory of their events.
    pub async fn enqueue_accepted(&self, pending: Vec<PendingDelivery>, memory: Vec<Reservation>) {
        if !pending.is_empty() {
            self.send(DispatchCommand::Accepted { pending, memory }).await;
        }
    }

    /// Returns the namespaces whose senders wait before their response.
    pub fn crowded(&self) -> &Arc<CrowdedNamespaces> {
        &self.crowded
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

/// Sends a command unless the task that holds it disarms it: a task that panics or is aborted would otherwise leave the
/// dispatcher waiting for its report.
pub(super) struct ReportGuard {
    handle: DispatchHandle,
    command: Option<DispatchCommand>,
}

impl ReportGuard {
    pub fn new(handle: DispatchHandle, command: DispatchCommand) -> Self {
        ReportGuard { handle, command: Some(command) }
    }

    /// Sends this command instead. Cancel safe: without its end, the command of the guard is sent.
    pub async fn report(mut self, command: DispatchCommand) {
        // A permit first, so that the report is complete once the guard is disarmed.
        if let Ok(permit) = self.handle.commands.clone().reserve_owned().await {
            self.command = None;
            permit.send(command);
        }
    }
}

impl Drop for ReportGuard {
    fn drop(&mut self) {
        let Some(command) = self.command.take() else { return };
        let Err(TrySendError::Full(command)) = self.handle.commands.try_send(command) else { return };
        // Dropping cannot wait for the queue. Without a runtime the process ends.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let handle = self.handle.clone();
            runtime.spawn(async move { handle.send(command).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::fair_shares::Owner;
    use crate::memory::MemoryPool;
    use crate::metrics::MemoryShareMetrics;

    fn handle(capacity: usize) -> (DispatchHandle, mpsc::Receiver<DispatchCommand>) {
        let (commands, received) = mpsc::channel(capacity);
        (DispatchHandle { commands, crowded: Arc::default() }, received)
    }

    fn hook_of(command: Option<DispatchCommand>) -> Option<String> {
        match command? {
            DispatchCommand::HookChanged(uid) | DispatchCommand::NotifyDue(uid) => Some(uid.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn queued_deliveries_keep_their_memory_until_the_machine_counts_them() {
        let memory = Arc::new(MemoryPool::new(1000, MemoryShareMetrics::default()));
        let namespace = "n".into();
        let owner = Owner::namespace(&namespace);
        let reserved = memory.try_reserve(owner, 900).unwrap();
        let (handle, mut received) = handle(2);
        let mut simulation = super::super::simulation::with_hook("u");
        let pending = simulation.pending("u");
        handle.enqueue_accepted(vec![pending], vec![reserved]).await;
        assert!(memory.try_reserve(owner, 200).is_err(), "the command is queued");
        let used = simulation.used_memory();
        simulation.step(received.recv().await.unwrap());
        assert!(simulation.used_memory() > used);
        assert!(memory.try_reserve(owner, 900).is_ok());
        handle.enqueue_accepted(Vec::new(), vec![memory.try_reserve(owner, 900).unwrap()]).await;
        assert!(
            received.try_recv().is_err() && memory.try_reserve(owner, 900).is_ok(),
            "nothing to hand over"
        );
    }

    #[tokio::test]
    async fn a_task_that_panics_or_is_aborted_reports_its_end() {
        let (handle, mut received) = handle(1);
        let guard = |handle: &DispatchHandle| {
            ReportGuard::new(handle.clone(), DispatchCommand::NotifyDue("ended".into()))
        };
        let of_panic = guard(&handle);
        let panicked = tokio::spawn(async move {
            let _guard = of_panic;
            panic!("of a test");
        });
        assert!(panicked.await.is_err());
        assert_eq!(hook_of(received.recv().await).as_deref(), Some("ended"));
        let of_abort = guard(&handle);
        let task = tokio::spawn(async move {
            let _guard = of_abort;
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
        // Also while the queue is full.
        handle.hook_changed("first".into()).await;
        task.abort();
        assert!(task.await.is_err());
        assert_eq!(hook_of(received.recv().await).as_deref(), Some("first"));
        assert_eq!(hook_of(received.recv().await).as_deref(), Some("ended"));
        guard(&handle).report(DispatchCommand::HookChanged("regular".into())).await;
        assert_eq!(hook_of(received.recv().await).as_deref(), Some("regular"));
        assert!(received.try_recv().is_err(), "only one report");
        // Aborted while it waits for capacity.
        handle.hook_changed("first".into()).await;
        let mut report = Box::pin(guard(&handle).report(DispatchCommand::HookChanged("late".into())));
        assert!(futures::poll!(&mut report).is_pending());
        drop(report);
        assert_eq!(hook_of(received.recv().await).as_deref(), Some("first"));
        assert_eq!(hook_of(received.recv().await).as_deref(), Some("ended"));
    }
}
