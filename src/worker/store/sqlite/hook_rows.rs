//! Removes rows of hooks that have nothing left in the store, and rows of deleted namespaces.
//!
//! A store does not know which hooks exist. A hook's row is of use while the hook has deliveries, gate memory or a hold;
//! a later delivery inserts it again. Without the removal, a namespace that creates and deletes hooks would fill the
//! table, and every query of all hooks would slow down.

use rusqlite::{Connection, OptionalExtension};

use super::cache::WriterCache;
use super::namespace_keys::{self, NamespaceKeys};
use super::outcomes::Snapshot;
use crate::core::fast_map::FastSet;
use crate::core::time::Millis;

/// Hooks that one statement of `find_unused` examines.
const EXAMINED: i64 = 5000;
/// About the most hooks that `find_unused` returns.
const MAX_FOUND: usize = 20_000;

/// True for a hook `h` without deliveries, outcomes in segments, gate memory, candidates and a hold. Five index seeks.
macro_rules! has_nothing_left {
    () => {
        "h.held_since IS NULL
    AND NOT EXISTS (SELECT 1 FROM deliveries d INDEXED BY deliveries_list WHERE d.hook = h.id)
    AND NOT EXISTS (SELECT 1 FROM outcome_index o WHERE o.kind = 0 AND o.owner = h.id)
    AND NOT EXISTS (SELECT 1 FROM gates g WHERE g.hook = h.id)
    AND NOT EXISTS (SELECT 1 FROM candidates c WHERE c.hook = h.id)"
    };
}

pub(super) const UNUSED: &str =
    concat!("SELECT h.uid, h.namespace FROM hooks h WHERE h.id = ?1 AND ", has_nothing_left!());

pub(super) const FIND_UNUSED: &str =
    concat!("SELECT h.id, ", has_nothing_left!(), " FROM hooks h WHERE h.id > ?1 ORDER BY h.id LIMIT ?2");

/// Removes the row of a hook that has nothing left. True: removed.
pub(super) fn remove_if_unused(
    conn: &Connection,
    cache: &mut WriterCache,
    hook: i64,
) -> rusqlite::Result<bool> {
    if cache.has_unmaterialized(conn, hook)? {
        return Ok(false);
    }
    let unused: Option<(String, String)> =
        conn.prepare_cached(UNUSED)?.query_row([hook], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((uid, namespace_key)) = unused else { return Ok(false) };
    if cache.outcomes.has_recent(hook) {
        return Ok(false);
    }
    cache.remove_hook(hook, &uid);
    conn.prepare_cached("DELETE FROM hooks WHERE id = ?1")?.execute([hook])?;
    if namespace_keys::remove_unused_number(conn, &namespace_key)? {
        cache.remove_namespace(&namespace_key);
    }
    Ok(true)
}

/// Finds hooks without anything, for a caller outside the writer's thread: rows that older programs left, and hooks whose
/// gate memory or hold ended after their last delivery was removed. A hook may have a delivery that is newer than `recent`.
pub(super) fn find_unused(conn: &Connection, recent: &Snapshot) -> rusqlite::Result<Vec<i64>> {
    let used: FastSet<i64> = recent.iter().map(|(_, delivery)| delivery.hook()).collect();
    let (mut unused, mut last) = (Vec::new(), 0);
    let mut examine = conn.prepare_cached(FIND_UNUSED)?;
    // Each part is a snapshot of its own, because a long one would keep the log from restarting.
    while unused.len() < MAX_FOUND {
        let examined = examine
            .query_map([last, EXAMINED], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<Vec<(i64, bool)>>>()?;
        let Some((end, _)) = examined.last() else { break };
        last = *end;
        let is_unused = |(hook, is_unused)| (is_unused && !used.contains(&hook)).then_some(hook);
        unused.extend(examined.into_iter().filter_map(is_unused));
    }
    Ok(unused)
}

/// Removes the rows of those hooks that have nothing left.
pub(super) fn remove_unused(
    conn: &Connection,
    cache: &mut WriterCache,
    hooks: &[i64],
) -> rusqlite::Result<()> {
    hooks.iter().try_for_each(|hook| remove_if_unused(conn, cache, *hook).map(drop))
}

/// Removes up to `rows` rows of deleted namespaces without data, and returns how many.
///
/// The name then stands for itself again as a key (`namespace_keys`), so the rows of the first namespace of that name
/// must be removed before, and its idempotency keys must have expired. Events that no hook received after the deletion stay
/// under the key that is forgotten, and retention removes them.
pub(super) fn sweep_namespaces(
    conn: &Connection,
    cache: &mut WriterCache,
    now: Millis,
    rows: i64,
) -> rusqlite::Result<usize> {
    let removed = conn.prepare_cached(EMPTY_NAMESPACES)?.execute([rows, now.0])?;
    if removed > 0 {
        cache.namespace_keys = NamespaceKeys::default();
    }
    Ok(removed)
}

pub(super) const EMPTY_NAMESPACES: &str = "
DELETE FROM namespaces WHERE name IN (
    SELECT n.name FROM namespaces n INDEXED BY namespaces_deleted WHERE n.uid IS NULL AND n.keys_until <= ?2
        AND NOT EXISTS (SELECT 1 FROM ended e WHERE e.place = n.name)
        AND NOT EXISTS (SELECT 1 FROM hooks h INDEXED BY hooks_name WHERE h.namespace = n.place)
        AND NOT EXISTS (SELECT 1 FROM replays r WHERE r.namespace = n.place)
    LIMIT ?1)";
