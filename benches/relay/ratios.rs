//! Durable deliveries per second as a share of the bare relay's and of an empty store's, and the latency at half of a
//! program's own rate. All in one run, in alternating rounds.

use crate::Plan;
use crate::common::figures::{Spread, percentile};
use crate::common::load::{Load, Pace, Round};
use crate::common::plot::{Chart, Line};
use crate::common::sink::Sink;
use crate::subjects::{Measured, Program};

/// A load with what the project demands of it.
struct Shape {
    connections: usize,
    batch: usize,
    /// The least share of the bare relay's rate, and the goal.
    relay: (f64, f64),
    has_latency: bool,
}

/// The least share of the rate on an empty store, and the goal.
const EMPTY: (f64, f64) = (0.9, 0.95);
/// The most times of the syncing relay's p99 at half load, and the goal.
const LATENCY: (f64, f64) = (5.0, 3.0);
const PERCENTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999), ("longest", 1.0)];

/// Prints the ratios. Returns the number of lost deliveries.
pub fn run(sink: &Sink, plan: &Plan) -> usize {
    let shapes = [
        Shape { connections: 64, batch: 1, relay: (0.55, 0.7), has_latency: true },
        Shape { connections: 256, batch: 1, relay: (0.6, 0.85), has_latency: true },
        Shape { connections: plan.batch_connections, batch: 100, relay: (0.5, 0.75), has_latency: false },
    ];
    let mut programs = [Program::Bare, Program::Syncing, Program::Durable(plan.size), Program::OnEmptyStore]
        .map(Measured::new);
    let (mut lost, mut lines) = (0, Vec::new());
    for (index, shape) in shapes.into_iter().enumerate() {
        let load = Load { batch: shape.batch, ..Load::full(shape.connections, plan.events) };
        for _ in 0..plan.rounds {
            for measured in &mut programs {
                measured.run(sink, &load);
            }
        }
        print_rates(&shape, &programs);
        if index == 0 {
            print_system_calls(sink, &mut programs, &load);
        }
        let half_rates = programs.each_ref().map(|measured| Spread::of(measured.rates()).median / 2.0);
        lost += programs.iter_mut().map(Measured::forget_rounds).sum::<usize>();
        if shape.has_latency {
            lines.extend(measure_latency(sink, plan, &mut programs, half_rates, &load));
            lost += programs.iter_mut().map(Measured::forget_rounds).sum::<usize>();
        }
    }
    let chart = Chart {
        title: "Publish to delivered at half of each program's own rate".into(),
        x_label: "percentile",
        y_label: "milliseconds",
        positions: PERCENTILES.map(|(name, _)| name.to_owned()).into(),
        has_log_scale: true,
        lines,
    };
    chart.write(&plan.plots.join("latency.svg"));
    lost
}

fn print_rates(shape: &Shape, programs: &[Measured; 4]) {
    let batch = if shape.batch > 1 { format!(", batches of {}", shape.batch) } else { String::new() };
    println!("\n{} connections{batch}: deliveries/s, CPU us/event", shape.connections);
    for measured in programs {
        let operations = Spread::of(measured.operations.iter().copied());
        let commits = match operations.median.is_nan() {
            true => String::new(),
            false => format!(", {operations:.1} operations/commit"),
        };
        println!(
            "  {:24} {:.0}/s, CPU {:.1}, of generator and receiver {:.1}, {:.0} bytes written/event{commits}",
            measured.program.name(),
            measured.spread(|round| round.rate),
            measured.spread(|round| round.cpu_us),
            measured.spread(|round| round.own_cpu_us),
            measured.spread(|round| round.written),
        );
        let refused: usize = measured.rounds.iter().map(|round| round.refused).sum();
        if refused > 0 {
            println!("  {:24} refused {refused} requests for a moment", "");
        }
    }
    let [bare, syncing, durable, on_empty] = programs.each_ref().map(Measured::rates);
    let ((must, goal), (must_of_empty, goal_of_empty)) = (shape.relay, EMPTY);
    println!(
        "  ratio to the bare relay {:.2} (must {must}, goal {goal}); to the syncing relay {:.2}; to an empty store {:.2} (must {must_of_empty}, goal {goal_of_empty})",
        Spread::of_ratios(&durable, &bare),
        Spread::of_ratios(&durable, &syncing),
        Spread::of_ratios(&durable, &on_empty),
    );
}

fn print_system_calls(sink: &Sink, programs: &mut [Measured; 4], load: &Load) {
    let [_, _, durable, _] = programs;
    for (name, threads) in [("the store's threads", "store-"), ("all threads", "")] {
        match durable.count_system_calls(sink, load, threads) {
            Some(calls) => {
                println!("  {calls:.1} system calls/event of {name} (perf stat, raw_syscalls:sys_enter)")
            }
            None => println!(
                "  system calls of {name} were not counted: perf may not count raw_syscalls:sys_enter"
            ),
        }
    }
}

/// Prints the latencies of the syncing relay and of Hookstream, each at half of its own rate. Returns their lines.
fn measure_latency(
    sink: &Sink,
    plan: &Plan,
    programs: &mut [Measured; 4],
    half_rates: [f64; 4],
    load: &Load,
) -> Vec<Line> {
    let [_, syncing, durable, _] = programs;
    let [_, syncing_rate, durable_rate, _] = half_rates;
    for _ in 0..plan.rounds {
        for (measured, rate) in [(&mut *syncing, syncing_rate), (&mut *durable, durable_rate)] {
            let events = (rate * plan.latency_seconds) as usize;
            measured.run(sink, &Load { events, pace: Pace::Rate(rate), ..load.clone() });
        }
    }
    println!("{} connections at half of the own rate: publish to delivered", load.connections);
    for (measured, rate) in [(&*syncing, syncing_rate), (&*durable, durable_rate)] {
        println!(
            "  {:24} {rate:.0}/s, p50 {:.1} ms, p99 {:.1} ms, longest accept {:.0} ms",
            measured.program.name(),
            measured.spread(Round::p50),
            measured.spread(Round::p99),
            measured.spread(|round| round.longest_accept),
        );
    }
    let p99 = |measured: &Measured| measured.rounds.iter().map(Round::p99).collect::<Vec<_>>();
    println!(
        "  p99 is {:.1} times that of the syncing relay (at most {}, goal {})",
        Spread::of_ratios(&p99(durable), &p99(syncing)),
        LATENCY.0,
        LATENCY.1
    );
    let line = |measured: &Measured| Line {
        name: format!("{}, {} clients", measured.program.name(), load.connections),
        values: PERCENTILES
            .map(|(_, share)| {
                Spread::of(measured.rounds.iter().map(|round| percentile(&round.latencies, share))).median
            })
            .into(),
    };
    vec![line(syncing), line(durable)]
}
