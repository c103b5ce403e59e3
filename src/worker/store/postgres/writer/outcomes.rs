//! Commits the outcomes of attempts.
//!
//! While the database is away, a group is repeated until it commits: a lost outcome would repeat its attempt, and the
//! receivers would get every delivery that was in flight twice. The fence decides then whether this process still owns the
//! deliveries.

use std::sync::Arc;

use futures::try_join;
use tokio::sync::{mpsc, oneshot};

use super::super::super::{DeliverySeq, Settlement, StoreError};
use super::super::backlog::BacklogChanges;
use super::super::failure::{DbError, unavailable};
use super::super::fence::Fence;
use super::super::membership::Ownership;
use super::super::settle;
use super::{CONFLICTS, Failure, GROUP_ROWS, Guard, RETRY, WriterRow, classify};
use crate::core::fast_map::FastSet;

/// Outcomes that wait for their commit.
pub(in super::super) struct QueuedOutcomes {
    pub(in super::super) settlements: Vec<Settlement>,
    pub(in super::super) reply: oneshot::Sender<Result<Vec<bool>, StoreError>>,
}

/// Commits the outcomes of its queue.
pub(in super::super) struct OutcomeWriter {
    pub(in super::super) row: WriterRow,
    pub(in super::super) queue: mpsc::UnboundedReceiver<QueuedOutcomes>,
    pub(in super::super) fence: Fence,
    pub(in super::super) ownership: Arc<Ownership>,
    /// The first operation of the next group.
    pub(in super::super) next: Option<QueuedOutcomes>,
    /// True while the process stops: a database that is away is not waited for.
    pub(in super::super) stopping: tokio_util::sync::CancellationToken,
}

impl OutcomeWriter {
    /// Runs until the queue is closed and empty.
    pub(in super::super) async fn run(mut self) {
        while let Some(first) = self.take_first().await {
            let mut seen: FastSet<DeliverySeq> = FastSet::default();
            let mut group = Vec::new();
            let mut rows = 0;
            let mut next = Some(first);
            while let Some(operation) = next.take() {
                // A delivery occurs once in a statement. A second outcome of it is for the next group.
                let is_disjoint =
                    operation.settlements.iter().all(|settlement| !seen.contains(&settlement.delivery));
                if !group.is_empty() && (!is_disjoint || rows >= GROUP_ROWS) {
                    self.next = Some(operation);
                    break;
                }
                rows += operation.settlements.len();
                seen.extend(operation.settlements.iter().map(|settlement| settlement.delivery));
                group.push(operation);
                next = self.queue.try_recv().ok();
            }
            self.commit(group).await;
        }
    }

    async fn take_first(&mut self) -> Option<QueuedOutcomes> {
        match self.next.take() {
            Some(next) => Some(next),
            None => self.queue.recv().await,
        }
    }

    /// Commits a group and answers its operations.
    async fn commit(&mut self, group: Vec<QueuedOutcomes>) {
        match self.execute(&group).await {
            Ok(promoted) => self.answer(group, &promoted),
            Err(Failure::Refused) if group.len() > 1 => {
                for operation in group {
                    let alone = vec![operation];
                    match self.execute(&alone).await {
                        Ok(promoted) => self.answer(alone, &promoted),
                        Err(failure) => self.fail(alone, &failure),
                    }
                }
            }
            Err(failure) => self.fail(group, &failure),
        }
    }

    fn answer(&self, group: Vec<QueuedOutcomes>, promoted: &FastSet<DeliverySeq>) {
        for QueuedOutcomes { settlements, reply } in group {
            self.ownership.end_attempts(settlements.iter().map(|settlement| settlement.delivery));
            let others_due = settlements.iter().map(|settlement| promoted.contains(&settlement.delivery));
            // The dispatcher may have stopped.
            drop(reply.send(Ok(others_due.collect())));
        }
    }

    /// Executes the group until its outcome is known.
    async fn execute(&mut self, group: &[QueuedOutcomes]) -> Result<FastSet<DeliverySeq>, Failure> {
        let mut conflicts = 0;
        let mut unknown = None;
        loop {
            let mut promoted = None;
            match self.try_execute(group, &mut promoted).await {
                Ok(Guard::Runs) => {
                    self.row.committed();
                    return promoted.ok_or(Failure::Unavailable);
                }
                Ok(Guard::HasCommitted) => {
                    self.row.committed();
                    return unknown.ok_or(Failure::Unavailable);
                }
                Err(error) => {
                    let failure = classify(&error);
                    self.row.log_failure(&error, &failure);
                    if failure == Failure::OutcomeUnknown {
                        unknown = promoted.or(unknown);
                    }
                    match failure {
                        Failure::Refused => return Err(Failure::Refused),
                        Failure::Conflict if conflicts < CONFLICTS => conflicts += 1,
                        _ if self.stopping.is_cancelled() => return Err(Failure::Unavailable),
                        _ => tokio::time::sleep(RETRY).await,
                    }
                }
            }
        }
    }

    /// Executes the group once. `promoted` is set before the COMMIT.
    async fn try_execute(
        &mut self,
        group: &[QueuedOutcomes],
        promoted: &mut Option<FastSet<DeliverySeq>>,
    ) -> Result<Guard, DbError> {
        let mut seen: FastSet<DeliverySeq> = FastSet::default();
        let mut rounds: Vec<Vec<&Settlement>> = vec![Vec::new()];
        for settlement in group.iter().flat_map(|operation| &operation.settlements) {
            // One operation may name a delivery twice: its second outcome is settled after the first.
            if !seen.insert(settlement.delivery) {
                rounds.push(Vec::new());
                seen.clear();
                seen.insert(settlement.delivery);
            }
            if let Some(round) = rounds.last_mut() {
                round.push(settlement);
            }
        }
        let session = self.row.connections.clone().session().await?;
        let (tx, guard) = try_join!(session.begin(), self.row.begin(&session))?;
        if guard == Guard::HasCommitted {
            self.row.confirm(tx).await?;
            return Ok(Guard::HasCommitted);
        }
        let mut backlog = BacklogChanges::default();
        let mut all = FastSet::default();
        for round in &rounds {
            match settle::settle(&tx, round, &self.fence, &mut backlog).await {
                Ok(promoted) => all.extend(promoted),
                Err(error) => {
                    if error.is_conflict() || error.is_refusal() {
                        tx.rollback().await?;
                    }
                    return Err(error);
                }
            }
        }
        backlog.write(&tx, self.row.id).await?;
        let latest =
            group.iter().flat_map(|operation| &operation.settlements).map(|settlement| settlement.at).max();
        self.row.mark_commit(&tx, latest).await?;
        *promoted = Some(all);
        tx.commit().await?;
        Ok(Guard::Runs)
    }

    fn fail(&self, group: Vec<QueuedOutcomes>, failure: &Failure) {
        for QueuedOutcomes { settlements, reply } in group {
            self.ownership.end_attempts(settlements.iter().map(|settlement| settlement.delivery));
            let error = match failure {
                Failure::Refused => StoreError::Refused("the database refused a value of the outcome".into()),
                _ => unavailable(),
            };
            drop(reply.send(Err(error)));
        }
    }
}
