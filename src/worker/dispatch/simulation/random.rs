//! Random interleavings: accept, replay, cancel, hold, edit, delete, recreate, restart, lost commits, failing receivers.

use proptest::prelude::*;

use super::store::State;
use super::*;

#[derive(Clone, Debug)]
enum Step {
    Accept { hooks: u8, len: usize, count: u8 },
    Replay(u16),
    Cancel(u16),
    Pause { hook: u8, paused: bool },
    Receiver { hook: u8, receiver: u8 },
    Concurrency { hook: u8, concurrency: u16 },
    Elsewhere { hook: u8, count: usize },
    Delete(u8),
    Recreate(u8),
    Restart,
    Wait(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![3 => 10..1000_usize, 2 => 3000..6000_usize, 1 => 50_000..400_000_usize];
    prop_oneof![
        8 => (any::<u8>(), len, 1..60_u8).prop_map(|(hooks, len, count)| Step::Accept { hooks, len, count }),
        1 => any::<u16>().prop_map(Step::Replay),
        1 => any::<u16>().prop_map(Step::Cancel),
        1 => (0..HOOKS, any::<bool>()).prop_map(|(hook, paused)| Step::Pause { hook, paused }),
        2 => (0..HOOKS, 0..5_u8).prop_map(|(hook, receiver)| Step::Receiver { hook, receiver }),
        1 => (0..HOOKS, 1..40_u16).prop_map(|(hook, concurrency)| Step::Concurrency { hook, concurrency }),
        1 => (0..HOOKS, 0..20_usize).prop_map(|(hook, count)| Step::Elsewhere { hook, count }),
        1 => (0..HOOKS).prop_map(Step::Delete),
        1 => (0..HOOKS).prop_map(Step::Recreate),
        1 => Just(Step::Restart),
        6 => prop_oneof![0..50_u32, 0..5000_u32, 0..100_000_u32].prop_map(Step::Wait),
    ]
}

const HOOKS: u8 = 8;
/// Small, so that the hooks compete for it.
const SMALL_MEMORY: usize = 4 << 20;
/// Shorter than the longest wait of a step, so that backlogs of deleted hooks are ended.
const SHORT_GRACE: Duration = Duration::from_secs(40);

struct Hook {
    uid: Arc<str>,
    generation: u32,
    paused: bool,
    concurrency: u16,
    receiver: Receiver,
    exists: bool,
}

struct Hooks(Vec<Hook>);

impl Hooks {
    fn apply(&self, simulation: &mut Simulation, hook: u8) {
        let at = usize::from(hook);
        let found = &self.0[at];
        if !found.exists {
            simulation.receivers.insert(found.uid.clone(), found.receiver);
            return;
        }
        let spec = json!({"paused": found.paused, "concurrency": found.concurrency, "timeout": "30s",
            "retry": {"initialBackoff": "1s", "maxBackoff": "20s"}});
        simulation.put_hook(&format!("n{}", at % 3), &format!("h{at}"), &found.uid, &spec, found.receiver);
    }
}

fn receiver(choice: u8) -> Receiver {
    match choice {
        0 => Receiver::Healthy(Duration::from_millis(5)),
        1 => Receiver::Healthy(Duration::from_secs(3)),
        2 => Receiver::Dead,
        3 => Receiver::Hanging,
        _ => Receiver::Rejecting(i64::MAX),
    }
}

/// Returns how many backlogs of deleted hooks were ended.
fn run_steps(steps: Vec<Step>, seed: u64, lost: Option<u32>) -> usize {
    let mut simulation = Simulation::with_grace(SMALL_MEMORY, seed, SHORT_GRACE);
    (simulation.lost_commits, simulation.lost_attempts) = (lost, lost);
    let mut hooks = Hooks(
        (0..HOOKS)
            .map(|n| Hook {
                uid: format!("u{n}-0").into(),
                generation: 0,
                paused: false,
                concurrency: 8,
                receiver: receiver(0),
                exists: true,
            })
            .collect(),
    );
    (0..HOOKS).for_each(|hook| hooks.apply(&mut simulation, hook));
    for step in steps {
        match step {
            Step::Accept { hooks: bits, len, count } => {
                let chosen =
                    hooks.0.iter().enumerate().filter(|(n, hook)| bits & (1 << n) != 0 && hook.exists);
                let chosen: Vec<_> = chosen.map(|(_, hook)| hook.uid.clone()).collect();
                (0..count).for_each(|_| simulation.accept(&chosen, len));
            }
            Step::Replay(at) => {
                let states = [State::Delivered, State::Dead, State::Cancelled];
                let state = states[usize::from(at) % states.len()];
                let count = simulation.store.count(state);
                if let Some((hook, seq)) = simulation.store.pick(state, usize::from(at) % count.max(1)) {
                    let now = simulation.now().wall;
                    simulation.store.replay(seq, now);
                    simulation.command(DispatchCommand::DeliveryChanged { hook, seq });
                }
            }
            Step::Cancel(at) => {
                let count = simulation.store.count(State::Pending);
                if let Some((hook, seq)) =
                    simulation.store.pick(State::Pending, usize::from(at) % count.max(1))
                {
                    simulation.store.end(seq, State::Cancelled);
                    simulation.command(DispatchCommand::DeliveryChanged { hook, seq });
                }
            }
            Step::Pause { hook, paused } => {
                hooks.0[usize::from(hook)].paused = paused;
                hooks.apply(&mut simulation, hook);
            }
            Step::Receiver { hook, receiver: choice } => {
                hooks.0[usize::from(hook)].receiver = receiver(choice);
                hooks.apply(&mut simulation, hook);
            }
            Step::Concurrency { hook, concurrency } => {
                hooks.0[usize::from(hook)].concurrency = concurrency;
                hooks.apply(&mut simulation, hook);
            }
            Step::Elsewhere { hook, count } => {
                simulation.set_elsewhere(&hooks.0[usize::from(hook)].uid, count);
            }
            Step::Delete(hook) => {
                hooks.0[usize::from(hook)].exists = false;
                simulation.delete_hook(&format!("n{}", hook % 3), &format!("h{hook}"));
            }
            Step::Recreate(hook) => recreate(&mut simulation, &mut hooks, hook),
            Step::Restart => simulation.restart(),
            Step::Wait(millis) => simulation.run_for(Duration::from_millis(millis.into())),
        }
    }
    // All is well again: everything must be delivered soon.
    (simulation.lost_commits, simulation.lost_attempts) = (None, None);
    for hook in 0..HOOKS {
        recreate(&mut simulation, &mut hooks, hook);
        let found = &mut hooks.0[usize::from(hook)];
        (found.paused, found.receiver) = (false, receiver(0));
        simulation.set_elsewhere(&found.uid, 0);
        hooks.apply(&mut simulation, hook);
    }
    // Longest: a pause of ten minutes of a breaker, after an attempt that hangs.
    simulation.drain(Duration::from_secs(1800));
    assert_eq!(simulation.in_flight.len(), 0);
    assert!(simulation.machine.memory.is_empty(), "{} bytes", simulation.machine.memory.used());
    assert_eq!(simulation.machine.memory.pool.used(), 0);
    let left: Vec<_> =
        simulation.machine.queues.iter().filter(|(_, queue)| !queue.claimed.is_empty()).collect();
    assert!(left.is_empty(), "{} queues have claims", left.len());
    simulation.ended_backlogs
}

/// Creates a hook of the name if there is none, with another uid.
fn recreate(simulation: &mut Simulation, hooks: &mut Hooks, hook: u8) {
    let found = &mut hooks.0[usize::from(hook)];
    if found.exists {
        return;
    }
    found.generation += 1;
    found.uid = format!("u{hook}-{}", found.generation).into();
    found.exists = true;
    hooks.apply(simulation, hook);
}

#[test]
fn the_backlog_of_a_deleted_hook_is_ended_after_the_grace() {
    let accept = |count| Step::Accept { hooks: 1, len: 100, count };
    let pause = |paused| Step::Pause { hook: 0, paused };
    let deleted =
        vec![pause(true), accept(50), Step::Delete(0), Step::Wait(100_000), Step::Recreate(0), accept(3)];
    assert_eq!(run_steps(deleted, 1, None), 1);
    let in_flight = vec![
        Step::Receiver { hook: 0, receiver: 3 },
        accept(50),
        Step::Delete(0),
        Step::Wait(100_000),
        Step::Restart,
        Step::Recreate(0),
    ];
    assert!(run_steps(in_flight, 2, Some(20)) > 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_delivery_is_lost_or_sent_twice_at_a_time(
        steps in prop::collection::vec(step(), 1..60),
        seed in any::<u64>(),
        lost in prop_oneof![Just(None), Just(Some(20))],
    ) {
        run_steps(steps, seed, lost);
    }
}
