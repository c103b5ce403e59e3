//! Deliveries that have no row yet.
//!
//! Most deliveries are sent at once and end well at the first attempt. To give each a row when it is accepted, and to
//! change that row and its places in the indexes when it was delivered, is most of what the disk would be written for. So
//! a delivery that is due at once is only noted in the row of its event (`events.handed`), and filed, which is to get a row,
//! when its outcome is known: as delivered, in one statement.
//!
//! Invariants: whoever reads deliveries from the tables has the writer file them all before (`SqliteStore::read`), and so
//! does every operation but `accept`, `settle`, `promote` and `sweep`; where there is no room for rows, the dispatcher
//! finds the notes; the deliveries of an event up to `meta.filed` all have, or had, their rows, so that a start looks at
//! the few events after it and at no other; what is swept is up to it too, so that nothing that ended comes back; numbers
//! of events are never used twice, for those that are gone are up to it.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::super::{Attempt, Seq, Settlement};
use super::accept::EVENT_BYTES;
use super::memory::Memory;
use super::numbers;
use super::ops;

/// So many wait for their rows at most: they are kept in memory.
const MOST: usize = 16_384;
/// How many events a start may have to look at.
const FAR: Seq = 32_768;
/// How many are filed in a group because of that, and for a read: those who accept wait for it.
const AT_ONCE: usize = 1024;
/// `meta.filed` is written when it is so far behind.
const BEHIND: Seq = 1024;

/// A delivery without a row. It waits, was never tried, and was due when it was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unfiled {
    pub(super) hook: i64,
    pub(super) id: [u8; 16],
    pub(super) due: i64,
    /// Of `hooks.held`, what was before it.
    pub(super) held_before: i64,
    /// What it takes of its hook's share. Not in the note: the event tells it.
    pub(super) size: i64,
}

/// Bytes of one in `events.handed`: its place, and its fields but the size.
const NOTE: usize = 4 + 8 + 16 + 8 + 8;

impl Unfiled {
    /// Notes it for the row of its event.
    pub(super) fn note(&self, seq: Seq, handed: &mut Vec<u8>) {
        let place = u32::try_from(seq - numbers::first(numbers::event(seq))).unwrap_or(0);
        handed.extend_from_slice(&place.to_le_bytes());
        handed.extend_from_slice(&self.hook.to_le_bytes());
        handed.extend_from_slice(&self.id);
        handed.extend_from_slice(&self.due.to_le_bytes());
        handed.extend_from_slice(&self.held_before.to_le_bytes());
    }
}

/// The deliveries that are noted with an event, by their numbers.
fn noted(event: Seq, handed: &[u8], size: i64) -> impl Iterator<Item = (Seq, Unfiled)> {
    fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
        let Some((taken, left)) = bytes.split_first_chunk() else { return [0; N] };
        *bytes = left;
        *taken
    }
    handed.chunks_exact(NOTE).map(move |mut note| {
        let place = u32::from_le_bytes(take(&mut note));
        let hook = i64::from_le_bytes(take(&mut note));
        let id = take(&mut note);
        let (due, held_before) = (i64::from_le_bytes(take(&mut note)), i64::from_le_bytes(take(&mut note)));
        let seq = numbers::delivery(event, usize::try_from(place).unwrap_or(0));
        (seq, Unfiled { hook, id, due, held_before, size })
    })
}

/// What the writer knows of them.
pub(super) struct Filing {
    unfiled: BTreeMap<Seq, Unfiled>,
    /// The number of the last event.
    last: Seq,
    /// As `meta.filed` says.
    filed: Seq,
}

impl Filing {
    /// Reads what the tables say.
    pub(super) fn read(conn: &Connection) -> rusqlite::Result<Filing> {
        let filed = filed(conn)?;
        let last: Option<Seq> =
            conn.prepare_cached("SELECT max(seq) FROM events")?.query_row([], |row| row.get(0))?;
        Ok(Filing { unfiled: unfiled(conn, filed)?, last: last.unwrap_or(0).max(filed), filed })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Unfiled> {
        self.unfiled.values()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unfiled.is_empty()
    }

    /// The number of the next event.
    pub(super) fn next_event(&mut self) -> Seq {
        self.last += 1;
        self.last
    }

    pub(super) fn insert(&mut self, seq: Seq, unfiled: Unfiled) {
        self.unfiled.insert(seq, unfiled);
    }

    pub(super) fn remove(&mut self, seq: Seq) -> Option<Unfiled> {
        self.unfiled.remove(&seq)
    }

    /// The last event of which, and of all before it, nothing is unfiled.
    fn safe(&self) -> Seq {
        self.unfiled.first_key_value().map_or(self.last, |(seq, _)| numbers::event(*seq) - 1)
    }

    fn too_many(&self) -> bool {
        self.unfiled.len() > MOST || self.last - self.safe() > FAR
    }

    /// Writes `meta.filed`, where it is far behind; the last event that it is true for.
    fn write(&mut self, conn: &Connection, behind: Seq) -> rusqlite::Result<Seq> {
        let safe = self.safe();
        if safe - self.filed > behind {
            conn.prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES ('filed', ?1)")?
                .execute([safe])?;
            self.filed = safe;
        }
        Ok(self.filed)
    }
}

fn filed(conn: &Connection) -> rusqlite::Result<Seq> {
    let filed = conn
        .prepare_cached("SELECT value FROM meta WHERE name = 'filed'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(filed.unwrap_or(0))
}

/// The deliveries without a row, by the notes: for who does not ask the writer.
pub(super) fn by_notes(conn: &Connection) -> rusqlite::Result<BTreeMap<Seq, Unfiled>> {
    unfiled(conn, filed(conn)?)
}

/// The same of the events after this one.
fn unfiled(conn: &Connection, filed: Seq) -> rusqlite::Result<BTreeMap<Seq, Unfiled>> {
    let mut events = conn.prepare_cached(
        "SELECT seq, handed, octet_length(data) + coalesce(octet_length(attributes), 0) + ?2 FROM events
         WHERE seq > ?1 AND handed IS NOT NULL",
    )?;
    let mut has_row = conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM deliveries WHERE seq = ?1)")?;
    let mut rows = events.query(params![filed, i64::try_from(EVENT_BYTES).unwrap_or(0)])?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next()? {
        for (seq, unfiled) in noted(row.get(0)?, row.get_ref(1)?.as_blob()?, row.get(2)?) {
            if !has_row.query_row([seq], |row| row.get(0))? {
                found.insert(seq, unfiled);
            }
        }
    }
    Ok(found)
}

/// Gives one a row in which it waits.
pub(super) fn file(
    conn: &Connection,
    memory: &mut Memory,
    seq: Seq,
    unfiled: &Unfiled,
) -> rusqlite::Result<()> {
    let Unfiled { hook, id, due, held_before, size } = unfiled;
    // An id that another delivery has, which is as good as impossible, must not keep all others from being filed.
    conn.prepare_cached(
        "INSERT OR IGNORE INTO deliveries (seq, hook, id, state, attempts, due, size, held_before)
         VALUES (?1, ?2, ?3, 0, 0, ?4, ?5, ?6)",
    )?
    .execute(params![seq, hook, id, due, size, held_before])?;
    memory.count(conn, *hook, *size)
}

/// Gives one a row as delivered by the first attempt.
pub(super) fn file_delivered(
    conn: &Connection,
    seq: Seq,
    unfiled: &Unfiled,
    settlement: &Settlement,
    attempt: &Attempt,
) -> rusqlite::Result<()> {
    let Unfiled { hook, id, due, held_before, size } = unfiled;
    conn.prepare_cached(
        "INSERT OR IGNORE INTO deliveries (seq, hook, id, state, attempts, due, finished_at, size, held_before,
                                           first_at, first_micros, first_status)
         VALUES (?1, ?2, ?3, 1, 1, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        seq,
        hook,
        id,
        due,
        settlement.at.0,
        -size,
        held_before,
        attempt.at.0,
        ops::micros(attempt),
        attempt.status,
    ])?;
    Ok(())
}

/// Files them all.
pub(super) fn file_all(conn: &Connection, memory: &mut Memory) -> rusqlite::Result<()> {
    file_oldest(conn, memory, usize::MAX)?;
    memory.filing(conn)?.write(conn, 0).map(drop)
}

/// Files a part of those that there were when it was first asked, which is how far it shall come. True: there are more.
pub(super) fn file_some(
    conn: &Connection,
    memory: &mut Memory,
    upto: Option<Seq>,
) -> rusqlite::Result<(Seq, bool)> {
    let upto = upto.unwrap_or(memory.filing(conn)?.last);
    file_oldest(conn, memory, AT_ONCE)?;
    let filing = memory.filing(conn)?;
    Ok((upto, filing.write(conn, 0)? < upto))
}

/// Files those of an event.
pub(super) fn file_event(conn: &Connection, memory: &mut Memory, event: Seq) -> rusqlite::Result<()> {
    let range = numbers::first(event)..=numbers::last(event);
    let all: Vec<Seq> = memory.filing(conn)?.unfiled.range(range).map(|(seq, _)| *seq).collect();
    all.into_iter().try_for_each(|seq| file_one(conn, memory, seq))
}

/// Files the oldest, where there are too many or an old one keeps all behind it. Comes before every COMMIT.
pub(super) fn keep_up(conn: &Connection, memory: &mut Memory) -> rusqlite::Result<()> {
    if memory.filing(conn)?.too_many() {
        file_oldest(conn, memory, AT_ONCE)?;
    }
    memory.filing(conn)?.write(conn, BEHIND).map(drop)
}

/// Makes `meta.filed` as true as can be without filing anything; the last event up to which anything may be swept.
pub(super) fn sweepable(conn: &Connection, memory: &mut Memory) -> rusqlite::Result<Seq> {
    memory.filing(conn)?.write(conn, 0)
}

fn file_oldest(conn: &Connection, memory: &mut Memory, most: usize) -> rusqlite::Result<()> {
    for _ in 0..most {
        let first = memory.filing(conn)?.unfiled.first_key_value().map(|(seq, _)| *seq);
        let Some(seq) = first else { break };
        file_one(conn, memory, seq)?;
    }
    Ok(())
}

fn file_one(conn: &Connection, memory: &mut Memory, seq: Seq) -> rusqlite::Result<()> {
    match memory.take_back(conn, seq)? {
        Some(unfiled) => file(conn, memory, seq, &unfiled),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_tells_all_of_them() {
        let one = |hook: i64, due: i64| Unfiled {
            hook,
            id: *uuid::Uuid::now_v7().as_bytes(),
            due,
            held_before: hook * 3,
            size: 700,
        };
        let all = [(numbers::delivery(7, 0), one(1, 5)), (numbers::delivery(7, 9), one(i64::MAX / 3, -1))];
        let mut handed = Vec::new();
        all.iter().for_each(|(seq, unfiled)| unfiled.note(*seq, &mut handed));
        assert_eq!(noted(7, &handed, 700).collect::<Vec<_>>(), all);
        assert_eq!(noted(7, &[], 700).count(), 0);
    }
}
