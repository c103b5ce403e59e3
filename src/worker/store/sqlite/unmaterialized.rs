//! Pending deliveries without a row of their own: the encoding of their notes in `events.handed`, and the set of them in
//! memory.
//!
//! `materialize` explains why they exist and when they get their rows.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::super::{DeliverySeq, EventSeq};
use super::outcomes::{self, Level0, Snapshot};
use super::rows::EVENT_BYTES;
use super::sequence;

/// The most unmaterialized deliveries; the writer keeps them in memory.
const MAX_COUNT: usize = 16_384;
/// The most events that a start has to search for unmaterialized deliveries.
const MAX_EVENTS: EventSeq = 32_768;

/// A pending delivery without a row: never attempted, and due when it was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unmaterialized {
    /// The row id of its hook.
    pub(super) hook: i64,
    pub(super) id: [u8; 16],
    pub(super) due: i64,
    /// How long its hook had been held when it was accepted, in milliseconds (`deliveries.held_before`).
    pub(super) held_before: i64,
    /// Bytes that it counts towards its hook's backlog. Not in the note, because it is computed from the event.
    pub(super) size: i64,
}

/// Bytes of one note in `events.handed`: the delivery's index within the event, and its fields except `size`.
const NOTE_BYTES: usize = 4 + 8 + 16 + 8 + 8;

impl Unmaterialized {
    /// Appends its note to `handed`, a column of the event's row.
    pub(super) fn append_note(&self, seq: DeliverySeq, handed: &mut Vec<u8>) {
        let first = sequence::first_delivery(sequence::event_seq(seq));
        let index = u32::try_from(seq - first).unwrap_or(0);
        handed.extend_from_slice(&index.to_le_bytes());
        handed.extend_from_slice(&self.hook.to_le_bytes());
        handed.extend_from_slice(&self.id);
        handed.extend_from_slice(&self.due.to_le_bytes());
        handed.extend_from_slice(&self.held_before.to_le_bytes());
    }
}

/// Decodes the notes in an event's `handed` column.
fn decode_notes(
    event: EventSeq,
    handed: &[u8],
    size: i64,
) -> impl Iterator<Item = (DeliverySeq, Unmaterialized)> {
    fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
        let Some((taken, rest)) = bytes.split_first_chunk() else { return [0; N] };
        *bytes = rest;
        *taken
    }
    handed.chunks_exact(NOTE_BYTES).map(move |mut note| {
        let index = u32::from_le_bytes(take(&mut note));
        let hook = i64::from_le_bytes(take(&mut note));
        let id = take(&mut note);
        let (due, held_before) = (i64::from_le_bytes(take(&mut note)), i64::from_le_bytes(take(&mut note)));
        let seq = sequence::delivery_seq(event, usize::try_from(index).unwrap_or(0));
        (seq, Unmaterialized { hook, id, due, held_before, size })
    })
}

/// The unmaterialized deliveries, in the writer's memory, and the sequence number of the last event.
pub(super) struct UnmaterializedSet {
    deliveries: BTreeMap<DeliverySeq, Unmaterialized>,
    last_event: EventSeq,
    /// The stored watermark `meta.filed`: every delivery of an event up to it has a row or an outcome.
    stored_watermark: EventSeq,
}

impl UnmaterializedSet {
    /// Reads the set from the notes.
    pub(super) fn read(
        conn: &Connection,
        has_outcome: impl Fn(DeliverySeq) -> rusqlite::Result<bool>,
    ) -> rusqlite::Result<UnmaterializedSet> {
        let stored_watermark = watermark(conn)?;
        let last: Option<EventSeq> =
            conn.prepare_cached("SELECT max(seq) FROM events")?.query_row([], |row| row.get(0))?;
        Ok(UnmaterializedSet {
            deliveries: read_after(conn, stored_watermark, has_outcome)?,
            last_event: last.unwrap_or(0).max(stored_watermark),
            stored_watermark,
        })
    }

    /// Returns the deliveries, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (DeliverySeq, &Unmaterialized)> {
        self.deliveries.iter().map(|(seq, delivery)| (*seq, delivery))
    }

    pub(super) fn get(&self, seq: DeliverySeq) -> Option<&Unmaterialized> {
        self.deliveries.get(&seq)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }

    pub(super) fn last_event(&self) -> EventSeq {
        self.last_event
    }

    /// Allocates the sequence number of the next event.
    pub(super) fn next_event(&mut self) -> EventSeq {
        self.last_event += 1;
        self.last_event
    }

    pub(super) fn insert(&mut self, seq: DeliverySeq, delivery: Unmaterialized) {
        self.deliveries.insert(seq, delivery);
    }

    pub(super) fn remove(&mut self, seq: DeliverySeq) -> Option<Unmaterialized> {
        self.deliveries.remove(&seq)
    }

    pub(super) fn oldest(&self) -> Option<DeliverySeq> {
        self.deliveries.first_key_value().map(|(seq, _)| *seq)
    }

    pub(super) fn of_event(&self, event: EventSeq) -> impl Iterator<Item = (DeliverySeq, &Unmaterialized)> {
        let range = sequence::first_delivery(event)..=sequence::last_delivery(event);
        self.deliveries.range(range).map(|(seq, delivery)| (*seq, delivery))
    }

    /// Returns the last event up to which every delivery has a row or an outcome.
    fn watermark(&self) -> EventSeq {
        self.oldest().map_or(self.last_event, |seq| sequence::event_seq(seq) - 1)
    }

    /// True if there are too many unmaterialized deliveries, or too many events for a start to search.
    pub(super) fn is_over_bounds(&self) -> bool {
        self.deliveries.len() > MAX_COUNT || self.last_event - self.watermark() > MAX_EVENTS
    }

    /// Stores the watermark if it advanced by more than `lag` events. Returns the stored watermark.
    pub(super) fn store_watermark(&mut self, conn: &Connection, lag: EventSeq) -> rusqlite::Result<EventSeq> {
        let watermark = self.watermark();
        if watermark - self.stored_watermark > lag {
            conn.prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES ('filed', ?1)")?
                .execute([watermark])?;
            self.stored_watermark = watermark;
        }
        Ok(self.stored_watermark)
    }
}

fn watermark(conn: &Connection) -> rusqlite::Result<EventSeq> {
    let watermark = conn
        .prepare_cached("SELECT value FROM meta WHERE name = 'filed'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(watermark.unwrap_or(0))
}

/// Reads the unmaterialized deliveries from the notes.
pub(super) fn read(
    conn: &Connection,
    has_outcome: impl Fn(DeliverySeq) -> rusqlite::Result<bool>,
) -> rusqlite::Result<BTreeMap<DeliverySeq, Unmaterialized>> {
    read_after(conn, watermark(conn)?, has_outcome)
}

/// Reads what no table lists from a store that no writer of this process has open.
pub(super) fn read_snapshot(conn: &Connection) -> rusqlite::Result<Snapshot> {
    let level0 = Level0::load(conn)?;
    let has_segments = outcomes::exists(conn)?;
    let has_outcome =
        |seq| Ok(level0.find(seq).is_some() || (has_segments && outcomes::find(conn, seq)?.is_some()));
    Ok(Snapshot::new(read(conn, has_outcome)?, level0))
}

/// Reads the unmaterialized deliveries of the events after the watermark.
fn read_after(
    conn: &Connection,
    watermark: EventSeq,
    has_outcome: impl Fn(DeliverySeq) -> rusqlite::Result<bool>,
) -> rusqlite::Result<BTreeMap<DeliverySeq, Unmaterialized>> {
    let mut events = conn.prepare_cached(
        "SELECT seq, handed, octet_length(data) + coalesce(octet_length(attributes), 0) + ?2 FROM events
         WHERE seq > ?1 AND handed IS NOT NULL",
    )?;
    let mut has_row = conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM deliveries WHERE seq = ?1)")?;
    let mut rows = events.query(params![watermark, i64::try_from(EVENT_BYTES).unwrap_or(0)])?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next()? {
        for (seq, delivery) in decode_notes(row.get(0)?, row.get_ref(1)?.as_blob()?, row.get(2)?) {
            if !has_row.query_row([seq], |row| row.get(0))? && !has_outcome(seq)? {
                found.insert(seq, delivery);
            }
        }
    }
    Ok(found)
}

/// Counts the unmaterialized deliveries whose hook has no row.
pub(super) fn count_without_hook(conn: &Connection) -> rusqlite::Result<usize> {
    let mut has_hook = conn.prepare("SELECT EXISTS (SELECT 1 FROM hooks WHERE id = ?1)")?;
    let mut count = 0;
    for (_, delivery) in read_snapshot(conn)?.notes().iter() {
        count += usize::from(!has_hook.query_row([delivery.hook], |row| row.get::<_, bool>(0))?);
    }
    Ok(count)
}

/// Removes the notes whose hook has no row, as in a recovered store. Otherwise every operation of the writer would fail,
/// because it counts each unmaterialized delivery towards its hook. Returns the number of deliveries that this removes.
pub(super) fn remove_notes_without_hook(conn: &Connection) -> rusqlite::Result<u64> {
    let mut has_hook = conn.prepare("SELECT EXISTS (SELECT 1 FROM hooks WHERE id = ?1)")?;
    let pending = read_snapshot(conn)?;
    let mut events = conn.prepare("SELECT seq, handed FROM events WHERE seq > ?1 AND handed IS NOT NULL")?;
    let mut rows = events.query([watermark(conn)?])?;
    let (mut removed, mut changed) = (0, Vec::new());
    while let Some(row) = rows.next()? {
        let (event, handed): (EventSeq, _) = (row.get(0)?, row.get_ref(1)?.as_blob()?);
        let mut kept = Vec::new();
        for ((seq, delivery), note) in decode_notes(event, handed, 0).zip(handed.chunks_exact(NOTE_BYTES)) {
            if has_hook.query_row([delivery.hook], |row| row.get(0))? {
                kept.extend_from_slice(note);
            } else if pending.note(seq).is_some() {
                removed += 1;
            }
        }
        if kept.len() < handed.len() {
            changed.push((event, kept));
        }
    }
    for (event, kept) in changed {
        conn.execute("UPDATE events SET handed = ?2 WHERE seq = ?1", params![event, kept])?;
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_survive_a_round_trip() {
        let delivery = |hook: i64, due: i64| Unmaterialized {
            hook,
            id: *uuid::Uuid::now_v7().as_bytes(),
            due,
            held_before: hook * 3,
            size: 700,
        };
        let all = [
            (sequence::delivery_seq(7, 0), delivery(1, 5)),
            (sequence::delivery_seq(7, 9), delivery(i64::MAX / 3, -1)),
        ];
        let mut handed = Vec::new();
        all.iter().for_each(|(seq, delivery)| delivery.append_note(*seq, &mut handed));
        assert_eq!(decode_notes(7, &handed, 700).collect::<Vec<_>>(), all);
        assert_eq!(decode_notes(7, &[], 700).count(), 0);
    }
}
