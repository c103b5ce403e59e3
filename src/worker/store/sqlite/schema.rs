//! The tables and their migrations.
//!
//! A release first expands the schema (new tables and columns that old code may ignore, `min_reader` unchanged). One
//! release later it may contract the schema (`min_reader` raised). So a rollback by one release still starts. There are
//! no foreign keys, because they would cost a lookup for each written row; only one thread writes, and the tests check
//! the references.

use rusqlite::{Connection, OptionalExtension};

use super::super::StoreError;
use super::history_tables::V10;

/// The format this program writes.
pub(super) const VERSION: i64 = 10;
/// "HkSt": distinguishes our file from any other SQLite database.
pub(super) const APPLICATION_ID: i64 = 0x486b_5374;

/// `deliveries.state`. The text of the partial index contains 0: keep both equal.
pub(super) const PENDING: i64 = 0;
pub(super) const DELIVERED: i64 = 1;
pub(super) const DEAD: i64 = 2;
pub(super) const DROPPED: i64 = 3;
pub(super) const CANCELLED: i64 = 4;
/// A trailing candidate. Users see it as pending. A separate state, so that no query of due deliveries finds it.
pub(super) const CANDIDATE: i64 = 5;
pub(super) const STATES: [i64; 6] = [PENDING, DELIVERED, DEAD, DROPPED, CANCELLED, CANDIDATE];

/// One change of the format, applied in one transaction. Never edit a released one: add another.
pub(super) struct Migration {
    pub(super) version: i64,
    /// The oldest program that reads a store after this migration.
    pub(super) min_reader: i64,
    pub(super) sql: &'static str,
}

pub(super) const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, min_reader: 1, sql: V1 },
    Migration { version: 2, min_reader: 1, sql: V2 },
    Migration { version: 3, min_reader: 1, sql: V3 },
    Migration { version: 4, min_reader: 1, sql: V4 },
    Migration { version: 5, min_reader: 5, sql: V5 },
    Migration { version: 6, min_reader: 5, sql: V6 },
    Migration { version: 7, min_reader: 7, sql: V7 },
    Migration { version: 8, min_reader: 8, sql: V8 },
    Migration { version: 9, min_reader: 9, sql: V9 },
    Migration { version: 10, min_reader: 9, sql: V10 },
];

const V1: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

-- AUTOINCREMENT: a sequence number is never reused, even after the rows with the highest ones were swept.
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
    data       TEXT NOT NULL      -- last, so that reads of other columns can skip it
);

-- Events that no delivery refers to (any more), so that retention does not scan all events.
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
-- Partial: finished deliveries do not slow down the dispatcher. (The row id is the index's last column.)
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

/// A program of version 1 can read and write this format: every new column has a default, and it ignores gates,
/// candidates and replays. It reports a dropped delivery as dead, and leaves candidates for a later program. The sign
/// of `size` shows which bytes it did not count (see `deliveries.size`). Its attempts after a replay cannot collide
/// with older ones, because `attempts` is never reset.
const V2: &str = "
ALTER TABLE hooks ADD COLUMN waiting INTEGER NOT NULL DEFAULT 0;  -- bytes of its pending events
ALTER TABLE hooks ADD COLUMN held INTEGER NOT NULL DEFAULT 0;     -- total time that it was held, in ms
ALTER TABLE hooks ADD COLUMN held_since INTEGER;                  -- NULL: it is not held
CREATE INDEX hooks_name ON hooks (namespace, name);

-- Bytes in its hook's backlog: positive while counted in hooks.waiting, negative after they were subtracted. A finished
-- delivery with a positive size was settled by a program that does not count; the next change subtracts it.
ALTER TABLE deliveries ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN suppressed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN replays INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN began INTEGER;                  -- when it was last replayed or revived
ALTER TABLE deliveries ADD COLUMN attempts_before INTEGER NOT NULL DEFAULT 0;  -- the part of attempts before that time
ALTER TABLE deliveries ADD COLUMN held_before INTEGER NOT NULL DEFAULT 0;      -- hooks.held when its age started
CREATE INDEX deliveries_list ON deliveries (hook, state);
CREATE INDEX events_id ON events (namespace, id);

-- Events whose data was removed, and whose row stays until the end of its idempotency window.
ALTER TABLE loose ADD COLUMN bare INTEGER NOT NULL DEFAULT 0;
CREATE INDEX loose_full ON loose (accepted, event) WHERE bare = 0;

CREATE TABLE gates (
    hook        INTEGER NOT NULL,
    kind        INTEGER NOT NULL,   -- 0: onChange, 1: snooze
    key         BLOB NOT NULL,
    value       BLOB,               -- onChange: the last value accepted for delivery
    quiet_until INTEGER,            -- snooze
    owner       INTEGER,            -- the delivery that set it
    suppressed  INTEGER NOT NULL,   -- dropped since the last delivery was sent
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
    stepped   INTEGER NOT NULL,     -- the rate is used up to this time
    at        INTEGER NOT NULL,     -- the last delivery examined
    top       INTEGER NOT NULL,     -- the last delivery when the replay began
    replayed  INTEGER NOT NULL,
    done_at   INTEGER
) WITHOUT ROWID;
";

/// An older program ignores the column and repeats all work of a delivery at each attempt.
const V3: &str = "
ALTER TABLE deliveries ADD COLUMN progress BLOB;  -- the handler's progress at earlier attempts; NULL: none
";

/// An older program ignores these tables and columns. It finds no data of a recreated namespace, removes no data of a
/// deleted one, and shows no attempt of a delivery that succeeded at the first one.
const V4: &str = "
-- Namespaces with a known uid. Rows contain `place` instead of the name: the name itself at first, and another text for
-- each later namespace of that name, which therefore starts empty.
CREATE TABLE namespaces (
    name  TEXT PRIMARY KEY,
    uid   TEXT,               -- NULL: the namespace does not exist
    place TEXT NOT NULL
) WITHOUT ROWID;
-- Keys of deleted namespaces, whose rows the sweep removes.
CREATE TABLE ended (place TEXT PRIMARY KEY) WITHOUT ROWID;

-- The first attempt, if it delivered: most deliveries need no row in attempts.
ALTER TABLE deliveries ADD COLUMN first_at INTEGER;
ALTER TABLE deliveries ADD COLUMN first_micros INTEGER;
ALTER TABLE deliveries ADD COLUMN first_status INTEGER;
";

/// The sequence number of a delivery contains its event's (see `sequence`), so no index connects the two tables, and
/// the writer allocates sequence numbers without a lookup. A delivery may be unmaterialized (see `materialize`). An
/// older program would not send such a delivery, so `min_reader` rises.
const V5: &str = "
CREATE TABLE numbers (old INTEGER PRIMARY KEY, new INTEGER NOT NULL);
INSERT INTO numbers SELECT seq, (event << 20) | (row_number() OVER (PARTITION BY event ORDER BY seq) - 1) FROM deliveries;

-- The watermark. Event sequence numbers are never reused, because swept events are not above it.
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
    handed     BLOB,              -- notes of deliveries that may have no row yet; read only above meta.filed
    attributes TEXT,              -- NULL: none
    data       TEXT NOT NULL      -- last, so that reads of other columns can skip it
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

/// Lists of a namespace walk one index instead of one for each of its hooks. A program of format 5 leaves
/// `deliveries.namespace` NULL; the next start of a later program fills it in (`namespace_keys::number_deliveries`).
const V6: &str = "
-- Numbers of namespace keys, because a number in each delivery and its index entry is shorter than the key.
CREATE TABLE namespace_numbers (id INTEGER PRIMARY KEY, place TEXT NOT NULL UNIQUE);
INSERT INTO namespace_numbers (place) SELECT DISTINCT namespace FROM hooks;

ALTER TABLE deliveries ADD COLUMN namespace INTEGER;  -- the number of its hook's namespace key
UPDATE deliveries SET namespace =
    (SELECT n.id FROM hooks h JOIN namespace_numbers n ON n.place = h.namespace WHERE h.id = deliveries.hook);
-- With the row id as its last column, so its entries ascend with the time of acceptance.
CREATE INDEX deliveries_namespace ON deliveries (namespace, state);

CREATE INDEX namespaces_deleted ON namespaces (name) WHERE uid IS NULL;
CREATE INDEX hooks_held ON hooks (uid) WHERE held_since IS NOT NULL;
";

/// Idempotency keys are in the rows of their events and in runs (see `keys`). An older program would not find them, and
/// accept a repetition as a new event, so `min_reader` rises. Rows of `dedup` stay until they expire.
const V7: &str = "
-- Read only above meta.keyed, until the key is in a run. NULL: none, or in `dedup`.
ALTER TABLE events ADD COLUMN dedup_key BLOB;
INSERT INTO meta (name, value) SELECT 'keyed', coalesce(max(seq), 0) FROM events;

-- When the keys of deleted namespaces of that name have expired. Not before, a new namespace may get their place.
ALTER TABLE namespaces ADD COLUMN keys_until INTEGER NOT NULL DEFAULT 0;

CREATE TABLE key_runs (
    id          INTEGER PRIMARY KEY,
    class       INTEGER NOT NULL,  -- the binary logarithm of its keys' windows
    tier        INTEGER NOT NULL,  -- how often its keys were merged
    entries     INTEGER NOT NULL,
    blocks      INTEGER NOT NULL,
    first_event INTEGER NOT NULL,
    last_event  INTEGER NOT NULL,
    expires     INTEGER NOT NULL
);
-- The id of a row is the id of its run << 24 plus its number. Each row ends with a checksum.
CREATE TABLE key_blocks (id INTEGER PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE key_filters (id INTEGER PRIMARY KEY, content BLOB NOT NULL);

ALTER TABLE replays ADD COLUMN cancelled INTEGER NOT NULL DEFAULT 0;
";

/// Event ids are in runs (see `event_ids`) instead of an index. An older program needs the index, so `min_reader` rises. A
/// background job adds the ids of the events that exist.
const V8: &str = "
DROP INDEX events_id;
INSERT INTO meta (name, value) SELECT 'ids_covered', coalesce(max(seq), 0) FROM events;
INSERT INTO meta (name, value) SELECT 'ids_missing', max(seq) FROM events HAVING max(seq) IS NOT NULL;

CREATE TABLE id_runs (
    id          INTEGER PRIMARY KEY,
    class       INTEGER NOT NULL,  -- 1: written again after retention may have removed its events
    tier        INTEGER NOT NULL,  -- how often its ids were merged
    entries     INTEGER NOT NULL,
    blocks      INTEGER NOT NULL,
    first_event INTEGER NOT NULL,
    last_event  INTEGER NOT NULL,
    expires     INTEGER NOT NULL   -- until then the rows of all its events stay
);
-- The id of a row is the id of its run << 24 plus its number. Each row ends with a checksum.
CREATE TABLE id_blocks (id INTEGER PRIMARY KEY, content BLOB NOT NULL);
";

/// Deliveries that succeed at once have no row (see `outcomes`). An older program would send those again that are after the
/// watermark, and not show the others, so `min_reader` rises. Rows of older programs stay until they expire.
const V9: &str = "
-- Outcomes of one group commit. Read only after meta.segmented. Contents end with a checksum.
CREATE TABLE outcome_groups (
    id      INTEGER PRIMARY KEY,
    last    INTEGER NOT NULL,  -- the last delivery
    content BLOB NOT NULL
);
-- Outcomes in the order of their deliveries. The ranges from first to last do not overlap.
CREATE TABLE outcome_segments (
    first    INTEGER PRIMARY KEY,
    last     INTEGER NOT NULL,
    outcomes INTEGER NOT NULL,  -- their number
    oldest   INTEGER NOT NULL,  -- when the first and the last of them finished
    newest   INTEGER NOT NULL,
    bytes    INTEGER NOT NULL,  -- of their events
    content  BLOB NOT NULL
);
CREATE INDEX outcome_segments_oldest ON outcome_segments (oldest);
CREATE INDEX outcome_segments_newest ON outcome_segments (newest, bytes);
-- The ranges of events in which a hook (kind 0) or a namespace (kind 1) has outcomes in segments.
CREATE TABLE outcome_index (
    kind     INTEGER NOT NULL,
    owner    INTEGER NOT NULL,
    part     INTEGER NOT NULL,  -- of the sequence: event >> 12
    outcomes INTEGER NOT NULL,
    slots    INTEGER NOT NULL,  -- a bit for each 64 events of the part
    PRIMARY KEY (kind, owner, part)
) WITHOUT ROWID;
INSERT INTO meta (name, value) VALUES ('segmented', 0);
";

/// How long a connection waits for a lock. Only one thread writes, but a checkpoint takes a lock while it restarts the
/// log.
pub(super) const BUSY: std::time::Duration = std::time::Duration::from_secs(5);

/// Configures a connection, of the writer or a reader.
pub(super) fn tune(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(64);
    // Without this, a connection that is dropped after a failure would copy an untrusted log into the database.
    conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Without this, SQLite chooses plans by the values of parameters (LIMIT, and constants of partial indexes), and prepares a
    // statement again for each other value.
    conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.pragma_update(None, "foreign_keys", false)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(())
}

pub(super) fn meta(conn: &Connection, name: &str) -> Result<i64, StoreError> {
    conn.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0))
        .optional()
        .map_err(open_error)?
        .ok_or_else(|| StoreError::Open(format!("the store has no {name} in its table meta")))
}

pub(super) fn foreign_file() -> StoreError {
    StoreError::Open("hookstream.db is a database of another program".into())
}

/// Returns the installation that the store belongs to. (The INTEGER affinity of the column leaves text unchanged.)
pub(super) fn installation(conn: &Connection) -> rusqlite::Result<Option<String>> {
    conn.query_row("SELECT value FROM meta WHERE name = 'installation'", [], |row| row.get(0)).optional()
}

/// Binds the store to an installation. Returns the present owner if it is another one and `adopt` is not set.
pub(super) fn claim_installation(
    conn: &Connection,
    installation: &str,
    adopt: bool,
) -> rusqlite::Result<Option<String>> {
    match self::installation(conn)? {
        Some(found) if found == installation => return Ok(None),
        Some(found) if !adopt => return Ok(Some(found)),
        Some(_) | None => {}
    }
    conn.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('installation', ?1)", [installation])?;
    Ok(None)
}

/// Returns the name of a state, as users see it.
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
