//! Why a copy failed.

use super::super::StoreError;

/// Why a copy failed. Unless it is `Unfinished`, the source can be used as before, and the target is empty.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("{0}")]
    Source(StoreError),
    #[error("{0}")]
    Target(StoreError),
    #[error(
        "a copy is between a folder and a database: copy a folder with `hookstream store backup`, and a database with its own tools"
    )]
    SameEngine,
    #[error(
        "the target belongs to another installation ({found}; the source is of {own}): create another database for the copy"
    )]
    Foreign { found: String, own: String },
    /// Rows of some kinds are missing in the copy.
    #[error("the copy differs from its source ({0}), so it was removed: report it as a bug of hookstream")]
    Differs(String),
    /// Everything was copied, and the source may be sealed.
    #[error(
        "everything was copied, and the last step failed ({0}): repeat the same command; if the target is not empty then, the copy has finished"
    )]
    Unfinished(StoreError),
    #[error("the process is stopping")]
    Stopped,
}
