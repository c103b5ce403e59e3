//! Why a store operation failed.

/// Why the store did not execute an operation.
#[derive(Debug, Clone, thiserror::Error, strum::IntoStaticStr)]
pub enum StoreError {
    #[error("the disk is full")]
    Full,
    #[error("the store is busy: its queue is full")]
    Busy,
    /// The namespace's backlog has used up its share of the disk.
    #[error("the namespace has used up its share of the disk: its receivers are behind")]
    NamespaceFull,
    /// The hook's backlog has used up its share, and the sender retries (`Origin::redelivers_rejected`).
    #[error("the hook has used up its share of the disk: its receiver is behind")]
    HookFull,
    #[error("the store is stopping")]
    Closed,
    /// Only this operation failed. The store changed nothing, and repeating the operation unchanged fails again.
    #[error("the store refused the operation: {0}")]
    Refused(String),
    /// Written data may not be on the disk. The process must end; the next start reads the data that is there.
    #[error("the store failed: {0}")]
    Fatal(String),
    #[error(
        "the store was written by a newer version (format {found}, this program reads up to {known}): start that version, or restore a backup"
    )]
    Newer { found: i64, known: i64 },
    #[error("cannot open the store: {0}")]
    Open(String),
    /// The store holds events of another installation; this one would deliver them.
    #[error(
        "the store belongs to another installation ({found}; this is {own}): give the worker its own volume, or adopt the store permanently with --accept-new-store"
    )]
    Foreign { found: String, own: String },
}
