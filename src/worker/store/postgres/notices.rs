//! Notifies the dispatcher of what other processes did: deliveries of own hooks that other workers accepted or changed, and changes of
//! ownership.
//!
//! Signals of other workers come at once (`signals`). A poll behind them is enough alone. It reads the hooks with due
//! deliveries, and not rows after the last one that it saw: numbers do not commit in their order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc};
use tokio_postgres::Notification;
use tokio_util::sync::CancellationToken;

use super::super::{DispatchNotice, HookBacklog};
use super::connections::Connections;
use super::failure::DbError;
use super::membership::Ownership;
use super::session::Session;
use super::{due, hooks, signals};
use crate::core::time::Millis;

/// How often the backlog is read while signals come, and without them.
const POLL_BEHIND_SIGNALS: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(500);
/// A read takes at most one part in this many of the time.
const LOAD: u32 = 20;
/// Notices that wait for the dispatcher.
const CAPACITY: usize = 64;
/// Signals that wait. Others are dropped, and the poll finds the deliveries.
const SIGNALS: usize = 1024;

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

/// Sends notices until the process stops or the dispatcher ends.
pub(super) async fn run(
    connections: Arc<Connections>,
    ownership: Arc<Ownership>,
    notices: mpsc::Sender<DispatchNotice>,
    stopping: CancellationToken,
) {
    let noticing = Noticing { connections, ownership, notices };
    tokio::select! {
        () = stopping.cancelled() => {}
        _ = noticing.run() => {}
    }
}

/// A connection that listens.
struct Listener {
    _session: Session,
    signals: mpsc::Receiver<Notification>,
}

/// The dispatcher has ended.
struct Ended;

struct Noticing {
    connections: Arc<Connections>,
    ownership: Arc<Ownership>,
    notices: mpsc::Sender<DispatchNotice>,
}

impl Noticing {
    async fn run(self) -> Result<(), Ended> {
        let mut listener = self.listen().await;
        let mut pause = POLL;
        loop {
            let signal = async {
                match &mut listener {
                    Some(listener) => listener.signals.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                change = self.ownership.next_change() => {
                    if change.has_lost || !change.gained.is_empty() {
                        self.send(DispatchNotice::OwnershipChanged).await?;
                        // Hooks that were gained may have due deliveries.
                        pause = self.poll(&listener).await?;
                    }
                    if !change.freed.is_empty() {
                        self.send(DispatchNotice::DueHooks(change.freed.into_iter().collect())).await?;
                    }
                }
                signal = signal => match signal {
                    Some(signal) => self.forward(signal.payload()).await?,
                    // The connection ended. Until the next poll, nothing listens.
                    None => (listener, pause) = (None, POLL),
                },
                () = tokio::time::sleep(pause) => {
                    if listener.is_none() {
                        listener = self.listen().await;
                    }
                    pause = self.poll(&listener).await?;
                }
            }
        }
    }

    async fn send(&self, notice: DispatchNotice) -> Result<(), Ended> {
        self.notices.send(notice).await.map_err(|_| Ended)
    }

    /// Listens. None: a pooler is in between, or the database is away.
    async fn listen(&self) -> Option<Listener> {
        let (sender, signals) = mpsc::channel(SIGNALS);
        let session = self.connections.listening(sender).await.ok().flatten()?;
        session.batch(&format!("LISTEN {}", signals::CHANNEL)).await.ok()?;
        Some(Listener { _session: session, signals })
    }

    /// Notifies the dispatcher of what another worker signals about own hooks.
    async fn forward(&self, payload: &str) -> Result<(), Ended> {
        let (mut due, mut changed) = (Vec::new(), Vec::new());
        for signal in signals::read(payload) {
            if !self.ownership.owns(&signal.hook_uid) {
                continue;
            }
            match signal.changed {
                None => due.push(signal.hook_uid.into()),
                Some(seq) => changed.push((signal.hook_uid, seq)),
            }
        }
        if !due.is_empty() {
            self.send(DispatchNotice::DueHooks(due)).await?;
        }
        if changed.is_empty() {
            return Ok(());
        }
        let named = async {
            let uids: Vec<&str> = changed.iter().map(|(uid, _)| uid.as_str()).collect();
            hooks::find_many(&self.connections.session().await?, &uids).await
        };
        let named: Result<_, DbError> = named.await;
        // Without the names, the poll finds replayed deliveries.
        let Ok(named) = named else { return Ok(()) };
        let changed = changed.into_iter().filter_map(|(uid, seq)| Some((named.get(&*uid)?.id.clone(), seq)));
        self.send(DispatchNotice::Changed(changed.collect())).await
    }

    /// Notifies the dispatcher of own hooks with due deliveries. Returns when to do it again.
    async fn poll(&self, listener: &Option<Listener>) -> Result<Duration, Ended> {
        let started = Instant::now();
        match self.due_hooks().await {
            Ok(hooks) if hooks.is_empty() => {}
            Ok(hooks) => self.send(DispatchNotice::Due(hooks)).await?,
            Err(error) => tracing::debug!(%error, "read of the backlog failed, retried"),
        }
        let least = if listener.is_some() { POLL_BEHIND_SIGNALS } else { POLL };
        Ok(least.max(started.elapsed() * LOAD))
    }

    async fn due_hooks(&self) -> Result<Vec<HookBacklog>, DbError> {
        let shards = self.ownership.shards();
        if shards.is_empty() {
            return Ok(Vec::new());
        }
        let session = self.connections.session().await?;
        let now = Millis::now();
        let mut backlog = due::backlog(&session, &shards).await?;
        backlog.retain(|backlog| backlog.next_due <= now);
        Ok(backlog)
    }
}
