//! Walks the deliveries that a filter may match, in the order of their sequence numbers.
//!
//! A walk reads windows. A window is a bounded number of rows that follow each other in an index: of the namespace, of all
//! namespaces, of the hooks of a name, or of the events with an id. The rest of the filter selects rows of the window. So a
//! filter that rejects most rows cannot make a statement long, and a walk continues exactly behind the last row that it
//! examined.
//!
//! Conditions on the columns of an index are comparisons of rows, and the order names both columns. Then only that index has the
//! order, and the planner cannot walk the primary key in the hope of an early match. The number of rows is part of the text for
//! the same reason: without it, a generic plan expects a tenth of the table.

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

pub(super) use super::super::sequence::Direction;
use super::super::sequence::{event_seq, first_delivery, last_delivery};
use super::super::{AttemptRecord, DeliveryFilter, DeliverySeq, DeliveryState, EventSeq};
use super::event_numbers::{DISORDER, events_with_id, first_event_since};
use super::failure::DbError;
use super::hooks;
use super::places::{self, Selection};
use super::rows::{duration, limit, status};
use super::session::Session;
use super::{state, text};
use crate::core::time::Millis;

/// The numbers of rows of a window.
const WINDOWS: [usize; 4] = [64, 256, 1024, MAX_WINDOW];
const MAX_WINDOW: usize = 4096;
/// Events with the wanted id that are read at once.
const EVENTS: usize = 256;
/// A name that more hooks had is searched among all deliveries of the namespaces, because a window begins with a seek for each
/// of them.
const MAX_HOOKS_OF_NAME: usize = 64;

/// The tables that a walk reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tables {
    Both,
    Finished,
}

/// A delivery that a walk found: its row, without its event and its hook.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FoundDelivery {
    pub(super) seq: DeliverySeq,
    /// The row id of its hook.
    pub(super) hook: i64,
    pub(super) id: Uuid,
    pub(super) state: DeliveryState,
    pub(super) reason: Option<String>,
    pub(super) accepted: Millis,
    pub(super) due: Option<Millis>,
    /// The number of its attempts.
    pub(super) attempts: usize,
    /// The attempt that delivered it at once.
    pub(super) first: Option<AttemptRecord>,
}

/// The columns that `FoundDelivery::read` needs, of a row `t` of pending deliveries.
pub(super) const PENDING_COLUMNS: &str =
    "t.seq, t.hook, t.id, 0::smallint AS state, t.reason, t.accepted, t.due,
    t.attempts, t.first_at, t.first_micros, t.first_status, NULL::bigint AS finished_at";

/// The same columns of a row `t` of finished deliveries.
pub(super) const FINISHED_COLUMNS: &str =
    "t.seq, t.hook, t.id, t.state, t.reason, t.accepted, NULL::bigint AS due,
    t.attempts, t.first_at, t.first_micros, t.first_status, t.finished_at";

impl FoundDelivery {
    pub(super) fn read(row: &Row) -> Result<Self, DbError> {
        let at: Option<i64> = row.try_get("first_at")?;
        let first = match at {
            Some(at) => Some(AttemptRecord {
                at: Millis(at),
                duration: duration(row.try_get::<_, Option<i64>>("first_micros")?.unwrap_or(0)),
                status: status(row.try_get("first_status")?),
                error: None,
                detail: None,
            }),
            None => None,
        };
        let number: i16 = row.try_get("state")?;
        Ok(FoundDelivery {
            seq: row.try_get("seq")?,
            hook: row.try_get("hook")?,
            id: row.try_get("id")?,
            state: if number == 0 { DeliveryState::Pending } else { state::read(number)? },
            reason: row.try_get("reason")?,
            accepted: Millis(row.try_get("accepted")?),
            due: row.try_get::<_, Option<i64>>("due")?.map(Millis),
            attempts: usize::try_from(row.try_get::<_, i32>("attempts")?).unwrap_or(0),
            first,
        })
    }
}

/// An index that a walk follows.
#[derive(Debug)]
enum Source {
    Place(i64),
    /// The deliveries of all places, also of those that have ended.
    AllPlaces,
    /// The row ids of the hooks with the wanted name.
    Hooks(Vec<i64>),
    Event {
        places: Selection,
        id: String,
        /// The events of the present part, in the order of the walk.
        events: Vec<EventSeq>,
        /// The walk is in this part until it passes this position. None: it has not read a part.
        part_end: Option<DeliverySeq>,
    },
}

/// A position in the deliveries that a filter may match.
#[derive(Debug)]
pub(super) struct Walk {
    source: Source,
    direction: Direction,
    tables: Tables,
    state: Option<DeliveryState>,
    /// The row ids of the wanted hooks, if the source has other hooks too.
    hooks: Option<Vec<i64>>,
    since: i64,
    until: i64,
    /// Finished at or before this time.
    finished_by: i64,
    /// The last position that was examined.
    at: DeliverySeq,
    /// The last position to examine.
    end: DeliverySeq,
    /// Windows that were read.
    windows: usize,
}

/// The result of reading a window.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// The matching deliveries, in the order of the walk.
    pub(super) matched: Vec<FoundDelivery>,
    /// Rows that were examined.
    pub(super) examined: usize,
    /// The last position that was examined. None: the walk has ended.
    pub(super) next: Option<DeliverySeq>,
}

/// Where a walk begins and ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) direction: Direction,
    /// Begins behind this position.
    pub(super) from: DeliverySeq,
    /// Ends with this position.
    pub(super) to: DeliverySeq,
}

impl Range {
    /// All positions below `before`, newest first.
    pub(super) fn older(before: Option<DeliverySeq>) -> Self {
        Range { direction: Direction::Older, from: before.unwrap_or(DeliverySeq::MAX), to: 0 }
    }
}

impl Walk {
    /// Begins a walk. None: the filter cannot match any delivery.
    pub(super) async fn begin(
        session: &Session,
        filter: &DeliveryFilter,
        range: Range,
        tables: Tables,
    ) -> Result<Option<Self>, DbError> {
        let Some(places) = places::select(session, &filter.namespace).await? else { return Ok(None) };
        let mut hooks = match &filter.hook {
            Some(name) => Some(hooks::of_name(session, places, name).await?),
            None => None,
        };
        if hooks.as_ref().is_some_and(Vec::is_empty) {
            return Ok(None);
        }
        let source = match &filter.event {
            Some(id) => {
                let id = text::stored(id).into_owned();
                Source::Event { places, id, events: Vec::new(), part_end: None }
            }
            None => match hooks.take_if(|hooks| hooks.len() <= MAX_HOOKS_OF_NAME) {
                Some(hooks) => Source::Hooks(hooks),
                None => match places {
                    Selection::One(place) => Source::Place(place),
                    Selection::All => Source::AllPlaces,
                },
            },
        };
        let Range { direction, from, to } = range;
        let (since, until) = (filter.since.map(|at| at.0), filter.until.map(|at| at.0));
        let mut walk = Walk {
            source,
            direction,
            tables,
            state: filter.state,
            hooks,
            since: since.unwrap_or(i64::MIN),
            until: until.unwrap_or(i64::MAX),
            finished_by: i64::MAX,
            at: from,
            end: to,
            windows: 0,
        };
        walk.skip_other_times(session, since, until).await?;
        Ok(Some(walk))
    }

    /// Finds only deliveries that finished at or before this time.
    pub(super) fn finished_by(self, at: Millis) -> Self {
        Walk { finished_by: at.0, ..self }
    }

    /// Moves both ends to where deliveries of the wanted times can be.
    async fn skip_other_times(
        &mut self,
        session: &Session,
        since: Option<i64>,
        until: Option<i64>,
    ) -> Result<(), DbError> {
        let (mut low, mut high) = (0, DeliverySeq::MAX);
        if let Some(since) = since {
            low = first_delivery(first_event_since(session, since.saturating_sub(DISORDER)).await?);
        }
        if let Some(until) = until {
            high = first_delivery(first_event_since(session, until.saturating_add(DISORDER)).await?);
        }
        match self.direction {
            // The position itself was examined, and the end is examined.
            Direction::Older => (self.at, self.end) = (self.at.min(high), self.end.max(low)),
            Direction::Newer => (self.at, self.end) = (self.at.max(low - 1), self.end.min(high)),
        }
        Ok(())
    }

    /// Goes on behind this position, which must not be before the present one.
    pub(super) fn skip_to(&mut self, at: DeliverySeq) {
        self.at = match self.direction {
            Direction::Older => self.at.min(at),
            Direction::Newer => self.at.max(at),
        };
    }

    /// Reads the next window, up to `most` matching deliveries of it. If it has more, the next window begins with them.
    /// Examines about `budget` rows at most.
    pub(super) async fn next(
        &mut self,
        session: &Session,
        most: usize,
        budget: usize,
    ) -> Result<Window, DbError> {
        let (mut examined, end) = match self.next_part(session).await? {
            Some(part) => part,
            None => return Ok(Window::default()),
        };
        // The first window is as large as the page, and later ones grow, because the filter rejects much.
        let grown = WINDOWS.get(self.windows).copied().unwrap_or(MAX_WINDOW);
        let wanted = grown.max(most).min(budget);
        let rows = WINDOWS.into_iter().find(|rows| *rows >= wanted).unwrap_or(MAX_WINDOW);
        self.windows += 1;
        let found = self.read(session, (rows, most, end)).await?;
        examined += found.examined;
        let is_cut = found.matched.len() >= most;
        let next = match (is_cut, found.last) {
            (true, _) => found.matched.last().map(|delivery| delivery.seq),
            (false, Some(last)) if found.examined >= rows => Some(last),
            // The source, or its part, has no further rows.
            (false, _) => (end != self.end).then_some(end),
        };
        if let Some(next) = next {
            // The end of a part was examined, and the beginning of the next one not.
            self.skip_to(next);
        }
        Ok(Window { matched: found.matched, examined, next })
    }

    /// Returns the rows that it examined, and the last position of the present part of the source. None: the walk has ended.
    async fn next_part(&mut self, session: &Session) -> Result<Option<(usize, DeliverySeq)>, DbError> {
        let (direction, at, end) = (self.direction, self.at, self.end);
        let has_passed = |position: DeliverySeq| match direction {
            Direction::Older => at <= position,
            Direction::Newer => at >= position,
        };
        if has_passed(end) {
            return Ok(None);
        }
        let Source::Event { places, id, events, part_end } = &mut self.source else {
            return Ok(Some((0, end)));
        };
        if let Some(part_end) = part_end.filter(|part_end| !has_passed(*part_end)) {
            return Ok(Some((0, part_end)));
        }
        *events = match direction {
            Direction::Older => events_with_id(session, (*places, id), event_seq(at - 1), true).await?,
            Direction::Newer => events_with_id(session, (*places, id), event_seq(at + 1), false).await?,
        };
        let Some(last) = events.last() else { return Ok(None) };
        let last = match (events.len() < EVENTS, direction) {
            (true, _) => end,
            (false, Direction::Older) => first_delivery(*last).max(end),
            (false, Direction::Newer) => last_delivery(*last).min(end),
        };
        *part_end = Some(last);
        Ok(Some((events.len(), last)))
    }

    async fn read(
        &self,
        session: &Session,
        (rows, most, end): (usize, usize, DeliverySeq),
    ) -> Result<ReadWindow, DbError> {
        let ids = match &self.source {
            Source::Place(place) => std::slice::from_ref(place),
            Source::AllPlaces => &[],
            Source::Hooks(hooks) => hooks.as_slice(),
            Source::Event { events, .. } => events.as_slice(),
        };
        let no_hooks = Vec::new();
        let found = session
            .query(
                &self.sql(rows),
                &[
                    (&ids, Type::INT8_ARRAY),
                    (&self.at, Type::INT8),
                    (&end, Type::INT8),
                    (&self.since, Type::INT8),
                    (&self.until, Type::INT8),
                    (&self.finished_by, Type::INT8),
                    (self.hooks.as_ref().unwrap_or(&no_hooks), Type::INT8_ARRAY),
                    (&limit(most), Type::INT8),
                ],
            )
            .await?;
        let mut window = ReadWindow::default();
        for row in &found {
            window.examined = usize::try_from(row.try_get::<_, i64>("examined")?).unwrap_or(0);
            window.last = row.try_get("last")?;
            if row.try_get::<_, Option<i64>>("seq")?.is_some() {
                window.matched.push(FoundDelivery::read(row)?);
            }
        }
        Ok(window)
    }

    /// Returns the statement for a window of this number of rows.
    pub(super) fn sql(&self, rows: usize) -> String {
        let (order, last) = match self.direction {
            Direction::Older => ("DESC", "min"),
            Direction::Newer => ("ASC", "max"),
        };
        let reads_pending =
            self.tables == Tables::Both && self.state.is_none_or(|state| state == DeliveryState::Pending);
        let reads_finished = self.state != Some(DeliveryState::Pending);
        let mut tables = Vec::new();
        if reads_pending {
            tables.push(self.source_sql("pending", PENDING_COLUMNS, rows));
        }
        if reads_finished {
            tables.push(self.source_sql("finished", FINISHED_COLUMNS, rows));
        }
        let tables = tables.join("\n    UNION ALL\n    ");
        let mut conditions = "accepted >= $4 AND accepted < $5".to_owned();
        if self.tables == Tables::Finished {
            conditions += " AND finished_at <= $6";
        }
        if self.hooks.is_some() {
            conditions += " AND hook = ANY($7)";
        }
        if matches!(self.source, Source::AllPlaces) {
            conditions += " AND place NOT IN (SELECT id FROM hookstream.places WHERE ended)";
        }
        if let Some(number) = self.state.and_then(state::number) {
            conditions += &format!(" AND state = {number}");
        }
        format!(
            "WITH examined AS MATERIALIZED (
    SELECT * FROM ({tables}) u ORDER BY seq {order} LIMIT {rows}),
matched AS MATERIALIZED (SELECT * FROM examined WHERE {conditions} ORDER BY seq {order} LIMIT $8)
SELECT x.examined, x.last, m.* FROM (SELECT count(*) AS examined, {last}(seq) AS last FROM examined) x
LEFT JOIN matched m ON true ORDER BY m.seq {order}"
        )
    }

    /// Returns the statement for the rows of one table.
    fn source_sql(&self, table: &str, columns: &str, rows: usize) -> String {
        let (order, from, to) = match self.direction {
            Direction::Older => ("DESC", "<", ">="),
            Direction::Newer => ("ASC", ">", "<="),
        };
        // The text of a partial index, so that the planner finds it.
        let state = if self.state == Some(DeliveryState::Dead) { "AND t.state = 2 " } else { "" };
        let column = match &self.source {
            Source::Place(_) => "place",
            Source::Hooks(_) => "hook",
            Source::AllPlaces => {
                return format!(
                    "(SELECT {columns}, t.place FROM hookstream.{table} t
        WHERE t.seq {from} $2 AND t.seq {to} $3 {state}ORDER BY t.seq {order} LIMIT {rows})"
                );
            }
            Source::Event { .. } => {
                return format!(
                    "SELECT w.* FROM unnest($1) AS o (event) CROSS JOIN LATERAL (
        SELECT {columns} FROM hookstream.{table} t
        WHERE t.seq {from} $2 AND t.seq {to} $3 AND t.seq >= o.event << 20 AND t.seq < (o.event + 1) << 20
        ORDER BY t.seq {order} LIMIT {rows}) w"
                );
            }
        };
        format!(
            "SELECT w.* FROM unnest($1) AS o (owner) CROSS JOIN LATERAL (
        SELECT {columns} FROM hookstream.{table} t
        WHERE (t.{column}, t.seq) {from} (o.owner, $2) AND (t.{column}, t.seq) {to} (o.owner, $3) {state}
        ORDER BY t.{column} {order}, t.seq {order} LIMIT {rows}) w"
        )
    }
}

/// What a statement read.
#[derive(Debug, Default)]
struct ReadWindow {
    matched: Vec<FoundDelivery>,
    examined: usize,
    last: Option<DeliverySeq>,
}
