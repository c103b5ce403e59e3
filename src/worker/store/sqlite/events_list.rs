//! Lists the events of a namespace, newest first: those with deliveries, found through their deliveries, merged with those
//! that no hook matched. So the list needs no index of all events, which every accept would have to write.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use rusqlite::{Connection, OptionalExtension, params};

use super::super::read_budget::{ReadBudget, ReadLimiter};
use super::super::{
    ALL_NAMESPACES, DeliveryFilter, DeliverySeq, DeliveryState, EventFilter, EventOutcome, EventPage,
    EventRecord, EventSeq, selects_namespace,
};
use super::event_ids::NewestIds;
use super::history;
use super::lookup;
use super::namespace_keys;
use super::outcomes::Snapshot;
use super::rows::{event as read_event, limit};
use super::sequence::{self, Direction};
use super::unmatched;
use super::walk;
use crate::core::event::Event;
use crate::core::time::Millis;

/// If the clock was set back by at most this many milliseconds, lists with a time filter still find every event.
const CLOCK_SLACK: i64 = 3_600_000;
/// Deliveries, or unmatched events, that are read at once.
const BATCH: usize = 32;
/// The most deliveries of an event that a list shows.
const MAX_SHOWN: usize = 100;
/// Bytes of data that count as one examined row.
const BYTES_PER_ROW: usize = 4096;

// With the columns of an event at the positions that `rows::event` reads.
const EVENT: &str = "
SELECT NULL, NULL, NULL, NULL, accepted, id, namespace, origin, source, event, time, attributes, data
FROM events WHERE seq = ?1";
// Without the data, whose pages are then not read.
const EVENT_WITHOUT_DATA: &str = "
SELECT NULL, NULL, NULL, NULL, accepted, id, namespace, origin, source, event, time, NULL, 'null'
FROM events WHERE seq = ?1";

/// Returns a page of up to `page_size` events below `before`. A page with fewer ends where the budget is used up.
pub(super) fn list(
    conn: &Connection,
    recents: (&NewestIds, &Snapshot),
    filter: &EventFilter,
    before: Option<DeliverySeq>,
    (page_size, with_data): (usize, bool),
    budget: ReadBudget,
) -> rusqlite::Result<EventPage> {
    let mut budget = Budget {
        limiter: ReadLimiter::start(budget),
        rows: budget.rows,
        until: Instant::now() + budget.time,
    };
    let before = before.unwrap_or(DeliverySeq::MAX);
    let mut matched = MatchedEvents::new(filter, before);
    let mut unmatched = UnmatchedEvents::new(conn, filter, before)?;
    let mut page = EventPage::default();
    // Below it, the list may have events that this page does not.
    let mut last_examined = before;
    loop {
        let next = matched.peek(conn, recents, &mut budget)?.max(unmatched.peek(conn)?);
        // Deliveries were examined without a result. Unmatched events above them are still listed.
        if let Some(stopped) = matched.stopped
            && next.is_none_or(|event| sequence::first_delivery(event) < stopped)
        {
            page.next = Some(stopped.min(last_examined));
            return Ok(page);
        }
        let Some(event) = next else { return Ok(page) };
        let has_deliveries = matched.skip(event);
        unmatched.skip(event);
        budget.take(1);
        if let Some(record) =
            find((conn, recents.1), filter, event, (has_deliveries, with_data), &mut budget)?
        {
            if page.records.len() >= page_size {
                page.next = Some(last_examined);
                return Ok(page);
            }
            page.records.push(record);
        }
        last_examined = sequence::first_delivery(event);
        // After at least one event, so that a client that follows the tokens always advances.
        if budget.limiter.is_used_up() {
            page.next = Some(last_examined);
            return Ok(page);
        }
    }
}

/// What a list may still examine.
struct Budget {
    limiter: ReadLimiter,
    rows: usize,
    until: Instant,
}

impl Budget {
    fn take(&mut self, rows: usize) {
        self.rows = self.rows.saturating_sub(rows);
        self.limiter.take(rows);
    }

    fn remaining(&self) -> ReadBudget {
        ReadBudget { rows: self.rows.max(1), time: self.until.saturating_duration_since(Instant::now()) }
    }
}

/// The events with deliveries, newest first.
struct MatchedEvents {
    /// None: they are not listed, or all were read.
    filter: Option<DeliveryFilter>,
    before: DeliverySeq,
    events: VecDeque<EventSeq>,
    /// Where a read ended without a result.
    stopped: Option<DeliverySeq>,
}

impl MatchedEvents {
    fn new(filter: &EventFilter, before: DeliverySeq) -> Self {
        let state = match filter.outcome {
            Some(EventOutcome::Dead) => Some(DeliveryState::Dead),
            Some(EventOutcome::Dropped) => Some(DeliveryState::Dropped),
            Some(EventOutcome::Matched | EventOutcome::Unmatched) | None => None,
        };
        let deliveries = DeliveryFilter {
            namespace: filter.namespace.clone(),
            hook: filter.hook.clone(),
            state,
            event: None,
            since: filter.since,
            until: filter.until,
        };
        let filter = Some(deliveries).filter(|_| filter.outcome != Some(EventOutcome::Unmatched));
        MatchedEvents { filter, before, events: VecDeque::new(), stopped: None }
    }

    /// Returns the next event, which stays the next until it is skipped.
    fn peek(
        &mut self,
        conn: &Connection,
        recents: (&NewestIds, &Snapshot),
        budget: &mut Budget,
    ) -> rusqlite::Result<Option<EventSeq>> {
        if let (true, None, Some(filter)) = (self.events.is_empty(), self.stopped, &self.filter) {
            let page = history::list(conn, recents, filter, Some(self.before), BATCH, budget.remaining())?;
            // Only a search by id can lack ids.
            let page = page.unwrap_or_default();
            budget.take(page.records.len());
            for record in &page.records {
                let event = sequence::event_seq(record.seq);
                if self.events.back() != Some(&event) {
                    self.events.push_back(event);
                }
            }
            match (page.next, self.events.back()) {
                (None, _) => self.filter = None,
                // The other deliveries of the last event need not be read.
                (Some(next), Some(last)) => self.before = next.min(sequence::first_delivery(*last)),
                (Some(next), None) => self.stopped = Some(next),
            }
        }
        Ok(self.events.front().copied())
    }

    /// Removes the event if it is the next one. True: it was.
    fn skip(&mut self, event: EventSeq) -> bool {
        let is_next = self.events.front() == Some(&event);
        if is_next {
            self.events.pop_front();
        }
        is_next
    }
}

/// The namespaces whose unmatched events are listed.
enum UnmatchedOf {
    /// Of the namespace with this key.
    Namespace(String),
    All,
}

impl UnmatchedOf {
    /// Reads the next events up to `last`, newest first.
    fn read(&self, conn: &Connection, last: EventSeq) -> rusqlite::Result<VecDeque<EventSeq>> {
        let batch = limit(BATCH);
        match self {
            UnmatchedOf::Namespace(key) => conn
                .prepare_cached(unmatched::OF_NAMESPACE)?
                .query_map(params![key, last, batch], |row| row.get(0))?
                .collect(),
            UnmatchedOf::All => conn
                .prepare_cached(unmatched::OF_ALL)?
                .query_map(params![last, batch], |row| row.get(0))?
                .collect(),
        }
    }
}

/// The events that no hook matched, newest first.
struct UnmatchedEvents {
    /// None: they are not listed, or all were read.
    of: Option<UnmatchedOf>,
    /// The newest event that is not read yet.
    last: EventSeq,
    /// Events below it were accepted before the listed time.
    first: EventSeq,
    events: VecDeque<EventSeq>,
}

impl UnmatchedEvents {
    fn new(conn: &Connection, filter: &EventFilter, before: DeliverySeq) -> rusqlite::Result<Self> {
        let is_listed =
            matches!(filter.outcome, None | Some(EventOutcome::Unmatched)) && filter.hook.is_none();
        let of = match filter.namespace.as_str() {
            _ if !is_listed => None,
            ALL_NAMESPACES => Some(UnmatchedOf::All),
            name => Some(UnmatchedOf::Namespace(namespace_keys::key(conn, name)?)),
        };
        let mut last = sequence::event_seq(before.saturating_sub(1));
        if let Some(until) = filter.until {
            last = last.min(unmatched::first_since(conn, until.0.saturating_add(CLOCK_SLACK))?);
        }
        let first = match filter.since {
            Some(since) => unmatched::first_since(conn, since.0.saturating_sub(CLOCK_SLACK))?,
            None => 0,
        };
        Ok(UnmatchedEvents { of, last, first, events: VecDeque::new() })
    }

    fn peek(&mut self, conn: &Connection) -> rusqlite::Result<Option<EventSeq>> {
        if let (true, Some(of)) = (self.events.is_empty(), &self.of) {
            self.events = of.read(conn, self.last)?;
            let is_complete = self.events.len() < BATCH;
            self.events.retain(|event| *event >= self.first);
            match self.events.back() {
                Some(last) if !is_complete => self.last = last - 1,
                _ => self.of = None,
            }
        }
        Ok(self.events.front().copied())
    }

    fn skip(&mut self, event: EventSeq) {
        if self.events.front() == Some(&event) {
            self.events.pop_front();
        }
    }
}

/// Returns the event if the filter matches it.
fn find(
    (conn, recent): (&Connection, &Snapshot),
    filter: &EventFilter,
    seq: EventSeq,
    (has_deliveries, with_data): (bool, bool),
    budget: &mut Budget,
) -> rusqlite::Result<Option<EventRecord>> {
    let statement = if with_data || filter.searches_data { EVENT } else { EVENT_WITHOUT_DATA };
    let found = conn
        .prepare_cached(statement)?
        .query_row([seq], |row| Ok((Millis(row.get(4)?), read_event(row)?)))
        .optional()?;
    // Another program may have removed an unmatched event.
    let Some((accepted, event)) = found else { return Ok(None) };
    budget.take(event.data.view().get().len() / BYTES_PER_ROW);
    if !matches(filter, &event, accepted) {
        return Ok(None);
    }
    let (deliveries, has_more) = match has_deliveries {
        true => deliveries_of(conn, recent, seq, budget)?,
        false => (Vec::new(), false),
    };
    let outcome = EventOutcome::of(deliveries.iter().map(|(_, state)| *state));
    Ok(Some(EventRecord { event: Arc::new(event), accepted, outcome, deliveries, has_more }))
}

fn matches(filter: &EventFilter, event: &Event, accepted: Millis) -> bool {
    let is_origin = |wanted: &String| event.origin.kind() == wanted || event.origin.to_string() == *wanted;
    let has_text = |text: &String| {
        event.id.contains(text) || (filter.searches_data && event.data.view().get().contains(text))
    };
    selects_namespace(&filter.namespace, &event.namespace)
        && filter.source.as_ref().is_none_or(|source| event.source == *source)
        && filter.event.as_ref().is_none_or(|name| event.event == *name)
        && filter.origin.as_ref().is_none_or(is_origin)
        && filter.text.as_ref().is_none_or(has_text)
        && filter.since.is_none_or(|since| accepted >= since)
        && filter.until.is_none_or(|until| accepted < until)
}

/// The hooks and states of an event's deliveries, and whether it has others.
type ShownDeliveries = (Vec<(Arc<str>, DeliveryState)>, bool);

/// Returns the newest deliveries of an event, and whether it has others.
fn deliveries_of(
    conn: &Connection,
    recent: &Snapshot,
    seq: EventSeq,
    budget: &mut Budget,
) -> rusqlite::Result<ShownDeliveries> {
    let range = (sequence::first_delivery(seq), sequence::last_delivery(seq));
    // All that are shown, whatever remains of the budget: the outcome depends on them.
    let mut found = walk::deliveries_between(conn, recent, range, Direction::Older, MAX_SHOWN + 1)?;
    let has_more = found.len() > MAX_SHOWN;
    found.truncate(MAX_SHOWN);
    budget.take(found.len());
    let mut shown = Vec::with_capacity(found.len());
    for position in found {
        if let Some((record, _)) = lookup::record_at(conn, position)? {
            shown.push((record.hook.name, record.state));
        }
    }
    Ok((shown, has_more))
}
