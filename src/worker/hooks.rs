//! The state of a hook: what the worker derives from an EventHook object when it changes.

use std::sync::Arc;

use kube::{Resource, ResourceExt};

use super::report::delivering_condition;
use super::store::HookId;
use crate::api::{EventHook, RESUME};
use crate::cluster::ObjectKey;
use crate::core::hook::{CompiledHook, InvalidSpec, validate};
use crate::metrics::HookSeries;

/// A registered hook.
#[derive(Debug)]
pub struct HookState {
    pub id: HookId,
    /// The compiled spec. An error: matching events stay pending until the spec is valid again. Most changes of an object
    /// are status updates, so the compiled spec is shared with the previous state while the generation stays the same.
    pub hook: Result<Arc<CompiledHook>, InvalidSpec>,
    pub generation: Option<i64>,
    /// The token of the `resume` annotation.
    pub resume: Option<String>,
    /// The condition reports that the receiver answered 410 to this generation, and no newer `resume` was given.
    pub is_gone: bool,
    /// The condition reports held deliveries. False for a failing receiver, which may have recovered since the last
    /// start.
    pub reported_held: bool,
    /// The condition reports for this generation that deliveries succeed, and no newer `resume` was given.
    pub reported_healthy: bool,
    /// The hook's own metric series, if the hook requests them and the limit allows it.
    pub series: Option<Arc<HookSeries>>,
    /// The key under which the index has the hook; shared with the index. None: no event reaches the hook by matching.
    pub(super) route: Option<Arc<Route>>,
}

/// The key by which the index finds a hook.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Route {
    pub namespace: String,
    pub source: String,
    /// None: every event of the source.
    pub event: Option<String>,
    /// The EventStream to whose events the hook is restricted.
    pub stream: Option<String>,
}

impl HookState {
    /// Derives the state from the object. `previous` is the state of the same uid before the change.
    ///
    /// Reuses the compiled spec of `previous` if the generation is the same: the API server and standalone mode both
    /// increase the generation with each change of a spec.
    pub fn new(object: &EventHook, key: &ObjectKey, previous: Option<&HookState>) -> Self {
        let generation = object.metadata.generation;
        let unchanged = previous.filter(|previous| {
            generation.is_some()
                && previous.generation == generation
                && *previous.id.namespace == *key.namespace
                && *previous.id.name == *key.name
        });
        let hook = match unchanged {
            Some(previous) => previous.hook.clone(),
            None => validate(object).map(Arc::new),
        };
        let id = match (unchanged, &hook) {
            (Some(previous), _) => previous.id.clone(),
            (None, Ok(hook)) => {
                HookId { uid: hook.uid.clone(), namespace: hook.namespace.clone(), name: hook.name.clone() }
            }
            (None, Err(_)) => HookId {
                uid: object.uid().unwrap_or_default().into(),
                namespace: key.namespace.as_str().into(),
                name: key.name.as_str().into(),
            },
        };
        let resume = object.annotations().get(RESUME).cloned();
        let handled = object.status.as_ref().and_then(|s| s.handled.as_ref()).and_then(|h| h.resume.as_ref());
        let resume_is_handled = handled == resume.as_ref();
        let condition = delivering_condition(object);
        let reports = |status: &str, reason: &str| {
            condition.is_some_and(|c| {
                c.status == status && c.reason == reason && c.observed_generation == generation
            })
        };
        HookState {
            id,
            hook,
            generation,
            is_gone: resume_is_handled && reports("False", "Gone"),
            reported_held: condition.is_some_and(|c| {
                c.status == "False" && !matches!(&*c.reason, "ReceiverFailing" | "EgressDenied" | "Undecided")
            }),
            series: None,
            reported_healthy: resume_is_handled && reports("True", "Delivering"),
            resume,
            route: Route::new(object, key).map(Arc::new),
        }
    }
}

impl Route {
    /// None for a hook with a Connection, which receives only the events of its own relay, and for a hook that is being
    /// deleted.
    fn new(object: &EventHook, key: &ObjectKey) -> Option<Route> {
        let spec = &object.spec;
        (spec.connection_ref.is_none() && object.meta().deletion_timestamp.is_none()).then(|| Route {
            namespace: key.namespace.clone(),
            source: spec.source.clone(),
            event: spec.event.clone(),
            stream: spec.from.as_ref().map(|from| from.event_stream_ref.name.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::DeserializeGuard;

    /// A worker may have a hundred thousand hooks, so rarely used fields are boxed. With its reference counts, each of
    /// these types fits a size class of the allocator without waste: 1024, 640 and 224 bytes.
    #[test]
    fn a_hook_state_is_small() {
        let counts = 2 * size_of::<usize>();
        assert!(
            size_of::<DeserializeGuard<EventHook>>() + counts <= 1024,
            "{}",
            size_of::<DeserializeGuard<EventHook>>()
        );
        assert!(size_of::<CompiledHook>() + counts <= 640, "{}", size_of::<CompiledHook>());
        assert!(size_of::<HookState>() + counts <= 224, "{}", size_of::<HookState>());
    }
}
