//! The writer's cache of hooks, backlog sizes and unmaterialized deliveries, and its idempotency keys, event ids and outcomes.
//!
//! Entries are read from the tables on first use. Every rollback clears the cache, so it never differs from the tables. Keys,
//! ids and outcomes are not cleared, because reading them again takes long; they have a rollback of their own.
//! The cache counts backlog sizes and writes them once for each group commit, so that a thousand deliveries of a hook
//! cost one statement.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::super::{DeliverySeq, EventSeq, HookId, Shares};
use super::event_ids::IdStore;
use super::keys::KeyStore;
use super::namespace_keys::{self, NamespaceKeys};
use super::outcomes::OutcomeStore;
use super::rows::{hook_id, total_held};
use super::runs::RunSet;
use super::unmaterialized::{Unmaterialized, UnmaterializedSet};
use crate::core::fast_map::FastMap;
use crate::core::time::Millis;

/// A cached row of `hooks`.
pub(super) struct CachedHook {
    pub(super) id: HookId,
    pub(super) namespace_key: Arc<str>,
    /// The number of its namespace key (`deliveries.namespace`).
    pub(super) namespace: i64,
    /// Bytes of pending events.
    pending_bytes: i64,
    /// The part of `pending_bytes` that belongs to unmaterialized deliveries. The column `waiting` does not include it.
    unmaterialized_bytes: i64,
    /// True if `pending_bytes` was changed and not written yet.
    is_changed: bool,
    /// Milliseconds of all past holds.
    held: i64,
    held_since: Option<i64>,
    /// The number of its rows in `gates`. None: not counted yet.
    pub(super) gate_keys: Option<i64>,
}

impl CachedHook {
    /// Returns how long the hook has been held in total up to `now`, in milliseconds.
    pub(super) fn total_held(&self, now: Millis) -> i64 {
        total_held(self.held, self.held_since, now)
    }
}

/// Bytes of pending events in a namespace.
#[derive(Clone, Copy, Default)]
struct NamespaceBytes {
    pending: i64,
    /// The part of `pending` that belongs to unmaterialized deliveries.
    unmaterialized: i64,
}

/// A position within a group.
#[derive(Clone, Copy)]
pub(super) struct RunSavepoint {
    keys: (usize, usize),
    ids: (usize, usize),
}

#[derive(Default)]
pub(super) struct WriterCache {
    /// Row ids of hooks by uid.
    hook_ids: FastMap<Arc<str>, i64>,
    hooks: FastMap<i64, CachedHook>,
    /// Bytes of pending events by namespace key.
    namespaces: FastMap<Arc<str>, NamespaceBytes>,
    /// Hooks with an unwritten backlog size.
    changed: Vec<i64>,
    /// When the next trailing candidate is due. Outer None: not read yet.
    next_promotion: Option<Option<i64>>,
    /// None: not read yet.
    unmaterialized: Option<UnmaterializedSet>,
    pub(super) shares: Shares,
    pub(super) namespace_keys: NamespaceKeys,
    pub(super) keys: KeyStore,
    pub(super) ids: IdStore,
    pub(super) outcomes: OutcomeStore,
}

impl WriterCache {
    pub(super) fn new(keys: KeyStore, ids: IdStore, outcomes: OutcomeStore) -> WriterCache {
        WriterCache { keys, ids, outcomes, ..WriterCache::default() }
    }

    /// Forgets everything except the configured shares, the idempotency keys, the event ids and the outcomes. Must run
    /// after every rollback.
    pub(super) fn clear(&mut self) {
        let (keys, ids) = (std::mem::take(&mut self.keys), std::mem::take(&mut self.ids));
        let outcomes = std::mem::take(&mut self.outcomes);
        *self = WriterCache { shares: self.shares, keys, ids, outcomes, ..WriterCache::default() };
    }

    /// Returns the sets of runs.
    fn run_sets(&mut self) -> [&mut RunSet; 2] {
        [self.keys.runs(), self.ids.runs()]
    }

    /// Allows or forbids the work on runs in the next transaction. It needs space on the disk.
    pub(super) fn set_run_work(&mut self, is_enabled: bool) {
        self.run_sets().into_iter().for_each(|runs| runs.set_enabled(is_enabled));
    }

    /// Works on no runs for a while if the last transaction, for which the disk had no space, did. True: the transaction may
    /// fit without it.
    pub(super) fn postpone_run_work(&mut self) -> bool {
        self.run_sets().into_iter().fold(false, |had_work, runs| runs.postpone() | had_work)
    }

    /// Returns the most bytes that the work on runs in the last transaction added to the log.
    pub(super) fn run_work_bytes(&mut self) -> usize {
        self.run_sets().into_iter().map(|runs| runs.slice_bytes()).sum()
    }

    /// True if no more keys or ids fit into memory, because the disk has no space to write them.
    pub(super) fn is_memory_full(&self) -> bool {
        self.keys.is_full() || self.ids.is_full()
    }

    /// Returns the memory of keys and ids, in bytes.
    pub(super) fn run_bytes(&self) -> usize {
        self.keys.bytes() + self.ids.bytes()
    }

    /// Returns the position in the group to which `roll_back_runs_to` returns.
    pub(super) fn run_savepoint(&self) -> RunSavepoint {
        RunSavepoint { keys: self.keys.savepoint(), ids: self.ids.savepoint() }
    }

    /// Forgets the keys and ids of the group in progress after a savepoint that was rolled back.
    pub(super) fn roll_back_runs_to(&mut self, savepoint: RunSavepoint) {
        self.keys.roll_back_to(savepoint.keys);
        self.ids.roll_back_to(savepoint.ids);
    }

    /// Returns keys and ids to the last COMMIT. Must run after every rollback of a transaction.
    pub(super) fn roll_back_runs(&mut self) {
        self.keys.roll_back();
        self.ids.roll_back();
    }

    /// Does a bounded part of the work on runs. Must run at the end of every transaction. `now`: the time of the group, if it
    /// has one.
    pub(super) fn work_on_runs(&mut self, conn: &Connection, now: Option<Millis>) -> rusqlite::Result<()> {
        self.keys.work(conn, now)?;
        self.ids.work(conn)
    }

    /// Keeps the keys and ids of the transaction. Must run after every COMMIT. `last_event`: the last accepted event.
    pub(super) fn commit_runs(&mut self, last_event: EventSeq) {
        self.keys.commit(last_event);
        self.ids.commit(last_event);
    }

    /// Returns the row id of a hook. Inserts the row if there is none.
    pub(super) fn find_or_insert_hook(&mut self, conn: &Connection, hook: &HookId) -> rusqlite::Result<i64> {
        if let Some(id) = self.hook_ids.get(&hook.uid) {
            return Ok(*id);
        }
        conn.prepare_cached("INSERT OR IGNORE INTO hooks (uid, namespace, name) VALUES (?1, ?2, ?3)")?
            .execute(params![hook.uid, self.namespace_keys.get(conn, &hook.namespace)?, hook.name])?;
        self.find_hook(conn, &hook.uid)?.ok_or(rusqlite::Error::QueryReturnedNoRows)
    }

    /// Returns the row id of a hook, if it has a row.
    pub(super) fn find_hook(&mut self, conn: &Connection, uid: &Arc<str>) -> rusqlite::Result<Option<i64>> {
        if let Some(id) = self.hook_ids.get(uid) {
            return Ok(Some(*id));
        }
        let id = conn
            .prepare_cached("SELECT id FROM hooks WHERE uid = ?1")?
            .query_row([uid], |row| row.get(0))
            .optional()?;
        if let Some(id) = id {
            self.hook_ids.insert(uid.clone(), id);
        }
        Ok(id)
    }

    pub(super) fn hook(&mut self, conn: &Connection, id: i64) -> rusqlite::Result<&mut CachedHook> {
        if !self.hooks.contains_key(&id) {
            let mut hook = conn
                .prepare_cached(
                    "SELECT uid, namespace, name, waiting, held, held_since FROM hooks WHERE id = ?1",
                )?
                .query_row([id], |row| {
                    Ok(CachedHook {
                        id: hook_id(row, 0)?,
                        namespace_key: row.get(1)?,
                        namespace: 0,
                        pending_bytes: row.get(3)?,
                        unmaterialized_bytes: 0,
                        is_changed: false,
                        held: row.get(4)?,
                        held_since: row.get(5)?,
                        gate_keys: None,
                    })
                })?;
            hook.namespace = namespace_keys::find_or_insert_number(conn, &hook.namespace_key)?;
            // Read the namespace's sum first. It is correct only while no hook in the namespace has an unwritten count.
            self.namespace_bytes(conn, &hook.namespace_key)?;
            self.hooks.insert(id, hook);
        }
        self.hooks.get_mut(&id).ok_or(rusqlite::Error::QueryReturnedNoRows)
    }

    /// Returns the bytes of pending events in the namespace with this key.
    fn namespace_bytes(&mut self, conn: &Connection, key: &Arc<str>) -> rusqlite::Result<i64> {
        if let Some(bytes) = self.namespaces.get(key) {
            return Ok(bytes.pending);
        }
        let pending = conn
            .prepare_cached("SELECT coalesce(sum(waiting), 0) FROM hooks WHERE namespace = ?1")?
            .query_row([key], |row| row.get(0))?;
        self.namespaces.insert(key.clone(), NamespaceBytes { pending, unmaterialized: 0 });
        Ok(pending)
    }

    /// True if `added` more bytes exceed the namespace's share. An empty backlog takes an event of any size.
    pub(super) fn is_namespace_full(
        &mut self,
        conn: &Connection,
        namespace: &Arc<str>,
        added: i64,
    ) -> rusqlite::Result<bool> {
        let key = self.namespace_keys.get(conn, namespace)?;
        let pending = self.namespace_bytes(conn, &key)?;
        Ok(exceeds(pending, added, self.shares.namespace_bytes))
    }

    /// True if `added` more bytes exceed the hook's share. An empty backlog takes an event of any size.
    pub(super) fn is_hook_full(&mut self, conn: &Connection, id: i64, added: i64) -> rusqlite::Result<bool> {
        let share = self.shares.hook_bytes;
        Ok(share < u64::MAX && exceeds(self.hook(conn, id)?.pending_bytes, added, share))
    }

    /// Adds bytes to (or subtracts them from) the backlog of a hook, to be written by `flush`.
    pub(super) fn count(&mut self, conn: &Connection, id: i64, bytes: i64) -> rusqlite::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let hook = self.add_pending_bytes(conn, id, bytes, 0)?;
        if !std::mem::replace(&mut hook.is_changed, true) {
            self.changed.push(id);
        }
        Ok(())
    }

    /// Adds bytes in memory only; `unmaterialized` of them belong to an unmaterialized delivery. The caller decides
    /// whether to write them.
    fn add_pending_bytes(
        &mut self,
        conn: &Connection,
        id: i64,
        bytes: i64,
        unmaterialized: i64,
    ) -> rusqlite::Result<&mut CachedHook> {
        // Also caches the sum of its namespace.
        self.hook(conn, id)?;
        let hook = self.hooks.get_mut(&id).ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let pending = hook.pending_bytes.saturating_add(bytes).max(0);
        let change = pending - std::mem::replace(&mut hook.pending_bytes, pending);
        hook.unmaterialized_bytes += unmaterialized;
        if let Some(total) = self.namespaces.get_mut(&hook.namespace_key) {
            total.pending = total.pending.saturating_add(change);
            total.unmaterialized += unmaterialized;
        }
        Ok(hook)
    }

    /// Returns the unmaterialized deliveries. Reads them on first use and adds them to their hooks' backlogs.
    pub(super) fn unmaterialized(&mut self, conn: &Connection) -> rusqlite::Result<&mut UnmaterializedSet> {
        if self.unmaterialized.is_none() {
            let set = UnmaterializedSet::read(conn, self.outcomes.finder(conn))?;
            let sizes: Vec<_> = set.iter().map(|(_, delivery)| (delivery.hook, delivery.size)).collect();
            self.unmaterialized = Some(set);
            for (hook, size) in sizes {
                self.add_pending_bytes(conn, hook, size, size)?;
            }
        }
        self.unmaterialized.as_mut().ok_or(rusqlite::Error::QueryReturnedNoRows)
    }

    /// Adds a delivery that gets no row yet.
    pub(super) fn insert_unmaterialized(
        &mut self,
        conn: &Connection,
        seq: DeliverySeq,
        delivery: Unmaterialized,
    ) -> rusqlite::Result<()> {
        self.add_pending_bytes(conn, delivery.hook, delivery.size, delivery.size)?;
        self.outcomes.add_note(seq, delivery);
        self.unmaterialized(conn)?.insert(seq, delivery);
        Ok(())
    }

    /// Removes an unmaterialized delivery. Returns it and the number of its namespace; the caller must insert its row or its
    /// outcome.
    pub(super) fn take_unmaterialized(
        &mut self,
        conn: &Connection,
        seq: DeliverySeq,
    ) -> rusqlite::Result<Option<(Unmaterialized, i64)>> {
        let Some(delivery) = self.unmaterialized(conn)?.remove(seq) else { return Ok(None) };
        self.outcomes.remove_note(seq);
        let hook = self.add_pending_bytes(conn, delivery.hook, -delivery.size, -delivery.size)?;
        let namespace = hook.namespace;
        Ok(Some((delivery, namespace)))
    }

    /// Returns up to `limit` unmaterialized deliveries of the namespace with this key, oldest first.
    pub(super) fn unmaterialized_of_namespace(
        &mut self,
        conn: &Connection,
        key: &str,
        limit: usize,
    ) -> rusqlite::Result<Vec<DeliverySeq>> {
        self.unmaterialized(conn)?;
        let (Some(set), Some(bytes)) = (&self.unmaterialized, self.namespaces.get(key)) else {
            return Ok(Vec::new());
        };
        // The usual case. Otherwise every list would walk the deliveries of all namespaces.
        if bytes.unmaterialized == 0 {
            return Ok(Vec::new());
        }
        let is_of_namespace = |delivery: &Unmaterialized| {
            self.hooks.get(&delivery.hook).is_some_and(|hook| *hook.namespace_key == *key)
        };
        let found = set.iter().filter(|(_, delivery)| is_of_namespace(delivery)).map(|(seq, _)| seq);
        Ok(found.take(limit).collect())
    }

    /// True if the hook has an unmaterialized delivery.
    pub(super) fn has_unmaterialized(&mut self, conn: &Connection, hook: i64) -> rusqlite::Result<bool> {
        // Caches the hooks of all unmaterialized deliveries.
        self.unmaterialized(conn)?;
        Ok(self.hooks.get(&hook).is_some_and(|hook| hook.unmaterialized_bytes != 0))
    }

    /// Forgets a namespace key of which no hook has a row any more.
    pub(super) fn remove_namespace(&mut self, key: &str) {
        self.namespaces.remove(key);
    }

    /// Forgets a hook whose row the caller removes.
    pub(super) fn remove_hook(&mut self, id: i64, uid: &str) {
        self.hook_ids.remove(uid);
        if let Some(hook) = self.hooks.remove(&id)
            && let Some(total) = self.namespaces.get_mut(&hook.namespace_key)
        {
            total.pending = total.pending.saturating_sub(hook.pending_bytes);
        }
    }

    /// True if it is certain that every delivery has a row.
    pub(super) fn is_all_materialized(&self) -> bool {
        self.unmaterialized.as_ref().is_some_and(UnmaterializedSet::is_empty)
    }

    /// Writes the changed counts. Must run before every COMMIT and before a savepoint is released.
    pub(super) fn flush(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        for id in self.changed.drain(..) {
            let Some(hook) = self.hooks.get_mut(&id) else { continue };
            hook.is_changed = false;
            conn.prepare_cached("UPDATE hooks SET waiting = ?2 WHERE id = ?1")?
                .execute(params![id, hook.pending_bytes - hook.unmaterialized_bytes])?;
        }
        Ok(())
    }

    /// Starts or ends a hold of a hook.
    pub(super) fn set_held(
        &mut self,
        conn: &Connection,
        id: i64,
        held: bool,
        now: Millis,
    ) -> rusqlite::Result<()> {
        let hook = self.hook(conn, id)?;
        if hook.held_since.is_some() == held {
            return Ok(());
        }
        hook.held = hook.total_held(now);
        hook.held_since = held.then_some(now.0);
        conn.prepare_cached("UPDATE hooks SET held = ?2, held_since = ?3 WHERE id = ?1")?
            .execute(params![id, hook.held, hook.held_since])?;
        Ok(())
    }

    /// Changes the uid of a hook's row.
    pub(super) fn set_uid(&mut self, conn: &Connection, id: i64, to: &HookId) -> rusqlite::Result<()> {
        let hook = self.hook(conn, id)?;
        let old = std::mem::replace(&mut hook.id.uid, to.uid.clone());
        self.hook_ids.remove(&old);
        self.hook_ids.insert(to.uid.clone(), id);
        conn.prepare_cached("UPDATE hooks SET uid = ?2 WHERE id = ?1")?.execute(params![id, to.uid])?;
        Ok(())
    }

    /// Forgets the key counts, after rows of `gates` were swept.
    pub(super) fn invalidate_gate_keys(&mut self) {
        self.hooks.values_mut().for_each(|hook| hook.gate_keys = None);
    }

    /// Returns when the next trailing candidate is due.
    pub(super) fn next_promotion(&mut self, conn: &Connection) -> rusqlite::Result<Option<i64>> {
        if let Some(cached) = self.next_promotion {
            return Ok(cached);
        }
        let due = conn
            .prepare_cached("SELECT min(due) FROM candidates")?
            .query_row([], |row| row.get::<_, Option<i64>>(0))?;
        self.next_promotion = Some(due);
        Ok(due)
    }

    /// Forgets when the next candidate is due, after rows of `candidates` changed.
    pub(super) fn invalidate_next_promotion(&mut self) {
        self.next_promotion = None;
    }
}

/// True if `added` bytes on top of a backlog that is not empty exceed `limit`.
fn exceeds(pending: i64, added: i64, limit: u64) -> bool {
    pending > 0 && u64::try_from(pending.saturating_add(added)).unwrap_or(0) > limit
}
