//! The rows of hooks: found by uid, inserted when a delivery needs them.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::super::HookId;
use super::failure::DbError;
use super::places::Selection;
use super::rows::{shared, total_held};
use super::session::Session;
use super::shard::shard_of;
use super::text;
use crate::core::fast_map::FastMap;
use crate::core::time::Millis;

/// A hook as the store knows it.
#[derive(Clone, Debug)]
pub(super) struct HookRow {
    pub(super) row_id: i64,
    pub(super) id: HookId,
    pub(super) place: i64,
    held: i64,
    held_since: Option<i64>,
    is_retired: bool,
}

impl HookRow {
    /// Returns how long it was held in total up to `now`, in milliseconds.
    pub(super) fn total_held(&self, now: Millis) -> i64 {
        total_held(self.held, self.held_since, now)
    }

    /// Reads the columns of `HOOK_COLUMNS`.
    pub(super) fn read(row: &Row) -> Result<Self, DbError> {
        Ok(HookRow {
            row_id: row.try_get("hook_row")?,
            id: hook_id(row)?,
            place: row.try_get("hook_place")?,
            held: row.try_get("held")?,
            held_since: row.try_get("held_since")?,
            is_retired: row.try_get("is_retired")?,
        })
    }
}

/// The columns of a hook, of the table `h` and its namespace's row `hp` (`places`).
pub(super) const HOOK_COLUMNS: &str = "h.id AS hook_row, h.uid AS hook_uid, hp.name AS hook_namespace, h.name AS hook_name, h.place AS hook_place, h.held, h.held_since, h.retired IS NOT NULL AS is_retired";

/// Reads the identity of a hook from `HOOK_COLUMNS`.
pub(super) fn hook_id(row: &Row) -> Result<HookId, DbError> {
    Ok(HookId {
        uid: shared(row, "hook_uid")?,
        namespace: shared(row, "hook_namespace")?,
        name: shared(row, "hook_name")?,
    })
}

/// Finds the hooks with these uids.
pub(super) async fn find_many(
    session: &Session,
    uids: &[&str],
) -> Result<FastMap<Arc<str>, HookRow>, DbError> {
    let sql = format!(
        "SELECT {HOOK_COLUMNS} FROM hookstream.hooks h JOIN hookstream.places hp ON hp.id = h.place
         WHERE h.uid = ANY($1)"
    );
    let rows = session.query(&sql, &[(&uids, Type::TEXT_ARRAY)]).await?;
    rows.iter().map(|row| HookRow::read(row).map(|hook| (hook.id.uid.clone(), hook))).collect()
}

/// Finds a hook.
pub(super) async fn find(session: &Session, uid: &str) -> Result<Option<HookRow>, DbError> {
    Ok(find_many(session, &[uid]).await?.into_values().next())
}

/// Finds these hooks, and inserts those that have no row. `places`: the present place of each of their namespaces.
pub(super) async fn find_or_insert_many(
    session: &Session,
    hooks: &FastMap<Arc<str>, &HookId>,
    places: &HashMap<String, i64>,
) -> Result<FastMap<Arc<str>, HookRow>, DbError> {
    let uids: Vec<&str> = hooks.keys().map(|uid| &**uid).collect();
    let found = find_many(session, &uids).await?;
    insert_missing(session, hooks, found, places).await
}

/// Inserts those of these hooks that were not found. Returns all of them. `places`: the present place of each namespace.
pub(super) async fn insert_missing(
    session: &Session,
    hooks: &FastMap<Arc<str>, &HookId>,
    mut found: FastMap<Arc<str>, HookRow>,
    places: &HashMap<String, i64>,
) -> Result<FastMap<Arc<str>, HookRow>, DbError> {
    let mut uids: Vec<&str> = hooks.keys().map(|uid| &**uid).collect();
    let retired: Vec<i64> = found.values().filter(|hook| hook.is_retired).map(|hook| hook.row_id).collect();
    if !retired.is_empty() {
        // The sweep may be removing it, and its delivery would then have no hook. One that is gone is inserted again.
        let sql = "UPDATE hookstream.hooks SET retired = NULL WHERE id = ANY($1)";
        session.execute(sql, &[(&retired, Type::INT8_ARRAY)]).await?;
        found = find_many(session, &uids).await?;
    }
    uids.retain(|uid| !found.contains_key(*uid));
    if uids.is_empty() {
        return Ok(found);
    }
    // Sorted, so that two workers that insert the same hooks do not wait for each other in a circle.
    uids.sort_unstable();
    let (mut of_places, mut names, mut shards) = (Vec::new(), Vec::new(), Vec::new());
    for uid in &uids {
        let Some(hook) = hooks.get(*uid) else { continue };
        let place = places.get(&*hook.namespace);
        of_places.push(
            *place.ok_or_else(|| DbError::Unreadable(format!("namespace {} has no row", hook.namespace)))?,
        );
        names.push(&*hook.name);
        shards.push(shard_of(uid));
    }
    session
        .execute(
            "INSERT INTO hookstream.hooks (uid, place, name, shard)
             SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::smallint[])
             ON CONFLICT (uid) DO NOTHING",
            &[
                (&uids, Type::TEXT_ARRAY),
                (&of_places, Type::INT8_ARRAY),
                (&names, Type::TEXT_ARRAY),
                (&shards, Type::INT2_ARRAY),
            ],
        )
        .await?;
    let all: Vec<&str> = hooks.keys().map(|uid| &**uid).collect();
    find_many(session, &all).await
}

/// Returns the row ids of the hooks that have or had a name.
pub(super) async fn of_name(session: &Session, places: Selection, name: &str) -> Result<Vec<i64>, DbError> {
    let name = text::stored(name);
    let name = (&name.as_ref() as _, Type::TEXT);
    let rows = match places {
        Selection::One(place) => {
            let sql = "SELECT id FROM hookstream.hooks WHERE place = $2 AND name = $1";
            session.query(sql, &[name, (&place, Type::INT8)]).await?
        }
        Selection::All => {
            let sql = "SELECT h.id FROM hookstream.hooks h JOIN hookstream.namespaces n ON n.place = h.place
                       WHERE h.name = $1";
            session.query(sql, &[name]).await?
        }
    };
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Finds the hooks with these row ids.
pub(super) async fn find_rows(session: &Session, row_ids: &[i64]) -> Result<FastMap<i64, HookRow>, DbError> {
    if row_ids.is_empty() {
        return Ok(FastMap::default());
    }
    let sql = format!(
        "SELECT {HOOK_COLUMNS} FROM hookstream.hooks h JOIN hookstream.places hp ON hp.id = h.place
         WHERE h.id = ANY($1)"
    );
    let rows = session.query(&sql, &[(&row_ids, Type::INT8_ARRAY)]).await?;
    rows.iter().map(|row| HookRow::read(row).map(|hook| (hook.row_id, hook))).collect()
}

/// Starts or ends a hold of a hook. The present value changes nothing.
pub(super) async fn set_held(session: &Session, hook: i64, held: bool, now: Millis) -> Result<(), DbError> {
    let sql = if held {
        "UPDATE hookstream.hooks SET held_since = $2 WHERE id = $1 AND held_since IS NULL"
    } else {
        "UPDATE hookstream.hooks SET held = held + greatest($2 - held_since, 0), held_since = NULL
         WHERE id = $1 AND held_since IS NOT NULL"
    };
    session.execute(sql, &[(&hook, Type::INT8), (&now.0, Type::INT8)]).await.map(drop)
}

/// Gives the row of a hook to another hook of the same name, with everything that refers to it.
pub(super) async fn rename(session: &Session, hook: i64, to: &HookId) -> Result<(), DbError> {
    session
        .execute(
            "UPDATE hookstream.hooks SET uid = $2, name = $3, shard = $4 WHERE id = $1",
            &[
                (&hook, Type::INT8),
                (&&*to.uid, Type::TEXT),
                (&&*to.name, Type::TEXT),
                (&shard_of(&to.uid), Type::INT2),
            ],
        )
        .await
        .map(drop)
}
