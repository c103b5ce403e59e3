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
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut simulation = Simulation::new(MEMORY, 1);
    let is_owned = Arc::new(AtomicBool::new(true));
    let owns = is_owned.clone();
    simulation.machine.owns = Arc::new(move |_| owns.load(Ordering::Relaxed));
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
    let mut own = |value: bool| {
        is_owned.store(value, Ordering::Relaxed);
        simulation.command(DispatchCommand::HookChanged(uid.clone()));
    };
    own(false);
    own(true);
    assert_eq!(simulation.health[&uid].reason, before);
}
