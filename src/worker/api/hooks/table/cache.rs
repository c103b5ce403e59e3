//! Keeps the table of hooks while requests read it, and updates it before they do.
//!
//! Nothing is kept without readers: the first request builds the table, and a minute after the last one it is dropped. Requests
//! that come meanwhile share one build. They read on the threads of lists (`listing`), which are few and divided between tenants,
//! so the dispatcher never waits for the table.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock, RwLockWriteGuard};

use super::HookTable;
use crate::cluster::View;
use crate::metrics::Metrics;
use crate::worker::api::hooks::facts::HookFacts;
use crate::worker::api::measure::StoreMeasurement;
use crate::worker::index::HookIndex;
use crate::worker::report::ReportQueues;

/// The age at which a read applies all changes, and new attempts. Younger tables get few changes only.
const MAX_AGE: Duration = Duration::from_secs(1);
/// The most changes that a read applies to a younger table. A changed object counts twice: in the view and in the index.
const MAX_CHANGES_PER_READ: usize = 1000;
/// The time after the last read at which the table is dropped.
const MAX_IDLE: Duration = Duration::from_secs(60);

/// The table of hooks, and what its rows are derived from.
pub struct HookTableCache {
    view: View,
    index: Arc<HookIndex>,
    reports: Arc<ReportQueues>,
    metrics: Arc<Metrics>,
    max_changes_per_read: usize,
    kept: RwLock<KeptTable>,
    last_read: Mutex<Instant>,
}

/// The table, empty until it is built.
#[derive(Default)]
struct KeptTable {
    table: HookTable,
    /// When all changes were last applied. None: the table is not built.
    updated: Option<Instant>,
}

impl KeptTable {
    /// Returns whether all changes must be applied.
    fn is_old(&self) -> bool {
        self.updated.is_none_or(|updated| updated.elapsed() >= MAX_AGE)
    }
}

/// The backlogs that a reader needs.
#[derive(Clone, Copy)]
enum Backlogs<'a> {
    Any,
    /// Those of this measurement, or of a newer one. None: they are unknown.
    Of(Option<&'a Arc<StoreMeasurement>>),
}

impl HookTableCache {
    pub fn new(
        view: View,
        index: Arc<HookIndex>,
        reports: Arc<ReportQueues>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self::with_limit(view, index, reports, metrics, MAX_CHANGES_PER_READ))
    }

    fn with_limit(
        view: View,
        index: Arc<HookIndex>,
        reports: Arc<ReportQueues>,
        metrics: Arc<Metrics>,
        max_changes_per_read: usize,
    ) -> Self {
        let (kept, last_read) = (RwLock::default(), Mutex::new(Instant::now()));
        HookTableCache { view, index, reports, metrics, max_changes_per_read, kept, last_read }
    }

    /// Reads the table. Call it on a thread that may block: it may build the table first.
    ///
    /// Rows have every change of objects in the view, of registered hooks and of circuit breakers, or are up to `MAX_AGE` old if
    /// there were more than `MAX_CHANGES_PER_READ`. Times of attempts are up to `MAX_AGE` old.
    pub fn read<R>(self: &Arc<Self>, read: impl FnOnce(&HookTable) -> R) -> R {
        self.read_with(Backlogs::Any, read)
    }

    /// Reads the table with the backlogs of a measurement, or of a newer one that the table has. None: they are unknown.
    pub fn read_with_backlogs<R>(
        self: &Arc<Self>,
        measured: Option<&Arc<StoreMeasurement>>,
        read: impl FnOnce(&HookTable) -> R,
    ) -> R {
        self.read_with(Backlogs::Of(measured), read)
    }

    fn read_with<R>(self: &Arc<Self>, backlogs: Backlogs<'_>, read: impl FnOnce(&HookTable) -> R) -> R {
        *self.last_read.lock() = Instant::now();
        {
            let kept = self.kept.read();
            if self.is_current(&kept, backlogs) {
                return read(&kept.table);
            }
        }
        let mut kept = self.kept.write();
        if kept.updated.is_none() {
            *kept = self.build();
            self.drop_when_idle();
        }
        self.update(&mut kept, backlogs);
        read(&RwLockWriteGuard::downgrade(kept).table)
    }

    fn facts(&self) -> HookFacts<'_> {
        HookFacts { index: &self.index, breakers: &self.reports.breakers, times: &self.metrics.hook_times }
    }

    fn build(&self) -> KeptTable {
        // Before the sources are read: what changes meanwhile is then in the logs.
        self.view.hook_changes.start();
        self.index.changes.start();
        self.reports.breakers.changes.start();
        // Applied by the build.
        drop(self.metrics.hook_times.take_changed());
        let updated = Some(Instant::now());
        KeptTable { table: HookTable::build(&self.facts(), self.view.hooks.all()), updated }
    }

    fn is_current(&self, kept: &KeptTable, backlogs: Backlogs<'_>) -> bool {
        let has_backlogs = match backlogs {
            Backlogs::Any => true,
            Backlogs::Of(measured) => kept.table.has_backlogs_as_new_as(measured),
        };
        let changes = self.count_changes();
        has_backlogs && !kept.is_old() && (changes == 0 || changes > self.max_changes_per_read)
    }

    fn count_changes(&self) -> usize {
        self.view.hook_changes.count() + self.index.changes.count() + self.reports.breakers.changes.count()
    }

    fn update(&self, kept: &mut KeptTable, backlogs: Backlogs<'_>) {
        let is_old = kept.is_old();
        if is_old || self.count_changes() <= self.max_changes_per_read {
            self.apply_changes(kept);
        }
        if is_old {
            let facts = self.facts();
            for uid in self.metrics.hook_times.take_changed() {
                kept.table.update_times(&facts, &uid);
            }
            kept.updated = Some(Instant::now());
        }
        if let Backlogs::Of(measured) = backlogs
            && !kept.table.has_backlogs_as_new_as(measured)
        {
            kept.table.set_backlogs(&self.index, measured);
        }
    }

    fn apply_changes(&self, kept: &mut KeptTable) {
        let (objects, hooks) = (self.view.hook_changes.take(), self.index.changes.take());
        let breakers = self.reports.breakers.changes.take();
        if objects.is_incomplete || hooks.is_incomplete || breakers.is_incomplete {
            *kept = self.build();
            return;
        }
        let mut names = hooks.keys;
        names.extend(objects.keys.into_iter().map(|key| (key.namespace.into(), key.name.into())));
        let of_breakers = breakers.keys.iter().filter_map(|uid| self.index.get(uid));
        names.extend(of_breakers.map(|hook| (hook.id.namespace.clone(), hook.id.name.clone())));
        for (namespace, name) in names {
            let guard = self.view.hook(&namespace, &name);
            kept.table.update(&self.facts(), (namespace, name), guard.as_deref());
        }
    }

    /// Drops the table when no request has read it for a minute. Without a runtime, as in a test, it stays.
    fn drop_when_idle(self: &Arc<Self>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let cache = Arc::downgrade(self);
        runtime.spawn(async move {
            loop {
                match Self::take_idle_table(&cache) {
                    Ok(table) => {
                        // On a thread that may block: it has up to a hundred thousand rows to free.
                        tokio::task::spawn_blocking(move || drop(table));
                        return;
                    }
                    Err(wait) => tokio::time::sleep(wait).await,
                }
            }
        });
    }

    /// Takes the table if it is idle, or if the cache is gone. Otherwise returns the time after which to try again.
    fn take_idle_table(cache: &Weak<Self>) -> Result<HookTable, Duration> {
        let Some(cache) = cache.upgrade() else { return Ok(HookTable::default()) };
        cache.check_idle()?;
        // A waiting write lock would block a thread of the runtime, and every later reader.
        let Some(mut kept) = cache.kept.try_write() else { return Err(MAX_IDLE) };
        // A request may have come since the first check.
        cache.check_idle()?;
        cache.view.hook_changes.stop();
        cache.index.changes.stop();
        cache.reports.breakers.changes.stop();
        Ok(std::mem::take(&mut *kept).table)
    }

    /// Fails with the remaining time if a request has read the table within `MAX_IDLE`.
    fn check_idle(&self) -> Result<(), Duration> {
        let remaining = MAX_IDLE.saturating_sub(self.last_read.lock().elapsed());
        if remaining.is_zero() { Ok(()) } else { Err(remaining) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::runtime::watcher::Event;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use strum::IntoEnumIterator;

    use super::*;
    use crate::api::EventHook;
    use crate::cluster::{DeserializeGuard, ObjectChange, ObjectKey, Reflector};
    use crate::core::change_log::ChangeLog;
    use crate::core::receiver_breaker::{BreakerReport, BreakerState};
    use crate::core::time::Millis;
    use crate::worker::api::hooks::list::HookSummaryResponse;
    use crate::worker::api::hooks::query::parse_hooks;
    use crate::worker::api::hooks::shown_state::ShownState;
    use crate::worker::api::hooks::table::Attention;
    use crate::worker::api::keyset::{Positioned, page};
    use crate::worker::api::measure::MAX_LISTED_AGE;
    use crate::worker::index::testing::hook;
    use crate::worker::store::{ALL_NAMESPACES, HookId, StoreStats};

    /// What a worker knows, and a cache of it.
    struct World {
        reflector: Reflector<EventHook>,
        cache: Arc<HookTableCache>,
        measured: Option<Arc<StoreMeasurement>>,
    }

    /// Something that happens.
    #[derive(Clone, Debug)]
    enum Step {
        /// A hook is created or changed, or with another uid recreated.
        Apply {
            number: u8,
            generation: u8,
            paused: bool,
            source: u8,
            condition: u8,
        },
        Delete {
            number: u8,
        },
        Breaker {
            number: u8,
            generation: u8,
            is_open: bool,
        },
        Attempt {
            number: u8,
            generation: u8,
            millis: u16,
            success: Option<u8>,
        },
        Measure {
            backlogs: Vec<(u8, u8)>,
            unmeasured: Vec<u8>,
        },
        Unknown,
        Read,
        /// A second passes.
        Second,
        /// A second passes, and the table is compared with one that is computed.
        Check,
    }

    fn step() -> impl Strategy<Value = Step> {
        let (number, generation) = (0_u8..12, 0_u8..2);
        prop_oneof![
            4 => (number.clone(), generation.clone(), any::<bool>(), 0_u8..3, 0_u8..5).prop_map(
                |(number, generation, paused, source, condition)| Step::Apply {
                    number, generation, paused, source, condition
                }
            ),
            1 => number.clone().prop_map(|number| Step::Delete { number }),
            2 => (number.clone(), generation.clone(), any::<bool>())
                .prop_map(|(number, generation, is_open)| Step::Breaker { number, generation, is_open }),
            2 => (number.clone(), generation, 1_u16..2000, prop::option::of(any::<u8>())).prop_map(
                |(number, generation, millis, success)| Step::Attempt { number, generation, millis, success }
            ),
            1 => (prop::collection::vec((number.clone(), 1_u8..9), 0..6), prop::collection::vec(number, 0..3))
                .prop_map(|(backlogs, unmeasured)| Step::Measure { backlogs, unmeasured }),
            1 => Just(Step::Unknown),
            3 => Just(Step::Read),
            1 => Just(Step::Second),
            1 => Just(Step::Check),
        ]
    }

    fn uid(number: u8, generation: u8) -> Arc<str> {
        format!("{number}-{generation}").into()
    }

    fn names(number: u8) -> (String, String) {
        (format!("n-{}", number % 2), format!("h-{number}"))
    }

    fn condition(kind: &str, status: &str, reason: &str) -> Value {
        json!({"type": kind, "status": status, "reason": reason, "message": "m",
            "lastTransitionTime": "2023-11-14T22:13:20Z"})
    }

    /// An entry of the list that is computed.
    struct Expected(i64, HookSummaryResponse);

    impl Positioned for Expected {
        fn position(&self) -> (i64, &str, &str) {
            (self.0, &self.1.namespace, &self.1.name)
        }
    }

    impl World {
        async fn new() -> World {
            World::with_limits(MAX_CHANGES_PER_READ, 1000).await
        }

        /// Returns a world with these limits of changes per read and of keys in a log.
        async fn with_limits(max_changes_per_read: usize, max_keys: usize) -> World {
            let (mut reflector, mut hooks) = Reflector::new(1, Arc::default(), ObjectChange::EventHook);
            hooks.changes = Arc::new(ChangeLog::with_limit(max_keys));
            reflector.set_changes(hooks.changes.clone());
            let view = View::new(
                hooks,
                Reflector::new(1, Arc::default(), ObjectChange::Connection).1,
                Reflector::new(1, Arc::default(), ObjectChange::EventStream).1,
                Reflector::new(1, Arc::default(), ObjectChange::Hook).1,
            );
            reflector.apply(0, Event::Init).await;
            reflector.apply(0, Event::InitDone).await;
            let metrics = Arc::new(Metrics::default());
            let mut index = HookIndex::new(metrics.clone());
            index.changes = ChangeLog::with_limit(max_keys);
            let cache =
                HookTableCache::with_limit(view, index.into(), Arc::default(), metrics, max_changes_per_read);
            let cache = Arc::new(cache);
            World { reflector, cache, measured: None }
        }

        async fn apply(&mut self, guard: DeserializeGuard<EventHook>) {
            self.cache.index.upsert(&guard);
            self.reflector.apply(0, Event::Apply(guard)).await;
        }

        async fn step(&mut self, step: Step) {
            match step {
                Step::Apply { number, generation, paused, source, condition: kind } => {
                    let (namespace, name) = names(number);
                    let spec = json!({"source": format!("s-{source}"), "delivery": {"paused": paused}});
                    let mut guard = hook(&name, &uid(number, generation), spec);
                    let object = guard.0.as_mut().unwrap();
                    object.metadata.namespace = Some(namespace);
                    let ready = if kind == 1 { "False" } else { "True" };
                    let mut conditions = vec![condition("Ready", ready, "Synced")];
                    conditions.extend(match kind {
                        2 => Some(condition("Delivering", "False", "AttemptsFail")),
                        3 => Some(condition("Delivering", "False", "Paused")),
                        4 => Some(condition("Delivering", "True", "Delivering")),
                        _ => None,
                    });
                    let success = (kind == 4).then_some("2023-11-14T22:13:20Z");
                    let status = json!({"conditions": conditions, "delivery": {"lastSuccess": success}});
                    object.status = Some(serde_json::from_value(status).unwrap());
                    // The view has an object before the index does.
                    self.reflector.apply(0, Event::Apply(guard.clone())).await;
                    self.cache.index.upsert(&guard);
                }
                Step::Delete { number } => {
                    let (namespace, name) = names(number);
                    let key = ObjectKey::new(&namespace, &name);
                    self.reflector.delete(&key).await;
                    self.cache.index.remove(&key);
                }
                Step::Breaker { number, generation, is_open } => {
                    let state = if is_open { BreakerState::Open } else { BreakerState::Closed };
                    let pause = Duration::from_secs(1);
                    let report = BreakerReport { state, failures: 1, attempts: 1, pause, next_probe: None };
                    self.cache.reports.breakers.publish(&uid(number, generation), report);
                }
                Step::Attempt { number, generation, millis, success } => {
                    let success = success.map(|at| Millis(1_700_000_000_000 + i64::from(at)));
                    let duration = Duration::from_millis(millis.into());
                    self.cache.metrics.hook_times.record(&uid(number, generation), duration, success);
                }
                Step::Measure { backlogs, unmeasured } => {
                    let backlogs = backlogs.into_iter().map(|(number, pending)| {
                        let (namespace, name) = names(number);
                        let uid = uid(number, 0);
                        let id =
                            HookId { uid: uid.clone(), namespace: (*namespace).into(), name: (*name).into() };
                        let oldest = Some(Millis(i64::from(pending) * 7 % 5));
                        let stats = StoreStats { pending: pending.into(), oldest, ..StoreStats::default() };
                        (uid, (id, stats))
                    });
                    let unmeasured = unmeasured.into_iter().map(|number| uid(number, 1));
                    // Old enough that unknown backlogs replace it.
                    let started = Instant::now().checked_sub(MAX_LISTED_AGE).unwrap();
                    let measured =
                        StoreMeasurement::for_test(started, backlogs.collect(), unmeasured.collect());
                    self.measured = Some(Arc::new(measured));
                }
                Step::Unknown => self.measured = None,
                Step::Read => self.cache.read_with_backlogs(self.measured.as_ref(), |_| ()),
                Step::Second => self.set_age(MAX_AGE),
                Step::Check => {
                    self.set_age(MAX_AGE);
                    self.check();
                }
            }
        }

        /// Sets the age of the table, if it is built.
        fn set_age(&self, age: Duration) {
            let mut kept = self.cache.kept.write();
            kept.updated = kept.updated.map(|_| Instant::now().checked_sub(age).unwrap());
        }

        fn count_not_ready(&self) -> usize {
            self.cache.read(|table| table.counts("n").in_state(ShownState::NotReady))
        }

        /// Returns all hooks, and describes them.
        fn expected(&self, order: &str) -> Vec<Expected> {
            let facts = self.cache.facts();
            let hooks: Vec<_> = self.cache.view.hooks.all().collect();
            let summaries = hooks.iter().map(|guard| facts.summary(guard, self.measured.as_deref()));
            let time = |text: &Option<String>| text.as_deref().and_then(Millis::parse).map(|time| time.0);
            let ranked = summaries.map(|hook| {
                let rank = match order {
                    "name" => Some(0),
                    "state" => ShownState::iter().position(|state| state == hook.state).map(|at| at as i64),
                    "pending" => hook.pending.map(|pending| -(pending as i64)),
                    "oldest" => time(&hook.oldest_time),
                    "lastSuccess" => time(&hook.last_success_time),
                    _ => hook.p95_ms.map(|p95| -((p95 * 1000.0) as i64)),
                };
                Expected(rank.unwrap_or(i64::MAX), hook)
            });
            ranked.collect()
        }

        fn check(&self) {
            for (scope, more) in
                [(ALL_NAMESPACES, ""), ("n-0", ""), ("n-1", ""), ("n-2", "")].into_iter().chain([
                    (ALL_NAMESPACES, "&source=s-1"),
                    ("n-0", "&name=1"),
                    ("n-1", "&state=failing,paused"),
                ])
            {
                for order in ["name", "state", "pending", "oldest", "lastSuccess", "p95"] {
                    self.check_pages(scope, order, more);
                }
            }
            self.cache.read(|table| {
                let scratch = HookTable::build(&self.cache.facts(), self.cache.view.hooks.all());
                let selectors = |table: &HookTable| {
                    let mut found = BTreeMap::new();
                    table.visit_selectors("n-0", |selector, count| {
                        found.insert((selector.source().to_owned(), selector.event().is_some()), count);
                    });
                    found
                };
                assert_eq!(selectors(table), selectors(&scratch));
                for scope in [ALL_NAMESPACES, "n-0"] {
                    assert_eq!(table.counts(scope), scratch.counts(scope));
                    for (attention, limit) in [(Attention::Unready, 3), (Attention::NotDelivering, 2)] {
                        let found = table.attention(scope, attention, limit);
                        assert_eq!(found, scratch.attention(scope, attention, limit));
                        assert!(found.hooks.len() <= limit);
                    }
                }
            });
        }

        /// Compares the pages of a list with those of one that is computed and sorted.
        fn check_pages(&self, scope: &str, order: &str, more: &str) {
            let mut query = parse_hooks(Some(&format!("sort={order}&limit=4{more}"))).unwrap();
            let is_found = |hook: &HookSummaryResponse| {
                (scope == ALL_NAMESPACES || hook.namespace == scope)
                    && query.source.is_none_or_equals(hook.source.as_deref())
                    && query.name.as_ref().is_none_or(|part| hook.name.contains(part))
            };
            let mut expected = self.expected(order);
            expected.retain(|Expected(_, hook)| is_found(hook));
            let counts: Vec<usize> = ShownState::iter()
                .map(|state| expected.iter().filter(|Expected(_, hook)| hook.state == state).count())
                .collect();
            let is_in_state = |state| query.states.is_empty() || query.states.contains(&state);
            expected.retain(|Expected(_, hook)| is_in_state(hook.state));
            let sorted = page(expected, None, usize::MAX).0;
            let sorted: Vec<_> =
                sorted.into_iter().map(|Expected(_, hook)| (hook.namespace, hook.name)).collect();
            let mut listed = Vec::new();
            loop {
                let found =
                    self.cache.read_with_backlogs(self.measured.as_ref(), |table| table.page(scope, &query));
                assert!(found.hooks.len() <= 4);
                let found_counts: Vec<usize> =
                    ShownState::iter().map(|state| found.counts.in_state(state)).collect();
                assert_eq!(found_counts, counts, "{scope} {order}{more}");
                listed.extend(found.hooks.iter().map(|(ns, name)| (ns.to_string(), name.to_string())));
                query.after = found.next;
                if query.after.is_none() {
                    break;
                }
            }
            assert_eq!(listed, sorted, "{scope} {order}{more}");
        }
    }

    trait IsNoneOrEquals {
        fn is_none_or_equals(&self, found: Option<&str>) -> bool;
    }

    impl IsNoneOrEquals for Option<String> {
        fn is_none_or_equals(&self, found: Option<&str>) -> bool {
            self.as_deref().is_none_or(|wanted| found == Some(wanted))
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]
        #[test]
        fn updated_table_equals_one_that_is_computed(
            steps in prop::collection::vec(step(), 0..40),
            max_changes_per_read in prop_oneof![Just(2_usize), Just(1000)],
            max_keys in prop_oneof![Just(4_usize), Just(1000)],
        ) {
            runtime().block_on(async {
                let mut world = World::with_limits(max_changes_per_read, max_keys).await;
                for step in steps {
                    world.step(step).await;
                }
                world.step(Step::Check).await;
            });
        }
    }

    #[test]
    fn next_read_has_few_changes_at_once_and_many_after_a_second() {
        runtime().block_on(async {
            let mut world = World::with_limits(4, 100).await;
            assert_eq!(world.count_not_ready(), 0);
            world.apply(hook("a", "a", json!({}))).await;
            assert_eq!(world.count_not_ready(), 1);
            for n in 0..3 {
                world.apply(hook(&format!("h-{n}"), &n.to_string(), json!({}))).await;
            }
            // However long the changes took.
            world.set_age(Duration::ZERO);
            assert_eq!(world.count_not_ready(), 1, "a storm of changes does not delay readers");
            world.set_age(MAX_AGE);
            assert_eq!(world.count_not_ready(), 4);
        });
    }

    #[test]
    fn next_read_has_changes_of_objects_that_the_worker_has_not_registered_yet() {
        runtime().block_on(async {
            let mut world = World::new().await;
            assert_eq!(world.count_not_ready(), 0);
            let guard = hook("a", "a", json!({}));
            world.reflector.apply(0, Event::Apply(guard.clone())).await;
            assert_eq!(world.count_not_ready(), 1);
            world.cache.index.upsert(&guard);
            let shared = world.cache.index.get("a").unwrap();
            world.cache.read(|table| {
                let (name, _) = table.namespaces["n"].rows.first_key_value().unwrap();
                assert!(Arc::ptr_eq(name, &shared.id.name), "the name takes no memory of its own");
            });
            world.reflector.delete(&ObjectKey::new("n", "a")).await;
            assert_eq!(world.count_not_ready(), 0);
        });
    }

    #[test]
    fn older_measurement_does_not_replace_a_newer_one() {
        runtime().block_on(async {
            let mut world = World::new().await;
            world.apply(hook("a", "a", json!({}))).await;
            let measured = |age: Duration, pending: u64| {
                let id = HookId { uid: "a".into(), namespace: "n".into(), name: "a".into() };
                let stats = StoreStats { pending, ..StoreStats::default() };
                let started = Instant::now().checked_sub(age).unwrap();
                Arc::new(StoreMeasurement::for_test(started, [("a".into(), (id, stats))].into(), [].into()))
            };
            let pending = |measured: Option<&Arc<StoreMeasurement>>| {
                world.cache.read_with_backlogs(measured, |table| {
                    table.measurement().and_then(|measured| measured.backlog("a")).map(|stats| stats.pending)
                })
            };
            let (old, new) = (measured(Duration::from_secs(2), 1), measured(Duration::from_secs(1), 2));
            assert_eq!(pending(None), None);
            assert_eq!(pending(Some(&old)), Some(1));
            assert_eq!(pending(Some(&new)), Some(2));
            assert_eq!(pending(Some(&old)), Some(2));
            assert_eq!(pending(None), Some(2));
        });
    }

    #[test]
    fn table_is_dropped_a_minute_after_the_last_read() {
        runtime().block_on(async {
            let mut world = World::new().await;
            world.apply(hook("a", "a", json!({}))).await;
            world.cache.read(|_| ());
            let weak = Arc::downgrade(&world.cache);
            assert!(HookTableCache::take_idle_table(&weak).is_err());
            *world.cache.last_read.lock() = Instant::now().checked_sub(MAX_IDLE).unwrap();
            let reader = world.cache.kept.read();
            assert!(HookTableCache::take_idle_table(&weak).is_err(), "it does not wait for a reader");
            drop(reader);
            assert!(world.cache.kept.read().updated.is_some());
            assert!(HookTableCache::take_idle_table(&weak).is_ok());
            assert!(world.cache.kept.read().updated.is_none());
            world.apply(hook("b", "b", json!({}))).await;
            assert_eq!(world.cache.count_changes(), 0, "nothing is collected without a table");
            assert_eq!(world.count_not_ready(), 2);
        });
    }
}
