//! The history role: reading records, replaying and cancelling for users.

use std::sync::Arc;

use futures::future::BoxFuture;
use uuid::Uuid;

use super::{
    DeliveryFilter, DeliveryPage, DeliveryRecord, DeliverySeq, DeliveryState, EventExplanation, EventFilter,
    EventPage, Exchange, HookId, PartialCount, ReplayJob, StoreError,
};
use crate::core::event::Event;
use crate::core::time::Millis;

/// The most replays that a list returns.
pub const MAX_LISTED_REPLAYS: usize = 500;

/// Answers queries of users about deliveries, and executes their replays and cancellations.
///
/// Queries are bounded in rows and time, and divided fairly between namespaces: those of one namespace do not make
/// another's wait behind all of them. If too many wait, the namespace with the most gets `TooManyReads`. No query delays
/// the dispatcher's reads.
pub trait HistoryStore: Send + Sync + 'static {
    /// Returns one delivery by its `webhook-id`, with its attempts.
    fn delivery(
        &self,
        namespace: &str,
        id: Uuid,
    ) -> BoxFuture<'_, Result<Option<DeliveryRecord>, StoreError>>;

    /// Returns the sequence number and the state of a delivery that `replay` or `cancel` found. One index seek, which does
    /// not wait behind queries: the change is done, and the dispatcher must learn of it.
    fn state_after_change(
        &self,
        namespace: &str,
        id: Uuid,
    ) -> BoxFuture<'_, Result<Option<(DeliverySeq, DeliveryState)>, StoreError>>;

    /// Returns the event of a delivery. Takes the delivery's id, because two sources may use the same event id.
    fn event_of(&self, namespace: &str, id: Uuid) -> BoxFuture<'_, Result<Option<Arc<Event>>, StoreError>>;

    /// Returns the kept request and response of a delivery's last attempt.
    fn exchange(&self, namespace: &str, id: Uuid) -> BoxFuture<'_, Result<Option<Exchange>, StoreError>>;

    /// Returns up to `limit` deliveries with their attempts, newest first, starting below `before`.
    ///
    /// A page ends early when the query has examined its maximum of rows or time; `DeliveryPage::next` then continues
    /// exactly there.
    fn list(
        &self,
        filter: DeliveryFilter,
        before: Option<DeliverySeq>,
        limit: usize,
    ) -> BoxFuture<'_, Result<DeliveryPage, StoreError>>;

    /// Returns up to `limit` events, newest first, starting below `before`. A page ends early as that of `list` does.
    /// `with_data`: with their data, whose bytes count as examined too.
    fn events(
        &self,
        filter: EventFilter,
        before: Option<DeliverySeq>,
        limit: usize,
        with_data: bool,
    ) -> BoxFuture<'_, Result<EventPage, StoreError>>;

    /// Returns the newest event with this id and its deliveries, up to a bounded number.
    fn explain(
        &self,
        namespace: &str,
        event_id: &str,
    ) -> BoxFuture<'_, Result<Option<EventExplanation>, StoreError>>;

    /// Makes a finished delivery pending again under its `webhook-id`, and resets its attempts and its age.
    ///
    /// The gates do not apply. A pending delivery stays unchanged. Returns its hook, or None if there is no such delivery.
    fn replay(
        &self,
        namespace: &str,
        id: Uuid,
        now: Millis,
    ) -> BoxFuture<'_, Result<Option<HookId>, StoreError>>;

    /// Cancels a pending delivery: its state becomes `Cancelled`.
    ///
    /// Also clears the gate memory that this delivery set, and promotes a trailing candidate behind it at once. A finished
    /// delivery stays unchanged. An attempt in flight may still reach the receiver. Returns its hook, or None if there is
    /// no such delivery.
    fn cancel(
        &self,
        namespace: &str,
        id: Uuid,
        now: Millis,
    ) -> BoxFuture<'_, Result<Option<HookId>, StoreError>>;

    /// Cancels those of these deliveries that are pending, as `cancel` does, in one operation. Returns the cancelled ones. The
    /// caller bounds the number of ids, because accepts wait for the operation.
    fn cancel_many(
        &self,
        namespace: &str,
        ids: Vec<Uuid>,
        now: Millis,
    ) -> BoxFuture<'_, Result<Vec<(HookId, DeliverySeq)>, StoreError>>;

    /// Starts a replay of the finished deliveries that match the filter. `step_replays` executes it.
    ///
    /// Refuses a rate of 0 and the state `Pending`. Fails with `TooManyReplays` if the namespace has too many unfinished
    /// replays.
    fn start_replay(
        &self,
        filter: DeliveryFilter,
        rate: u32,
        now: Millis,
    ) -> BoxFuture<'_, Result<ReplayJob, StoreError>>;

    /// Advances the unfinished replays, and returns the hooks with newly due deliveries.
    ///
    /// A step replays the number of deliveries that the rate allows for the time since the last step, at most for one
    /// second. A bounded number for all replays together is divided between the namespaces. Skips deliveries that were
    /// accepted, or that finished, after the replay started. Removes a finished replay after a day.
    fn step_replays(&self, now: Millis) -> BoxFuture<'_, Result<Vec<HookId>, StoreError>>;

    /// Counts finished deliveries that match the filter, which a replay would put back. Starts below `before`, counts up to
    /// `limit`, and ends early as `list` does.
    fn count_finished(
        &self,
        filter: DeliveryFilter,
        before: Option<DeliverySeq>,
        limit: usize,
    ) -> BoxFuture<'_, Result<PartialCount, StoreError>>;
    /// Ends an unfinished replay: it puts no further delivery back. A finished one stays unchanged. Returns the replay, or
    /// None if there is no such replay.
    fn cancel_replay(
        &self,
        namespace: &str,
        id: Uuid,
        now: Millis,
    ) -> BoxFuture<'_, Result<Option<ReplayJob>, StoreError>>;
    /// Returns the replays of a namespace, or of `ALL_NAMESPACES`, newest first, at most `MAX_LISTED_REPLAYS`.
    fn replays(&self, namespace: &str) -> BoxFuture<'_, Result<Vec<ReplayJob>, StoreError>>;
    /// Returns a replay with its progress.
    fn replay_progress(
        &self,
        namespace: &str,
        id: Uuid,
    ) -> BoxFuture<'_, Result<Option<ReplayJob>, StoreError>>;
}
