//! Who is sent next: a queue a hook, short in memory and long on disk.
//!
//! One task owns the queues. What was just accepted is handed over in memory while the hook keeps up; what does not fit
//! waits on disk and is read in chunks. A delivery is claimed from the moment it is in memory until its outcome is
//! committed, so that it is never under way twice.

mod attempt;
mod queue;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::handlers::Sender;
use super::route::Routes;
use super::store::{Next, Pending, Seq, Settlement, Store, StoreError};
use crate::cluster::Cluster;
use crate::core::time::Millis;
use crate::metrics::Metrics;
use crate::net::HttpClient;
use queue::{NoRoom, Queue};

/// Commands that wait for the dispatcher; then ingest waits.
const COMMANDS: usize = 8192;
/// Attempts under way in all.
const MAX_IN_FLIGHT: usize = 2048;
/// Bytes of events that may wait in memory; more wait on disk.
const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;
/// After a read of the store failed.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// What is under way when the process is asked to stop may take this long.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// What is missing (a Secret) is looked for again after this time, or when it changes.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Deliveries of a deleted hook wait this long, should it come back.
const HOOK_GRACE: Duration = Duration::from_secs(3600);

/// What the dispatcher needs.
pub struct Parts {
    pub store: Arc<dyn Store>,
    pub routes: Arc<Routes>,
    pub cluster: Arc<dyn Cluster>,
    pub http: HttpClient,
    pub metrics: Arc<Metrics>,
}

/// Tells the dispatcher.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

enum Command {
    Accepted(Pending),
    HookChanged(Arc<str>),
    /// Something of the hook became due on disk.
    Wake(Arc<str>),
    Loaded {
        uid: Arc<str>,
        limit: usize,
        found: Result<(Vec<Pending>, Option<Millis>), StoreError>,
    },
    /// The receiver answered, or did not: the hook may send the next.
    Sent {
        uid: Arc<str>,
        /// What it tells of the receiver: None where it tells nothing.
        fine: Option<bool>,
    },
    /// No attempt was made: the hook's deliveries wait.
    NotNow {
        uid: Arc<str>,
        seq: Seq,
        missing: Option<Missing>,
    },
    /// The outcome is on disk: the delivery is nobody's.
    Settled {
        uid: Arc<str>,
        seq: Seq,
        next: Option<Next>,
    },
}

/// What a hook lacks.
struct Missing {
    reason: &'static str,
    detail: String,
}

impl Handle {
    /// Hands over a delivery that was just committed.
    pub async fn accepted(&self, pending: Pending) {
        // Closed: the process stops, and the delivery is on disk.
        self.commands.send(Command::Accepted(pending)).await.ok();
    }

    /// Something of the hook became due on disk.
    pub async fn wake(&self, uid: Arc<str>) {
        self.commands.send(Command::Wake(uid)).await.ok();
    }

    pub async fn hook_changed(&self, uid: Arc<str>) {
        self.commands.send(Command::HookChanged(uid)).await.ok();
    }
}

/// The queues of all hooks.
pub struct Dispatcher {
    store: Arc<dyn Store>,
    routes: Arc<Routes>,
    sender: Arc<Sender>,
    metrics: Arc<Metrics>,
    queues: HashMap<Arc<str>, Queue>,
    /// When which hook has something due on disk, one time a hook: a backlog of any size costs no more.
    wakes: BTreeSet<(Millis, Arc<str>)>,
    wake_of: HashMap<Arc<str>, Millis>,
    /// Hooks that could send and had to wait for a place under `MAX_IN_FLIGHT`, in the order in which they came.
    crowded: VecDeque<Arc<str>>,
    in_flight: usize,
    waiting_bytes: usize,
    tasks: JoinSet<()>,
    stopping: bool,
    commands: mpsc::Receiver<Command>,
    handle: Handle,
}

impl Dispatcher {
    pub fn new(parts: Parts) -> (Self, Handle) {
        let (sender, commands) = mpsc::channel(COMMANDS);
        let handle = Handle { commands: sender };
        let dispatcher = Dispatcher {
            sender: Arc::new(Sender::new(parts.http, parts.cluster)),
            store: parts.store,
            routes: parts.routes,
            metrics: parts.metrics,
            queues: HashMap::new(),
            wakes: BTreeSet::new(),
            wake_of: HashMap::new(),
            crowded: VecDeque::new(),
            in_flight: 0,
            waiting_bytes: 0,
            tasks: JoinSet::new(),
            stopping: false,
            commands,
            handle: handle.clone(),
        };
        (dispatcher, handle)
    }

    /// Delivers until `stop`, then lets what is under way come to its end for a while. What is cut off is repeated at
    /// the next start.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        for backlog in self.store.backlog().await? {
            self.wake_at(backlog.next_due, &backlog.hook.uid);
        }
        loop {
            let next = self.wakes.first().map(|(at, _)| *at);
            let timer = async {
                match next {
                    Some(at) => tokio::time::sleep(at.since(Millis::now())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                command = self.commands.recv() => match command {
                    Some(command) => self.take(command),
                    None => break,
                },
                () = timer => self.wake(Millis::now()),
                // Reaps ended tasks, which would otherwise gather.
                Some(_) = self.tasks.join_next(), if !self.tasks.is_empty() => {}
            }
        }
        self.stopping = true;
        let ended = async {
            while !self.tasks.is_empty() {
                tokio::select! {
                    Some(command) = self.commands.recv() => self.take(command),
                    _ = self.tasks.join_next() => {}
                }
            }
        };
        if tokio::time::timeout(STOP_WITHIN, ended).await.is_err() {
            tracing::warn!(
                attempts = self.in_flight,
                "attempts under way were cut off: they are repeated at the next start"
            );
        }
        Ok(())
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Accepted(pending) => self.accepted(pending),
            Command::HookChanged(uid) => {
                if let Some(queue) = self.queues.get_mut(&uid) {
                    queue.missed();
                    queue.held_until = None;
                }
                self.pump(&uid);
            }
            Command::Wake(uid) => {
                self.queues.entry(uid.clone()).or_default().missed();
                self.pump(&uid);
            }
            Command::Loaded { uid, limit, found } => self.loaded(&uid, limit, found),
            Command::Sent { uid, fine } => {
                self.judge(&uid, fine);
                self.ended(&uid);
            }
            Command::NotNow { uid, seq, missing } => {
                self.judge(&uid, None);
                self.not_now(&uid, seq, missing);
                self.ended(&uid);
            }
            Command::Settled { uid, seq, next } => {
                if let Some(queue) = self.queues.get_mut(&uid) {
                    match next {
                        Some(_) => queue.settled(seq),
                        None => drop(queue.claimed.remove(&seq)),
                    }
                }
                match next {
                    Some(Next::Retry { due }) => self.wake_at(due, &uid),
                    Some(Next::Delivered | Next::Dead { .. }) => self.tidy(&uid),
                    // It could not be committed: it is on disk as it was, and tried again.
                    None => self.wake_at(Millis::now() + READ_AGAIN, &uid),
                }
            }
        }
    }

    /// Tells the hook's breaker how its receiver fared.
    fn judge(&mut self, uid: &Arc<str>, fine: Option<bool>) {
        let Some(queue) = self.queues.get_mut(uid) else { return };
        let (now, was_open) = (Millis::now(), queue.breaker.is_open());
        match fine {
            Some(true) => queue.breaker.succeeded(),
            Some(false) => queue.breaker.failed(now),
            None => queue.breaker.undecided(now),
        }
        if was_open != queue.breaker.is_open() {
            let Some(known) = self.routes.get(uid) else { return };
            let (hook, namespace) = (&known.id.name, &known.id.namespace);
            if was_open {
                tracing::info!(%hook, %namespace, "the receiver answers again");
            } else {
                tracing::warn!(%hook, %namespace, "the receiver fails and fails: its deliveries wait, and one is tried now and then");
            }
        }
    }

    /// An attempt is over: the hook may make another.
    fn ended(&mut self, uid: &Arc<str>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(queue) = self.queues.get_mut(uid) {
            queue.in_flight = queue.in_flight.saturating_sub(1);
        }
        self.pump(uid);
        // A place is free: it goes to the hook that has waited for one the longest.
        while self.in_flight < MAX_IN_FLIGHT {
            let Some(waiting) = self.crowded.pop_front() else { break };
            if let Some(queue) = self.queues.get_mut(&waiting) {
                queue.crowded = false;
            }
            self.pump(&waiting);
        }
    }

    /// Holds a hook that lacks something. Nothing is written: a backlog of any size waits as it is, and one delivery
    /// looks again, not each.
    fn not_now(&mut self, uid: &Arc<str>, seq: Seq, missing: Option<Missing>) {
        let Some(queue) = self.queues.get_mut(uid) else { return };
        queue.claimed.remove(&seq);
        queue.missed();
        let now = Millis::now();
        // Those that were under way together say the same.
        if queue.held_until.is_some_and(|until| until > now) {
            return;
        }
        queue.held_until = Some(now + LOOK_AGAIN);
        self.wake_at(now + LOOK_AGAIN, uid);
        if let (Some(Missing { reason, detail }), Some(known)) = (missing, self.routes.get(uid)) {
            let (hook, namespace) = (&known.id.name, &known.id.namespace);
            tracing::warn!(%hook, %namespace, reason, "{detail}; its deliveries wait");
        }
    }

    fn accepted(&mut self, pending: Pending) {
        let uid = pending.hook.uid.clone();
        let size = pending.event.data.get().len();
        let fits = self.waiting_bytes + size <= MAX_WAITING_BYTES;
        let queue = self.queues.entry(uid.clone()).or_default();
        match fits.then(|| queue.offer(pending)) {
            Some(Ok(bytes)) => self.waiting_bytes += bytes,
            Some(Err(NoRoom)) | None => queue.missed(),
        }
        self.pump(&uid);
    }

    /// Looks at what a hook has on disk at this time, or earlier where that was said before. A later time is found again
    /// by the look itself.
    fn wake_at(&mut self, at: Millis, uid: &Arc<str>) {
        match self.wake_of.get(uid) {
            Some(earlier) if *earlier <= at => return,
            Some(later) => drop(self.wakes.remove(&(*later, uid.clone()))),
            None => {}
        }
        self.wake_of.insert(uid.clone(), at);
        self.wakes.insert((at, uid.clone()));
    }

    /// What was due on disk is due now.
    fn wake(&mut self, now: Millis) {
        while let Some((at, uid)) = self.wakes.first().cloned() {
            if at > now {
                break;
            }
            self.wakes.remove(&(at, uid.clone()));
            self.wake_of.remove(&uid);
            self.queues.entry(uid.clone()).or_default().missed();
            self.pump(&uid);
        }
    }

    fn loaded(
        &mut self,
        uid: &Arc<str>,
        limit: usize,
        found: Result<(Vec<Pending>, Option<Millis>), StoreError>,
    ) {
        let Some(queue) = self.queues.get_mut(uid) else { return };
        match found {
            Ok((pending, next_due)) => {
                self.waiting_bytes += queue.loaded(pending, limit);
                if let Some(at) = next_due {
                    self.wake_at(at, uid);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the backlog of a hook could not be read");
                queue.loading = false;
                self.wake_at(Millis::now() + READ_AGAIN, uid);
                return;
            }
        }
        self.pump(uid);
    }

    /// Starts what the hook may start, and reads on where its queue runs low.
    fn pump(&mut self, uid: &Arc<str>) {
        if self.stopping {
            return;
        }
        let known = self.routes.get(uid);
        let Some(queue) = self.queues.get_mut(uid) else { return };
        let hook = match known.as_ref().map(|k| &k.hook) {
            Some(Ok(hook)) if !hook.delivery.paused && !queue.held(Millis::now()) => hook,
            Some(_) => {
                self.waiting_bytes = self.waiting_bytes.saturating_sub(queue.hold());
                return;
            }
            None => {
                self.waiting_bytes = self.waiting_bytes.saturating_sub(queue.hold());
                self.gone(uid);
                return;
            }
        };
        queue.gone_since = None;
        let concurrency = hook.delivery.concurrency;
        let mut wait_until = None;
        while queue.in_flight < concurrency && !queue.ready.is_empty() {
            if self.in_flight >= MAX_IN_FLIGHT {
                if !std::mem::replace(&mut queue.crowded, true) {
                    self.crowded.push_back(uid.clone());
                }
                break;
            }
            if let Err(until) = queue.leave(hook.delivery.rate, Millis::now()) {
                until.into_iter().for_each(|at| wait_until = Some(at));
                break;
            }
            let Some(pending) = queue.ready.pop_front() else { break };
            queue.in_flight += 1;
            self.in_flight += 1;
            self.waiting_bytes = self.waiting_bytes.saturating_sub(pending.event.data.get().len());
            self.tasks.spawn(attempt::attempt(attempt::Task {
                pending,
                routes: self.routes.clone(),
                sender: self.sender.clone(),
                store: self.store.clone(),
                metrics: self.metrics.clone(),
                handle: self.handle.clone(),
            }));
        }
        if let Some(at) = wait_until {
            self.wake_at(at, uid);
            return;
        }
        if let Some(limit) = queue.wants_more() {
            let (store, handle, uid) = (self.store.clone(), self.handle.clone(), uid.clone());
            self.tasks.spawn(async move {
                let now = Millis::now();
                let found =
                    async { Ok((store.due(&uid, now, limit).await?, store.next_due(&uid, now).await?)) }
                        .await;
                handle.commands.send(Command::Loaded { uid, limit, found }).await.ok();
            });
        }
    }

    /// The hook does not exist (any more). What waits for it waits for an hour, should it come back, then dies.
    fn gone(&mut self, uid: &Arc<str>) {
        let Some(queue) = self.queues.get_mut(uid) else { return };
        let now = Millis::now();
        let since = *queue.gone_since.get_or_insert(now);
        if now.since(since) < HOOK_GRACE {
            self.wake_at(since + HOOK_GRACE, uid);
            return;
        }
        let (store, handle, metrics, uid) =
            (self.store.clone(), self.handle.clone(), self.metrics.clone(), uid.clone());
        queue.gone_since = None;
        self.tasks.spawn(async move {
            bury(&*store, &metrics, &uid).await;
            handle.hook_changed(uid).await;
        });
    }

    /// Forgets the queue of a hook with nothing to do, so that memory follows the hooks that have work.
    fn tidy(&mut self, uid: &Arc<str>) {
        if self.queues.get(uid).is_some_and(Queue::idle) {
            self.queues.remove(uid);
        }
    }
}

/// Ends every pending delivery of a hook that is gone for good.
async fn bury(store: &dyn Store, metrics: &Metrics, uid: &str) {
    let far = Millis(i64::MAX);
    while let Ok(pending) = store.due(uid, far, 256).await {
        let seqs: HashSet<Seq> = pending.iter().map(|p| p.seq).collect();
        if seqs.is_empty() {
            return;
        }
        for delivery in seqs {
            let next = Next::Dead { reason: "HookDeleted" };
            if store.settle(Settlement { delivery, at: Millis::now(), attempt: None, next }).await.is_err() {
                return;
            }
            metrics.finished("dead", "HookDeleted");
        }
    }
}
