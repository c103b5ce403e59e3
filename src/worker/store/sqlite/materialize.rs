//! Materializes deliveries: gives a delivery a row of its own.
//!
//! Most deliveries are sent at once and succeed at the first attempt. Inserting a row for each at acceptance, and
//! changing that row and its index entries after delivery, would cause most of the disk writes. So for a delivery that
//! is due at once, acceptance only adds a note, a short binary record, to its event's row (`events.handed`). If the first
//! attempt delivers it, it becomes an outcome (`outcomes`) and never gets a row. Otherwise its row is inserted.
//!
//! Invariants:
//! - The writer materializes all deliveries before rare writes that change pending ones (`SqliteStore::write`). Reads use the
//!   notes (`outcomes::Recent`) and write nothing.
//! - Every delivery of an event up to the watermark (`meta.filed`) has a row or an outcome, so a start searches only the few
//!   events after it.
//! - `sweep` removes nothing after the watermark. Otherwise a finished delivery would become pending again. A round of sweeps
//!   materializes old pending deliveries first, so that the watermark advances.
//! - Event sequence numbers are never reused, because the stored watermark is at or above every removed event.

use rusqlite::{Connection, params};

use super::super::{AttemptRecord, DeliverySeq, EventSeq, Settlement};
use super::cache::WriterCache;
use super::rows;
use super::unmaterialized::Unmaterialized;

/// The most deliveries that are materialized in one step, for which ingest waits.
const BATCH: usize = 1024;

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

/// Inserts the row of a delivery that the first attempt delivered, if it can have no outcome.
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

/// Materializes up to `rows` deliveries of the namespace with this key, oldest first. Returns how many.
pub(super) fn materialize_of_key(
    conn: &Connection,
    cache: &mut WriterCache,
    key: &str,
    rows: i64,
) -> rusqlite::Result<i64> {
    let limit = usize::try_from(rows).unwrap_or(usize::MAX);
    let seqs = cache.unmaterialized_of_namespace(conn, key, limit)?;
    let count = i64::try_from(seqs.len()).unwrap_or(rows);
    seqs.into_iter().try_for_each(|seq| materialize_one(conn, cache, seq))?;
    Ok(count)
}

/// Materializes the oldest deliveries if there are too many, or if an old one keeps the watermark far behind. Must run
/// before every COMMIT. `watermark_lag`: events by which the stored watermark may lag behind. Returns the stored watermark.
pub(super) fn enforce_bounds(
    conn: &Connection,
    cache: &mut WriterCache,
    watermark_lag: EventSeq,
) -> rusqlite::Result<EventSeq> {
    if cache.unmaterialized(conn)?.is_over_bounds() || cache.outcomes.is_over_bounds() {
        materialize_oldest(conn, cache, rows::limit(BATCH))?;
    }
    cache.unmaterialized(conn)?.store_watermark(conn, watermark_lag)
}

/// Materializes one batch of deliveries that were due at or before `due`, oldest first. True: there may be more.
///
/// Retention removes nothing after the watermark, so a hook that is held or slow must not keep it for long.
pub(super) fn materialize_due_before(
    conn: &Connection,
    cache: &mut WriterCache,
    due: i64,
) -> rusqlite::Result<bool> {
    for _ in 0..BATCH {
        let Some((seq, _)) = cache.unmaterialized(conn)?.iter().next().filter(|(_, noted)| noted.due <= due)
        else {
            return Ok(false);
        };
        materialize_one(conn, cache, seq)?;
    }
    Ok(true)
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

/// Materializes a delivery, if it has no row yet.
pub(super) fn materialize_one(
    conn: &Connection,
    cache: &mut WriterCache,
    seq: DeliverySeq,
) -> rusqlite::Result<()> {
    match cache.take_unmaterialized(conn, seq)? {
        Some((delivery, namespace)) => materialize_pending(conn, cache, seq, (&delivery, namespace)),
        None => Ok(()),
    }
}
