//! Adds the ids of events that a store of format 7 or older has. They were in an index, which the migration removes.
//!
//! A reader reads the newest events that are missing and sorts their ids; the writer adds them as a run, and stores the new
//! watermark (`meta.ids_missing`) in the same transaction. So a crash repeats nothing, and no accept waits for the reading.

use std::cmp::Ordering;

use rusqlite::Connection;

use super::super::super::EventSeq;
use super::super::runs::Entry;
use super::load::read_ids;
use super::lookup::MISSING;
use super::{IdStore, RECENT, meta};

/// Events that one step adds: 57 blocks.
const STEP_EVENTS: i64 = 8192;

/// The ids of one step.
#[derive(Clone, Debug)]
pub(in super::super) struct Backfill {
    /// In the order of a run.
    entries: Vec<Entry>,
    /// The watermark before and after the step. After it, None: no ids are missing any more.
    from: EventSeq,
    to: Option<EventSeq>,
}

/// Reads the next step. None: no ids are missing.
pub(in super::super) fn read(conn: &Connection) -> rusqlite::Result<Option<Backfill>> {
    let Some(from) = meta(conn, MISSING)? else { return Ok(None) };
    let mut entries = read_ids(
        conn,
        "SELECT seq, accepted, kept_until, id, namespace FROM events WHERE seq <= ?1 ORDER BY seq DESC LIMIT ?2",
        from,
        STEP_EVENTS,
    )?;
    let is_last = i64::try_from(entries.len()).unwrap_or(i64::MAX) < STEP_EVENTS;
    let to = entries.last().filter(|_| !is_last).map(|oldest| oldest.event - 1);
    entries.sort_unstable_by(|one, other| match one.key.cmp(&other.key) {
        Ordering::Equal => one.event.cmp(&other.event),
        unequal => unequal,
    });
    Ok(Some(Backfill { entries, from, to }))
}

impl IdStore {
    /// Adds the ids of a step, unless another call did. True: more ids are missing.
    pub(in super::super) fn add_missing(
        &mut self,
        conn: &Connection,
        step: &Backfill,
    ) -> rusqlite::Result<bool> {
        if meta(conn, MISSING)? != Some(step.from) {
            return Ok(true);
        }
        if !step.entries.is_empty() {
            self.runs().write_run(conn, RECENT, step.entries.clone())?;
        }
        match step.to {
            Some(to) => conn.execute("UPDATE meta SET value = ?2 WHERE name = ?1", (MISSING, to))?,
            None => conn.execute("DELETE FROM meta WHERE name = ?1", [MISSING])?,
        };
        Ok(step.to.is_some())
    }
}
