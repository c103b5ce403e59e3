//! The marks that keep workers away from a store that was copied to another engine, or to which a copy has not finished.
//!
//! A copied store also has triggers that refuse changes: a worker that was suspended while its store was copied would accept
//! events into it otherwise.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio_postgres::types::Type;

use super::super::StoreError;
use super::super::portable::{FENCE, SEALED, Seal, UNFINISHED, UnfinishedCopy};
use super::failure::DbError;
use super::session::Session;

/// The arguments of `hookstream store unseal`.
const UNSEAL: &str = "--store-url URL";

/// Tables that every worker changes, those with deliveries, and those of a standalone's controller.
const FENCED: [&str; 10] =
    ["workers", "writers", "events", "pending", "finished", "hooks", "gates", "replays", "objects", "leases"];

/// Fails if a worker must not use the store. The tables must exist.
pub(super) async fn refuse_marked(session: &Session) -> Result<(), DbError> {
    if let Some(seal) = seal(session).await? {
        return Err(seal.refusal(UNSEAL).into());
    }
    match unfinished(session).await? {
        Some(copy) => Err(copy.refusal(UNSEAL).into()),
        None => Ok(()),
    }
}

/// Returns where the data was copied.
pub(super) async fn seal(session: &Session) -> Result<Option<Seal>, DbError> {
    read(session, SEALED).await
}

/// Returns the copy to this store that has not finished.
pub(super) async fn unfinished(session: &Session) -> Result<Option<UnfinishedCopy>, DbError> {
    read(session, UNFINISHED).await
}

/// Returns the oldest format that a program must know, as it is without a mark. None: it has no mark.
pub(super) async fn min_reader(session: &Session) -> Result<Option<i64>, DbError> {
    #[derive(Deserialize)]
    struct Mark {
        min_reader: i64,
    }
    let sealed: Option<Mark> = read(session, SEALED).await?;
    let unfinished: Option<Mark> = read(session, UNFINISHED).await?;
    Ok(sealed.or(unfinished).map(|mark| mark.min_reader))
}

/// Marks the store as copied, and makes the database refuse changes of it. In the transaction of the caller.
pub(super) async fn set_seal(tx: &Session, seal: &Seal) -> Result<(), DbError> {
    set(tx, SEALED, seal).await?;
    let mut sql = "
CREATE OR REPLACE FUNCTION hookstream.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'this store was copied to another one, see `hookstream store check`'
        USING ERRCODE = 'read_only_sql_transaction';
END $$;"
        .to_owned();
    for table in FENCED {
        sql += &format!(
            "CREATE TRIGGER sealed BEFORE INSERT OR UPDATE OR DELETE ON hookstream.{table}
             FOR EACH STATEMENT EXECUTE FUNCTION hookstream.refuse_change();"
        );
    }
    tx.batch(&sql).await
}

/// Undoes `set_seal`, in the transaction of the caller.
pub(super) async fn remove_seal(tx: &Session, seal: &Seal) -> Result<(), DbError> {
    let drops = FENCED.map(|table| format!("DROP TRIGGER IF EXISTS sealed ON hookstream.{table};")).concat();
    tx.batch(&(drops + "DROP FUNCTION IF EXISTS hookstream.refuse_change();")).await?;
    remove(tx, SEALED, seal.min_reader).await
}

/// Marks the store as the target of a copy.
pub(super) async fn set_unfinished(tx: &Session, copy: &UnfinishedCopy) -> Result<(), DbError> {
    set(tx, UNFINISHED, copy).await
}

/// Undoes `set_unfinished`.
pub(super) async fn remove_unfinished(tx: &Session, copy: &UnfinishedCopy) -> Result<(), DbError> {
    remove(tx, UNFINISHED, copy.min_reader).await
}

const SET: &str = "
INSERT INTO hookstream.meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";

/// Stores a value in the table `meta`.
pub(super) async fn set_meta(tx: &Session, name: &str, value: &str) -> Result<(), DbError> {
    tx.execute(SET, &[(&name, Type::TEXT), (&value, Type::TEXT)]).await.map(drop)
}

async fn set(tx: &Session, name: &str, mark: &impl Serialize) -> Result<(), DbError> {
    let mark = serde_json::to_string(mark).map_err(|error| DbError::Unreadable(error.to_string()))?;
    set_meta(tx, name, &mark).await?;
    set_meta(tx, "min_reader", &FENCE.to_string()).await
}

async fn remove(tx: &Session, name: &str, min_reader: i64) -> Result<(), DbError> {
    tx.execute("DELETE FROM hookstream.meta WHERE name = $1", &[(&name, Type::TEXT)]).await?;
    set_meta(tx, "min_reader", &min_reader.to_string()).await
}

async fn read<T: DeserializeOwned>(session: &Session, name: &str) -> Result<Option<T>, DbError> {
    let sql = "SELECT value FROM hookstream.meta WHERE name = $1";
    let Some(row) = session.query_opt(sql, &[(&name, Type::TEXT)]).await? else { return Ok(None) };
    let damaged =
        |error| StoreError::Open(format!("its row {name} in the table meta cannot be read: {error}"));
    Ok(Some(serde_json::from_str(row.try_get(0)?).map_err(damaged)?))
}
