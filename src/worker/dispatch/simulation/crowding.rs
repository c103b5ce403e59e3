//! Senders wait while the worker delivers slower than it accepts, and for no other reason.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// How late attempts start on a worker without CPU to spare.
const SATURATED: Duration = Duration::from_millis(5);
const EVENT: usize = 1000;

fn fast() -> Receiver {
    Receiver::Healthy(Duration::from_millis(20))
}

/// A sender of one event to ten hooks that waits when it should. Its backlog stays in memory.
#[test]
fn fan_out_backlog_stays_in_memory_because_its_sender_waits() {
    let mut simulation = Simulation::new(MEMORY, 1);
    simulation.start_delay = SATURATED;
    let hooks: Vec<_> = (0..10)
        .map(|n| simulation.put_hook("busy", &format!("h{n}"), &format!("h{n}"), &json!({}), fast()))
        .collect();
    let (mut accepted, mut waited) = (0, 0);
    // 2,000 events a second; each hook delivers 400.
    for _ in 0..30_000 {
        for _ in 0..2 {
            match simulation.crowded.contains("busy") {
                true => waited += 1,
                false => {
                    simulation.accept(&hooks, EVENT);
                    accepted += 1;
                }
            }
        }
        simulation.run_for(Duration::from_millis(1));
        let all_in_memory = hooks.iter().all(|uid| !simulation.machine.queues[uid].has_more_on_disk);
        assert!(all_in_memory, "after {accepted} events");
    }
    assert!(waited > 40_000, "{waited} waits, {accepted} events");
    let delivered: usize = hooks.iter().map(|uid| simulation.delivered(uid)).sum();
    assert!(delivered > 10 * 395 * 30, "no hook ran out of deliveries: {delivered}");
    simulation.drain(60 * SECOND);
    assert!(simulation.crowded.is_empty());
}

/// Neither a hook that is held up by its receiver or its spec, nor a worker with CPU to spare, delays a sender.
#[test]
fn held_slow_limited_and_failing_hooks_delay_no_sender() {
    let mut simulation = Simulation::new(MEMORY, 2);
    simulation.start_delay = SATURATED;
    let slow = Receiver::Healthy(SECOND / 2);
    let limited = json!({"rateLimit": {"requests": 100}});
    let hooks: Vec<_> = [
        ("paused", json!({"paused": true}), fast()),
        ("slow", json!({}), slow),
        ("limited", limited, fast()),
        ("dead", json!({}), Receiver::Dead),
        ("hanging", json!({}), Receiver::Hanging),
    ]
    .map(|(name, spec, receiver)| simulation.put_hook(name, name, name, &spec, receiver))
    .into();
    // A healthy hook beside them keeps the worker saturated, and has no backlog.
    let healthy = simulation.put_hook("healthy", "healthy", "healthy", &json!({}), fast());
    for _ in 0..300 {
        for uid in &hooks {
            (0..40).for_each(|_| simulation.accept(std::slice::from_ref(uid), EVENT));
        }
        simulation.accept(std::slice::from_ref(&healthy), EVENT);
        simulation.run_for(SECOND / 100);
        assert!(simulation.crowded.is_empty(), "{:?}", simulation.crowded);
    }
    simulation.start_delay = Duration::ZERO;
    let behind = simulation.put_hook("behind", "behind", "behind", &json!({}), fast());
    simulation.run_for(10 * SECOND);
    for _ in 0..300 {
        (0..40).for_each(|_| simulation.accept(std::slice::from_ref(&behind), 100));
        simulation.accept(std::slice::from_ref(&healthy), EVENT);
        simulation.run_for(SECOND / 100);
        assert!(simulation.crowded.is_empty(), "{:?}", simulation.crowded);
    }
}

/// A hook that becomes paused or is deleted while it is crowded releases its senders.
#[test]
fn crowded_hook_that_is_paused_or_deleted_releases_its_senders() {
    for is_deleted in [false, true] {
        let mut simulation = Simulation::new(MEMORY, 3);
        simulation.start_delay = SATURATED;
        let uid = simulation.put_hook("n", "h", "h", &json!({}), fast());
        for _ in 0..10_000 {
            simulation.accept(std::slice::from_ref(&uid), 100);
        }
        simulation.run_for(SECOND);
        assert!(simulation.crowded.contains("n"));
        match is_deleted {
            true => simulation.delete_hook("n", "h"),
            false => drop(simulation.put_hook("n", "h", "h", &json!({"paused": true}), fast())),
        }
        assert!(simulation.crowded.is_empty());
    }
}
