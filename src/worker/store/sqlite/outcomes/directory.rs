//! The directory of segments (`outcome_index`): in which ranges of events a hook or a namespace has outcomes.
//!
//! A row describes a part of the sequence, 4096 events: the number of the owner's outcomes in it, and a bit for each 64
//! events, set if the owner has an outcome there. The bits are not cleared when outcomes are removed; a row without outcomes
//! is.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::super::super::{DeliverySeq, EventSeq};
use super::super::sequence;
use super::Outcome;

/// The bits of an event's sequence number within a part.
const PART_BITS: u32 = 12;
/// The bits of an event's sequence number within a slot, for which a part has a bit.
const SLOT_BITS: u32 = 6;

/// The hook or the namespace whose outcomes a row of the directory describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Owner {
    /// By row id.
    Hook(i64),
    /// By the number of its key.
    Namespace(i64),
}

impl Owner {
    fn key(self) -> (i64, i64) {
        match self {
            Owner::Hook(id) => (0, id),
            Owner::Namespace(number) => (1, number),
        }
    }

    pub(super) fn has(self, outcome: &Outcome) -> bool {
        match self {
            Owner::Hook(id) => outcome.hook == id,
            Owner::Namespace(number) => outcome.namespace == number,
        }
    }
}

/// Returns the part and the slot of an event.
fn place(event: EventSeq) -> (i64, u32) {
    let slot = (event >> SLOT_BITS) & ((1 << (PART_BITS - SLOT_BITS)) - 1);
    (event >> PART_BITS, u32::try_from(slot).unwrap_or(0))
}

/// Returns the first event of a slot.
fn first_event(part: i64, slot: u32) -> EventSeq {
    (part << PART_BITS) | (i64::from(slot) << SLOT_BITS)
}

/// Changes of the directory.
#[derive(Default)]
pub(super) struct DirectoryChanges(BTreeMap<(Owner, i64), (i64, u64)>);

impl DirectoryChanges {
    pub(super) fn add(&mut self, outcome: &Outcome) {
        self.count(outcome, 1);
    }

    pub(super) fn remove(&mut self, outcome: &Outcome) {
        self.count(outcome, -1);
    }

    fn count(&mut self, outcome: &Outcome, change: i64) {
        let (part, slot) = place(outcome.event());
        for owner in [Owner::Hook(outcome.hook), Owner::Namespace(outcome.namespace)] {
            let (count, bits) = self.0.entry((owner, part)).or_default();
            *count += change;
            *bits |= 1 << slot;
        }
    }

    pub(super) fn apply(&self, conn: &Connection) -> rusqlite::Result<()> {
        for ((owner, part), (count, bits)) in &self.0 {
            let (kind, id) = owner.key();
            if *count > 0 {
                conn.prepare_cached(
                    "INSERT INTO outcome_index (kind, owner, part, outcomes, slots) VALUES (?1, ?2, ?3, ?4, ?5)
                     ON CONFLICT DO UPDATE SET outcomes = outcomes + excluded.outcomes, slots = slots | excluded.slots",
                )?
                .execute(params![kind, id, part, count, bits.cast_signed()])?;
                continue;
            }
            conn.prepare_cached(
                "UPDATE outcome_index SET outcomes = outcomes + ?4 WHERE kind = ?1 AND owner = ?2 AND part = ?3",
            )?
            .execute(params![kind, id, part, count])?;
            conn.prepare_cached(
                "DELETE FROM outcome_index WHERE kind = ?1 AND owner = ?2 AND part = ?3 AND outcomes <= 0",
            )?
            .execute(params![kind, id, part])?;
        }
        Ok(())
    }

    /// Returns the rows that these changes make in an empty directory: kind, owner, part, number, bits.
    pub(super) fn rows(&self) -> impl Iterator<Item = ((i64, i64, i64), (i64, u64))> {
        self.0.iter().map(|((owner, part), row)| ((owner.key().0, owner.key().1, *part), *row))
    }
}

pub(in super::super) const PART_OLDER: &str = "
SELECT part, slots FROM outcome_index WHERE kind = ?1 AND owner = ?2 AND part <= ?3 ORDER BY part DESC LIMIT 1";
pub(in super::super) const PART_NEWER: &str = "
SELECT part, slots FROM outcome_index WHERE kind = ?1 AND owner = ?2 AND part >= ?3 ORDER BY part LIMIT 1";

/// Returns the deliveries of the next slot in which an owner may have outcomes, up to `from` and not after it. None: there
/// is none.
pub(super) fn slot_before(
    conn: &Connection,
    owner: Owner,
    from: DeliverySeq,
) -> rusqlite::Result<Option<(DeliverySeq, DeliverySeq)>> {
    let (part, slot) = place(sequence::event_seq(from));
    let mut found = read(conn, PART_OLDER, owner, part)?;
    if let Some((at, bits)) = found
        && at == part
        && bits & (u64::MAX >> (63 - slot)) == 0
    {
        found = read(conn, PART_OLDER, owner, part - 1)?;
    }
    let Some((at, bits)) = found else { return Ok(None) };
    let bits = if at == part { bits & (u64::MAX >> (63 - slot)) } else { bits };
    Ok(bits.checked_ilog2().map(|slot| {
        let (first, last) = range(at, slot);
        (first, last.min(from))
    }))
}

/// Returns the deliveries of the next slot in which an owner may have outcomes, from `from` on. None: there is none.
pub(super) fn slot_after(
    conn: &Connection,
    owner: Owner,
    from: DeliverySeq,
) -> rusqlite::Result<Option<(DeliverySeq, DeliverySeq)>> {
    let (part, slot) = place(sequence::event_seq(from));
    let mut found = read(conn, PART_NEWER, owner, part)?;
    if let Some((at, bits)) = found
        && at == part
        && bits & (u64::MAX << slot) == 0
    {
        found = read(conn, PART_NEWER, owner, part + 1)?;
    }
    let Some((at, bits)) = found else { return Ok(None) };
    let bits = if at == part { bits & (u64::MAX << slot) } else { bits };
    Ok((bits != 0).then(|| {
        let (first, last) = range(at, bits.trailing_zeros());
        (first.max(from), last)
    }))
}

fn range(part: i64, slot: u32) -> (DeliverySeq, DeliverySeq) {
    let first = first_event(part, slot);
    (sequence::first_delivery(first), sequence::last_delivery(first + (1 << SLOT_BITS) - 1))
}

fn read(conn: &Connection, sql: &str, owner: Owner, part: i64) -> rusqlite::Result<Option<(i64, u64)>> {
    let (kind, id) = owner.key();
    conn.prepare_cached(sql)?
        .query_row(params![kind, id, part], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))
        .optional()
}

/// True if both deliveries are described by one row of an owner.
pub(super) fn is_same_part(one: DeliverySeq, other: DeliverySeq) -> bool {
    place(sequence::event_seq(one)).0 == place(sequence::event_seq(other)).0
}

/// Removes what the directory says of a part in which an owner has no outcomes, because its segment was damaged.
pub(super) fn remove_part(conn: &Connection, owner: Owner, seq: DeliverySeq) -> rusqlite::Result<()> {
    let (kind, id) = owner.key();
    conn.prepare_cached("DELETE FROM outcome_index WHERE kind = ?1 AND owner = ?2 AND part = ?3")?
        .execute(params![kind, id, place(sequence::event_seq(seq)).0])
        .map(drop)
}
