//! Who is sent next: a queue a hook, short in memory and long on disk.
//!
//! One task owns the queues. What was just accepted is handed over in memory while the hook keeps up; what does not fit
//! waits on disk and is read in chunks. A delivery is claimed from the moment it is in memory until its outcome is
//! committed, so that it is never under way twice.

mod attempt;
mod command;
mod hold;
mod orphans;
mod places;
mod queue;
mod settler;
mod start;
mod undecided;
mod wakes;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::handlers::Sender;
use super::report::Reports;
use super::route::{Known, Routes};
use super::store::{Due, HookId, Most, Next, Pending, Seq, Store, StoreError};
use crate::core::time::Millis;
use crate::metrics::Metrics;
pub use command::Handle;
use command::{Came, Command, Settled};
use hold::{Hold, Mark};
use places::Places;
use queue::{NoRoom, Queue, UnderWay};
use undecided::decide_again;
use wakes::Wakes;

/// Commands that wait for the dispatcher; then ingest waits.
const COMMANDS: usize = 8192;
/// Commands that are taken at a time.
const AT_ONCE: usize = 256;
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

/// What the dispatcher needs.
pub struct Parts {
    pub store: Arc<dyn Store>,
    pub routes: Arc<Routes>,
    pub sender: Arc<Sender>,
    pub metrics: Arc<Metrics>,
    /// Deliveries of a deleted hook wait this long, should it come back.
    pub grace: Duration,
    /// Where it is said how hooks fare.
    pub reports: Arc<Reports>,
}

/// The queues of all hooks.
pub struct Dispatcher {
    store: Arc<dyn Store>,
    routes: Arc<Routes>,
    sender: Arc<Sender>,
    metrics: Arc<Metrics>,
    queues: HashMap<Arc<str>, Queue>,
    wakes: Wakes,
    places: Places,
    /// Hooks that may have got room by this batch of commands: each is looked at once after it.
    to_look_at: Vec<Arc<str>>,
    /// Hooks that are gone and for which something waits, by namespace and name.
    orphans: HashMap<(Arc<str>, Arc<str>), HookId>,
    /// The hooks that the store takes to be held, those of the last process among them.
    held: HashSet<Arc<str>>,
    waiting_bytes: usize,
    grace: Duration,
    reports: Arc<Reports>,
    tasks: TaskTracker,
    outcomes: mpsc::Sender<settler::Outcome>,
    stopping: bool,
    commands: mpsc::Receiver<Command>,
    handle: Handle,
}

impl Dispatcher {
    pub fn new(parts: Parts) -> (Self, Handle) {
        let (sender, commands) = mpsc::channel(COMMANDS);
        let handle = Handle { commands: sender };
        let tasks = TaskTracker::new();
        let (outcomes, came) = mpsc::channel(COMMANDS);
        tasks.spawn(settler::run(came, parts.store.clone(), handle.clone(), parts.metrics.clone()));
        let dispatcher = Dispatcher {
            sender: parts.sender,
            store: parts.store,
            routes: parts.routes,
            metrics: parts.metrics,
            queues: HashMap::new(),
            wakes: Wakes::default(),
            places: Places::new(MAX_IN_FLIGHT),
            to_look_at: Vec::new(),
            orphans: HashMap::new(),
            held: HashSet::new(),
            grace: parts.grace,
            reports: parts.reports,
            waiting_bytes: 0,
            tasks,
            outcomes,
            stopping: false,
            commands,
            handle: handle.clone(),
        };
        (dispatcher, handle)
    }

    /// Delivers until `stop`, then lets what is under way come to its end for a while. What is cut off is repeated at
    /// the next start.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        self.take_stock().await?;
        let mut batch = Vec::with_capacity(AT_ONCE);
        loop {
            let next = self.wakes.next();
            let timer = async {
                match next {
                    Some(at) => tokio::time::sleep(at.since(Millis::now())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                came = self.commands.recv_many(&mut batch, AT_ONCE) => {
                    if came == 0 {
                        break;
                    }
                    batch.drain(..).for_each(|command| self.take(command));
                    self.go_on();
                }
                () = timer => self.wake(Millis::now()),
            }
        }
        self.stopping = true;
        self.tasks.close();
        // The settler ends when nobody has an outcome for it any more.
        self.outcomes = mpsc::channel(1).0;
        let tasks = self.tasks.clone();
        let ended = async {
            loop {
                tokio::select! {
                    Some(command) = self.commands.recv() => self.take(command),
                    () = tasks.wait() => break,
                }
            }
        };
        if tokio::time::timeout(STOP_WITHIN, ended).await.is_err() {
            tracing::warn!(
                attempts = self.places.taken(),
                "attempts under way were cut off: they are repeated at the next start"
            );
        }
        Ok(())
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Accepted(all) => {
                let mut hooks: Vec<_> = all.into_iter().map(|pending| self.accepted(pending)).collect();
                hooks.dedup();
                hooks.iter().for_each(|uid| self.pump(uid));
            }
            Command::HookChanged(uid) => self.hook_changed(&uid),
            Command::Buried(hook) => self.forget(&hook),
            Command::NamespaceEnded(name) => self.namespace_ended(&name),
            Command::Wake(uid) => {
                self.queues.entry(uid.clone()).or_default().missed();
                self.pump(&uid);
            }
            Command::Raised(hook) => {
                let uid = hook.uid.clone();
                self.queue_of(hook).missed();
                self.pump(&uid);
            }
            Command::Changed { hook, seq } => {
                let uid = hook.uid.clone();
                match self.queue_of(hook).changed(seq) {
                    Ok(bytes) => self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes),
                    Err(UnderWay) => self.wakes.at(Millis::now() + READ_AGAIN, &uid),
                }
                self.pump(&uid);
            }
            Command::Loaded { uid, found } => self.loaded(&uid, found),
            Command::Sent { uid, came } => {
                self.judge(&uid, came);
                self.ended(uid);
            }
            Command::Undecided { uid, generation, why } => {
                if let Some(queue) = self.queues.get_mut(&uid) {
                    queue.undecided = Some((generation, why));
                }
            }
            Command::NotNow { uid, seq, missing } => {
                self.not_now(&uid, seq, missing);
                self.ended(uid);
            }
            Command::Settled(all) => all.into_iter().for_each(|one| self.settled(&one)),
        }
    }

    /// The queue of a hook that may be gone: without its name nobody would find the hook that takes it up.
    fn queue_of(&mut self, hook: HookId) -> &mut Queue {
        let queue = self.queues.entry(hook.uid.clone()).or_default();
        queue.id.get_or_insert(hook);
        queue
    }

    fn settled(&mut self, Settled { uid, seq, next, woken }: &Settled) {
        if let Some(queue) = self.queues.get_mut(uid) {
            let was_full = queue.is_full();
            match next {
                Some(_) => queue.settled(*seq),
                None => drop(queue.claimed.remove(seq)),
            }
            if was_full {
                self.to_look_at.push(uid.clone());
            }
        }
        match next {
            Some(Next::Retry { due }) => self.wakes.at(*due, uid),
            Some(Next::Delivered | Next::Dead { .. }) => self.tidy(uid),
            // It could not be committed: it is on disk as it was, and tried again.
            None => self.wakes.at(Millis::now() + READ_AGAIN, uid),
        }
        if *woken {
            self.queues.entry(uid.clone()).or_default().missed();
            self.pump(uid);
        }
    }

    /// The hook is another now, or is gone, or what it refers to changed.
    fn hook_changed(&mut self, uid: &Arc<str>) {
        let known = self.routes.get(uid);
        match self.queues.get_mut(uid) {
            Some(queue) => {
                queue.missed();
                queue.look_at = None;
                // Not at every change: the condition that tells of it is one.
                let generation = known.as_ref().map(|known| known.generation);
                if queue.undecided.take_if(|(of, _)| Some(*of) != generation).is_some() {
                    self.tasks.spawn(decide_again(
                        self.store.clone(),
                        self.handle.clone(),
                        vec![uid.clone()],
                    ));
                }
            }
            // The store has to know of a hold even while nothing waits: the age of what comes does not run.
            None if hold::hold(known.as_ref(), &Queue::default()).is_some() && known.is_some() => {
                self.queues.entry(uid.clone()).or_default();
            }
            None => {}
        }
        if let Some(known) = known
            && let Some(old) = self.orphans.remove(&(known.id.namespace.clone(), known.id.name.clone()))
        {
            self.take_up(old, known.id.clone());
        }
        self.pump(uid);
        self.tidy(uid);
    }

    /// Remembers how the receiver fared.
    fn judge(&mut self, uid: &Arc<str>, came: Came) {
        let Some(queue) = self.queues.get_mut(uid) else { return };
        let was_open = queue.breaker.is_open();
        if !matches!(came, Came::Nothing) {
            queue.missing = None;
            queue.denied = None;
        }
        match came {
            Came::Nothing => queue.breaker.undecided(Millis::now()),
            Came::Well => {
                queue.breaker.succeeded();
                queue.went_well = true;
            }
            Came::Badly(error) => {
                queue.breaker.failed(Millis::now());
                queue.last_error = Some(error);
            }
            Came::Gone => {
                queue.breaker.succeeded();
                queue.gone = self.routes.get(uid).map(|known| Mark::of(&known));
            }
            Came::Denied(why) => {
                queue.breaker.undecided(Millis::now());
                queue.denied = Some(why);
            }
        }
        if queue.breaker.is_open() != was_open {
            self.metrics.breaker(!was_open);
            let known = self.routes.get(uid);
            known
                .iter()
                .filter_map(|known| known.series.as_ref())
                .for_each(|series| series.breaker(!was_open));
        }
    }

    /// The hook that has this name now.
    fn named(&self, id: &HookId) -> Option<Arc<Known>> {
        self.routes.get(&self.routes.uid_of(&id.namespace, &id.name)?)
    }

    /// Forgets a queue.
    fn drop_queue(&mut self, uid: &str) {
        let Some(queue) = self.queues.remove(uid).filter(|queue| queue.breaker.is_open()) else { return };
        self.metrics.breaker(false);
        // The series go by the name, which another hook may have taken up.
        let named = queue.id.and_then(|id| self.named(&id));
        named.iter().filter_map(|known| known.series.as_ref()).for_each(|series| series.breaker(false));
    }

    /// Holds a hook that lacks something. Nothing is written for its deliveries: a backlog of any size waits as it is, and
    /// one of them looks again, not each.
    fn not_now(&mut self, uid: &Arc<str>, seq: Seq, missing: Option<Hold>) {
        let Some(queue) = self.queues.get_mut(uid) else { return };
        let at = Millis::now() + LOOK_AGAIN;
        queue.claimed.remove(&seq);
        queue.missed();
        queue.breaker.undecided(Millis::now());
        queue.look_at = Some(at);
        // None: the hook went or broke meanwhile, and that holds it by itself.
        queue.missing = missing;
        self.wakes.at(at, uid);
    }

    /// Takes in what was just accepted; its hook, which may now have something to send.
    fn accepted(&mut self, pending: Pending) -> Arc<str> {
        let uid = pending.hook.uid.clone();
        let size = queue::bytes(&pending);
        let fits = self.waiting_bytes + size <= MAX_WAITING_BYTES;
        let queue = self.queues.entry(uid.clone()).or_default();
        queue.id.get_or_insert_with(|| pending.hook.clone());
        match fits.then(|| queue.offer(pending)) {
            Some(Ok(bytes)) => self.waiting_bytes += bytes,
            Some(Err(NoRoom)) | None => queue.missed(),
        }
        uid
    }

    /// What was due on disk is due now.
    fn wake(&mut self, now: Millis) {
        while let Some(uid) = self.wakes.due(now) {
            self.queues.entry(uid.clone()).or_default().missed();
            self.pump(&uid);
        }
    }

    fn loaded(&mut self, uid: &Arc<str>, found: Result<(Due, Option<Millis>), StoreError>) {
        let Some(queue) = self.queues.get_mut(uid) else { return };
        match found {
            Ok((due, next_due)) => {
                self.waiting_bytes += queue.loaded(due);
                if let Some(at) = next_due {
                    self.wakes.at(at, uid);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the backlog of a hook could not be read");
                queue.loading = false;
                self.wakes.at(Millis::now() + READ_AGAIN, uid);
                return;
            }
        }
        self.pump(uid);
        self.tidy(uid);
    }

    /// Starts what the hook may start, and reads on where its queue runs low.
    fn pump(&mut self, uid: &Arc<str>) {
        if self.stopping {
            return;
        }
        let known = self.routes.get(uid);
        let Some(queue) = self.queues.get_mut(uid) else { return };
        if let Some(known) = &known {
            queue.id.get_or_insert_with(|| known.id.clone());
            queue.gone_since = None;
        }
        let held = hold::hold(known.as_ref(), queue);
        if let Some(id) = &queue.id {
            hold::note(&mut self.held, &self.reports, id, held.is_some());
        }
        hold::tell(queue, known.as_deref(), held.as_ref(), &self.reports.fares);
        if hold::shut(held.as_ref(), queue, Millis::now()) {
            self.waiting_bytes = self.waiting_bytes.saturating_sub(queue.hold());
            if known.is_none() {
                self.gone(uid);
            }
            return;
        }
        let Some(Ok(hook)) = known.as_ref().map(|k| &k.hook) else { return };
        let (expired, freed) = queue.expired(hook.delivery.retry.max_age, Millis::now());
        self.waiting_bytes = self.waiting_bytes.saturating_sub(freed);
        let more_may_be_old = !expired.is_empty();
        if more_may_be_old {
            let series = known.as_ref().and_then(|known| known.series.clone());
            self.tasks.spawn(attempt::expire(expired, series, self.outcomes.clone()));
        }
        let concurrency = hook.delivery.concurrency;
        let mut wait_until = None;
        while queue.in_flight < concurrency && !queue.ready.is_empty() {
            if self.places.are_taken() {
                if !std::mem::replace(&mut queue.crowded, true) {
                    self.places.wait(uid.clone());
                }
                break;
            }
            if let Err(until) = queue.leave(hook.delivery.rate, Millis::now()) {
                until.into_iter().for_each(|at| wait_until = Some(at));
                break;
            }
            let Some(pending) = queue.ready.pop_front() else { break };
            self.places.take();
            queue.in_flight += 1;
            self.waiting_bytes = self.waiting_bytes.saturating_sub(queue::bytes(&pending));
            self.tasks.spawn(attempt::attempt(attempt::Task {
                pending,
                routes: self.routes.clone(),
                sender: self.sender.clone(),
                outcomes: self.outcomes.clone(),
                metrics: self.metrics.clone(),
                handle: self.handle.clone(),
            }));
        }
        let memory_is_full = self.waiting_bytes >= MAX_WAITING_BYTES;
        let may_read = match wait_until {
            Some(_) if !more_may_be_old => false,
            // With the memory full, who has something reads no more.
            _ if memory_is_full => queue.ready.is_empty() && queue.in_flight == 0,
            _ => true,
        };
        let read = may_read && queue.wants_more();
        let has = if read { queue.claimed.clone() } else { HashSet::new() };
        if let Some(at) = wait_until {
            self.wakes.at(at, uid);
        }
        if read {
            let most = if memory_is_full { Most { rows: 1, ..queue::MOST } } else { queue::MOST };
            let (store, handle, uid) = (self.store.clone(), self.handle.clone(), uid.clone());
            self.tasks.spawn(async move {
                let now = Millis::now();
                let found =
                    async { Ok((store.due(&uid, now, has, most).await?, store.next_due(&uid, now).await?)) }
                        .await;
                handle.commands.send(Command::Loaded { uid, found }).await.ok();
            });
        }
    }

    /// Forgets the queue of a hook with nothing to do, so that memory follows the hooks that have work.
    fn tidy(&mut self, uid: &Arc<str>) {
        if self.queues.get(uid).is_some_and(Queue::idle) {
            self.drop_queue(uid);
        }
    }
}

#[cfg(test)]
mod tests;
