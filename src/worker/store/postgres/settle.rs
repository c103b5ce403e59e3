//! Settling: the outcomes of attempts, a statement for each kind.
//!
//! Only pending deliveries are settled, so that a late outcome changes no finished one. Of a worker that no longer owns the
//! delivery's shard (`fence`), nothing is settled except what it was attempting when the shard went to another worker.

use std::collections::BTreeSet;

use tokio_postgres::types::Type;

use super::super::{AttemptRecord, DeliverySeq, ExchangeChange, NextStep, Settlement};
use super::backlog::BacklogChanges;
use super::failure::DbError;
use super::fence::Fence;
use super::rows::micros;
use super::session::Session;
use super::state::{DEAD, DELIVERED};
use super::{gates, text};
use crate::core::delivery_reason::DeliveryReason;
use crate::core::fast_map::{FastMap, FastSet};

/// What an exchange takes in its table beside its content.
const EXCHANGE_BYTES: usize = 64;

/// Settles the deliveries; each occurs once. Returns those behind which another delivery of the hook became due.
pub(super) async fn settle(
    tx: &Session,
    settlements: &[&Settlement],
    fence: &Fence,
    backlog: &mut BacklogChanges,
) -> Result<FastSet<DeliverySeq>, DbError> {
    let allowed = fence.lock(tx, &settlements.iter().map(|s| s.delivery).collect::<Vec<_>>()).await?;
    let settlements: Vec<&Settlement> =
        settlements.iter().copied().filter(|settlement| allowed.contains(&settlement.delivery)).collect();
    let (retried, ended): (Vec<&Settlement>, Vec<&Settlement>) =
        settlements.iter().partition(|settlement| matches!(settlement.next, NextStep::Retry { .. }));
    let mut settled = FastMap::default();
    retry(tx, &retried, &mut settled).await?;
    end(tx, &ended, backlog, &mut settled).await?;
    insert_attempts(tx, &settlements, &settled).await?;
    record_exchanges(tx, &settlements, &settled).await?;
    clear_gates(tx, &ended, &settled, backlog).await
}

/// A delivery that was settled: the number of its attempts now, and its place.
#[derive(Clone, Copy)]
struct Settled {
    attempts: i32,
    place: i64,
}

/// True if the first attempt delivered it. That attempt gets no row of its own.
fn is_delivered_at_once(settlement: &Settlement, attempts: i32) -> bool {
    attempts == 1
        && settlement.next == NextStep::Delivered
        && matches!(settlement.attempt, Some(AttemptRecord { error: None, detail: None, .. }))
}

/// Schedules the next attempt.
async fn retry(
    tx: &Session,
    settlements: &[&Settlement],
    settled: &mut FastMap<DeliverySeq, Settled>,
) -> Result<(), DbError> {
    if settlements.is_empty() {
        return Ok(());
    }
    let seqs: Vec<i64> = settlements.iter().map(|s| s.delivery).collect();
    let due: Vec<i64> = settlements
        .iter()
        .map(|settlement| match settlement.next {
            NextStep::Retry { due } => due.0,
            NextStep::Delivered | NextStep::Dead { .. } => settlement.at.0,
        })
        .collect();
    let attempted: Vec<i32> = settlements.iter().map(|s| i32::from(s.attempt.is_some())).collect();
    let progress: Vec<Option<&[u8]>> = settlements.iter().map(|s| s.progress.as_deref()).collect();
    let rows = tx
        .query(
            "UPDATE hookstream.pending p
             SET due = s.due, attempts = p.attempts + s.attempted, progress = coalesce(s.progress, p.progress),
                 -- Without an attempt the filter could not be evaluated.
                 reason = CASE WHEN s.attempted = 0 THEN $5 END
             FROM unnest($1::bigint[], $2::bigint[], $3::int[], $4::bytea[]) AS s (seq, due, attempted, progress)
             WHERE p.seq = s.seq AND NOT p.is_candidate
             RETURNING p.seq, p.attempts, p.place",
            &[
                (&seqs, Type::INT8_ARRAY),
                (&due, Type::INT8_ARRAY),
                (&attempted, Type::INT4_ARRAY),
                (&progress, Type::BYTEA_ARRAY),
                (&DeliveryReason::Undecided.as_str(), Type::TEXT),
            ],
        )
        .await?;
    for row in &rows {
        settled.insert(row.try_get(0)?, Settled { attempts: row.try_get(1)?, place: row.try_get(2)? });
    }
    Ok(())
}

/// Moves delivered and dead deliveries to the finished ones.
async fn end(
    tx: &Session,
    settlements: &[&Settlement],
    backlog: &mut BacklogChanges,
    settled: &mut FastMap<DeliverySeq, Settled>,
) -> Result<(), DbError> {
    if settlements.is_empty() {
        return Ok(());
    }
    let seqs: Vec<i64> = settlements.iter().map(|s| s.delivery).collect();
    let states: Vec<i16> = settlements
        .iter()
        .map(|settlement| if matches!(settlement.next, NextStep::Dead { .. }) { DEAD } else { DELIVERED })
        .collect();
    let reasons: Vec<Option<&str>> = settlements
        .iter()
        .map(|settlement| match settlement.next {
            NextStep::Dead { reason } => Some(reason.as_str()),
            NextStep::Delivered | NextStep::Retry { .. } => None,
        })
        .collect();
    let ends: Vec<i64> = settlements.iter().map(|s| s.at.0).collect();
    let attempted: Vec<i32> = settlements.iter().map(|s| i32::from(s.attempt.is_some())).collect();
    let progress: Vec<Option<&[u8]>> = settlements.iter().map(|s| s.progress.as_deref()).collect();
    // The attempt that delivered it, if it was the first one.
    let first = |settlement: &&Settlement| {
        settlement.attempt.as_ref().filter(|_| is_delivered_at_once(settlement, 1)).cloned()
    };
    let first: Vec<Option<AttemptRecord>> = settlements.iter().map(first).collect();
    let first_at: Vec<Option<i64>> = first.iter().map(|a| a.as_ref().map(|a| a.at.0)).collect();
    let first_micros: Vec<Option<i64>> = first.iter().map(|a| a.as_ref().map(micros)).collect();
    let first_status: Vec<Option<i32>> =
        first.iter().map(|a| a.as_ref().and_then(|a| a.status).map(i32::from)).collect();
    let rows = tx
        .query(
            "WITH s AS (
                 SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::text[], $4::bigint[], $5::int[], $6::bytea[],
                                      $7::bigint[], $8::bigint[], $9::int[])
                     AS s (seq, state, why, at, attempted, new_progress, at_once, at_once_micros, at_once_status)),
             gone AS (
                 DELETE FROM hookstream.pending p USING s WHERE p.seq = s.seq AND NOT p.is_candidate
                 RETURNING p.*, s.state, s.why, s.at, s.attempted, s.new_progress,
                           s.at_once, s.at_once_micros, s.at_once_status)
             INSERT INTO hookstream.finished (seq, hook, place, id, state, finished_at, accepted, attempts,
                 attempts_before, suppressed, replays, size, reason, progress, first_at, first_micros, first_status)
             SELECT seq, hook, place, id, state, at, accepted, attempts + attempted, attempts_before, suppressed, replays,
                 size, why, CASE WHEN state <> 1 THEN coalesce(new_progress, progress) END,
                 CASE WHEN attempts = 0 THEN at_once ELSE first_at END,
                 CASE WHEN attempts = 0 THEN at_once_micros ELSE first_micros END,
                 CASE WHEN attempts = 0 THEN at_once_status ELSE first_status END
             FROM gone
             RETURNING seq, attempts, place, hook, size",
            &[
                (&seqs, Type::INT8_ARRAY),
                (&states, Type::INT2_ARRAY),
                (&reasons, Type::TEXT_ARRAY),
                (&ends, Type::INT8_ARRAY),
                (&attempted, Type::INT4_ARRAY),
                (&progress, Type::BYTEA_ARRAY),
                (&first_at, Type::INT8_ARRAY),
                (&first_micros, Type::INT8_ARRAY),
                (&first_status, Type::INT4_ARRAY),
            ],
        )
        .await?;
    for row in &rows {
        settled.insert(row.try_get(0)?, Settled { attempts: row.try_get(1)?, place: row.try_get(2)? });
        backlog.remove(row.try_get(3)?, row.try_get(4)?);
    }
    Ok(())
}

/// Inserts the rows of the attempts of settled deliveries.
async fn insert_attempts(
    tx: &Session,
    settlements: &[&Settlement],
    settled: &FastMap<DeliverySeq, Settled>,
) -> Result<(), DbError> {
    let with_rows: Vec<(&Settlement, &AttemptRecord, i32)> = settlements
        .iter()
        .filter_map(|settlement| {
            let Settled { attempts, .. } = settled.get(&settlement.delivery)?;
            let attempt = settlement.attempt.as_ref()?;
            (!is_delivered_at_once(settlement, *attempts)).then_some((*settlement, attempt, *attempts))
        })
        .collect();
    if with_rows.is_empty() {
        return Ok(());
    }
    let seqs: Vec<i64> = with_rows.iter().map(|(settlement, ..)| settlement.delivery).collect();
    let numbers: Vec<i32> = with_rows.iter().map(|(.., number)| *number).collect();
    let at: Vec<i64> = with_rows.iter().map(|(_, attempt, _)| attempt.at.0).collect();
    let durations: Vec<i64> = with_rows.iter().map(|(_, attempt, _)| micros(attempt)).collect();
    let statuses: Vec<Option<i32>> =
        with_rows.iter().map(|(_, attempt, _)| attempt.status.map(i32::from)).collect();
    let errors: Vec<Option<&str>> =
        with_rows.iter().map(|(_, attempt, _)| attempt.error.as_deref()).collect();
    let details: Vec<_> =
        with_rows.iter().map(|(_, attempt, _)| attempt.detail.as_deref().map(text::stored)).collect();
    tx.execute(
        "INSERT INTO hookstream.attempts (delivery, n, at, micros, status, error, detail)
         SELECT * FROM unnest($1::bigint[], $2::int[], $3::bigint[], $4::bigint[], $5::int[], $6::text[], $7::text[])",
        &[
            (&seqs, Type::INT8_ARRAY),
            (&numbers, Type::INT4_ARRAY),
            (&at, Type::INT8_ARRAY),
            (&durations, Type::INT8_ARRAY),
            (&statuses, Type::INT4_ARRAY),
            (&errors, Type::TEXT_ARRAY),
            (&details, Type::TEXT_ARRAY),
        ],
    )
    .await
    .map(drop)
}

/// Records the kept requests and responses of settled deliveries.
async fn record_exchanges(
    tx: &Session,
    settlements: &[&Settlement],
    settled: &FastMap<DeliverySeq, Settled>,
) -> Result<(), DbError> {
    let (mut removed, mut seqs, mut places, mut bytes, mut contents) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for settlement in settlements {
        let Some(Settled { place, .. }) = settled.get(&settlement.delivery) else { continue };
        match &settlement.exchange {
            ExchangeChange::Nothing => {}
            ExchangeChange::Remove => removed.push(settlement.delivery),
            ExchangeChange::Replace(exchange) => {
                let content =
                    serde_json::to_vec(exchange).map_err(|error| DbError::Unreadable(error.to_string()))?;
                seqs.push(settlement.delivery);
                places.push(*place);
                bytes.push(i32::try_from(content.len() + EXCHANGE_BYTES).unwrap_or(i32::MAX));
                contents.push(content);
            }
        }
    }
    if !removed.is_empty() {
        tx.execute(
            "DELETE FROM hookstream.exchanges WHERE delivery = ANY($1)",
            &[(&removed, Type::INT8_ARRAY)],
        )
        .await?;
    }
    if seqs.is_empty() {
        return Ok(());
    }
    tx.execute(
        "INSERT INTO hookstream.exchanges (delivery, place, bytes, content)
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::int[], $4::bytea[])
         ON CONFLICT (delivery) DO UPDATE SET bytes = excluded.bytes, content = excluded.content",
        &[
            (&seqs, Type::INT8_ARRAY),
            (&places, Type::INT8_ARRAY),
            (&bytes, Type::INT4_ARRAY),
            (&contents, Type::BYTEA_ARRAY),
        ],
    )
    .await
    .map(drop)
}

/// Clears the gate memory of dead deliveries, and promotes the candidates behind them.
async fn clear_gates(
    tx: &Session,
    ended: &[&Settlement],
    settled: &FastMap<DeliverySeq, Settled>,
    backlog: &mut BacklogChanges,
) -> Result<FastSet<DeliverySeq>, DbError> {
    let dead: Vec<&Settlement> = ended
        .iter()
        .copied()
        .filter(|s| matches!(s.next, NextStep::Dead { .. }) && settled.contains_key(&s.delivery))
        .collect();
    let mut promoted = FastSet::default();
    let Some(latest) = dead.iter().map(|settlement| settlement.at).max() else { return Ok(promoted) };
    let seqs: Vec<DeliverySeq> = dead.iter().map(|settlement| settlement.delivery).collect();
    let groups: BTreeSet<_> = gates::groups_of(tx, &seqs).await?;
    let mut plan = gates::lock(tx, &groups, latest).await?;
    for settlement in dead {
        if plan.clear_memory_of(settlement.delivery, settlement.at) {
            promoted.insert(settlement.delivery);
        }
    }
    gates::write(tx, &plan, backlog).await?;
    Ok(promoted)
}
