use super::*;
use proptest::prelude::*;

const PLAIN: Route = Route { tls: None };
const TLS: Route = Route { tls: Some([1; 32]) };
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
                            PLAIN,
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
                        self.host.complete(&name, PLAIN, CallOutcome::Succeeded, None, now);
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
        host.enqueue(name, PLAIN, None, Priority::Change, false, now)
            .map(|ticket| host.poll(name, ticket, now))
    };
    assert_eq!(call(&mut host, "a", Millis(0)), Ok(SlotPoll::Granted));
    let queued = host.enqueue("a", PLAIN, None, Priority::Change, false, Millis(0)).unwrap();
    host.complete("a", PLAIN, CallOutcome::Succeeded, Some(VendorPause::Rejected(30 * SECOND)), Millis(0));
    assert_eq!(
        host.poll("a", queued, Millis(1)),
        SlotPoll::Denied(SlotDenied::VendorPaused(Duration::from_millis(29_999)))
    );
    assert_eq!(call(&mut host, "a", Millis(10_000)), Err(SlotDenied::VendorPaused(20 * SECOND)));
    assert_eq!(call(&mut host, "b", Millis(10_000)), Ok(SlotPoll::Granted));
    assert_eq!(call(&mut host, "a", Millis(30_000)), Ok(SlotPoll::Granted));
}

/// Starts as many calls as the host accepts.
fn start_calls(host: &mut HostScheduler, name: &str, now: Millis) -> usize {
    let mut started = 0;
    for _ in 0..20 {
        let Ok(ticket) = host.enqueue(name, PLAIN, None, Priority::Change, false, now) else { continue };
        match host.poll(name, ticket, now) {
            SlotPoll::Granted => started += 1,
            _ => host.cancel(name, ticket),
        }
    }
    started
}

#[test]
fn opens_the_breaker_of_an_unreachable_host_then_probes_once() {
    let mut host = HostScheduler::new(rate(1000, 1000), Millis(0));
    let now = Millis(0);
    // Start the maximum of concurrent calls. After one fails, the limit is one call at a time.
    assert_eq!(["a", "c"].map(|name| start_calls(&mut host, name, now)), [MAX_IN_FLIGHT_SHARE; 2]);
    host.complete("a", PLAIN, CallOutcome::NotConnected, None, now);
    let ticket = host.enqueue("b", PLAIN, None, Priority::Change, false, now).unwrap();
    assert!(matches!(host.poll("b", ticket, now), SlotPoll::WaitUntil(_)), "seven calls are still in flight");
    for name in ["a", "a", "c", "c"] {
        host.complete(name, PLAIN, CallOutcome::NotConnected, None, now);
    }
    assert!(matches!(host.poll("b", ticket, now), SlotPoll::Denied(SlotDenied::BreakerOpen(_))));
    for name in ["a", "c", "c"] {
        host.complete(name, PLAIN, CallOutcome::NotConnected, None, now);
    }
    let later = now + 2 * SECOND;
    let probe = host.enqueue("b", PLAIN, None, Priority::Change, false, later).unwrap();
    assert_eq!(host.poll("b", probe, later), SlotPoll::Granted);
    assert!(
        matches!(
            host.enqueue("d", PLAIN, None, Priority::Change, false, later),
            Err(SlotDenied::BreakerOpen(_))
        ),
        "one probe"
    );
    host.complete("b", PLAIN, CallOutcome::Succeeded, None, later);
    assert!(host.enqueue("d", PLAIN, None, Priority::Change, false, later).is_ok());
}

/// Thirty Connections of a tenant cannot use the host as they are configured. Another tenant's Connection works.
#[test]
fn failures_of_one_tenant_leave_the_host_to_others() {
    for outcome in [CallOutcome::NotConnected, CallOutcome::NoResponse, CallOutcome::Failed] {
        let mut host = HostScheduler::new(rate(1000, 1000), Millis(0));
        for at in 0..300 {
            let (name, now) = (format!("bad/{}", at % 30), Millis(at * 1000));
            let Ok(ticket) = host.enqueue(&name, PLAIN, None, Priority::Change, false, now) else { continue };
            match host.poll(&name, ticket, now) {
                SlotPoll::Granted => host.complete(&name, PLAIN, outcome, None, now),
                _ => host.cancel(&name, ticket),
            }
        }
        let now = Millis(299_000);
        let ticket = host.enqueue("good/c", TLS, None, Priority::Change, false, now);
        let state = ticket.map(|ticket| host.poll("good/c", ticket, now));
        assert_eq!(state, Ok(SlotPoll::Granted), "{outcome:?}");
        if outcome != CallOutcome::NotConnected {
            let ticket = host.enqueue("good/plain", PLAIN, None, Priority::Change, false, now);
            let state = ticket.map(|ticket| host.poll("good/plain", ticket, now));
            assert_eq!(state, Ok(SlotPoll::Granted), "the same route, {outcome:?}");
        }
    }
}

#[test]
fn hanging_calls_of_one_namespace_leave_slots_to_others() {
    let mut host = HostScheduler::new(rate(1000, 1000), Millis(0));
    let hanging: usize = (0..30).map(|n| start_calls(&mut host, &format!("bad/{n}"), Millis(0))).sum();
    assert_eq!(hanging, MAX_IN_FLIGHT_SHARE);
    assert_eq!(start_calls(&mut host, "good/c", Millis(0)), MAX_IN_FLIGHT - MAX_IN_FLIGHT_SHARE);
}

#[test]
fn corrected_route_starts_with_a_closed_breaker() {
    let mut host = HostScheduler::new(rate(1000, 1000), Millis(0));
    // Four calls at a time, and one after their failure.
    for _ in 0..2 {
        assert!(start_calls(&mut host, "a", Millis(0)) > 0);
        while host.in_flight > 0 {
            host.complete("a", PLAIN, CallOutcome::Failed, None, Millis(0));
        }
    }
    assert_eq!(start_calls(&mut host, "a", Millis(0)), 0);
    assert!(host.enqueue("a", TLS, None, Priority::Change, false, Millis(0)).is_ok());
}

#[test]
fn serves_namespaces_round_robin() {
    let mut host = HostScheduler::new(rate(10, 1), Millis(0));
    let (mut served, mut queued) = ([0, 0], Vec::new());
    for tick in 0..600 {
        let now = Millis(tick * 10);
        let names = (0..20).map(|n| format!("many/{n}")).chain(["one/c".to_owned()]);
        for name in names {
            if !queued.iter().any(|(queued, _)| *queued == name)
                && let Ok(ticket) = host.enqueue(&name, PLAIN, None, Priority::Change, true, now)
            {
                queued.push((name, ticket));
            }
        }
        queued.retain(|(name, ticket)| match host.poll(name, *ticket, now) {
            SlotPoll::Granted => {
                served[usize::from(name == "one/c")] += 1;
                host.complete(name, PLAIN, CallOutcome::Succeeded, None, now);
                false
            }
            SlotPoll::WaitUntil(_) => true,
            SlotPoll::Denied(_) => false,
        });
    }
    assert!((28..=32).contains(&served[1]), "half of 60: {served:?}");
}

#[test]
fn server_errors_open_only_the_breaker_of_their_connection() {
    let mut host = HostScheduler::new(rate(1000, 1000), Millis(0));
    for _ in 0..BREAKER_FAILURES {
        let ticket = host.enqueue("a", PLAIN, None, Priority::Change, false, Millis(0)).unwrap();
        assert_eq!(host.poll("a", ticket, Millis(0)), SlotPoll::Granted);
        host.complete("a", PLAIN, CallOutcome::Failed, None, Millis(0));
    }
    assert!(matches!(
        host.enqueue("a", PLAIN, None, Priority::Change, false, Millis(0)),
        Err(SlotDenied::BreakerOpen(_))
    ));
    assert!(host.enqueue("b", PLAIN, None, Priority::Change, false, Millis(0)).is_ok());
}

#[test]
fn evicts_idle_hosts() {
    let mut host = HostScheduler::new(rate(10, 10), Millis(0));
    let ticket = host.enqueue("a", PLAIN, Some(rate(1, 1)), Priority::Change, false, Millis(0)).unwrap();
    assert_eq!(host.poll("a", ticket, Millis(0)), SlotPoll::Granted);
    assert!(!host.evict_idle(Millis(0)));
    host.complete("a", PLAIN, CallOutcome::Succeeded, None, Millis(0));
    assert!(!host.evict_idle(Millis(0)), "its bucket is not full yet");
    assert!(host.evict_idle(Millis(5_000)));
}

/// The quota of a tenant is exhausted by every second call. A started operation waits and completes; new operations are
/// delayed without reporting a rejection by the vendor.
#[test]
fn exhausted_quota_delays_started_operations_and_defers_new_ones() {
    let (mut host, mut now) = (HostScheduler::new(rate(1000, 1000), Millis(0)), Millis(0));
    for call in 0..6 {
        let ticket = host
            .enqueue("a", PLAIN, None, Priority::Change, call > 0, now)
            .expect("a started operation may wait");
        let state = host.poll("a", ticket, now);
        if let SlotPoll::WaitUntil(until) = state {
            let other = host.enqueue("a", PLAIN, None, Priority::Change, false, now);
            assert!(matches!(other, Err(SlotDenied::Busy(_))), "{other:?}");
            now = until;
            assert_eq!(host.poll("a", ticket, now), SlotPoll::Granted);
        }
        let pause = (call % 2 == 1).then_some(VendorPause::QuotaExhausted(SECOND));
        host.complete("a", PLAIN, CallOutcome::Succeeded, pause, now);
    }
    assert_eq!(now, Millis(2000));
    // The pause exceeds the longest wait in the queue.
    host.complete("a", PLAIN, CallOutcome::Succeeded, Some(VendorPause::Rejected(600 * SECOND)), now);
    let denied = host.enqueue("a", PLAIN, None, Priority::Change, true, now);
    assert_eq!(denied, Err(SlotDenied::VendorPaused(600 * SECOND)));
}
