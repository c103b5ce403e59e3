//! Level 1: segments, rows of `outcome_segments` with a page of outcomes each. They do not overlap, and are found by their
//! first delivery.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::super::DeliverySeq;
use super::super::rows;
use super::content::{self, Encoder, Outcome};
use super::directory::{self, DirectoryChanges, Owner};

/// The largest content that fills one page without an overflow page.
pub(super) const SEGMENT_BYTES: usize = 4000;

/// A row of `outcome_segments`.
pub(super) struct Segment {
    /// The key: not after its first outcome.
    pub(super) first: DeliverySeq,
    pub(super) last: DeliverySeq,
    /// In ascending order. None: the row is damaged.
    pub(super) outcomes: Option<Vec<Outcome>>,
}

impl Segment {
    /// Reads a segment from three columns.
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Segment> {
        let (first, last) = (row.get(0)?, row.get(1)?);
        let outcomes = row.get_ref(2)?.as_blob().ok().and_then(|bytes| content::decode(first, bytes));
        Ok(Segment { first, last, outcomes })
    }

    /// Returns the outcomes. A damaged segment has none.
    pub(super) fn into_outcomes(self) -> Vec<Outcome> {
        self.outcomes.unwrap_or_else(|| {
            tracing::error!(
                segment = self.first,
                "a segment of outcomes is damaged: run hookstream store recover"
            );
            Vec::new()
        })
    }
}

pub(in super::super) const AT: &str =
    "SELECT first, last, content FROM outcome_segments WHERE first <= ?1 ORDER BY first DESC LIMIT 1";
const AFTER: &str =
    "SELECT first, last, content FROM outcome_segments WHERE first > ?1 ORDER BY first LIMIT 1";

/// Returns the segment that contains a delivery, if one does.
fn at(conn: &Connection, seq: DeliverySeq) -> rusqlite::Result<Option<Segment>> {
    let found = conn.prepare_cached(AT)?.query_row([seq], Segment::read).optional()?;
    Ok(found.filter(|segment| segment.last >= seq))
}

/// Returns the first segment that has a delivery from `first` to `last`.
fn first_in(conn: &Connection, first: DeliverySeq, last: DeliverySeq) -> rusqlite::Result<Option<Segment>> {
    if let Some(found) = at(conn, first)? {
        return Ok(Some(found));
    }
    let found = conn.prepare_cached(AFTER)?.query_row([first], Segment::read).optional()?;
    Ok(found.filter(|segment| segment.first <= last))
}

/// Returns the last segment that has a delivery from `first` to `last`.
fn last_in(conn: &Connection, first: DeliverySeq, last: DeliverySeq) -> rusqlite::Result<Option<Segment>> {
    let found = conn.prepare_cached(AT)?.query_row([last], Segment::read).optional()?;
    Ok(found.filter(|segment| segment.last >= first))
}

/// Returns the outcome of a delivery. One seek.
pub(in super::super) fn find(conn: &Connection, seq: DeliverySeq) -> rusqlite::Result<Option<Outcome>> {
    let outcomes = at(conn, seq)?.map(Segment::into_outcomes).unwrap_or_default();
    let found = outcomes.binary_search_by_key(&seq, |outcome| outcome.seq).ok();
    Ok(found.and_then(|found| outcomes.get(found).copied()))
}

/// Returns the outcomes of deliveries from `first` to `last`: at least `limit` of them, if there are as many, the first ones,
/// or with `is_reversed` the last ones.
pub(in super::super) fn range(
    conn: &Connection,
    first: DeliverySeq,
    last: DeliverySeq,
    is_reversed: bool,
    limit: usize,
) -> rusqlite::Result<Vec<Outcome>> {
    let (mut low, mut high, mut found) = (first, last, Vec::new());
    while low <= high && found.len() < limit {
        let segment = if is_reversed { last_in(conn, low, high)? } else { first_in(conn, low, high)? };
        let Some(segment) = segment else { break };
        if is_reversed {
            high = segment.first.saturating_sub(1);
        } else {
            low = segment.last.saturating_add(1);
        }
        let outcomes = segment.into_outcomes();
        found.extend(outcomes.into_iter().filter(|outcome| (first..=last).contains(&outcome.seq)));
    }
    Ok(found)
}

/// A part of an owner's outcomes.
pub(in super::super) struct OwnedPart {
    /// In the order of the walk.
    pub(in super::super) outcomes: Vec<Outcome>,
    /// Outcomes that were examined, and rows of the directory.
    pub(in super::super) examined: usize,
    /// Where the walk continues (exclusive). None: it is complete.
    pub(in super::super) next: Option<DeliverySeq>,
}

/// Returns an owner's next outcomes after `from` (exclusive), or before it with `is_reversed`: those of one segment.
pub(in super::super) fn next_of_owner(
    conn: &Connection,
    owner: Owner,
    from: DeliverySeq,
    is_reversed: bool,
) -> rusqlite::Result<OwnedPart> {
    let mut part = OwnedPart { outcomes: Vec::new(), examined: 1, next: None };
    if is_reversed {
        let Some((first, last)) = directory::slot_before(conn, owner, from.saturating_sub(1))? else {
            return Ok(part);
        };
        let Some(segment) = last_in(conn, first, last)? else {
            part.next = Some(first);
            return Ok(part);
        };
        // The rest of the segment belongs to the walk too, and is decoded anyway.
        part.next = Some(segment.first.min(last));
        part.outcomes = segment.into_outcomes();
        part.examined += part.outcomes.len();
        part.outcomes.retain(|outcome| outcome.seq <= last && owner.has(outcome));
        part.outcomes.reverse();
    } else {
        let Some((first, last)) = directory::slot_after(conn, owner, from.saturating_add(1))? else {
            return Ok(part);
        };
        let Some(segment) = first_in(conn, first, last)? else {
            part.next = Some(last);
            return Ok(part);
        };
        part.next = Some(segment.last.max(first));
        part.outcomes = segment.into_outcomes();
        part.examined += part.outcomes.len();
        part.outcomes.retain(|outcome| outcome.seq >= first && owner.has(outcome));
    }
    Ok(part)
}

/// Inserts outcomes, which must be in ascending order, as segments. With `is_partial` unset, leaves out the last ones if they
/// do not fill a segment and are not alone. Returns how many it inserted.
pub(super) fn insert_all(
    conn: &Connection,
    outcomes: &[Outcome],
    segment_bytes: usize,
    is_partial: bool,
) -> rusqlite::Result<usize> {
    let (mut rest, mut changes) = (outcomes, DirectoryChanges::default());
    while let Some(first) = rest.first() {
        let mut encoder = Encoder::new(segment_bytes);
        let count = rest.iter().take_while(|outcome| encoder.push(outcome)).count();
        let is_last = count == rest.len();
        if is_last && !is_partial && rest.len() < outcomes.len() {
            break;
        }
        let (taken, after) = rest.split_at_checked(count).unwrap_or((rest, &[]));
        rest = after;
        let summary = Summary::of(taken);
        conn.prepare_cached(
            "INSERT INTO outcome_segments (first, last, outcomes, oldest, newest, bytes, content)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            first.seq,
            summary.last,
            rows::limit(taken.len()),
            summary.oldest,
            summary.newest,
            summary.bytes,
            encoder.finish(first.seq)
        ])?;
        taken.iter().for_each(|outcome| changes.add(outcome));
    }
    changes.apply(conn)?;
    Ok(outcomes.len() - rest.len())
}

/// Inserts outcomes as `insert_all` does, for a store without a writer. They must be after all segments.
pub(in super::super) fn insert_segments(
    conn: &Connection,
    outcomes: &[Outcome],
    is_partial: bool,
) -> rusqlite::Result<usize> {
    insert_all(conn, outcomes, SEGMENT_BYTES, is_partial)
}

/// What the columns of a segment say about its outcomes.
#[derive(PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) last: DeliverySeq,
    /// When the first and the last one finished.
    pub(super) oldest: i64,
    pub(super) newest: i64,
    pub(super) bytes: i64,
}

impl Summary {
    pub(super) fn of(outcomes: &[Outcome]) -> Summary {
        Summary {
            last: outcomes.last().map_or(0, |outcome| outcome.seq),
            oldest: outcomes.iter().map(|outcome| outcome.finished_at).min().unwrap_or(0),
            newest: outcomes.iter().map(|outcome| outcome.finished_at).max().unwrap_or(0),
            bytes: outcomes.iter().fold(0_i64, |sum, outcome| sum.saturating_add(outcome.size)),
        }
    }
}

/// Replaces the outcomes of a segment by a part of them, and updates the directory.
pub(super) fn remove(
    conn: &Connection,
    first: DeliverySeq,
    kept: &[Outcome],
    removed: &[Outcome],
) -> rusqlite::Result<()> {
    replace(conn, first, kept)?;
    let mut changes = DirectoryChanges::default();
    removed.iter().for_each(|outcome| changes.remove(outcome));
    changes.apply(conn)
}

/// Replaces the outcomes of a segment. Removes it if there are none.
pub(super) fn replace(conn: &Connection, first: DeliverySeq, outcomes: &[Outcome]) -> rusqlite::Result<()> {
    if outcomes.is_empty() {
        conn.prepare_cached("DELETE FROM outcome_segments WHERE first = ?1")?.execute([first])?;
        return Ok(());
    }
    let summary = Summary::of(outcomes);
    conn.prepare_cached(
        "UPDATE outcome_segments SET last = ?2, outcomes = ?3, oldest = ?4, newest = ?5, bytes = ?6, content = ?7
         WHERE first = ?1",
    )?
    .execute(params![
        first,
        summary.last,
        rows::limit(outcomes.len()),
        summary.oldest,
        summary.newest,
        summary.bytes,
        content::encode(first, outcomes)
    ])
    .map(drop)
}

/// Removes the outcome of a delivery, which gets a row.
pub(super) fn take(conn: &Connection, seq: DeliverySeq) -> rusqlite::Result<Option<Outcome>> {
    let Some(segment) = at(conn, seq)? else { return Ok(None) };
    let first = segment.first;
    let (removed, kept): (Vec<_>, Vec<_>) =
        segment.into_outcomes().into_iter().partition(|outcome| outcome.seq == seq);
    if !removed.is_empty() {
        remove(conn, first, &kept, &removed)?;
    }
    Ok(removed.first().copied())
}

/// Removes up to `rows` outcomes of an owner up to the delivery `last`. Returns how many changes it made; 0: there are none.
pub(super) fn remove_of_owner(
    conn: &Connection,
    owner: Owner,
    last: DeliverySeq,
    rows: usize,
) -> rusqlite::Result<usize> {
    let Some((first, _)) = directory::slot_after(conn, owner, 0)?.filter(|(first, _)| *first <= last) else {
        return Ok(0);
    };
    let mut from = first.saturating_sub(1);
    // At most once for each slot of the first part, because bits of removed outcomes remain.
    while directory::is_same_part(first, from.saturating_add(1)) {
        let part = next_of_owner(conn, owner, from, false)?;
        if let Some(found) =
            part.outcomes.first().filter(|outcome| directory::is_same_part(first, outcome.seq))
        {
            return match at(conn, found.seq)? {
                Some(segment) if found.seq <= last => remove_from(conn, segment, owner, last, rows),
                _ => Ok(0),
            };
        }
        let Some(next) = part.next else { break };
        from = next;
    }
    // Its outcomes were in a damaged segment.
    directory::remove_part(conn, owner, first).map(|()| 1)
}

fn remove_from(
    conn: &Connection,
    segment: Segment,
    owner: Owner,
    last: DeliverySeq,
    rows: usize,
) -> rusqlite::Result<usize> {
    let (first, mut removed, mut kept) = (segment.first, Vec::new(), Vec::new());
    for outcome in segment.into_outcomes() {
        let is_removed = removed.len() < rows && owner.has(&outcome) && outcome.seq <= last;
        if is_removed { &mut removed } else { &mut kept }.push(outcome);
    }
    if !removed.is_empty() {
        remove(conn, first, &kept, &removed)?;
    }
    Ok(removed.len())
}
