//! Checks that a server can be a store: once, at the start, its version, its encoding and the rights of the role; at each
//! connection, which commits it could lose, because a failover may lead to a server with other settings.

use tokio_postgres::{Error, Row};

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
    can_migrate: bool,
}

/// Rejects a server that cannot be a store.
pub(super) async fn check_server(session: &Session, options: &PostgresOptions) -> Result<(), ConnectError> {
    let facts = read(session).await.map_err(|error| ConnectError::Unavailable(describe(&error)))?;
    reject(&facts, options).map_err(ConnectError::Rejected)?;
    tracing::info!(version = facts.version, direct = session.is_direct(), "database connected");
    Ok(())
}

async fn read(session: &Session) -> Result<Facts, Error> {
    let row = session.fetch_one(CHECK, &[]).await?;
    Ok(Facts {
        version_number: row.try_get("version_number")?,
        version: row.try_get("version")?,
        encoding: row.try_get("encoding")?,
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
    if options.migrate && !facts.can_migrate {
        return Err(format!(
            "the role {user} may not create the schema hookstream in the database {database}: GRANT CREATE ON DATABASE \"{database}\" TO \"{user}\", or use --no-migrate and run `hookstream store migrate` as another role",
            user = options.user(),
            database = options.database()
        ));
    }
    Ok(())
}

/// Which commits a server could lose, by its settings for the role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Durability {
    fsync: bool,
    synchronous_commit: String,
    has_synchronous_standbys: bool,
}

impl Durability {
    /// Reads the columns of `hosts::PROBE`.
    pub(super) fn from_row(row: &Row) -> Result<Durability, Error> {
        Ok(Durability {
            fsync: row.try_get("fsync")?,
            synchronous_commit: row.try_get("synchronous_commit")?,
            has_synchronous_standbys: row.try_get("has_synchronous_standbys")?,
        })
    }

    /// Rejects a server that confirms commits before they are on its disk, unless the options allow it.
    pub(super) fn reject_unsafe(&self, options: &PostgresOptions) -> Result<(), String> {
        let setting = match () {
            () if options.allow_unsafe_sync => return Ok(()),
            () if !self.fsync => "fsync",
            () if self.synchronous_commit == "off" => "synchronous_commit",
            () => return Ok(()),
        };
        Err(format!(
            "{setting} is off: a crash of the server would lose accepted events: set it to on, or allow it with --allow-unsafe-commits"
        ))
    }

    /// Logs which acknowledged events a failure could lose, because the server accepts this silently.
    pub(super) fn log(&self) {
        let synchronous_commit = self.synchronous_commit.as_str();
        if !self.fsync || synchronous_commit == "off" {
            tracing::warn!(
                fsync = self.fsync,
                synchronous_commit,
                "a crash of the database server can lose accepted events"
            );
        } else if !self.has_synchronous_standbys {
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
}

#[cfg(test)]
mod check_tests {
    use super::*;

    #[test]
    fn rejects_old_versions_and_missing_rights() {
        let sound = || Facts {
            version_number: 150_001,
            version: "15.1".into(),
            encoding: "UTF8".into(),
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
    }

    #[test]
    fn rejects_unsafe_settings_unless_they_are_allowed() {
        let settings = |fsync, synchronous_commit: &str| Durability {
            fsync,
            synchronous_commit: synchronous_commit.into(),
            has_synchronous_standbys: false,
        };
        let mut options: PostgresOptions = "postgres://u@h/d".parse().unwrap();
        for safe in ["on", "remote_apply", "remote_write", "local"] {
            settings(true, safe).reject_unsafe(&options).unwrap();
        }
        let error = |durability: Durability, options: &_| durability.reject_unsafe(options).unwrap_err();
        assert!(error(settings(false, "on"), &options).starts_with("fsync is off"));
        assert!(error(settings(true, "off"), &options).starts_with("synchronous_commit is off"));
        options.allow_unsafe_sync = true;
        settings(false, "off").reject_unsafe(&options).unwrap();
    }
}
