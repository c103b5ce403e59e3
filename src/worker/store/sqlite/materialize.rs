//! Materializes deliveries: gives a delivery a row of its own.
//!
//! Most deliveries are sent at once and succeed at the first attempt. Inserting a row for each at acceptance, and
//! changing that row and its index entries after delivery, would cause most of the disk writes. So for a delivery that
//! is due at once, acceptance only adds a note, a short binary record, to its event's row (`events.handed`). When the
//! outcome is known, one statement inserts the row, usually as delivered.
//!
//! Invariants:
//! - Before a read of the delivery tables, the writer materializes all deliveries (`SqliteStore::read`), or those of the
//!   namespace that is read (`SqliteStore::read_history`). It also does so before every operation except `accept`,
//!   `settle`, `promote`, `sweep` and steps of bulk replays. If there is no space for rows, the dispatcher's reads use
//!   the notes.
//! - Every delivery of an event up to the watermark (`meta.filed`) has a row, so a start searches only the few events
//!   after it.
//! - `sweep` removes nothing after the watermark. Otherwise a finished delivery would become pending again.
//! - Event sequence numbers are never reused, because the stored watermark is at or above every removed event.

use rusqlite::{Connection, params};

use super::super::{AttemptRecord, DeliverySeq, EventSeq, Settlement};
use super::cache::WriterCache;
use super::rows;
use super::sequence;
use super::unmaterialized::Unmaterialized;

/// The most deliveries that are materialized in one step, for which ingest waits.
const BATCH: usize = 1024;
/// How many events the stored watermark may lag behind.
const WATERMARK_LAG: EventSeq = 1024;

/// Inserts the row of a pending delivery.
pub(super) fn materialize_pending(
    conn: &Connection,
    cache: &mut WriterCache,
    seq: DeliverySeq,
    (delivery, namespace): (&Unmaterialized, i64),
) -> rusqlite::Result<()> {
    let Unmaterialized { hook, id, due, held_before, size } = delivery;
    // IGNORE, so that a colliding id (practically impossible) does not block the materialization of all other
    // deliveries.
    conn.prepare_cached(
        "INSERT OR IGNORE INTO deliveries (seq, hook, id, state, attempts, due, size, held_before, namespace)
         VALUES (?1, ?2, ?3, 0, 0, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![seq, hook, id, due, size, held_before, namespace])?;
    cache.count(conn, *hook, *size)
}

/// Inserts the row of a delivery that the first attempt delivered.
pub(super) fn materialize_delivered(
    conn: &Connection,
    seq: DeliverySeq,
    (delivery, namespace): (&Unmaterialized, i64),
    settlement: &Settlement,
    attempt: &AttemptRecord,
) -> rusqlite::Result<()> {
    let Unmaterialized { hook, id, due, held_before, size } = delivery;
    conn.prepare_cached(
        "INSERT OR IGNORE INTO deliveries (seq, hook, id, state, attempts, due, finished_at, size, held_before,
                                           first_at, first_micros, first_status, namespace)
         VALUES (?1, ?2, ?3, 1, 1, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        seq,
        hook,
        id,
        due,
        settlement.at.0,
        -size,
        held_before,
        attempt.at.0,
        rows::micros(attempt),
        attempt.status,
        namespace,
    ])?;
    Ok(())
}

/// Materializes all deliveries.
pub(super) fn materialize_all(conn: &Connection, cache: &mut WriterCache) -> rusqlite::Result<()> {
    materialize_oldest(conn, cache, i64::MAX)?;
    cache.unmaterialized(conn)?.store_watermark(conn, 0).map(drop)
}

/// Materializes one batch of deliveries, oldest first, towards the event `target`. None: towards the current last
/// event.
///
/// Returns the target, for the next call, and whether deliveries before it remain.
pub(super) fn materialize_batch(
    conn: &Connection,
    cache: &mut WriterCache,
    target: Option<EventSeq>,
) -> rusqlite::Result<(EventSeq, bool)> {
    let target = target.unwrap_or(cache.unmaterialized(conn)?.last_event());
    materialize_oldest(conn, cache, rows::limit(BATCH))?;
    let unmaterialized = cache.unmaterialized(conn)?;
    Ok((target, unmaterialized.store_watermark(conn, 0)? < target))
}

/// Materializes one batch of a namespace's deliveries, oldest first, up to the event `target`. None: up to the current
/// last event.
///
/// Returns the target, for the next call, and whether deliveries before it may remain. Leaves other namespaces'
/// deliveries unmaterialized, so that one namespace's lists cause no writes for another's deliveries.
pub(super) fn materialize_namespace(
    conn: &Connection,
    cache: &mut WriterCache,
    namespace: &str,
    target: Option<EventSeq>,
) -> rusqlite::Result<(EventSeq, bool)> {
    let target = target.unwrap_or(cache.unmaterialized(conn)?.last_event());
    let key = cache.namespace_keys.get(conn, namespace)?;
    let last = sequence::last_delivery(target);
    let seqs = cache.unmaterialized_of_namespace(conn, &key, last, BATCH)?;
    let has_more = seqs.len() == BATCH;
    seqs.into_iter().try_for_each(|seq| materialize_one(conn, cache, seq))?;
    Ok((target, has_more))
}

/// Materializes up to `rows` deliveries of the namespace with this key, oldest first. Returns how many.
pub(super) fn materialize_of_key(
    conn: &Connection,
    cache: &mut WriterCache,
    key: &str,
    rows: i64,
) -> rusqlite::Result<i64> {
    let limit = usize::try_from(rows).unwrap_or(usize::MAX);
    let seqs = cache.unmaterialized_of_namespace(conn, key, DeliverySeq::MAX, limit)?;
    let count = i64::try_from(seqs.len()).unwrap_or(rows);
    seqs.into_iter().try_for_each(|seq| materialize_one(conn, cache, seq))?;
    Ok(count)
}

/// Materializes the deliveries of an event.
pub(super) fn materialize_event(
    conn: &Connection,
    cache: &mut WriterCache,
    event: EventSeq,
) -> rusqlite::Result<()> {
    let seqs = cache.unmaterialized(conn)?.of_event(event);
    seqs.into_iter().try_for_each(|seq| materialize_one(conn, cache, seq))
}

/// Materializes the oldest deliveries if there are too many, or if an old one keeps the watermark far behind. Must run
/// before every COMMIT.
pub(super) fn enforce_bounds(conn: &Connection, cache: &mut WriterCache) -> rusqlite::Result<()> {
    if cache.unmaterialized(conn)?.is_over_bounds() {
        materialize_oldest(conn, cache, rows::limit(BATCH))?;
    }
    cache.unmaterialized(conn)?.store_watermark(conn, WATERMARK_LAG).map(drop)
}

/// Advances the watermark as far as possible without materializing anything, and returns it. Callers must not sweep
/// events after it.
pub(super) fn advance_watermark(conn: &Connection, cache: &mut WriterCache) -> rusqlite::Result<EventSeq> {
    cache.unmaterialized(conn)?.store_watermark(conn, 0)
}

/// Materializes up to `rows` deliveries, oldest first.
pub(super) fn materialize_oldest(
    conn: &Connection,
    cache: &mut WriterCache,
    rows: i64,
) -> rusqlite::Result<()> {
    for _ in 0..rows {
        let Some(seq) = cache.unmaterialized(conn)?.oldest() else { break };
        materialize_one(conn, cache, seq)?;
    }
    Ok(())
}

fn materialize_one(conn: &Connection, cache: &mut WriterCache, seq: DeliverySeq) -> rusqlite::Result<()> {
    match cache.take_unmaterialized(conn, seq)? {
        Some((delivery, namespace)) => materialize_pending(conn, cache, seq, (&delivery, namespace)),
        None => Ok(()),
    }
}
