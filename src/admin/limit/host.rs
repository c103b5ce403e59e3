//! Whose turn it is at one host. No I/O; time is given.
//!
//! Connections take turns, each within its own rate, all within the host's ceiling; within a Connection what is begun
//! goes first, then deletes, changes, resyncs. Nobody waits here for long: who would is told when to come back, and waits
//! elsewhere, without holding a slot.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use super::answer::Away;
use crate::core::breaker::{Breaker, Leave};
use crate::core::bucket::{Bucket, Rate};
use crate::core::time::Millis;

/// Calls under way at one host at once. A host that failed just now is asked one at a time: one that hangs must not hold
/// many slots.
const IN_FLIGHT: usize = 8;
/// So many of a lane wait here; the rest are told to come back.
const WAITING: usize = 4;
/// Who would wait longer than this for the first call is told to come back.
const PATIENCE: Duration = Duration::from_secs(2);
/// What is begun waits longer: to come back would cost the calls that were made already.
const LONG_PATIENCE: Duration = Duration::from_secs(60);
/// Nobody is told to come back later than this: the estimate may be wrong by then.
const COME_BACK: Duration = Duration::from_secs(60);
/// How far apart those come back whom no rate of their own spreads.
const SHORTEST_TURN: Duration = Duration::from_millis(100);
/// Calls in a row without an answer that open the host's breaker; for a Connection's, failures of any kind.
const FAILURES: u32 = 5;
/// One in so many turns of a Connection is the oldest's, whatever its lane: a flood of edits must not stop resyncs.
const OLDEST_EACH: u64 = 8;

/// What a call is for, the most pressing first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, strum::IntoStaticStr)]
pub enum Lane {
    Delete,
    Change,
    Resync,
}

/// Why somebody may not wait here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Others are before: come back after this time.
    ComeBack(Duration),
    /// The vendor asked this Connection to stay away for this time.
    AskedToWait(Duration),
    /// It fails and fails, and is left alone for this time.
    Failing(Duration),
}

/// Whether it is a waiter's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Go,
    /// Ask again at this time, or when something moved.
    Wait(Millis),
    Refused(Refusal),
}

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    /// It answered that it failed.
    Failed,
    /// No answer.
    Silent,
    /// It tells nothing about the host: the call was not made, or was given up.
    Undecided,
}

struct Waiter {
    ticket: u64,
    lane: Lane,
    begun: bool,
    deadline: Millis,
}

struct Connection {
    bucket: Option<Bucket>,
    waiting: Vec<Waiter>,
    in_flight: usize,
    /// Until when the vendor wants to be left alone.
    paused: Millis,
    /// Until when it does because it refused somebody: that is told as its refusal.
    refused: Millis,
    breaker: Breaker,
    turns: u64,
    /// When those who were told to come back will, a lane each.
    coming: [VecDeque<Millis>; 3],
}

/// One host.
pub struct Host {
    ceiling: Bucket,
    breaker: Breaker,
    in_flight: usize,
    connections: BTreeMap<String, Connection>,
    /// Who had the last turn.
    last: String,
    tickets: u64,
}

impl Host {
    pub fn new(ceiling: Rate, now: Millis) -> Self {
        Host {
            ceiling: Bucket::new(ceiling, now),
            breaker: Breaker::opens_at(FAILURES),
            in_flight: 0,
            connections: BTreeMap::new(),
            last: String::new(),
            tickets: 0,
        }
    }

    /// Queues for one call. `begun`: a call of the same errand was made already.
    pub fn join(
        &mut self,
        name: &str,
        rate: Option<Rate>,
        lane: Lane,
        begun: bool,
        now: Millis,
    ) -> Result<u64, Refusal> {
        // One with a rate of its own takes no more turns from the others than that.
        let turn = self.ceiling.each();
        let takes = |c: &Connection| {
            let own = c.bucket.as_ref().map_or(turn, Bucket::each);
            (turn.as_secs_f64() / own.as_secs_f64().max(f64::MIN_POSITIVE)).min(1.0)
        };
        let busy: f64 = self.connections.values().filter(|c| !c.waiting.is_empty()).map(takes).sum();
        let share = turn.mul_f64(busy.max(1.0));
        let host_ready = self.ceiling.ready_at(now).since(now);
        let broken = closed_for(&self.breaker, now);
        let connection = self.connections.entry(name.to_owned()).or_insert_with(|| Connection {
            bucket: None,
            waiting: Vec::new(),
            in_flight: 0,
            paused: now,
            refused: now,
            breaker: Breaker::opens_at(FAILURES),
            turns: 0,
            coming: Default::default(),
        });
        if connection.bucket.as_ref().map(Bucket::rate) != rate {
            connection.bucket = rate.map(|rate| Bucket::new(rate, now));
        }
        let paused = connection.paused.since(now);
        // What is begun waits here: to start anew would spend what is left on the same calls again, for ever.
        if !paused.is_zero() && (!begun || paused > LONG_PATIENCE) {
            return Err(connection.away(lane, now));
        }
        if let Some(pause) = broken.or_else(|| closed_for(&connection.breaker, now)) {
            return Err(Refusal::Failing(pause));
        }
        let ahead = connection.waiting.iter().filter(|w| w.begun || w.lane <= lane).count();
        let each = connection.bucket.as_ref().map_or(share, |bucket| bucket.each().max(share));
        let ready =
            connection.bucket.as_ref().map_or(host_ready, |b| b.ready_at(now).since(now).max(host_ready));
        let wait = ready + each * u32::try_from(ahead).unwrap_or(u32::MAX);
        if !begun && (ahead >= WAITING || wait > PATIENCE) {
            return Err(Refusal::ComeBack(connection.come_back(lane, wait, each, now)));
        }
        self.tickets += 1;
        let deadline = now + if begun { LONG_PATIENCE } else { PATIENCE };
        connection.waiting.push(Waiter { ticket: self.tickets, lane, begun, deadline });
        Ok(self.tickets)
    }

    /// Asks whether it is this waiter's turn. After `Go` and `Refused` it waits no more.
    pub fn ask(&mut self, name: &str, ticket: u64, now: Millis) -> Turn {
        let turn = self.turn(name, ticket, now);
        if !matches!(turn, Turn::Wait(_)) {
            self.leave(name, ticket);
        }
        if turn == Turn::Go {
            // `turn` has seen a token in each bucket.
            self.ceiling.take(now).ok();
            self.in_flight += 1;
            name.clone_into(&mut self.last);
            if let Some(connection) = self.connections.get_mut(name) {
                connection.bucket.as_mut().map(|bucket| bucket.take(now).ok());
                connection.in_flight += 1;
                connection.turns += 1;
            }
        }
        turn
    }

    fn turn(&mut self, name: &str, ticket: u64, now: Millis) -> Turn {
        let Some((deadline, lane, begun, paused, own_ready)) =
            self.connections.get(name).and_then(|connection| {
                let waiter = connection.waiting.iter().find(|w| w.ticket == ticket)?;
                let own_ready = connection.ready_at(now);
                Some((waiter.deadline, waiter.lane, waiter.begun, connection.paused, own_ready))
            })
        else {
            return Turn::Refused(Refusal::ComeBack(PATIENCE));
        };
        if now < paused {
            if begun && paused <= deadline {
                return Turn::Wait(paused);
            }
            let refusal = self.connections.get_mut(name).map(|connection| connection.away(lane, now));
            return Turn::Refused(refusal.unwrap_or(Refusal::ComeBack(PATIENCE)));
        }
        if let Some(pause) = self.failing_for(name, now) {
            return Turn::Refused(Refusal::Failing(pause));
        }
        if now >= deadline {
            let each = self.ceiling.each();
            let after = self.connections.get_mut(name).map(|c| c.come_back(lane, PATIENCE, each, now));
            return Turn::Refused(Refusal::ComeBack(after.unwrap_or(PATIENCE)));
        }
        let suspicious = self.breaker.failures() > 0;
        if self.in_flight >= if suspicious { 1 } else { IN_FLIGHT } {
            return Turn::Wait(deadline);
        }
        let ready = self.ceiling.ready_at(now).max(own_ready);
        if ready > now {
            return Turn::Wait(ready.min(deadline));
        }
        if self.head(now) != Some(ticket) {
            return Turn::Wait(deadline);
        }
        // Both were asked above without taking the probe; here it is taken.
        self.breaker.ask(now);
        self.connections.get_mut(name).map(|connection| connection.breaker.ask(now));
        Turn::Go
    }

    /// Whose turn is next: the next Connection after the last one that may go now, and of it the most pressing.
    fn head(&self, now: Millis) -> Option<u64> {
        let after = (Bound::Excluded(self.last.clone()), Bound::Unbounded);
        let round = self.connections.range(after).chain(self.connections.range(..=self.last.clone()));
        round.filter(|(_, c)| c.may_go(now)).find_map(|(_, c)| c.head())
    }

    fn failing_for(&self, name: &str, now: Millis) -> Option<Duration> {
        let own = self.connections.get(name).and_then(|c| closed_for(&c.breaker, now));
        closed_for(&self.breaker, now).or(own)
    }

    /// A waiter gave up.
    pub fn leave(&mut self, name: &str, ticket: u64) {
        if let Some(connection) = self.connections.get_mut(name) {
            connection.waiting.retain(|w| w.ticket != ticket);
        }
    }

    /// A call that had its turn is over. `stay_away`: what the vendor asked for.
    pub fn done(&mut self, name: &str, verdict: Verdict, stay_away: Option<Away>, now: Millis) {
        self.in_flight = self.in_flight.saturating_sub(1);
        match verdict {
            Verdict::Fine | Verdict::Failed => self.breaker.succeeded(),
            Verdict::Silent => self.breaker.failed(now),
            Verdict::Undecided => self.breaker.undecided(now),
        }
        let Some(connection) = self.connections.get_mut(name) else { return };
        connection.in_flight = connection.in_flight.saturating_sub(1);
        match verdict {
            Verdict::Fine => connection.breaker.succeeded(),
            Verdict::Failed | Verdict::Silent => connection.breaker.failed(now),
            Verdict::Undecided => connection.breaker.undecided(now),
        }
        if let Some(stay_away) = stay_away {
            connection.paused = connection.paused.max(now + stay_away.time());
        }
        if let Some(Away::Refused(time)) = stay_away {
            connection.refused = connection.refused.max(now + time);
        }
    }

    /// Forgets Connections that nothing has to be remembered of; true where nothing is left.
    pub fn forget(&mut self, now: Millis) -> bool {
        self.connections.retain(|_, c| {
            let rested = c.bucket.as_ref().is_none_or(|b| b.is_full(now));
            let idle = c.waiting.is_empty() && c.in_flight == 0 && c.breaker.is_idle();
            !(rested
                && idle
                && c.paused <= now
                && c.coming.iter().all(|lane| lane.back().is_none_or(|at| *at <= now)))
        });
        self.connections.is_empty()
            && self.in_flight == 0
            && self.breaker.is_idle()
            && self.ceiling.is_full(now)
    }
}

impl Connection {
    fn ready_at(&self, now: Millis) -> Millis {
        self.bucket.as_ref().map_or(now, |bucket| bucket.ready_at(now))
    }

    /// The vendor wants to be left alone: why nobody may call.
    fn away(&mut self, lane: Lane, now: Millis) -> Refusal {
        if now < self.refused {
            return Refusal::AskedToWait(self.refused.since(now));
        }
        // Its limit is spent, and nobody was refused: nobody needs to hear of it.
        let each = self.bucket.as_ref().map_or(SHORTEST_TURN, Bucket::each);
        Refusal::ComeBack(self.come_back(lane, self.paused.since(now), each, now))
    }

    fn may_go(&self, now: Millis) -> bool {
        !self.waiting.is_empty()
            && self.paused <= now
            && self.ready_at(now) <= now
            && closed_for(&self.breaker, now).is_none()
    }

    fn head(&self) -> Option<u64> {
        let oldest = self.turns % OLDEST_EACH == OLDEST_EACH - 1;
        let order =
            |w: &&Waiter| if oldest { (false, Lane::Delete, w.ticket) } else { (!w.begun, w.lane, w.ticket) };
        self.waiting.iter().min_by_key(order).map(|w| w.ticket)
    }

    /// When to come back: after those of this lane who were told so before, one a turn. So they come at the rate at which
    /// there are turns: the queue never runs dry, and nobody asks in vain again and again.
    fn come_back(&mut self, lane: Lane, wait: Duration, each: Duration, now: Millis) -> Duration {
        let Some(coming) = self.coming.get_mut(lane as usize) else { return wait };
        while coming.front().is_some_and(|at| *at <= now) {
            coming.pop_front();
        }
        let latest = now + COME_BACK;
        let at = coming.back().map_or(now + wait, |last| *last + each).max(now + each).min(latest);
        if at < latest {
            coming.push_back(at);
        }
        at.since(now)
    }
}

/// For how long a breaker lets nobody through; None: somebody may go.
fn closed_for(breaker: &Breaker, now: Millis) -> Option<Duration> {
    match breaker.clone().ask(now) {
        Leave::Granted => None,
        Leave::NotBefore(at) => Some(at.since(now)),
        // The probe tells within the deadline of a call.
        Leave::Probing => Some(PATIENCE),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
