//! The tables, and how a store of an older format becomes one of this.
//!
//! A release expands the schema first (new tables and columns that old code may ignore, `min_reader` unchanged) and
//! contracts it one release later (`min_reader` raised), so that a rollback by one release still starts. There are no
//! foreign keys: one thread writes, and a look-up for every row would buy nothing that the tests do not.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::super::StoreError;
use super::care;

/// The format this program writes.
pub(super) const VERSION: i64 = 5;
/// "HkSt": tells our file from any other SQLite database.
pub(super) const APPLICATION_ID: i64 = 0x486b_5374;

/// `deliveries.state`. The partial index names 0 in its text: keep both equal.
pub(super) const PENDING: i64 = 0;
pub(super) const DELIVERED: i64 = 1;
pub(super) const DEAD: i64 = 2;
pub(super) const DROPPED: i64 = 3;
pub(super) const CANCELLED: i64 = 4;
/// A trailing candidate: told as pending, and in a state of its own so that nothing that reads what is due meets it.
pub(super) const CANDIDATE: i64 = 5;
pub(super) const STATES: [i64; 6] = [PENDING, DELIVERED, DEAD, DROPPED, CANCELLED, CANDIDATE];

/// One change of the format, made in one transaction. Never edit one that was released: add another.
pub(super) struct Step {
    pub(super) version: i64,
    /// The oldest program that reads a store after this step.
    pub(super) min_reader: i64,
    pub(super) sql: &'static str,
}

pub(super) const STEPS: &[Step] = &[
    Step { version: 1, min_reader: 1, sql: V1 },
    Step { version: 2, min_reader: 1, sql: V2 },
    Step { version: 3, min_reader: 1, sql: V3 },
    Step { version: 4, min_reader: 1, sql: V4 },
    Step { version: 5, min_reader: 5, sql: V5 },
];

const V1: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

-- AUTOINCREMENT: a number is never used again, even after the rows with the highest ones were swept.
CREATE TABLE events (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    accepted   INTEGER NOT NULL,
    kept_until INTEGER NOT NULL,  -- the end of its idempotency window: a duplicate must find it until then
    id         TEXT NOT NULL,
    namespace  TEXT NOT NULL,
    origin     TEXT NOT NULL,
    source     TEXT NOT NULL,
    event      TEXT NOT NULL,
    time       TEXT NOT NULL,
    attributes TEXT,              -- NULL: none
    data       TEXT NOT NULL      -- last: what does not need it need not read past it
);

-- Events that no delivery refers to (any more): what retention looks at, instead of every event.
CREATE TABLE loose (
    accepted   INTEGER NOT NULL,
    event      INTEGER NOT NULL,
    kept_until INTEGER NOT NULL,
    PRIMARY KEY (accepted, event)
) WITHOUT ROWID;

CREATE TABLE hooks (
    id        INTEGER PRIMARY KEY,
    uid       TEXT NOT NULL UNIQUE,
    namespace TEXT NOT NULL,
    name      TEXT NOT NULL
);

CREATE TABLE deliveries (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    event       INTEGER NOT NULL,
    hook        INTEGER NOT NULL,
    id          BLOB NOT NULL,
    state       INTEGER NOT NULL,
    attempts    INTEGER NOT NULL,
    due         INTEGER NOT NULL,
    finished_at INTEGER,
    reason      TEXT
);
-- Partial: what is finished costs nothing where the dispatcher reads. (The row's number is the index's last column.)
CREATE INDEX deliveries_pending ON deliveries (hook, due) WHERE state = 0;
CREATE INDEX deliveries_finished ON deliveries (state, finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX deliveries_event ON deliveries (event);
CREATE UNIQUE INDEX deliveries_id ON deliveries (id);

CREATE TABLE attempts (
    delivery INTEGER NOT NULL,
    n        INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    micros   INTEGER NOT NULL,
    status   INTEGER,
    error    TEXT,
    detail   TEXT,
    PRIMARY KEY (delivery, n)
) WITHOUT ROWID;

CREATE TABLE dedup (
    key     BLOB PRIMARY KEY,
    expires INTEGER NOT NULL,
    event   INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX dedup_expires ON dedup (expires);
";

/// A program of version 1 reads and writes this: every new column has a default, and what it does not know (gates,
/// candidates, replays) it leaves alone. It calls a dropped delivery dead, and sends no candidate before version 2 is
/// back. The bytes it forgets to count are found by the sign of `size` (see `deliveries.size`), its attempts after a
/// replay cannot take the number of an older one, because `attempts` goes on counting.
const V2: &str = "
ALTER TABLE hooks ADD COLUMN waiting INTEGER NOT NULL DEFAULT 0;  -- bytes of events that wait for it
ALTER TABLE hooks ADD COLUMN held INTEGER NOT NULL DEFAULT 0;     -- for how long it was held in all, in ms
ALTER TABLE hooks ADD COLUMN held_since INTEGER;                  -- NULL: it is not held
CREATE INDEX hooks_name ON hooks (namespace, name);

-- Its share of its hook's backlog: as it is while it is counted into hooks.waiting, below zero when it was taken out. A
-- finished one above zero was settled by a program that does not count, and is taken out when it is met.
ALTER TABLE deliveries ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN suppressed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN replays INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN began INTEGER;                  -- when it was last replayed or revived
ALTER TABLE deliveries ADD COLUMN attempts_before INTEGER NOT NULL DEFAULT 0;  -- of attempts, those before that
ALTER TABLE deliveries ADD COLUMN held_before INTEGER NOT NULL DEFAULT 0;      -- of hooks.held, what was before it
CREATE INDEX deliveries_list ON deliveries (hook, state);
CREATE INDEX events_id ON events (namespace, id);

-- Events whose data was let go, and whose row stays until the end of its window.
ALTER TABLE loose ADD COLUMN bare INTEGER NOT NULL DEFAULT 0;
CREATE INDEX loose_full ON loose (accepted, event) WHERE bare = 0;

CREATE TABLE gates (
    hook        INTEGER NOT NULL,
    kind        INTEGER NOT NULL,   -- 0: onChange, 1: snooze
    key         BLOB NOT NULL,
    value       BLOB,               -- onChange: the last value accepted for delivery
    quiet_until INTEGER,            -- snooze
    owner       INTEGER,            -- the delivery that set it
    suppressed  INTEGER NOT NULL,   -- dropped since the last one went
    used        INTEGER NOT NULL,
    PRIMARY KEY (hook, kind, key)
) WITHOUT ROWID;
CREATE INDEX gates_owner ON gates (owner) WHERE owner IS NOT NULL;
CREATE INDEX gates_oldest ON gates (hook, used);
CREATE INDEX gates_used ON gates (used);

CREATE TABLE candidates (
    hook         INTEGER NOT NULL,
    key          BLOB NOT NULL,     -- of snooze
    delivery     INTEGER NOT NULL,
    due          INTEGER NOT NULL,
    period       INTEGER NOT NULL,
    change_key   BLOB,
    change_value BLOB,
    PRIMARY KEY (hook, key)
) WITHOUT ROWID;
CREATE INDEX candidates_due ON candidates (due);
CREATE UNIQUE INDEX candidates_delivery ON candidates (delivery);

CREATE TABLE replays (
    id        BLOB PRIMARY KEY,
    namespace TEXT NOT NULL,
    filter    TEXT NOT NULL,
    rate      INTEGER NOT NULL,
    started   INTEGER NOT NULL,
    stepped   INTEGER NOT NULL,     -- what its rate allowed before this time is used up
    at        INTEGER NOT NULL,     -- the last delivery looked at
    top       INTEGER NOT NULL,     -- the last delivery when it began
    replayed  INTEGER NOT NULL,
    done_at   INTEGER
) WITHOUT ROWID;
";

/// An older program leaves the column as it is; what it delivers meanwhile is done whole at each attempt.
const V3: &str = "
ALTER TABLE deliveries ADD COLUMN progress BLOB;  -- what its handler did at an earlier attempt; NULL: nothing
";

/// An older program leaves these alone: it finds nothing of a namespace that was made anew, purges nothing, and shows no
/// attempt of what was delivered at once.
const V4: &str = "
-- Namespaces whose uid was told. `place` stands in the rows instead of the name: the name itself at first, and another
-- text for each later namespace of that name, which so begins with nothing.
CREATE TABLE namespaces (
    name  TEXT PRIMARY KEY,
    uid   TEXT,               -- NULL: there is none now
    place TEXT NOT NULL
) WITHOUT ROWID;
-- Places of namespaces that ended: what they hold is to be removed.
CREATE TABLE ended (place TEXT PRIMARY KEY) WITHOUT ROWID;

-- The first attempt, where it delivered: what most deliveries are needs no row of its own in attempts.
ALTER TABLE deliveries ADD COLUMN first_at INTEGER;
ALTER TABLE deliveries ADD COLUMN first_micros INTEGER;
ALTER TABLE deliveries ADD COLUMN first_status INTEGER;
";

/// A delivery's number tells its event (see `numbers`), so that the index from one to the other is not needed; numbers are
/// given by the writer, which costs no look at a table of them; a delivery may wait for its row (see `filing`). A program
/// that does not know of that would not send it.
const V5: &str = "
CREATE TABLE numbers (old INTEGER PRIMARY KEY, new INTEGER NOT NULL);
INSERT INTO numbers SELECT seq, (event << 20) | (row_number() OVER (PARTITION BY event ORDER BY seq) - 1) FROM deliveries;

-- Numbers of events are never used again, even after the rows with the highest ones were swept: those are not above this.
INSERT INTO meta (name, value) SELECT 'filed', coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0);

CREATE TABLE events_5 (
    seq        INTEGER PRIMARY KEY,
    accepted   INTEGER NOT NULL,
    kept_until INTEGER NOT NULL,  -- the end of its idempotency window: a duplicate must find it until then
    id         TEXT NOT NULL,
    namespace  TEXT NOT NULL,
    origin     TEXT NOT NULL,
    source     TEXT NOT NULL,
    event      TEXT NOT NULL,
    time       TEXT NOT NULL,
    handed     BLOB,              -- deliveries that may have no row yet; looked at above meta.filed only
    attributes TEXT,              -- NULL: none
    data       TEXT NOT NULL      -- last: what does not need it need not read past it
);
INSERT INTO events_5 SELECT seq, accepted, kept_until, id, namespace, origin, source, event, time, NULL, attributes, data
FROM events;
DROP TABLE events;
ALTER TABLE events_5 RENAME TO events;
CREATE INDEX events_id ON events (namespace, id);

CREATE TABLE deliveries_5 (
    seq             INTEGER PRIMARY KEY,
    event           INTEGER GENERATED ALWAYS AS (seq >> 20) VIRTUAL,
    hook            INTEGER NOT NULL,
    id              BLOB NOT NULL,
    state           INTEGER NOT NULL,
    attempts        INTEGER NOT NULL,
    due             INTEGER NOT NULL,
    finished_at     INTEGER,
    size            INTEGER NOT NULL DEFAULT 0,
    held_before     INTEGER NOT NULL DEFAULT 0,
    first_at        INTEGER,
    first_micros    INTEGER,
    first_status    INTEGER,
    reason          TEXT,
    suppressed      INTEGER NOT NULL DEFAULT 0,
    replays         INTEGER NOT NULL DEFAULT 0,
    began           INTEGER,
    attempts_before INTEGER NOT NULL DEFAULT 0,
    progress        BLOB
);
INSERT INTO deliveries_5 (seq, hook, id, state, attempts, due, finished_at, size, held_before, first_at, first_micros,
                          first_status, reason, suppressed, replays, began, attempts_before, progress)
SELECT n.new, hook, id, state, attempts, due, finished_at, size, held_before, first_at, first_micros,
       first_status, reason, suppressed, replays, began, attempts_before, progress
FROM deliveries d JOIN numbers n ON n.old = d.seq ORDER BY n.new;
DROP TABLE deliveries;
ALTER TABLE deliveries_5 RENAME TO deliveries;
CREATE INDEX deliveries_pending ON deliveries (hook, due) WHERE state = 0;
CREATE INDEX deliveries_finished ON deliveries (state, finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX deliveries_list ON deliveries (hook, state);
CREATE UNIQUE INDEX deliveries_id ON deliveries (id);

CREATE TABLE attempts_5 (
    delivery INTEGER NOT NULL,
    n        INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    micros   INTEGER NOT NULL,
    status   INTEGER,
    error    TEXT,
    detail   TEXT,
    PRIMARY KEY (delivery, n)
) WITHOUT ROWID;
INSERT INTO attempts_5 SELECT new, n, at, micros, status, error, detail FROM attempts JOIN numbers ON old = delivery
ORDER BY new, n;
DROP TABLE attempts;
ALTER TABLE attempts_5 RENAME TO attempts;

UPDATE gates SET owner = (SELECT new FROM numbers WHERE old = owner) WHERE owner IS NOT NULL;
UPDATE candidates SET delivery = (SELECT new FROM numbers WHERE old = delivery);
UPDATE replays SET at = coalesce((SELECT new FROM numbers WHERE old <= at ORDER BY old DESC LIMIT 1), 0),
                   top = coalesce((SELECT new FROM numbers WHERE old <= top ORDER BY old DESC LIMIT 1), 0);
DROP TABLE numbers;
";

/// Nobody else writes; this is for the instant in which a checkpoint restarts the log.
pub(super) const BUSY: std::time::Duration = std::time::Duration::from_secs(5);

/// What the writer and the readers share.
pub(super) fn tune(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(64);
    // A connection that is dropped after a failure must not copy a log nobody can trust into the database.
    conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.pragma_update(None, "foreign_keys", false)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(())
}

/// Makes the file a store of this format, or says why it cannot be one.
pub(super) fn prepare(conn: &mut Connection, dir: &Path) -> Result<(), StoreError> {
    tune(conn).map_err(open_error)?;
    let id: i64 = conn.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(open_error)?;
    let tables: i64 =
        conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(open_error)?;
    if tables == 0 {
        // Both only take effect before the first table. Incremental, so that a later release can give space back.
        conn.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(open_error)?;
    } else if id != APPLICATION_ID {
        return Err(foreign_file());
    } else {
        // Before anything is written, even the journal's mode: a newer store stays as it is.
        let found = readable(conn, VERSION)?;
        if found < VERSION {
            let kept = care::keep_before(dir, found)?;
            tracing::info!(copy = %kept.display(), "the store becomes one of format {VERSION}; a copy of it as it was is kept");
        }
    }
    let mode: String =
        conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)).map_err(open_error)?;
    if mode != "wal" {
        return Err(StoreError::Open(format!("journal mode {mode}: the file system has no shared memory")));
    }
    conn.pragma_update(None, "synchronous", "FULL").map_err(open_error)?;
    migrate(conn, STEPS)
}

fn readable(conn: &Connection, known: i64) -> Result<i64, StoreError> {
    let found = meta(conn, "version")?;
    if meta(conn, "min_reader")? > known {
        return Err(StoreError::Newer { found, known });
    }
    Ok(found)
}

/// Takes every step the store has not taken, each in its own transaction.
pub(super) fn migrate(conn: &mut Connection, steps: &[Step]) -> Result<(), StoreError> {
    let has_meta: i64 = conn
        .query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'meta'", [], |row| row.get(0))
        .map_err(open_error)?;
    let known = steps.last().map_or(0, |step| step.version);
    let found = if has_meta == 0 { 0 } else { readable(conn, known)? };
    for step in steps.iter().filter(|step| step.version > found) {
        take(conn, step).map_err(open_error)?;
    }
    Ok(())
}

fn take(conn: &mut Connection, step: &Step) -> rusqlite::Result<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch(step.sql)?;
    for (name, value) in [("version", step.version), ("min_reader", step.min_reader)] {
        tx.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)", params![name, value])?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.commit()
}

fn meta(conn: &Connection, name: &str) -> Result<i64, StoreError> {
    conn.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0))
        .optional()
        .map_err(open_error)?
        .ok_or_else(|| StoreError::Open(format!("the store does not tell its {name}")))
}

pub(super) fn foreign_file() -> StoreError {
    StoreError::Open("hookstream.db is a database of another program".into())
}

/// The installation that the store belongs to. (The column's affinity leaves text as it is.)
pub(super) fn installation(conn: &Connection) -> rusqlite::Result<Option<String>> {
    conn.query_row("SELECT value FROM meta WHERE name = 'installation'", [], |row| row.get(0)).optional()
}

/// Says which installation the store belongs to; the one that it belonged to, where that was another and stays.
pub(super) fn belongs_to(
    conn: &Connection,
    installation: &str,
    adopted: bool,
) -> rusqlite::Result<Option<String>> {
    match self::installation(conn)? {
        Some(found) if found == installation => return Ok(None),
        Some(found) if !adopted => return Ok(Some(found)),
        Some(_) | None => {}
    }
    conn.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('installation', ?1)", [installation])?;
    Ok(None)
}

/// A delivery's state, as people are told.
pub(super) fn state_name(state: i64) -> &'static str {
    match state {
        PENDING | CANDIDATE => "pending",
        DELIVERED => "delivered",
        DEAD => "dead",
        DROPPED => "dropped",
        CANCELLED => "cancelled",
        _ => "unknown",
    }
}

pub(super) fn open_error(e: rusqlite::Error) -> StoreError {
    StoreError::Open(e.to_string())
}
