//! Merges outcomes of level 0 to segments, in slices inside the transactions of groups.

use rusqlite::Connection;

use super::super::super::EventSeq;
use super::super::sequence;
use super::Outcome;
use super::level0::Level0;
use super::segments;

/// What a slice did.
pub(super) struct Merged {
    /// The outcomes that it took from level 0.
    pub(super) count: usize,
    /// Those of them that have expired and are in no segment.
    pub(super) expired: Vec<Outcome>,
    /// True if there may be more up to the watermark.
    pub(super) has_more: bool,
}

/// What a slice leaves out of the segments.
pub(super) struct Expiry {
    /// Outcomes that finished at or before this time.
    pub(super) at: i64,
    /// The slice ends after expired outcomes of this size, because their events are removed too.
    pub(super) bytes: usize,
}

/// Merges up to `rows` outcomes of events up to the watermark, in the order of their deliveries.
///
/// With an expiry, the last segment may be small. None: the last outcomes wait until they fill a segment.
pub(super) fn run(
    conn: &Connection,
    level0: &mut Level0,
    watermark: EventSeq,
    rows: usize,
    row_bytes: usize,
    expiry: Option<&Expiry>,
) -> rusqlite::Result<Merged> {
    let last = sequence::last_delivery(watermark);
    let mut outcomes: Vec<Outcome> = level0.range(0, last).copied().collect();
    let mut has_more = outcomes.len() > rows;
    if has_more {
        outcomes.select_nth_unstable_by_key(rows, |outcome| outcome.seq);
        outcomes.truncate(rows);
    }
    outcomes.sort_unstable_by_key(|outcome| outcome.seq);
    let is_expired = |outcome: &Outcome| expiry.is_some_and(|expiry| outcome.finished_at <= expiry.at);
    let mut bytes_left = expiry.map_or(0, |expiry| expiry.bytes);
    let end = outcomes.iter().filter(|outcome| is_expired(outcome)).find(|outcome| {
        bytes_left = bytes_left.saturating_sub(usize::try_from(outcome.size).unwrap_or(0));
        bytes_left == 0
    });
    if let Some(end) = end.map(|outcome| outcome.seq) {
        has_more |= outcomes.last().is_some_and(|last| last.seq > end);
        outcomes.retain(|outcome| outcome.seq <= end);
    }
    let (expired_outcomes, kept): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(is_expired);
    let inserted = segments::insert_all(conn, &kept, row_bytes, expiry.is_some())?;
    let up_to = kept.get(..inserted).and_then(<[_]>::last).map(|outcome| outcome.seq);
    let up_to = up_to.into_iter().chain(expired_outcomes.last().map(|outcome| outcome.seq)).max();
    if let Some(up_to) = up_to {
        level0.set_merged(conn, up_to)?;
    }
    Ok(Merged { count: inserted + expired_outcomes.len(), expired: expired_outcomes, has_more })
}
