//! The longest time that a publish request waits for its 202, and the slowest delivery, at half load or at a given rate, while
//! checkpoints, retention and vacuum run.

use std::time::{Duration, Instant};

use crate::Plan;
use crate::common::figures::Spread;
use crate::common::load::{Load, Pace};
use crate::common::sink::Sink;
use crate::subjects::{Measured, Program};

const CONNECTIONS: usize = 64;
/// Seconds of one round, whose latencies are kept in memory.
const ROUND: f64 = 10.0;

/// Prints the longest stall. Returns the number of lost deliveries.
pub fn run(sink: &Sink, plan: &Plan) -> usize {
    let mut durable = Measured::new(Program::Durable(plan.size));
    let rate = plan.stall_rate.unwrap_or_else(|| {
        for _ in 0..plan.rounds {
            durable.run(sink, &Load::full(CONNECTIONS, plan.events));
        }
        Spread::of(durable.rates()).median / 2.0
    });
    let mut lost = durable.forget_rounds();
    let load = Load { pace: Pace::Rate(rate), ..Load::full(CONNECTIONS, (rate * ROUND) as usize) };
    let end = Instant::now() + Duration::from_secs(plan.stall_seconds as u64);
    let (mut longest, mut slowest, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    while Instant::now() < end {
        durable.run(sink, &load);
        longest.extend(durable.rounds.iter().map(|round| round.longest_accept));
        slowest.extend(durable.rounds.iter().filter_map(|round| round.latencies.last().copied()));
        cpu.extend(durable.rounds.iter().map(|round| round.cpu_us));
        lost += durable.forget_rounds();
    }
    let over = |limit: f64| longest.iter().filter(|stall| **stall > limit).count();
    println!(
        "\nLongest accept at {rate:.0}/s, in {} rounds of {ROUND} s: {:.0} ms (at most 50, goal 20); longest of a round {:.0} ms; over 20 ms in {} rounds, over 50 ms in {}",
        longest.len(),
        Spread::of(longest.iter().copied()).max,
        Spread::of(longest.iter().copied()),
        over(20.0),
        over(50.0)
    );
    println!(
        "slowest delivery of a round, from publish: {:.0} ms; CPU {:.0} us/event",
        Spread::of(slowest),
        Spread::of(cpu)
    );
    lost
}
