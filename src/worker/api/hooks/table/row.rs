//! A row of the table of hooks.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;

use super::selectors::SelectorId;
use crate::api::EventHook;
use crate::cluster::DeserializeGuard;
use crate::core::conditions::DELIVERING;
use crate::core::shown_readiness::{ShownReadiness, find_condition};
use crate::core::time::Millis;
use crate::metrics::HookTimeReport;
use crate::worker::api::hooks::facts::{HookFacts, reported_success};
use crate::worker::api::hooks::query::HookOrder;
use crate::worker::api::hooks::shown_state::ShownState;
use crate::worker::api::measure::StoreMeasurement;
use crate::worker::api::readiness::conditions_of;

/// The rank of a hook without a value: it comes last.
const LAST: i64 = i64::MAX;

/// What lists sort, filter and count by, of one hook. Texts are not in it: a page reads those of its hooks from the objects.
///
/// The ranks are those of the orders of lists: lower ones come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HookRow {
    /// The number of its source and event. None: its spec cannot be read, and names no source.
    pub selector: Option<SelectorId>,
    pub state: ShownState,
    /// Some if the object is not Ready, and true if a user requested that.
    pub unready: Option<bool>,
    /// Some if the condition `Delivering` is False, and true if a user requested that.
    pub not_delivering: Option<bool>,
    pending: i64,
    oldest: i64,
    /// The last success that the object reports. The worker may have seen a later one.
    reported_success: i64,
    last_success: i64,
    p95: i64,
}

impl HookRow {
    /// Derives the row of a hook. Its selector and its backlog are set separately.
    pub fn derive(facts: &HookFacts<'_>, guard: &DeserializeGuard<EventHook>) -> Self {
        let uid = guard.meta().uid.as_deref().unwrap_or_default();
        let mut row = HookRow {
            selector: None,
            state: facts.with_state(guard, uid, |derived| derived.state),
            unready: unready(guard),
            not_delivering: not_delivering(guard).map(is_requested),
            pending: LAST,
            oldest: LAST,
            reported_success: reported_success(guard).map_or(LAST, |success| success.0),
            last_success: LAST,
            p95: LAST,
        };
        row.set_times(facts.times.get(uid));
        row
    }

    /// Sets what the worker measured of the hook's attempts.
    pub fn set_times(&mut self, times: Option<HookTimeReport>) {
        let reported = Some(self.reported_success).filter(|rank| *rank != LAST);
        let seen = times.and_then(|times| times.last_success).map(|success| success.0);
        self.last_success = seen.max(reported).unwrap_or(LAST);
        // In microseconds.
        self.p95 =
            times.and_then(|times| times.p95).map_or(LAST, |p95| ((p95 * 1000.0) as i64).saturating_neg());
    }

    /// Sets the backlog of the hook with this uid. `measured`: None if it is unknown.
    pub fn set_backlog(&mut self, uid: &str, measured: Option<&StoreMeasurement>) {
        let backlog = measured.and_then(|measured| measured.backlog(uid));
        let pending = backlog.map(|backlog| i64::try_from(backlog.pending).unwrap_or(LAST).saturating_neg());
        self.pending = pending.unwrap_or(LAST);
        self.oldest = backlog.and_then(|backlog| backlog.oldest).map_or(LAST, |Millis(oldest)| oldest);
    }

    /// Sets that the hook has no backlog or, with `is_known` false, that its backlog is unknown.
    pub fn clear_backlog(&mut self, is_known: bool) {
        self.pending = if is_known { 0 } else { LAST };
        self.oldest = LAST;
    }

    /// Returns the rank in a list.
    pub fn rank(&self, order: HookOrder) -> i64 {
        match order {
            HookOrder::Name => 0,
            HookOrder::State => self.state as i64,
            HookOrder::Pending => self.pending,
            HookOrder::Oldest => self.oldest,
            HookOrder::LastSuccess => self.last_success,
            HookOrder::P95 => self.p95,
        }
    }
}

/// Returns Some if a list of objects that are not Ready shows the hook, and true if a user requested that. One that is being
/// deleted is not synced any more.
pub fn unready(guard: &DeserializeGuard<EventHook>) -> Option<bool> {
    if guard.meta().deletion_timestamp.is_some() {
        return None;
    }
    let Ok(hook) = &guard.0 else { return Some(false) };
    let shown = ShownReadiness::of(conditions_of(hook), hook.metadata.generation);
    (shown.ready != "True").then_some(shown.expected)
}

/// Returns the condition `Delivering` if it is False.
pub fn not_delivering(guard: &DeserializeGuard<EventHook>) -> Option<&Condition> {
    let hook = guard.0.as_ref().ok()?;
    find_condition(conditions_of(hook), DELIVERING).filter(|condition| condition.status == "False")
}

/// Returns whether a user requested that a hook does not deliver.
pub fn is_requested(condition: &Condition) -> bool {
    condition.reason == "Paused"
}
