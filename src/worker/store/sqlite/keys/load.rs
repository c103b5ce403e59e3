//! Reads the keys of a store at its start: the runs, and the keys that are in no run yet.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::super::super::EventSeq;
use super::super::runs::{Entry, Key, MAX_SLICE, RunKind, RunLimits, RunSet, Slice};
use super::KeyStore;

/// Events that one statement reads.
const BATCH: i64 = 8192;

impl KeyStore {
    /// Reads the keys. Writes runs only if there are more keys than the memory may hold, as after a recovery.
    pub(in super::super) fn open(conn: &Connection, limits: RunLimits) -> rusqlite::Result<KeyStore> {
        let last_event = conn.query_row("SELECT coalesce(max(seq), 0) FROM events", [], |row| row.get(0))?;
        let covered: Option<EventSeq> =
            conn.query_row("SELECT value FROM meta WHERE name = 'keyed'", [], |row| row.get(0)).optional()?;
        let runs = RunSet::open(conn, RunKind::Keys, limits)?;
        let mut store =
            KeyStore { runs, covered: covered.unwrap_or(0), now: i64::MIN, ..KeyStore::default() };
        store.load_table(conn)?;
        store.last_event = last_event;
        Ok(store)
    }

    /// Reads the keys of the events after `meta.keyed`.
    fn load_table(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        type Keyed = (EventSeq, i64, i64, Key);
        let mut last = self.covered;
        loop {
            let keyed = conn
                .prepare_cached(
                    "SELECT seq, accepted, kept_until, dedup_key FROM events
                     WHERE seq > ?1 AND dedup_key IS NOT NULL ORDER BY seq LIMIT ?2",
                )?
                .query_map(params![last, BATCH], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                })?
                .collect::<rusqlite::Result<Vec<Keyed>>>()?;
            let Some((end, ..)) = keyed.last() else { return Ok(()) };
            last = *end;
            for (event, accepted, expires, key) in keyed {
                let window = Duration::from_millis(expires.saturating_sub(accepted).unsigned_abs());
                self.insert(Entry::new(key, event, expires), window);
            }
            self.commit(last);
            if self.is_full() {
                self.write_table(conn)?;
            }
        }
    }

    /// Writes the table as runs.
    fn write_table(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        self.table.freeze(self.last_event);
        while self.table.frozen.is_some() {
            let transaction = conn.unchecked_transaction()?;
            self.run_job(conn, &Slice { blocks: MAX_SLICE, until: None })?;
            transaction.commit()?;
            self.commit(self.last_event);
        }
        Ok(())
    }
}
