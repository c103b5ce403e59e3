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
    /// Too many history queries are waiting, and this namespace has the most of them.
    #[error("too many history queries of this namespace are waiting")]
    TooManyReads,
    /// After an upgrade, the ids of older events are not found yet.
    #[error("the store is still reading the event ids that an older version stored")]
    Indexing,
    #[error("the namespace has {0} unfinished replays, which is the most")]
    TooManyReplays(usize),
    /// The database cannot be used now. Nothing was changed, and the operation can be repeated later.
    #[error("the database is not available: {0}")]
    Unavailable(String),
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
    /// Acknowledged transactions cannot be read. A worker that started would lose them silently.
    #[error(
        "the store's log {log} is damaged at byte {offset}: at least {transactions} acknowledged transactions cannot be read. {readable}. Nothing was changed. Keep a copy of the folder; then copy what is readable with `hookstream store recover`, or restore a backup"
    )]
    Damaged { log: String, offset: u64, transactions: u64, readable: String },
    /// The store holds events of another installation; this one would deliver them.
    #[error(
        "the store belongs to another installation ({found}; this is {own}): give the worker its own volume or database, or adopt the store permanently with --accept-new-store"
    )]
    Foreign { found: String, own: String },
}
