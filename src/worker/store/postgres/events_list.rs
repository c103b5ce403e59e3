//! Lists the events of a namespace or of all, newest first: those with deliveries, found through their deliveries, merged with those
//! that no hook matched. So the list needs no index of all events, which every accept would have to write.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tokio_postgres::types::Type;

use super::super::read_budget::{ReadBudget, ReadLimiter};
use super::super::sequence::{event_seq, first_delivery};
use super::super::{
    DeliveryFilter, DeliverySeq, DeliveryState, EventFilter, EventOutcome, EventPage, EventRecord, EventSeq,
};
use super::event_numbers;
use super::event_rows::{self, EventSummary};
use super::failure::DbError;
use super::places::{self, Selection};
use super::session::Session;
use super::walk::{Range, Tables, Walk};

/// Events that are examined at once.
const BATCH: usize = 32;
/// Deliveries of a window that are used at once.
const DELIVERIES: usize = 256;
/// Bytes of data that are read at once.
const BATCH_BYTES: usize = 4 << 20;
/// Bytes of data that count as one examined row.
const BYTES_PER_ROW: usize = 4096;

/// Returns a page of up to `page_size` events below `before`. A page with fewer ends where the budget is used up.
pub(super) async fn list(
    session: &Session,
    filter: &EventFilter,
    before: Option<DeliverySeq>,
    (page_size, with_data): (usize, bool),
    budget: ReadBudget,
) -> Result<EventPage, DbError> {
    let tx = session.begin_reading().await?;
    let page = match places::select(&tx, &filter.namespace).await? {
        Some(places) => {
            let before = before.unwrap_or(DeliverySeq::MAX);
            let mut list = EventList {
                session: &tx,
                filter,
                places,
                with_data,
                limiter: ReadLimiter::start(budget),
                matched: MatchedEvents::begin(&tx, filter, before).await?,
                unmatched: UnmatchedEvents::begin(&tx, filter, before).await?,
            };
            list.page(before, page_size).await?
        }
        None => EventPage::default(),
    };
    tx.commit().await?;
    Ok(page)
}

/// An event to examine, and whether it has deliveries.
type NextEvent = (EventSeq, bool);

struct EventList<'l> {
    session: &'l Session,
    filter: &'l EventFilter,
    places: Selection,
    with_data: bool,
    limiter: ReadLimiter,
    matched: MatchedEvents,
    unmatched: UnmatchedEvents,
}

impl EventList<'_> {
    async fn page(&mut self, before: DeliverySeq, page_size: usize) -> Result<EventPage, DbError> {
        let mut page = EventPage::default();
        // Below it, the list may have events that this page does not.
        let mut last_examined = before;
        loop {
            let batch = self.next_batch().await?;
            if batch.is_empty() {
                // Deliveries were examined without a result.
                page.next = self.matched.stopped.map(|stopped| stopped.min(last_examined));
                return Ok(page);
            }
            let free = page_size.saturating_sub(page.records.len());
            let mut examined = self.examine(&batch, free).await?;
            for (event, _) in batch {
                let Some(outcome) = examined.remove(&event) else { continue };
                self.limiter.take(outcome.cost);
                if let Some(record) = outcome.record {
                    if page.records.len() >= page_size {
                        page.next = Some(last_examined);
                        return Ok(page);
                    }
                    page.records.push(record);
                }
                last_examined = first_delivery(event);
                // After at least one event, so that a client that follows the tokens always advances.
                if self.limiter.is_used_up() {
                    page.next = Some(last_examined);
                    return Ok(page);
                }
            }
        }
    }

    /// Takes the next events of both kinds, newest first. Empty: there are none, or the search for them was stopped.
    async fn next_batch(&mut self) -> Result<Vec<NextEvent>, DbError> {
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            // A refill costs a statement, so a batch ends where one kind has to be read again.
            if !batch.is_empty() && (self.matched.needs_refill() || self.unmatched.needs_refill()) {
                break;
            }
            self.matched.refill(self.session, &mut self.limiter).await?;
            self.unmatched.refill(self.session, self.places).await?;
            let (matched, unmatched) = (self.matched.events.front(), self.unmatched.events.front());
            let Some(event) = matched.max(unmatched).copied() else { break };
            // Events with deliveries below this position are not known.
            if self.matched.stopped.is_some_and(|stopped| first_delivery(event) < stopped) {
                break;
            }
            let has_deliveries = self.matched.events.pop_front_if(|next| *next == event).is_some();
            self.unmatched.events.pop_front_if(|next| *next == event);
            batch.push((event, has_deliveries));
        }
        Ok(batch)
    }

    /// Examines events: what each costs, and its record if the filter matches it. `free`: the number of records that the page
    /// still takes. A record above it has no data.
    async fn examine(
        &self,
        batch: &[NextEvent],
        free: usize,
    ) -> Result<HashMap<EventSeq, Examined>, DbError> {
        let seqs: Vec<EventSeq> = batch.iter().map(|(event, _)| *event).collect();
        let mut summaries = event_rows::summaries(self.session, self.places, &seqs).await?;
        summaries.sort_unstable_by_key(|summary| std::cmp::Reverse(summary.seq));
        let mut examined: HashMap<EventSeq, Examined> =
            seqs.iter().map(|event| (*event, Examined { cost: 1, record: None })).collect();
        summaries.retain(|summary| matches(self.filter, summary));
        self.search(&mut summaries, &mut examined).await?;
        let has_deliveries: HashSet<EventSeq> =
            batch.iter().filter(|(_, has)| *has).map(|(event, _)| *event).collect();
        let with_deliveries: Vec<EventSeq> =
            summaries.iter().map(|s| s.seq).filter(|seq| has_deliveries.contains(seq)).collect();
        let mut shown = event_rows::shown_deliveries(self.session, &with_deliveries).await?;
        let mut data = HashMap::new();
        if self.with_data {
            for part in parts_of(summaries.get(..free).unwrap_or(&summaries)) {
                data.extend(event_rows::with_data(self.session, &part).await?);
            }
        }
        for summary in summaries {
            let (deliveries, has_more) = shown.remove(&summary.seq).unwrap_or_default();
            let outcome = EventOutcome::of(deliveries.iter().map(|(_, state)| *state));
            let Some(entry) = examined.get_mut(&summary.seq) else { continue };
            entry.cost += deliveries.len();
            let event = match data.remove(&summary.seq) {
                Some(event) => {
                    entry.cost += summary.bytes / BYTES_PER_ROW;
                    event
                }
                None => summary.event,
            };
            let (event, accepted) = (Arc::new(event), summary.accepted);
            entry.record = Some(EventRecord { event, accepted, outcome, deliveries, has_more });
        }
        Ok(examined)
    }

    /// Leaves out events without the wanted text.
    async fn search(
        &self,
        summaries: &mut Vec<EventSummary>,
        examined: &mut HashMap<EventSeq, Examined>,
    ) -> Result<(), DbError> {
        let Some(text) = &self.filter.text else { return Ok(()) };
        let mut found: HashSet<EventSeq> = HashSet::new();
        if self.filter.searches_data {
            for part in parts_of(summaries) {
                found.extend(event_rows::search_data(self.session, &part, text).await?);
            }
            for summary in summaries.iter() {
                if let Some(entry) = examined.get_mut(&summary.seq) {
                    entry.cost += summary.bytes / BYTES_PER_ROW;
                }
            }
        }
        summaries.retain(|summary| summary.event.id.contains(text) || found.contains(&summary.seq));
        Ok(())
    }
}

/// What the examination of an event found.
struct Examined {
    /// Rows that count as examined.
    cost: usize,
    record: Option<EventRecord>,
}

/// Divides events into parts whose data may be read at once.
fn parts_of(summaries: &[EventSummary]) -> Vec<Vec<EventSeq>> {
    let (mut parts, mut bytes) = (vec![Vec::new()], 0_usize);
    for summary in summaries {
        if bytes > BATCH_BYTES {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += summary.bytes;
        if let Some(part) = parts.last_mut() {
            part.push(summary.seq);
        }
    }
    parts
}

/// Checks all but the text and the outcome.
fn matches(filter: &EventFilter, summary: &EventSummary) -> bool {
    let (event, accepted) = (&summary.event, summary.accepted);
    let is_origin = |wanted: &String| event.origin.kind() == wanted || event.origin.to_string() == *wanted;
    filter.source.as_ref().is_none_or(|source| event.source == *source)
        && filter.event.as_ref().is_none_or(|name| event.event == *name)
        && filter.origin.as_ref().is_none_or(is_origin)
        && filter.since.is_none_or(|since| accepted >= since)
        && filter.until.is_none_or(|until| accepted < until)
}

/// The events with deliveries, newest first.
struct MatchedEvents {
    /// None: all were read, or they are not listed.
    walk: Option<Walk>,
    events: VecDeque<EventSeq>,
    /// Where the search ended because its budget was used up.
    stopped: Option<DeliverySeq>,
}

impl MatchedEvents {
    async fn begin(session: &Session, filter: &EventFilter, before: DeliverySeq) -> Result<Self, DbError> {
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
        let walk = match filter.outcome {
            Some(EventOutcome::Unmatched) => None,
            _ => Walk::begin(session, &deliveries, Range::older(Some(before)), Tables::Both).await?,
        };
        Ok(MatchedEvents { walk, events: VecDeque::new(), stopped: None })
    }

    fn needs_refill(&self) -> bool {
        self.events.is_empty() && self.walk.is_some()
    }

    async fn refill(&mut self, session: &Session, limiter: &mut ReadLimiter) -> Result<(), DbError> {
        while let (true, Some(walk)) = (self.events.is_empty(), &mut self.walk) {
            let window = walk.next(session, DELIVERIES, limiter.remaining_rows()).await?;
            limiter.take(window.examined);
            for delivery in &window.matched {
                let event = event_seq(delivery.seq);
                if self.events.back() != Some(&event) {
                    self.events.push_back(event);
                }
            }
            match (window.next, self.events.back()) {
                (None, _) => self.walk = None,
                // The other deliveries of the last event need not be examined.
                (Some(_), Some(last)) => walk.skip_to(first_delivery(*last)),
                (Some(next), None) if limiter.is_used_up() => {
                    self.stopped = Some(next);
                    self.walk = None;
                }
                (Some(_), None) => {}
            }
        }
        Ok(())
    }
}

/// The events that no hook matched, newest first.
struct UnmatchedEvents {
    /// Events below it were not read. None: all were read, or they are not listed.
    before: Option<EventSeq>,
    /// Events below it were accepted before the listed time.
    first: EventSeq,
    events: VecDeque<EventSeq>,
}

pub(super) const UNMATCHED: &str = "
SELECT seq FROM hookstream.events
WHERE (place, seq) < ($1, $2) AND (place, seq) >= ($1, $3) AND unmatched ORDER BY place DESC, seq DESC LIMIT 64";

// Also of places that have ended, which `event_rows::summaries` leaves out.
pub(super) const UNMATCHED_OF_ALL: &str = "
SELECT seq FROM hookstream.events WHERE seq < $1 AND seq >= $2 AND unmatched ORDER BY seq DESC LIMIT 64";

impl UnmatchedEvents {
    async fn begin(session: &Session, filter: &EventFilter, before: DeliverySeq) -> Result<Self, DbError> {
        let is_listed =
            matches!(filter.outcome, None | Some(EventOutcome::Unmatched)) && filter.hook.is_none();
        if !is_listed {
            return Ok(UnmatchedEvents { before: None, first: 0, events: VecDeque::new() });
        }
        let mut before = event_seq(before.saturating_sub(1)).saturating_add(1);
        let mut first = 0;
        if let Some(until) = filter.until {
            let later = until.0.saturating_add(event_numbers::DISORDER);
            before = before.min(event_numbers::first_event_since(session, later).await?);
        }
        if let Some(since) = filter.since {
            first =
                event_numbers::first_event_since(session, since.0.saturating_sub(event_numbers::DISORDER))
                    .await?;
        }
        Ok(UnmatchedEvents { before: Some(before), first, events: VecDeque::new() })
    }

    fn needs_refill(&self) -> bool {
        self.events.is_empty() && self.before.is_some()
    }

    async fn refill(&mut self, session: &Session, places: Selection) -> Result<(), DbError> {
        let (true, Some(before)) = (self.events.is_empty(), self.before) else { return Ok(()) };
        let (before, first) = ((&before as _, Type::INT8), (&self.first as _, Type::INT8));
        let rows = match places {
            Selection::One(place) => session.query(UNMATCHED, &[(&place, Type::INT8), before, first]).await?,
            Selection::All => session.query(UNMATCHED_OF_ALL, &[before, first]).await?,
        };
        for row in &rows {
            self.events.push_back(row.try_get(0)?);
        }
        self.before = self.events.back().copied();
        Ok(())
    }
}
