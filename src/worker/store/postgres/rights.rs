//! Checks at the start that the role of a worker may use the tables, which another role may have created.

use tokio_postgres::types::Type;

use super::super::StoreError;
use super::failure::DbError;
use super::session::Session;

/// The tables of a worker. `standalone` without a data folder has more, which other roles need not be able to read.
const TABLES: &[&str] = &[
    "attempts",
    "backlog",
    "candidates",
    "events",
    "exchanges",
    "finished",
    "gates",
    "hooks",
    "in_flight",
    "keys",
    "meta",
    "namespaces",
    "pacing",
    "pending",
    "places",
    "replays",
    "shards",
    "workers",
    "writers",
];

const MISSING: &str = "
SELECT current_user::text, p.name || ' on ' || c.relname
FROM pg_class c CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE')) p (name)
WHERE c.relnamespace = to_regnamespace('hookstream') AND c.relname = ANY($1) AND NOT has_table_privilege(c.oid, p.name)
UNION ALL
SELECT current_user::text, 'USAGE on event_seq' WHERE NOT has_sequence_privilege('hookstream.event_seq', 'USAGE')
LIMIT 1";

/// Fails if the role lacks a right. A worker that started would fail some of its operations only, such as deliveries after it
/// accepted their events.
pub(super) async fn check(session: &Session) -> Result<(), DbError> {
    let Some(row) = session.query_opt(MISSING, &[(&TABLES, Type::TEXT_ARRAY)]).await? else { return Ok(()) };
    let (user, right): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    Err(StoreError::Open(format!(
        "the role {user} has no right to {right} in the schema hookstream: as the owner of the tables, GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA hookstream TO \"{user}\"; GRANT USAGE ON ALL SEQUENCES IN SCHEMA hookstream TO \"{user}\""
    ))
    .into())
}

#[cfg(test)]
mod tests {
    use super::super::connect::PostgresOptions;
    use super::super::standalone::SharedDatabase;
    use super::super::{administration, test_server};
    use super::*;

    #[tokio::test]
    async fn a_role_without_a_right_is_named_at_the_start() {
        let server = test_server::shared();
        let url = server.new_database();
        let database = url.rsplit('/').next().unwrap();
        let sql = |sql: &str| server.sql(database, sql).unwrap();
        let mut owner: PostgresOptions = url.parse().unwrap();
        owner.allow_unsafe_sync = true;
        administration::migrate(&owner).await.unwrap();
        let of_workers = sql(
            "SELECT relname FROM pg_class WHERE relnamespace = 'hookstream'::regnamespace AND relkind IN ('r', 'p')
                 AND NOT relispartition AND relname NOT IN ('objects', 'deleted_objects', 'key_ring', 'leases') ORDER BY 1",
        );
        assert_eq!(of_workers.concat(), TABLES, "a migration has added a table");

        sql("CREATE ROLE granted LOGIN; GRANT USAGE ON SCHEMA hookstream TO granted;
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA hookstream TO granted;
             REVOKE ALL ON hookstream.key_ring FROM granted");
        let mut options: PostgresOptions =
            format!("postgres://granted@127.0.0.1:{}/{database}", server.port()).parse().unwrap();
        (options.allow_unsafe_sync, options.migrate) = (true, false);
        let error = async || match SharedDatabase::connect(&options).await {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        assert!(error().await.contains("the role granted has no right to USAGE on event_seq"));
        sql("GRANT USAGE ON ALL SEQUENCES IN SCHEMA hookstream TO granted");
        assert_eq!(error().await, "");
        sql("REVOKE UPDATE ON hookstream.pending FROM granted");
        let missing = error().await;
        assert!(missing.contains("no right to UPDATE on pending in the schema hookstream"), "{missing}");
        assert!(missing.contains("TO \"granted\"") && missing.lines().count() == 1, "{missing}");
    }
}
