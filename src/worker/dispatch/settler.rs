//! Outcomes, noted together: while some are committed the next ones gather, and their attempts are over already.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Handle;
use super::command::{Command, Settled};
use crate::core::time::Millis;
use crate::metrics::{Metrics, Series};
use crate::worker::store::{Next, Settlement, Store, StoreError};

/// Outcomes that are noted at a time.
const AT_ONCE: usize = 256;
/// Outcomes that find no room are noted again, so often, after such a pause.
const TRIES: u32 = 60;
const AGAIN: Duration = Duration::from_secs(1);

/// What came of a delivery.
pub struct Outcome {
    pub uid: Arc<str>,
    pub settlement: Settlement,
    /// When its age began.
    pub accepted: Millis,
    /// Where the hook has its own.
    pub series: Option<Arc<Series>>,
}

/// Notes outcomes until nobody has any.
pub async fn run(
    mut outcomes: mpsc::Receiver<Outcome>,
    store: Arc<dyn Store>,
    handle: Handle,
    metrics: Arc<Metrics>,
) {
    let mut batch = Vec::with_capacity(AT_ONCE);
    while outcomes.recv_many(&mut batch, AT_ONCE).await > 0 {
        let settlements = batch.iter().map(|outcome: &Outcome| outcome.settlement.clone()).collect();
        let woken = match at_last(&*store, settlements).await {
            Ok(woken) => Some(woken),
            // One of them may be what the store refuses: the others are noted without it.
            Err(StoreError::Refused(_)) if batch.len() > 1 => {
                Some(one_by_one(&*store, &mut batch, &handle).await)
            }
            Err(error) => {
                tracing::warn!(%error, "outcomes could not be kept: the deliveries will be repeated");
                None
            }
        };
        let noted = woken.is_some();
        let mut woken = woken.unwrap_or_default().into_iter();
        let settled = batch.drain(..).map(|Outcome { uid, settlement, accepted, series }| {
            let Settlement { delivery, at, next, .. } = settlement;
            match next {
                Next::Delivered if noted => {
                    series.iter().for_each(|series| series.delivered(at.since(accepted)));
                    metrics.delivered(at.since(accepted));
                }
                Next::Dead { reason } if noted => {
                    series.iter().for_each(|series| series.dead());
                    metrics.finished("dead", reason);
                }
                _ => {}
            }
            Settled { uid, seq: delivery, next: noted.then_some(next), woken: woken.next() == Some(true) }
        });
        handle.commands.send(Command::Settled(settled.collect())).await.ok();
    }
}

/// Notes each by itself and takes from the batch what cannot be noted.
async fn one_by_one(store: &dyn Store, batch: &mut Vec<Outcome>, handle: &Handle) -> Vec<bool> {
    let (mut kept, mut woken, mut left) = (Vec::new(), Vec::new(), Vec::new());
    for outcome in batch.drain(..) {
        match at_last(store, vec![outcome.settlement.clone()]).await {
            Ok(one) => {
                woken.extend(one);
                kept.push(outcome);
            }
            Err(error) => {
                tracing::warn!(%error, "an outcome could not be kept: the delivery will be repeated");
                let (uid, seq) = (outcome.uid, outcome.settlement.delivery);
                left.push(Settled { uid, seq, next: None, woken: false });
            }
        }
    }
    *batch = kept;
    handle.commands.send(Command::Settled(left)).await.ok();
    woken
}

/// A full disk or a busy store passes: noting outcomes again costs less than sending again.
async fn at_last(store: &dyn Store, settlements: Vec<Settlement>) -> Result<Vec<bool>, StoreError> {
    let mut tries = 0;
    loop {
        match store.settle_many(settlements.clone()).await {
            Err(StoreError::Full | StoreError::Busy) if tries < TRIES => {
                tries += 1;
                tokio::time::sleep(AGAIN).await;
            }
            other => return other,
        }
    }
}
