//! The steps of a round of sweeps: remove expired rows, then give free pages back to the disk.

use rusqlite::Connection;

use super::super::{Retention, StoreError};
use super::cache::WriterCache;
use super::ended_events;
use super::engine::SqliteStore;
use super::event_ids;
use super::hook_rows;
use super::materialize;
use super::retention::{self, Cutoff, SweepLimit};
use super::vacuum::{self, STEP_PAGES};
use crate::core::time::Millis;

/// How long a pending delivery has no row at most, in milliseconds, if sweeps run.
const MAX_NOTE_AGE: i64 = 60_000;

impl SqliteStore {
    /// Inserts the rows of pending deliveries that have been due for long. Without space, retention waits for them.
    pub(super) async fn materialize_old(&self, now: Millis) -> Result<(), StoreError> {
        let due = now.0.saturating_sub(MAX_NOTE_AGE);
        let batch = move |conn: &Connection, cache: &mut WriterCache| {
            materialize::materialize_due_before(conn, cache, due)
        };
        while !self.shared.is_all_materialized() {
            match self.write_unmaterialized(batch).await {
                Ok(true) => {}
                Ok(false) | Err(StoreError::Full | StoreError::Busy) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

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
        let has_ended = self.sweep_ended_events().await?;
        let lacks_ids = self.add_missing_ids().await?;
        Ok(has_more || has_ended || lacks_ids || !self.unused_hooks.lock().is_empty())
    }

    /// Removes a bounded number of events of deleted namespaces. True: there are more.
    async fn sweep_ended_events(&self) -> Result<bool, StoreError> {
        let (previous, rows) = (self.ended_scan.lock().take(), self.sweep_limit.rows);
        let from = previous.clone();
        let step = self.maintenance_readers.run(move |conn| ended_events::read(conn, previous, rows)).await?;
        let Some(step) = step else { return Ok(false) };
        let next = self
            .sweep_within_limit(|limit| {
                let (step, from) = (step.clone().truncated(limit.rows), from.clone());
                move |conn: &_, cache: &mut _| ended_events::remove(conn, cache, &step, from.as_ref())
            })
            .await?;
        let has_more = next.is_some();
        *self.ended_scan.lock() = next;
        Ok(has_more)
    }

    /// Adds the ids of a bounded number of events that an older format stored. True: more are missing.
    async fn add_missing_ids(&self) -> Result<bool, StoreError> {
        if self.shared.is_disk_full() {
            return Ok(false);
        }
        let Some(step) = self.maintenance_readers.run(event_ids::read_backfill).await? else {
            return Ok(false);
        };
        match self.write_unmaterialized(move |conn, cache| cache.ids.add_missing(conn, &step)).await {
            // The next round tries again. Sweeps must go on, because they free space.
            Err(StoreError::Full) => Ok(false),
            added => added,
        }
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
