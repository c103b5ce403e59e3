//! Fair shares: a hook keeps its rate and gets its memory, whatever the others do.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MIB: usize = 1 << 20;

fn healthy() -> Receiver {
    Receiver::Healthy(Duration::from_millis(250))
}

/// Accepts events for the hook at 300 a second and returns how many are delivered in a minute, after ten seconds.
fn measure(
    simulation: &mut Simulation,
    hooks: &[Arc<str>],
    mut each_second: impl FnMut(&mut Simulation),
) -> Vec<usize> {
    let mut before = Vec::new();
    for second in 0..70 {
        if second == 10 {
            before = hooks.iter().map(|uid| simulation.delivered(uid)).collect();
        }
        each_second(simulation);
        for _ in 0..10 {
            for uid in hooks {
                for _ in 0..30 {
                    simulation.accept(std::slice::from_ref(uid), 1000);
                }
            }
            simulation.run_for(SECOND / 10);
        }
    }
    hooks.iter().zip(before).map(|(uid, before)| simulation.delivered(uid) - before).collect()
}

fn add_healthy(simulation: &mut Simulation, namespace: &str) -> Arc<str> {
    let spec = json!({"concurrency": 64});
    simulation.put_hook(namespace, "healthy", &format!("{namespace}-healthy"), &spec, healthy())
}

/// Two tarpits, 24 dead receivers with large events, and 2,000 hooks in 200 namespaces with some events each.
#[test]
fn a_healthy_hook_keeps_its_rate_beside_dead_receivers_tarpits_and_thousands_of_hooks() {
    let mut alone = Simulation::new(MEMORY, 1);
    let uid = add_healthy(&mut alone, "healthy");
    let rate_alone = measure(&mut alone, &[uid], |_| {})[0];
    assert!((14_000..=15_400).contains(&rate_alone), "64 attempts of 250 ms: {rate_alone}");

    let mut simulation = Simulation::new(MEMORY, 2);
    let tarpit = json!({"concurrency": 1024, "timeout": "10m"});
    let tarpits =
        ["a", "b"].map(|name| simulation.put_hook("tarpits", name, name, &tarpit, Receiver::Hanging));
    let dead: Vec<_> = (0..24)
        .map(|n| simulation.put_hook("dead", &format!("d{n}"), &format!("d{n}"), &json!({}), Receiver::Dead))
        .collect();
    let many: Vec<_> = (0..2000)
        .map(|n| {
            let (namespace, uid) = (format!("many-{}", n % 200), format!("m{n}"));
            simulation.put_hook(&namespace, &uid, &uid, &json!({}), Receiver::Healthy(SECOND / 20))
        })
        .collect();
    for uid in &tarpits {
        for _ in 0..3000 {
            simulation.accept(std::slice::from_ref(uid), 500);
        }
    }
    for uid in &dead {
        for _ in 0..10 {
            simulation.accept(std::slice::from_ref(uid), MIB);
        }
    }
    let other = add_healthy(&mut simulation, "healthy");
    // In the namespace of the tarpits, which share its part with it.
    let same = add_healthy(&mut simulation, "tarpits");
    let mut round = 0;
    let rates = measure(&mut simulation, &[other, same], |simulation| {
        for uid in &dead {
            simulation.accept(std::slice::from_ref(uid), MIB);
        }
        for uid in many.iter().skip(round % 10).step_by(10) {
            simulation.accept(std::slice::from_ref(uid), 2000);
        }
        round += 1;
    });
    for rate in &rates {
        assert!(*rate * 10 >= rate_alone * 8, "{rates:?}, alone {rate_alone}");
    }
    let sent: usize = many.iter().map(|uid| simulation.delivered(uid)).sum();
    assert!(sent >= 65 * 200, "{sent} of 14,000 for the many hooks");
    let of_tarpits = tarpits.map(|uid| simulation.attempts[&uid]);
    assert!(
        of_tarpits.iter().all(|attempts| *attempts >= 10) && of_tarpits.iter().sum::<usize>() >= 400,
        "{of_tarpits:?}"
    );
}

/// Each of thousands of hooks gets memory for its largest event, although they need a hundred times the budget.
#[test]
fn every_hook_gets_memory_for_one_event() {
    let mut simulation = Simulation::new(MEMORY, 3);
    let hooks: Vec<_> = (0..3000)
        .map(|n| {
            let (namespace, uid) = (format!("n{}", n % 30), format!("h{n}"));
            simulation.put_hook(&namespace, &uid, &uid, &json!({}), healthy())
        })
        .collect();
    for _ in 0..2 {
        for uid in &hooks {
            simulation.accept(std::slice::from_ref(uid), 2 * MIB);
        }
    }
    simulation.restart();
    let took = simulation.drain(Duration::from_secs(3600));
    assert!(took < Duration::from_secs(900), "{took:?}");
    assert!(simulation.most_memory > MEMORY / 2, "the memory is used: {}", simulation.most_memory);
    simulation.assert_idle();
}

/// The largest event that is allowed by default, beside tarpits that take what they can.
#[test]
fn a_large_event_gets_memory_beside_tarpits_within_their_timeout() {
    let mut simulation = Simulation::new(MEMORY, 4);
    let tarpit =
        json!({"concurrency": 1024, "timeout": "10m", "retry": {"maxBackoff": "1s", "initialBackoff": "1s"}});
    for n in 0..50 {
        let name = format!("t{n}");
        let uid = simulation.put_hook("tarpits", &name, &name, &tarpit, Receiver::Hanging);
        for _ in 0..100 {
            simulation.accept(std::slice::from_ref(&uid), 100_000);
        }
    }
    simulation.run_for(SECOND);
    let uid = simulation.put_hook("other", "large", "large", &json!({}), healthy());
    for _ in 0..3 {
        simulation.accept(std::slice::from_ref(&uid), 10 * MIB);
    }
    simulation.run_for(Duration::from_secs(1250));
    assert!(simulation.delivered(&uid) >= 1, "{:?}", simulation.stuck());
}

/// A receiver that rejects 40 events with 500 gets the next 40 within a minute.
#[test]
fn rejected_events_do_not_stop_the_others() {
    let mut simulation = Simulation::new(MEMORY, 5);
    let uid = simulation.put_hook("n", "h", "h", &json!({}), Receiver::Rejecting(41));
    for _ in 0..80 {
        simulation.accept(std::slice::from_ref(&uid), 1000);
        simulation.run_for(Duration::from_millis(5));
    }
    simulation.run_for(Duration::from_secs(60));
    assert_eq!(simulation.delivered(&uid), 40, "{:?}", simulation.stuck());
}

/// After a restart the bad events are read first; the probes find the good ones behind them.
#[test]
fn probes_find_untried_deliveries_behind_a_rejected_backlog() {
    let mut simulation = Simulation::new(MEMORY, 6);
    let uid = simulation.put_hook("n", "h", "h", &json!({"paused": true}), Receiver::Rejecting(1001));
    for _ in 0..1100 {
        simulation.accept(std::slice::from_ref(&uid), 1000);
    }
    simulation.restart();
    simulation.put_hook("n", "h", "h", &json!({}), Receiver::Rejecting(1001));
    simulation.run_for(Duration::from_secs(300));
    assert_eq!(simulation.delivered(&uid), 100, "{:?}", simulation.stuck());
}

/// A hook with a rate limit uses no tokens while its breaker is open.
#[test]
fn an_open_breaker_uses_no_rate_tokens() {
    let mut simulation = Simulation::new(MEMORY, 7);
    let spec = json!({"rateLimit": {"requests": 20, "interval": "1h"}});
    let uid = simulation.put_hook("n", "h", "h", &spec, Receiver::Dead);
    for _ in 0..30 {
        simulation.accept(std::slice::from_ref(&uid), 1000);
    }
    simulation.run_for(Duration::from_secs(1));
    let attempts = simulation.attempts[&uid];
    assert!(attempts < 20, "the breaker opened after {attempts} attempts");
    simulation.receivers.insert(uid.clone(), healthy());
    simulation.run_for(Duration::from_secs(30));
    assert_eq!(simulation.attempts[&uid], 20, "all tokens were left for attempts");
}

/// Two hooks receive the same large events, also after a restart: one copy of each event is in memory.
#[test]
fn deliveries_of_an_event_share_one_copy() {
    let mut simulation = Simulation::new(MEMORY, 8);
    let spec = json!({"concurrency": 1, "timeout": "10m"});
    let hooks = ["a", "b"].map(|name| simulation.put_hook("n", name, name, &spec, Receiver::Hanging));
    for _ in 0..10 {
        simulation.accept(&hooks, MIB);
    }
    simulation.restart();
    simulation.run_for(SECOND);
    let ready: Vec<_> = hooks.iter().map(|uid| &simulation.machine.queues[uid].ready).collect();
    assert!(ready.iter().all(|ready| ready.len() > 2), "both have read some");
    let bodies = 2 * (MIB + 64 * 1024);
    let used = simulation.machine.memory.used();
    assert!(used < 11 * MIB + bodies, "{used} bytes for ten events of 1 MiB");
}

impl Simulation {
    /// Asserts that the machine uses no memory when nothing is pending.
    fn assert_idle(&self) {
        assert!(self.machine.memory.is_empty(), "{} bytes", self.machine.memory.used());
        assert_eq!((self.machine.in_flight(), self.machine.memory.pool.used()), (0, 0));
    }
}
