//! Connections to PostgreSQL: options, TLS, a bounded pool, the checks of a server, and the errors of the driver.
//!
//! Invariants:
//! - A worker opens at most [`MAX_CONNECTIONS`] connections: the pool's and the dedicated ones.
//! - Every new connection goes to a server that accepts writes. With several hosts, the first such one is used, so that a
//!   failover needs no restart.
//! - No connection goes to a server that a failover has left behind, once any connection of the process has seen the newer
//!   one (`timeline`).
//! - No password, key or value of a row is in a message, in `Debug` or in the log.
//! - A pooled connection has no state of its session: no SET, no LISTEN, no session-level lock, no temporary table. So
//!   PgBouncer may give each transaction another server connection.
//!
//! How to send statements: with the methods of [`Session`], always with the types of the parameters. They use a cached
//! prepared statement on a direct connection, and an unnamed statement through PgBouncer, which before version 1.21 knows
//! no prepared statements in transaction mode. Everything that a transaction needs is between its BEGIN and COMMIT: `SET
//! LOCAL` and transaction-level advisory locks.
//!
//! Out of scope: the schema, transactions, and what to do about an unknown outcome of a COMMIT.

mod check;
mod failure;
mod hosts;
mod options;
mod pool;
mod session;
mod timeline;
mod tls;

#[cfg(test)]
mod tests;

pub use failure::{FailureKind, classify, describe, failure};
pub use options::{PostgresOptions, StoreUrlError, TlsMode};
pub use pool::{Database, MAX_CONNECTIONS, POOLED_CONNECTIONS, PooledSession};
pub use session::{Session, Warning};
pub use timeline::{RefusedServer, SessionError};
