//! Checks once, at the start, that a server can be a store: its version, its durability and the rights of the role.

use super::failure::describe;
use super::hosts::ConnectError;
use super::options::PostgresOptions;
use super::session::Session;

/// The oldest supported version, in the form of `server_version_num`.
const MIN_VERSION: i32 = 150_000;

const CHECK: &str = "
SELECT current_setting('server_version_num')::int AS version_number,
    current_setting('server_version') AS version,
    (SELECT pg_encoding_to_char(encoding)::text FROM pg_database WHERE datname = current_database()) AS encoding,
    current_setting('fsync')::bool AS fsync,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('synchronous_standby_names') <> '' AS has_synchronous_standbys,
    coalesce(
        has_schema_privilege(to_regnamespace('hookstream'), 'CREATE'),
        has_database_privilege(current_database(), 'CREATE')
    ) AS can_migrate";

/// What a server has shown.
#[derive(Debug)]
struct Facts {
    version_number: i32,
    version: String,
    encoding: String,
    fsync: bool,
    synchronous_commit: String,
    has_synchronous_standbys: bool,
    can_migrate: bool,
}

/// Rejects a server that cannot be a store, and logs once which commits it could lose.
pub(super) async fn check_server(session: &Session, options: &PostgresOptions) -> Result<(), ConnectError> {
    let facts = read(session).await.map_err(|error| ConnectError::Unavailable(describe(&error)))?;
    reject(&facts, options).map_err(ConnectError::Rejected)?;
    log_durability(&facts);
    tracing::info!(version = facts.version, direct = session.is_direct(), "database connected");
    Ok(())
}

async fn read(session: &Session) -> Result<Facts, tokio_postgres::Error> {
    let row = session.fetch_one(CHECK, &[]).await?;
    Ok(Facts {
        version_number: row.try_get("version_number")?,
        version: row.try_get("version")?,
        encoding: row.try_get("encoding")?,
        fsync: row.try_get("fsync")?,
        synchronous_commit: row.try_get("synchronous_commit")?,
        has_synchronous_standbys: row.try_get("has_synchronous_standbys")?,
        can_migrate: row.try_get("can_migrate")?,
    })
}

fn reject(facts: &Facts, options: &PostgresOptions) -> Result<(), String> {
    if facts.version_number < MIN_VERSION {
        return Err(format!("the server is PostgreSQL {}: version 15 or later is needed", facts.version));
    }
    if facts.encoding != "UTF8" {
        return Err(format!(
            "the database {} has the encoding {}: create one with ENCODING 'UTF8' TEMPLATE template0",
            options.database(),
            facts.encoding
        ));
    }
    let unsafe_setting = match () {
        () if !facts.fsync => Some("fsync"),
        () if facts.synchronous_commit == "off" => Some("synchronous_commit"),
        () => None,
    };
    if let Some(setting) = unsafe_setting
        && !options.allow_unsafe_sync
    {
        return Err(format!(
            "{setting} is off: a crash of the server would lose accepted events: set it to on, or allow it with --allow-unsafe-commits"
        ));
    }
    if options.migrate && !facts.can_migrate {
        return Err(format!(
            "the role {user} may not create the schema hookstream in the database {database}: GRANT CREATE ON DATABASE \"{database}\" TO \"{user}\", or use --no-migrate and run `hookstream store migrate` as another role",
            user = options.user(),
            database = options.database()
        ));
    }
    Ok(())
}

/// Logs which acknowledged events a failure could lose, because the server accepts this silently.
fn log_durability(facts: &Facts) {
    let synchronous_commit = facts.synchronous_commit.as_str();
    if !facts.fsync || synchronous_commit == "off" {
        tracing::warn!(
            fsync = facts.fsync,
            synchronous_commit,
            "a crash of the database server can lose accepted events"
        );
    } else if !facts.has_synchronous_standbys {
        tracing::info!(
            synchronous_commit,
            "the database has no synchronous standby: a failover can lose the latest accepted events"
        );
    } else if matches!(synchronous_commit, "local" | "remote_write") {
        tracing::warn!(
            synchronous_commit,
            "a failover of the database can lose the latest accepted events: set synchronous_commit to on or remote_apply"
        );
    }
}

#[cfg(test)]
mod check_tests {
    use super::*;

    #[test]
    fn rejects_old_versions_and_unsafe_settings() {
        let sound = || Facts {
            version_number: 150_001,
            version: "15.1".into(),
            encoding: "UTF8".into(),
            fsync: true,
            synchronous_commit: "on".into(),
            has_synchronous_standbys: false,
            can_migrate: true,
        };
        let mut options: PostgresOptions = "postgres://u@h/d".parse().unwrap();
        reject(&sound(), &options).unwrap();
        let error = |facts, options: &_| reject(&facts, options).unwrap_err();
        let old = Facts { version_number: 140_011, version: "14.11".into(), ..sound() };
        assert_eq!(error(old, &options), "the server is PostgreSQL 14.11: version 15 or later is needed");
        let without_rights = || Facts { can_migrate: false, ..sound() };
        assert!(error(without_rights(), &options).contains("GRANT CREATE ON DATABASE \"d\" TO \"u\""));
        options.migrate = false;
        reject(&without_rights(), &options).unwrap();
        options.allow_unsafe_sync = true;
        reject(&Facts { fsync: false, ..sound() }, &options).unwrap();
    }
}
