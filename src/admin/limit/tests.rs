use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn rate(requests: u32, burst: u32) -> Rate {
    Rate { requests, interval: SECOND, burst }
}

/// Many errands that call and call, as reconciles do: who is told to come back does so.
struct World {
    host: Host,
    now: Millis,
    rates: Vec<Option<Rate>>,
    /// (connection, lane, calls left, begun) and when it comes (back), or its ticket.
    errands: Vec<Errand>,
    /// Who went when.
    went: Vec<(Millis, usize, Lane)>,
    took: Duration,
}

struct Errand {
    connection: usize,
    lane: Lane,
    left: u32,
    begun: bool,
    state: State,
}

enum State {
    ComesAt(Millis),
    Waits(u64, Millis),
    UnderWay(Millis),
    Done,
}

impl World {
    fn new(ceiling: Rate, rates: Vec<Option<Rate>>) -> World {
        let (host, now) = (Host::new(ceiling, Millis(0)), Millis(0));
        let took = Duration::from_millis(20);
        World { host, now, rates, errands: Vec::new(), went: Vec::new(), took }
    }

    fn add(&mut self, connection: usize, lane: Lane, calls: u32) {
        let state = State::ComesAt(self.now);
        self.errands.push(Errand { connection, lane, left: calls, begun: false, state });
    }

    fn name(connection: usize) -> String {
        format!("c{connection}")
    }

    /// Ten milliseconds in which everybody moves.
    fn tick(&mut self) {
        self.now = self.now + Duration::from_millis(10);
        let now = self.now;
        let mut moved = true;
        while std::mem::take(&mut moved) {
            for errand in &mut self.errands {
                let name = World::name(errand.connection);
                match errand.state {
                    State::ComesAt(at) if at <= now => {
                        let rate = self.rates[errand.connection];
                        errand.state = match self.host.join(&name, rate, errand.lane, errand.begun, now) {
                            Ok(ticket) => State::Waits(ticket, now),
                            Err(refusal) => State::ComesAt(now + later(refusal)),
                        };
                        moved = true;
                    }
                    State::Waits(ticket, since) => {
                        let most = if errand.begun { LONG_PATIENCE } else { PATIENCE };
                        assert!(now.since(since) <= most, "nobody waits for long");
                        match self.host.ask(&name, ticket, now) {
                            Turn::Go => {
                                self.went.push((now, errand.connection, errand.lane));
                                errand.state = State::UnderWay(now + self.took);
                                moved = true;
                            }
                            Turn::Wait(_) => {}
                            Turn::Refused(refusal) => {
                                errand.begun = false;
                                errand.state = State::ComesAt(now + later(refusal));
                            }
                        }
                    }
                    State::UnderWay(until) if until <= now => {
                        self.host.done(&name, Verdict::Fine, None, now);
                        errand.left -= 1;
                        errand.begun = true;
                        errand.state = if errand.left == 0 { State::Done } else { State::ComesAt(now) };
                        moved = true;
                    }
                    State::ComesAt(_) | State::UnderWay(_) | State::Done => {}
                }
            }
        }
    }

    fn until_done(&mut self, most: Duration) {
        while self.errands.iter().any(|e| !matches!(e.state, State::Done)) {
            self.tick();
            assert!(self.now <= Millis(0) + most, "not done within {most:?}: {} calls", self.went.len());
        }
    }

    fn calls(&self, connection: usize) -> usize {
        self.went.iter().filter(|(_, c, _)| *c == connection).count()
    }
}

fn later(refusal: Refusal) -> Duration {
    match refusal {
        Refusal::ComeBack(after) | Refusal::AskedToWait(after) | Refusal::Failing(after) => after,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// No Connection goes over its rate, nor all of them over the ceiling, in any window.
    #[test]
    fn never_over_a_rate(
        ceiling in (1u32..30, 1u32..20), limits in proptest::collection::vec(proptest::option::of((1u32..10, 1u32..6)), 1..5),
        errands in proptest::collection::vec((0usize..5, 0usize..3, 1u32..4), 1..60),
    ) {
        let ceiling = rate(ceiling.0, ceiling.1);
        let rates: Vec<Option<Rate>> = limits.iter().map(|l| l.map(|(r, b)| rate(r, b))).collect();
        let mut world = World::new(ceiling, rates.clone());
        for (connection, lane, calls) in errands {
            world.add(connection % rates.len(), [Lane::Delete, Lane::Change, Lane::Resync][lane], calls);
        }
        for _ in 0..1500 {
            world.tick();
        }
        let most = |rate: Rate, from: Millis, to: Millis| {
            f64::from(rate.burst) + to.since(from).as_secs_f64() * f64::from(rate.requests) + 1e-6
        };
        let check = |went: Vec<Millis>, rate: Rate| {
            for i in 0..went.len() {
                for j in i..went.len() {
                    let count = (j - i + 1) as f64;
                    prop_assert!(count <= most(rate, went[i], went[j]), "{count} of {rate:?}");
                }
            }
            Ok(())
        };
        check(world.went.iter().map(|(at, ..)| *at).collect(), ceiling)?;
        for (i, rate) in rates.into_iter().enumerate() {
            if let Some(rate) = rate {
                check(world.went.iter().filter(|(_, c, _)| *c == i).map(|(at, ..)| *at).collect(), rate)?;
            }
        }
    }

    /// Everything is done in the end, and in little more than the time that the rate asks for.
    #[test]
    fn all_is_done_at_the_speed_of_the_limit(requests in 2u32..20, errands in 1u32..100, calls in 1u32..3) {
        let mut world = World::new(rate(100, 100), vec![Some(rate(requests, requests))]);
        for _ in 0..errands {
            world.add(0, Lane::Change, calls);
        }
        let floor = Duration::from_secs_f64(f64::from(errands * calls) / f64::from(requests));
        world.until_done(floor.mul_f64(1.1) + Duration::from_secs(3));
    }
}

#[test]
fn a_thousand_hooks_take_what_the_limit_asks_for() {
    let mut world = World::new(rate(50, 50), vec![None]);
    for _ in 0..1000 {
        world.add(0, Lane::Change, 2);
    }
    world.until_done(Duration::from_secs(44));
}

#[test]
fn connections_take_turns() {
    let mut world = World::new(rate(10, 1), vec![None, None, None]);
    for _ in 0..200 {
        world.add(0, Lane::Change, 1);
    }
    for connection in [1, 2] {
        for _ in 0..30 {
            world.add(connection, Lane::Resync, 1);
        }
    }
    for _ in 0..600 {
        world.tick();
    }
    let calls = [0, 1, 2].map(|c| world.calls(c));
    assert!(calls.iter().all(|n| (18..=23).contains(n)), "each a third of 61: {calls:?}");
}

#[test]
fn a_slow_connection_takes_nothing_from_a_fast_one() {
    let slow = Rate { requests: 1, interval: Duration::from_secs(30), burst: 1 };
    let mut world = World::new(rate(10, 1), vec![Some(slow), None]);
    for _ in 0..100 {
        world.add(0, Lane::Delete, 2);
    }
    for _ in 0..50 {
        world.add(1, Lane::Resync, 1);
    }
    for _ in 0..600 {
        world.tick();
    }
    assert_eq!((world.calls(0), world.calls(1)), (1, 50));
    let waiting = world.errands.iter().filter(|e| matches!(e.state, State::Waits(..))).count();
    assert!(waiting <= 1, "{waiting} hold a slot");
    for _ in 0..6000 {
        world.tick();
    }
    assert!(world.calls(0) >= 3, "what is begun gets its second call");
}

#[test]
fn an_edit_overtakes_a_resync_and_a_delete_both() {
    let mut world = World::new(rate(2, 1), vec![None]);
    for _ in 0..500 {
        world.add(0, Lane::Resync, 1);
    }
    for _ in 0..300 {
        world.tick();
    }
    let before = world.went.len();
    world.add(0, Lane::Change, 2);
    world.add(0, Lane::Delete, 1);
    for _ in 0..300 {
        world.tick();
    }
    let lanes: Vec<Lane> = world.went[before..].iter().map(|(_, _, lane)| *lane).collect();
    let last = lanes.iter().rposition(|l| *l != Lane::Resync).unwrap();
    assert!(last <= 4, "{lanes:?}");
    assert_eq!(lanes.iter().filter(|l| **l != Lane::Resync).count(), 3, "{lanes:?}");
}

#[test]
fn edits_do_not_stop_resyncs() {
    let mut world = World::new(rate(10, 1), vec![None]);
    for _ in 0..400 {
        world.add(0, Lane::Change, 1);
    }
    for _ in 0..20 {
        world.add(0, Lane::Resync, 1);
    }
    for _ in 0..1200 {
        world.tick();
    }
    assert!(world.went.iter().any(|(_, _, lane)| *lane == Lane::Resync));
}

#[test]
fn who_was_asked_to_wait_waits_and_others_go_on() {
    let mut host = Host::new(rate(10, 10), Millis(0));
    let go = |host: &mut Host, name: &str, now: Millis| {
        host.join(name, None, Lane::Change, false, now).map(|ticket| host.ask(name, ticket, now))
    };
    assert_eq!(go(&mut host, "a", Millis(0)), Ok(Turn::Go));
    let waiting = host.join("a", None, Lane::Change, false, Millis(0)).unwrap();
    host.done("a", Verdict::Fine, Some(Away::Refused(30 * SECOND)), Millis(0));
    assert_eq!(
        host.ask("a", waiting, Millis(1)),
        Turn::Refused(Refusal::AskedToWait(Duration::from_millis(29_999)))
    );
    assert_eq!(go(&mut host, "a", Millis(10_000)), Err(Refusal::AskedToWait(20 * SECOND)));
    assert_eq!(go(&mut host, "b", Millis(10_000)), Ok(Turn::Go));
    assert_eq!(go(&mut host, "a", Millis(30_000)), Ok(Turn::Go));
}

#[test]
fn a_host_that_answers_nothing_is_left_alone_then_asked_once() {
    let mut host = Host::new(rate(1000, 1000), Millis(0));
    let now = Millis(0);
    let mut under_way = 0;
    // As many as may go at once: then one fails, and only one at a time is asked.
    for _ in 0..20 {
        if let Ok(ticket) = host.join("a", None, Lane::Change, false, now) {
            match host.ask("a", ticket, now) {
                Turn::Go => under_way += 1,
                _ => host.leave("a", ticket),
            }
        }
    }
    assert_eq!(under_way, IN_FLIGHT);
    host.done("a", Verdict::Silent, None, now);
    let ticket = host.join("b", None, Lane::Change, false, now).unwrap();
    assert!(matches!(host.ask("b", ticket, now), Turn::Wait(_)), "seven are still under way");
    for _ in 0..4 {
        host.done("a", Verdict::Silent, None, now);
    }
    assert!(matches!(host.ask("b", ticket, now), Turn::Refused(Refusal::Failing(_))));
    for _ in 0..3 {
        host.done("a", Verdict::Silent, None, now);
    }
    let later = now + 2 * SECOND;
    let probe = host.join("b", None, Lane::Change, false, later).unwrap();
    assert_eq!(host.ask("b", probe, later), Turn::Go);
    assert!(
        matches!(host.join("a", None, Lane::Change, false, later), Err(Refusal::Failing(_))),
        "one probe"
    );
    host.done("b", Verdict::Fine, None, later);
    assert!(host.join("b", None, Lane::Change, false, later).is_ok());
}

#[test]
fn answers_that_say_failed_harm_their_connection_alone() {
    let mut host = Host::new(rate(1000, 1000), Millis(0));
    for _ in 0..FAILURES {
        let ticket = host.join("a", None, Lane::Change, false, Millis(0)).unwrap();
        assert_eq!(host.ask("a", ticket, Millis(0)), Turn::Go);
        host.done("a", Verdict::Failed, None, Millis(0));
    }
    assert!(matches!(host.join("a", None, Lane::Change, false, Millis(0)), Err(Refusal::Failing(_))));
    assert!(host.join("b", None, Lane::Change, false, Millis(0)).is_ok());
}

#[test]
fn nothing_is_remembered_of_what_is_at_rest() {
    let mut host = Host::new(rate(10, 10), Millis(0));
    let ticket = host.join("a", Some(rate(1, 1)), Lane::Change, false, Millis(0)).unwrap();
    assert_eq!(host.ask("a", ticket, Millis(0)), Turn::Go);
    assert!(!host.forget(Millis(0)));
    host.done("a", Verdict::Fine, None, Millis(0));
    assert!(!host.forget(Millis(0)), "its bucket is not full again");
    assert!(host.forget(Millis(5_000)));
}

/// A tenant of two requests a second at once, whose every second answer says that none is left: an errand of three calls
/// gets to its end, and nobody is told of a refusal that there was not.
#[test]
fn a_limit_that_is_spent_holds_up_what_is_begun_and_starts_nothing_anew() {
    let (mut host, mut now) = (Host::new(rate(1000, 1000), Millis(0)), Millis(0));
    for call in 0..6 {
        let ticket = host.join("a", None, Lane::Change, call > 0, now).expect("begun: it may wait");
        let turn = host.ask("a", ticket, now);
        if let Turn::Wait(until) = turn {
            let other = host.join("a", None, Lane::Change, false, now);
            assert!(matches!(other, Err(Refusal::ComeBack(_))), "{other:?}");
            now = until;
            assert_eq!(host.ask("a", ticket, now), Turn::Go);
        }
        let spent = (call % 2 == 1).then_some(Away::Spent(SECOND));
        host.done("a", Verdict::Fine, spent, now);
    }
    assert_eq!(now, Millis(2000));
    // Longer than anybody waits here.
    host.done("a", Verdict::Fine, Some(Away::Refused(600 * SECOND)), now);
    let begun = host.join("a", None, Lane::Change, true, now);
    assert_eq!(begun, Err(Refusal::AskedToWait(600 * SECOND)));
}
