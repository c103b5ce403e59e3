//! The lease of the controller: a row that names its holder, until a time by the database's clock.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::super::failure::DbError;
use super::super::session::Session;

/// How long a lease lasts. Bounds how long no process leads after a crash.
pub(super) const LEASE: Duration = Duration::from_secs(10);
/// How long the holder leads after it sent its last renewal. Shorter than the lease, so that its last requests have arrived at
/// the vendors before another process leads.
pub(super) const LEADS: Duration = Duration::from_secs(7);

const NAME: &str = "controller";

/// The SQL condition that this process holds the lease. `$1`: its name.
pub(super) const IS_HOLDER: &str = "EXISTS (SELECT FROM hookstream.leases l
    WHERE l.name = 'controller' AND l.holder = $1 AND l.lease_until > clock_timestamp())";

/// The lease, as one process competes for it.
#[derive(Debug)]
pub(super) struct ControllerLease {
    process: String,
}

/// The result of a try to hold the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LeaseTry {
    /// This process holds it.
    Held,
    /// Another process holds it for this time.
    Other { holder: String, remaining: Duration },
}

impl ControllerLease {
    pub(super) fn new(process: String) -> Self {
        ControllerLease { process }
    }

    pub(super) fn process(&self) -> &str {
        &self.process
    }

    /// Takes or renews the lease.
    pub(super) async fn hold(&self, session: &Session) -> Result<LeaseTry, DbError> {
        // A process that waits only reads, because even an update that changes nothing locks the row.
        let row = session
            .query_opt(
                "SELECT holder, greatest(extract(epoch FROM lease_until - clock_timestamp()), 0)::float8
                 FROM hookstream.leases WHERE name = $1 AND holder <> $2 AND lease_until > clock_timestamp()",
                &[(&NAME, Type::TEXT), (&self.process, Type::TEXT)],
            )
            .await?;
        if let Some(row) = row {
            let remaining = Duration::try_from_secs_f64(row.try_get(1)?).unwrap_or_default();
            return Ok(LeaseTry::Other { holder: row.try_get(0)?, remaining });
        }
        let held = session
            .execute(
                "INSERT INTO hookstream.leases AS l (name, holder, lease_until)
                 VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
                 ON CONFLICT (name) DO UPDATE
                 SET holder = excluded.holder, lease_until = clock_timestamp() + make_interval(secs => $3)
                 WHERE l.holder = excluded.holder OR l.lease_until <= clock_timestamp()",
                &[(&NAME, Type::TEXT), (&self.process, Type::TEXT), (&LEASE.as_secs_f64(), Type::FLOAT8)],
            )
            .await?;
        Ok(match held {
            // Another process was faster.
            0 => LeaseTry::Other { holder: String::new(), remaining: Duration::ZERO },
            _ => LeaseTry::Held,
        })
    }

    /// Ends the lease of this process, so that another one can lead at once.
    pub(super) async fn release(&self, session: &Session) -> Result<(), DbError> {
        session
            .execute(
                "UPDATE hookstream.leases SET lease_until = '-infinity' WHERE name = $1 AND holder = $2",
                &[(&NAME, Type::TEXT), (&self.process, Type::TEXT)],
            )
            .await
            .map(drop)
    }
}
