//! Deliveries per second by number of connections, as a chart.

use crate::Plan;
use crate::common::figures::Spread;
use crate::common::load::Load;
use crate::common::plot::{Chart, Line};
use crate::common::sink::Sink;
use crate::subjects::{Measured, Program};

const CONNECTIONS: [usize; 6] = [1, 4, 16, 64, 128, 256];

/// Writes the chart. Returns the number of lost deliveries.
pub fn run(sink: &Sink, plan: &Plan) -> usize {
    let mut programs = [Program::Bare, Program::Syncing, Program::Durable(plan.size), Program::OnEmptyStore]
        .map(Measured::new);
    let mut lines =
        programs.each_ref().map(|measured| Line { name: measured.program.name().into(), values: vec![] });
    let mut lost = 0;
    println!("\nDeliveries/s by number of connections");
    for connections in CONNECTIONS {
        // A single connection sends some hundred events a second.
        let load = Load::full(connections, (connections * 1500).clamp(3000, plan.events));
        for _ in 0..plan.rounds {
            for measured in &mut programs {
                measured.run(sink, &load);
            }
        }
        for (measured, line) in programs.iter_mut().zip(&mut lines) {
            let rate = Spread::of(measured.rates());
            println!("  {connections:3} connections  {:24} {rate:.0}/s", measured.program.name());
            line.values.push(rate.median);
            lost += measured.forget_rounds();
        }
    }
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let chart = Chart {
        title: format!("Deliveries per second, 1 KiB events, {cores} cores"),
        x_label: "connections",
        y_label: "deliveries/s",
        positions: CONNECTIONS.map(|connections| connections.to_string()).into(),
        has_log_scale: false,
        lines: lines.into(),
    };
    chart.write(&plan.plots.join("throughput.svg"));
    lost
}
