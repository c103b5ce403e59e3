//! The state of a hook: what the worker derives from an EventHook object when it changes.

use std::sync::Arc;

use kube::{Resource, ResourceExt};

use super::handlers::ReceiverPermission;
use super::report::delivering_condition;
use super::store::HookId;
use crate::api::{EventHook, RESUME, bounded_token};
use crate::cluster::{DeserializeGuard, InvalidObject, ObjectKey};
use crate::core::bucket::Rate;
use crate::core::delivery_reason::DeliveringFault;
use crate::core::hook::{CompiledHook, EventSelector, InvalidSpec, validate};
use crate::metrics::HookSeries;

/// A registered hook.
#[derive(Debug)]
pub struct HookState {
    pub id: HookId,
    /// The compiled spec. An error: matching events stay pending until the spec is valid again. Most changes of an object
    /// are status updates, so the compiled spec is shared with the previous state while the generation stays the same.
    pub hook: Result<Arc<CompiledHook>, Box<InvalidSpec>>,
    pub generation: Option<i64>,
    /// The token of the `resume` annotation.
    pub resume: Option<String>,
    /// What the receiver permitted, if the hook performs a handshake. Shared with the previous state, so that status
    /// updates repeat no handshake.
    pub permission: Option<Arc<ReceiverPermission>>,
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
    pub(super) route: Option<RouteKey>,
    /// True if `route` comes from a version of the object that could be read: this one, or an earlier one.
    has_readable_route: bool,
}

/// The events that reach a hook.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route<'a> {
    pub namespace: &'a str,
    pub source: &'a str,
    /// None: every event of the source.
    pub event: Option<&'a str>,
    /// The EventStream to whose events the hook is restricted.
    pub stream: Option<&'a str>,
}

/// A [`Route`] as one text, by which the index finds a hook. A worker has one for each hook, so it is one allocation.
pub(super) type RouteKey = Arc<str>;

impl HookState {
    /// Derives the state from an object that may be unreadable. `previous` is the state of the same uid before the change.
    pub fn of_guard(
        guarded: &DeserializeGuard<EventHook>,
        key: &ObjectKey,
        previous: Option<&HookState>,
    ) -> Self {
        match &guarded.0 {
            Ok(object) => HookState::new(object, key, previous),
            Err(invalid) => HookState::unreadable(invalid, key, previous),
        }
    }

    /// Derives the state of an object that cannot be read. Its deliveries are held, and it keeps its last readable route:
    /// without one, a field of a wrong type would drop its events as if it had been deleted.
    fn unreadable(invalid: &InvalidObject, key: &ObjectKey, previous: Option<&HookState>) -> Self {
        let metadata = &invalid.metadata;
        let id = match previous {
            Some(previous) if *previous.id.namespace == *key.namespace && *previous.id.name == *key.name => {
                previous.id.clone()
            }
            _ => HookId {
                uid: metadata.uid.as_deref().unwrap_or_default().into(),
                namespace: key.namespace.as_str().into(),
                name: key.name.as_str().into(),
            },
        };
        let last_readable = previous.filter(|previous| previous.has_readable_route);
        let route = match last_readable {
            Some(previous) => previous.route.clone(),
            None => invalid.selector.as_ref().and_then(|selector| route_of(selector, key)),
        };
        let annotations = metadata.annotations.as_ref();
        HookState {
            id,
            hook: Err(Box::new(InvalidSpec::Unreadable(invalid.error.clone()))),
            generation: metadata.generation,
            resume: annotations
                .and_then(|annotations| annotations.get(RESUME))
                .map(|token| bounded_token(token)),
            permission: None,
            // The status cannot be read. The next readable version reports it again.
            is_gone: false,
            reported_held: false,
            reported_healthy: false,
            series: None,
            route: route.filter(|_| metadata.deletion_timestamp.is_none()),
            has_readable_route: last_readable.is_some(),
        }
    }

    /// Derives the state from the object. `previous` is the state of the same uid before the change.
    ///
    /// Reuses the compiled spec of `previous` if the generation is the same: the API server and standalone mode both
    /// increase the generation with each change of a spec.
    pub fn new(object: &EventHook, key: &ObjectKey, previous: Option<&HookState>) -> Self {
        let generation = object.metadata.generation;
        let unchanged = previous.filter(|previous| {
            generation.is_some()
                && previous.generation == generation
                // A corrected status makes an unreadable object readable without a new generation.
                && !matches!(previous.spec(), Err(InvalidSpec::Unreadable(_)))
                && *previous.id.namespace == *key.namespace
                && *previous.id.name == *key.name
        });
        let hook = match unchanged {
            Some(previous) => previous.hook.clone(),
            None => validate(object).map(Arc::new).map_err(Box::new),
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
        let resume = object.annotations().get(RESUME).map(|token| bounded_token(token));
        let is_kept = object.meta().deletion_timestamp.is_none();
        let handled = object.status.as_ref().and_then(|s| s.handled.as_ref()).and_then(|h| h.resume.as_ref());
        let resume_is_handled = handled == resume.as_ref();
        let condition = delivering_condition(object);
        let reports = |status: &str, reason: &str| {
            condition.is_some_and(|c| {
                c.status == status && c.reason == reason && c.observed_generation == generation
            })
        };
        let performs_handshake = hook.as_ref().is_ok_and(|hook| hook.handler.performs_handshake());
        let permission = previous.and_then(|previous| previous.permission.clone());
        HookState {
            id,
            hook,
            generation,
            permission: performs_handshake.then(|| permission.unwrap_or_default()),
            is_gone: resume_is_handled && reports("False", "Gone"),
            reported_held: condition
                .is_some_and(|c| c.status == "False" && c.reason.parse::<DeliveringFault>().is_err()),
            series: None,
            reported_healthy: resume_is_handled && reports("True", "Delivering"),
            resume,
            // Without a route for a hook that is being deleted: new events must not reach it.
            route: route_of(&EventSelector::of(&object.spec), key).filter(|_| is_kept),
            has_readable_route: true,
        }
    }

    /// Returns the compiled spec, or why it is invalid.
    pub fn spec(&self) -> Result<&CompiledHook, &InvalidSpec> {
        self.hook.as_deref().map_err(|invalid| &**invalid)
    }

    /// Returns the rate limit: that of the spec, or what the receiver granted if that is less.
    pub fn rate(&self) -> Option<Rate> {
        let own = self.hook.as_ref().ok()?.delivery.rate;
        match &self.permission {
            Some(permission) => permission.limit(own, self.generation, self.resume.as_deref()),
            None => own,
        }
    }
}

impl Route<'_> {
    /// Returns the key of the route. Different routes have different keys: a namespace has no slash, and the length of a text
    /// that may have any character precedes it.
    pub fn key(&self) -> String {
        let Route { namespace, source, event, stream } = self;
        let mut key = format!("{namespace}/{}:{source}", source.len());
        if let Some(stream) = stream {
            key.push_str(&format!("/{}:{stream}", stream.len()));
        }
        if let Some(event) = event {
            key.push('=');
            key.push_str(event);
        }
        key
    }
}

/// Returns None for a hook with a Connection, which receives only the events of its own relay.
fn route_of(selector: &EventSelector, key: &ObjectKey) -> Option<RouteKey> {
    let EventSelector { source, event, stream, connection } = selector;
    if connection.is_some() {
        return None;
    }
    let route =
        Route { namespace: &key.namespace, source, event: event.as_deref(), stream: stream.as_deref() };
    Some(route.key().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_routes_have_different_keys() {
        let texts = ["", "a", "a=b", "a/1:b", "1:a", "/", "="];
        let optional = || [None].into_iter().chain(texts.map(Some));
        let mut keys = std::collections::HashSet::new();
        for source in texts {
            for event in optional() {
                for stream in optional() {
                    let key = Route { namespace: "n", source, event, stream }.key();
                    assert!(keys.insert(key.clone()), "{key}");
                }
            }
        }
    }

    /// A worker may have a hundred thousand hooks, so rarely used fields are boxed. With its reference counts, each of
    /// these types fits a size class of the allocator without waste: 1024, 512 and 160 bytes.
    #[test]
    fn a_hook_state_is_small() {
        let counts = 2 * size_of::<usize>();
        assert!(
            size_of::<DeserializeGuard<EventHook>>() + counts <= 1024,
            "{}",
            size_of::<DeserializeGuard<EventHook>>()
        );
        assert!(size_of::<CompiledHook>() + counts <= 512, "{}", size_of::<CompiledHook>());
        assert!(size_of::<HookState>() + counts <= 160, "{}", size_of::<HookState>());
    }
}
