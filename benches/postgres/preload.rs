//! Rows of earlier events, which SQL inserts into the tables of a worker. The namespace and the hooks must have rows.

use crate::common::generator::EVENT_BYTES;
use crate::connection::Connection;
use crate::programs::HOOKS;

/// Rows of one transaction, so that the server's log does not exceed its limit by much.
const STEP: usize = 250_000;
/// Bytes of an event's data: with its attributes it is a CloudEvent of 1 KiB.
const DATA_BYTES: usize = EVENT_BYTES - 94;
/// What the store counts for an event beside its data.
const COUNTED_BYTES: usize = 512;

/// The events, as the rows `e` (n, seq, accepted, source). `$SPREAD`: the milliseconds over which they were accepted.
const EVENTS: &str = "
CREATE TEMP TABLE IF NOT EXISTS batch (n bigint, seq bigint, accepted bigint, hook bigint, place bigint, source int);
TRUNCATE batch;
INSERT INTO batch
SELECT n, $BASE + n, (extract(epoch FROM clock_timestamp()) * 1000)::bigint - $SPREAD + $SPREAD * n / $ALL,
       h.id, h.place, n % $HOOKS
FROM generate_series($FROM::bigint, $TO::bigint) n
JOIN hookstream.hooks h ON h.name = 'sink-' || n % $HOOKS;
INSERT INTO hookstream.events (seq, place, accepted, is_loose, unmatched, id, origin, source, event, time, data, kept_until)
SELECT seq, place, accepted, false, false, md5('id' || seq), 'api', 'bench-' || source, 'e',
       to_char(to_timestamp(accepted / 1000.0) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'),
       convert_to('{\"number\":' || n || ',\"filler\":\"' || repeat('x', $FILLER - length(n::text)) || '\"}', 'UTF8'),
       accepted + 86400000
FROM batch;
INSERT INTO hookstream.keys (place, key, expires, event)
SELECT place, sha256(convert_to('key' || seq, 'UTF8')), accepted + 86400000, seq FROM batch;
";

const FINISHED: &str = "
INSERT INTO hookstream.finished (seq, hook, place, id, state, finished_at, accepted, attempts, attempts_before, suppressed,
    replays, size, first_at, first_micros, first_status)
SELECT seq << 20, hook, place, gen_random_uuid(), 1, accepted + 2, accepted, 1, 0, 0, 0, $SIZE, accepted + 1, 700, 200
FROM batch;
";

/// The backlog is that of a writer that has stopped.
const PENDING: &str = "
INSERT INTO hookstream.pending (seq, hook, place, id, due, began, accepted, held_before, size)
SELECT seq << 20, hook, place, gen_random_uuid(), accepted, accepted, accepted, 0, $SIZE FROM batch;
INSERT INTO hookstream.backlog AS b (hook, writer, deliveries, bytes)
SELECT hook, 0, count(*), sum($SIZE) FROM batch GROUP BY hook
ON CONFLICT (hook, writer) DO UPDATE SET deliveries = b.deliveries + excluded.deliveries, bytes = b.bytes + excluded.bytes;
";

/// Inserts delivered events with their idempotency keys, accepted during the last twelve hours.
pub fn finished(database: &Connection, rows: usize) {
    insert(database, rows, 12 * 3_600_000, FINISHED);
    database.run("VACUUM ANALYZE hookstream.events");
    database.run("VACUUM ANALYZE hookstream.finished");
    database.run("VACUUM ANALYZE hookstream.keys");
    database.run("CHECKPOINT");
}

/// Inserts pending events with their idempotency keys, accepted during the last ten minutes and due since.
pub fn pending(database: &Connection, rows: usize) {
    insert(database, rows, 600_000, PENDING);
    for table in ["events", "pending", "keys", "backlog"] {
        database.run(&format!("ANALYZE hookstream.{table}"));
    }
    database.run("CHECKPOINT");
}

fn insert(database: &Connection, rows: usize, spread: u64, deliveries: &str) {
    // The crash safety of the preload is that of the checkpoint at its end.
    database.run("SET synchronous_commit = off");
    let base = database.number("SELECT nextval('hookstream.event_seq')");
    database.run(&format!("SELECT setval('hookstream.event_seq', {})", base + rows as f64 + 1.0));
    for from in (0..rows).step_by(STEP) {
        let mut sql = format!("BEGIN; {EVENTS} {deliveries} COMMIT");
        for (name, value) in [
            ("$BASE", base as u64 + 1),
            ("$SPREAD", spread),
            ("$ALL", rows as u64),
            ("$HOOKS", HOOKS as u64),
            ("$FROM", from as u64),
            ("$TO", (from + STEP).min(rows) as u64 - 1),
            ("$FILLER", DATA_BYTES as u64 - 23),
            ("$SIZE", (DATA_BYTES + COUNTED_BYTES) as u64),
        ] {
            sql = sql.replace(name, &value.to_string());
        }
        database.run(&sql);
    }
}
