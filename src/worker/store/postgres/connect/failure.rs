//! What an error of the driver means, and the message with what to do about it.

use std::error::Error as _;

use tokio_postgres::Error;
use tokio_postgres::error::{DbError, SqlState};

use crate::net::describe_tls_error;
use crate::worker::store::StoreError;

/// What an error means for the operation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The connection ended. Before COMMIT was sent, the transaction has no effect; afterwards its outcome is unknown.
    Disconnected,
    /// A deadlock, a serialization failure or a lock timeout: the transaction had no effect and may be repeated at once.
    Conflict,
    /// The server is up but cannot run statements now: it starts, stops, is read-only, full, or refuses the login.
    Unavailable,
    /// The statement itself fails, also when it is repeated.
    Refused,
}

/// Returns what an error means.
pub fn classify(error: &Error) -> FailureKind {
    let Some(code) = error.code().map(SqlState::code) else {
        // Values that cannot be encoded, or answers of an unexpected shape: no connection error has such a cause.
        let is_local = error.source().is_some_and(|cause| {
            cause.downcast_ref::<std::io::Error>().is_none()
                && cause.downcast_ref::<rustls::Error>().is_none()
        });
        return match error.is_closed() || !is_local {
            true => FailureKind::Disconnected,
            false => FailureKind::Refused,
        };
    };
    match code {
        // The session was ended by an administrator, a crash of another process, or a timeout of an idle session.
        "57P01" | "57P02" | "57P05" | "25P03" | "25P04" => FailureKind::Disconnected,
        // in_failed_sql_transaction follows an error that was reported before.
        "55P03" => FailureKind::Conflict,
        _ => match code.get(..2).unwrap_or_default() {
            "40" => FailureKind::Conflict,
            "08" => FailureKind::Disconnected,
            "25" | "28" | "3D" | "42" | "53" | "55" | "57" | "58" | "F0" | "XX" => FailureKind::Unavailable,
            _ => FailureKind::Refused,
        },
    }
}

/// Returns the error of the store for an error of the driver, with one line that says what to do.
///
/// Everything but `Refused` is `Unavailable`: the store can continue once the database can.
pub fn failure(error: &Error) -> StoreError {
    match classify(error) {
        FailureKind::Refused => StoreError::Refused(describe(error)),
        _ => StoreError::Unavailable(describe(error)),
    }
}

/// Describes an error in one line. Shows no values of rows, which the server sends as DETAIL.
pub fn describe(error: &Error) -> String {
    if let Some(error) = error.as_db_error() {
        return describe_answer(error);
    }
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return format!("TLS failed: {}", describe_tls_error(error));
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            if let Some(tls) = io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                return format!("TLS failed: {}", describe_tls_error(tls));
            }
            return match io.kind() {
                std::io::ErrorKind::UnexpectedEof => "the server closed the connection".into(),
                _ => io.to_string(),
            };
        }
        cause = error.source();
    }
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None if error.is_closed() => "the server closed the connection".into(),
        None => error.to_string(),
    }
}

/// Describes an error that the server has sent.
fn describe_answer(error: &DbError) -> String {
    let message = error.message();
    match advice(error) {
        Some(advice) => format!("{message}: {advice}"),
        None => format!("{message} (SQLSTATE {})", error.code().code()),
    }
}

/// Returns what to do about an error that the server has sent.
fn advice(error: &DbError) -> Option<&'static str> {
    let advice = match error.code().code() {
        "28P01" => "check the user in --store-url and the password in --store-password-file",
        "28000" if error.message().contains("pg_hba.conf") => {
            "allow this user, database and address in the server's pg_hba.conf, or use another sslmode"
        }
        code if code.starts_with("28") => "check the user in --store-url, its password and its certificate",
        "3D000" => "create the database, or correct --store-url",
        "42501" => "grant the right, see docs/postgresql.md",
        "25006" => "the server is read-only: name all hosts in --store-url, so that the primary is found",
        "53100" => "the disk of the database server is full: free space on it",
        "53200" => "the database server is out of memory: give it more, or lower its settings",
        "53300" => {
            "raise max_connections of the server or the role's limit, or put PgBouncer in between: a worker uses up to 8"
        }
        "53400" => "a limit of the server's configuration is reached: raise it",
        "57014" => "raise statement_timeout for this role, or look for the lock that blocks it",
        "57P01" | "57P02" | "57P05" => {
            "the server ended the session: it restarts, or an administrator ended it"
        }
        "57P03" => "the server does not accept connections yet: it starts, stops or recovers",
        "25P03" | "25P04" => {
            "raise idle_in_transaction_session_timeout and transaction_timeout for this role"
        }
        "40001" | "40P01" | "55P03" => "transactions were in each other's way",
        "42P01" | "42703" | "3F000" => {
            "the schema is missing or another version's: run `hookstream store migrate`"
        }
        // PgBouncer reports most of its own errors with this code.
        "08P01" => "check --store-url, and the configuration of a pooler in between",
        code if code.starts_with("08") => "the connection was lost",
        _ => return None,
    };
    Some(advice)
}
