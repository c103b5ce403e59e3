//! Accepting events: their rows, their deliveries (subject to gates and shares), their idempotency keys.
//!
//! A group of requests is accepted in one transaction. It locks the keys, then the gates, and then decides in memory what each
//! event becomes, in the order of the requests. So it costs a fixed number of statements, however many events it has. Statements
//! that do not need each other's results are pipelined: a group waits for four answers, and for that of the COMMIT.

use std::collections::{BTreeMap, HashSet};

use futures::{join, try_join};

use super::super::{AcceptedEvent, EventSeq, NewEvent, StoreError, sequence};
use super::admission::{Admission, Known, Outcome};
use super::backlog::BacklogChanges;
use super::failure::DbError;
use super::gate_plan::{GatePlan, Placed};
use super::keys::{self, Claim, StoredKey};
use super::new_rows::{self, NewDeliveryRow, NewEventRow};
use super::rows::{EVENT_BYTES, attributes_column};
use super::session::Session;
use super::shares::{Backlogs, ShareLimits};
use super::state::DROPPED;
use super::{gates, hooks, originals, transitions};
use crate::core::time::Millis;

/// Candidates that one transaction promotes.
pub(super) const PROMOTIONS: i64 = 100;

/// An event with its columns, and the sequence number that it gets if it is stored.
pub(super) struct EventRow {
    pub(super) new: NewEvent,
    attributes: Option<String>,
    pub(super) seq: EventSeq,
}

impl EventRow {
    /// Fails for an event that can never be stored.
    pub(super) fn new(new: NewEvent) -> Result<Self, StoreError> {
        let attributes = match attributes_column(&new.event) {
            Ok(attributes) => attributes,
            Err(error) => return Err(StoreError::Refused(error.to_string())),
        };
        let count = new.deliveries.len();
        let has_distinct_ids = count < 2
            || new.deliveries.iter().map(|delivery| delivery.id).collect::<HashSet<_>>().len() == count;
        if !has_distinct_ids {
            let why = "two deliveries of an event have the same id";
            return Err(StoreError::Refused(why.into()));
        }
        if count > sequence::MAX_DELIVERIES {
            return Err(StoreError::Refused("the event has too many deliveries".into()));
        }
        Ok(EventRow { new, attributes, seq: 0 })
    }

    /// Returns its approximate size in memory and on the wire.
    pub(super) fn bytes(&self) -> usize {
        self.event_bytes() + 128 * self.new.deliveries.len()
    }

    fn event_bytes(&self) -> usize {
        EVENT_BYTES + self.new.event.data.get().len() + self.attributes.as_ref().map_or(0, String::len)
    }

    /// Returns the bytes that one delivery of the event counts towards the backlog.
    pub(super) fn size(&self) -> i32 {
        i32::try_from(self.event_bytes()).unwrap_or(i32::MAX)
    }

    /// Returns its idempotency key and when it expires. A window of zero turns deduplication off.
    pub(super) fn key(&self, place: i64, now: Millis) -> Option<(StoredKey, i64)> {
        let dedup = self.new.dedup.as_ref().filter(|dedup| !dedup.window.is_zero())?;
        let half = dedup.key.first_chunk().copied()?;
        Some(((half, place), (now + dedup.window).0))
    }
}

/// The events of one request, accepted all or none.
pub(super) struct Request {
    pub(super) rows: Vec<EventRow>,
    pub(super) now: Millis,
}

/// The result of a group: that of each request, in their order. An inner error reports a full share, and nothing was stored.
pub(super) type Results = Vec<Result<Vec<AcceptedEvent>, StoreError>>;

/// Accepts the requests. Counts their backlog in the rows of `writer`.
pub(super) async fn accept(
    tx: &Session,
    requests: &[Request],
    limits: &ShareLimits,
    writer: i64,
) -> Result<(Results, Backlogs), DbError> {
    let latest = requests.iter().map(|request| request.now).max().unwrap_or_default();
    let mut backlog = BacklogChanges::default();
    let (known, due_groups) =
        try_join!(Known::load(tx, requests), gates::due_groups(tx, latest, PROMOTIONS))?;
    let claims = known.claims(requests)?;
    let (of_hooks, of_places) = known.row_ids();
    // Not `try_join`: a statement behind a failed one fails too, and only the first error shows a conflict or a refused value.
    let (owned, backlogs) =
        join!(keys::claim(tx, &claims, latest), limits.measure(tx, &of_hooks, &of_places));
    let (owned, backlogs) = (owned?, backlogs?);
    let mut groups = known.gate_groups(requests)?;
    groups.extend(due_groups);
    let mut plan = gates::lock(tx, &groups, latest).await?;
    let owners: Vec<EventSeq> = owned.values().copied().collect();
    let originals = originals::find(tx, &owners).await?;
    let promoted: Vec<i64> = groups.iter().map(|(hook, ..)| *hook).collect();
    let gate_hooks = hooks::find_rows(tx, &promoted).await?;

    let mut admission = Admission {
        known: &known,
        gate_hooks,
        owned,
        originals,
        backlogs,
        plan: &mut plan,
        outcome: Outcome::default(),
    };
    let results = requests.iter().map(|request| admission.admit(request)).collect::<Result<Vec<_>, _>>()?;
    let Admission { outcome, backlogs, .. } = admission;

    correct_keys(tx, &claims, &outcome, latest).await?;
    for (now, seqs) in &outcome.revived {
        transitions::make_pending(tx, seqs, false, *now, &mut backlog).await?;
    }
    gates::write(tx, &plan, &mut backlog).await?;
    insert(tx, requests, &known, &outcome, &plan, backlog, writer).await?;
    Ok((results, backlogs))
}

/// Gives keys of refused events back, or to the event of the group that has them instead.
async fn correct_keys(
    tx: &Session,
    claims: &BTreeMap<StoredKey, Claim>,
    outcome: &Outcome,
    now: Millis,
) -> Result<(), DbError> {
    let (mut released, mut corrected) = (Vec::new(), BTreeMap::new());
    for (key, claim) in claims {
        // The owner of a key that an earlier event has is no event of this group.
        let Some(owner) = outcome.keys.get(key) else {
            if !outcome.duplicate_keys.contains(key) {
                released.push(*key);
            }
            continue;
        };
        if owner.event != claim.event {
            released.push(*key);
            corrected.insert(*key, *owner);
        }
    }
    keys::release(tx, &released).await?;
    keys::claim(tx, &corrected, now).await.map(drop)
}

/// Inserts the stored events and their deliveries, each in the state that the whole group left it in, and writes the backlog.
async fn insert(
    tx: &Session,
    requests: &[Request],
    known: &Known,
    outcome: &Outcome,
    plan: &GatePlan,
    mut backlog: BacklogChanges,
    writer: i64,
) -> Result<(), DbError> {
    let mut events = Vec::with_capacity(outcome.stored.len());
    for request in requests {
        for row in request.rows.iter().filter(|row| outcome.stored.contains_key(&row.seq)) {
            let place = known.place(&row.new.event.namespace)?;
            events.push(NewEventRow {
                seq: row.seq,
                place,
                accepted: request.now,
                kept_until: row.key(place, request.now).map(|(_, expires)| expires),
                is_unmatched: row.new.deliveries.is_empty(),
                event: &row.new.event,
                attributes: row.attributes.as_deref(),
            });
        }
    }
    let mut deliveries = outcome.deliveries.clone();
    for row in &mut deliveries {
        if let Some((placed, _)) = plan.moved.get(&row.seq) {
            place(row, *placed);
        }
        if row.finished.is_none() {
            backlog.add(row.hook, row.size);
        }
    }
    let (inserted, delivered, counted) = join!(
        new_rows::insert_events(tx, &events),
        new_rows::insert_deliveries(tx, &deliveries),
        backlog.write(tx, writer),
    );
    inserted.and(delivered).and(counted)
}

fn place(row: &mut NewDeliveryRow, placed: Placed) {
    (row.is_candidate, row.finished) = (false, None);
    match placed {
        Placed::Pending { due, suppressed } => (row.due, row.suppressed) = (due, suppressed),
        Placed::Candidate { due } => (row.due, row.is_candidate) = (due, true),
        Placed::Dropped(reason) => row.finished = Some((DROPPED, reason.as_str())),
    }
}
