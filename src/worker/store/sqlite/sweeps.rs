//! The steps of a round of sweeps: remove expired rows, then give free pages back to the disk.

use rusqlite::Connection;

use super::super::{Retention, StoreError};
use super::cache::WriterCache;
use super::engine::SqliteStore;
use super::hook_rows;
use super::retention::{self, Cutoff, SweepLimit};
use super::vacuum::{self, STEP_PAGES};
use crate::core::time::Millis;

impl SqliteStore {
    /// Removes a bounded number of expired rows, and of rows of hooks that have nothing left. True: there are more.
    pub(super) async fn sweep_rows(
        &self,
        retention: Retention,
        cutoff: Cutoff,
        now: Millis,
    ) -> Result<bool, StoreError> {
        let has_more = self
            .sweep_within_limit(|limit| {
                let excess = self.history_excess.lock().clone();
                move |conn: &_, cache: &mut _| {
                    retention::sweep(conn, cache, retention, cutoff, &excess, now, limit)
                }
            })
            .await?;
        self.remove_unused_hooks().await?;
        Ok(has_more || !self.unused_hooks.lock().is_empty())
    }

    /// Removes a bounded number of the rows that the round found unused.
    async fn remove_unused_hooks(&self) -> Result<(), StoreError> {
        if self.unused_hooks.lock().is_empty() {
            return Ok(());
        }
        let removed = self
            .sweep_within_limit(|limit| {
                let hooks: Vec<i64> =
                    self.unused_hooks.lock().iter().rev().take(limit.rows).copied().collect();
                move |conn: &_, cache: &mut _| {
                    hook_rows::remove_unused(conn, cache, &hooks).map(|()| hooks.len())
                }
            })
            .await?;
        let mut unused = self.unused_hooks.lock();
        let remaining = unused.len().saturating_sub(removed);
        unused.truncate(remaining);
        Ok(())
    }

    /// Runs a write that removes rows. On a full disk it repeats the write with fewer rows at a time: removing a row
    /// writes pages to the log, whose space is reused after each commit. Otherwise the round would fail each time, and
    /// never reach the vacuum that frees space.
    async fn sweep_within_limit<T, W>(&self, write: impl Fn(SweepLimit) -> W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: Fn(&Connection, &mut WriterCache) -> rusqlite::Result<T> + Send + 'static,
    {
        let mut limit = self.sweep_limit;
        loop {
            match self.write_sweep(write(limit)).await {
                Err(StoreError::Full) => limit = limit.reduced().ok_or(StoreError::Full)?,
                other => return other,
            }
        }
    }

    /// Frees a bounded number of pages. True: there are more. After the last ones (`has_freed`: earlier steps freed
    /// some) it shrinks the files: an idle store would not, because it runs no checkpoint.
    pub(super) async fn vacuum(&self, has_freed: bool) -> Result<bool, StoreError> {
        let is_disk_full = self.shared.is_disk_full();
        let mut pages = STEP_PAGES;
        let freed = loop {
            match self.write_sweep(move |conn, _| vacuum::step(conn, pages, is_disk_full)).await {
                Err(StoreError::Full) if pages > 1 => pages = (pages / 8).max(1),
                other => break other?,
            }
        };
        if is_disk_full || (freed == 0 && (has_freed || self.shared.is_unshrunk())) {
            self.shared.request_shrink();
            self.write_sweep(|_, _| Ok(())).await?;
        }
        Ok(freed > 0)
    }
}
