//! Namespaces that are deleted and created again: records their uids, and removes the data of deleted ones.

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::super::DeliverySeq;
use super::cache::WriterCache;
use super::exchanges;
use super::gates;
use super::materialize;
use super::sequence;

/// Records the present uid of a namespace. True: another namespace had this name before, and its data is detached now.
pub(super) fn set_uid(
    conn: &Connection,
    cache: &mut WriterCache,
    name: &str,
    uid: Option<&str>,
) -> rusqlite::Result<bool> {
    let stored: Option<(Option<String>, String, i64)> = conn
        .prepare_cached("SELECT uid, place, keys_until FROM namespaces WHERE name = ?1")?
        .query_row([name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let (old_uid, key, mut keys_until) = stored.unwrap_or_else(|| (None, name.to_owned(), 0));
    if old_uid.as_deref() == uid {
        return Ok(false);
    }
    let ended = old_uid.is_some();
    let key = match ended {
        true => {
            conn.execute("INSERT OR IGNORE INTO ended (place) VALUES (?1)", [&key])?;
            conn.execute("DELETE FROM replays WHERE namespace = ?1", [&key])?;
            keys_until = keys_until.max(cache.keys.latest_expiry());
            format!("{name}/{}", Uuid::now_v7())
        }
        false => key,
    };
    conn.execute(
        "INSERT OR REPLACE INTO namespaces (name, uid, place, keys_until) VALUES (?1, ?2, ?3, ?4)",
        params![name, uid, key, keys_until],
    )?;
    cache.flush(conn)?;
    cache.clear();
    Ok(ended)
}

/// Removes up to `rows` rows of hooks and deliveries of deleted namespaces, or prepares as many for it. `ended_events` removes
/// the other rows. Returns how many rows it changed; 0: there
/// are none. Bounded, because the disk reserve has space for few.
pub(super) fn sweep(conn: &Connection, cache: &mut WriterCache, rows: i64) -> rusqlite::Result<i64> {
    let with_hooks: Option<String> = conn
        .prepare_cached(
            "SELECT place FROM ended WHERE EXISTS (
                 SELECT 1 FROM hooks INDEXED BY hooks_name WHERE namespace = place) LIMIT 1",
        )?
        .query_row([], |row| row.get(0))
        .optional()?;
    let Some(key) = with_hooks else { return Ok(0) };
    // Otherwise a delivery would be materialized after the row of its hook is removed.
    let materialized = materialize::materialize_of_key(conn, cache, &key, rows)?;
    if materialized > 0 {
        return Ok(materialized);
    }
    let hook: Option<i64> = conn
        .prepare_cached("SELECT id FROM hooks INDEXED BY hooks_name WHERE namespace = ?1 LIMIT 1")?
        .query_row([&key], |row| row.get(0))
        .optional()?;
    match hook {
        Some(hook) => sweep_hook(conn, cache, hook, rows),
        None => Ok(0),
    }
}

/// Materializes deliveries, so that the watermark advances. Rows after it must stay (see `materialize`), and deliveries of
/// other namespaces may keep it back for long.
pub(super) fn advance_further(
    conn: &Connection,
    cache: &mut WriterCache,
    rows: i64,
) -> rusqlite::Result<i64> {
    materialize::materialize_oldest(conn, cache, rows)?;
    Ok(rows)
}

fn sweep_hook(conn: &Connection, cache: &mut WriterCache, hook: i64, rows: i64) -> rusqlite::Result<i64> {
    if gates::dissolve(conn, cache, hook, rows)? {
        return Ok(rows);
    }
    let last = sequence::last_delivery(materialize::advance_watermark(conn, cache)?);
    let deliveries = conn
        .prepare_cached(
            "SELECT seq FROM deliveries INDEXED BY deliveries_list WHERE hook = ?1 AND seq <= ?3 LIMIT ?2",
        )?
        .query_map(params![hook, rows, last], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<DeliverySeq>>>()?;
    for delivery in &deliveries {
        conn.prepare_cached("DELETE FROM attempts WHERE delivery = ?1")?.execute([delivery])?;
        exchanges::remove(conn, *delivery)?;
        conn.prepare_cached("DELETE FROM deliveries WHERE seq = ?1")?.execute([delivery])?;
    }
    if deliveries.is_empty() {
        let watermark = materialize::advance_watermark(conn, cache)?;
        let limit = usize::try_from(rows).unwrap_or(usize::MAX);
        let removed = cache.outcomes.remove_of_hook(conn, hook, watermark, limit)?;
        if removed > 0 {
            return Ok(i64::try_from(removed).unwrap_or(rows));
        }
        let has_later: bool = conn
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_list WHERE hook = ?1)
                     OR EXISTS (SELECT 1 FROM outcome_index WHERE kind = 0 AND owner = ?1)",
            )?
            .query_row([hook], |row| row.get(0))?;
        if has_later || cache.outcomes.has_recent(hook) {
            return advance_further(conn, cache, rows);
        }
        // Drops the cached hook before its row, so that no flush writes a count for a removed hook.
        cache.flush(conn)?;
        cache.clear();
        conn.execute("DELETE FROM hooks WHERE id = ?1", [hook])?;
    }
    Ok(i64::try_from(deliveries.len()).unwrap_or(rows).max(1))
}
