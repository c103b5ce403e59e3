//! Users' queries: plans, bounds, their own connections, fairness between namespaces.

use super::super::super::conformance::hook;
use super::super::super::read_budget::ReadBudget;
use super::super::super::{
    ALL_NAMESPACES, DeliveryFilter, DeliveryRecord, DeliveryState, HookId, NewDelivery, selects_namespace,
};
use super::super::event_ids::NewestIds;
use super::super::{lookup, unmatched, unmaterialized};
use super::sequence::Direction;
use super::walk::DeliveryWalk;
use super::*;
use crate::core::delivery_reason::DeliveryReason;

const STATES: [Option<DeliveryState>; 6] = [
    None,
    Some(DeliveryState::Pending),
    Some(DeliveryState::Delivered),
    Some(DeliveryState::Dead),
    Some(DeliveryState::Dropped),
    Some(DeliveryState::Cancelled),
];

/// Returns a filter for each combination that the API offers. "common" is a name that many hooks had.
fn every_filter(namespace: &str) -> Vec<DeliveryFilter> {
    let mut filters = Vec::new();
    for state in STATES {
        for hook in [None, Some("x"), Some("common"), Some("missing")] {
            for event in [None, Some("e3"), Some("same"), Some("missing")] {
                for since in [None, Some(T0 + Duration::from_secs(4 * 3600))] {
                    for until in [None, Some(T0 + Duration::from_secs(9 * 3600))] {
                        let (hook, event) = (hook.map(ToOwned::to_owned), event.map(ToOwned::to_owned));
                        filters.push(DeliveryFilter {
                            namespace: namespace.into(),
                            hook,
                            state,
                            event,
                            since,
                            until,
                        });
                    }
                }
            }
        }
    }
    filters
}

fn matches(filter: &DeliveryFilter, record: &DeliveryRecord) -> bool {
    selects_namespace(&filter.namespace, &record.hook.namespace)
        && filter.state.is_none_or(|state| state == record.state)
        && filter.hook.as_ref().is_none_or(|hook| **hook == *record.hook.name)
        && filter.event.as_ref().is_none_or(|event| *event == record.event_id)
        && filter.since.is_none_or(|since| record.accepted >= since)
        && filter.until.is_none_or(|until| record.accepted < until)
}

/// Stores deliveries in each state, of several hooks, over many hours. 70 hooks had the name "common".
async fn fill(store: &SqliteStore) -> usize {
    let mut count = 0;
    for n in 0..24_u32 {
        let at = T0 + Duration::from_secs(3600) * (n / 2);
        let id = if n % 3 == 0 { "same".to_owned() } else { format!("e{n}") };
        let mut event = new(&id, &["x", "y", "z"], at);
        for m in 0..3 {
            let hook = HookId { uid: format!("uid-common-{}", n * 3 + m).into(), ..hook("common") };
            event.deliveries.push(NewDelivery { hook, ..delivery("common", at) });
        }
        let accepted = store.accept(vec![event, new("same", &[], at)], at).await.unwrap();
        let seqs = seqs_of(&accepted);
        count += seqs.len();
        for (m, seq) in seqs.iter().enumerate() {
            match (m + usize::try_from(n).unwrap()) % 4 {
                0 => drop(store.settle(settled(*seq, at, 200, NextStep::Delivered)).await.unwrap()),
                1 => {
                    let retry = NextStep::Retry { due: at };
                    store.settle(settled(*seq, at, 503, retry)).await.unwrap();
                    let dead = NextStep::Dead { reason: DeliveryReason::Gone };
                    store.settle(settled(*seq, at, 410, dead)).await.unwrap();
                }
                _ => {}
            }
        }
    }
    // Another namespace, whose deliveries no list may visit.
    let elsewhere =
        NewDelivery { hook: HookId { namespace: "other".into(), ..hook("other") }, ..delivery("o", T0) };
    let last = T0 + Duration::from_secs(12 * 3600);
    store.accept(vec![NewEvent { deliveries: vec![elsewhere], ..new("o", &[], last) }], last).await.unwrap();
    let pending = DeliveryFilter {
        namespace: "shop".into(),
        state: Some(DeliveryState::Pending),
        ..DeliveryFilter::default()
    };
    for record in store.list(pending, None, 20).await.unwrap().records.iter().step_by(3) {
        store.cancel("shop", record.id, T0).await.unwrap();
    }
    count
}

/// However a list or a replay is filtered, no statement scans a table or sorts.
#[tokio::test]
async fn every_filter_is_served_from_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    fill(&store).await;
    store.close().await;
    let conn = raw(dir.path());
    let recent = unmaterialized::read_snapshot(&conn).unwrap();
    let mut statements = std::collections::BTreeSet::from([walk::HOOKS_OF_NAME, walk::EVENT_AFTER]);
    for filter in every_filter("shop").into_iter().chain(every_filter(ALL_NAMESPACES)) {
        for direction in [Direction::Older, Direction::Newer] {
            let lookups = walk::begin_lookups(&conn, &NewestIds::default(), &filter).unwrap();
            let lookup = lookups.as_deref();
            let walk = DeliveryWalk::new(&conn, &recent, &filter, lookup, direction, None).unwrap();
            let used = walk.statements();
            assert!(!used.is_empty() || filter.hook.as_deref() == Some("missing"), "{filter:?}");
            statements.extend(used);
        }
    }
    assert_eq!(statements.len(), 11, "each kind of range in each direction");
    for sql in statements {
        let plan = query_plan(&conn, sql);
        assert!(
            plan.starts_with("SEARCH") && !plan.contains("SCAN") && !plan.contains("TEMP B-TREE"),
            "{sql}: {plan}"
        );
    }
    for (sql, want) in [
        (unmatched::OF_ALL, "SEARCH unmatched USING INTEGER PRIMARY KEY"),
        (history::EXPLAIN, "SEARCH e USING INTEGER PRIMARY KEY"),
        (history::FINISHED, "SEARCH d USING INTEGER PRIMARY KEY"),
        (lookup::BY_SEQ, "SEARCH d USING INTEGER PRIMARY KEY"),
        (lookup::REFERENCES, "SEARCH e USING INTEGER PRIMARY KEY"),
        (lookup::ATTEMPTS, "SEARCH attempts USING PRIMARY KEY (delivery=?)"),
    ] {
        let plan = query_plan(&conn, sql);
        assert!(
            plan.contains(want) && !plan.contains("SCAN") && !plan.contains("TEMP B-TREE"),
            "{sql}: {plan}"
        );
    }
}

/// Every filter finds the same deliveries in pages of any size and with any budget as one unbounded list.
#[tokio::test]
async fn a_list_continues_exactly_where_its_budget_ended() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let count = fill(&store).await;
    let of = |name: &str| DeliveryFilter { namespace: name.into(), ..DeliveryFilter::default() };
    assert_eq!(store.list(of("shop"), None, 1000).await.unwrap().records.len(), count);
    let all = store.list(of(ALL_NAMESPACES), None, 1000).await.unwrap().records;
    assert_eq!(all.len(), count + 1, "with the delivery of another namespace");
    assert!(all.is_sorted_by(|newer, older| newer.seq > older.seq));
    store.close().await;
    let conn = raw(dir.path());
    let recent = unmaterialized::read_snapshot(&conn).unwrap();
    let minute = Duration::from_secs(60);
    let filters = every_filter("shop").into_iter().chain(every_filter(ALL_NAMESPACES));
    for (n, filter) in filters.enumerate() {
        let want: Vec<_> = all.iter().filter(|record| matches(&filter, record)).cloned().collect();
        let budgets = [
            (17, minute, 500),
            (17, minute, 3),
            (10_000, minute, 9),
            (1, minute, 500),
            (10_000, Duration::ZERO, 500),
        ];
        // A page for each position, for some of the filters.
        let tried = if n % 7 == 0 { budgets.len() } else { 3 };
        for (rows, time, page_size) in budgets.into_iter().take(tried) {
            let budget = ReadBudget { rows, time };
            let (mut found, mut before, mut pages) = (Vec::new(), None, 0);
            loop {
                let recents = (&*store.newest_ids, &recent);
                let page =
                    history::list(&conn, recents, &filter, before, page_size, budget).unwrap().unwrap();
                assert!(page.records.len() <= page_size.min(rows), "{filter:?}");
                found.extend(page.records);
                pages += 1;
                match page.next {
                    Some(next) => {
                        assert!(before.is_none_or(|before| next < before), "it advances: {filter:?}");
                        before = Some(next);
                    }
                    None => break,
                }
            }
            assert_eq!(found, want, "{filter:?} in {pages} pages, {budget:?}");
        }
    }
}

/// A read examines a bounded number of rows even if none of them matches.
#[tokio::test]
async fn a_list_without_matches_ends_at_its_budget() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_tuned(dir.path(), |t| {
        t.history_budget = ReadBudget { rows: 100, time: Duration::from_secs(60) };
    });
    // Events of one id without deliveries, and deliveries within the slack of a time filter.
    let unmatched = (0..250).map(|_| new("same", &[], T0)).collect();
    store.accept(unmatched, T0).await.unwrap();
    let later = T0 + Duration::from_secs(60);
    store.accept((0..250).map(|n| new(&format!("{n}"), &["x"], later)).collect(), later).await.unwrap();
    let shop = DeliveryFilter { namespace: "shop".into(), ..DeliveryFilter::default() };
    for filter in [
        DeliveryFilter { event: Some("same".into()), ..shop.clone() },
        DeliveryFilter { until: Some(later), ..shop },
    ] {
        let (mut before, mut pages) = (None, 0);
        while let Some(next) = {
            let page = store.list(filter.clone(), before, 50).await.unwrap();
            assert_eq!(page.records, []);
            page.next
        } {
            (before, pages) = (Some(next), pages + 1);
        }
        assert_eq!(pages, 2, "{filter:?}");
    }
}

/// Users' queries occupy none of the dispatcher's connections. Those of one namespace do not keep another's out, however
/// many wait.
#[tokio::test]
async fn queries_have_their_own_connections_divided_by_namespace() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open_tuned(dir.path(), |t| t.history_queue = 8));
    store.accept(vec![new("a", &["x"], T0)], T0).await.unwrap();
    // Every connection for queries is in use, and the queue is full.
    let mut slots = Vec::new();
    for _ in 0..Tuning::default().history_readers {
        slots.push(store.history_readers.acquire("busy").await.unwrap());
    }
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.delivery("busy", uuid::Uuid::nil()).await })
        })
        .collect();
    while store.history_readers.queued() < 8 {
        tokio::task::yield_now().await;
    }
    let refused = store.delivery("busy", uuid::Uuid::nil()).await;
    assert!(matches!(refused, Err(StoreError::TooManyReads)), "{refused:?}");
    // The dispatcher and maintenance do not notice.
    assert_eq!(store.due_by("uid-x", T0, 9).await.unwrap().len(), 1);
    assert_eq!(store.backlog().await.unwrap().len(), 1);
    assert_eq!(store.next_due("uid-x", T0).await.unwrap(), None);
    assert_eq!(store.stats().await.unwrap().pending, 1);
    assert!(store.held_hooks().await.unwrap().is_empty() && !store.sweep(RETENTION, T0).await.unwrap());
    // Another namespace takes a place in the full queue, and the first slot that becomes free.
    let listed = tokio::spawn({
        let store = store.clone();
        async move {
            let shop = DeliveryFilter { namespace: "shop".into(), ..DeliveryFilter::default() };
            store.list(shop, None, 9).await
        }
    });
    while !waiting.iter().any(tokio::task::JoinHandle::is_finished) {
        tokio::task::yield_now().await;
    }
    slots.pop();
    assert_eq!(listed.await.unwrap().unwrap().records.len(), 1);
    drop(slots);
    let mut outcomes = Vec::new();
    for task in waiting {
        outcomes.push(task.await.unwrap());
    }
    let refused = outcomes.iter().filter(|outcome| matches!(outcome, Err(StoreError::TooManyReads))).count();
    assert_eq!((refused, outcomes.iter().filter(|outcome| outcome.is_ok()).count()), (1, 7));
    assert!(matches!(outcomes.last(), Some(Err(StoreError::TooManyReads))), "the newest lost its place");
    // A client that disconnects while it waits keeps no slot.
    let slot = store.history_readers.acquire("busy").await.unwrap();
    let second = store.history_readers.acquire("busy").await.unwrap();
    assert!(store.delivery("busy", uuid::Uuid::nil()).now_or_never().is_none());
    drop((slot, second));
    assert_eq!(store.delivery("busy", uuid::Uuid::nil()).await.unwrap(), None);
    // Closing rejects waiting queries.
    let _slots = [
        store.history_readers.acquire("busy").await.unwrap(),
        store.history_readers.acquire("busy").await.unwrap(),
    ];
    let waits = tokio::spawn({
        let store = store.clone();
        async move { store.delivery("busy", uuid::Uuid::nil()).await }
    });
    while store.history_readers.queued() < 1 {
        tokio::task::yield_now().await;
    }
    store.close().await;
    assert!(matches!(waits.await.unwrap(), Err(StoreError::Closed)));
}

/// Reads insert no rows, which would double the writes. Replays and cancellations insert those that they change.
#[tokio::test]
async fn reads_materialize_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let elsewhere = |id: &str| NewEvent {
        deliveries: vec![NewDelivery {
            hook: HookId { uid: "uid-o".into(), namespace: "other".into(), name: "o".into() },
            ..delivery("o", T0)
        }],
        event: Arc::new(crate::core::event::Event {
            namespace: "other".into(),
            ..(*event_with(id, "1")).clone()
        }),
        dedup: None,
    };
    store.accept(vec![new("a", &["x"], T0), elsewhere("b"), new("c", &["x"], T0)], T0).await.unwrap();
    let rows =
        || raw(dir.path()).query_row("SELECT count(*) FROM deliveries", [], |r| r.get::<_, i64>(0)).unwrap();
    let filter =
        |namespace: &str| DeliveryFilter { namespace: namespace.into(), ..DeliveryFilter::default() };
    assert_eq!(store.list(filter("nowhere"), None, 9).await.unwrap().records.len(), 0);
    assert_eq!(rows(), 0);
    let listed = store.list(filter("shop"), None, 9).await.unwrap().records;
    assert_eq!((listed.len(), rows()), (2, 0));
    store.replay("shop", listed[0].id, T0).await.unwrap();
    store.cancel("shop", listed[1].id, T0).await.unwrap();
    assert_eq!(rows(), 1, "the replayed one was pending");
    assert_eq!(store.list(filter("other"), None, 9).await.unwrap().records.len(), 1);
    assert_eq!(rows(), 1);
    // Every hook's deliveries are still found after a restart, and exactly once.
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(store.due_by("uid-x", T0, 9).await.unwrap().len(), 1);
    assert_eq!(store.due_by("uid-o", T0, 9).await.unwrap().len(), 1);
}

/// An event that matched very many hooks is explained in part.
#[tokio::test]
async fn an_explanation_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let names: Vec<String> = (0..history::MAX_EXPLAINED + 7).map(|n| format!("h{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    store.accept(vec![new("a", &names, T0)], T0).await.unwrap();
    let explained = store.explain("shop", "a").await.unwrap().unwrap();
    assert_eq!((explained.deliveries.len(), explained.left_out), (history::MAX_EXPLAINED, 7));
}

/// Replays of one namespace leave others their part of each step, and their number is bounded.
#[tokio::test]
async fn replays_are_bounded_and_divided_by_namespace() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let in_other = |id: &str| NewDelivery {
        hook: HookId { uid: format!("uid-{id}").into(), namespace: "other".into(), name: id.into() },
        ..delivery(id, T0)
    };
    let mut events: Vec<_> = (0..300).map(|n| new(&format!("e{n}"), &["x"], T0)).collect();
    events.push(NewEvent { deliveries: vec![in_other("o")], ..new("o", &[], T0) });
    let dead = NextStep::Dead { reason: DeliveryReason::Gone };
    let seqs = seqs_of(&store.accept(events, T0).await.unwrap());
    store.settle_many(seqs.iter().map(|seq| settled(*seq, T0, 410, dead)).collect()).await.unwrap();
    let filter =
        |namespace: &str| DeliveryFilter { namespace: namespace.into(), ..DeliveryFilter::default() };
    let start = T0 + Duration::from_secs(60);
    for _ in 0..20 {
        store.start_replay(filter("shop"), 10_000, start).await.unwrap();
    }
    let refused = store.start_replay(filter("shop"), 1, start).await;
    assert!(matches!(refused, Err(StoreError::TooManyReplays(20))), "{refused:?}");
    let other = store.start_replay(filter("other"), 10_000, start).await.unwrap();
    // The other namespace waits for no replay of this one. A step has a time limit, which a busy machine may use up within
    // one namespace.
    let unfinished = "SELECT count(*) FROM replays WHERE done_at IS NULL";
    let unfinished = || raw(dir.path()).query_row(unfinished, [], |r| r.get::<_, i64>(0)).unwrap();
    let mut steps = (1..200).map(|n| start + Duration::from_secs(n));
    let is_done = async || {
        let progress = store.replay_progress("other", other.id).await.unwrap();
        progress.is_some_and(|progress| (progress.replayed, progress.done) == (1, true))
    };
    while !is_done().await {
        store.step_replays(steps.next().expect("progress")).await.unwrap();
    }
    assert!(unfinished() > 0, "the replays of the first namespace continue");
    while unfinished() > 0 {
        store.step_replays(steps.next().expect("progress")).await.unwrap();
    }
    assert_eq!(store.due_by("uid-x", Millis(T0.0 * 2), 999).await.unwrap().len(), 300, "each once");
    // Finished replays make way, the oldest first.
    raw(dir.path())
        .execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150)
             INSERT INTO replays (id, namespace, filter, rate, started, stepped, at, top, replayed, done_at)
             SELECT cast('r' || i AS BLOB), namespace, filter, 1, 1, 1, 1, 1, 0, i
             FROM n, (SELECT namespace, filter FROM replays WHERE namespace = 'shop' LIMIT 1)",
        )
        .unwrap();
    store.start_replay(filter("shop"), 1, start).await.unwrap();
    let of_shop = "SELECT count(*) FROM replays WHERE namespace = 'shop'";
    assert_eq!(raw(dir.path()).query_row(of_shop, [], |r| r.get::<_, i64>(0)).unwrap(), 101);
}
