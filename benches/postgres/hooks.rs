//! Three workers with many hooks against three with few: the time until they share them, their memory, and their rate.

use std::time::Instant;

use crate::Bench;
use crate::common::figures::Spread;
use crate::common::load::Load;
use crate::programs::{HOOKS, Program};
use crate::rounds::Measured;

const WORKERS: usize = 3;
const CONNECTIONS: usize = 64;

/// Prints the figures. Returns the number of lost deliveries.
pub fn run(bench: &Bench) -> usize {
    let few = Measured::new(bench, Program::workers(bench, WORKERS));
    let (hooks, started) = (bench.plan.hooks, Instant::now());
    let program = Program::workers_with_hooks(bench, WORKERS, hooks);
    let shared_after = started.elapsed();
    let idle: Vec<f64> = program.subjects.iter().map(|subject| subject.resident_mib()).collect();
    let many = Measured::new(bench, program);
    println!(
        "\n{hooks} hooks in {WORKERS} workers: all shards shared {shared_after:.1?} after the start of the first worker"
    );
    let mut measured = [few, many];
    let load = Load::full(CONNECTIONS, bench.plan.events);
    for _ in 0..bench.plan.rounds {
        measured.iter_mut().for_each(|measured| measured.run(bench, &load));
    }
    let [few, many] = &measured;
    few.print(&format!("{HOOKS} hooks"));
    many.print(&format!("{hooks} hooks"));
    println!("  ratio {:.2}", Spread::of_ratios(&many.rates(), &few.rates()));
    let peaks = many.program.subjects.iter().map(|subject| subject.peak_mib());
    println!(
        "  memory of a worker with {hooks} hooks: {:.0} MiB when idle, {:.0} MiB at most",
        Spread::of(idle),
        Spread::of(peaks)
    );
    measured.iter().map(|measured| measured.lost).sum()
}
