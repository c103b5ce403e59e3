//! Verifies outcomes for `store check`, and repairs them for `store recover`.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, OptionalExtension, params};

use super::super::super::{DeliverySeq, EventSeq};
use super::Outcome;
use super::content;
use super::directory::DirectoryChanges;
use super::level0::Level0;
use super::segments::{self, Segment, Summary};

/// The table with the directory.
pub(in super::super) const DIRECTORY: &str = "outcome_index";

/// Returns the number of outcomes.
pub(in super::super) fn count(conn: &Connection) -> rusqlite::Result<u64> {
    let in_segments: i64 =
        conn.query_row("SELECT coalesce(sum(outcomes), 0) FROM outcome_segments", [], |row| row.get(0))?;
    Ok(in_segments.unsigned_abs() + Level0::load(conn)?.len() as u64)
}

/// Reads each row of segments: its columns `oldest` and `newest`, and the segment.
fn for_each_segment(
    conn: &Connection,
    mut run: impl FnMut((i64, i64, i64), Segment) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut statement = conn
        .prepare("SELECT first, last, content, oldest, newest, bytes FROM outcome_segments ORDER BY first")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        run((row.get(3)?, row.get(4)?, row.get(5)?), Segment::read(row)?)?;
    }
    Ok(())
}

/// Reads the content of each group. None: it is damaged.
fn for_each_group(
    conn: &Connection,
    mut run: impl FnMut(i64, Option<Vec<Outcome>>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut statement = conn.prepare("SELECT id, content FROM outcome_groups ORDER BY id")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id = row.get(0)?;
        run(id, row.get_ref(1)?.as_blob().ok().and_then(|bytes| content::decode(id, bytes)))?;
    }
    Ok(())
}

/// Finds what outcomes refer to. The namespace of a hook is cached.
struct References<'c> {
    conn: &'c Connection,
    namespaces: HashMap<i64, Option<i64>>,
}

impl<'c> References<'c> {
    fn new(conn: &'c Connection) -> Self {
        References { conn, namespaces: HashMap::new() }
    }

    /// Returns the number of the namespace of a hook. None: the hook has no row.
    fn namespace(&mut self, hook: i64) -> rusqlite::Result<Option<i64>> {
        if let Some(known) = self.namespaces.get(&hook) {
            return Ok(*known);
        }
        let found = self
            .conn
            .prepare_cached(
                "SELECT n.id FROM hooks h CROSS JOIN namespace_numbers n ON n.place = h.namespace WHERE h.id = ?1",
            )?
            .query_row([hook], |row| row.get(0))
            .optional()?;
        self.namespaces.insert(hook, found);
        Ok(found)
    }

    fn has_event(&self, event: EventSeq) -> rusqlite::Result<bool> {
        self.conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM events WHERE seq = ?1)")?
            .query_row([event], |row| row.get(0))
    }

    fn has_row(&self, seq: DeliverySeq) -> rusqlite::Result<bool> {
        self.conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM deliveries WHERE seq = ?1)")?
            .query_row([seq], |row| row.get(0))
    }
}

/// Returns the defects of outcomes. Reads every row.
pub(in super::super) fn find_problems(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let (mut damaged_groups, mut damaged_segments, mut misplaced) = (0_u64, 0_u64, 0_u64);
    let (mut without_event, mut without_hook, mut with_row) = (0_u64, 0_u64, 0_u64);
    let mut references = References::new(conn);
    let mut verify = |outcome: &Outcome| {
        without_event += u64::from(!references.has_event(outcome.event())?);
        without_hook += u64::from(references.namespace(outcome.hook)? != Some(outcome.namespace));
        with_row += u64::from(references.has_row(outcome.seq)?);
        Ok::<_, rusqlite::Error>(())
    };
    let (mut directory, mut end) = (DirectoryChanges::default(), 0);
    for_each_segment(conn, |(oldest, newest, bytes), segment| {
        let Some(outcomes) = segment.outcomes else {
            damaged_segments += 1;
            return Ok(());
        };
        let summary = Summary { last: segment.last, oldest, newest, bytes };
        let first = outcomes.first().map_or(0, |outcome| outcome.seq);
        let is_in_order = segment.first > end && first >= segment.first && Summary::of(&outcomes) == summary;
        misplaced += u64::from(!is_in_order);
        end = segment.last;
        outcomes.iter().for_each(|outcome| directory.add(outcome));
        outcomes.iter().try_for_each(&mut verify)
    })?;
    for_each_group(conn, |_, outcomes| {
        damaged_groups += u64::from(outcomes.is_none());
        Ok(())
    })?;
    let level0 = Level0::load(conn)?;
    level0.iter().try_for_each(&mut verify)?;
    let mut problems = Vec::new();
    for (count, defect) in [
        (damaged_groups, "damaged groups of outcomes"),
        (damaged_segments, "damaged segments of outcomes"),
        (misplaced, "segments of outcomes that are out of order or do not fit their columns"),
        (without_event, "outcomes without their event"),
        (without_hook, "outcomes without their hook"),
        (with_row, "outcomes of deliveries that have a row"),
    ] {
        if count > 0 {
            problems.push(format!("{count} {defect}"));
        }
    }
    // A damaged segment does not say what the directory should contain.
    if damaged_segments == 0 && !matches_directory(conn, &directory)? {
        problems.push("the directory of outcomes does not fit its segments".into());
    }
    Ok(problems)
}

fn matches_directory(conn: &Connection, expected: &DirectoryChanges) -> rusqlite::Result<bool> {
    let mut expected: BTreeMap<_, _> = expected.rows().collect();
    let mut statement = conn.prepare("SELECT kind, owner, part, outcomes, slots FROM outcome_index")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (count, bits): (i64, i64) = (row.get(3)?, row.get(4)?);
        // The bits of removed outcomes remain.
        let fits = expected
            .remove(&(row.get(0)?, row.get(1)?, row.get(2)?))
            .is_some_and(|(wanted, needed)| wanted == count && needed & !bits.cast_unsigned() == 0);
        if !fits {
            return Ok(false);
        }
    }
    Ok(expected.is_empty())
}

/// Removes damaged rows, and outcomes that refer to a lost row or whose delivery has a row. Then computes the directory again.
pub(in super::super) fn repair(conn: &Connection) -> rusqlite::Result<()> {
    let mut references = References::new(conn);
    let mut repaired = |outcomes: Vec<Outcome>| {
        let mut kept = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            if let Some(namespace) = references.namespace(outcome.hook)?
                && references.has_event(outcome.event())?
                && !references.has_row(outcome.seq)?
            {
                kept.push(Outcome { namespace, ..outcome });
            }
        }
        Ok::<_, rusqlite::Error>(kept)
    };
    let mut changed_segments = Vec::new();
    for_each_segment(conn, |(oldest, newest, bytes), segment| {
        let outcomes = segment.outcomes.unwrap_or_default();
        let kept = repaired(outcomes.clone())?;
        let columns = Summary { last: segment.last, oldest, newest, bytes };
        if kept != outcomes || kept.is_empty() || Summary::of(&kept) != columns {
            changed_segments.push((segment.first, content::encode(segment.first, &kept)));
        }
        Ok(())
    })?;
    for (first, content) in changed_segments {
        segments::replace(conn, first, &content::decode(first, &content).unwrap_or_default())?;
    }
    let mut changed_groups = Vec::new();
    for_each_group(conn, |id, outcomes| {
        let outcomes = outcomes.unwrap_or_default();
        let kept = repaired(outcomes.clone())?;
        if kept != outcomes || kept.is_empty() {
            changed_groups.push((id, content::encode(id, &kept), kept.is_empty()));
        }
        Ok(())
    })?;
    for (id, content, is_empty) in changed_groups {
        if is_empty {
            conn.execute("DELETE FROM outcome_groups WHERE id = ?1", [id])?;
        } else {
            conn.execute("UPDATE outcome_groups SET content = ?2 WHERE id = ?1", params![id, content])?;
        }
    }
    // Without this, outcomes of groups that are in segments too would count twice.
    conn.execute(
        "INSERT OR IGNORE INTO meta (name, value)
         VALUES ('segmented', (SELECT coalesce(max(last), 0) FROM outcome_segments))",
        [],
    )?;
    conn.execute("DELETE FROM outcome_index", [])?;
    let mut firsts = conn.prepare("SELECT first, last, content FROM outcome_segments ORDER BY first")?;
    let mut rows = firsts.query([])?;
    while let Some(row) = rows.next()? {
        let mut changes = DirectoryChanges::default();
        Segment::read(row)?.into_outcomes().iter().for_each(|outcome| changes.add(outcome));
        changes.apply(conn)?;
    }
    Ok(())
}

/// Passes the event of each outcome, some of them repeatedly.
pub(in super::super) fn list_events(
    conn: &Connection,
    mut run: impl FnMut(EventSeq) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    for_each_segment(conn, |_, segment| {
        segment.into_outcomes().iter().try_for_each(|outcome| run(outcome.event()))
    })?;
    Level0::load(conn)?.iter().try_for_each(|outcome| run(outcome.event()))
}
