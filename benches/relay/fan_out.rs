//! One event to ten hooks: deliveries per second compared with one hook, in alternating rounds.

use crate::Plan;
use crate::common::figures::Spread;
use crate::common::load::Load;
use crate::common::sink::Sink;
use crate::subjects::{Measured, Program};

const CONNECTIONS: usize = 64;
const HOOKS: usize = 10;

/// Prints the ratio. Returns the number of lost deliveries.
pub fn run(sink: &Sink, plan: &Plan) -> usize {
    let program = Program::Durable(plan.size);
    let (mut one, mut ten) = (Measured::new(program), Measured::with_hooks(program, HOOKS));
    for _ in 0..plan.rounds {
        one.run(sink, &Load::full(CONNECTIONS, plan.events));
        ten.run(sink, &Load::full(CONNECTIONS, plan.events / HOOKS));
    }
    println!(
        "\nOne event to {HOOKS} hooks, {CONNECTIONS} connections: {:.0} deliveries/s, to one hook {:.0}; ratio {:.2} (must 1.0, goal 1.5)",
        ten.spread(|round| round.rate),
        one.spread(|round| round.rate),
        Spread::of_ratios(&ten.rates(), &one.rates())
    );
    println!(
        "  a delivery costs {:.1} us of CPU and {:.0} bytes written; to one hook {:.1} us and {:.0} bytes",
        ten.spread(|round| round.cpu_us / HOOKS as f64),
        ten.spread(|round| round.written / HOOKS as f64),
        one.spread(|round| round.cpu_us),
        one.spread(|round| round.written),
    );
    one.lost() + ten.lost()
}
