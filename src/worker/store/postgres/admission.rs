//! Decides what each event of a group becomes, in memory, in the order of the requests. Reads nothing and writes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures::try_join;

use super::super::{
    AcceptedDelivery, AcceptedEvent, DeliverySeq, EventSeq, Fate, HookId, NewDelivery, StoreError, ids,
    sequence,
};
use super::accept::{EventRow, Request};
use super::failure::DbError;
use super::gate_plan::{GateKey, GatePlan, Placed};
use super::hooks::{self, HookRow};
use super::keys::{Claim, StoredKey};
use super::new_rows::NewDeliveryRow;
use super::originals::{Original, OriginalDelivery};
use super::session::Session;
use super::shares::Backlogs;
use super::state::{DEAD, DROPPED};
use super::{gates, places};
use crate::core::delivery_reason::DeliveryReason;
use crate::core::fast_map::FastMap;
use crate::core::gate::{GateDecision, GateRequest};
use crate::core::time::Millis;

/// The rows that the requests refer to.
pub(super) struct Known {
    places: HashMap<String, i64>,
    hooks: FastMap<Arc<str>, HookRow>,
}

impl Known {
    /// Finds the namespaces and hooks of the requests, and inserts missing ones.
    pub(super) async fn load(tx: &Session, requests: &[Request]) -> Result<Self, DbError> {
        let events = || requests.iter().flat_map(|request| &request.rows);
        let deliveries = || events().flat_map(|row| &row.new.deliveries);
        let of_events = events().map(|row| row.new.event.namespace.as_str());
        let of_hooks = deliveries().map(|delivery| &*delivery.hook.namespace);
        let names: BTreeSet<&str> = of_events.chain(of_hooks).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let wanted: FastMap<Arc<str>, &HookId> =
            deliveries().map(|delivery| (delivery.hook.uid.clone(), &delivery.hook)).collect();
        let uids: Vec<&str> = wanted.keys().map(|uid| &**uid).collect();
        // Pipelined: in almost every group nothing is missing.
        let (places, found) =
            try_join!(places::find_or_insert_many(tx, &names), hooks::find_many(tx, &uids))?;
        let hooks = hooks::insert_missing(tx, &wanted, found, &places).await?;
        Ok(Known { places, hooks })
    }

    pub(super) fn place(&self, namespace: &str) -> Result<i64, DbError> {
        let place = self.places.get(namespace).copied();
        place.ok_or_else(|| DbError::Unreadable(format!("namespace {namespace} has no row")))
    }

    fn hook(&self, uid: &str) -> Result<&HookRow, DbError> {
        self.hooks.get(uid).ok_or_else(|| DbError::Unreadable(format!("hook {uid} has no row")))
    }

    /// Returns the row ids of the hooks and of the places.
    pub(super) fn row_ids(&self) -> (Vec<i64>, Vec<i64>) {
        (self.hooks.values().map(|hook| hook.row_id).collect(), self.places.values().copied().collect())
    }

    /// Returns the idempotency keys, each with the first event that has it.
    pub(super) fn claims(&self, requests: &[Request]) -> Result<BTreeMap<StoredKey, Claim>, DbError> {
        let mut claims = BTreeMap::new();
        for request in requests {
            for row in &request.rows {
                let key = row.key(self.place(&row.new.event.namespace)?, request.now);
                if let Some((key, expires)) = key {
                    claims.entry(key).or_insert(Claim { event: row.seq, expires });
                }
            }
        }
        Ok(claims)
    }

    /// Returns the groups of the gates that the deliveries ask.
    pub(super) fn gate_groups(&self, requests: &[Request]) -> Result<BTreeSet<GateKey>, DbError> {
        let mut groups = BTreeSet::new();
        let deliveries =
            requests.iter().flat_map(|request| &request.rows).flat_map(|row| &row.new.deliveries);
        for delivery in deliveries.filter(|delivery| delivery.dead.is_none()) {
            if delivery.gate_request != GateRequest::default() {
                groups.extend(gates::groups(self.hook(&delivery.hook.uid)?.row_id, &delivery.gate_request));
            }
        }
        Ok(groups)
    }
}

/// What the group stores.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) stored: BTreeMap<EventSeq, AcceptedEvent>,
    /// As they were when they were decided. `GatePlan::moved` has what later events changed.
    pub(super) deliveries: Vec<NewDeliveryRow>,
    /// The keys of the stored events.
    pub(super) keys: BTreeMap<StoredKey, Claim>,
    /// The keys that earlier events own.
    pub(super) duplicate_keys: BTreeSet<StoredKey>,
    /// Dead letters that duplicates make pending again, with the time.
    pub(super) revived: BTreeMap<Millis, Vec<DeliverySeq>>,
}

/// The state of a group while its requests are decided.
pub(super) struct Admission<'g> {
    pub(super) known: &'g Known,
    /// The hooks of the locked gates.
    pub(super) gate_hooks: FastMap<i64, HookRow>,
    pub(super) owned: BTreeMap<StoredKey, EventSeq>,
    pub(super) originals: FastMap<EventSeq, Original>,
    pub(super) backlogs: Backlogs,
    pub(super) plan: &'g mut GatePlan,
    pub(super) outcome: Outcome,
}

impl Admission<'_> {
    /// Decides about one request: all its events or none.
    pub(super) fn admit(
        &mut self,
        request: &Request,
    ) -> Result<Result<Vec<AcceptedEvent>, StoreError>, DbError> {
        // Promotes nothing, because no result could report the promoted hooks.
        if request.rows.is_empty() {
            return Ok(Ok(Vec::new()));
        }
        if let Some(full) = self.exceeds_share(request)? {
            return Ok(Err(full));
        }
        let mut promoted: Vec<HookId> = self
            .plan
            .promote_due(request.now)
            .iter()
            .filter_map(|hook| self.gate_hooks.get(hook).map(|hook| hook.id.clone()))
            .collect();
        promoted.sort();
        promoted.dedup();
        let mut accepted = Vec::with_capacity(request.rows.len());
        for row in &request.rows {
            accepted.push(self.admit_event(row, request.now)?);
        }
        if let Some(first) = accepted.first_mut() {
            first.hooks_to_notify.extend(promoted);
        }
        Ok(Ok(accepted))
    }

    /// Returns the share that the new events of a request exceed. Deliveries that a gate might drop count too.
    fn exceeds_share(&self, request: &Request) -> Result<Option<StoreError>, DbError> {
        let mut added: BTreeMap<i64, i64> = BTreeMap::new();
        for row in &request.rows {
            if self.is_duplicate(row, request.now)? {
                continue;
            }
            for delivery in row.new.deliveries.iter().filter(|delivery| delivery.dead.is_none()) {
                let hook = self.known.hook(&delivery.hook.uid)?;
                if row.new.event.origin.redelivers_rejected()
                    && self.backlogs.is_hook_full(hook.row_id, row.size())
                {
                    return Ok(Some(StoreError::HookFull));
                }
                *added.entry(hook.place).or_default() += i64::from(row.size());
            }
        }
        let is_full = added.into_iter().any(|(place, bytes)| self.backlogs.is_place_full(place, bytes));
        Ok(is_full.then_some(StoreError::NamespaceFull))
    }

    fn is_duplicate(&self, row: &EventRow, now: Millis) -> Result<bool, DbError> {
        let key = row.key(self.known.place(&row.new.event.namespace)?, now);
        Ok(key.is_some_and(|(key, _)| self.owned.contains_key(&key) || self.outcome.keys.contains_key(&key)))
    }

    fn admit_event(&mut self, row: &EventRow, now: Millis) -> Result<AcceptedEvent, DbError> {
        let place = self.known.place(&row.new.event.namespace)?;
        let key = row.key(place, now);
        if let Some((key, _)) = key {
            if let Some(event) = self.owned.get(&key).copied() {
                self.outcome.duplicate_keys.insert(key);
                return Ok(self.duplicate_of_stored(row, event, now));
            }
            if let Some(first) = self.outcome.keys.get(&key)
                && let Some(first) = self.outcome.stored.get(&first.event)
            {
                return Ok(self.duplicate_in_group(first.clone()));
            }
        }
        let mut deliveries = Vec::with_capacity(row.new.deliveries.len());
        for (index, delivery) in row.new.deliveries.iter().enumerate() {
            let seq = sequence::delivery_seq(row.seq, index);
            deliveries.push(self.admit_delivery(seq, row, delivery, now)?);
        }
        let accepted = AcceptedEvent {
            seq: row.seq,
            event_id: row.new.event.id.clone(),
            duplicate: false,
            deliveries,
            hooks_to_notify: Vec::new(),
        };
        if let Some((key, expires)) = key {
            self.outcome.keys.insert(key, Claim { event: row.seq, expires });
        }
        self.outcome.stored.insert(row.seq, accepted.clone());
        Ok(accepted)
    }

    /// Returns the result for a duplicate of an event of the same group.
    fn duplicate_in_group(&self, mut first: AcceptedEvent) -> AcceptedEvent {
        for delivery in &mut first.deliveries {
            delivery.fate = self.present_fate(delivery.seq, delivery.fate);
        }
        AcceptedEvent { duplicate: true, hooks_to_notify: Vec::new(), ..first }
    }

    /// Returns the result for a duplicate of a stored event. Revives dead letters whose receiver was unavailable.
    fn duplicate_of_stored(&mut self, row: &EventRow, event: EventSeq, now: Millis) -> AcceptedEvent {
        let original = self.originals.get(&event);
        // Retention may have removed the original before its key expires.
        let event_id = original.and_then(|original| original.event_id.clone());
        let found = original.map(|original| original.deliveries.clone()).unwrap_or_default();
        let (mut deliveries, mut hooks_to_notify) = (Vec::with_capacity(found.len()), Vec::new());
        for delivery in &found {
            let mut fate = self.present_fate(delivery.seq, delivery.fate);
            // Only of hooks that the duplicate matches. Other hooks are deleted or no longer match.
            let is_matched = row.new.deliveries.iter().any(|new| new.hook.uid == delivery.hook.id.uid);
            if delivery.is_revivable && is_matched && self.revive(delivery, now) {
                fate = Fate::Pending { due: now, suppressed: delivery.suppressed };
                hooks_to_notify.push(delivery.hook.id.clone());
            }
            deliveries.push(AcceptedDelivery { seq: delivery.seq, id: delivery.id, fate });
        }
        let event_id = event_id.unwrap_or_else(|| row.new.event.id.clone());
        AcceptedEvent { seq: event, event_id, duplicate: true, deliveries, hooks_to_notify }
    }

    /// Makes a dead letter pending again, if its hook's backlog has space. False for the second duplicate of the group.
    fn revive(&mut self, delivery: &OriginalDelivery, now: Millis) -> bool {
        let (hook, size) = (&delivery.hook, delivery.size);
        if self.backlogs.is_hook_full(hook.row_id, size)
            || self.backlogs.is_place_full(hook.place, size.into())
        {
            return false;
        }
        let OriginalDelivery { seq, suppressed, .. } = *delivery;
        // Later duplicates of the group find it pending.
        for original in self.originals.values_mut() {
            for other in original.deliveries.iter_mut().filter(|other| other.seq == seq) {
                (other.fate, other.is_revivable) = (Fate::Pending { due: now, suppressed }, false);
            }
        }
        self.backlogs.add(delivery.hook.row_id, delivery.hook.place, size);
        self.outcome.revived.entry(now).or_default().push(seq);
        true
    }

    /// Returns the fate of a delivery after what the group has changed so far.
    fn present_fate(&self, seq: DeliverySeq, fate: Fate) -> Fate {
        self.plan.moved.get(&seq).map_or(fate, |(placed, _)| fate_of(*placed))
    }

    /// Decides about a new delivery. Its hook's gates and share decide its initial state.
    fn admit_delivery(
        &mut self,
        seq: DeliverySeq,
        row: &EventRow,
        new: &NewDelivery,
        now: Millis,
    ) -> Result<AcceptedDelivery, DbError> {
        let hook = self.known.hook(&new.hook.uid)?;
        let (hook_row, place, size) = (hook.row_id, hook.place, row.size());
        let id = ids::webhook_id(seq, ids::random_bits(new.id));
        let mut delivery = NewDeliveryRow {
            seq,
            hook: hook_row,
            place,
            id,
            accepted: now,
            due: new.due,
            held_before: hook.total_held(now),
            size,
            suppressed: 0,
            is_candidate: false,
            finished: None,
        };
        let dead = match new.dead {
            Some(reason) => Some(reason),
            None => self.is_dead_of_backlog(hook_row, size, &new.gate_request, now),
        };
        let fate = if let Some(reason) = dead {
            delivery.finished = Some((DEAD, reason.as_str()));
            Fate::Dead
        } else if new.gate_request == GateRequest::default() {
            Fate::Pending { due: new.due, suppressed: 0 }
        } else {
            let decision = self.plan.evaluate(hook_row, &new.gate_request, now);
            let placed = self.plan.apply(hook_row, &new.gate_request, decision, (seq, new.due), now);
            match placed {
                Placed::Pending { suppressed, .. } => delivery.suppressed = suppressed,
                Placed::Candidate { due } => (delivery.due, delivery.is_candidate) = (due, true),
                Placed::Dropped(reason) => delivery.finished = Some((DROPPED, reason.as_str())),
            }
            fate_of(placed)
        };
        if delivery.finished.is_none() {
            self.backlogs.add(hook_row, place, size);
        }
        self.outcome.deliveries.push(delivery);
        Ok(AcceptedDelivery { seq, id, fate })
    }

    /// Returns the reason if the delivery would be pending and its hook's backlog is full. Such a dead letter sets no gate
    /// memory, because the next event must not be compared with one that was never sent.
    fn is_dead_of_backlog(
        &self,
        hook: i64,
        size: i32,
        request: &GateRequest,
        now: Millis,
    ) -> Option<DeliveryReason> {
        let is_full = self.backlogs.is_hook_full(hook, size);
        let stays_pending = || {
            let decision = self.plan.evaluate(hook, request, now);
            matches!(decision, GateDecision::Deliver | GateDecision::Snoozed { candidate: true, .. })
        };
        (is_full && stays_pending()).then_some(DeliveryReason::BacklogFull)
    }
}

fn fate_of(placed: Placed) -> Fate {
    match placed {
        Placed::Pending { due, suppressed } => {
            Fate::Pending { due, suppressed: u32::try_from(suppressed).unwrap_or(0) }
        }
        Placed::Candidate { due } => Fate::Candidate { due },
        Placed::Dropped(_) => Fate::Dropped,
    }
}
