//! Why an access to the database failed, and what the engine does about it.

use super::super::StoreError;
use super::connect::{self, FailureKind, SessionError};

/// Why an access failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DbError {
    // The driver's own text has several lines, with values of rows and without advice.
    #[error("{}", connect::describe(.0))]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The connection ended during COMMIT: the transaction may be committed or not.
    #[error("the answer to a COMMIT was lost")]
    OutcomeUnknown,
    #[error("a row cannot be read: {0}")]
    Unreadable(String),
}

impl DbError {
    /// Converts the failure of a COMMIT. If the connection ended, its outcome is unknown.
    pub(super) fn at_commit(self) -> Self {
        match self.kind() {
            Some(FailureKind::Disconnected) => DbError::OutcomeUnknown,
            _ => self,
        }
    }

    /// True if the same transaction may succeed when it is repeated at once: it lost a deadlock or a race.
    pub(super) fn is_conflict(&self) -> bool {
        self.kind() == Some(FailureKind::Conflict)
    }

    /// True if the statement is at fault, and repeating it fails again.
    pub(super) fn is_refusal(&self) -> bool {
        self.kind() == Some(FailureKind::Refused)
    }

    fn kind(&self) -> Option<FailureKind> {
        match self {
            DbError::Postgres(error) => Some(connect::classify(error)),
            _ => None,
        }
    }
}

/// Returns the error of an operation that the database cannot execute now. Nothing was changed, and the log has the reason.
pub(super) fn unavailable() -> StoreError {
    StoreError::Unavailable(
        "it cannot be reached, or cannot store events now; the worker's log says why".into(),
    )
}

impl From<SessionError> for DbError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Postgres(error) => DbError::Postgres(error),
            // As if the database were away: the newer server, or a corrected address, may be there later.
            SessionError::Refused(error) => StoreError::Unavailable(error.to_string()).into(),
        }
    }
}

impl From<DbError> for StoreError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Store(error) => error,
            DbError::OutcomeUnknown => unavailable(),
            DbError::Unreadable(why) => StoreError::Refused(format!("a row cannot be read: {why}")),
            DbError::Postgres(error) => connect::failure(&error),
        }
    }
}
