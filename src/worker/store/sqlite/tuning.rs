//! The sizes that bound the store's memory, its log and its stalls. Tests choose smaller ones.

#[cfg(test)]
use std::sync::Arc;

#[cfg(test)]
use parking_lot::Mutex;

use super::retention::SweepLimit;

#[derive(Clone)]
pub(super) struct Tuning {
    /// Operations in the queue. A full queue refuses accepts.
    pub(super) queue: usize,
    /// Bytes of events in the queue. Without it, 4096 requests of 16 MiB would take 64 GiB.
    pub(super) queue_bytes: usize,
    /// Operations in one group commit.
    pub(super) group: usize,
    /// Bytes of events in one group commit.
    pub(super) group_bytes: usize,
    /// Pages (4 KiB) of log at which the log is copied into the database: 8 MiB.
    pub(super) wal_pages: i64,
    /// Pages of log at which the writer waits for readers, so that the log can restart: 64 MiB.
    pub(super) max_wal_pages: i64,
    pub(super) sweep_limit: SweepLimit,
    pub(super) readers: u32,
    /// The SQLite error code with which the next COMMIT fails.
    #[cfg(test)]
    pub(super) fault: Arc<Mutex<Option<i32>>>,
    #[cfg(test)]
    pub(super) checkpoints: Arc<super::tests::CheckpointCounter>,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning {
            queue: 4096,
            queue_bytes: 64 << 20,
            group: 1024,
            group_bytes: 8 << 20,
            wal_pages: 2048,
            max_wal_pages: 16_384,
            sweep_limit: SweepLimit { rows: 500, bytes: 4 << 20 },
            readers: 4,
            #[cfg(test)]
            fault: Arc::default(),
            #[cfg(test)]
            checkpoints: Arc::default(),
        }
    }
}
