//! What the dispatcher's state machine requests of the driver.

use std::sync::Arc;

use super::command::AttemptTicket;
use crate::core::fast_map::FastSet;
use crate::core::receiver_breaker::{BreakerReport, ReceiverEvidence};
use crate::core::time::Millis;
use crate::metrics::HookSeries;
use crate::worker::report::{DeliveryHealth, HoldChange};
use crate::worker::store::{DeliverySeq, HookId, PendingDelivery, ReadLimit};

/// A request of the state machine to the driver.
#[derive(Debug)]
pub enum Effect {
    /// Make an attempt, then send `AttemptEnded` or `AttemptPostponed` with the ticket, and `Settled` after its commit.
    StartAttempt { pending: PendingDelivery, ticket: AttemptTicket },
    /// Read due deliveries of a hook except the excluded ones, then send `Loaded`. Up to `untried` of them are the newest
    /// ones that were never attempted.
    Load { uid: Arc<str>, serial: u64, exclude: FastSet<DeliverySeq>, limit: ReadLimit, untried: usize },
    /// End deliveries that are too old, then send `Settled`.
    Expire { uid: Arc<str>, expired: Vec<ExpiredDelivery>, series: Option<Arc<HookSeries>> },
    /// Store the start or end of a hook's hold.
    ReportHold(HoldChange),
    /// Write the condition `Delivering`.
    ReportHealth(DeliveryHealth),
    /// Publish the state of a breaker, whose `next_probe` is a time of the wall clock. `transition`: for the metrics.
    ReportBreaker {
        uid: Arc<str>,
        report: BreakerReport,
        transition: BreakerTransition,
        series: Option<Arc<HookSeries>>,
    },
    /// The senders of this namespace wait before their response, or no longer.
    ReportCrowding { namespace: Arc<str>, is_crowded: bool },
    /// Count a probe of an open breaker.
    RecordProbe(ReceiverEvidence),
    /// Transfer the pending deliveries of a deleted hook to the hook that has its name now.
    Transfer { from: HookId, to: HookId },
    /// Make the undecided deliveries of these hooks due, then send `NotifyDue`.
    RetryUndecided(Vec<Arc<str>>),
    /// Another worker sends the hook's deliveries: forget its health here.
    Disown(Arc<str>),
    /// End every pending delivery of a deleted hook, then send `BacklogEnded`, or `HookChanged` if the store fails.
    EndBacklog { uid: Arc<str>, hook: Option<HookId> },
}

/// How the set of open breakers of this process changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerTransition {
    None,
    Opened,
    /// It was open at the former owner of the hook.
    Inherited,
    Closed,
}

/// A delivery that is too old for an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiredDelivery {
    pub seq: DeliverySeq,
    /// When its age starts.
    pub accepted: Millis,
}
