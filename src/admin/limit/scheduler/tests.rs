use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn rate(requests: u32, burst: u32) -> Rate {
    Rate { requests, interval: SECOND, burst }
}

/// Simulates many operations with several calls each. Denied calls are retried after their delay, as reconciles do.
struct Simulation {
    host: HostScheduler,
    now: Millis,
    rates: Vec<Option<Rate>>,
    operations: Vec<Operation>,
    /// The calls that were sent: time, Connection and priority.
    sent: Vec<(Millis, usize, Priority)>,
    call_duration: Duration,
}

struct Operation {
    connection: usize,
    priority: Priority,
    remaining_calls: u32,
    has_started: bool,
    state: State,
}

enum State {
    RetriesAt(Millis),
    /// Ticket and time of queueing.
    Queued(u64, Millis),
    InFlightUntil(Millis),
    Done,
}

impl Simulation {
    fn new(ceiling: Rate, rates: Vec<Option<Rate>>) -> Simulation {
        let (host, now) = (HostScheduler::new(ceiling, Millis(0)), Millis(0));
        let call_duration = Duration::from_millis(20);
        Simulation { host, now, rates, operations: Vec::new(), sent: Vec::new(), call_duration }
    }

    fn add(&mut self, connection: usize, priority: Priority, calls: u32) {
        let state = State::RetriesAt(self.now);
        self.operations.push(Operation {
            connection,
            priority,
            remaining_calls: calls,
            has_started: false,
            state,
        });
    }

    fn name(connection: usize) -> String {
        format!("c{connection}")
    }

    /// Advances the time by 10 ms and lets every operation progress.
    fn tick(&mut self) {
        self.now = self.now + Duration::from_millis(10);
        let now = self.now;
        let mut progressed = true;
        while std::mem::take(&mut progressed) {
            for operation in &mut self.operations {
                let name = Simulation::name(operation.connection);
                match operation.state {
                    State::RetriesAt(at) if at <= now => {
                        let rate = self.rates[operation.connection];
                        operation.state = match self.host.enqueue(
                            &name,
                            rate,
                            operation.priority,
                            operation.has_started,
                            now,
                        ) {
                            Ok(ticket) => State::Queued(ticket, now),
                            Err(denied) => State::RetriesAt(now + retry_delay(denied)),
                        };
                        progressed = true;
                    }
                    State::Queued(ticket, since) => {
                        let max_wait = if operation.has_started { MAX_WAIT_STARTED } else { MAX_WAIT };
                        assert!(now.since(since) <= max_wait, "the wait is bounded");
                        match self.host.poll(&name, ticket, now) {
                            SlotPoll::Granted => {
                                self.sent.push((now, operation.connection, operation.priority));
                                operation.state = State::InFlightUntil(now + self.call_duration);
                                progressed = true;
                            }
                            SlotPoll::WaitUntil(_) => {}
                            SlotPoll::Denied(denied) => {
                                operation.has_started = false;
                                operation.state = State::RetriesAt(now + retry_delay(denied));
                            }
                        }
                    }
                    State::InFlightUntil(until) if until <= now => {
                        self.host.complete(&name, CallOutcome::Succeeded, None, now);
                        operation.remaining_calls -= 1;
                        operation.has_started = true;
                        operation.state =
                            if operation.remaining_calls == 0 { State::Done } else { State::RetriesAt(now) };
                        progressed = true;
                    }
                    State::RetriesAt(_) | State::InFlightUntil(_) | State::Done => {}
                }
            }
        }
    }

    fn run_until_done(&mut self, limit: Duration) {
        while self.operations.iter().any(|e| !matches!(e.state, State::Done)) {
            self.tick();
            assert!(self.now <= Millis(0) + limit, "not done within {limit:?}: {} calls", self.sent.len());
        }
    }

    fn calls(&self, connection: usize) -> usize {
        self.sent.iter().filter(|(_, c, _)| *c == connection).count()
    }
}

fn retry_delay(denied: SlotDenied) -> Duration {
    match denied {
        SlotDenied::Busy(after) | SlotDenied::VendorPaused(after) | SlotDenied::BreakerOpen(after) => after,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// In any window, no Connection exceeds its rate, and all together do not exceed the ceiling.
    #[test]
    fn never_exceeds_a_rate(
        ceiling in (1u32..30, 1u32..20), limits in proptest::collection::vec(proptest::option::of((1u32..10, 1u32..6)), 1..5),
        operations in proptest::collection::vec((0usize..5, 0usize..3, 1u32..4), 1..60),
    ) {
        let ceiling = rate(ceiling.0, ceiling.1);
        let rates: Vec<Option<Rate>> = limits.iter().map(|l| l.map(|(r, b)| rate(r, b))).collect();
        let mut simulation = Simulation::new(ceiling, rates.clone());
        for (connection, priority, calls) in operations {
            simulation.add(connection % rates.len(), [Priority::Delete, Priority::Change, Priority::Resync][priority], calls);
        }
        for _ in 0..1500 {
            simulation.tick();
        }
        let max_calls = |rate: Rate, from: Millis, to: Millis| {
            f64::from(rate.burst) + to.since(from).as_secs_f64() * f64::from(rate.requests) + 1e-6
        };
        let check = |sent: Vec<Millis>, rate: Rate| {
            for i in 0..sent.len() {
                for j in i..sent.len() {
                    let count = (j - i + 1) as f64;
                    prop_assert!(count <= max_calls(rate, sent[i], sent[j]), "{count} of {rate:?}");
                }
            }
            Ok(())
        };
        check(simulation.sent.iter().map(|(at, ..)| *at).collect(), ceiling)?;
        for (i, rate) in rates.into_iter().enumerate() {
            if let Some(rate) = rate {
                check(simulation.sent.iter().filter(|(_, c, _)| *c == i).map(|(at, ..)| *at).collect(), rate)?;
            }
        }
    }

    /// All operations complete, in little more than the minimum time that the rate allows.
    #[test]
    fn completes_all_operations_at_the_rate_limit(requests in 2u32..20, operations in 1u32..100, calls in 1u32..3) {
        let mut simulation = Simulation::new(rate(100, 100), vec![Some(rate(requests, requests))]);
        for _ in 0..operations {
            simulation.add(0, Priority::Change, calls);
        }
        let floor = Duration::from_secs_f64(f64::from(operations * calls) / f64::from(requests));
        simulation.run_until_done(floor.mul_f64(1.1) + Duration::from_secs(3));
    }
}

#[test]
fn completes_a_thousand_operations_at_the_ceiling() {
    let mut simulation = Simulation::new(rate(50, 50), vec![None]);
    for _ in 0..1000 {
        simulation.add(0, Priority::Change, 2);
    }
    simulation.run_until_done(Duration::from_secs(44));
}

#[test]
fn serves_connections_round_robin() {
    let mut simulation = Simulation::new(rate(10, 1), vec![None, None, None]);
    for _ in 0..200 {
        simulation.add(0, Priority::Change, 1);
    }
    for connection in [1, 2] {
        for _ in 0..30 {
            simulation.add(connection, Priority::Resync, 1);
        }
    }
    for _ in 0..600 {
        simulation.tick();
    }
    let calls = [0, 1, 2].map(|c| simulation.calls(c));
    assert!(calls.iter().all(|n| (18..=23).contains(n)), "each a third of 61: {calls:?}");
}

#[test]
fn slow_connection_does_not_slow_down_a_fast_one() {
    let slow = Rate { requests: 1, interval: Duration::from_secs(30), burst: 1 };
    let mut simulation = Simulation::new(rate(10, 1), vec![Some(slow), None]);
    for _ in 0..100 {
        simulation.add(0, Priority::Delete, 2);
    }
    for _ in 0..50 {
        simulation.add(1, Priority::Resync, 1);
    }
    for _ in 0..600 {
        simulation.tick();
    }
    assert_eq!((simulation.calls(0), simulation.calls(1)), (1, 50));
    let queued = simulation.operations.iter().filter(|o| matches!(o.state, State::Queued(..))).count();
    assert!(queued <= 1, "{queued} are queued");
    for _ in 0..6000 {
        simulation.tick();
    }
    assert!(simulation.calls(0) >= 3, "a started operation sends its second call");
}

#[test]
fn serves_deletes_and_changes_before_resyncs() {
    let mut simulation = Simulation::new(rate(2, 1), vec![None]);
    for _ in 0..500 {
        simulation.add(0, Priority::Resync, 1);
    }
    for _ in 0..300 {
        simulation.tick();
    }
    let before = simulation.sent.len();
    simulation.add(0, Priority::Change, 2);
    simulation.add(0, Priority::Delete, 1);
    for _ in 0..300 {
        simulation.tick();
    }
    let priorities: Vec<Priority> =
        simulation.sent[before..].iter().map(|(_, _, priority)| *priority).collect();
    let last = priorities.iter().rposition(|l| *l != Priority::Resync).unwrap();
    assert!(last <= 4, "{priorities:?}");
    assert_eq!(priorities.iter().filter(|l| **l != Priority::Resync).count(), 3, "{priorities:?}");
}

#[test]
fn changes_do_not_starve_resyncs() {
    let mut simulation = Simulation::new(rate(10, 1), vec![None]);
    for _ in 0..400 {
        simulation.add(0, Priority::Change, 1);
    }
    for _ in 0..20 {
        simulation.add(0, Priority::Resync, 1);
    }
    for _ in 0..1200 {
        simulation.tick();
    }
    assert!(simulation.sent.iter().any(|(_, _, priority)| *priority == Priority::Resync));
}

#[test]
fn vendor_pause_affects_only_its_connection() {
    let mut host = HostScheduler::new(rate(10, 10), Millis(0));
    let call = |host: &mut HostScheduler, name: &str, now: Millis| {
        host.enqueue(name, None, Priority::Change, false, now).map(|ticket| host.poll(name, ticket, now))
    };
    assert_eq!(call(&mut host, "a", Millis(0)), Ok(SlotPoll::Granted));
    let queued = host.enqueue("a", None, Priority::Change, false, Millis(0)).unwrap();
    host.complete("a", CallOutcome::Succeeded, Some(VendorPause::Rejected(30 * SECOND)), Millis(0));
    assert_eq!(
        host.poll("a", queued, Millis(1)),
        SlotPoll::Denied(SlotDenied::VendorPaused(Duration::from_millis(29_999)))
    );
    assert_eq!(call(&mut host, "a", Millis(10_000)), Err(SlotDenied::VendorPaused(20 * SECOND)));
    assert_eq!(call(&mut host, "b", Millis(10_000)), Ok(SlotPoll::Granted));
    assert_eq!(call(&mut host, "a", Millis(30_000)), Ok(SlotPoll::Granted));
}

#[test]
fn opens_the_breaker_of_a_silent_host_then_probes_once() {
    let mut host = HostScheduler::new(rate(1000, 1000), Millis(0));
    let now = Millis(0);
    let mut in_flight = 0;
    // Start the maximum of concurrent calls. After one fails, the limit is one call at a time.
    for _ in 0..20 {
        if let Ok(ticket) = host.enqueue("a", None, Priority::Change, false, now) {
            match host.poll("a", ticket, now) {
                SlotPoll::Granted => in_flight += 1,
                _ => host.cancel("a", ticket),
            }
        }
    }
    assert_eq!(in_flight, MAX_IN_FLIGHT);
    host.complete("a", CallOutcome::NoResponse, None, now);
    let ticket = host.enqueue("b", None, Priority::Change, false, now).unwrap();
    assert!(matches!(host.poll("b", ticket, now), SlotPoll::WaitUntil(_)), "seven calls are still in flight");
    for _ in 0..4 {
        host.complete("a", CallOutcome::NoResponse, None, now);
    }
    assert!(matches!(host.poll("b", ticket, now), SlotPoll::Denied(SlotDenied::BreakerOpen(_))));
    for _ in 0..3 {
        host.complete("a", CallOutcome::NoResponse, None, now);
    }
    let later = now + 2 * SECOND;
    let probe = host.enqueue("b", None, Priority::Change, false, later).unwrap();
    assert_eq!(host.poll("b", probe, later), SlotPoll::Granted);
    assert!(
        matches!(host.enqueue("a", None, Priority::Change, false, later), Err(SlotDenied::BreakerOpen(_))),
        "one probe"
    );
    host.complete("b", CallOutcome::Succeeded, None, later);
    assert!(host.enqueue("b", None, Priority::Change, false, later).is_ok());
}

#[test]
fn server_errors_open_only_the_breaker_of_their_connection() {
    let mut host = HostScheduler::new(rate(1000, 1000), Millis(0));
    for _ in 0..BREAKER_FAILURES {
        let ticket = host.enqueue("a", None, Priority::Change, false, Millis(0)).unwrap();
        assert_eq!(host.poll("a", ticket, Millis(0)), SlotPoll::Granted);
        host.complete("a", CallOutcome::Failed, None, Millis(0));
    }
    assert!(matches!(
        host.enqueue("a", None, Priority::Change, false, Millis(0)),
        Err(SlotDenied::BreakerOpen(_))
    ));
    assert!(host.enqueue("b", None, Priority::Change, false, Millis(0)).is_ok());
}

#[test]
fn evicts_idle_hosts() {
    let mut host = HostScheduler::new(rate(10, 10), Millis(0));
    let ticket = host.enqueue("a", Some(rate(1, 1)), Priority::Change, false, Millis(0)).unwrap();
    assert_eq!(host.poll("a", ticket, Millis(0)), SlotPoll::Granted);
    assert!(!host.evict_idle(Millis(0)));
    host.complete("a", CallOutcome::Succeeded, None, Millis(0));
    assert!(!host.evict_idle(Millis(0)), "its bucket is not full yet");
    assert!(host.evict_idle(Millis(5_000)));
}

/// The quota of a tenant is exhausted by every second call. A started operation waits and completes; new operations are
/// delayed without reporting a rejection by the vendor.
#[test]
fn exhausted_quota_delays_started_operations_and_defers_new_ones() {
    let (mut host, mut now) = (HostScheduler::new(rate(1000, 1000), Millis(0)), Millis(0));
    for call in 0..6 {
        let ticket =
            host.enqueue("a", None, Priority::Change, call > 0, now).expect("a started operation may wait");
        let state = host.poll("a", ticket, now);
        if let SlotPoll::WaitUntil(until) = state {
            let other = host.enqueue("a", None, Priority::Change, false, now);
            assert!(matches!(other, Err(SlotDenied::Busy(_))), "{other:?}");
            now = until;
            assert_eq!(host.poll("a", ticket, now), SlotPoll::Granted);
        }
        let pause = (call % 2 == 1).then_some(VendorPause::QuotaExhausted(SECOND));
        host.complete("a", CallOutcome::Succeeded, pause, now);
    }
    assert_eq!(now, Millis(2000));
    // The pause exceeds the longest wait in the queue.
    host.complete("a", CallOutcome::Succeeded, Some(VendorPause::Rejected(600 * SECOND)), now);
    let denied = host.enqueue("a", None, Priority::Change, true, now);
    assert_eq!(denied, Err(SlotDenied::VendorPaused(600 * SECOND)));
}
