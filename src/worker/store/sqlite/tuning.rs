//! The sizes that bound the store's memory, its log and its stalls. Tests choose smaller ones.

#[cfg(test)]
use std::sync::Arc;
use std::time::Duration;

#[cfg(test)]
use parking_lot::Mutex;

use super::super::read_budget::ReadBudget;
use super::outcomes::OutcomeLimits;
use super::retention::SweepLimit;
use super::runs::{RunLimits, TABLE_ENTRY_BYTES};

/// The size of a page of the database.
const PAGE_BYTES: u64 = 4096;
/// The size of a page in the log, with the header of its frame.
const FRAME_BYTES: i64 = 4096 + 24;
/// `max_wal_pages` is at most this multiple of `wal_pages`.
const MAX_WAL_MULTIPLE: i64 = 8;

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
    /// Idempotency keys in memory, and how they are written.
    pub(super) keys: RunLimits,
    /// Event ids in memory, and how they are written.
    pub(super) ids: RunLimits,
    /// Outcomes in memory, and how they are merged.
    pub(super) outcomes: OutcomeLimits,
    /// Events by which the stored watermark of materialization may lag behind.
    pub(super) watermark_lag: i64,
    /// Bytes of pages that the writer keeps in memory.
    pub(super) page_cache: u64,
    /// Connections for the dispatcher's reads.
    pub(super) readers: u32,
    /// Connections for measurements, retention and bulk replays.
    pub(super) maintenance_readers: u32,
    /// Connections for users' queries.
    pub(super) history_readers: usize,
    /// Users' queries that wait for a connection.
    pub(super) history_queue: usize,
    pub(super) history_budget: ReadBudget,
    /// The SQLite error code with which every COMMIT fails while it is set.
    #[cfg(test)]
    pub(super) fault: Arc<Mutex<Option<i32>>>,
    #[cfg(test)]
    pub(super) checkpoints: Arc<super::tests::CheckpointCounter>,
}

/// The memory of a key or an id: in the table, and a second one in the frozen table.
const ENTRY_BYTES: u64 = 2 * TABLE_ENTRY_BYTES as u64;
/// The smallest table. A smaller one would write a run every few thousand events.
const MIN_TABLE: usize = 1792;

impl Tuning {
    /// Returns the bytes of the largest log.
    pub(super) fn max_log_bytes(&self) -> i64 {
        self.max_wal_pages.saturating_mul(FRAME_BYTES)
    }

    /// Divides the memory: half for pages, three eighths for filters, the rest for keys and ids that are in no run yet. On a
    /// full disk, these may take four times as much.
    pub(super) fn within_memory(mut self, bytes: u64) -> Tuning {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        self.page_cache = self.page_cache.min(bytes / 2);
        self.keys.filter_bytes = self.keys.filter_bytes.min(size(bytes / 8 * 3));
        let entries = size(bytes / 8 / 2 / ENTRY_BYTES);
        for limits in [&mut self.keys, &mut self.ids] {
            while limits.table > entries.max(MIN_TABLE) {
                limits.table /= 2;
            }
        }
        self
    }

    /// Bounds the log by the disk reserve: on a full disk, a checkpoint writes the pages of the log into the half of the
    /// reserve that outcomes may use. If they did not fit, neither the log nor the database could take another outcome.
    pub(super) fn within_reserve(mut self, reserve: u64) -> Tuning {
        let pages = i64::try_from(reserve / 4 / PAGE_BYTES).unwrap_or(i64::MAX);
        self.wal_pages = self.wal_pages.min(pages);
        self.max_wal_pages = self.max_wal_pages.min(pages.saturating_mul(MAX_WAL_MULTIPLE));
        self
    }
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
            sweep_limit: SweepLimit { rows: 500, bytes: 4 << 20, time: Duration::from_millis(4) },
            keys: RunLimits::default(),
            ids: RunLimits::default(),
            outcomes: OutcomeLimits::default(),
            watermark_lag: 1024,
            page_cache: 64 << 20,
            readers: 4,
            maintenance_readers: 2,
            history_readers: 2,
            history_queue: 128,
            history_budget: ReadBudget::of_list(),
            #[cfg(test)]
            fault: Arc::default(),
            #[cfg(test)]
            checkpoints: Arc::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_divided_and_bounded() {
        for (mib, page_cache, filters, table) in
            [(4, 2 << 20, 3 << 19, 1792), (24, 12 << 20, 9 << 20, 7_168), (160, 64 << 20, 60 << 20, 57_344)]
        {
            let tuning = Tuning::default().within_memory(mib << 20);
            let found = (tuning.page_cache, tuning.keys.filter_bytes, tuning.keys.table, tuning.ids.table);
            assert_eq!(found, (page_cache, filters, table, table), "{mib} MiB");
        }
    }
}
