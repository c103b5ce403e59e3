//! Lookups, merges, rollbacks, crashes and removed events against an oracle.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use rusqlite::params;

use super::super::runs::RunLimits;
use super::super::sequence::Direction;
use super::super::{migrate, schema};
use super::*;

const IDS: u64 = 12;
const SMALL: RunLimits = RunLimits {
    table: 6,
    span: 40,
    block_entries: 3,
    entries_per_block: 1,
    slice_blocks: 1,
    slice_time: Duration::MAX,
    filter_bytes: 0,
};

/// How a group ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Commit,
    RollBack,
    /// The process dies before the COMMIT.
    Crash,
}

struct Harness {
    _dir: tempfile::TempDir,
    path: PathBuf,
    conn: Connection,
    ids: IdStore,
    /// The events of each id that have a row.
    oracle: BTreeMap<u64, Vec<EventSeq>>,
    last_event: EventSeq,
    now: i64,
}

fn open(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF").unwrap();
    conn
}

fn insert_event(conn: &Connection, seq: EventSeq, id: u64, accepted: i64) {
    conn.execute(
        "INSERT INTO events (seq, accepted, kept_until, id, namespace, origin, source, event, time, data)
         VALUES (?1, ?2, 0, ?3, 'shop', '', '', '', '', '{}')",
        params![seq, accepted, format!("e{id}")],
    )
    .unwrap();
}

impl Harness {
    fn new() -> Harness {
        Harness::with_events(0, schema::MIGRATIONS.len())
    }

    /// A store of a format that has some events.
    fn with_events(count: i64, migrations: usize) -> Harness {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let mut conn = open(&path);
        migrate::migrate(&mut conn, &schema::MIGRATIONS[..migrations]).unwrap();
        let mut oracle: BTreeMap<u64, Vec<EventSeq>> = BTreeMap::new();
        for seq in 1..=count {
            let id = seq.unsigned_abs() % IDS;
            insert_event(&conn, seq, id, 1000);
            oracle.entry(id).or_default().push(seq);
        }
        migrate::migrate(&mut conn, schema::MIGRATIONS).unwrap();
        let ids = IdStore::open(&conn, SMALL).unwrap();
        Harness { _dir: dir, path, conn, ids, oracle, last_event: count, now: 2000 }
    }

    fn reopen(&mut self) {
        self.conn = open(&self.path);
        self.ids = IdStore::open(&self.conn, SMALL).unwrap();
    }

    /// Accepts events in one group, as the writer does.
    fn group(&mut self, ids: &[u64], end: End) {
        let before = (self.oracle.clone(), self.last_event);
        self.conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        for id in ids {
            self.last_event += 1;
            insert_event(&self.conn, self.last_event, *id, self.now);
            self.ids.insert(id_key("shop", &format!("e{id}")), self.last_event, self.now, 0);
            self.oracle.entry(*id).or_default().push(self.last_event);
        }
        self.finish(end, before);
    }

    fn finish(&mut self, end: End, before: (BTreeMap<u64, Vec<EventSeq>>, EventSeq)) {
        self.ids.runs().set_enabled(true);
        self.ids.work(&self.conn).unwrap();
        match end {
            End::Commit => {
                self.conn.execute_batch("COMMIT").unwrap();
                self.ids.commit(self.last_event);
            }
            End::RollBack => {
                self.conn.execute_batch("ROLLBACK").unwrap();
                self.ids.roll_back();
                (self.oracle, self.last_event) = before;
            }
            End::Crash => {
                (self.oracle, self.last_event) = before;
                self.reopen();
            }
        }
    }

    /// Removes events up to `cutoff`, except every `kept`th one, and sweeps. The last event stays.
    fn remove_events(&mut self, cutoff: EventSeq, kept: i64) -> bool {
        let cutoff = cutoff.min(self.last_event - 1);
        self.conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        self.conn.execute("DELETE FROM events WHERE seq <= ?1 AND seq % ?2 <> 0", [cutoff, kept]).unwrap();
        for events in self.oracle.values_mut() {
            events.retain(|event| *event > cutoff || event % kept == 0);
        }
        let first =
            self.conn.query_row("SELECT coalesce(min(seq), ?1) FROM events", [self.last_event + 1], |row| {
                row.get(0)
            });
        self.ids.set_horizon(Horizon { time: self.now, event: cutoff, first: first.unwrap() });
        self.ids.runs().set_enabled(true);
        let has_more = self.ids.request_work(&self.conn).unwrap();
        let state = (BTreeMap::new(), 0);
        self.finish(End::Commit, state);
        has_more
    }

    /// Compares every lookup with the oracle: as the store in use answers, and as a new process would.
    fn compare(&self) {
        self.compare_with(&self.conn, &self.ids);
        let conn = open(&self.path);
        self.compare_with(&conn, &IdStore::open(&conn, SMALL).unwrap());
        assert_eq!(find_problems(&conn).unwrap(), [""; 0]);
    }

    fn compare_with(&self, conn: &Connection, ids: &IdStore) {
        let exists = |seq: &EventSeq| {
            let found = "SELECT EXISTS (SELECT 1 FROM events WHERE seq = ?1)";
            conn.query_row(found, [seq], |row| row.get::<_, bool>(0)).unwrap()
        };
        for id in 0..IDS + 1 {
            let wanted = self.oracle.get(&id).cloned().unwrap_or_default();
            let lookup = IdLookup::begin(&ids.newest(), "shop", &format!("e{id}"));
            let middle = self.last_event / 2;
            for from in [EventSeq::MAX, middle, 0] {
                let older: Vec<_> = lookup
                    .find(conn, Direction::Older, from, usize::MAX)
                    .unwrap()
                    .into_iter()
                    .filter(exists)
                    .collect();
                let mut want: Vec<_> = wanted.iter().copied().filter(|event| *event <= from).collect();
                want.reverse();
                assert_eq!(older, want, "{id} up to {from}");
                let newer: Vec<_> = lookup
                    .find(conn, Direction::Newer, from, usize::MAX)
                    .unwrap()
                    .into_iter()
                    .filter(exists)
                    .collect();
                let want: Vec<_> = wanted.iter().copied().filter(|event| *event >= from).collect();
                assert_eq!(newer, want, "{id} from {from}");
            }
            let all = lookup.find(conn, Direction::Older, EventSeq::MAX, usize::MAX).unwrap();
            assert_eq!(
                lookup.find(conn, Direction::Older, EventSeq::MAX, 2).unwrap(),
                all[..all.len().min(2)],
                "the newest two"
            );
            let all = lookup.find(conn, Direction::Newer, 0, usize::MAX).unwrap();
            assert_eq!(
                lookup.find(conn, Direction::Newer, 0, 2).unwrap(),
                all[..all.len().min(2)],
                "the oldest two"
            );
        }
    }

    fn count(&self, sql: &str) -> i64 {
        self.conn.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// Adds all missing ids, as sweeps do.
    fn backfill(&mut self, steps: usize) -> bool {
        for _ in 0..steps {
            let Some(step) = read_backfill(&self.conn).unwrap() else { return false };
            self.conn.execute_batch("BEGIN IMMEDIATE").unwrap();
            self.ids.add_missing(&self.conn, &step).unwrap();
            self.finish(End::Commit, (BTreeMap::new(), 0));
        }
        is_incomplete(&self.conn).unwrap()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Group(Vec<u64>, End),
    Remove { newer: i64, kept: i64 },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let ids = prop::collection::vec(0..IDS, 0..12);
    let end = prop_oneof![6 => Just(End::Commit), 1 => Just(End::RollBack), 1 => Just(End::Crash)];
    prop_oneof![
        8 => (ids, end).prop_map(|(ids, end)| Step::Group(ids, end)),
        3 => (0..40_i64, 2..9_i64).prop_map(|(newer, kept)| Step::Remove { newer, kept }),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens, exactly the events with rows are found by their ids, in order.
    #[test]
    fn existing_events_are_found(steps in prop::collection::vec(step(), 1..40)) {
        let mut harness = Harness::new();
        for step in steps {
            match step {
                Step::Group(ids, end) => harness.group(&ids, end),
                Step::Remove { newer, kept } => {
                    harness.now += 1;
                    harness.remove_events(harness.last_event - newer, kept);
                }
                Step::Reopen => harness.reopen(),
            }
            harness.compare();
        }
        // Nothing is left of removed events.
        harness.group(&[0], End::Commit);
        harness.now += 1;
        while harness.remove_events(harness.last_event, i64::MAX) {}
        harness.remove_events(harness.last_event, i64::MAX);
        while harness.remove_events(harness.last_event, i64::MAX) {}
        harness.compare();
        let old = format!("SELECT count(*) FROM id_runs WHERE last_event < {}", harness.last_event);
        prop_assert_eq!(harness.count(&old), 0);
    }
}

/// A dead letter keeps its event for days. The ids of the events around it must not stay as long.
#[test]
fn one_old_event_keeps_no_other_ids() {
    let mut harness = Harness::new();
    for number in 0..200 {
        harness.group(&[number % IDS], End::Commit);
    }
    harness.now += 1;
    harness.remove_events(150, 7);
    while harness.remove_events(150, 100) {}
    harness.remove_events(150, 100);
    while harness.remove_events(150, 100) {}
    harness.compare();
    let entries = harness.count("SELECT coalesce(sum(entries), 0) FROM id_runs WHERE last_event <= 150");
    assert!(entries <= 20, "{entries} entries of 1 event");
}

#[test]
fn a_start_reads_only_events_above_the_covered_one() {
    let mut harness = Harness::new();
    for number in 0..60 {
        harness.group(&[number % IDS], End::Commit);
    }
    let covered = meta(&harness.conn, "ids_covered").unwrap().unwrap();
    assert!((20..=60).contains(&covered), "{covered}");
    harness.conn.execute("UPDATE events SET id = 'other' WHERE seq <= ?1", [covered]).unwrap();
    harness.reopen();
    harness.compare();
    assert!(harness.ids.newest.count() <= 40);
}

/// Without `meta.ids_covered`, as after a recovery, a start computes all runs from the events, and stays within its memory.
#[test]
fn a_start_computes_runs_from_the_events() {
    let mut harness = Harness::new();
    for number in 0..200 {
        harness.group(&[number % IDS], End::Commit);
    }
    forget_runs(&harness.conn).unwrap();
    assert_eq!(harness.count("SELECT count(*) FROM id_runs"), 0);
    let mut large = IdStore::open(&harness.conn, RunLimits { table: 1000, ..SMALL }).unwrap();
    assert_eq!((large.newest.count(), large.runs().runs().len()), (200, 0));
    harness.reopen();
    harness.compare();
    // The loaded batch is one group, so all of it is written.
    assert!(harness.ids.newest.count() <= SMALL.table * FULL_MULTIPLE);
    assert!(harness.count("SELECT count(*) FROM id_runs") > 0);
}

/// Ids of events of an older format are found after the background job, which continues after a crash.
#[test]
fn ids_of_an_older_format_are_added_in_steps() {
    let mut harness = Harness::with_events(20_000, 7);
    let find = |harness: &Harness, id: u64| {
        let lookup = IdLookup::begin(&harness.ids.newest(), "shop", &format!("e{id}"));
        lookup.find(&harness.conn, Direction::Older, EventSeq::MAX, 10_000).unwrap()
    };
    assert!(is_incomplete(&harness.conn).unwrap() && find(&harness, 3).is_empty());
    harness.group(&[3], End::Commit);
    assert_eq!(find(&harness, 3), [20_001], "a new event is found at once");
    assert!(harness.backfill(1), "more are missing");
    let found = find(&harness, 3).len();
    assert!((600..1500).contains(&found), "{found}");
    // A step that was committed is not repeated by an older one.
    let step = read_backfill(&harness.conn).unwrap().unwrap();
    harness.reopen();
    assert_eq!(find(&harness, 3).len(), found);
    assert!(!harness.backfill(9));
    assert!(harness.ids.add_missing(&harness.conn, &step).unwrap());
    assert!(!is_incomplete(&harness.conn).unwrap());
    assert_eq!(find(&harness, 3), harness.oracle[&3].iter().rev().copied().collect::<Vec<_>>());
    harness.compare_with(&harness.conn, &harness.ids);
    assert_eq!(find_problems(&harness.conn).unwrap(), [""; 0]);
}

#[test]
fn damage_is_reported() {
    let mut harness = Harness::new();
    for number in 0..60 {
        harness.group(&[number % IDS], End::Commit);
    }
    for (damage, want) in [
        ("UPDATE id_runs SET entries = entries + 1", "should have"),
        ("UPDATE meta SET value = 1000 WHERE name = 'ids_covered'", "up to 1000"),
        ("UPDATE id_blocks SET content = zeroblob(200)", "missing or damaged"),
        ("DELETE FROM id_blocks", "missing or damaged"),
    ] {
        harness.conn.execute_batch(&format!("SAVEPOINT intact; {damage}")).unwrap();
        let problems = find_problems(&harness.conn).unwrap().join("; ");
        assert!(problems.contains(want) && problems.contains("event"), "{damage}: {problems}");
        harness.conn.execute_batch("ROLLBACK TO intact; RELEASE intact").unwrap();
    }
    assert_eq!(find_problems(&harness.conn).unwrap(), [""; 0]);
}
