//! What the dispatcher reports, and when it forgets a hook.

use super::*;

#[test]
fn forgets_a_deleted_hook_again_after_a_late_outcome() {
    let mut simulation = Simulation::new(MEMORY, 1);
    let uid = simulation.put_hook("n", "h", "u", &json!({}), Receiver::Hanging);
    simulation.delete_hook("n", "h");
    assert!(simulation.machine.queues.is_empty());
    // An attempt was in flight when the hook was forgotten.
    let next = NextStep::Retry { due: simulation.now().wall + Duration::from_secs(60) };
    let settled = SettledDelivery { uid, seq: 1 << 20, next: Some(next), notify: false };
    simulation.command(DispatchCommand::Settled(vec![settled]));
    simulation.run_for(GRACE * 3);
    assert!(simulation.machine.queues.is_empty());
    assert_eq!(simulation.machine.next_wake(), None);
}

#[test]
fn reports_a_failing_filter_until_no_evaluation_has_failed_for_a_while() {
    let mut simulation = Simulation::new(MEMORY, 1);
    let slow = Receiver::Healthy(Duration::from_secs(10));
    let uid = simulation.put_hook("n", "h", "u", &json!({}), slow);
    simulation.accept(std::slice::from_ref(&uid), 100);
    let generation = simulation.index.get(&uid).unwrap().generation;
    let why = "the member n does not exist".to_owned();
    simulation.command(DispatchCommand::Undecided { uid: uid.clone(), generation, why });
    simulation.run_for(Duration::from_secs(120));
    assert_eq!(simulation.health[&uid].reason, "Undecided");
    // The delivery was evaluated for the last time and became a dead letter.
    simulation.run_for(Duration::from_secs(300));
    assert_eq!(simulation.health[&uid].reason, "Delivering");
    assert!(simulation.machine.queues.is_empty());
}

#[test]
fn reports_the_next_probes_in_wall_clock_time() {
    let mut simulation = Simulation::new(MEMORY, 1);
    let uid = simulation.put_hook("n", "h", "u", &json!({}), Receiver::Dead);
    (0..20).for_each(|_| simulation.accept(std::slice::from_ref(&uid), 100));
    simulation.run_for(Duration::from_secs(1));
    let next = simulation.breakers[&uid].next_probe.expect("the breaker is open");
    let now = simulation.now().wall;
    assert!(next > now && next < now + Duration::from_secs(10), "{next:?} {now:?}");
}
