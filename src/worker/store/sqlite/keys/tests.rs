//! Runs, merges, rollbacks and crashes against an oracle.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rusqlite::params;

use super::super::runs::{RunKind, RunLimits};
use super::super::{migrate, schema};
use super::*;

const KEYS: u64 = 48;
const SMALL: RunLimits = RunLimits {
    table: 6,
    span: 40,
    block_entries: 3,
    entries_per_block: 1,
    slice_blocks: 1,
    slice_time: Duration::MAX,
    filter_bytes: usize::MAX,
};

/// Returns a key. Eight numbers share the bytes by which a block is found, so they may fill several blocks.
fn key(number: u64) -> Key {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&(number / 8).to_be_bytes());
    key[8..].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    key
}

/// How a group ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Commit,
    RollBack,
    /// Only the second half of its keys is rolled back.
    RollBackHalf,
    /// The process dies before the COMMIT.
    Crash,
}

struct Harness {
    _dir: tempfile::TempDir,
    path: PathBuf,
    conn: Connection,
    keys: KeyStore,
    limits: RunLimits,
    /// The event and the expiry of each key.
    oracle: BTreeMap<u64, (EventSeq, i64)>,
    last_event: EventSeq,
    now: i64,
}

fn open(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF").unwrap();
    conn
}

impl Harness {
    fn new(limits: RunLimits) -> Harness {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let mut conn = open(&path);
        migrate::migrate(&mut conn, schema::MIGRATIONS).unwrap();
        let keys = KeyStore::open(&conn, limits).unwrap();
        let oracle = BTreeMap::new();
        Harness { _dir: dir, path, conn, keys, limits, oracle, last_event: 0, now: 1_000_000 }
    }

    fn reopen(&mut self) {
        self.conn = open(&self.path);
        self.keys = KeyStore::open(&self.conn, self.limits).unwrap();
    }

    /// Accepts keys in one group, as the writer does.
    fn group(&mut self, numbers: &[(u64, u64)], end: End) {
        let before = (self.oracle.clone(), self.last_event);
        self.conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        for (at, half) in [(0, numbers.len() / 2), (numbers.len() / 2, numbers.len())] {
            let savepoint = (self.oracle.clone(), self.last_event, self.keys.savepoint());
            self.conn.execute_batch("SAVEPOINT half").unwrap();
            for (number, window) in &numbers[at..half] {
                self.accept(*number, *window);
            }
            if end == End::RollBackHalf && at > 0 {
                self.conn.execute_batch("ROLLBACK TO half").unwrap();
                self.keys.roll_back_to(savepoint.2);
                (self.oracle, self.last_event, _) = savepoint;
            }
            self.conn.execute_batch("RELEASE half").unwrap();
        }
        self.finish(end, before);
    }

    fn finish(&mut self, end: End, before: (BTreeMap<u64, (EventSeq, i64)>, EventSeq)) {
        self.keys.runs.set_enabled(true);
        self.keys.work(&self.conn, Some(Millis(self.now))).unwrap();
        match end {
            End::Commit | End::RollBackHalf => {
                self.conn.execute_batch("COMMIT").unwrap();
                self.keys.commit(self.last_event);
            }
            End::RollBack => {
                self.conn.execute_batch("ROLLBACK").unwrap();
                self.keys.roll_back();
                (self.oracle, self.last_event) = before;
            }
            End::Crash => {
                (self.oracle, self.last_event) = before;
                self.reopen();
            }
        }
    }

    fn accept(&mut self, number: u64, window: u64) {
        let found = self.keys.find(&self.conn, &key(number), Millis(self.now)).unwrap();
        assert_eq!(found, self.expected(number), "{number} in its group");
        if found.is_some() {
            return;
        }
        self.last_event += 1;
        let expires = self.now + i64::try_from(window).unwrap();
        self.conn
            .execute(
                "INSERT INTO events (seq, accepted, kept_until, id, namespace, origin, source, event, time, data, dedup_key)
                 VALUES (?1, ?2, ?3, '', '', '', '', '', '', '', ?4)",
                params![self.last_event, self.now, expires, key(number)],
            )
            .unwrap();
        let entry = Entry::new(key(number), self.last_event, expires);
        self.keys.insert(entry, Duration::from_millis(window));
        self.oracle.insert(number, (self.last_event, expires));
    }

    fn expected(&self, number: u64) -> Option<EventSeq> {
        self.oracle.get(&number).filter(|(_, expires)| *expires > self.now).map(|(event, _)| *event)
    }

    /// A sweep of an idle store. Removes every event whose row is not needed.
    fn sweep(&mut self) -> bool {
        self.sweep_at(self.now)
    }

    /// A sweep by another clock than that of the groups.
    fn sweep_at(&mut self, now: i64) -> bool {
        self.conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        self.keys.runs.set_enabled(true);
        self.conn
            .execute(
                "DELETE FROM events WHERE seq < (SELECT max(seq) FROM events)
                 AND (kept_until <= ?1 OR seq <= (SELECT value FROM meta WHERE name = 'keyed'))",
                [now],
            )
            .unwrap();
        let has_more = self.keys.request_work(&self.conn, Millis(now)).unwrap();
        self.finish(End::Commit, (BTreeMap::new(), 0));
        has_more
    }

    /// Sweeps the store until its work is done. The first sweep only finds that keys were accepted before it.
    fn finish_work(&mut self) {
        self.sweep();
        while self.sweep() {}
    }

    fn compare(&self) {
        for number in 0..KEYS.max(self.oracle.keys().last().copied().unwrap_or(0) + 1) {
            let found = self.keys.find(&self.conn, &key(number), Millis(self.now)).unwrap();
            assert_eq!(found, self.expected(number), "{number}");
        }
        assert_eq!(find_problems(&self.conn).unwrap(), [""; 0]);
    }

    /// Compares what a new process would find.
    fn compare_restarted(&self) {
        let conn = open(&self.path);
        let keys = KeyStore::open(&conn, self.limits).unwrap();
        for number in 0..KEYS.max(self.last_event.unsigned_abs() + 2) {
            let found = keys.find(&conn, &key(number), Millis(self.now)).unwrap();
            assert_eq!(found, self.expected(number), "{number} after a restart");
        }
        assert_eq!(find_problems(&conn).unwrap(), [""; 0]);
    }

    fn count(&self, table: &str) -> i64 {
        self.conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Group(Vec<(u64, u64)>, End),
    Wait(i64),
    Sweep,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let window = prop_oneof![Just(500_u64), Just(20_000), Just(100_000)];
    let keys = prop::collection::vec((0..KEYS, window), 0..12);
    let end = prop_oneof![
        6 => Just(End::Commit),
        1 => Just(End::RollBack),
        1 => Just(End::RollBackHalf),
        1 => Just(End::Crash),
    ];
    prop_oneof![
        12 => (keys, end).prop_map(|(keys, end)| Step::Group(keys, end)),
        3 => prop_oneof![0..300_i64, 0..60_000_i64].prop_map(Step::Wait),
        2 => Just(Step::Sweep),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens, a key is found exactly until it expires.
    #[test]
    fn keys_are_found_until_they_expire(
        steps in prop::collection::vec(step(), 1..80),
        has_filters in any::<bool>(),
        block_entries in 1..6_usize,
    ) {
        let filter_bytes = if has_filters { usize::MAX } else { 1000 };
        let mut harness = Harness::new(RunLimits { filter_bytes, block_entries, ..SMALL });
        for step in steps {
            match step {
                Step::Group(keys, end) => harness.group(&keys, end),
                Step::Wait(millis) => harness.now += millis,
                Step::Sweep => drop(harness.sweep()),
                Step::Reopen => harness.reopen(),
            }
            harness.compare();
            let filters: usize = harness.keys.runs.runs().iter().map(|run| run.index.filter_bytes()).sum();
            prop_assert!(filters <= filter_bytes);
        }
        // An idle store finishes its work, and nothing is left of expired keys.
        harness.now += 1_000_000;
        harness.finish_work();
        harness.reopen();
        harness.finish_work();
        harness.compare();
        for table in RunKind::Keys.tables() {
            prop_assert_eq!(harness.count(table), 0);
        }
    }
}

/// Before and after each COMMIT, another connection finds what a crash at that moment would leave.
#[test]
fn a_crash_at_any_slice_loses_no_key() {
    let mut harness = Harness::new(SMALL);
    let (mut interrupted_flushes, mut interrupted_merges) = (0, 0);
    for number in 0..200 {
        harness.conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        let before = harness.oracle.clone();
        harness.accept(number, 100_000);
        harness.keys.runs.set_enabled(true);
        harness.keys.work(&harness.conn, Some(Millis(harness.now))).unwrap();
        let accepted = std::mem::replace(&mut harness.oracle, before);
        harness.compare_restarted();
        harness.oracle = accepted;
        harness.conn.execute_batch("COMMIT").unwrap();
        harness.compare_restarted();
        harness.keys.commit(harness.last_event);
        harness.compare();
        interrupted_flushes += usize::from(harness.keys.runs.is_flushing());
        interrupted_merges += usize::from(harness.keys.runs.merged_run().is_some());
    }
    let highest = harness.keys.runs.runs().iter().map(|run| run.manifest.tier).max();
    assert!(highest >= Some(2), "{highest:?}: nothing was merged twice");
    assert!(
        interrupted_flushes > 20 && interrupted_merges > 20,
        "{interrupted_flushes} {interrupted_merges}"
    );
}

/// A rollback keeps the work that earlier groups committed.
#[test]
fn a_rollback_does_not_restart_a_merge() {
    let mut harness = Harness::new(RunLimits { span: 1000, ..SMALL });
    let mut number = 0;
    while harness.keys.runs.merged_run().is_none() {
        harness.group(&[(number, 100_000)], End::Commit);
        number += 1;
    }
    let merged = |harness: &Harness| harness.keys.runs.merged_run();
    let id = merged(&harness);
    for _ in 0..3 {
        harness.group(&[(number, 100_000)], End::RollBack);
        harness.compare();
        assert_eq!(merged(&harness), id);
    }
    let mut groups = 0;
    while merged(&harness) == id {
        harness.group(&[(number, 100_000)], End::Commit);
        harness.compare();
        (number, groups) = (number + 1, groups + 1);
    }
    assert!(harness.keys.runs.runs().iter().any(|run| Some(run.manifest.id) == id), "it became a run");
    // Four runs of six keys in blocks of three, one block a group; flushes come first.
    assert!((5..30).contains(&groups), "{groups}");
}

#[test]
fn a_start_reads_only_events_above_the_covered_one() {
    let mut harness = Harness::new(SMALL);
    for number in 0..40 {
        harness.group(&[(number, 100_000)], End::Commit);
    }
    let covered: i64 =
        harness.conn.query_row("SELECT value FROM meta WHERE name = 'keyed'", [], |row| row.get(0)).unwrap();
    assert!((20..=40).contains(&covered), "{covered}");
    harness.conn.execute("UPDATE events SET dedup_key = NULL WHERE seq <= ?1", [covered]).unwrap();
    harness.reopen();
    harness.compare();
    assert!(harness.keys.table.active() <= 20);
    // Events without keys do not make the next start search further.
    for _ in 0..3 {
        harness.last_event += 100;
        harness.group(&[], End::Commit);
        harness.finish_work();
    }
    assert!(harness.last_event - harness.keys.covered <= 2 * 100 + SMALL.span, "{}", harness.keys.covered);
}

/// Without `meta.keyed`, as after a recovery, a start computes all runs from the events, and stays within its memory.
#[test]
fn a_start_computes_runs_from_the_events() {
    let mut harness = Harness::new(RunLimits { table: 1000, span: 100_000, ..SMALL });
    for number in 0..200 {
        harness.group(&[(number, 100_000)], End::Commit);
    }
    assert_eq!(harness.count("key_runs"), 0);
    forget_runs(&harness.conn).unwrap();
    harness.limits = SMALL;
    harness.reopen();
    harness.compare();
    assert!(harness.keys.table.active() <= SMALL.table * FULL_MULTIPLE);
    assert!(harness.count("key_runs") > 0);
}

#[test]
fn memory_and_runs_are_bounded() {
    let limits = RunLimits { table: 100, span: 1000, block_entries: 10, ..SMALL };
    let mut harness = Harness::new(RunLimits { slice_blocks: 4, ..limits });
    let (mut most, mut logged) = (0, 0);
    for group in 0..1000_u64 {
        let numbers: Vec<_> = (group * 20..group * 20 + 20).map(|number| (number, 1 << 40)).collect();
        harness.group(&numbers, End::Commit);
        most = most.max(harness.keys.runs.runs().len());
        logged += harness.keys.runs.slice_bytes();
        assert!(harness.keys.table.active() < 2 * 100 + 20, "{}", harness.keys.table.active());
    }
    // 20,000 keys: 200 runs of the lowest tier, at most three in each of four tiers, and those that a merge reads.
    assert!(most <= 24, "{most} runs");
    let blocks = harness.count("key_blocks");
    assert!(logged > 4 * 2000 * 4096, "each key was written several times, but {logged} bytes are counted");
    assert!(blocks < 2 * 2000 + 200, "{blocks} blocks");
    harness.compare();
    let per_key = harness.keys.bytes() / 20_000;
    // With ten keys for each filter of 144.
    assert!(per_key < 60, "{per_key} bytes a key");
}

/// After a start with a wrong clock, sweeps lag behind for an hour. Keys must still exist when the clock is corrected.
#[test]
fn keys_expire_by_the_clock_of_sweeps() {
    let mut harness = Harness::new(SMALL);
    for number in 0..40 {
        harness.group(&[(number, 100_000)], End::Commit);
    }
    let right = harness.now;
    harness.now += 1_000_000;
    for number in 100..160 {
        harness.group(&[(number, 100_000)], End::Commit);
        harness.sweep_at(right);
    }
    harness.now = right;
    harness.compare();
    // When sweeps follow, so do the groups.
    harness.now += 1_000_000;
    harness.sweep();
    for number in 200..260 {
        harness.group(&[(number, 100_000)], End::Commit);
    }
    assert!(harness.keys.runs.runs().iter().all(|run| run.manifest.expires > harness.now));
}

/// Otherwise a round of sweeps would not end under load, and no space would be given back.
#[test]
fn work_of_a_busy_store_keeps_no_sweep_running() {
    let mut harness = Harness::new(SMALL);
    for number in 0..30 {
        harness.group(&[(number, 100_000)], End::Commit);
        assert!(!harness.sweep(), "{number}");
    }
    assert!(harness.sweep(), "the store is idle, and there is work");
    harness.finish_work();
    assert!(!harness.sweep());
}

#[test]
fn a_damaged_row_is_reported_and_fails_a_lookup() {
    let mut harness = Harness::new(SMALL);
    for number in 0..40 {
        harness.group(&[(number, 100_000)], End::Commit);
    }
    harness.finish_work();
    let damage = |sql: &str| {
        let image = harness.path.with_extension("copy");
        drop(std::fs::remove_file(&image));
        harness.conn.execute("VACUUM INTO ?1", [image.to_str().unwrap()]).unwrap();
        let conn = open(&image);
        assert!(conn.execute(sql, []).unwrap() > 0);
        let problems = find_problems(&conn).unwrap();
        let keys = KeyStore::open(&conn, SMALL);
        let failed = keys
            .map(|keys| (0..40).filter(|n| keys.find(&conn, &key(*n), Millis(harness.now)).is_err()).count());
        (problems.join("; "), failed.unwrap_or(usize::MAX))
    };
    let first = "WHERE id = (SELECT min(id) FROM key_blocks)";
    let (problems, failed) = damage(&format!("UPDATE key_blocks SET content = zeroblob(200) {first}"));
    assert!(problems.contains("missing or damaged") && (1..40).contains(&failed), "{problems} {failed}");
    let (problems, failed) = damage(&format!("DELETE FROM key_blocks {first}"));
    assert!(problems.contains("missing or damaged") && failed > 0, "{problems} {failed}");
    let (problems, failed) = damage("UPDATE key_filters SET content = zeroblob(900)");
    assert!(problems.contains("key_filters") && failed == usize::MAX, "{problems} {failed}");
    let (problems, _) = damage("UPDATE key_runs SET entries = entries + 1");
    assert!(problems.contains("should have"), "{problems}");
    let (problems, _) = damage("UPDATE key_runs SET last_event = last_event + 1000");
    assert!(problems.contains("should have"), "{problems}");
    let (problems, _) = damage("UPDATE meta SET value = 1000 WHERE name = 'keyed'");
    assert!(problems.contains("up to 1000"), "{problems}");
    let (problems, _) = damage("UPDATE events SET dedup_key = x'01'");
    assert!(problems.contains("with a damaged idempotency key"), "{problems}");
}

#[test]
fn windows_of_one_class_differ_by_less_than_a_factor_of_two() {
    let class = |millis| window_class(Duration::from_millis(millis));
    assert_eq!([0, 1, 2, 3, 4, 7, 8].map(class), [0, 1, 2, 2, 3, 3, 4]);
    assert_eq!(window_class(Duration::MAX), 64);
}
