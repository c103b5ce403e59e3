//! The tables and their migrations, in the schema `hookstream` of the database.
//!
//! A release first expands the tables (what older programs may ignore, `min_reader` unchanged), and one release later it may
//! contract them. So the previous and the new version work together during a rollout. Migrations run under an advisory lock:
//! of several processes that start at once, one migrates and the others wait.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::super::StoreError;
use super::failure::DbError;
use super::markers;
use super::session::Session;

/// The format that this program writes.
pub(super) const VERSION: i64 = 6;

/// One change of the format, applied in one transaction. Never edit a released one: add another.
struct Migration {
    version: i64,
    /// The oldest program that reads a store after this migration.
    min_reader: i64,
    sql: &'static str,
}

const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, min_reader: 1, sql: include_str!("tables.sql") },
    Migration { version: 2, min_reader: 1, sql: include_str!("standalone_tables.sql") },
    Migration { version: 3, min_reader: 1, sql: include_str!("load_columns.sql") },
    Migration { version: 4, min_reader: 1, sql: include_str!("pacing_tables.sql") },
    Migration { version: 5, min_reader: 1, sql: include_str!("deleted_objects.sql") },
    Migration { version: 6, min_reader: 1, sql: include_str!("slow_limits.sql") },
];

/// The key of the advisory lock: "HkSt".
const LOCK: i64 = 0x486b_5374;

/// The longest wait of a migration for the lock of a table. Every statement on the table queues behind this wait: behind a
/// backup that reads it, an unlimited one would stop all workers.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '2s'";
/// The pause before a migration that got no lock is repeated. Workers renew their leases in it.
const LOCK_PAUSE: Duration = Duration::from_secs(3);
/// How often a migration is tried: for about five minutes.
const LOCK_ATTEMPTS: usize = 60;

/// The formats of a store. None: the database has no tables of Hookstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) version: i64,
    pub(super) min_reader: i64,
}

/// Reads the format, as it is without the mark of a copy.
pub(super) async fn format(session: &Session) -> Result<Option<Format>, DbError> {
    let exists: bool =
        session.query_one("SELECT to_regclass('hookstream.meta') IS NOT NULL", &[]).await?.try_get(0)?;
    if !exists {
        return Ok(None);
    }
    let number = async |name: &str| -> Result<i64, DbError> {
        let row = session
            .query_opt("SELECT value FROM hookstream.meta WHERE name = $1", &[(&name, Type::TEXT)])
            .await?;
        let value: String =
            row.ok_or_else(|| DbError::Unreadable(format!("meta has no {name}")))?.try_get(0)?;
        value.parse().map_err(|_| DbError::Unreadable(format!("meta.{name} is not a number")))
    };
    let min_reader = match markers::min_reader(session).await? {
        Some(min_reader) => min_reader,
        None => number("min_reader").await?,
    };
    Ok(Some(Format { version: number("version").await?, min_reader }))
}

/// Fails if this program cannot work on the format.
pub(super) fn check(format: Option<Format>) -> Result<(), StoreError> {
    match format {
        None => Err(StoreError::Open(
            "the database has no tables of Hookstream: run `hookstream store migrate`, or start without --no-migrate".into(),
        )),
        Some(format) if format.min_reader > VERSION => {
            Err(StoreError::Newer { found: format.version, known: VERSION })
        }
        Some(format) if format.version < VERSION => Err(StoreError::Open(format!(
            "the tables have format {}, and this program needs {VERSION}: run `hookstream store migrate`, or start without --no-migrate",
            format.version
        ))),
        Some(_) => Ok(()),
    }
}

/// Creates the tables, or changes them to this program's format, unless they have the mark of a copy. Returns the number of
/// migrations that it applied. Repeats a migration that does not get the lock of a table within two seconds, for about five
/// minutes: then it fails, and has changed nothing.
pub(super) async fn migrate(session: &Session) -> Result<usize, DbError> {
    migrate_with(session, LOCK_ATTEMPTS, LOCK_PAUSE).await
}

async fn migrate_with(session: &Session, attempts: usize, pause: Duration) -> Result<usize, DbError> {
    let mut applied = 0;
    for _ in 0..attempts {
        match apply_missing(session, &mut applied).await {
            Err(DbError::Postgres(error)) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                session.begun().rollback().await?;
                tracing::warn!(
                    "migration waits for another transaction that uses the tables, such as a backup, will retry"
                );
                tokio::time::sleep(pause).await;
            }
            result => return result.map(|()| applied),
        }
    }
    Err(StoreError::Open(
        "the tables cannot be changed to this program's format, because another transaction uses them, such as a backup: end it, and start again (the view pg_stat_activity shows it)".into(),
    )
    .into())
}

/// Applies the missing migrations, each in a transaction. After an error, a transaction may be open.
async fn apply_missing(session: &Session, applied: &mut usize) -> Result<(), DbError> {
    loop {
        let tx = session.begin().await?;
        tx.execute("SELECT pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)]).await?;
        let format = format(&tx).await?;
        if format.is_some() {
            markers::refuse_marked(&tx).await?;
        }
        if let Some(format) = format
            && format.min_reader > VERSION
        {
            tx.rollback().await?;
            return Err(StoreError::Newer { found: format.version, known: VERSION }.into());
        }
        let version = format.map_or(0, |format| format.version);
        let Some(next) = MIGRATIONS.iter().find(|migration| migration.version > version) else {
            tx.rollback().await?;
            return Ok(());
        };
        // After the wait for another process that migrates, which may take longer.
        tx.batch(LOCK_TIMEOUT).await?;
        if version == 0 {
            tx.batch("CREATE SCHEMA IF NOT EXISTS hookstream").await?;
        }
        tx.batch(next.sql).await?;
        for (name, value) in [("version", next.version), ("min_reader", next.min_reader)] {
            tx.execute(
                "INSERT INTO hookstream.meta (name, value) VALUES ($1, $2)
                 ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                &[(&name, Type::TEXT), (&value.to_string(), Type::TEXT)],
            )
            .await?;
        }
        tx.commit().await?;
        *applied += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::connect::PostgresOptions;
    use super::super::connections::Connections;
    use super::super::test_server;
    use super::*;

    /// A backup holds the tables for long: workers must not queue behind a migration that waits for it.
    #[tokio::test]
    async fn a_migration_does_not_wait_long_for_a_reader_and_is_repeated() {
        let mut options: PostgresOptions = test_server::shared().new_database().parse().unwrap();
        // The tests' server does not sync.
        options.allow_unsafe_sync = true;
        let connections = Connections::connect(&options).await.unwrap();
        let session = connections.session().await.unwrap();
        migrate(&session).await.unwrap();
        session
            .batch(
                "DROP FUNCTION hookstream.record_deleted_object CASCADE;
                 DROP TABLE hookstream.deleted_objects, hookstream.pacing;
                 ALTER TABLE hookstream.shards DROP COLUMN load, DROP COLUMN given_epoch, DROP COLUMN empty_since;
                 ALTER TABLE hookstream.workers DROP COLUMN load, DROP COLUMN is_leaving;
                 UPDATE hookstream.meta SET value = '2' WHERE name = 'version'",
            )
            .await
            .unwrap();
        let reader = connections.session().await.unwrap();
        reader.batch("BEGIN; SELECT count(*) FROM hookstream.workers").await.unwrap();
        let limited = migrate_with(&session, 1, Duration::ZERO);
        let failed = tokio::time::timeout(Duration::from_secs(30), limited).await.unwrap().unwrap_err();
        assert!(failed.to_string().contains("another transaction uses them"), "{failed}");
        let repeated = async {
            let applied = migrate_with(&session, 30, Duration::from_millis(10)).await.unwrap();
            assert_eq!(applied, 4);
        };
        let ending = async {
            reader.batch("COMMIT").await.unwrap();
        };
        tokio::join!(repeated, ending);
        assert_eq!(format(&session).await.unwrap().unwrap().version, VERSION);
    }
}
