//! Locks the rows of gates for a plan, and writes what the plan changed.
//!
//! A gate's row is locked before the candidate of its group is read or changed, so two workers never decide about one group at
//! the same time. Rows are locked in the order of their keys.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::super::DeliverySeq;
use super::backlog::BacklogChanges;
use super::failure::DbError;
use super::gate_plan::{CHANGE, Candidate, GateKey, GateMemory, GatePlan, Placed, SNOOZE};
use super::session::Session;
use super::state::DROPPED;
use crate::core::gate::{ChangeCheck, GateHash, GateRequest};
use crate::core::time::Millis;

/// Returns the groups of a request.
pub(super) fn groups(hook: i64, request: &GateRequest) -> impl Iterator<Item = GateKey> {
    let change = request.change.map(|check| (hook, CHANGE, check.key));
    let snooze = request.snooze.map(|check| (hook, SNOOZE, check.key));
    change.into_iter().chain(snooze)
}

/// Returns the groups of up to `rows` candidates whose period ended by `now`, without locking anything.
pub(super) async fn due_groups(
    session: &Session,
    now: Millis,
    rows: i64,
) -> Result<BTreeSet<GateKey>, DbError> {
    let due = session
        .query(
            "SELECT hook, key, change_key FROM hookstream.candidates WHERE due <= $1 ORDER BY due, delivery LIMIT $2",
            &[(&now.0, Type::INT8), (&rows, Type::INT8)],
        )
        .await?;
    let mut groups = BTreeSet::new();
    for row in &due {
        add_groups(row, &mut groups)?;
    }
    Ok(groups)
}

/// Returns the groups whose memory these deliveries set, or whose candidate they are, without locking anything.
pub(super) async fn groups_of(
    session: &Session,
    deliveries: &[DeliverySeq],
) -> Result<BTreeSet<GateKey>, DbError> {
    let mut groups = BTreeSet::new();
    let owned = session
        .query(
            "SELECT hook, kind, key FROM hookstream.gates WHERE owner = ANY($1)",
            &[(&deliveries, Type::INT8_ARRAY)],
        )
        .await?;
    for row in &owned {
        groups.insert((row.try_get(0)?, row.try_get(1)?, hash(row, 2)?));
    }
    // The candidate behind such a memory sets its change memory too when it is promoted.
    let behind = session
        .query(
            "SELECT c.hook, c.key, c.change_key FROM hookstream.candidates c
             WHERE c.delivery = ANY($1)
                OR (c.hook, c.key) IN (SELECT hook, key FROM hookstream.gates WHERE owner = ANY($1) AND kind = 1)",
            &[(&deliveries, Type::INT8_ARRAY)],
        )
        .await?;
    for row in &behind {
        add_groups(row, &mut groups)?;
    }
    Ok(groups)
}

/// Adds the groups of a candidate (hook, key, change_key).
fn add_groups(row: &Row, groups: &mut BTreeSet<GateKey>) -> Result<(), DbError> {
    let hook = row.try_get(0)?;
    groups.insert((hook, SNOOZE, hash(row, 1)?));
    if row.try_get::<_, Option<&[u8]>>(2)?.is_some() {
        groups.insert((hook, CHANGE, hash(row, 2)?));
    }
    Ok(())
}

/// Locks the rows of these groups, missing ones included, and reads them with their candidates.
pub(super) async fn lock(
    session: &Session,
    groups: &BTreeSet<GateKey>,
    now: Millis,
) -> Result<GatePlan, DbError> {
    let mut plan = GatePlan::default();
    if groups.is_empty() {
        return Ok(plan);
    }
    let hooks: Vec<i64> = groups.iter().map(|(hook, ..)| *hook).collect();
    let kinds: Vec<i16> = groups.iter().map(|(_, kind, _)| *kind).collect();
    let keys: Vec<&[u8]> = groups.iter().map(|(.., key)| &key[..]).collect();
    session
        .execute(
            "INSERT INTO hookstream.gates (hook, kind, key, used)
             SELECT g.hook, g.kind, g.key, $4 FROM unnest($1::bigint[], $2::smallint[], $3::bytea[]) AS g (hook, kind, key)
             ON CONFLICT (hook, kind, key) DO NOTHING",
            &[
                (&hooks, Type::INT8_ARRAY),
                (&kinds, Type::INT2_ARRAY),
                (&keys, Type::BYTEA_ARRAY),
                (&now.0, Type::INT8),
            ],
        )
        .await?;
    let rows = session
        .query(
            "SELECT g.hook, g.kind, g.key, g.value, g.quiet_until, g.owner, g.suppressed, g.used
             FROM hookstream.gates g
             JOIN unnest($1::bigint[], $2::smallint[], $3::bytea[]) AS w (hook, kind, key)
               ON (g.hook, g.kind, g.key) = (w.hook, w.kind, w.key)
             ORDER BY g.hook, g.kind, g.key FOR UPDATE OF g",
            &[(&hooks, Type::INT8_ARRAY), (&kinds, Type::INT2_ARRAY), (&keys, Type::BYTEA_ARRAY)],
        )
        .await?;
    for row in &rows {
        let memory = GateMemory {
            value: optional_hash(row, 3)?,
            quiet_until: row.try_get(4)?,
            owner: row.try_get(5)?,
            suppressed: row.try_get(6)?,
            used: row.try_get(7)?,
        };
        plan.insert_memory((row.try_get(0)?, row.try_get(1)?, hash(row, 2)?), memory);
    }
    let rows = session
        .query(
            "SELECT c.hook, c.key, c.delivery, c.due, c.period, c.change_key, c.change_value
             FROM hookstream.candidates c
             JOIN unnest($1::bigint[], $2::smallint[], $3::bytea[]) AS w (hook, kind, key)
               ON w.kind = 1 AND (c.hook, c.key) = (w.hook, w.key)",
            &[(&hooks, Type::INT8_ARRAY), (&kinds, Type::INT2_ARRAY), (&keys, Type::BYTEA_ARRAY)],
        )
        .await?;
    for row in &rows {
        let change = match (optional_hash(row, 5)?, optional_hash(row, 6)?) {
            (Some(key), Some(value)) => Some(ChangeCheck { key, value }),
            _ => None,
        };
        let candidate = Candidate {
            delivery: row.try_get(2)?,
            due: Millis(row.try_get(3)?),
            period: Duration::from_millis(u64::try_from(row.try_get::<_, i64>(4)?).unwrap_or(0)),
            change,
        };
        plan.insert_candidate(row.try_get(0)?, hash(row, 1)?, candidate);
    }
    Ok(plan)
}

/// Writes what the plan changed: memories, candidates, and deliveries that are stored already.
pub(super) async fn write(
    session: &Session,
    plan: &GatePlan,
    backlog: &mut BacklogChanges,
) -> Result<(), DbError> {
    write_memories(session, plan).await?;
    write_candidates(session, plan).await?;
    write_moved(session, plan, backlog).await
}

async fn write_memories(session: &Session, plan: &GatePlan) -> Result<(), DbError> {
    let changed: Vec<_> = plan.changed_memories().collect();
    if changed.is_empty() {
        return Ok(());
    }
    let hooks: Vec<i64> = changed.iter().map(|(key, _)| key.0).collect();
    let kinds: Vec<i16> = changed.iter().map(|(key, _)| key.1).collect();
    let keys: Vec<&[u8]> = changed.iter().map(|(key, _)| &key.2[..]).collect();
    let values: Vec<Option<&[u8]>> =
        changed.iter().map(|(_, memory)| memory.value.as_ref().map(|value| &value[..])).collect();
    let untils: Vec<Option<i64>> = changed.iter().map(|(_, memory)| memory.quiet_until).collect();
    let owners: Vec<Option<i64>> = changed.iter().map(|(_, memory)| memory.owner).collect();
    let suppressed: Vec<i32> = changed.iter().map(|(_, memory)| memory.suppressed).collect();
    let used: Vec<i64> = changed.iter().map(|(_, memory)| memory.used).collect();
    session
        .execute(
            "UPDATE hookstream.gates g
             SET value = c.value, quiet_until = c.quiet_until, owner = c.owner, suppressed = c.suppressed, used = c.used
             FROM unnest($1::bigint[], $2::smallint[], $3::bytea[], $4::bytea[], $5::bigint[], $6::bigint[], $7::int[],
                         $8::bigint[]) AS c (hook, kind, key, value, quiet_until, owner, suppressed, used)
             WHERE (g.hook, g.kind, g.key) = (c.hook, c.kind, c.key)",
            &[
                (&hooks, Type::INT8_ARRAY),
                (&kinds, Type::INT2_ARRAY),
                (&keys, Type::BYTEA_ARRAY),
                (&values, Type::BYTEA_ARRAY),
                (&untils, Type::INT8_ARRAY),
                (&owners, Type::INT8_ARRAY),
                (&suppressed, Type::INT4_ARRAY),
                (&used, Type::INT8_ARRAY),
            ],
        )
        .await
        .map(drop)
}

async fn write_candidates(session: &Session, plan: &GatePlan) -> Result<(), DbError> {
    let changed: Vec<_> = plan.changed_candidates().collect();
    if changed.is_empty() {
        return Ok(());
    }
    let hooks: Vec<i64> = changed.iter().map(|((hook, _), _)| *hook).collect();
    let keys: Vec<&[u8]> = changed.iter().map(|((_, key), _)| &key[..]).collect();
    session
        .execute(
            "DELETE FROM hookstream.candidates c USING unnest($1::bigint[], $2::bytea[]) AS g (hook, key)
             WHERE (c.hook, c.key) = (g.hook, g.key)",
            &[(&hooks, Type::INT8_ARRAY), (&keys, Type::BYTEA_ARRAY)],
        )
        .await?;
    let new: Vec<_> =
        changed.iter().filter_map(|((hook, key), candidate)| candidate.map(|c| (*hook, key, c))).collect();
    if new.is_empty() {
        return Ok(());
    }
    let hooks: Vec<i64> = new.iter().map(|(hook, ..)| *hook).collect();
    let keys: Vec<&[u8]> = new.iter().map(|(_, key, _)| &key[..]).collect();
    let deliveries: Vec<i64> = new.iter().map(|(.., candidate)| candidate.delivery).collect();
    let due: Vec<i64> = new.iter().map(|(.., candidate)| candidate.due.0).collect();
    let periods: Vec<i64> = new
        .iter()
        .map(|(.., candidate)| i64::try_from(candidate.period.as_millis()).unwrap_or(i64::MAX))
        .collect();
    let change = |read: fn(&ChangeCheck) -> &GateHash| -> Vec<Option<&[u8]>> {
        new.iter().map(|(.., candidate)| candidate.change.as_ref().map(|check| &read(check)[..])).collect()
    };
    let (change_keys, change_values) = (change(|check| &check.key), change(|check| &check.value));
    session
        .execute(
            "INSERT INTO hookstream.candidates (hook, key, delivery, due, period, change_key, change_value)
             SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bytea[],
                                  $7::bytea[])",
            &[
                (&hooks, Type::INT8_ARRAY),
                (&keys, Type::BYTEA_ARRAY),
                (&deliveries, Type::INT8_ARRAY),
                (&due, Type::INT8_ARRAY),
                (&periods, Type::INT8_ARRAY),
                (&change_keys, Type::BYTEA_ARRAY),
                (&change_values, Type::BYTEA_ARRAY),
            ],
        )
        .await
        .map(drop)
}

/// Promotes and drops candidates that are stored. Deliveries that this transaction inserts are not among the rows yet.
async fn write_moved(
    session: &Session,
    plan: &GatePlan,
    backlog: &mut BacklogChanges,
) -> Result<(), DbError> {
    let (mut promoted, mut due, mut suppressed) = (Vec::new(), Vec::new(), Vec::new());
    let (mut dropped, mut at, mut reasons) = (Vec::new(), Vec::new(), Vec::new());
    for (seq, (placed, now)) in &plan.moved {
        match placed {
            Placed::Pending { due: time, suppressed: count } => {
                promoted.push(*seq);
                due.push(time.0);
                suppressed.push(*count);
            }
            Placed::Dropped(reason) => {
                dropped.push(*seq);
                at.push(now.0);
                reasons.push(reason.as_str());
            }
            Placed::Candidate { .. } => {}
        }
    }
    if !promoted.is_empty() {
        session
            .execute(
                "UPDATE hookstream.pending p SET is_candidate = false, due = m.due, suppressed = m.suppressed
                 FROM unnest($1::bigint[], $2::bigint[], $3::int[]) AS m (seq, due, suppressed)
                 WHERE p.seq = m.seq AND p.is_candidate",
                &[(&promoted, Type::INT8_ARRAY), (&due, Type::INT8_ARRAY), (&suppressed, Type::INT4_ARRAY)],
            )
            .await?;
    }
    if dropped.is_empty() {
        return Ok(());
    }
    let rows = session
        .query(
            "WITH gone AS (
                 DELETE FROM hookstream.pending p
                 USING unnest($1::bigint[], $2::bigint[], $3::text[]) AS m (seq, at, why)
                 WHERE p.seq = m.seq AND p.is_candidate RETURNING p.*, m.at, m.why)
             INSERT INTO hookstream.finished (seq, hook, place, id, state, finished_at, accepted, attempts,
                 attempts_before, suppressed, replays, size, reason, progress)
             SELECT seq, hook, place, id, $4, at, accepted, attempts, attempts_before, suppressed, replays, size, why,
                 progress FROM gone
             RETURNING hook, size",
            &[
                (&dropped, Type::INT8_ARRAY),
                (&at, Type::INT8_ARRAY),
                (&reasons, Type::TEXT_ARRAY),
                (&DROPPED, Type::INT2),
            ],
        )
        .await?;
    for row in &rows {
        backlog.remove(row.try_get(0)?, row.try_get(1)?);
    }
    Ok(())
}

fn hash(row: &Row, at: usize) -> Result<GateHash, DbError> {
    let bytes: &[u8] = row.try_get(at)?;
    bytes.try_into().map_err(|_| DbError::Unreadable("a gate's key has not 16 bytes".into()))
}

fn optional_hash(row: &Row, at: usize) -> Result<Option<GateHash>, DbError> {
    match row.try_get::<_, Option<&[u8]>>(at)? {
        None => Ok(None),
        Some(_) => hash(row, at).map(Some),
    }
}
