//! The index of registered hooks: finds the hooks that match an event. Updated in place when a hook changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::Resource;
use parking_lot::RwLock;

use super::hooks::{HookState, Route, RouteKey};
use super::series::SeriesRegistry;
use super::store::HookId;
use crate::api::{CaKind, EventHook};
use crate::cluster::{DeserializeGuard, ObjectKey};
use crate::core::change_log::ChangeLog;
use crate::core::event::{Event, Origin};
use crate::core::fast_map::FastMap;
use crate::metrics::Metrics;

/// All registered hooks, by uid, by name and by route.
#[derive(Default)]
pub struct HookIndex {
    tables: RwLock<IndexTables>,
    series: SeriesRegistry,
    /// The namespaces and names of hooks that were added, changed or removed, for the API's table of hooks.
    pub changes: ChangeLog<(Arc<str>, Arc<str>)>,
}

/// Keys are shared with the hook states, so that a hundred thousand hooks do not store each text twice.
#[derive(Default)]
struct IndexTables {
    by_uid: FastMap<Arc<str>, Arc<HookState>>,
    /// Uids by namespace and name.
    by_name: FastMap<Arc<str>, FastMap<Arc<str>, Arc<str>>>,
    by_route: FastMap<RouteKey, Vec<Arc<HookState>>>,
}

impl HookIndex {
    /// Returns an empty index. Hooks that request their own metric series register them in `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        HookIndex { series: SeriesRegistry::new(metrics), ..HookIndex::default() }
    }

    /// Registers a new or changed hook and returns the affected uids: two if another object had the name before.
    pub fn upsert(&self, guarded: &DeserializeGuard<EventHook>) -> Vec<Arc<str>> {
        let key = ObjectKey::of(guarded);
        // Compile before taking the lock, because compiling is slow and requests of event senders wait for the lock.
        let previous = self.get(guarded.meta().uid.as_deref().unwrap_or_default());
        let mut state = HookState::of_guard(guarded, &key, previous.as_deref());
        state.series = self.series.register(guarded, &state.id);
        let has_series = state.series.is_some();
        let mut tables = self.tables.write();
        let old = tables.remove(&key);
        let mut affected: Vec<_> = old.iter().map(|old| old.id.uid.clone()).collect();
        if !affected.contains(&state.id.uid) {
            affected.push(state.id.uid.clone());
        }
        let changed = (state.id.namespace.clone(), state.id.name.clone());
        tables.insert(Arc::new(state));
        drop(tables);
        self.changes.record(&changed);
        if !has_series {
            self.series.remove(old.as_deref());
        }
        affected
    }

    /// Removes a deleted hook and returns its uid.
    pub fn remove(&self, key: &ObjectKey) -> Vec<Arc<str>> {
        let old = self.tables.write().remove(key);
        self.series.remove(old.as_deref());
        old.iter().for_each(|old| self.series.forget_health(&old.id.uid));
        self.changes.record(&(key.namespace.as_str().into(), key.name.as_str().into()));
        old.map(|old| old.id.uid.clone()).into_iter().collect()
    }

    pub fn get(&self, uid: &str) -> Option<Arc<HookState>> {
        self.tables.read().by_uid.get(uid).cloned()
    }

    /// Returns the uid of the hook with this name.
    pub fn uid_of(&self, namespace: &str, name: &str) -> Option<Arc<str>> {
        self.tables.read().by_name.get(namespace)?.get(name).cloned()
    }

    /// Returns every registered hook.
    pub fn all(&self) -> Vec<Arc<HookState>> {
        self.tables.read().by_uid.values().cloned().collect()
    }

    /// Returns the namespaces that have hooks.
    pub fn namespaces(&self) -> BTreeSet<String> {
        self.tables.read().by_name.keys().map(ToString::to_string).collect()
    }

    /// Returns the uids of the hooks that reference this Secret or ConfigMap.
    pub fn referencing(&self, kind: CaKind, key: &ObjectKey) -> Vec<Arc<str>> {
        let tables = self.tables.read();
        let references = |state: &&Arc<HookState>| {
            *state.id.namespace == *key.namespace
                && state.hook.as_ref().is_ok_and(|hook| hook.handler.refers_to(kind, &key.name))
        };
        tables.by_uid.values().filter(references).map(|state| state.id.uid.clone()).collect()
    }

    /// Returns the hooks that match the event by namespace, source, event name and stream, without evaluating filters.
    /// Never returns hooks with a Connection, which receive only the events of their own relay.
    pub fn matching(&self, event: &Event) -> Vec<Arc<HookState>> {
        let every = Route { namespace: &event.namespace, source: event.family(), event: None, stream: None };
        let named = Route { event: Some(&event.event), ..every };
        let stream = match &event.origin {
            Origin::Stream(name) => Some(name.as_str()),
            Origin::Api | Origin::Relay(_) => None,
        };
        let of_stream = [Route { stream, ..named }, Route { stream, ..every }];
        let routes = [named, every].into_iter().chain(of_stream.into_iter().filter(|_| stream.is_some()));
        let keys: Vec<String> = routes.map(|route| route.key()).collect();
        let tables = self.tables.read();
        keys.iter().filter_map(|key| tables.by_route.get(key.as_str())).flatten().cloned().collect()
    }
}

impl IndexTables {
    fn insert(&mut self, state: Arc<HookState>) {
        if let Some(route) = &state.route {
            // Most routes have one hook: capacity for four would take 24 bytes more of each.
            self.by_route.entry(route.clone()).or_insert_with(|| Vec::with_capacity(1)).push(state.clone());
        }
        let HookId { uid, namespace, name } = state.id.clone();
        self.by_name.entry(namespace).or_default().insert(name, uid.clone());
        self.by_uid.insert(uid, state);
    }

    fn remove(&mut self, key: &ObjectKey) -> Option<Arc<HookState>> {
        let names = self.by_name.get_mut(&*key.namespace)?;
        let uid = names.remove(&*key.name)?;
        if names.is_empty() {
            self.by_name.remove(&*key.namespace);
        }
        let state = self.by_uid.remove(&uid)?;
        if let Some(route) = &state.route
            && let Some(hooks) = self.by_route.get_mut(route)
        {
            hooks.retain(|hook| hook.id.uid != uid);
            if hooks.is_empty() {
                self.by_route.remove(route);
            }
        }
        Some(state)
    }
}

/// Hooks and events for the tests of the index and of decisions.
#[cfg(test)]
pub(super) mod testing {
    use serde_json::{Value, json};

    use super::*;

    pub(in crate::worker) fn hook(name: &str, uid: &str, spec: Value) -> DeserializeGuard<EventHook> {
        let mut full = json!({"source": "s", "handler": {"webhook": {"url": "https://example.com"}}});
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
            "metadata": {"name": name, "namespace": "n", "uid": uid}, "spec": full}))
        .unwrap()
    }

    pub(in crate::worker) fn event(source: &str, event: &str, data: Value) -> Event {
        Event {
            id: "1".into(),
            namespace: "n".into(),
            origin: Origin::Api,
            source: source.into(),
            event: event.into(),
            time: "2023-11-14T22:13:20Z".into(),
            data: serde_json::value::to_raw_value(&data).unwrap().into(),
            attributes: [].into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::testing::{event, hook};
    use super::*;
    use crate::core::hook::CompiledHook;
    use crate::metrics::METRICS_ANNOTATION;

    fn matching_names(index: &HookIndex, event: &Event) -> Vec<String> {
        let mut names: Vec<String> = index.matching(event).iter().map(|h| h.id.name.to_string()).collect();
        names.sort();
        names
    }

    fn names(index: &HookIndex, source: &str, name: &str) -> Vec<String> {
        matching_names(index, &event(source, name, json!(1)))
    }

    #[test]
    fn matches_by_namespace_source_and_event() {
        let index = HookIndex::default();
        index.upsert(&hook("all", "1", json!({})));
        index.upsert(&hook("one", "2", json!({"event": "e"})));
        index.upsert(&hook("other", "3", json!({"source": "t"})));
        index.upsert(&hook("kong", "4", json!({"connectionRef": {"name": "k"}})));
        index.upsert(&hook("held", "5", json!({"filter": "no(t)valid"})));
        assert_eq!(names(&index, "s", "e"), ["all", "held", "one"], "an undecided hook counts as matched");
        assert_eq!(names(&index, "s", "f"), ["all", "held"]);
        assert_eq!(names(&index, "t", "e"), ["other"]);
        let elsewhere = Event { namespace: "m".into(), ..event("s", "e", json!(1)) };
        assert!(index.matching(&elsewhere).is_empty());
        assert!(index.get("5").unwrap().hook.is_err());
    }

    #[test]
    fn matches_by_stream() {
        let index = HookIndex::default();
        let auth0 = |more: Value| {
            let mut spec = json!({"source": "auth0"});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        let from = |name: &str| json!({"from": {"eventStreamRef": {"name": name}}});
        index.upsert(&hook("any", "1", auth0(json!({}))));
        index.upsert(&hook("users", "2", auth0(from("users"))));
        let mut created = from("users");
        created["event"] = json!("user.created");
        index.upsert(&hook("created", "3", auth0(created)));
        index.upsert(&hook("groups", "4", auth0(from("groups"))));
        index.upsert(&hook("urn", "5", json!({"source": "urn:auth0:t"})));
        let matched = |stream: &str, name: &str| {
            let origin = Origin::Stream(stream.into());
            matching_names(&index, &Event { origin, ..event("urn:auth0:t", name, json!(1)) })
        };
        assert_eq!(matched("users", "user.created"), ["any", "created", "users"]);
        assert_eq!(matched("users", "user.deleted"), ["any", "users"]);
        assert_eq!(matched("groups", "user.created"), ["any", "groups"]);
        assert_eq!(
            names(&index, "urn:auth0:t", "e"),
            ["urn"],
            "the source of an API event is not a stream's"
        );
    }

    fn unreadable(name: &str, uid: &str, spec: Value) -> DeserializeGuard<EventHook> {
        let guarded: DeserializeGuard<EventHook> =
            serde_json::from_value(json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
                "metadata": {"name": name, "namespace": "n", "uid": uid}, "spec": spec}))
            .unwrap();
        assert!(guarded.0.is_err());
        guarded
    }

    #[test]
    fn unreadable_object_keeps_its_last_readable_route() {
        let index = HookIndex::default();
        index.upsert(&hook("a", "1", json!({"event": "e"})));
        let broken = |spec: Value| index.upsert(&unreadable("a", "1", spec));
        for spec in [
            json!({"source": "s", "event": true, "handler": {}}),
            json!({"source": "t", "delivery": {"timeout": 15}, "handler": {}}),
            json!({"source": ["s"]}),
            json!(null),
        ] {
            assert_eq!(broken(spec.clone()), ["1".into()], "{spec}");
            assert_eq!(names(&index, "s", "e"), ["a"], "{spec}");
            assert!(names(&index, "s", "f").is_empty() && names(&index, "t", "e").is_empty(), "{spec}");
            let state = index.get("1").unwrap();
            let reason: &str = state.spec().unwrap_err().into();
            assert_eq!(reason, "InvalidObject", "{spec}");
        }
        index.upsert(&hook("a", "1", json!({"source": "t"})));
        assert_eq!(names(&index, "t", "e"), ["a"], "the corrected object has its own route");
        assert!(names(&index, "s", "e").is_empty());
        // A malformed status makes an object unreadable, and its correction readable, without a new generation.
        let mut corrected = hook("a", "1", json!({"source": "t"}));
        corrected.meta_mut().generation = Some(4);
        let mut malformed = unreadable("a", "1", json!({"source": 7}));
        malformed.meta_mut().generation = Some(4);
        for (guarded, is_readable) in [(&corrected, true), (&malformed, false), (&corrected, true)] {
            index.upsert(guarded);
            assert_eq!(index.get("1").unwrap().hook.is_ok(), is_readable);
            assert_eq!(names(&index, "t", "e"), ["a"]);
        }
        // Another object of the same name does not inherit the route.
        index.upsert(&unreadable("a", "2", json!({"source": "u", "rotation": 1})));
        assert_eq!(names(&index, "u", "e"), ["a"]);
        assert!(names(&index, "t", "e").is_empty());
    }

    #[test]
    fn object_that_was_never_readable_matches_by_its_raw_spec() {
        let index = HookIndex::default();
        index.upsert(&unreadable("a", "1", json!({"source": "s", "groupBy": [1]})));
        assert_eq!(names(&index, "s", "e"), ["a"]);
        index.upsert(&unreadable("a", "1", json!({"source": "t", "groupBy": [1]})));
        assert_eq!(names(&index, "t", "e"), ["a"], "the newest guess");
        assert!(names(&index, "s", "e").is_empty());
        index.upsert(&unreadable("a", "1", json!({"source": "t", "connectionRef": {"name": 1}})));
        assert!(names(&index, "t", "e").is_empty(), "it receives only the events of its own relay");
        index.remove(&ObjectKey::new("n", "a"));
        assert!(index.tables.read().by_route.is_empty());
    }

    #[test]
    fn finds_hooks_by_reference() {
        let index = HookIndex::default();
        let from = |name: &str| json!({"name": name, "key": "k"});
        let webhook = |more: Value| json!({"handler": {"webhook": more}});
        index.upsert(&hook("none", "1", json!({})));
        index.upsert(&hook("url", "2", webhook(json!({"urlSecretRef": from("a")}))));
        let headers = json!([{"name": "x", "secretRef": from("b")}]);
        index.upsert(&hook("header", "3", webhook(json!({"url": "https://e.com", "headersFrom": headers}))));
        let signature = json!({"secretRef": from("c")});
        index.upsert(&hook("signed", "4", webhook(json!({"url": "https://e.com", "signature": signature}))));
        let referencing = |name: &str| index.referencing(CaKind::Secret, &ObjectKey::new("n", name));
        for (name, uid) in [("a", "2"), ("b", "3"), ("c", "4")] {
            assert_eq!(referencing(name), [uid.into()], "{name}");
        }
        assert!(referencing("d").is_empty());
        assert!(index.referencing(CaKind::Secret, &ObjectKey::new("m", "a")).is_empty());
    }

    #[test]
    fn keeps_the_compiled_spec_while_the_generation_is_the_same() {
        let index = HookIndex::default();
        let upsert = |generation: i64, status: &str, spec: Value| {
            let mut guarded = hook("a", "1", spec);
            let object = guarded.0.as_mut().unwrap();
            object.metadata.generation = Some(generation);
            let condition = json!({"type": "Delivering", "status": status, "reason": "Delivering", "message": "",
                "observedGeneration": generation, "lastTransitionTime": "2023-11-14T22:13:20Z"});
            object.status = Some(serde_json::from_value(json!({"conditions": [condition]})).unwrap());
            index.upsert(&guarded);
            index.get("1").unwrap()
        };
        let compiled = |state: &HookState| -> Arc<CompiledHook> { state.hook.clone().unwrap() };
        let first = upsert(1, "False", json!({"filter": "true"}));
        let reported = upsert(1, "True", json!({"filter": "true"}));
        assert!(!first.reported_healthy && reported.reported_healthy);
        assert!(Arc::ptr_eq(&compiled(&first), &compiled(&reported)), "only the status changed");
        let edited = upsert(2, "True", json!({"filter": "false"}));
        assert!(!Arc::ptr_eq(&compiled(&reported), &compiled(&edited)));
        // Without a generation the spec is compiled each time.
        index.upsert(&hook("b", "2", json!({"source": "s"})));
        index.upsert(&hook("b", "2", json!({"source": "t"})));
        assert_eq!(names(&index, "t", "e"), ["b"]);
    }

    #[test]
    fn registers_series_while_the_hook_requests_them() {
        let metrics = Arc::new(Metrics::default());
        let index = HookIndex::new(metrics.clone());
        let lines = || metrics.encode().lines().filter(|line| line.contains(r#"hook="a""#)).count();
        let upsert = |uid: &str, annotation: Option<&str>| {
            let mut guarded = hook("a", uid, json!({}));
            let annotations =
                annotation.map(|value| [(METRICS_ANNOTATION.to_owned(), value.to_owned())].into());
            guarded.0.as_mut().unwrap().metadata.annotations = annotations;
            index.upsert(&guarded);
            index.get(uid).unwrap().series.clone()
        };
        assert!(upsert("1", None).is_none() && upsert("1", Some("false")).is_none());
        assert_eq!(lines(), 0);
        let first = upsert("1", Some("true")).unwrap();
        assert!(lines() > 0);
        assert!(
            Arc::ptr_eq(&first, &upsert("2", Some("true")).unwrap()),
            "a recreated hook continues the series of its name"
        );
        assert!(upsert("2", None).is_none());
        assert_eq!(lines(), 0);
        upsert("2", Some("true")).unwrap();
        index.remove(&ObjectKey::new("n", "a"));
        assert_eq!(lines(), 0);
    }

    #[test]
    fn updates_in_place() {
        let index = HookIndex::default();
        index.upsert(&hook("a", "1", json!({})));
        assert_eq!(index.upsert(&hook("a", "1", json!({"source": "t"}))).len(), 1);
        assert!(names(&index, "s", "e").is_empty());
        assert_eq!(names(&index, "t", "e"), ["a"]);
        let both = index.upsert(&hook("a", "2", json!({})));
        assert_eq!(both.len(), 2, "another object has the name now: the old one is deleted");
        assert!(index.get("1").is_none());
        index.remove(&ObjectKey::new("n", "a"));
        assert!(names(&index, "s", "e").is_empty());
        assert!(index.tables.read().by_route.is_empty());
    }
}
