//! Namespaces and their places. Rows refer to a place, and a namespace has a new one each time that it is created again, so it
//! finds no data of the deleted one.

use std::collections::HashMap;

use tokio_postgres::types::Type;

use super::super::ALL_NAMESPACES;
use super::failure::DbError;
use super::session::Session;
use super::text;

/// Returns the present place of a namespace. None: the store has no data of it.
pub(super) async fn find(session: &Session, name: &str) -> Result<Option<i64>, DbError> {
    let row = session
        .query_opt(
            "SELECT place FROM hookstream.namespaces WHERE name = $1",
            &[(&text::stored(name).as_ref(), Type::TEXT)],
        )
        .await?;
    row.map(|row| Ok(row.try_get(0)?)).transpose()
}

/// The places whose objects a list has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Selection {
    One(i64),
    /// The present places of all namespaces.
    All,
}

impl Selection {
    /// Returns the place. None: all.
    pub(super) fn place(self) -> Option<i64> {
        match self {
            Selection::One(place) => Some(place),
            Selection::All => None,
        }
    }
}

/// Returns the places of a namespace, or of `ALL_NAMESPACES`. None: the store has no data of it.
pub(super) async fn select(session: &Session, name: &str) -> Result<Option<Selection>, DbError> {
    match name {
        ALL_NAMESPACES => Ok(Some(Selection::All)),
        name => Ok(find(session, name).await?.map(Selection::One)),
    }
}

/// Returns the present places of these namespaces. Inserts those that are missing.
///
/// A missing one that another transaction inserts at the same time is waited for, so the caller must not run at an isolation
/// level above READ COMMITTED.
pub(super) async fn find_or_insert_many(
    session: &Session,
    names: &[&str],
) -> Result<HashMap<String, i64>, DbError> {
    let mut stored: Vec<String> = names.iter().map(|name| text::stored(name).into_owned()).collect();
    // In one order, so that two transactions that insert the same names do not wait for each other.
    stored.sort_unstable();
    stored.dedup();
    let found = find_stored(session, &stored).await?;
    if found.len() == stored.len() {
        return Ok(found);
    }
    session
        .execute(
            "WITH named AS (
                 INSERT INTO hookstream.namespaces (name, place)
                 SELECT name, nextval('hookstream.places_id_seq') FROM unnest($1) AS name
                 ON CONFLICT (name) DO NOTHING RETURNING name, place)
             INSERT INTO hookstream.places (id, name) OVERRIDING SYSTEM VALUE SELECT place, name FROM named",
            &[(&stored, Type::TEXT_ARRAY)],
        )
        .await?;
    find_stored(session, &stored).await
}

/// Returns the places of namespaces by their original names. `stored`: the names as they are stored, each once.
async fn find_stored(session: &Session, stored: &[String]) -> Result<HashMap<String, i64>, DbError> {
    let rows = session
        .query(
            "SELECT name, place FROM hookstream.namespaces WHERE name = ANY($1)",
            &[(&stored, Type::TEXT_ARRAY)],
        )
        .await?;
    rows.iter().map(|row| Ok((text::original(row.try_get(0)?), row.try_get(1)?))).collect()
}

/// Returns the names of all namespaces.
pub(super) async fn names(session: &Session) -> Result<Vec<String>, DbError> {
    let rows = session.query("SELECT name FROM hookstream.namespaces ORDER BY name", &[]).await?;
    rows.iter().map(|row| Ok(text::original(row.try_get(0)?))).collect()
}

/// Records the present uid of a namespace. True: another namespace had this name before, and its place has ended.
pub(super) async fn set_uid(session: &Session, name: &str, uid: Option<&str>) -> Result<bool, DbError> {
    let stored = text::stored(name);
    let stored = stored.as_ref();
    let tx = session.begin().await?;
    let mut row = lock(&tx, stored).await?;
    if row.is_none() && uid.is_some() {
        find_or_insert_many(&tx, &[name]).await?;
        row = lock(&tx, stored).await?;
    }
    let present = match &row {
        Some(row) => (row.try_get::<_, Option<String>>(0)?, row.try_get::<_, i64>(1)?),
        None => (None, 0),
    };
    let (old_uid, place) = present;
    if old_uid.as_deref() == uid {
        tx.rollback().await?;
        return Ok(false);
    }
    let ended = old_uid.is_some();
    if ended {
        end(&tx, stored, place).await?;
    }
    tx.execute(
        "UPDATE hookstream.namespaces SET uid = $2, is_deleted = $3 WHERE name = $1",
        &[(&stored, Type::TEXT), (&uid, Type::TEXT), (&uid.is_none(), Type::BOOL)],
    )
    .await?;
    tx.commit().await?;
    Ok(ended)
}

async fn lock(tx: &Session, stored: &str) -> Result<Option<tokio_postgres::Row>, DbError> {
    let sql = "SELECT uid, place FROM hookstream.namespaces WHERE name = $1 FOR UPDATE";
    tx.query_opt(sql, &[(&stored, Type::TEXT)]).await
}

/// Ends a place, and gives the namespace a new one.
async fn end(tx: &Session, stored: &str, place: i64) -> Result<(), DbError> {
    tx.execute(
        "UPDATE hookstream.places SET ended = true, ended_at = clock_timestamp() WHERE id = $1",
        &[(&place, Type::INT8)],
    )
    .await?;
    tx.execute("DELETE FROM hookstream.replays WHERE place = $1", &[(&place, Type::INT8)]).await?;
    tx.execute(
        "WITH placed AS (INSERT INTO hookstream.places (name) VALUES ($1) RETURNING id)
         UPDATE hookstream.namespaces SET place = (SELECT id FROM placed) WHERE name = $1",
        &[(&stored, Type::TEXT)],
    )
    .await?;
    Ok(())
}
