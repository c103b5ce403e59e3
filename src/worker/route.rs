//! Which hooks an event reaches: an index, changed in place.

use std::collections::HashMap;
use std::sync::Arc;

use kube::{Resource, ResourceExt};
use parking_lot::RwLock;

use super::report::told;
use super::store::HookId;
use crate::api::{CaKind, EventHook, RESUME};
use crate::cluster::{Guarded, Key};
use crate::core::hook::{Hook, InvalidSpec, validate};

/// A hook as the worker knows it.
#[derive(Debug)]
pub struct Known {
    pub id: HookId,
    /// An error: events that match wait until the spec is valid again.
    pub hook: Result<Hook, InvalidSpec>,
    pub generation: Option<i64>,
    /// The token of the command `resume`.
    pub resume: Option<String>,
    /// Its condition says that the receiver answered 410 to this very spec, and no command came since.
    pub gone: bool,
    key: Key,
    route: Option<Route>,
}

/// Where a hook stands in the index: namespace, source, event (None: every event of the source).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Route {
    namespace: String,
    source: String,
    event: Option<String>,
}

/// The index.
#[derive(Default)]
pub struct Routes {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    by_uid: HashMap<Arc<str>, Arc<Known>>,
    by_name: HashMap<Key, Arc<str>>,
    by_route: HashMap<Route, Vec<Arc<Known>>>,
}

impl Routes {
    /// Takes in a new or changed hook. The uids that are concerned: two, where another object took over a name.
    pub fn put(&self, guarded: &Guarded<EventHook>) -> Vec<Arc<str>> {
        let key = Key::of(guarded);
        let mut inner = self.inner.write();
        let mut concerned = inner.remove(&key);
        // An object that cannot be read has no source to match by; its waiting deliveries wait on.
        if let Ok(hook) = &guarded.0 {
            let known = Arc::new(known(hook, key));
            if !concerned.contains(&known.id.uid) {
                concerned.push(known.id.uid.clone());
            }
            inner.insert(known);
        }
        concerned
    }

    /// Forgets a hook that is gone.
    pub fn remove(&self, key: &Key) -> Vec<Arc<str>> {
        self.inner.write().remove(key)
    }

    pub fn get(&self, uid: &str) -> Option<Arc<Known>> {
        self.inner.read().by_uid.get(uid).cloned()
    }

    /// The uid of the hook of this name.
    pub fn uid_of(&self, id: &HookId) -> Option<Arc<str>> {
        self.inner.read().by_name.get(&Key::new(&id.namespace, &id.name)).cloned()
    }

    /// Every hook.
    pub fn all(&self) -> Vec<Arc<Known>> {
        self.inner.read().by_uid.values().cloned().collect()
    }

    /// The hooks that refer to this Secret or ConfigMap.
    pub fn using(&self, kind: CaKind, key: &Key) -> Vec<Arc<str>> {
        let inner = self.inner.read();
        let uses = |known: &&Arc<Known>| {
            known.key.namespace == key.namespace
                && known.hook.as_ref().is_ok_and(|hook| hook.handler.refers_to(kind, &key.name))
        };
        inner.by_uid.values().filter(uses).map(|known| known.id.uid.clone()).collect()
    }

    /// The hooks without a Connection that this event reaches: those of its source and event, and of all of its source.
    pub fn matching(&self, namespace: &str, source: &str, event: &str) -> Vec<HookId> {
        let route = |event: Option<&str>| Route {
            namespace: namespace.to_owned(),
            source: source.to_owned(),
            event: event.map(ToOwned::to_owned),
        };
        let inner = self.inner.read();
        [route(Some(event)), route(None)]
            .iter()
            .filter_map(|route| inner.by_route.get(route))
            .flatten()
            .map(|known| known.id.clone())
            .collect()
    }
}

impl Inner {
    fn insert(&mut self, known: Arc<Known>) {
        if let Some(route) = &known.route {
            self.by_route.entry(route.clone()).or_default().push(known.clone());
        }
        self.by_name.insert(known.key.clone(), known.id.uid.clone());
        self.by_uid.insert(known.id.uid.clone(), known);
    }

    fn remove(&mut self, key: &Key) -> Vec<Arc<str>> {
        let Some(uid) = self.by_name.remove(key) else { return Vec::new() };
        let route = self.by_uid.remove(&uid).and_then(|known| known.route.clone());
        if let Some(route) = route
            && let Some(hooks) = self.by_route.get_mut(&route)
        {
            hooks.retain(|known| known.id.uid != uid);
            if hooks.is_empty() {
                self.by_route.remove(&route);
            }
        }
        vec![uid]
    }
}

fn known(hook: &EventHook, key: Key) -> Known {
    let spec = &hook.spec;
    // With a Connection, a hook gets the events of its own relay and no others; one that is being deleted gets none.
    let routed = spec.connection_ref.is_none() && hook.meta().deletion_timestamp.is_none();
    let route = routed.then(|| Route {
        namespace: key.namespace.clone(),
        source: spec.source.clone(),
        event: spec.event.clone(),
    });
    let id = HookId {
        uid: hook.uid().unwrap_or_default().into(),
        namespace: key.namespace.as_str().into(),
        name: key.name.as_str().into(),
    };
    let resume = hook.annotations().get(RESUME).cloned();
    let handled = hook.status.as_ref().and_then(|s| s.handled.as_ref()).and_then(|h| h.resume.as_ref());
    let gone = told(hook).is_some_and(|c| {
        c.status == "False" && c.reason == "Gone" && c.observed_generation == hook.metadata.generation
    });
    Known {
        id,
        hook: validate(hook),
        generation: hook.metadata.generation,
        gone: gone && handled == resume.as_ref(),
        resume,
        key,
        route,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn hook(name: &str, uid: &str, spec: Value) -> Guarded<EventHook> {
        let mut full = json!({"source": "s", "handler": {"webhook": {"url": "https://example.com"}}});
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
            "metadata": {"name": name, "namespace": "n", "uid": uid}, "spec": full}))
        .unwrap()
    }

    fn names(routes: &Routes, source: &str, event: &str) -> Vec<String> {
        let mut names: Vec<String> =
            routes.matching("n", source, event).iter().map(|h| h.name.to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn by_namespace_source_and_event() {
        let routes = Routes::default();
        routes.put(&hook("all", "1", json!({})));
        routes.put(&hook("one", "2", json!({"event": "e"})));
        routes.put(&hook("other", "3", json!({"source": "t"})));
        routes.put(&hook("kong", "4", json!({"connectionRef": {"name": "k"}})));
        routes.put(&hook("held", "5", json!({"filter": "true"})));
        assert_eq!(
            names(&routes, "s", "e"),
            ["all", "held", "one"],
            "what cannot be decided counts as matched"
        );
        assert_eq!(names(&routes, "s", "f"), ["all", "held"]);
        assert_eq!(names(&routes, "t", "e"), ["other"]);
        assert!(routes.matching("m", "s", "e").is_empty());
        assert!(routes.get("5").unwrap().hook.is_err());
    }

    #[test]
    fn by_what_they_refer_to() {
        let routes = Routes::default();
        let from = |name: &str| json!({"name": name, "key": "k"});
        let webhook = |more: Value| json!({"handler": {"webhook": more}});
        routes.put(&hook("none", "1", json!({})));
        routes.put(&hook("url", "2", webhook(json!({"urlSecretRef": from("a")}))));
        let headers = json!([{"name": "x", "secretRef": from("b")}]);
        routes.put(&hook("header", "3", webhook(json!({"url": "https://e.com", "headersFrom": headers}))));
        let signature = json!({"secretRef": from("c")});
        routes.put(&hook("signed", "4", webhook(json!({"url": "https://e.com", "signature": signature}))));
        let using = |name: &str| routes.using(CaKind::Secret, &Key::new("n", name));
        for (name, uid) in [("a", "2"), ("b", "3"), ("c", "4")] {
            assert_eq!(using(name), [uid.into()], "{name}");
        }
        assert!(using("d").is_empty() && routes.using(CaKind::Secret, &Key::new("m", "a")).is_empty());
    }

    #[test]
    fn changed_in_place() {
        let routes = Routes::default();
        routes.put(&hook("a", "1", json!({})));
        assert_eq!(routes.put(&hook("a", "1", json!({"source": "t"}))).len(), 1);
        assert!(names(&routes, "s", "e").is_empty());
        assert_eq!(names(&routes, "t", "e"), ["a"]);
        let both = routes.put(&hook("a", "2", json!({})));
        assert_eq!(both.len(), 2, "another object of the same name: the old one is gone");
        assert!(routes.get("1").is_none());
        routes.remove(&Key::new("n", "a"));
        assert!(names(&routes, "s", "e").is_empty());
        assert!(routes.inner.read().by_route.is_empty());
    }
}
