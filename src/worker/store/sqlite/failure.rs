//! Classifies errors of SQLite by their consequence for the store.

use rusqlite::ErrorCode;

use super::super::StoreError;

/// The consequence of an SQLite error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// No space. Nothing was written, and the store keeps working.
    Full,
    /// Another connection held a lock.
    Busy,
    /// The content of the disk is unknown, so the store must stop.
    Fatal(String),
    /// One statement failed. Only its operation is refused.
    Statement(String),
}

impl FailureKind {
    /// Classifies the error of a statement.
    pub(super) fn of(e: &rusqlite::Error) -> Self {
        let Some(inner) = e.sqlite_error() else { return FailureKind::Statement(e.to_string()) };
        match (inner.code, inner.extended_code) {
            (ErrorCode::DiskFull, _) => FailureKind::Full,
            // The index of the log (its shared memory) is only a cache. A failure to grow it is usually the first sign
            // of a full disk.
            (_, rusqlite::ffi::SQLITE_IOERR_SHMSIZE) => FailureKind::Full,
            (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _) => FailureKind::Busy,
            (
                ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::FileLockingProtocolFailed,
                _,
            ) => FailureKind::Fatal(e.to_string()),
            _ => FailureKind::Statement(e.to_string()),
        }
    }

    /// Classifies the error of a COMMIT. Every error except a full disk and a busy database is fatal there.
    pub(super) fn of_commit(e: &rusqlite::Error) -> Self {
        match FailureKind::of(e) {
            FailureKind::Statement(text) => FailureKind::Fatal(text),
            other => other,
        }
    }
}

impl From<FailureKind> for StoreError {
    fn from(failure: FailureKind) -> StoreError {
        match failure {
            FailureKind::Full => StoreError::Full,
            FailureKind::Busy => StoreError::Busy,
            FailureKind::Fatal(text) => StoreError::Fatal(text),
            FailureKind::Statement(text) => StoreError::Refused(text),
        }
    }
}
