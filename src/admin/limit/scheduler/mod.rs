//! Schedules the calls to one host. No I/O; the caller passes the time.
//!
//! Namespaces are served round-robin, and so are the Connections of each, all within their own rates and the host's
//! ceiling. Within a Connection, calls of started operations go first, then deletes, changes and resyncs. Queue times are bounded: a call that would
//! wait longer is denied with a requeue delay, so that its reconcile frees its slot.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use super::pause::VendorPause;
use crate::core::breaker::{Breaker, BreakerPermit};
use crate::core::bucket::{Rate, TokenBucket};
use crate::core::time::Millis;

/// Maximum concurrent calls to one host. After a failure the limit of the Connection is one, and that of its route too if
/// the host could not be reached, so that a hanging host does not occupy many reconciles.
const MAX_IN_FLIGHT: usize = 8;
/// Maximum concurrent calls of one namespace, and of all Connections whose last call failed. The slow calls of one tenant
/// leave slots to the others.
const MAX_IN_FLIGHT_SHARE: usize = MAX_IN_FLIGHT / 2;
/// Number of Connections above which idle ones are removed.
const MAX_CONNECTIONS: usize = 1024;
/// Maximum calls of the same or a higher priority in a Connection's queue. Further calls are denied with a requeue
/// delay.
const MAX_QUEUED: usize = 4;
/// Maximum wait for the first call of an operation; a call that would wait longer is denied.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// Maximum wait for the later calls of an operation. Denying them would repeat the calls already made.
const MAX_WAIT_STARTED: Duration = Duration::from_secs(60);
/// Upper bound of a requeue delay, because the estimate may be wrong by then.
const MAX_REQUEUE_DELAY: Duration = Duration::from_secs(60);
/// Interval between requeued operations of a paused Connection that has no rate limit.
const MIN_SLOT_INTERVAL: Duration = Duration::from_millis(100);
/// Consecutive connect failures that open a route's breaker; consecutive failures of any kind that open a Connection's
/// breaker.
const BREAKER_FAILURES: u32 = 5;
/// Every n-th slot of a Connection goes to its oldest call of any priority, so that many edits do not starve resyncs.
const OLDEST_FIRST_INTERVAL: u64 = 8;

/// How a Connection reaches the host. Connections share a breaker only if they share the route: plain HTTP to a TLS port
/// says nothing about HTTPS there, and neither does another client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// The fingerprint of the TLS options. None is plain HTTP.
    pub tls: Option<[u8; 32]>,
}

/// The purpose of an operation; the first variant has the highest priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, strum::IntoStaticStr)]
pub enum Priority {
    Delete,
    Change,
    Resync,
}

/// Why a call may not wait in the queue. Each duration is the delay after which to retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotDenied {
    /// Earlier calls use up the rate limit.
    Busy(Duration),
    /// The vendor rejected a call of this Connection and requested a pause.
    VendorPaused(Duration),
    /// The breaker of the route or the Connection is open after consecutive failures.
    BreakerOpen(Duration),
}

/// The state of a queued call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotPoll {
    /// The call may be sent now.
    Granted,
    /// Poll again at this time, or when another call changes the queue.
    WaitUntil(Millis),
    Denied(SlotDenied),
}

/// The outcome of a call, as far as scheduling depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    Succeeded,
    /// The host was reached, and it responded with a server error or this Connection cannot use it.
    Failed,
    /// No response in time. Some requests are slow; this says nothing about other Connections.
    NoResponse,
    /// No connection to the host.
    NotConnected,
    /// Nothing is known about the host: the call was not sent, or was cancelled.
    Unknown,
}

struct QueuedCall {
    ticket: u64,
    priority: Priority,
    has_started: bool,
    deadline: Millis,
}

struct ConnectionQueue {
    route: Route,
    bucket: Option<TokenBucket>,
    queued: Vec<QueuedCall>,
    in_flight: usize,
    /// End of the pause that the vendor requested.
    paused_until: Millis,
    /// End of the pause after a rejected call. Until then denials report the vendor's rejection.
    rejected_until: Millis,
    breaker: Breaker,
    slots_granted: u64,
    /// When the denied calls are expected to be retried, by priority.
    requeued: [VecDeque<Millis>; 3],
}

/// The calls in flight and the breaker of one route.
struct RouteState {
    breaker: Breaker,
    in_flight: usize,
}

/// The queue, rates and breakers of one host.
pub struct HostScheduler {
    ceiling: TokenBucket,
    in_flight: usize,
    /// Routes with calls in flight or failures.
    routes: BTreeMap<Route, RouteState>,
    /// By namespace and name.
    connections: BTreeMap<String, ConnectionQueue>,
    /// The namespace that was served last.
    last_namespace: String,
    /// The Connection of each namespace that was served last.
    last_served: BTreeMap<String, String>,
    last_ticket: u64,
}

impl HostScheduler {
    pub fn new(ceiling: Rate, now: Millis) -> Self {
        HostScheduler {
            ceiling: TokenBucket::new(ceiling, now),
            in_flight: 0,
            routes: BTreeMap::new(),
            connections: BTreeMap::new(),
            last_namespace: String::new(),
            last_served: BTreeMap::new(),
            last_ticket: 0,
        }
    }

    /// Queues one call and returns its ticket. `has_started`: an earlier call of the same operation was sent. `name` is the
    /// Connection.
    pub fn enqueue(
        &mut self,
        name: &str,
        route: Route,
        rate: Option<Rate>,
        priority: Priority,
        has_started: bool,
        now: Millis,
    ) -> Result<u64, SlotDenied> {
        // A busy Connection with a lower rate limit uses only that part of the host's slots.
        let slot = self.ceiling.token_interval();
        let used_share = |c: &ConnectionQueue| {
            let own = c.bucket.as_ref().map_or(slot, TokenBucket::token_interval);
            (slot.as_secs_f64() / own.as_secs_f64().max(f64::MIN_POSITIVE)).min(1.0)
        };
        let mut busy: BTreeMap<&str, f64> = BTreeMap::new();
        for (other, connection) in self.connections.iter().filter(|(_, c)| !c.queued.is_empty()) {
            *busy.entry(namespace(other)).or_default() += used_share(connection);
        }
        let in_namespace = busy.get(namespace(name)).copied().unwrap_or_default();
        let namespaces: f64 = busy.values().map(|share| share.min(1.0)).sum();
        let share = slot.mul_f64(namespaces.max(1.0) * in_namespace.max(1.0));
        let host_ready = self.ceiling.ready_at(now).since(now);
        let broken = self.route_pause(route, now);
        if self.connections.len() >= MAX_CONNECTIONS && !self.connections.contains_key(name) {
            self.evict_idle(now);
        }
        let connection = self.connections.entry(name.to_owned()).or_insert_with(|| ConnectionQueue {
            route,
            bucket: None,
            queued: Vec::new(),
            in_flight: 0,
            paused_until: now,
            rejected_until: now,
            breaker: Breaker::with_threshold(BREAKER_FAILURES),
            slots_granted: 0,
            requeued: Default::default(),
        });
        if connection.route != route {
            // The address or the certificates were corrected; the earlier failures prove nothing about them.
            connection.route = route;
            connection.breaker = Breaker::with_threshold(BREAKER_FAILURES);
        }
        if connection.bucket.as_ref().map(TokenBucket::rate) != rate {
            connection.bucket = rate.map(|rate| TokenBucket::new(rate, now));
        }
        let paused = connection.paused_until.since(now);
        // Started operations wait here: restarting them would spend the remaining quota on the same calls, forever.
        if !paused.is_zero() && (!has_started || paused > MAX_WAIT_STARTED) {
            return Err(connection.pause_denial(priority, now));
        }
        if let Some(pause) = broken.or_else(|| open_for(&connection.breaker, now)) {
            return Err(SlotDenied::BreakerOpen(pause));
        }
        let ahead = connection.queued.iter().filter(|c| c.has_started || c.priority <= priority).count();
        let interval = connection.bucket.as_ref().map_or(share, |bucket| bucket.token_interval().max(share));
        let ready =
            connection.bucket.as_ref().map_or(host_ready, |b| b.ready_at(now).since(now).max(host_ready));
        let wait = ready + interval * u32::try_from(ahead).unwrap_or(u32::MAX);
        if !has_started && (ahead >= MAX_QUEUED || wait > MAX_WAIT) {
            return Err(SlotDenied::Busy(connection.requeue_delay(priority, wait, interval, now)));
        }
        self.last_ticket += 1;
        let deadline = now + if has_started { MAX_WAIT_STARTED } else { MAX_WAIT };
        connection.queued.push(QueuedCall { ticket: self.last_ticket, priority, has_started, deadline });
        Ok(self.last_ticket)
    }

    /// Returns the state of a queued call, and removes it from the queue unless it is `WaitUntil`.
    pub fn poll(&mut self, name: &str, ticket: u64, now: Millis) -> SlotPoll {
        let state = self.evaluate(name, ticket, now);
        if !matches!(state, SlotPoll::WaitUntil(_)) {
            self.cancel(name, ticket);
        }
        if state == SlotPoll::Granted {
            // `evaluate` found a token in each bucket.
            self.ceiling.try_take(now).ok();
            self.in_flight += 1;
            namespace(name).clone_into(&mut self.last_namespace);
            self.last_served.insert(namespace(name).to_owned(), name.to_owned());
            if let Some(connection) = self.connections.get_mut(name) {
                connection.bucket.as_mut().map(|bucket| bucket.try_take(now).ok());
                connection.in_flight += 1;
                connection.slots_granted += 1;
            }
        }
        state
    }

    fn evaluate(&mut self, name: &str, ticket: u64, now: Millis) -> SlotPoll {
        let call = self.connections.get(name).and_then(|connection| {
            let call = connection.queued.iter().find(|c| c.ticket == ticket)?;
            let own_ready = connection.ready_at(now);
            Some((call.deadline, call.priority, call.has_started, connection.paused_until, own_ready))
        });
        let Some((deadline, priority, has_started, paused, own_ready)) = call else {
            return SlotPoll::Denied(SlotDenied::Busy(MAX_WAIT));
        };
        if now < paused {
            if has_started && paused <= deadline {
                return SlotPoll::WaitUntil(paused);
            }
            let denied =
                self.connections.get_mut(name).map(|connection| connection.pause_denial(priority, now));
            return SlotPoll::Denied(denied.unwrap_or(SlotDenied::Busy(MAX_WAIT)));
        }
        if let Some(pause) = self.breaker_pause(name, now) {
            return SlotPoll::Denied(SlotDenied::BreakerOpen(pause));
        }
        if now >= deadline {
            let interval = self.ceiling.token_interval();
            let after =
                self.connections.get_mut(name).map(|c| c.requeue_delay(priority, MAX_WAIT, interval, now));
            return SlotPoll::Denied(SlotDenied::Busy(after.unwrap_or(MAX_WAIT)));
        }
        let ready = self.ceiling.ready_at(now).max(own_ready);
        if ready > now {
            return SlotPoll::WaitUntil(ready.min(deadline));
        }
        if self.next_ticket(now) != Some(ticket) {
            return SlotPoll::WaitUntil(deadline);
        }
        // `breaker_pause` checked both breakers on a copy; take the probe now.
        if let Some(connection) = self.connections.get_mut(name) {
            connection.breaker.request_permit(now);
            let route = self.routes.entry(connection.route).or_insert_with(|| RouteState {
                breaker: Breaker::with_threshold(BREAKER_FAILURES),
                in_flight: 0,
            });
            route.breaker.request_permit(now);
            route.in_flight += 1;
        }
        SlotPoll::Granted
    }

    /// Returns the call to serve next: the first one of the next Connection of the next namespace after the last served
    /// ones. Skips Connections without capacity, so that they block no other.
    fn next_ticket(&self, now: Millis) -> Option<u64> {
        if self.in_flight >= MAX_IN_FLIGHT {
            return None;
        }
        let mut in_flight: BTreeMap<&str, usize> = BTreeMap::new();
        let mut failing = 0;
        for (name, connection) in &self.connections {
            *in_flight.entry(namespace(name)).or_default() += connection.in_flight;
            failing += if connection.breaker.failures() > 0 { connection.in_flight } else { 0 };
        }
        let has_capacity = |name: &str, c: &ConnectionQueue| {
            let is_failing = c.breaker.failures() > 0;
            let of_connection = !is_failing || (c.in_flight == 0 && failing < MAX_IN_FLIGHT_SHARE);
            let of_namespace = in_flight.get(namespace(name)).is_none_or(|n| *n < MAX_IN_FLIGHT_SHARE);
            let of_route =
                self.routes.get(&c.route).is_none_or(|r| r.breaker.failures() == 0 || r.in_flight == 0);
            of_connection && of_namespace && of_route
        };
        let mut ready: BTreeMap<&str, BTreeMap<&str, &ConnectionQueue>> = BTreeMap::new();
        for (name, connection) in &self.connections {
            let is_reachable = || self.route_pause(connection.route, now).is_none();
            if connection.is_ready(now) && has_capacity(name, connection) && is_reachable() {
                ready.entry(namespace(name)).or_default().insert(name, connection);
            }
        }
        let (namespace, connections) = next_after(&ready, &self.last_namespace)?;
        let last = self.last_served.get(*namespace).map_or("", String::as_str);
        next_after(connections, last)?.1.next_ticket()
    }

    /// Returns how long the breaker of a route stays open.
    fn route_pause(&self, route: Route, now: Millis) -> Option<Duration> {
        self.routes.get(&route).and_then(|route| open_for(&route.breaker, now))
    }

    /// Returns how long the breaker of the route or of the Connection stays open.
    fn breaker_pause(&self, name: &str, now: Millis) -> Option<Duration> {
        let connection = self.connections.get(name)?;
        self.route_pause(connection.route, now).or_else(|| open_for(&connection.breaker, now))
    }

    /// Removes a call from the queue.
    pub fn cancel(&mut self, name: &str, ticket: u64) {
        if let Some(connection) = self.connections.get_mut(name) {
            connection.queued.retain(|c| c.ticket != ticket);
        }
    }

    /// Records the outcome of a granted call, and the pause that the vendor requested.
    pub fn complete(
        &mut self,
        name: &str,
        route: Route,
        outcome: CallOutcome,
        pause: Option<VendorPause>,
        now: Millis,
    ) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(state) = self.routes.get_mut(&route) {
            state.in_flight = state.in_flight.saturating_sub(1);
            match outcome {
                CallOutcome::Succeeded | CallOutcome::Failed => state.breaker.record_success(),
                CallOutcome::NotConnected => state.breaker.record_failure(now),
                CallOutcome::NoResponse | CallOutcome::Unknown => state.breaker.record_inconclusive(now),
            }
            if state.in_flight == 0 && state.breaker.is_idle() {
                self.routes.remove(&route);
            }
        }
        let Some(connection) = self.connections.get_mut(name) else { return };
        connection.in_flight = connection.in_flight.saturating_sub(1);
        match outcome {
            // The call concerned the former address or certificates.
            _ if connection.route != route => {}
            CallOutcome::Succeeded => connection.breaker.record_success(),
            CallOutcome::Failed | CallOutcome::NoResponse | CallOutcome::NotConnected => {
                connection.breaker.record_failure(now)
            }
            CallOutcome::Unknown => connection.breaker.record_inconclusive(now),
        }
        if let Some(pause) = pause {
            connection.paused_until = connection.paused_until.max(now + pause.duration());
        }
        if let Some(VendorPause::Rejected(time)) = pause {
            connection.rejected_until = connection.rejected_until.max(now + time);
        }
    }

    /// Removes Connections without any state to keep. Returns true if the whole host is idle and may be dropped.
    pub fn evict_idle(&mut self, now: Millis) -> bool {
        self.connections.retain(|_, c| {
            let is_full = c.bucket.as_ref().is_none_or(|b| b.is_full(now));
            let is_idle = c.queued.is_empty() && c.in_flight == 0 && c.breaker.is_idle();
            !(is_full
                && is_idle
                && c.paused_until <= now
                && c.requeued.iter().all(|times| times.back().is_none_or(|at| *at <= now)))
        });
        let connections = &self.connections;
        self.last_served.retain(|_, name| connections.contains_key(name));
        connections.is_empty() && self.in_flight == 0 && self.routes.is_empty() && self.ceiling.is_full(now)
    }
}

impl ConnectionQueue {
    fn ready_at(&self, now: Millis) -> Millis {
        self.bucket.as_ref().map_or(now, |bucket| bucket.ready_at(now))
    }

    /// Returns the denial for a call during a pause of the vendor.
    fn pause_denial(&mut self, priority: Priority, now: Millis) -> SlotDenied {
        if now < self.rejected_until {
            return SlotDenied::VendorPaused(self.rejected_until.since(now));
        }
        // The quota is exhausted, but no call was rejected: report a delay, not an error.
        let interval = self.bucket.as_ref().map_or(MIN_SLOT_INTERVAL, TokenBucket::token_interval);
        SlotDenied::Busy(self.requeue_delay(priority, self.paused_until.since(now), interval, now))
    }

    fn is_ready(&self, now: Millis) -> bool {
        !self.queued.is_empty()
            && self.paused_until <= now
            && self.ready_at(now) <= now
            && open_for(&self.breaker, now).is_none()
    }

    fn next_ticket(&self) -> Option<u64> {
        let oldest_first = self.slots_granted % OLDEST_FIRST_INTERVAL == OLDEST_FIRST_INTERVAL - 1;
        let order = |c: &&QueuedCall| {
            if oldest_first {
                (false, Priority::Delete, c.ticket)
            } else {
                (!c.has_started, c.priority, c.ticket)
            }
        };
        self.queued.iter().min_by_key(order).map(|c| c.ticket)
    }

    /// Returns the delay after which a denied call should be retried: one `interval` after the previously denied call of
    /// this priority. Retries therefore arrive at the rate of the slots: the queue does not run dry, and retries are not
    /// denied repeatedly.
    fn requeue_delay(
        &mut self,
        priority: Priority,
        wait: Duration,
        interval: Duration,
        now: Millis,
    ) -> Duration {
        let Some(requeued) = self.requeued.get_mut(priority as usize) else { return wait };
        while requeued.front().is_some_and(|at| *at <= now) {
            requeued.pop_front();
        }
        let latest = now + MAX_REQUEUE_DELAY;
        let at = requeued.back().map_or(now + wait, |last| *last + interval).max(now + interval).min(latest);
        if at < latest {
            requeued.push_back(at);
        }
        at.since(now)
    }
}

/// Returns the namespace of a Connection, given as namespace and name.
fn namespace(connection: &str) -> &str {
    connection.split_once('/').map_or(connection, |(namespace, _)| namespace)
}

/// Returns the entry after `last`, or the first one.
fn next_after<'m, V>(map: &'m BTreeMap<&str, V>, last: &str) -> Option<(&'m &'m str, &'m V)> {
    map.range::<str, _>((Bound::Excluded(last), Bound::Unbounded)).next().or_else(|| map.iter().next())
}

/// Returns how long a breaker rejects calls; None if it admits one now.
fn open_for(breaker: &Breaker, now: Millis) -> Option<Duration> {
    match breaker.clone().request_permit(now) {
        BreakerPermit::Granted => None,
        BreakerPermit::NotBefore(at) => Some(at.since(now)),
        // The probe's outcome is known within the deadline of a call.
        BreakerPermit::Probing => Some(MAX_WAIT),
    }
}

#[cfg(test)]
mod tests;
