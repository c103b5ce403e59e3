//! Commits outcomes in batches: while one batch is committed, the next one gathers. Attempts do not wait for the
//! commit.
//!
//! A full store loses no outcome: the settler repeats the commit until it succeeds. Meanwhile the dispatcher starts no
//! attempts (`DispatchCommand::StoreFull`), so at most the outcomes of the attempts in flight are in memory, and a crash
//! repeats only these.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::command::{DispatchCommand, DispatchHandle, SettledDelivery};
use crate::core::time::Millis;
use crate::metrics::{HookSeries, Metrics};
use crate::worker::hooks::HookState;
use crate::worker::index::HookIndex;
use crate::worker::store::{DispatchStore, NextStep, Settlement, StoreError};

/// Outcomes that are committed in one batch.
const BATCH: usize = 256;
/// The delay before a commit is repeated while the store is full or busy.
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
    (metrics, index): (Arc<Metrics>, Arc<HookIndex>),
) {
    let mut settler = Settler { store, dispatch, metrics, index, is_full: false, limit: BATCH };
    let mut uncommitted = Vec::with_capacity(BATCH);
    while outcomes.recv_many(&mut uncommitted, BATCH).await > 0 {
        settler.settle_all(&mut uncommitted).await;
        // Only now: attempts that start while outcomes are uncommitted would add to them.
        if outcomes.is_empty() {
            settler.set_full(false).await;
        }
    }
}

struct Settler {
    store: Arc<dyn DispatchStore>,
    dispatch: DispatchHandle,
    metrics: Arc<Metrics>,
    /// Names the hooks of dead letters.
    index: Arc<HookIndex>,
    /// True while the store cannot record outcomes.
    is_full: bool,
    /// Outcomes in one commit. A store that is nearly full records a few at a time.
    limit: usize,
}

impl Settler {
    /// Commits outcomes and reports them to the dispatcher. Keeps them, and repeats the commit, while the store is full
    /// or busy.
    async fn settle_all(&mut self, uncommitted: &mut Vec<AttemptSettlement>) {
        // Outcomes that are committed one at a time, because the store refuses one of them.
        let mut singles = 0_usize;
        while !uncommitted.is_empty() {
            let count = if singles > 0 { 1 } else { self.limit.min(uncommitted.len()) };
            let settlements =
                uncommitted.iter().take(count).map(|outcome| outcome.settlement.clone()).collect();
            let notify = match self.store.settle_many(settlements).await {
                Ok(notify) => {
                    self.limit = (self.limit * 2).min(BATCH);
                    Some(notify)
                }
                Err(StoreError::Full | StoreError::Busy | StoreError::Unavailable(_)) => {
                    self.limit = (self.limit / 4).max(1);
                    self.set_full(true).await;
                    tokio::time::sleep(RETRY_DELAY).await;
                    continue;
                }
                Err(StoreError::Refused(_)) if count > 1 => {
                    singles = count;
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "commit of outcomes failed, the deliveries will be repeated");
                    None
                }
            };
            singles = singles.saturating_sub(1);
            self.report(uncommitted.drain(..count), notify).await;
        }
    }

    /// Counts outcomes and reports them to the dispatcher. `notify` is None if they could not be stored.
    async fn report(&self, outcomes: impl Iterator<Item = AttemptSettlement>, notify: Option<Vec<bool>>) {
        let is_stored = notify.is_some();
        let mut notify = notify.unwrap_or_default().into_iter();
        let settled = outcomes.map(|AttemptSettlement { uid, settlement, accepted, series }| {
            let Settlement { delivery, at, next, .. } = settlement;
            match next {
                NextStep::Delivered if is_stored => {
                    series.iter().for_each(|series| series.record_delivered(at.since(accepted)));
                    self.metrics.record_delivered(at.since(accepted));
                }
                NextStep::Dead { reason } if is_stored => {
                    series.iter().for_each(|series| series.record_dead());
                    self.metrics.record_finished("dead", Some(reason));
                    if let Some(HookState { id, .. }) = self.index.get(&uid).as_deref() {
                        self.metrics.dead_letters.record(&id.namespace, &id.name, reason);
                        self.metrics.rates.record_dead(&id.namespace);
                    }
                }
                _ => {}
            }
            let notify = notify.next() == Some(true);
            SettledDelivery { uid, seq: delivery, next: is_stored.then_some(next), notify }
        });
        let settled = settled.collect();
        self.dispatch.send(DispatchCommand::Settled(settled)).await;
    }

    /// Reports whether the store can record outcomes, once for each change.
    async fn set_full(&mut self, is_full: bool) {
        if std::mem::replace(&mut self.is_full, is_full) == is_full {
            return;
        }
        if is_full {
            tracing::error!("outcomes cannot be stored, will retry, no attempts are started");
        } else {
            tracing::info!("outcomes can be stored again, attempts are started again");
        }
        self.dispatch.send(DispatchCommand::StoreFull(is_full)).await;
    }
}
