//! Attempts without an outcome: the process had no memory for them, or their tasks panicked.

use super::store::State;
use super::*;

#[test]
fn a_postponed_delivery_neither_holds_its_hook_nor_delays_other_deliveries() {
    let mut simulation = Simulation::new(MEMORY, 1);
    let receiver = Receiver::Healthy(Duration::from_millis(10));
    let uid = simulation.put_hook("n", "h", "u", &json!({"concurrency": 1}), receiver);
    simulation.without_outcome = (1..=3).collect();
    (0..20).for_each(|_| simulation.accept(std::slice::from_ref(&uid), 100));
    simulation.run_for(Duration::from_secs(5));
    assert_eq!(simulation.delivered("u"), 17);
    assert!(simulation.held.is_empty());
    assert_eq!(simulation.health[&uid].reason, "Delivering");
    assert_eq!(simulation.attempts[&uid], 20, "the postponed ones are not repeated at once");
    assert_eq!((simulation.machine.in_flight(), simulation.machine.memory.used()), (0, 0), "nothing leaks");
    simulation.without_outcome.clear();
    simulation.drain(Duration::from_secs(15));
    assert_eq!((simulation.delivered("u"), simulation.attempts[&uid]), (20, 23));
    assert!(simulation.machine.queues.is_empty());
}

#[test]
fn a_delivery_whose_attempts_never_have_an_outcome_ends_by_its_age() {
    let mut simulation = Simulation::new(MEMORY, 1);
    let receiver = Receiver::Healthy(Duration::from_millis(10));
    let uid = simulation.put_hook("n", "h", "u", &json!({"retry": {"maxAge": "60s"}}), receiver);
    simulation.without_outcome = [1].into();
    simulation.accept(std::slice::from_ref(&uid), 100);
    simulation.run_for(Duration::from_secs(50));
    assert_eq!(simulation.store.pending(), 1);
    simulation.drain(Duration::from_secs(30));
    assert_eq!(simulation.store.count(State::Dead), 1);
    assert!(simulation.machine.queues.is_empty());
}

#[test]
fn a_postponed_delivery_can_be_replayed_and_cancelled() {
    let mut simulation = Simulation::new(MEMORY, 1);
    let receiver = Receiver::Healthy(Duration::from_millis(10));
    let uid = simulation.put_hook("n", "h", "u", &json!({}), receiver);
    simulation.without_outcome = [1, 2].into();
    (0..2).for_each(|_| simulation.accept(std::slice::from_ref(&uid), 100));
    simulation.run_for(Duration::from_secs(1));
    simulation.without_outcome.clear();
    let hook = simulation.index.get(&uid).unwrap().id.clone();
    simulation.store.end(1 << 20, State::Cancelled);
    for event in 1..=2 {
        simulation.command(DispatchCommand::DeliveryChanged { hook: hook.clone(), seq: event << 20 });
    }
    simulation.run_for(Duration::from_secs(2));
    assert_eq!((simulation.delivered("u"), simulation.store.pending()), (1, 0), "at once");
}

#[test]
fn attempts_that_a_grant_slows_down_start_again_within_its_rate() {
    let mut simulation = Simulation::new(MEMORY, 1);
    let receiver = Receiver::Healthy(Duration::from_millis(10));
    let uid = simulation.put_hook("n", "h", "u", &json!({}), receiver);
    let object = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
        "metadata": {"name": "h", "namespace": "n", "uid": "u", "generation": 2},
        "spec": {"source": "s", "delivery": {"concurrency": 10},
            "handler": {"webhook": {"url": "https://example.com", "handshake": true}}}});
    simulation.index.upsert(&serde_json::from_value(object).unwrap());
    (0..8).for_each(|_| simulation.accept(std::slice::from_ref(&uid), 100));
    assert_eq!(simulation.machine.in_flight(), 8, "without a limit");
    let grant = |simulation: &Simulation, requests| {
        simulation.index.get("u").unwrap().permission.as_ref().unwrap().grant(Some(2), requests);
    };
    grant(&simulation, 60);
    // One at once, and one each second.
    simulation.run_for(Duration::from_millis(3500));
    assert_eq!((simulation.delivered("u"), simulation.attempts[&uid]), (4, 8 + 4));
    assert!(simulation.held.is_empty());
    // A later grant applies from the next delivery on.
    grant(&simulation, 600);
    simulation.run_for(Duration::from_millis(1500));
    assert_eq!(simulation.delivered("u"), 8);
    assert_eq!((simulation.machine.in_flight(), simulation.machine.memory.used()), (0, 0), "nothing leaks");
}
