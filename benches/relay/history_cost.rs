//! The cost of the history: deliveries per second with it, compared with a worker that removes every delivery at once.

use std::time::{Duration, Instant};

use crate::Plan;
use crate::common::figures::Spread;
use crate::common::load::Load;
use crate::common::process::{self, Subject};
use crate::common::sink::Sink;
use crate::subjects::{Measured, Program};

const CONNECTIONS: usize = 64;
/// The shortest age that the flag takes.
const SHORTEST_AGE: &str = "1ms";
/// How long retention may take to remove the history of the filled store.
const EMPTIED_AFTER: Duration = Duration::from_secs(900);

/// Prints the ratio. Returns the number of lost deliveries.
pub fn run(sink: &Sink, plan: &Plan) -> usize {
    let program = Program::Durable(plan.size);
    let (subject, ports) = process::start_durable(sink.address(), Some(plan.size), 1, SHORTEST_AGE);
    let emptied = wait_until_idle(&subject);
    let mut without = Measured::running(program, subject, ports);
    let mut with = Measured::new(program);
    for _ in 0..plan.rounds {
        with.run(sink, &Load::full(CONNECTIONS, plan.events));
        without.run(sink, &Load::full(CONNECTIONS, plan.events));
    }
    println!(
        "\nHistory kept: {:.0} deliveries/s; with --history-age {SHORTEST_AGE} (history removed in {emptied:.0?}): {:.0}; ratio {:.2} (must 0.85, goal 0.95)",
        with.spread(|round| round.rate),
        without.spread(|round| round.rate),
        Spread::of_ratios(&with.rates(), &without.rates())
    );
    with.lost() + without.lost()
}

/// Waits until the worker has used almost no CPU for three seconds: it has removed the history.
fn wait_until_idle(subject: &Subject) -> Duration {
    let started = Instant::now();
    let mut idle_since = None;
    while started.elapsed() < EMPTIED_AFTER {
        let before = subject.usage();
        std::thread::sleep(Duration::from_secs(1));
        let is_idle = subject.usage().since(before).cpu_us < 30_000.0;
        let since = idle_since.get_or_insert_with(Instant::now);
        if !is_idle {
            idle_since = None;
        } else if since.elapsed() > Duration::from_secs(3) {
            return started.elapsed();
        }
    }
    println!("  the history was not removed within {EMPTIED_AFTER:?}");
    started.elapsed()
}
