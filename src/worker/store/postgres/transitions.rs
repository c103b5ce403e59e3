//! Changes of deliveries by users and by the dispatcher: pending again, cancelled, transferred, rescheduled.

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::super::{DeliverySeq, HookId, ids};
use super::backlog::BacklogChanges;
use super::failure::DbError;
use super::hooks;
use super::session::Session;
use super::state::CANCELLED;
use super::{gates, old_ids, places};
use crate::core::delivery_reason::DeliveryReason;
use crate::core::time::Millis;

/// Deliveries that one call changes at most, for which others wait.
pub(super) const BATCH: i64 = 1000;

/// Makes finished deliveries pending again, and resets their attempts and their age. Returns the hook of each that was
/// finished.
pub(super) async fn make_pending(
    tx: &Session,
    seqs: &[DeliverySeq],
    replayed: bool,
    now: Millis,
    backlog: &mut BacklogChanges,
) -> Result<Vec<HookId>, DbError> {
    if seqs.is_empty() {
        return Ok(Vec::new());
    }
    let rows = tx
        .query(
            "WITH gone AS (DELETE FROM hookstream.finished f WHERE f.seq = ANY($1) RETURNING f.*)
             INSERT INTO hookstream.pending (seq, hook, place, id, due, began, accepted, attempts, attempts_before,
                 held_before, suppressed, replays, size, progress, first_at, first_micros, first_status)
             SELECT g.seq, g.hook, g.place, g.id, $2, $2, g.accepted, g.attempts, g.attempts,
                 h.held + coalesce(greatest($2 - h.held_since, 0), 0), g.suppressed, g.replays + $3, g.size, g.progress,
                 g.first_at, g.first_micros, g.first_status
             FROM gone g JOIN hookstream.hooks h ON h.id = g.hook
             RETURNING seq, hook, size",
            &[(&seqs, Type::INT8_ARRAY), (&now.0, Type::INT8), (&i32::from(replayed), Type::INT4)],
        )
        .await?;
    let mut hooks = Vec::with_capacity(rows.len());
    for row in &rows {
        let (hook, size) = (row.try_get(1)?, row.try_get(2)?);
        backlog.add(hook, size);
        hooks.push(hook);
    }
    // A later death must not clear the memory that the earlier delivery set.
    tx.execute(
        "UPDATE hookstream.gates SET owner = NULL WHERE owner = ANY($1)",
        &[(&seqs, Type::INT8_ARRAY)],
    )
    .await?;
    let of_rows = hooks::find_rows(tx, &hooks).await?;
    Ok(hooks.iter().filter_map(|hook| of_rows.get(hook).map(|hook| hook.id.clone())).collect())
}

/// A delivery that a user names.
pub(super) struct Named {
    pub(super) seq: DeliverySeq,
    pub(super) hook: HookId,
    pub(super) is_pending: bool,
}

/// Finds deliveries of a namespace by their ids.
pub(super) async fn find(session: &Session, namespace: &str, wanted: &[Uuid]) -> Result<Vec<Named>, DbError> {
    let mut seqs: Vec<DeliverySeq> = wanted.iter().filter_map(|id| ids::numbered(*id)).collect();
    if seqs.len() < wanted.len() {
        let old: Vec<Uuid> = wanted.iter().copied().filter(|id| ids::numbered(*id).is_none()).collect();
        seqs.extend(old_ids::find(session, &old).await?);
    }
    let Some(place) = places::find(session, namespace).await? else { return Ok(Vec::new()) };
    let sql = format!(
        "SELECT d.seq, d.id, d.is_pending, {} FROM (
             SELECT seq, id, hook, place, true AS is_pending FROM hookstream.pending WHERE seq = ANY($1)
             UNION ALL
             SELECT seq, id, hook, place, false FROM hookstream.finished WHERE seq = ANY($1)) d
         JOIN hookstream.hooks h ON h.id = d.hook JOIN hookstream.places hp ON hp.id = h.place
         WHERE d.place = $2",
        hooks::HOOK_COLUMNS
    );
    let rows = session.query(&sql, &[(&seqs, Type::INT8_ARRAY), (&place, Type::INT8)]).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        if wanted.contains(&row.try_get("id")?) {
            found.push(Named {
                seq: row.try_get("seq")?,
                hook: hooks::hook_id(row)?,
                is_pending: row.try_get("is_pending")?,
            });
        }
    }
    Ok(found)
}

/// Cancels those of these deliveries that are pending. Clears the gate memory that they set, and promotes the candidates
/// behind them at once. Returns the cancelled ones.
pub(super) async fn cancel(
    tx: &Session,
    seqs: &[DeliverySeq],
    now: Millis,
    backlog: &mut BacklogChanges,
) -> Result<Vec<DeliverySeq>, DbError> {
    if seqs.is_empty() {
        return Ok(Vec::new());
    }
    let groups = gates::groups_of(tx, seqs).await?;
    let mut plan = gates::lock(tx, &groups, now).await?;
    let rows = tx
        .query(
            "WITH gone AS (DELETE FROM hookstream.pending p WHERE p.seq = ANY($1) RETURNING p.*)
             INSERT INTO hookstream.finished (seq, hook, place, id, state, finished_at, accepted, attempts,
                 attempts_before, suppressed, replays, size, progress, first_at, first_micros, first_status)
             SELECT seq, hook, place, id, $3, $2, accepted, attempts, attempts_before, suppressed, replays, size, progress,
                 first_at, first_micros, first_status FROM gone
             RETURNING seq, hook, size",
            &[(&seqs, Type::INT8_ARRAY), (&now.0, Type::INT8), (&CANCELLED, Type::INT2)],
        )
        .await?;
    let mut cancelled = Vec::with_capacity(rows.len());
    for row in &rows {
        backlog.remove(row.try_get(1)?, row.try_get(2)?);
        cancelled.push(row.try_get(0)?);
    }
    cancelled.sort_unstable();
    for seq in &cancelled {
        plan.remove_candidate(*seq);
        plan.clear_memory_of(*seq, now);
    }
    gates::write(tx, &plan, backlog).await?;
    Ok(cancelled)
}

/// Promotes up to `rows` trailing candidates whose period is over, and returns their hooks.
pub(super) async fn promote(
    tx: &Session,
    now: Millis,
    rows: i64,
    backlog: &mut BacklogChanges,
) -> Result<Vec<HookId>, DbError> {
    let groups = gates::due_groups(tx, now, rows).await?;
    let mut plan = gates::lock(tx, &groups, now).await?;
    let promoted = plan.promote_due(now);
    gates::write(tx, &plan, backlog).await?;
    let mut hooks: Vec<HookId> =
        hooks::find_rows(tx, &promoted).await?.into_values().map(|hook| hook.id).collect();
    hooks.sort();
    Ok(hooks)
}

/// Makes `Undecided` deliveries of a hook due at `now`, a bounded number. True: there are more.
pub(super) async fn reschedule_undecided(tx: &Session, uid: &str, now: Millis) -> Result<bool, DbError> {
    let changed = tx
        .execute(
            "UPDATE hookstream.pending SET due = $2 WHERE seq IN (
                 SELECT p.seq FROM hookstream.pending p JOIN hookstream.hooks h ON h.id = p.hook
                 WHERE h.uid = $1 AND NOT p.is_candidate AND p.due > $2 AND p.reason = $3 LIMIT $4)",
            &[
                (&uid, Type::TEXT),
                (&now.0, Type::INT8),
                (&DeliveryReason::Undecided.as_str(), Type::TEXT),
                (&BATCH, Type::INT8),
            ],
        )
        .await?;
    Ok(i64::try_from(changed).is_ok_and(|changed| changed >= BATCH))
}

/// Transfers up to `rows` pending deliveries from one hook to another. True: there are more.
pub(super) async fn transfer_pending(
    tx: &Session,
    (from, to): (&HookId, &HookId),
    now: Millis,
    rows: i64,
    backlog: &mut BacklogChanges,
) -> Result<bool, DbError> {
    if from.uid == to.uid {
        return Ok(false);
    }
    let Some(old) = hooks::find(tx, &from.uid).await? else { return Ok(false) };
    hooks::set_held(tx, old.row_id, false, now).await?;
    if dissolve_gates(tx, old.row_id, rows).await? {
        return Ok(true);
    }
    let Some(new) = hooks::find(tx, &to.uid).await? else {
        return hooks::rename(tx, old.row_id, to).await.map(|()| false);
    };
    let Some(old) = hooks::find(tx, &from.uid).await? else { return Ok(false) };
    // Keeps the time for which each delivery was held.
    let shift = new.total_held(now).saturating_sub(old.total_held(now));
    let moved = tx
        .query(
            "UPDATE hookstream.pending SET hook = $2, place = $3, held_before = held_before + $4 WHERE seq IN (
                 SELECT seq FROM hookstream.pending WHERE hook = $1 ORDER BY seq LIMIT $5 FOR UPDATE)
             RETURNING size",
            &[
                (&old.row_id, Type::INT8),
                (&new.row_id, Type::INT8),
                (&new.place, Type::INT8),
                (&shift, Type::INT8),
                (&rows, Type::INT8),
            ],
        )
        .await?;
    for row in &moved {
        let size = row.try_get(0)?;
        backlog.remove(old.row_id, size);
        backlog.add(new.row_id, size);
    }
    Ok(i64::try_from(moved.len()).is_ok_and(|moved| moved >= rows))
}

/// Removes a part of a hook's gate memory, and makes its candidates ordinary pending deliveries with unchanged due times.
/// True: there is more.
pub(super) async fn dissolve_gates(tx: &Session, hook: i64, rows: i64) -> Result<bool, DbError> {
    let removed = tx
        .execute(
            "DELETE FROM hookstream.gates WHERE (hook, kind, key) IN (
                 SELECT hook, kind, key FROM hookstream.gates WHERE hook = $1 ORDER BY kind, key LIMIT $2 FOR UPDATE)",
            &[(&hook, Type::INT8), (&rows, Type::INT8)],
        )
        .await?;
    let released = tx
        .execute(
            "WITH released AS (
                 DELETE FROM hookstream.candidates WHERE (hook, key) IN (
                     SELECT hook, key FROM hookstream.candidates WHERE hook = $1 LIMIT $2)
                 RETURNING delivery)
             UPDATE hookstream.pending p SET is_candidate = false FROM released r
             WHERE p.seq = r.delivery AND p.is_candidate",
            &[(&hook, Type::INT8), (&rows, Type::INT8)],
        )
        .await?;
    let limit = u64::try_from(rows).unwrap_or(0);
    Ok(removed >= limit || released >= limit)
}
