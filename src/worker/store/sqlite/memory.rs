//! What the writer knows of hooks without asking the tables: their numbers, what waits for them, how long they were held.
//!
//! Read when a hook is first met and forgotten at every rollback, so that it never says more than the tables. What
//! waits is counted here and written once a group, so that a thousand deliveries of a hook cost one statement.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::super::{HookId, Seq, Shares};
use super::filing::{Filing, Unfiled};
use super::places::Places;
use super::reads::hook_id;
use crate::core::time::Millis;

/// A hook that was met.
pub(super) struct Known {
    pub(super) id: HookId,
    /// Of its namespace.
    place: Arc<str>,
    waiting: i64,
    /// Of what waits, that of deliveries without a row: it is not written.
    unfiled: i64,
    changed: bool,
    held: i64,
    held_since: Option<i64>,
    /// How many rows of the gates' memory are its own; None: not counted yet.
    pub(super) keys: Option<i64>,
}

impl Known {
    /// For how long it was held in all, up to `now`.
    pub(super) fn held(&self, now: Millis) -> i64 {
        held(self.held, self.held_since, now)
    }
}

/// For how long a hook was held in all, by the columns of its row.
pub(super) fn held(before: i64, since: Option<i64>, now: Millis) -> i64 {
    before.saturating_add(since.map_or(0, |since| now.0.saturating_sub(since).max(0)))
}

#[derive(Default)]
pub(super) struct Memory {
    numbers: HashMap<Arc<str>, i64>,
    hooks: HashMap<i64, Known>,
    namespaces: HashMap<Arc<str>, i64>,
    /// Hooks whose count is not written yet.
    changed: Vec<i64>,
    /// When the next trailing candidate is due; None: not read yet.
    promotion: Option<Option<i64>>,
    /// None: not read yet.
    filing: Option<Filing>,
    pub(super) shares: Shares,
    pub(super) places: Places,
}

impl Memory {
    /// The rows behind it may be gone.
    pub(super) fn clear(&mut self) {
        let shares = self.shares;
        *self = Memory { shares, ..Memory::default() };
    }

    /// A hook's number; it gets one where it has none.
    pub(super) fn number(&mut self, conn: &Connection, hook: &HookId) -> rusqlite::Result<i64> {
        if let Some(number) = self.numbers.get(&hook.uid) {
            return Ok(*number);
        }
        conn.prepare_cached("INSERT OR IGNORE INTO hooks (uid, namespace, name) VALUES (?1, ?2, ?3)")?
            .execute(params![hook.uid, self.places.of(conn, &hook.namespace)?, hook.name])?;
        self.find(conn, &hook.uid)?.ok_or(rusqlite::Error::QueryReturnedNoRows)
    }

    /// A hook's number, where it has one.
    pub(super) fn find(&mut self, conn: &Connection, uid: &Arc<str>) -> rusqlite::Result<Option<i64>> {
        if let Some(number) = self.numbers.get(uid) {
            return Ok(Some(*number));
        }
        let number = conn
            .prepare_cached("SELECT id FROM hooks WHERE uid = ?1")?
            .query_row([uid], |row| row.get(0))
            .optional()?;
        if let Some(number) = number {
            self.numbers.insert(uid.clone(), number);
        }
        Ok(number)
    }

    pub(super) fn hook(&mut self, conn: &Connection, number: i64) -> rusqlite::Result<&mut Known> {
        if !self.hooks.contains_key(&number) {
            let known = conn
                .prepare_cached(
                    "SELECT uid, namespace, name, waiting, held, held_since FROM hooks WHERE id = ?1",
                )?
                .query_row([number], |row| {
                    Ok(Known {
                        id: hook_id(row, 0)?,
                        place: row.get(1)?,
                        waiting: row.get(3)?,
                        unfiled: 0,
                        changed: false,
                        held: row.get(4)?,
                        held_since: row.get(5)?,
                        keys: None,
                    })
                })?;
            // Its namespace first: the sum over the rows is true only while no count of a hook in it is unwritten.
            self.waiting_in(conn, &known.place)?;
            self.hooks.insert(number, known);
        }
        self.hooks.get_mut(&number).ok_or(rusqlite::Error::QueryReturnedNoRows)
    }

    /// Bytes that wait in the namespace of this place.
    fn waiting_in(&mut self, conn: &Connection, place: &Arc<str>) -> rusqlite::Result<i64> {
        if let Some(bytes) = self.namespaces.get(place) {
            return Ok(*bytes);
        }
        let bytes = conn
            .prepare_cached("SELECT coalesce(sum(waiting), 0) FROM hooks WHERE namespace = ?1")?
            .query_row([place], |row| row.get(0))?;
        self.namespaces.insert(place.clone(), bytes);
        Ok(bytes)
    }

    /// True where so many bytes more are too many for the namespace. What is bigger than a whole share passes alone.
    pub(super) fn namespace_full(
        &mut self,
        conn: &Connection,
        namespace: &Arc<str>,
        more: i64,
    ) -> rusqlite::Result<bool> {
        let place = self.places.of(conn, namespace)?;
        let waiting = self.waiting_in(conn, &place)?;
        Ok(over(waiting, more, self.shares.namespace_bytes))
    }

    /// The same for a hook.
    pub(super) fn hook_full(&mut self, conn: &Connection, number: i64, more: i64) -> rusqlite::Result<bool> {
        let most = self.shares.hook_bytes;
        Ok(most < u64::MAX && over(self.hook(conn, number)?.waiting, more, most))
    }

    /// Counts bytes into (or out of) what waits for a hook.
    pub(super) fn count(&mut self, conn: &Connection, number: i64, bytes: i64) -> rusqlite::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let known = self.wait(conn, number, bytes)?;
        if !std::mem::replace(&mut known.changed, true) {
            self.changed.push(number);
        }
        Ok(())
    }

    /// Counts them, and leaves open whether they are written.
    fn wait(&mut self, conn: &Connection, number: i64, bytes: i64) -> rusqlite::Result<&mut Known> {
        // Its namespace is read with it.
        self.hook(conn, number)?;
        let known = self.hooks.get_mut(&number).ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let waiting = known.waiting.saturating_add(bytes).max(0);
        let change = waiting - std::mem::replace(&mut known.waiting, waiting);
        if let Some(total) = self.namespaces.get_mut(&known.place) {
            *total = total.saturating_add(change);
        }
        Ok(known)
    }

    /// The deliveries without a row.
    pub(super) fn filing(&mut self, conn: &Connection) -> rusqlite::Result<&mut Filing> {
        if self.filing.is_none() {
            let filing = Filing::read(conn)?;
            let sizes: Vec<_> = filing.all().map(|unfiled| (unfiled.hook, unfiled.size)).collect();
            self.filing = Some(filing);
            for (hook, size) in sizes {
                self.wait(conn, hook, size)?.unfiled += size;
            }
        }
        self.filing.as_mut().ok_or(rusqlite::Error::QueryReturnedNoRows)
    }

    /// Keeps a delivery that gets no row yet.
    pub(super) fn hand_over(
        &mut self,
        conn: &Connection,
        seq: Seq,
        unfiled: Unfiled,
    ) -> rusqlite::Result<()> {
        self.wait(conn, unfiled.hook, unfiled.size)?.unfiled += unfiled.size;
        self.filing(conn)?.insert(seq, unfiled);
        Ok(())
    }

    /// A delivery that has no row, which now is the caller's to file.
    pub(super) fn take_back(&mut self, conn: &Connection, seq: Seq) -> rusqlite::Result<Option<Unfiled>> {
        let Some(unfiled) = self.filing(conn)?.remove(seq) else { return Ok(None) };
        self.wait(conn, unfiled.hook, -unfiled.size)?.unfiled -= unfiled.size;
        Ok(Some(unfiled))
    }

    /// True where no delivery is without a row, as far as is known.
    pub(super) fn all_filed(&self) -> bool {
        self.filing.as_ref().is_some_and(Filing::is_empty)
    }

    /// Writes what was counted. Must come before every COMMIT and before a savepoint is let go.
    pub(super) fn flush(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        for number in self.changed.drain(..) {
            let Some(known) = self.hooks.get_mut(&number) else { continue };
            known.changed = false;
            conn.prepare_cached("UPDATE hooks SET waiting = ?2 WHERE id = ?1")?
                .execute(params![number, known.waiting - known.unfiled])?;
        }
        Ok(())
    }

    /// Begins or ends a hold.
    pub(super) fn hold(
        &mut self,
        conn: &Connection,
        number: i64,
        hold: bool,
        now: Millis,
    ) -> rusqlite::Result<()> {
        let known = self.hook(conn, number)?;
        if known.held_since.is_some() == hold {
            return Ok(());
        }
        known.held = known.held(now);
        known.held_since = hold.then_some(now.0);
        conn.prepare_cached("UPDATE hooks SET held = ?2, held_since = ?3 WHERE id = ?1")?
            .execute(params![number, known.held, known.held_since])?;
        Ok(())
    }

    /// The hook of this number has another uid from now on.
    pub(super) fn rename(&mut self, conn: &Connection, number: i64, to: &HookId) -> rusqlite::Result<()> {
        let known = self.hook(conn, number)?;
        let old = std::mem::replace(&mut known.id.uid, to.uid.clone());
        self.numbers.remove(&old);
        self.numbers.insert(to.uid.clone(), number);
        conn.prepare_cached("UPDATE hooks SET uid = ?2 WHERE id = ?1")?.execute(params![number, to.uid])?;
        Ok(())
    }

    /// The gates' memory was swept.
    pub(super) fn keys_changed(&mut self) {
        self.hooks.values_mut().for_each(|known| known.keys = None);
    }

    /// When the next trailing candidate is due.
    pub(super) fn promotion(&mut self, conn: &Connection) -> rusqlite::Result<Option<i64>> {
        if let Some(known) = self.promotion {
            return Ok(known);
        }
        let due = conn
            .prepare_cached("SELECT min(due) FROM candidates")?
            .query_row([], |row| row.get::<_, Option<i64>>(0))?;
        self.promotion = Some(due);
        Ok(due)
    }

    pub(super) fn candidates_changed(&mut self) {
        self.promotion = None;
    }
}

fn over(waiting: i64, more: i64, most: u64) -> bool {
    waiting > 0 && u64::try_from(waiting.saturating_add(more)).unwrap_or(0) > most
}
