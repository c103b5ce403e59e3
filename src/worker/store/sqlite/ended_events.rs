//! Removes the events of deleted namespaces, after their hooks and deliveries (`namespaces`).
//!
//! No index finds the events of a namespace, because each event would write to it. A reader examines all events once, in
//! bounded steps, and the writer removes those that it found. A restart begins again.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use super::super::EventSeq;
use super::cache::WriterCache;
use super::materialize;
use super::namespace_keys;
use super::namespaces;
use super::rows::limit;
use super::unmatched;

/// Events that one step examines, and its time. Its snapshot keeps the log from restarting.
const EXAMINED: usize = 50_000;
const STEP_TIME: Duration = Duration::from_millis(50);

/// The search for events of deleted namespaces.
#[derive(Clone, Debug, Default)]
pub(super) struct EndedScan {
    places: HashSet<String>,
    /// The last event that was examined.
    at: EventSeq,
    /// The last event when the search began. Later ones are of other namespaces.
    end: EventSeq,
}

/// The result of one step.
#[derive(Clone, Debug)]
pub(super) struct EndedStep {
    /// Events to remove, and the times of their acceptance.
    events: Vec<(EventSeq, i64)>,
    scan: EndedScan,
}

impl EndedStep {
    /// Leaves out all but the first `rows` events.
    pub(super) fn truncated(mut self, rows: usize) -> EndedStep {
        if let Some((next, _)) = self.events.get(rows) {
            self.scan.at = next - 1;
            self.events.truncate(rows);
        }
        self
    }
}

/// Reads the next step. None: there are no events to search for.
pub(super) fn read(
    conn: &Connection,
    previous: Option<EndedScan>,
    rows: usize,
) -> rusqlite::Result<Option<EndedStep>> {
    let tx = conn.unchecked_transaction()?;
    let mut scan = match previous {
        Some(scan) => scan,
        None => {
            let places = tx
                .prepare_cached(
                    "SELECT place FROM ended WHERE NOT EXISTS (
                         SELECT 1 FROM hooks INDEXED BY hooks_name WHERE namespace = place)",
                )?
                .query_map([], |row| row.get(0))?
                .collect::<rusqlite::Result<HashSet<String>>>()?;
            let end = tx.query_row("SELECT coalesce(max(seq), 0) FROM events", [], |row| row.get(0))?;
            EndedScan { places, at: 0, end }
        }
    };
    if scan.places.is_empty() {
        return Ok(None);
    }
    let until = Instant::now() + STEP_TIME;
    let (mut events, mut examined) = (Vec::new(), 0_usize);
    let mut next = tx.prepare_cached(
        "SELECT seq, accepted, namespace FROM events WHERE seq > ?1 AND seq <= ?2 ORDER BY seq",
    )?;
    let mut next = next.query([scan.at, scan.end])?;
    loop {
        let Some(row) = next.next()? else {
            scan.at = scan.end;
            break;
        };
        scan.at = row.get(0)?;
        if scan.places.contains(row.get_ref(2)?.as_str()?) {
            events.push((scan.at, row.get(1)?));
        }
        examined += 1;
        if events.len() >= rows
            || examined >= EXAMINED
            || (examined.is_multiple_of(256) && Instant::now() >= until)
        {
            break;
        }
    }
    Ok(Some(EndedStep { events, scan }))
}

/// Removes the events of a step. Returns the search to continue, None after its end.
pub(super) fn remove(
    conn: &Connection,
    cache: &mut WriterCache,
    step: &EndedStep,
    previous: Option<&EndedScan>,
) -> rusqlite::Result<Option<EndedScan>> {
    let watermark = materialize::advance_watermark(conn, cache)?;
    if step.events.last().is_some_and(|(event, _)| *event > watermark) {
        // The next call repeats the step.
        namespaces::advance_further(conn, cache, limit(step.events.len()))?;
        return Ok(Some(previous.cloned().unwrap_or(EndedScan { at: 0, ..step.scan.clone() })));
    }
    for (event, accepted) in &step.events {
        conn.prepare_cached("DELETE FROM events WHERE seq = ?1")?.execute([event])?;
        unmatched::forget(conn, *event)?;
        conn.prepare_cached("DELETE FROM loose WHERE accepted = ?1 AND event = ?2")?
            .execute(params![accepted, event])?;
    }
    if step.scan.at < step.scan.end {
        return Ok(Some(step.scan.clone()));
    }
    for place in &step.scan.places {
        conn.prepare_cached("DELETE FROM ended WHERE place = ?1")?.execute([place])?;
        namespace_keys::remove_unused_number(conn, place)?;
    }
    Ok(None)
}
