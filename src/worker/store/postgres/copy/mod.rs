//! A database as a source or a target of a copy between engines.
//!
//! A source is read under locks that keep every worker from changing it, and sealed in the same transaction. A target is
//! written in one transaction with COPY, so nothing of it is visible before the end.

mod counts;
mod read;
mod source;
mod target;
mod write;

use tokio_postgres::types::Type;

pub(in super::super) use source::PostgresSource;
pub(in super::super) use target::PostgresTarget;

use super::super::StoreError;
use super::connect::PostgresOptions;
use super::connections::Connections;
use super::failure::DbError;
use super::session::Session;
use super::{markers, schema};

/// The key of the advisory lock of a copy: "HkCp".
const LOCK: i64 = 0x486b_4370;

/// Opens a connection of its own, for a transaction that lasts as long as a copy.
async fn connect(connections: &Connections) -> Result<Session, DbError> {
    let session = connections.dedicated().await?;
    if !session.is_direct() {
        return Err(StoreError::Open(
            "a copy needs a connection to the server itself: give its address instead of that of PgBouncer"
                .into(),
        )
        .into());
    }
    Ok(session)
}

/// Begins a transaction that waits for no lock for long, and that may last and be idle as long as it needs.
async fn begin(session: &Session) -> Result<(), DbError> {
    session.begin().await?;
    session
        .batch(
            "SET LOCAL lock_timeout = '20s'; SET LOCAL statement_timeout = 0;
             SET LOCAL idle_in_transaction_session_timeout = 0",
        )
        .await
}

/// Takes the locks of a statement, and waits for them for up to 20 s.
async fn lock_tables(tx: &Session, sql: &str) -> Result<(), DbError> {
    match tx.batch(sql).await {
        Err(error) if error.is_conflict() => Err(StoreError::Open(
            "another process has locks on its tables for more than 20 s: end its transaction, such as that of pg_dump or of an idle session".into(),
        )
        .into()),
        locked => locked,
    }
}

/// Fails while another copy uses the database. The lock ends with the transaction.
async fn lock_for_copy(tx: &Session) -> Result<(), DbError> {
    let row = tx.query_one("SELECT pg_try_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)]).await?;
    match row.try_get(0)? {
        true => Ok(()),
        false => Err(StoreError::Open("another copy uses the database: wait for its end".into()).into()),
    }
}

/// Fails while workers use the database.
async fn refuse_workers(session: &Session) -> Result<(), DbError> {
    let sql =
        "SELECT name FROM hookstream.workers WHERE lease_until > clock_timestamp() ORDER BY name LIMIT 5";
    let rows = session.query(sql, &[]).await?;
    let names: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    if names.is_empty() {
        return Ok(());
    }
    let names = names.join(", ");
    Err(StoreError::Open(format!(
        "workers use it ({names}): stop them first. One that was killed counts for another 10 s"
    ))
    .into())
}

async fn installation(session: &Session) -> Result<Option<String>, DbError> {
    let sql = "SELECT value FROM hookstream.meta WHERE name = 'installation'";
    Ok(session.query_opt(sql, &[]).await?.map(|row| row.try_get(0)).transpose()?)
}

/// Makes the store of a database usable again after a copy from it, or forgets an unfinished copy to it. Returns what it did,
/// for people.
pub(in super::super) async fn unseal(options: &PostgresOptions) -> Result<String, StoreError> {
    let connections = Connections::connect(options).await?;
    let session = connections.session().await?;
    schema::check(schema::format(&session).await?)?;
    let tx = session.begin().await?;
    lock_for_copy(&tx).await?;
    let done = if let Some(copy) = markers::unfinished(&tx).await? {
        markers::remove_unfinished(&tx, &copy).await?;
        format!("removed the unfinished copy from {}", copy.from)
    } else if let Some(seal) = markers::seal(&tx).await? {
        markers::remove_seal(&tx, &seal).await?;
        format!("workers can use it again; its data is also in {}", seal.to)
    } else {
        "nothing to do: its data was not copied".to_owned()
    };
    tx.commit().await?;
    Ok(done)
}
