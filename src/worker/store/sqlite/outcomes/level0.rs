//! Level 0: the newest outcomes, in memory and in the table `outcome_groups`, one row for each group commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::super::super::DeliverySeq;
use super::content::{self, Encoder, Outcome};

/// A row of `outcome_groups`.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: i64,
    /// The last delivery when the row was inserted.
    last: DeliverySeq,
    /// In ascending order.
    outcomes: Vec<Outcome>,
}

/// The outcomes of a store that are not in segments. A clone shares the groups.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Level0 {
    groups: BTreeMap<i64, Arc<Group>>,
    /// Outcomes up to this delivery are in segments, even if a group still contains them.
    merged: DeliverySeq,
    /// The number of outcomes after `merged`.
    count: usize,
}

impl Level0 {
    /// Reads the groups. Also works for a store of an older format, which has none.
    ///
    /// A damaged group has no outcomes: their deliveries are pending again if they are after the watermark of
    /// materialization, and their history is lost otherwise.
    pub(in super::super) fn load(conn: &Connection) -> rusqlite::Result<Level0> {
        let mut level0 = Level0::default();
        if !exists(conn)? {
            return Ok(level0);
        }
        let merged = conn
            .prepare_cached("SELECT value FROM meta WHERE name = 'segmented'")?
            .query_row([], |row| row.get(0))
            .optional()?;
        level0.merged = merged.unwrap_or(0);
        let mut groups = conn.prepare("SELECT id, last, content FROM outcome_groups ORDER BY id")?;
        let mut groups = groups.query([])?;
        while let Some(row) = groups.next()? {
            let (id, last) = (row.get(0)?, row.get(1)?);
            let outcomes = row.get_ref(2)?.as_blob().ok().and_then(|bytes| content::decode(id, bytes));
            if outcomes.is_none() {
                tracing::error!(group = id, "a group of outcomes is damaged: run hookstream store recover");
            }
            level0.insert(Arc::new(Group { id, last, outcomes: outcomes.unwrap_or_default() }));
        }
        Ok(level0)
    }

    pub(super) fn merged(&self) -> DeliverySeq {
        self.merged
    }

    /// Returns the number of outcomes.
    pub(in super::super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn next_id(&self) -> i64 {
        self.groups.last_key_value().map_or(1, |(id, _)| id + 1)
    }

    pub(super) fn insert(&mut self, group: Arc<Group>) {
        self.count += group.range(self.merged.saturating_add(1), DeliverySeq::MAX).len();
        self.groups.insert(group.id, group);
    }

    /// Returns all outcomes, of one group after the other.
    pub(in super::super) fn iter(&self) -> impl Iterator<Item = &Outcome> {
        self.range(0, DeliverySeq::MAX)
    }

    /// Returns the outcomes of these deliveries, of one group after the other.
    pub(in super::super) fn range(
        &self,
        first: DeliverySeq,
        last: DeliverySeq,
    ) -> impl Iterator<Item = &Outcome> {
        let first = first.max(self.merged.saturating_add(1));
        self.groups.values().flat_map(move |group| group.range(first, last))
    }

    pub(in super::super) fn find(&self, seq: DeliverySeq) -> Option<&Outcome> {
        self.range(seq, seq).next()
    }

    /// Removes an outcome, from the table too.
    pub(super) fn remove(
        &mut self,
        conn: &Connection,
        seq: DeliverySeq,
    ) -> rusqlite::Result<Option<Outcome>> {
        if seq <= self.merged {
            return Ok(None);
        }
        let Some(group) = self.groups.values().find(|group| !group.range(seq, seq).is_empty()).cloned()
        else {
            return Ok(None);
        };
        let found = group.range(seq, seq).first().copied();
        let outcomes: Vec<_> = group.outcomes.iter().filter(|outcome| outcome.seq != seq).copied().collect();
        if outcomes.is_empty() {
            self.groups.remove(&group.id);
            delete(conn, group.id)?;
        } else {
            conn.prepare_cached("UPDATE outcome_groups SET content = ?2 WHERE id = ?1")?
                .execute(params![group.id, content::encode(group.id, &outcomes)])?;
            self.groups.insert(group.id, Arc::new(Group { id: group.id, last: group.last, outcomes }));
        }
        self.count -= 1;
        Ok(found)
    }

    /// Forgets the outcomes up to a delivery, which are in segments now, and removes groups that have no later one.
    pub(super) fn set_merged(&mut self, conn: &Connection, merged: DeliverySeq) -> rusqlite::Result<()> {
        self.count -= self.range(0, merged).count();
        self.merged = self.merged.max(merged);
        let mut unused = Vec::new();
        self.groups.retain(|id, group| {
            let is_used = group.last > merged;
            unused.extend((!is_used).then_some(*id));
            is_used
        });
        unused.into_iter().try_for_each(|id| delete(conn, id))?;
        conn.prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES ('segmented', ?1)")?
            .execute([self.merged])?;
        Ok(())
    }
}

impl Group {
    /// Inserts outcomes, which must be in ascending order, as one or more rows.
    pub(super) fn insert_all(
        conn: &Connection,
        mut id: i64,
        outcomes: &[Outcome],
        row_bytes: usize,
    ) -> rusqlite::Result<Vec<Arc<Group>>> {
        let (mut groups, mut rest) = (Vec::new(), outcomes);
        while let Some(first) = rest.first() {
            let mut encoder = Encoder::new(row_bytes);
            let count = rest.iter().take_while(|outcome| encoder.push(outcome)).count();
            let (taken, after) = rest.split_at_checked(count).unwrap_or((rest, &[]));
            rest = after;
            let last = taken.last().unwrap_or(first).seq;
            conn.prepare_cached("INSERT INTO outcome_groups (id, last, content) VALUES (?1, ?2, ?3)")?
                .execute(params![id, last, encoder.finish(id)])?;
            groups.push(Arc::new(Group { id, last, outcomes: taken.to_vec() }));
            id += 1;
        }
        Ok(groups)
    }

    fn range(&self, first: DeliverySeq, last: DeliverySeq) -> &[Outcome] {
        let (Some(lowest), Some(highest)) = (self.outcomes.first(), self.outcomes.last()) else { return &[] };
        // Most groups have none of an event's deliveries.
        if highest.seq < first || lowest.seq > last {
            return &[];
        }
        let from = self.outcomes.partition_point(|outcome| outcome.seq < first);
        let to = self.outcomes.partition_point(|outcome| outcome.seq <= last);
        self.outcomes.get(from..to).unwrap_or_default()
    }
}

fn delete(conn: &Connection, id: i64) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM outcome_groups WHERE id = ?1")?.execute([id]).map(drop)
}

/// True if the store has tables of outcomes.
pub(in super::super) fn exists(conn: &Connection) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'outcome_groups')")?
        .query_row([], |row| row.get(0))
}
