//! Which hooks an event reaches: an index, changed in place; and what is decided for each of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use kube::{Resource, ResourceExt};
use parking_lot::RwLock;

use super::report::told;
use super::store::{HookId, NewDelivery};
use crate::api::{CaKind, EventHook, RESUME};
use crate::cluster::{Guarded, Key};
use crate::core::catalogue;
use crate::core::event::{Event, Origin};
use crate::core::filter::Facts;
use crate::core::gate::Asked;
use crate::core::hook::{Hook, InvalidSpec, validate};
use crate::core::id;
use crate::core::time::Millis;
use crate::metrics::{MEASURED, Metrics, Series};

/// A hook as the worker knows it.
#[derive(Debug)]
pub struct Known {
    pub id: HookId,
    /// An error: events that match wait until the spec is valid again. Shared with what was known before, while the spec
    /// stays as it is: most changes of an object are of its status.
    pub hook: Result<Arc<Hook>, InvalidSpec>,
    pub generation: Option<i64>,
    /// The token of the command `resume`.
    pub resume: Option<String>,
    /// Its condition says that the receiver answered 410 to this very spec, and no command came since.
    pub gone: bool,
    /// Its condition says that its deliveries are held (not that the receiver fails, which nobody knows after a start).
    pub told_held: bool,
    /// Its condition says of this very spec that deliveries go out, and no command came since.
    pub told_well: bool,
    /// The hook's own series in the metrics, where it asks for them and there is room.
    pub series: Option<Arc<Series>>,
    /// Shared with the index.
    route: Option<Arc<Route>>,
}

/// What a hook makes of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It matches; this is what it asks of the gates.
    Deliver(Asked),
    /// The filter says no.
    Skip,
    /// It cannot be told until the spec is another: the event counts as matched, and its delivery is held. It passes by
    /// the gates, whose rules are not known either, or may not be meant for it.
    Undecided(String),
}

/// What a hook makes of an event, by the hook as it is now. Asked when the event comes in.
pub fn decide(known: &Known, event: &Event) -> Decision {
    decide_facts(known, &Facts::new(event))
}

/// The same before it is sent: the gates were asked when it was accepted, and are not asked again.
pub fn decide_again(known: &Known, event: &Event) -> Decision {
    match filtered(known, &Facts::new(event)) {
        Ok(_) => Decision::Deliver(Asked::default()),
        Err(decision) => decision,
    }
}

/// The hook, where its filter lets the event pass.
fn filtered<'k>(known: &'k Known, facts: &Facts<'_>) -> Result<&'k Hook, Decision> {
    let hook = match &known.hook {
        Ok(hook) => hook,
        Err(invalid) => return Err(Decision::Undecided(invalid.to_string())),
    };
    match hook.filter.as_ref().map(|filter| filter.matches_facts(facts)) {
        None | Some(Ok(true)) => Ok(&**hook),
        Some(Ok(false)) => Err(Decision::Skip),
        Some(Err(error)) => Err(Decision::Undecided(format!("filter: {error}"))),
    }
}

fn decide_facts(known: &Known, facts: &Facts<'_>) -> Decision {
    let hook = match filtered(known, facts) {
        Ok(hook) => hook,
        Err(decision) => return decision,
    };
    if hook.gates.is_open() {
        return Decision::Deliver(Asked::default());
    }
    let event = facts.event();
    let unique = catalogue::unique(event.family(), &event.event);
    Decision::Deliver(match facts.data() {
        Ok(data) => hook.gates.ask_value(unique, data),
        Err(_) => hook.gates.ask(unique, &event.data),
    })
}

/// The deliveries that an event makes at these hooks.
pub fn deliveries(hooks: &[Arc<Known>], event: &Event, now: Millis) -> Vec<NewDelivery> {
    let facts = Facts::new(event);
    let delivery = |known: &Arc<Known>| {
        let asked = match decide_facts(known, &facts) {
            Decision::Deliver(asked) => asked,
            Decision::Undecided(_) => Asked::default(),
            Decision::Skip => return None,
        };
        Some(NewDelivery { hook: known.id.clone(), id: id::fresh(now), due: now, asked, dead: None })
    };
    hooks.iter().filter_map(delivery).collect()
}

/// True where `deliveries` may take long enough to be in the way of others: filters have a bound, but some milliseconds
/// are much for a thread that serves many senders.
pub fn may_take_long(hooks: &[Arc<Known>]) -> bool {
    hooks.iter().any(|known| known.hook.as_ref().is_ok_and(|hook| hook.filter.is_some()))
}

/// Where a hook stands in the index: namespace, source, event (None: every event of the source), the EventStream whose
/// events alone it gets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Route {
    namespace: String,
    source: String,
    event: Option<String>,
    stream: Option<String>,
}

/// The index.
#[derive(Default)]
pub struct Routes {
    inner: RwLock<Inner>,
    metrics: Arc<Metrics>,
}

/// Keys are shared with what is known: of a hundred thousand hooks, each costs what it holds.
#[derive(Default)]
struct Inner {
    by_uid: HashMap<Arc<str>, Arc<Known>>,
    /// The uids, by namespace and name.
    by_name: HashMap<Arc<str>, HashMap<Arc<str>, Arc<str>>>,
    by_route: HashMap<Arc<Route>, Vec<Arc<Known>>>,
}

impl Routes {
    /// An empty one, for hooks that may ask for series of their own in these metrics.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Routes { metrics, ..Routes::default() }
    }

    /// Takes in a new or changed hook. The uids that are concerned: two, where another object took over a name.
    pub fn put(&self, guarded: &Guarded<EventHook>) -> Vec<Arc<str>> {
        let key = Key::of(guarded);
        // Before the lock, for which whoever sends events waits: to compile a spec may take a while.
        let known = guarded.0.as_ref().ok().map(|hook| {
            let before = self.get(hook.metadata.uid.as_deref().unwrap_or_default());
            let mut known = known_after(hook, key.clone(), before.as_deref());
            known.series = self.series(hook, &known.id);
            Arc::new(known)
        });
        let mut inner = self.inner.write();
        let old = inner.remove(&key);
        let mut concerned: Vec<_> = old.iter().map(|old| old.id.uid.clone()).collect();
        let measured = known.as_ref().is_some_and(|known| known.series.is_some());
        // An object that cannot be read has no source to match by; its waiting deliveries wait on.
        if let Some(known) = known {
            if !concerned.contains(&known.id.uid) {
                concerned.push(known.id.uid.clone());
            }
            inner.insert(known);
        }
        drop(inner);
        if !measured {
            self.unmeasured(old.as_deref());
        }
        concerned
    }

    /// Forgets a hook that is gone.
    pub fn remove(&self, key: &Key) -> Vec<Arc<str>> {
        let old = self.inner.write().remove(key);
        self.unmeasured(old.as_deref());
        old.map(|old| old.id.uid.clone()).into_iter().collect()
    }

    /// The hook's own series, where it asks for them.
    fn series(&self, hook: &EventHook, id: &HookId) -> Option<Arc<Series>> {
        if hook.annotations().get(MEASURED).is_none_or(|asks| asks != "true") {
            return None;
        }
        let series = self.metrics.hooks.named(&id.namespace, &id.name);
        if series.is_none() {
            let reason = "too many hooks have series of their own in the metrics already (--hook-metrics)";
            tracing::warn!(namespace = %id.namespace, hook = %id.name, "the hook gets none: {reason}");
        }
        series
    }

    fn unmeasured(&self, old: Option<&Known>) {
        if let Some(Known { id, series: Some(_), .. }) = old {
            self.metrics.hooks.forget(&id.namespace, &id.name);
        }
    }

    pub fn get(&self, uid: &str) -> Option<Arc<Known>> {
        self.inner.read().by_uid.get(uid).cloned()
    }

    /// The uid of the hook of this name.
    pub fn uid_of(&self, namespace: &str, name: &str) -> Option<Arc<str>> {
        self.inner.read().by_name.get(namespace)?.get(name).cloned()
    }

    /// Every hook.
    pub fn all(&self) -> Vec<Arc<Known>> {
        self.inner.read().by_uid.values().cloned().collect()
    }

    /// The namespaces that have hooks.
    pub fn namespaces(&self) -> BTreeSet<String> {
        self.inner.read().by_name.keys().map(ToString::to_string).collect()
    }

    /// The hooks that refer to this Secret or ConfigMap.
    pub fn using(&self, kind: CaKind, key: &Key) -> Vec<Arc<str>> {
        let inner = self.inner.read();
        let uses = |known: &&Arc<Known>| {
            *known.id.namespace == *key.namespace
                && known.hook.as_ref().is_ok_and(|hook| hook.handler.refers_to(kind, &key.name))
        };
        inner.by_uid.values().filter(uses).map(|known| known.id.uid.clone()).collect()
    }

    /// The hooks without a Connection that this event reaches: those of its source and event, and of all of its source;
    /// of those that ask for one stream's events, those of the stream that it came by.
    pub fn matching(&self, event: &Event) -> Vec<Arc<Known>> {
        let mut route = Route {
            namespace: event.namespace.clone(),
            source: event.family().to_owned(),
            event: Some(event.event.clone()),
            stream: None,
        };
        let inner = self.inner.read();
        let mut found = Vec::new();
        let mut take = |route: &Route| found.extend(inner.by_route.get(route).into_iter().flatten().cloned());
        take(&route);
        if let Origin::Stream(name) = &event.origin {
            route.stream = Some(name.clone());
            take(&route);
            route.event = None;
            take(&route);
            route.stream = None;
        }
        route.event = None;
        take(&route);
        found
    }
}

impl Inner {
    fn insert(&mut self, known: Arc<Known>) {
        if let Some(route) = &known.route {
            self.by_route.entry(route.clone()).or_default().push(known.clone());
        }
        let HookId { uid, namespace, name } = known.id.clone();
        self.by_name.entry(namespace).or_default().insert(name, uid.clone());
        self.by_uid.insert(uid, known);
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<Known>> {
        let names = self.by_name.get_mut(&*key.namespace)?;
        let uid = names.remove(&*key.name)?;
        if names.is_empty() {
            self.by_name.remove(&*key.namespace);
        }
        let known = self.by_uid.remove(&uid)?;
        if let Some(route) = &known.route
            && let Some(hooks) = self.by_route.get_mut(route)
        {
            hooks.retain(|known| known.id.uid != uid);
            if hooks.is_empty() {
                self.by_route.remove(route);
            }
        }
        Some(known)
    }
}

/// Understands a hook as it is.
pub fn known(hook: &EventHook, key: Key) -> Known {
    known_after(hook, key, None)
}

/// The same of a hook that was known before. The API server counts a spec's changes by the generation, and so does
/// standalone.
fn known_after(hook: &EventHook, key: Key, before: Option<&Known>) -> Known {
    let generation = hook.metadata.generation;
    let before = before.filter(|before| {
        generation.is_some()
            && before.generation == generation
            && *before.id.namespace == *key.namespace
            && *before.id.name == *key.name
    });
    let understood = match before {
        Some(before) => before.hook.clone(),
        None => validate(hook).map(Arc::new),
    };
    let id = match (before, &understood) {
        (Some(before), _) => before.id.clone(),
        (None, Ok(hook)) => {
            HookId { uid: hook.uid.clone(), namespace: hook.namespace.clone(), name: hook.name.clone() }
        }
        (None, Err(_)) => HookId {
            uid: hook.uid().unwrap_or_default().into(),
            namespace: key.namespace.as_str().into(),
            name: key.name.as_str().into(),
        },
    };
    let resume = hook.annotations().get(RESUME).cloned();
    let handled = hook.status.as_ref().and_then(|s| s.handled.as_ref()).and_then(|h| h.resume.as_ref());
    let used_up = handled == resume.as_ref();
    let told = told(hook);
    let says = |status: &str, reason: &str| {
        told.is_some_and(|c| c.status == status && c.reason == reason && c.observed_generation == generation)
    };
    Known {
        id,
        hook: understood,
        generation,
        gone: used_up && says("False", "Gone"),
        told_held: told.is_some_and(|c| {
            c.status == "False" && !matches!(&*c.reason, "ReceiverFailing" | "EgressDenied" | "Undecided")
        }),
        series: None,
        told_well: used_up && says("True", "Delivering"),
        resume,
        route: route(hook, &key).map(Arc::new),
    }
}

/// With a Connection, a hook gets the events of its own relay and no others; one that is being deleted gets none.
fn route(hook: &EventHook, key: &Key) -> Option<Route> {
    let spec = &hook.spec;
    (spec.connection_ref.is_none() && hook.meta().deletion_timestamp.is_none()).then(|| Route {
        namespace: key.namespace.clone(),
        source: spec.source.clone(),
        event: spec.event.clone(),
        stream: spec.from.as_ref().map(|from| from.event_stream_ref.name.clone()),
    })
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
        let mut names: Vec<String> = routes
            .matching(&self::event(source, event, json!(1)))
            .iter()
            .map(|h| h.id.name.to_string())
            .collect();
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
        routes.put(&hook("held", "5", json!({"filter": "no(t)valid"})));
        assert_eq!(
            names(&routes, "s", "e"),
            ["all", "held", "one"],
            "what cannot be decided counts as matched"
        );
        assert_eq!(names(&routes, "s", "f"), ["all", "held"]);
        assert_eq!(names(&routes, "t", "e"), ["other"]);
        let elsewhere = Event { namespace: "m".into(), ..event("s", "e", json!(1)) };
        assert!(routes.matching(&elsewhere).is_empty());
        assert!(routes.get("5").unwrap().hook.is_err());
    }

    fn event(source: &str, event: &str, data: Value) -> Event {
        Event {
            id: "1".into(),
            namespace: "n".into(),
            origin: crate::core::event::Origin::Api,
            source: source.into(),
            event: event.into(),
            time: "2023-11-14T22:13:20Z".into(),
            data: serde_json::value::to_raw_value(&data).unwrap(),
            attributes: [].into(),
        }
    }

    #[test]
    fn by_stream() {
        let routes = Routes::default();
        let auth0 = |more: Value| {
            let mut spec = json!({"source": "auth0"});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        let from = |name: &str| json!({"from": {"eventStreamRef": {"name": name}}});
        routes.put(&hook("any", "1", auth0(json!({}))));
        routes.put(&hook("users", "2", auth0(from("users"))));
        let mut created = from("users");
        created["event"] = json!("user.created");
        routes.put(&hook("created", "3", auth0(created)));
        routes.put(&hook("groups", "4", auth0(from("groups"))));
        routes.put(&hook("urn", "5", json!({"source": "urn:auth0:t"})));
        let reached = |stream: &str, name: &str| {
            let event =
                Event { origin: Origin::Stream(stream.into()), ..event("urn:auth0:t", name, json!(1)) };
            let mut names: Vec<String> =
                routes.matching(&event).iter().map(|h| h.id.name.to_string()).collect();
            names.sort();
            names
        };
        assert_eq!(reached("users", "user.created"), ["any", "created", "users"]);
        assert_eq!(reached("users", "user.deleted"), ["any", "users"]);
        assert_eq!(reached("groups", "user.created"), ["any", "groups"]);
        assert_eq!(names(&routes, "urn:auth0:t", "e"), ["urn"], "another sender's source is no stream's");
    }

    #[test]
    fn decisions() {
        let decided = |spec: Value, data: Value| {
            let guarded = hook("h", "1", spec);
            let known = known(guarded.0.as_ref().unwrap(), Key::new("n", "h"));
            decide(&known, &event("s", "e", data))
        };
        let open = Decision::Deliver(Asked::default());
        assert_eq!(decided(json!({}), json!(1)), open);
        assert_eq!(decided(json!({"filter": "data.n > 1"}), json!({"n": 2})), open);
        assert_eq!(decided(json!({"filter": "data.n > 1"}), json!({"n": 1})), Decision::Skip);
        for (filter, reason) in
            [("data.n > 1", "filter: there is no member n"), ("data.n >", "filter: line 1")]
        {
            match decided(json!({"filter": filter, "snooze": {"period": "1s"}}), json!({"m": 1})) {
                Decision::Undecided(why) => assert!(why.starts_with(reason), "{why}"),
                other => panic!("{filter}: {other:?}"),
            }
        }
        let gated = json!({"snooze": {"period": "1s"}, "onChange": {}, "filter": "true"});
        let Decision::Deliver(asked) = decided(gated, json!({"n": 1})) else { panic!("not delivered") };
        assert!(asked.snooze.is_some() && asked.change.is_some());
    }

    #[test]
    fn the_gates_know_by_what_a_source_tells_things_apart() {
        let asked = |name: &str, data: Value| {
            let spec = json!({"source": "rate-limiting-advanced", "snooze": {"period": "1s"}});
            let guarded = hook("h", "1", spec);
            let known = known(guarded.0.as_ref().unwrap(), Key::new("n", "h"));
            decide(&known, &event("rate-limiting-advanced", name, data))
        };
        let exceeded = |rate| asked("rate-limit-exceeded", json!({"ip": "10.0.0.1", "rate": rate}));
        assert_eq!(exceeded(1), exceeded(2), "the rate is no other thing");
        let other = |rate| asked("other", json!({"ip": "10.0.0.1", "rate": rate}));
        assert_ne!(other(1), other(2), "an event of which nothing is known is told apart by its whole data");
    }

    #[test]
    fn deliveries_of_those_that_match_or_cannot_tell() {
        let routes = Routes::default();
        routes.put(&hook("plain", "1", json!({})));
        routes.put(&hook("yes", "2", json!({"filter": "data.n == 1"})));
        routes.put(&hook("no", "3", json!({"filter": "data.n == 2"})));
        routes.put(&hook("fails", "4", json!({"filter": "data.m == 2"})));
        routes.put(&hook("invalid", "5", json!({"filter": "m == 2"})));
        let hooks = routes.matching(&event("s", "e", json!({"n": 1})));
        assert!(may_take_long(&hooks));
        let made = deliveries(&hooks, &event("s", "e", json!({"n": 1})), Millis(5));
        let mut names: Vec<_> = made.iter().map(|d| d.hook.name.to_string()).collect();
        names.sort();
        assert_eq!(names, ["fails", "invalid", "plain", "yes"]);
        assert!(made.iter().all(|d| d.due == Millis(5) && d.dead.is_none()));
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

    /// A worker may have a hundred thousand hooks: what few of them have is on the heap. With its counts, each of these fits
    /// a size of which the allocator gives no more than was asked for: 1024, 640, 224 bytes.
    #[test]
    fn a_hook_is_small() {
        let counts = 2 * size_of::<usize>();
        assert!(size_of::<Guarded<EventHook>>() + counts <= 1024, "{}", size_of::<Guarded<EventHook>>());
        assert!(size_of::<Hook>() + counts <= 640, "{}", size_of::<Hook>());
        assert!(size_of::<Known>() + counts <= 224, "{}", size_of::<Known>());
    }

    #[test]
    fn what_is_compiled_stays_while_the_spec_does() {
        let routes = Routes::default();
        let with = |generation: i64, status: &str, spec: Value| {
            let mut guarded = hook("a", "1", spec);
            let object = guarded.0.as_mut().unwrap();
            object.metadata.generation = Some(generation);
            let condition = json!({"type": "Delivering", "status": status, "reason": "Delivering", "message": "",
                "observedGeneration": generation, "lastTransitionTime": "2023-11-14T22:13:20Z"});
            object.status = Some(serde_json::from_value(json!({"conditions": [condition]})).unwrap());
            routes.put(&guarded);
            routes.get("1").unwrap()
        };
        let compiled = |known: &Known| known.hook.clone().unwrap();
        let first = with(1, "False", json!({"filter": "true"}));
        let told = with(1, "True", json!({"filter": "true"}));
        assert!(!first.told_well && told.told_well);
        assert!(Arc::ptr_eq(&compiled(&first), &compiled(&told)), "the status alone changed");
        let edited = with(2, "True", json!({"filter": "false"}));
        assert!(!Arc::ptr_eq(&compiled(&told), &compiled(&edited)));
        // Without generations nobody knows.
        routes.put(&hook("b", "2", json!({"source": "s"})));
        routes.put(&hook("b", "2", json!({"source": "t"})));
        assert_eq!(names(&routes, "t", "e"), ["b"]);
    }

    #[test]
    fn a_hook_has_series_of_its_own_while_it_asks() {
        let metrics = Arc::new(Metrics::default());
        let routes = Routes::new(metrics.clone());
        let named = || metrics.encode().lines().filter(|line| line.contains(r#"hook="a""#)).count();
        let put = |uid: &str, asks: Option<&str>| {
            let mut guarded = hook("a", uid, json!({}));
            let annotations = asks.map(|asks| [(MEASURED.to_owned(), asks.to_owned())].into());
            guarded.0.as_mut().unwrap().metadata.annotations = annotations;
            routes.put(&guarded);
            routes.get(uid).unwrap().series.clone()
        };
        assert!(put("1", None).is_none() && put("1", Some("false")).is_none());
        assert_eq!(named(), 0);
        let first = put("1", Some("true")).unwrap();
        assert!(named() > 0);
        assert!(
            Arc::ptr_eq(&first, &put("2", Some("true")).unwrap()),
            "another one of its name goes on with them"
        );
        assert!(put("2", None).is_none());
        assert_eq!(named(), 0);
        put("2", Some("true")).unwrap();
        routes.remove(&Key::new("n", "a"));
        assert_eq!(named(), 0);
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
