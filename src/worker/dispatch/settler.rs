//! Commits outcomes in batches: while one batch is committed, the next one gathers. Attempts do not wait for the
//! commit.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::command::{DispatchCommand, DispatchHandle, SettledDelivery};
use crate::core::time::Millis;
use crate::metrics::{HookSeries, Metrics};
use crate::worker::store::{DispatchStore, NextStep, Settlement, StoreError};

/// Outcomes that are committed in one batch.
const BATCH: usize = 256;
/// How often a batch is retried while the store is full or busy, and the delay before each retry.
const MAX_RETRIES: u32 = 60;
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The outcome of a delivery, with what the metrics need.
pub struct AttemptSettlement {
    pub uid: Arc<str>,
    pub settlement: Settlement,
    /// When the delivery's age starts: acceptance, or the last replay.
    pub accepted: Millis,
    /// The hook's own series, if it has them.
    pub series: Option<Arc<HookSeries>>,
}

/// Commits outcomes until every sender is dropped.
pub async fn run(
    mut outcomes: mpsc::Receiver<AttemptSettlement>,
    store: Arc<dyn DispatchStore>,
    dispatch: DispatchHandle,
    metrics: Arc<Metrics>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while outcomes.recv_many(&mut batch, BATCH).await > 0 {
        let settlements =
            batch.iter().map(|outcome: &AttemptSettlement| outcome.settlement.clone()).collect();
        let notify = match settle_with_retries(&*store, settlements).await {
            Ok(notify) => Some(notify),
            // The store refuses one of the outcomes. Commit the others without it.
            Err(StoreError::Refused(_)) if batch.len() > 1 => {
                Some(settle_one_by_one(&*store, &mut batch, &dispatch).await)
            }
            Err(error) => {
                tracing::warn!(%error, "commit of outcomes failed, the deliveries will be repeated");
                None
            }
        };
        let is_stored = notify.is_some();
        let mut notify = notify.unwrap_or_default().into_iter();
        let settled = batch.drain(..).map(|AttemptSettlement { uid, settlement, accepted, series }| {
            let Settlement { delivery, at, next, .. } = settlement;
            match next {
                NextStep::Delivered if is_stored => {
                    series.iter().for_each(|series| series.record_delivered(at.since(accepted)));
                    metrics.record_delivered(at.since(accepted));
                }
                NextStep::Dead { reason } if is_stored => {
                    series.iter().for_each(|series| series.record_dead());
                    metrics.record_finished("dead", Some(reason));
                }
                _ => {}
            }
            let notify = notify.next() == Some(true);
            SettledDelivery { uid, seq: delivery, next: is_stored.then_some(next), notify }
        });
        dispatch.send(DispatchCommand::Settled(settled.collect())).await;
    }
}

/// Commits each outcome separately. Removes outcomes that cannot be stored from the batch.
async fn settle_one_by_one(
    store: &dyn DispatchStore,
    batch: &mut Vec<AttemptSettlement>,
    dispatch: &DispatchHandle,
) -> Vec<bool> {
    let (mut stored, mut notify, mut lost) = (Vec::new(), Vec::new(), Vec::new());
    for outcome in batch.drain(..) {
        match settle_with_retries(store, vec![outcome.settlement.clone()]).await {
            Ok(one) => {
                notify.extend(one);
                stored.push(outcome);
            }
            Err(error) => {
                tracing::warn!(%error, "commit of an outcome failed, the delivery will be repeated");
                let (uid, seq) = (outcome.uid, outcome.settlement.delivery);
                lost.push(SettledDelivery { uid, seq, next: None, notify: false });
            }
        }
    }
    *batch = stored;
    dispatch.send(DispatchCommand::Settled(lost)).await;
    notify
}

/// Commits outcomes. Retries while the store is full or busy, because that costs less than repeating the deliveries.
async fn settle_with_retries(
    store: &dyn DispatchStore,
    settlements: Vec<Settlement>,
) -> Result<Vec<bool>, StoreError> {
    let mut retries = 0;
    loop {
        match store.settle_many(settlements.clone()).await {
            Err(StoreError::Full | StoreError::Busy) if retries < MAX_RETRIES => {
                retries += 1;
                tokio::time::sleep(RETRY_DELAY).await;
            }
            other => return other,
        }
    }
}
