//! What the command line does with a database: create or change the tables, and check them. Workers may run meanwhile.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::{DeliveryState, StoreError};
use super::connect::PostgresOptions;
use super::connections::Connections;
use super::failure::DbError;
use super::session::Session;
use super::{markers, schema, state};

/// What `migrate` has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MigrationReport {
    /// The format of the tables now.
    pub version: i64,
    /// Migrations that were applied; 0: the tables were current.
    pub applied: usize,
}

/// What `check` has found.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseReport {
    /// The version of the server.
    pub server: String,
    /// The format of the tables.
    pub version: i64,
    /// The oldest format that a program must know to use them.
    pub min_reader: i64,
    /// The installation that they belong to. None: no worker has used them yet.
    pub installation: Option<String>,
    /// The store to which its data was copied. Workers refuse it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved_to: Option<String>,
    /// Workers whose lease lasts.
    pub workers: u64,
    /// Of 256 shards, those that a running worker owns.
    pub owned_shards: u64,
    pub hooks: u64,
    pub events: u64,
    /// The number of deliveries by state.
    pub deliveries: BTreeMap<&'static str, u64>,
    /// Bytes of all tables and indexes.
    pub bytes: u64,
    /// Defects. Empty: the store is sound.
    pub problems: Vec<String>,
    /// True if only a backup helps.
    #[serde(skip)]
    pub needs_restore: bool,
}

/// Creates the tables, or changes them to the format of this program.
pub async fn migrate(options: &PostgresOptions) -> Result<MigrationReport, StoreError> {
    let mut options = options.clone();
    options.migrate = true;
    let connections = Connections::connect(&options).await?;
    let session = connections.session().await?;
    let applied = schema::migrate(&session).await?;
    let format = schema::format(&session).await?;
    schema::check(format)?;
    Ok(MigrationReport { version: format.map_or(0, |format| format.version), applied })
}

/// Checks the tables, in one transaction that changes nothing.
pub async fn check(options: &PostgresOptions) -> Result<DatabaseReport, StoreError> {
    // A role that may only read can check.
    let mut options = options.clone();
    options.migrate = false;
    let connections = Connections::connect(&options).await?;
    let session = connections.session().await?;
    let tx = session.begin_reading().await?;
    let format = schema::format(&tx).await?;
    schema::check(format)?;
    let format = format.map_or((0, 0), |format| (format.version, format.min_reader));
    let report = read(&tx, format).await?;
    tx.rollback().await?;
    Ok(report)
}

async fn read(session: &Session, (version, min_reader): (i64, i64)) -> Result<DatabaseReport, DbError> {
    let row = session.query_one(COUNTS, &[]).await?;
    let count = |name: &str| Ok::<_, DbError>(unsigned(row.try_get(name)?));
    let mut deliveries = BTreeMap::new();
    let pending =
        unsigned(session.query_one("SELECT count(*) FROM hookstream.pending", &[]).await?.try_get(0)?);
    if pending > 0 {
        deliveries.insert(DeliveryState::Pending.into(), pending);
    }
    for row in session.query("SELECT state, count(*) FROM hookstream.finished GROUP BY state", &[]).await? {
        deliveries.insert(state::read(row.try_get(0)?)?.into(), unsigned(row.try_get(1)?));
    }
    let mut problems = find_problems(session).await?;
    let needs_restore = !problems.is_empty();
    if let Some(copy) = markers::unfinished(session).await? {
        problems.push(format!(
            "a copy from {} to it has not finished: repeat the `hookstream store copy`, or empty it with `hookstream store unseal --store-url URL`",
            copy.from
        ));
    }
    Ok(DatabaseReport {
        server: row.try_get("server")?,
        version,
        min_reader,
        installation: row.try_get("installation")?,
        moved_to: markers::seal(session).await?.map(|seal| seal.to),
        workers: count("workers")?,
        owned_shards: count("owned_shards")?,
        hooks: count("hooks")?,
        events: count("events")?,
        deliveries,
        bytes: count("bytes")?,
        problems,
        needs_restore,
    })
}

/// Returns the rows that no run of a worker leaves behind. Reads all tables.
pub(super) async fn find_problems(session: &Session) -> Result<Vec<String>, DbError> {
    let mut problems = Vec::new();
    for (sql, problem) in PROBLEMS {
        let found = unsigned(session.query_one(sql, &[]).await?.try_get(0)?);
        if found > 0 {
            problems.push(format!("{found} {problem}"));
        }
    }
    Ok(problems)
}

const COUNTS: &str = "
SELECT current_setting('server_version') AS server,
    (SELECT value FROM hookstream.meta WHERE name = 'installation') AS installation,
    (SELECT count(*) FROM hookstream.workers WHERE lease_until > clock_timestamp()) AS workers,
    (SELECT count(*) FROM hookstream.shards s JOIN hookstream.workers w ON w.id = s.owner
     WHERE w.lease_until > clock_timestamp()) AS owned_shards,
    (SELECT count(*) FROM hookstream.hooks) AS hooks,
    (SELECT count(*) FROM hookstream.events) AS events,
    (SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
     JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'hookstream' AND c.relkind = 'r') AS bytes";

/// Statements that count rows which no run of a worker leaves behind, and what such rows are.
const PROBLEMS: &[(&str, &str)] = &[
    (
        "SELECT count(*) FROM hookstream.pending d
         WHERE NOT EXISTS (SELECT FROM hookstream.events e WHERE e.seq = d.seq >> 20)",
        "pending deliveries without their event",
    ),
    (
        "SELECT count(*) FROM hookstream.pending d WHERE NOT EXISTS (SELECT FROM hookstream.hooks h WHERE h.id = d.hook)",
        "pending deliveries without their hook",
    ),
    (
        "SELECT count(*) FROM hookstream.pending d JOIN hookstream.finished f USING (seq)",
        "deliveries that are both pending and finished",
    ),
    (
        "SELECT count(*) FROM hookstream.candidates c
         WHERE NOT EXISTS (SELECT FROM hookstream.pending d WHERE d.seq = c.delivery AND d.is_candidate)",
        "candidates of gates without their delivery",
    ),
    (
        "SELECT count(*) FROM (
             SELECT hook FROM hookstream.backlog GROUP BY hook
             HAVING sum(deliveries) <> (SELECT count(*) FROM hookstream.pending d WHERE d.hook = backlog.hook)) b",
        "hooks whose counted backlog differs from their pending deliveries",
    ),
    (
        "SELECT 256 - count(*) FROM hookstream.shards",
        "shards missing",
    ),
];

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::test_server;
    use super::*;

    fn options(url: &str) -> PostgresOptions {
        let mut options: PostgresOptions = url.parse().unwrap();
        options.allow_unsafe_sync = true;
        options
    }

    #[tokio::test]
    async fn migrates_once_and_checks() {
        let server = test_server::shared();
        let url = server.new_database();
        let database = url.rsplit('/').next().unwrap();
        let options = options(&url);
        let error = check(&options).await.unwrap_err().to_string();
        assert!(error.contains("run `hookstream store migrate`"), "{error}");
        let report = migrate(&options).await.unwrap();
        assert!(report.applied > 0 && report.version == schema::VERSION, "{report:?}");
        assert_eq!(migrate(&options).await.unwrap().applied, 0);
        let report = check(&options).await.unwrap();
        assert_eq!((report.workers, report.hooks, report.events), (0, 0, 0));
        assert_eq!(report.problems, Vec::<String>::new());

        server
            .sql(
                database,
                "INSERT INTO hookstream.pending (seq, hook, place, id, due, began, accepted, held_before, size)
                 VALUES (1, 1, 1, gen_random_uuid(), 0, 0, 0, 0, 0); DELETE FROM hookstream.shards WHERE shard = 7",
            )
            .unwrap();
        let report = check(&options).await.unwrap();
        assert_eq!(report.deliveries, BTreeMap::from([("pending", 1)]));
        assert_eq!(
            report.problems,
            [
                "1 pending deliveries without their event",
                "1 pending deliveries without their hook",
                "1 shards missing"
            ]
        );
    }

    #[tokio::test]
    async fn rejects_tables_of_a_newer_version() {
        let server = test_server::shared();
        let url = server.new_database();
        let options = options(&url);
        migrate(&options).await.unwrap();
        server
            .sql(
                url.rsplit('/').next().unwrap(),
                "UPDATE hookstream.meta SET value = '99' WHERE name IN ('version', 'min_reader')",
            )
            .unwrap();
        for result in [migrate(&options).await.map(drop), check(&options).await.map(drop)] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("newer version (format 99"), "{error}");
        }
    }
}
