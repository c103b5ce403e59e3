//! Commits accepted events.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::try_join;
use tokio::sync::mpsc;
use tokio_postgres::types::Type;

use super::super::super::{AcceptCallback, AcceptedEvent, EventSeq, Fate, NewEvent, StoreError};
use super::super::accept::{self, EventRow, Request, Results};
use super::super::failure::{DbError, unavailable};
use super::super::session::Session;
use super::super::shares::ShareLimits;
use super::super::signals::Signals;
use super::{CONFLICTS, Failure, GROUP_BYTES, GROUP_ROWS, Guard, RETRY, WriterRow, classify};

/// A request that waits for its commit.
pub(in super::super) struct QueuedAccept {
    pub(in super::super) request: Request,
    pub(in super::super) bytes: usize,
    pub(in super::super) done: AcceptCallback,
}

/// Commits the requests of its queue.
pub(in super::super) struct AcceptWriter {
    pub(in super::super) row: WriterRow,
    pub(in super::super) queue: mpsc::UnboundedReceiver<QueuedAccept>,
    /// Bytes of the queued requests.
    pub(in super::super) queued: Arc<AtomicUsize>,
    pub(in super::super) limits: Arc<ShareLimits>,
    /// Notifies the owners of the hooks.
    pub(in super::super) signals: Arc<Signals>,
}

impl AcceptWriter {
    /// Runs until the queue is closed and empty.
    pub(in super::super) async fn run(mut self) {
        while let Some(first) = self.queue.recv().await {
            let (mut rows, mut bytes) = (first.request.rows.len(), first.bytes);
            let mut group = vec![first];
            while rows < GROUP_ROWS
                && bytes < GROUP_BYTES
                && let Ok(next) = self.queue.try_recv()
            {
                rows += next.request.rows.len();
                bytes += next.bytes;
                group.push(next);
            }
            self.queued.fetch_sub(bytes, Ordering::Relaxed);
            self.commit(group).await;
        }
    }

    /// Commits a group and answers its requests.
    async fn commit(&mut self, group: Vec<QueuedAccept>) {
        let (mut requests, mut callbacks) =
            (Vec::with_capacity(group.len()), Vec::with_capacity(group.len()));
        for QueuedAccept { request, done, .. } in group {
            requests.push(request);
            callbacks.push(done);
        }
        let results = match self.execute(&mut requests).await {
            Ok(results) => results,
            Err(StoreError::Refused(_)) if requests.len() > 1 => self.execute_each(&mut requests).await,
            Err(error) => requests.iter().map(|_| Err(error.clone())).collect(),
        };
        for ((request, done), result) in requests.into_iter().zip(callbacks).zip(results) {
            self.signal(&request, &result);
            let events: Vec<NewEvent> = match &result {
                Ok(_) => request.rows.into_iter().map(|row| row.new).collect(),
                Err(_) => Vec::new(),
            };
            done(events, result);
        }
    }

    /// Notifies the owners of hooks with deliveries that may be sent now.
    fn signal(&self, request: &Request, result: &Result<Vec<AcceptedEvent>, StoreError>) {
        for (row, accepted) in request.rows.iter().zip(result.iter().flatten()) {
            for (delivery, stored) in row.new.deliveries.iter().zip(&accepted.deliveries) {
                let is_due = matches!(stored.fate, Fate::Pending { due, .. } if due <= request.now);
                if is_due && !accepted.duplicate {
                    self.signals.send(&delivery.hook.uid, None);
                }
            }
            accepted.hooks_to_notify.iter().for_each(|hook| self.signals.send(&hook.uid, None));
        }
    }

    /// Commits each request alone: one of them is refused.
    async fn execute_each(&mut self, requests: &mut Vec<Request>) -> Results {
        let mut results = Vec::with_capacity(requests.len());
        for request in std::mem::take(requests) {
            let mut alone = vec![request];
            results.push(match self.execute(&mut alone).await {
                Ok(mut result) => result.pop().unwrap_or(Err(StoreError::Closed)),
                Err(error) => Err(error),
            });
            requests.append(&mut alone);
        }
        results
    }

    /// Executes the group until its outcome is known.
    async fn execute(&mut self, requests: &mut [Request]) -> Result<Results, StoreError> {
        let mut conflicts = 0;
        // The results of an execution whose COMMIT was not answered.
        let mut unknown: Option<Results> = None;
        loop {
            let mut results = None;
            match self.try_execute(requests, &mut results).await {
                Ok(Guard::Runs) => {
                    self.row.committed();
                    return results.ok_or_else(unavailable);
                }
                Ok(Guard::HasCommitted) => {
                    self.row.committed();
                    return unknown.ok_or_else(unavailable);
                }
                Err(error) => {
                    let failure = classify(&error);
                    self.row.log_failure(&error, &failure);
                    match failure {
                        Failure::Conflict if conflicts < CONFLICTS => conflicts += 1,
                        Failure::OutcomeUnknown => {
                            unknown = results.or(unknown);
                            tokio::time::sleep(RETRY).await;
                        }
                        // Until the outcome is known, every failure is repeated.
                        _ if unknown.is_some() => tokio::time::sleep(RETRY).await,
                        Failure::Refused => {
                            let why = "the database refused a value of the event";
                            return Err(StoreError::Refused(why.into()));
                        }
                        // Without the reason, which may name hosts and roles: anyone may be a sender.
                        Failure::Conflict | Failure::Unavailable => return Err(unavailable()),
                    }
                }
            }
        }
    }

    /// Executes the group once. `results` are set before the COMMIT.
    async fn try_execute(
        &mut self,
        requests: &mut [Request],
        results: &mut Option<Results>,
    ) -> Result<Guard, DbError> {
        let session = self.row.connections.clone().session().await?;
        // Pipelined. Sequences take no part in transactions, so their numbers may come before or after the BEGIN.
        let (tx, (), guard) =
            try_join!(session.begin(), number_events(&session, requests), self.row.begin(&session))?;
        if guard == Guard::HasCommitted {
            self.row.confirm(tx).await?;
            return Ok(Guard::HasCommitted);
        }
        let executed = accept::accept(&tx, requests, &self.limits, self.row.id).await;
        let (accepted, backlogs) = match executed {
            Ok(executed) => executed,
            Err(error) => {
                if error.is_conflict() || error.is_refusal() {
                    tx.rollback().await?;
                }
                return Err(error);
            }
        };
        let latest = requests.iter().map(|request| request.now).max();
        self.row.mark_commit(&tx, latest).await?;
        *results = Some(accepted);
        tx.commit().await?;
        self.limits.add(&backlogs);
        Ok(Guard::Runs)
    }
}

/// Gives the events their sequence numbers. A repeated group keeps them.
async fn number_events(session: &Session, requests: &mut [Request]) -> Result<(), DbError> {
    let mut unnumbered: Vec<&mut EventRow> =
        requests.iter_mut().flat_map(|request| &mut request.rows).filter(|row| row.seq == 0).collect();
    if unnumbered.is_empty() {
        return Ok(());
    }
    let count = i64::try_from(unnumbered.len()).unwrap_or(i64::MAX);
    let rows = session
        .query("SELECT nextval('hookstream.event_seq') FROM generate_series(1, $1)", &[(&count, Type::INT8)])
        .await?;
    let mut numbers = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<EventSeq>, _>>()?;
    // In the order of acceptance.
    numbers.sort_unstable();
    for (row, number) in unnumbered.iter_mut().zip(numbers) {
        row.seq = number;
    }
    Ok(())
}
