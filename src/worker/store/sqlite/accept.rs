//! Accepting an event: its row, its deliveries (subject to gates and shares), its idempotency key.

use crate::core::delivery_reason::DeliveryReason;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::super::events::REVIVED;
use super::super::ids;
use super::super::{
    AcceptedDelivery, AcceptedEvent, Dedup, DeliverySeq, EventSeq, Fate, HookId, NewDelivery, NewEvent,
    StoreError,
};
use super::cache::WriterCache;
use super::event_ids;
use super::gates;
use super::rows::{EVENT_BYTES, attributes_column};
use super::runs::{Entry, stored_key};
use super::schema::{CANDIDATE, DEAD, DELIVERED, DROPPED, PENDING};
use super::sequence;
use super::transitions::make_pending;
use super::unmatched;
use super::unmaterialized::Unmaterialized;
use crate::core::gate::{GateDecision, GateRequest};
use crate::core::time::Millis;

/// An event prepared for its row, outside the writer's thread.
pub(super) struct EventRow {
    pub(super) new: NewEvent,
    origin: String,
    attributes: Option<String>,
    /// The hash of its id, for `event_ids`.
    id_hash: [u8; 32],
    /// True if all delivery ids differ. Otherwise the event is refused.
    has_distinct_ids: bool,
}

impl EventRow {
    pub(super) fn new(new: NewEvent) -> Result<Self, serde_json::Error> {
        let attributes = attributes_column(&new.event)?;
        let has_distinct_ids = match new.deliveries.as_slice() {
            [] | [_] => true,
            many => many.iter().map(|delivery| delivery.id).collect::<HashSet<_>>().len() == many.len(),
        };
        let (origin, id_hash) = (new.event.origin.to_string(), event_ids::id_hash(&new.event.id));
        Ok(EventRow { origin, new, attributes, id_hash, has_distinct_ids })
    }

    /// Returns its approximate size in memory and in the log.
    pub(super) fn bytes(&self) -> usize {
        self.event_bytes() + 128 * self.new.deliveries.len()
    }

    fn event_bytes(&self) -> usize {
        EVENT_BYTES + self.new.event.data.get().len() + self.attributes.as_ref().map_or(0, String::len)
    }

    /// Returns the bytes that one delivery of the event counts towards the backlog.
    fn size(&self) -> i64 {
        i64::try_from(self.event_bytes()).unwrap_or(i64::MAX)
    }
}

/// Accepts the events, all or none. First promotes up to `promotions` trailing candidates.
///
/// The inner error reports a full share; nothing was changed.
pub(super) fn accept(
    conn: &Connection,
    cache: &mut WriterCache,
    rows: &[EventRow],
    now: Millis,
    promotions: usize,
) -> rusqlite::Result<Result<Vec<AcceptedEvent>, StoreError>> {
    // Promote nothing, because no result could report the promoted hooks.
    if rows.is_empty() {
        return Ok(Ok(Vec::new()));
    }
    // Check the shares before any write, so that a full share changes nothing and does not roll back the group.
    if exceeds_namespace_share(conn, cache, rows, now)? {
        return Ok(Err(StoreError::NamespaceFull));
    }
    if exceeds_hook_share(conn, cache, rows, now)? {
        return Ok(Err(StoreError::HookFull));
    }
    let promoted = gates::promote(conn, cache, now, promotions)?;
    let mut accepted =
        rows.iter().map(|row| accept_one(conn, cache, row, now)).collect::<rusqlite::Result<Vec<_>>>()?;
    if let Some(first) = accepted.first_mut() {
        first.hooks_to_notify.extend(promoted);
    }
    Ok(Ok(accepted))
}

/// True if the events do not fit into a namespace's share. Deliveries that a gate might drop count too.
fn exceeds_namespace_share(
    conn: &Connection,
    cache: &mut WriterCache,
    rows: &[EventRow],
    now: Millis,
) -> rusqlite::Result<bool> {
    if cache.shares.namespace_bytes == u64::MAX {
        return Ok(false);
    }
    // The usual case, one event for one hook, needs no map.
    if let [row] = rows
        && let [delivery] = row.new.deliveries.as_slice()
        && (delivery.dead.is_some()
            || !cache.is_namespace_full(conn, &delivery.hook.namespace, row.size())?)
    {
        return Ok(false);
    }
    if !exceeds_any_share(conn, cache, rows.iter())? {
        return Ok(false);
    }
    let mut new_rows = Vec::new();
    for row in rows {
        if !is_duplicate(conn, cache, row, now)? {
            new_rows.push(row);
        }
    }
    exceeds_any_share(conn, cache, new_rows.into_iter())
}

/// True if an event whose sender retries does not fit into a hook's share. Deliveries that a gate might drop count too.
fn exceeds_hook_share(
    conn: &Connection,
    cache: &mut WriterCache,
    rows: &[EventRow],
    now: Millis,
) -> rusqlite::Result<bool> {
    for row in rows.iter().filter(|row| row.new.event.origin.redelivers_rejected()) {
        for delivery in row.new.deliveries.iter().filter(|delivery| delivery.dead.is_none()) {
            // A hook without a row has no backlog.
            let Some(hook) = cache.find_hook(conn, &delivery.hook.uid)? else { continue };
            if cache.is_hook_full(conn, hook, row.size())? && !is_duplicate(conn, cache, row, now)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// True for a duplicate, which needs no space: its sender gets the result of the original event.
fn is_duplicate(
    conn: &Connection,
    cache: &mut WriterCache,
    row: &EventRow,
    now: Millis,
) -> rusqlite::Result<bool> {
    let Some(dedup) = &row.new.dedup else { return Ok(false) };
    find_original(conn, cache, row, dedup, now).map(|original| original.is_some())
}

/// True if the events do not fit into the share of any of their namespaces.
fn exceeds_any_share<'r>(
    conn: &Connection,
    cache: &mut WriterCache,
    rows: impl Iterator<Item = &'r EventRow>,
) -> rusqlite::Result<bool> {
    let mut added: HashMap<&Arc<str>, i64> = HashMap::new();
    for row in rows {
        for delivery in row.new.deliveries.iter().filter(|d| d.dead.is_none()) {
            let bytes = added.entry(&delivery.hook.namespace).or_default();
            *bytes = bytes.saturating_add(row.size());
        }
    }
    for (namespace, bytes) in added {
        if cache.is_namespace_full(conn, namespace, bytes)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Stores one event, or returns the result of the original if it is a duplicate.
fn accept_one(
    conn: &Connection,
    cache: &mut WriterCache,
    row: &EventRow,
    now: Millis,
) -> rusqlite::Result<AcceptedEvent> {
    if let Some(dedup) = &row.new.dedup
        && let Some(original) = find_original(conn, cache, row, dedup, now)?
    {
        return accept_duplicate(conn, cache, row, original, now);
    }
    let expires = row.new.dedup.as_ref().map(|dedup| now + dedup.window);
    let place = cache.namespace_keys.hash(conn, &row.new.event.namespace)?;
    // A window of zero turns deduplication off.
    let dedup = row.new.dedup.as_ref().filter(|dedup| !dedup.window.is_zero());
    let key = dedup.map(|dedup| stored_key(&dedup.key, &place));
    let (event, seq) = (&row.new.event, cache.unmaterialized(conn)?.next_event());
    let (mut handed, mut deliveries) = (Vec::new(), Vec::with_capacity(row.new.deliveries.len()));
    for (index, delivery) in row.new.deliveries.iter().enumerate() {
        deliveries.push(store_delivery(
            conn,
            cache,
            sequence::delivery_seq(seq, index),
            row,
            delivery,
            &mut handed,
            now,
        )?);
    }
    if !row.has_distinct_ids {
        let why = "two deliveries of an event have the same id";
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE);
        return Err(rusqlite::Error::SqliteFailure(code, Some(why.into())));
    }
    conn.prepare_cached(
        "INSERT INTO events (seq, accepted, kept_until, id, namespace, origin, source, event, time, handed, attributes, data,
                             dedup_key)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?
    .execute(params![
        seq,
        now.0,
        expires.unwrap_or_default().0,
        event.id,
        cache.namespace_keys.get(conn, &event.namespace)?,
        row.origin,
        event.source,
        event.event,
        event.time,
        (!handed.is_empty()).then_some(handed),
        row.attributes,
        event.data.get(),
        key,
    ])?;
    if let (Some(dedup), Some(expires), Some(key)) = (&row.new.dedup, expires, key) {
        cache.keys.insert(Entry::new(key, seq, expires.0), dedup.window);
    }
    cache.ids.insert(stored_key(&row.id_hash, &place), seq, now.0, expires.unwrap_or_default().0);
    if deliveries.is_empty() {
        // Retention finds other events through their deliveries, and this one has none.
        conn.prepare_cached("INSERT INTO loose (accepted, event, kept_until) VALUES (?1, ?2, ?3)")?
            .execute(params![now.0, seq, expires.unwrap_or_default().0])?;
        let namespace_key = cache.namespace_keys.get(conn, &event.namespace)?;
        unmatched::insert(conn, seq, &namespace_key, event.data.get().len(), now)?;
    }
    Ok(AcceptedEvent {
        seq,
        event_id: event.id.clone(),
        duplicate: false,
        deliveries,
        hooks_to_notify: Vec::new(),
    })
}

/// The initial state of a delivery.
struct InitialState {
    state: i64,
    due: Millis,
    reason: Option<DeliveryReason>,
    suppressed: u32,
}

/// Stores a delivery. Its hook's gates and share decide its initial state.
///
/// Appends a delivery that is due at once and has no gates to `notes` instead of inserting a row (see `materialize`).
fn store_delivery(
    conn: &Connection,
    cache: &mut WriterCache,
    seq: DeliverySeq,
    row: &EventRow,
    new: &NewDelivery,
    notes: &mut Vec<u8>,
    now: Millis,
) -> rusqlite::Result<AcceptedDelivery> {
    let (hook, size) = (cache.find_or_insert_hook(conn, &new.hook)?, row.size());
    let initial = |state, due, reason| InitialState { state, due, reason, suppressed: 0 };
    let dead = |reason| initial(DEAD, new.due, Some(reason));
    let dropped = |reason| initial(DROPPED, new.due, Some(reason));
    if let Some(reason) = new.dead {
        return insert(conn, cache, seq, hook, size, new, &dead(reason), now);
    }
    if new.gate_request == GateRequest::default() {
        if cache.is_hook_full(conn, hook, size)? {
            return insert(conn, cache, seq, hook, size, new, &dead(DeliveryReason::BacklogFull), now);
        }
        if new.due > now {
            return insert(conn, cache, seq, hook, size, new, &initial(PENDING, new.due, None), now);
        }
        let (held_before, id) = (cache.hook(conn, hook)?.total_held(now), webhook_id(seq, new));
        let unmaterialized = Unmaterialized { hook, id: *id.as_bytes(), due: new.due.0, held_before, size };
        unmaterialized.append_note(seq, notes);
        cache.insert_unmaterialized(conn, seq, unmaterialized)?;
        return Ok(AcceptedDelivery { seq, id, fate: Fate::Pending { due: new.due, suppressed: 0 } });
    }
    let evaluation = gates::evaluate(conn, hook, &new.gate_request, now)?;
    match evaluation.decision {
        GateDecision::Unchanged => {
            gates::record_unchanged(conn, cache, hook, &new.gate_request, now)?;
            insert(conn, cache, seq, hook, size, new, &dropped(DeliveryReason::Unchanged), now)
        }
        GateDecision::Snoozed { candidate: false, .. } => {
            gates::record_snoozed(conn, hook, &new.gate_request, now)?;
            insert(conn, cache, seq, hook, size, new, &dropped(DeliveryReason::Snoozed), now)
        }
        // A dead letter sets no gate memory, because the next event must not be compared with an event that was never
        // sent.
        _ if cache.is_hook_full(conn, hook, size)? => {
            insert(conn, cache, seq, hook, size, new, &dead(DeliveryReason::BacklogFull), now)
        }
        GateDecision::Snoozed { candidate: true, until } => {
            let initial = initial(CANDIDATE, until, None);
            let stored = insert(conn, cache, seq, hook, size, new, &initial, now)?;
            gates::nominate(conn, cache, hook, &new.gate_request, stored.seq, until, now)?;
            Ok(stored)
        }
        GateDecision::Deliver => {
            let suppressed =
                gates::supersede_candidate(conn, cache, hook, &new.gate_request, &evaluation, now)?;
            let initial = InitialState { suppressed, ..initial(PENDING, new.due, None) };
            let stored = insert(conn, cache, seq, hook, size, new, &initial, now)?;
            gates::record_passed(conn, cache, hook, &new.gate_request, &evaluation, stored.seq, now)?;
            Ok(stored)
        }
    }
}

/// Inserts the row of a delivery and counts it.
#[expect(clippy::too_many_arguments, reason = "a row's columns")]
fn insert(
    conn: &Connection,
    cache: &mut WriterCache,
    seq: DeliverySeq,
    hook: i64,
    size: i64,
    new: &NewDelivery,
    initial: &InitialState,
    now: Millis,
) -> rusqlite::Result<AcceptedDelivery> {
    let (is_pending, fate) = match initial.state {
        PENDING => (true, Fate::Pending { due: initial.due, suppressed: initial.suppressed }),
        CANDIDATE => (true, Fate::Candidate { due: initial.due }),
        DROPPED => (false, Fate::Dropped),
        _ => (false, Fate::Dead),
    };
    let (cached, id) = (cache.hook(conn, hook)?, webhook_id(seq, new));
    let (held_before, namespace) = (cached.total_held(now), cached.namespace);
    conn.prepare_cached(
        "INSERT INTO deliveries (seq, hook, id, state, attempts, due, finished_at, reason, size, suppressed, held_before,
                                 namespace)
         VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        seq,
        hook,
        id.as_bytes(),
        initial.state,
        initial.due.0,
        (!is_pending).then_some(now.0),
        initial.reason.map(DeliveryReason::as_str),
        if is_pending { size } else { -size },
        initial.suppressed,
        held_before,
        namespace,
    ])?;
    cache.count(conn, hook, if is_pending { size } else { 0 })?;
    Ok(AcceptedDelivery { seq, id, fate })
}

/// Returns the `webhook-id` of a new delivery: its sequence number, and random bits of the id that the caller generated.
fn webhook_id(seq: DeliverySeq, new: &NewDelivery) -> Uuid {
    ids::webhook_id(seq, ids::random_bits(new.id))
}

/// Finds the event that was accepted with this key within its window.
fn find_original(
    conn: &Connection,
    cache: &mut WriterCache,
    row: &EventRow,
    dedup: &Dedup,
    now: Millis,
) -> rusqlite::Result<Option<EventSeq>> {
    let namespace = &row.new.event.namespace;
    let key = stored_key(&dedup.key, &cache.namespace_keys.hash(conn, namespace)?);
    if let Some(found) = cache.keys.find(conn, &key, now)? {
        return Ok(Some(found));
    }
    if !cache.keys.has_old_keys(conn)? {
        return Ok(None);
    }
    // Accepted by a program of format 6 or earlier.
    conn.prepare_cached(
        "SELECT e.seq FROM dedup d CROSS JOIN events e ON e.seq = d.event
         WHERE d.key = ?1 AND d.expires > ?2 AND e.namespace = ?3",
    )?
    .query_row(params![dedup.key, now.0, cache.namespace_keys.get(conn, namespace)?], |row| row.get(0))
    .optional()
}

/// Returns the result for a duplicate, and revives dead letters whose receiver was unavailable.
fn accept_duplicate(
    conn: &Connection,
    cache: &mut WriterCache,
    row: &EventRow,
    event: EventSeq,
    now: Millis,
) -> rusqlite::Result<AcceptedEvent> {
    type Found = (DeliverySeq, i64, i64, u32, Option<String>, i64, i64, [u8; 16]);
    let id: Option<String> = conn
        .prepare_cached("SELECT id FROM events WHERE seq = ?1")?
        .query_row([event], |row| row.get(0))
        .optional()?;
    // The row of the original may be removed before its key expires.
    let event_id = id.unwrap_or_else(|| row.new.event.id.clone());
    let mut found = conn
        .prepare_cached(
            "SELECT seq, state, due, suppressed, reason, hook, size, id FROM deliveries WHERE seq BETWEEN ?1 AND ?2
             ORDER BY seq",
        )?
        .query_map([sequence::first_delivery(event), sequence::last_delivery(event)], |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get(4)?,
                row.get(5)?,
                row.get(6)?,
                row.get(7)?,
            ))
        })?
        .collect::<rusqlite::Result<Vec<Found>>>()?;
    found.extend(cache.outcomes.of_event(conn, event)?.iter().map(|outcome| {
        let id = outcome.id().into_bytes();
        (outcome.seq, DELIVERED, outcome.first_at, 0, None, outcome.hook, outcome.size, id)
    }));
    found.extend(
        cache
            .unmaterialized(conn)?
            .of_event(event)
            .map(|(seq, noted)| (seq, PENDING, noted.due, 0, None, noted.hook, noted.size, noted.id)),
    );
    found.sort_unstable_by_key(|delivery| delivery.0);
    let mut deliveries = Vec::with_capacity(found.len());
    let mut hooks_to_notify: Vec<HookId> = Vec::new();
    for (seq, state, due, suppressed, reason, hook, size, id) in found {
        let due = Millis(due);
        let fate = match state {
            PENDING => Fate::Pending { due, suppressed },
            CANDIDATE => Fate::Candidate { due },
            DROPPED => Fate::Dropped,
            DEAD if reason.and_then(|r| r.parse().ok()).is_some_and(|r| REVIVED.contains(&r)) => {
                let hook_id = cache.hook(conn, hook)?.id.clone();
                // Revive only deliveries of hooks that the duplicate matches. Other hooks are deleted or no longer
                // match.
                let is_matched = row.new.deliveries.iter().any(|delivery| delivery.hook.uid == hook_id.uid);
                if is_matched && !is_backlog_full(conn, cache, hook, size)? {
                    make_pending(conn, cache, seq, false, now)?;
                    hooks_to_notify.push(hook_id);
                    Fate::Pending { due: now, suppressed }
                } else {
                    Fate::Dead
                }
            }
            DEAD => Fate::Dead,
            _ => Fate::Ended,
        };
        deliveries.push(AcceptedDelivery { seq, id: Uuid::from_bytes(id), fate });
    }
    Ok(AcceptedEvent { seq: event, event_id, duplicate: true, deliveries, hooks_to_notify })
}

/// True if the backlog of the hook or of its namespace is full.
fn is_backlog_full(
    conn: &Connection,
    cache: &mut WriterCache,
    hook: i64,
    size: i64,
) -> rusqlite::Result<bool> {
    let namespace = cache.hook(conn, hook)?.id.namespace.clone();
    Ok(cache.is_hook_full(conn, hook, size.abs())?
        || cache.is_namespace_full(conn, &namespace, size.abs())?)
}
