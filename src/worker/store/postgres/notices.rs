//! Tells the dispatcher what it cannot know: deliveries of own hooks that other workers accepted, and changes of ownership.
//!
//! A poll is enough alone. It reads the hooks with pending deliveries, and not rows after the last one that it saw: numbers do
//! not commit in their order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::super::{DispatchNotice, HookBacklog};
use super::connections::Connections;
use super::due;
use super::failure::DbError;
use super::membership::{Ownership, OwnershipChange};
use crate::core::time::Millis;

/// How often the backlog is read.
const POLL: Duration = Duration::from_millis(500);
/// A read takes at most one part of this many of the time.
const LOAD: u32 = 20;
/// Notices that wait for the dispatcher.
const CAPACITY: usize = 16;

/// The notices of the dispatcher.
pub(super) struct NoticeReceiver(Mutex<mpsc::Receiver<DispatchNotice>>);

impl NoticeReceiver {
    pub(super) async fn next(&self) -> DispatchNotice {
        match self.0.lock().await.recv().await {
            Some(notice) => notice,
            // The store is closing.
            None => std::future::pending().await,
        }
    }
}

pub(super) fn channel() -> (mpsc::Sender<DispatchNotice>, NoticeReceiver) {
    let (sender, receiver) = mpsc::channel(CAPACITY);
    (sender, NoticeReceiver(Mutex::new(receiver)))
}

/// Sends notices until the process stops.
pub(super) async fn poll(
    connections: Arc<Connections>,
    ownership: Arc<Ownership>,
    notices: mpsc::Sender<DispatchNotice>,
    stopping: CancellationToken,
) {
    let mut pause = POLL;
    loop {
        let change = tokio::select! {
            () = stopping.cancelled() => return,
            change = ownership.next_change() => change,
            () = tokio::time::sleep(pause) => OwnershipChange::default(),
        };
        if change != OwnershipChange::default()
            && notices.send(DispatchNotice::OwnershipChanged).await.is_err()
        {
            return;
        }
        let started = Instant::now();
        match due_hooks(&connections, &ownership).await {
            Ok(hooks) if hooks.is_empty() => {}
            Ok(hooks) => {
                if notices.send(DispatchNotice::Due(hooks)).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::debug!(%error, "read of the backlog failed, retried"),
        }
        pause = POLL.max(started.elapsed() * LOAD);
    }
}

/// Returns the own hooks with due deliveries.
async fn due_hooks(connections: &Connections, ownership: &Ownership) -> Result<Vec<HookBacklog>, DbError> {
    let shards = ownership.shards();
    if shards.is_empty() {
        return Ok(Vec::new());
    }
    let session = connections.session().await?;
    let now = Millis::now();
    let mut backlog = due::backlog(&session, &shards).await?;
    backlog.retain(|backlog| backlog.next_due <= now);
    Ok(backlog)
}
