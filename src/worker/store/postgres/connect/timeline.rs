//! Refuses servers that a failover has left behind.
//!
//! A promotion raises the number of the timeline, and a promoted standby has the system identifier of its primary. An old
//! primary that comes back accepts writes that the new one never gets. So a process uses no server with a lower number than
//! the highest that it has seen, on any of its connections. Two standbys that were promoted side by side have the same number,
//! and cannot be distinguished.
//!
//! A server of another cluster is refused too: the ids that this process has in memory (of its worker, of hooks, of writers)
//! mean something else there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, SimpleQueryMessage};

use super::failure::describe;

/// Reads the timeline. Any role may execute these functions, unless an administrator has revoked that. Not that of the last
/// checkpoint (`pg_control_checkpoint`): that is the former one for a while after a promotion.
const READ: &str = "SELECT (SELECT system_identifier::text FROM pg_control_system()), \
    left(pg_walfile_name(pg_current_wal_lsn()), 8)";
/// Reads its number. `pg_control_system` reads a file, so it is not part of it.
const READ_NUMBER: &str = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)";

/// The place of a server in the history of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Timeline {
    /// The system identifier.
    cluster: String,
    number: u32,
}

impl Timeline {
    /// Reads the timeline of a server that accepts writes. None: this server cannot tell.
    pub(super) async fn read(client: &Client) -> Result<Option<Timeline>, Error> {
        let row = match client.query_typed_one(READ, &[]).await {
            Ok(row) => row,
            Err(error) if is_unsupported(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let (cluster, number): (Option<String>, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
        Ok(cluster
            .zip(number.as_deref().and_then(parse))
            .map(|(cluster, number)| Timeline { cluster, number }))
    }
}

/// True if another try on this server would fail too: the function is missing, revoked, or not supported by a service that only
/// resembles PostgreSQL.
fn is_unsupported(error: &Error) -> bool {
    [SqlState::UNDEFINED_FUNCTION, SqlState::INSUFFICIENT_PRIVILEGE, SqlState::FEATURE_NOT_SUPPORTED]
        .iter()
        .any(|code| error.code() == Some(code))
}

/// Parses the first eight hexadecimal digits of the name of a WAL file.
fn parse(digits: &str) -> Option<u32> {
    u32::from_str_radix(digits, 16).ok()
}

/// A server that accepts writes and must not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{server}: {refusal}")]
pub struct RefusedServer {
    server: String,
    refusal: Refusal,
}

impl RefusedServer {
    /// Returns why, without the server.
    pub(super) fn reason(&self) -> String {
        self.refusal.to_string()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
enum Refusal {
    #[error(
        "the server is an old primary, on timeline {found} of the database, of which {newest} has been seen: stop it, or make it a standby with pg_rewind; if the database was set back on purpose, restart this process"
    )]
    OlderTimeline { found: u32, newest: u32 },
    #[error(
        "the server belongs to another cluster than the database before (its system identifier differs): correct the address; if the database was moved on purpose, restart this process"
    )]
    OtherCluster,
}

/// The newest timeline that this process has seen, on any of its connections.
#[derive(Debug, Default)]
pub(super) struct SeenTimeline {
    /// None before the first connection.
    newest: watch::Sender<Option<Timeline>>,
    /// Refusals that were logged.
    logged: Mutex<BTreeSet<String>>,
    is_unsupported_logged: AtomicBool,
}

impl SeenTimeline {
    /// Fails if a server has an older timeline or another cluster. Logs each such server once.
    fn check(&self, server: &str, found: &Timeline) -> Result<(), RefusedServer> {
        let mut refusal = None;
        let is_newer = self.newest.send_if_modified(|newest| match newest {
            Some(newest) if newest.cluster != found.cluster => {
                refusal = Some(Refusal::OtherCluster);
                false
            }
            Some(newest) if found.number < newest.number => {
                refusal = Some(Refusal::OlderTimeline { found: found.number, newest: newest.number });
                false
            }
            Some(newest) if found.number == newest.number => false,
            newest => {
                *newest = Some(found.clone());
                true
            }
        });
        let Some(refusal) = refusal else {
            if is_newer {
                tracing::info!(server, timeline = found.number, "timeline of the database");
            }
            return Ok(());
        };
        let refused = RefusedServer { server: server.to_owned(), refusal };
        let text = refused.to_string();
        // Other hosts may work meanwhile, and then nothing else reports a second primary.
        if self.logged.lock().insert(text.clone()) {
            tracing::warn!(reason = <&str>::from(refusal), error = text, "database server refused");
        }
        Err(refused)
    }

    /// Logs once that the timeline of a server cannot be read.
    pub(super) fn log_unsupported(&self, server: &str) {
        if !self.is_unsupported_logged.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                server,
                "an old primary that comes back will not be detected: the role cannot execute pg_control_system, pg_current_wal_lsn and pg_walfile_name"
            );
        }
    }

    /// Waits until a newer timeline than `number` is seen.
    fn superseded(&self, number: u32) -> impl Future<Output = ()> + Send + use<> {
        let mut newest = self.newest.subscribe();
        async move {
            let is_newer = |newest: &Option<Timeline>| newest.as_ref().is_some_and(|it| it.number > number);
            let is_superseded = newest.wait_for(is_newer).await.is_ok();
            if !is_superseded {
                // The store was closed.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// The timeline of a connection's server.
#[derive(Debug)]
pub(super) struct SessionTimeline {
    seen: Arc<SeenTimeline>,
    server: String,
    cluster: String,
    /// As last read. Through a pooler, each transaction may reach another server.
    number: AtomicU32,
}

impl SessionTimeline {
    /// Fails if the server of a new connection must not be used.
    pub(super) fn begin(
        seen: &Arc<SeenTimeline>,
        server: &str,
        found: Timeline,
    ) -> Result<SessionTimeline, RefusedServer> {
        seen.check(server, &found)?;
        Ok(SessionTimeline {
            seen: Arc::clone(seen),
            server: server.to_owned(),
            number: AtomicU32::new(found.number),
            cluster: found.cluster,
        })
    }

    /// Waits until a newer timeline is seen than that of the new connection.
    pub(super) fn superseded(&self) -> impl Future<Output = ()> + Send + use<> {
        self.seen.superseded(self.number.load(Ordering::Relaxed))
    }

    /// True if a newer timeline was seen since the number was last read.
    pub(super) fn is_superseded(&self) -> bool {
        let number = self.number.load(Ordering::Relaxed);
        self.seen.newest.borrow().as_ref().is_some_and(|newest| newest.number > number)
    }

    /// Reads the number again, and fails if the server that answered must not be used.
    pub(super) async fn check(&self, client: &Client) -> Result<(), SessionError> {
        self.check_answer(&client.simple_query(READ_NUMBER).await?)
    }

    /// Begins a transaction with the statement `begin` and the same check, in one round trip.
    pub(super) async fn begin_transaction(&self, client: &Client, begin: &str) -> Result<(), SessionError> {
        self.check_answer(&client.simple_query(&format!("{begin}; {READ_NUMBER}")).await?)
    }

    fn check_answer(&self, answer: &[SimpleQueryMessage]) -> Result<(), SessionError> {
        let digits = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        let Some(number) = digits.and_then(parse) else { return Ok(()) };
        self.seen.check(&self.server, &Timeline { cluster: self.cluster.clone(), number })?;
        self.number.store(number, Ordering::Relaxed);
        Ok(())
    }
}

/// Why a statement was not executed on a connection.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("{}", describe(.0))]
    Postgres(#[from] Error),
    #[error(transparent)]
    Refused(#[from] RefusedServer),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(cluster: &str, number: u32) -> Timeline {
        Timeline { cluster: cluster.into(), number }
    }

    #[test]
    fn refuses_lower_numbers_and_other_clusters() {
        let seen = SeenTimeline::default();
        for number in [3, 3, 4] {
            seen.check("a:5432", &timeline("7", number)).unwrap();
        }
        let older = seen.check("a:5432", &timeline("7", 3)).unwrap_err();
        assert_eq!(older.refusal, Refusal::OlderTimeline { found: 3, newest: 4 });
        let text = older.to_string();
        assert!(text.starts_with("a:5432: the server is an old primary, on timeline 3"), "{text}");
        for number in [1, 4, 9] {
            let other = seen.check("a:5432", &timeline("8", number)).unwrap_err();
            assert_eq!(other.refusal, Refusal::OtherCluster);
        }
        seen.check("a:5432", &timeline("7", 4)).unwrap();
        assert_eq!(<&str>::from(older.refusal), "OlderTimeline");
    }

    #[test]
    fn parses_names_of_wal_files() {
        assert_eq!(parse("0000000A"), Some(10));
        assert_eq!(parse("FFFFFFFF"), Some(u32::MAX));
        assert_eq!(parse("nothing"), None);
    }
}
