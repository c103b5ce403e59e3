//! What the worker knows of hooks besides their objects.

use kube::Resource;

use super::list::HookSummaryResponse;
use super::shown_state::{DerivedState, derive_state};
use super::source_of;
use crate::api::{EventHook, HandlerKind};
use crate::cluster::DeserializeGuard;
use crate::core::hook::RequestTarget;
use crate::core::time::Millis;
use crate::metrics::HookTimes;
use crate::worker::api::measure::StoreMeasurement;
use crate::worker::api::state::ApiState;
use crate::worker::breaker_reports::BreakerReports;
use crate::worker::hooks::HookState;
use crate::worker::index::HookIndex;

/// The sources of a hook's state besides its object.
#[derive(Clone, Copy)]
pub struct HookFacts<'a> {
    pub index: &'a HookIndex,
    pub breakers: &'a BreakerReports,
    pub times: &'a HookTimes,
}

impl<'a> HookFacts<'a> {
    pub fn new(api: &'a ApiState) -> Self {
        HookFacts { index: &api.index, breakers: &api.reports.breakers, times: &api.metrics.hook_times }
    }

    /// Derives the state of a hook with this uid, and passes it on: it borrows from the hook.
    pub fn with_state<R>(
        &self,
        guard: &DeserializeGuard<EventHook>,
        uid: &str,
        read: impl FnOnce(DerivedState<'_>) -> R,
    ) -> R {
        let hook = self.index.get(uid);
        read(derive_state(guard, hook.as_deref(), self.breakers.get(uid)))
    }

    /// Returns the last success that this worker has seen or that the object reports.
    pub fn last_success(&self, guard: &DeserializeGuard<EventHook>, uid: &str) -> Option<Millis> {
        let seen = self.times.get(uid).and_then(|times| times.last_success);
        seen.max(reported_success(guard))
    }

    /// Describes a hook. `measured`: None if the backlogs are unknown.
    pub fn summary(
        &self,
        guard: &DeserializeGuard<EventHook>,
        measured: Option<&StoreMeasurement>,
    ) -> HookSummaryResponse {
        let meta = guard.meta();
        let uid = meta.uid.as_deref().unwrap_or_default();
        let hook = self.index.get(uid);
        let breaker = self.breakers.get(uid);
        let DerivedState { state, reason, message, since } = derive_state(guard, hook.as_deref(), breaker);
        let backlog = measured.and_then(|measured| measured.backlog(uid));
        let (source, event) = source_of(guard);
        let (handler, host) = hook.as_deref().map_or((None, None), handler_of);
        HookSummaryResponse {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            handler: handler.map(Into::into),
            source: source.map(ToOwned::to_owned),
            event: event.map(ToOwned::to_owned),
            host,
            state,
            reason: reason.to_owned(),
            message: message.into_owned(),
            since: since.map(Millis::rfc3339),
            pending: backlog.map(|backlog| backlog.pending),
            oldest_time: backlog.and_then(|backlog| backlog.oldest).map(Millis::rfc3339),
            last_success_time: self.last_success(guard, uid).map(Millis::rfc3339),
            p95_ms: self.times.get(uid).and_then(|times| times.p95),
        }
    }
}

/// Returns the last success that the object reports.
pub fn reported_success(guard: &DeserializeGuard<EventHook>) -> Option<Millis> {
    let hook = guard.0.as_ref().ok()?;
    hook.status.as_ref()?.delivery.as_deref()?.last_success.as_deref().and_then(Millis::parse)
}

/// Returns the kind of the handler, and the receiver's host unless it comes from a Secret.
fn handler_of(state: &HookState) -> (Option<HandlerKind>, Option<String>) {
    let Ok(hook) = &state.hook else { return (None, None) };
    let host = match hook.handler.target() {
        Some(RequestTarget::Url(address)) => address.uri.host().map(ToOwned::to_owned),
        Some(RequestTarget::Secret(_)) | None => None,
    };
    (Some(hook.handler.kind()), host)
}
