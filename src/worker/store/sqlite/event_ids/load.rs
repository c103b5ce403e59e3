//! Reads the ids of a store at its start: the runs, and the ids that are in no run yet.

use rusqlite::Connection;

use super::super::super::EventSeq;
use super::super::runs::{Entry, MAX_SLICE, RunKind, RunLimits, RunSet, Slice, stored_key};
use super::{IdStore, RECENT, hash_of_place, id_hash, kept_until, meta};

/// Events that one statement reads.
const BATCH: i64 = 8192;

impl IdStore {
    /// Reads the ids. Writes runs only if there are more ids than the memory may hold, as after a recovery.
    pub(in super::super) fn open(conn: &Connection, limits: RunLimits) -> rusqlite::Result<IdStore> {
        let runs = RunSet::open(conn, RunKind::Ids, limits)?;
        let covered = meta(conn, "ids_covered")?.unwrap_or(0);
        let mut store = IdStore { runs, covered, ..IdStore::default() };
        store.load_newest(conn)?;
        store.last_event =
            conn.query_row("SELECT coalesce(max(seq), 0) FROM events", [], |row| row.get(0))?;
        Ok(store)
    }

    /// Reads the ids of the events after `meta.ids_covered`.
    fn load_newest(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let mut last = self.covered;
        loop {
            let entries = read_ids(
                conn,
                "SELECT seq, accepted, kept_until, id, namespace FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2",
                last,
                BATCH,
            )?;
            let Some(end) = entries.last().map(|entry| entry.event) else { return Ok(()) };
            last = end;
            self.pending = entries;
            self.commit(last);
            if self.is_full() {
                self.write_newest(conn)?;
            }
        }
    }

    /// Writes the ids in memory as a run.
    fn write_newest(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        self.frozen_to = self.last_event;
        self.newest.freeze();
        let slice = Slice { blocks: MAX_SLICE, until: None };
        while let Some(frozen) = self.newest.frozen() {
            let transaction = conn.unchecked_transaction()?;
            if self.runs.flush(conn, (RECENT, &frozen), &slice, &mut |_, _| Ok(true))? {
                self.store_covered(conn, self.frozen_to)?;
            }
            transaction.commit()?;
            self.commit(self.last_event);
        }
        Ok(())
    }
}

/// Reads the ids of events with a statement that has a bound and a limit, in its order.
pub(super) fn read_ids(
    conn: &Connection,
    sql: &str,
    bound: EventSeq,
    limit: i64,
) -> rusqlite::Result<Vec<Entry>> {
    let mut place = (String::new(), hash_of_place(""));
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([bound, limit])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        let namespace = row.get_ref(4)?.as_str()?;
        if place.0 != namespace {
            place = (namespace.to_owned(), hash_of_place(namespace));
        }
        let key = stored_key(&id_hash(row.get_ref(3)?.as_str()?), &place.1);
        entries.push(Entry::new(key, row.get(0)?, kept_until(row.get(1)?, row.get(2)?)));
    }
    Ok(entries)
}
