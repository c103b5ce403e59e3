//! A hook that came from another worker, which is still attempting some of its deliveries.

use super::*;

const CONCURRENCY: usize = 8;

/// A hook with a backlog of 40 deliveries whose receiver takes a second for each.
fn backlog(elsewhere: usize) -> (Simulation, Arc<str>) {
    let mut simulation = Simulation::new(MEMORY, 1);
    let receiver = Receiver::Healthy(Duration::from_secs(1));
    let uid = simulation.put_hook("n", "h", "u", &json!({"concurrency": CONCURRENCY}), receiver);
    simulation.set_elsewhere(&uid, elsewhere);
    (0..40).for_each(|_| simulation.accept(std::slice::from_ref(&uid), 100));
    (simulation, uid)
}

#[test]
fn starts_what_the_former_owner_leaves_of_the_concurrency() {
    let (mut simulation, uid) = backlog(3);
    simulation.run_for(Duration::from_millis(500));
    assert_eq!(simulation.machine.in_flight(), CONCURRENCY - 3);
    simulation.set_elsewhere(&uid, 1);
    assert_eq!(simulation.machine.in_flight(), CONCURRENCY - 1, "at once");
    simulation.set_elsewhere(&uid, 0);
    assert_eq!(simulation.machine.in_flight(), CONCURRENCY);
    simulation.drain(Duration::from_secs(20));
}

#[test]
fn starts_nothing_while_the_former_owner_uses_all_of_the_concurrency() {
    let (mut simulation, uid) = backlog(CONCURRENCY);
    simulation.run_for(Duration::from_secs(60));
    assert_eq!(simulation.attempts.get(&uid), None);
    // The hook had a higher concurrency when the former owner started its attempts.
    simulation.set_elsewhere(&uid, CONCURRENCY * 3);
    simulation.run_for(Duration::from_secs(60));
    assert_eq!(simulation.attempts.get(&uid), None);
    simulation.set_elsewhere(&uid, CONCURRENCY - 1);
    assert_eq!(simulation.machine.in_flight(), 1);
    simulation.set_elsewhere(&uid, 0);
    simulation.drain(Duration::from_secs(20));
}

/// With little memory, a read of one delivery gets the capacity of its attempt before. Meanwhile the hook may have come.
#[test]
fn a_delivery_that_was_read_for_one_attempt_waits_for_the_former_owner() {
    let mut simulation = Simulation::new(2 << 20, 1);
    let slow = Receiver::Healthy(Duration::from_secs(20));
    let (other, one) = (json!({"concurrency": 40}), json!({"concurrency": 1}));
    let large = simulation.put_hook("n", "large", "large", &other, slow);
    let uid = simulation.put_hook("n", "h", "u", &one, Receiver::Healthy(Duration::from_secs(1)));
    (0..40).for_each(|_| simulation.accept(std::slice::from_ref(&large), 100_000));
    (0..5).for_each(|_| simulation.accept(std::slice::from_ref(&uid), 100_000));
    for _ in 0..200 {
        simulation.run_for(Duration::from_millis(1));
        let is_loading = simulation.machine.queues.get(&uid).is_some_and(|queue| queue.loading.is_some());
        simulation.set_elsewhere(&uid, usize::from(is_loading));
        simulation.run_for(Duration::from_millis(10));
        simulation.set_elsewhere(&uid, 0);
    }
    simulation.drain(Duration::from_secs(600));
}

/// The lease may have ended while the database still answers reads: each delivery is read twice a second, not all the time.
#[test]
fn deliveries_that_may_not_be_attempted_are_read_again_after_a_pause() {
    let mut simulation = Simulation::new(MEMORY, 1);
    let receiver = Receiver::Healthy(Duration::from_millis(1));
    let uid = simulation.put_hook("n", "h", "u", &json!({"concurrency": 4}), receiver);
    simulation.refuses_attempts = true;
    (0..10).for_each(|_| simulation.accept(std::slice::from_ref(&uid), 100));
    simulation.run_for(Duration::from_secs(5));
    let refused = simulation.attempts[&uid];
    assert!((50..=110).contains(&refused), "{refused} attempts of 10 deliveries");
    simulation.refuses_attempts = false;
    simulation.drain(Duration::from_secs(2));
    assert_eq!(simulation.delivered("u"), 10);
}

/// A hand-over that failed: writes of the hook's health that were dropped meanwhile are made again.
#[test]
fn a_hook_that_comes_back_reports_its_health_again() {
    let mut simulation = Simulation::new(MEMORY, 1);
    let uid = simulation.put_hook("n", "h", "u", &json!({"concurrency": 4}), Receiver::Hanging);
    (0..40).for_each(|_| simulation.accept(std::slice::from_ref(&uid), 100));
    for _ in 0..100_000 {
        simulation.run_for(Duration::from_millis(10));
        if simulation.health.contains_key(&uid) && simulation.machine.in_flight() > 0 {
            break;
        }
    }
    assert!(simulation.machine.in_flight() > 0, "the queue stays");
    let before = simulation.health.remove(&uid).unwrap().reason;
    own(&mut simulation, &uid, None);
    own(&mut simulation, &uid, Some(0));
    assert_eq!(simulation.health[&uid].reason, before);
}

/// Changes the epoch under which the simulated process owns all hooks, and notifies it.
fn own(simulation: &mut Simulation, uid: &Arc<str>, epoch: Option<i64>) {
    simulation.ownership.set_epoch(epoch);
    simulation.command(DispatchCommand::HookChanged(uid.clone()));
}

/// A hook with a backlog whose receiver fails, so that its breaker is open. Returns its next probe on the steady clock.
fn failing() -> (Simulation, Arc<str>, Millis) {
    let mut simulation = Simulation::new(MEMORY, 1);
    let uid = simulation.put_hook("n", "h", "u", &json!({"concurrency": 1}), Receiver::Dead);
    (0..200).for_each(|_| simulation.accept(std::slice::from_ref(&uid), 100));
    for _ in 0..10_000 {
        let probe = simulation.breakers.get(&uid).and_then(|report| report.next_probe);
        // A longer pause than the first one.
        if let Some(at) = probe.filter(|at| *at > simulation.now().wall + Duration::from_secs(5)) {
            let probe = Millis(at.0 - simulation.wall_ahead);
            return (simulation, uid, probe);
        }
        simulation.run_for(Duration::from_millis(1));
    }
    panic!("the breaker stays closed: {:?}", simulation.breakers);
}

#[test]
fn no_attempt_starts_before_the_probe_that_the_former_owner_planned() {
    let (mut simulation, uid, probe) = failing();
    let before = simulation.attempts[&uid];
    let report = simulation.breakers[&uid];
    simulation.ownership.set_epoch(Some(1));
    simulation.breakers.clear();
    simulation.replace_process();
    assert_eq!(simulation.breakers[&uid].next_probe, report.next_probe, "users see it at once");
    simulation.run_until(Millis(probe.0 - 1));
    assert_eq!(simulation.attempts[&uid], before);
    simulation.run_until(probe + Duration::from_millis(100));
    assert_eq!(simulation.attempts[&uid] - before, 5, "a round of probes");
    assert_eq!(simulation.breakers[&uid].pause, report.pause * 2, "the pauses go on");
}

#[test]
fn a_hook_that_comes_back_has_the_breaker_of_its_owner_in_between() {
    let (mut simulation, uid, probe) = failing();
    let open = simulation.ownership.pacing(&uid).expect("recorded");
    own(&mut simulation, &uid, None);
    assert_eq!(
        simulation.ownership.pacing(&uid),
        Some(open.clone()),
        "the queue is gone, and its record is not"
    );
    // The other owner delivered.
    simulation.ownership.set_pacing(&uid, None);
    simulation.receivers.insert(uid.clone(), Receiver::Healthy(Duration::from_millis(1)));
    own(&mut simulation, &uid, Some(2));
    simulation.run_for(Duration::from_secs(1));
    assert!(simulation.delivered("u") > 0 && simulation.steady < probe);
    // And it opens again elsewhere, while attempts are in flight here.
    simulation.receivers.insert(uid.clone(), Receiver::Healthy(Duration::from_secs(1)));
    (0..40).for_each(|_| simulation.accept(std::slice::from_ref(&uid), 100));
    simulation.run_for(Duration::from_millis(500));
    assert_eq!(simulation.machine.in_flight(), 1);
    let delivered = simulation.delivered("u");
    own(&mut simulation, &uid, None);
    let mut longer = open;
    let (now, pause) = (simulation.steady, Duration::from_secs(60));
    longer.breaker.open = Some(crate::core::receiver_breaker::OpenPause { until: Some(now + pause), pause });
    simulation.ownership.set_pacing(&uid, Some(longer));
    own(&mut simulation, &uid, Some(4));
    simulation.run_until(now + Duration::from_secs(59));
    assert!(simulation.delivered("u") <= delivered + 1, "what was in flight changes nothing");
    simulation.drain(Duration::from_secs(600));
}

/// Two requests a minute, with a burst of 10.
fn limited() -> (Simulation, Arc<str>) {
    let mut simulation = Simulation::new(MEMORY, 1);
    let receiver = Receiver::Healthy(Duration::from_millis(1));
    let limit = json!({"rateLimit": {"requests": 2, "interval": "1m", "burst": 10}});
    let uid = simulation.put_hook("n", "h", "u", &limit, receiver);
    (0..100).for_each(|_| simulation.accept(std::slice::from_ref(&uid), 100));
    simulation.run_for(Duration::from_secs(1));
    assert_eq!(simulation.attempts[&uid], 10);
    (simulation, uid)
}

#[test]
fn owners_share_the_tokens_of_a_rate_limit() {
    let (mut simulation, uid) = limited();
    for epoch in 1..=10 {
        simulation.ownership.set_epoch(Some(epoch));
        simulation.replace_process();
        simulation.run_for(Duration::from_secs(29));
    }
    let attempts = simulation.attempts[&uid];
    assert!((18..=19).contains(&attempts), "{attempts} attempts in 291 s");
}

#[test]
fn a_rate_limit_starts_without_tokens_after_a_crash() {
    let (mut simulation, uid) = limited();
    simulation.ownership.lose_tokens(simulation.steady);
    simulation.ownership.set_epoch(Some(1));
    simulation.replace_process();
    simulation.run_for(Duration::from_secs(59));
    assert_eq!(simulation.attempts[&uid], 11);
    // Long after the crash the bucket is full: the hook was idle at its new owner.
    let other = simulation.put_hook(
        "n",
        "other",
        "v",
        &json!({"rateLimit": {"requests": 2, "interval": "1m", "burst": 10}}),
        Receiver::Healthy(Duration::from_millis(1)),
    );
    simulation.run_for(Duration::from_secs(600));
    (0..20).for_each(|_| simulation.accept(std::slice::from_ref(&other), 100));
    simulation.run_for(Duration::from_secs(1));
    assert_eq!(simulation.attempts[&other], 10);
}

/// A hook with a backlog and one request an hour, whose former owner ended without notice and recorded no tokens.
fn hourly_after_a_crash() -> (Simulation, Arc<str>) {
    let mut simulation = Simulation::new(MEMORY, 1);
    let receiver = Receiver::Healthy(Duration::from_millis(1));
    let limit = json!({"rateLimit": {"requests": 1, "interval": "1h", "burst": 1}});
    let uid = simulation.put_hook("n", "h", "u", &limit, receiver);
    crash(&mut simulation, 1);
    (0..100).for_each(|_| simulation.accept(std::slice::from_ref(&uid), 100));
    (simulation, uid)
}

/// Ends the process without notice, and lets the next one take over under this epoch.
fn crash(simulation: &mut Simulation, epoch: i64) {
    simulation.ownership.lose_tokens(simulation.steady);
    simulation.ownership.set_epoch(Some(epoch));
    simulation.replace_process();
}

/// Each owner starts without tokens unless a former one has recorded them.
#[test]
fn a_limit_slower_than_the_crashes_of_its_workers_is_sent_at_its_rate() {
    let (mut simulation, uid) = hourly_after_a_crash();
    let (mut random, mut minutes) = (fastrand::Rng::with_seed(7), 0);
    for epoch in 2..60 {
        let after = random.usize(1..40);
        simulation.run_for(Duration::from_secs(60) * u32::try_from(after).unwrap());
        minutes += after;
        crash(&mut simulation, epoch);
        let attempts = simulation.attempts.get(&uid).copied().unwrap_or(0);
        let hours = minutes / 60;
        assert!((hours.saturating_sub(1)..=hours).contains(&attempts), "{attempts} in {minutes} min");
    }
}

/// Otherwise its burst would come on top of what the former owner has sent.
#[test]
fn a_limit_that_changed_during_a_crash_starts_without_tokens() {
    let (mut simulation, uid) = hourly_after_a_crash();
    simulation.run_for(Duration::from_secs(3601));
    assert_eq!(simulation.attempts[&uid], 1);
    simulation.ownership.lose_tokens(simulation.steady);
    simulation.ownership.set_epoch(Some(2));
    let limit = json!({"rateLimit": {"requests": 1, "interval": "2h", "burst": 5}});
    let receiver = Receiver::Healthy(Duration::from_millis(1));
    simulation.put_hook("n", "h", "u", &limit, receiver);
    simulation.replace_process();
    simulation.run_for(Duration::from_secs(7199));
    assert_eq!(simulation.attempts[&uid], 1);
    simulation.run_for(Duration::from_secs(2));
    assert_eq!(simulation.attempts[&uid], 2);
}
