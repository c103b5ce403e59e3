//! Delivered events per second of one, two and three workers as shares of the bare program's, in alternating rounds.

use std::time::{Duration, Instant};

use crate::Bench;
use crate::common::figures::Spread;
use crate::common::load::Load;
use crate::programs::Program;
use crate::rounds::Measured;

/// The share of the bare program's rate that one worker should reach.
const GOAL: f64 = 0.5;
const WORKERS: usize = 3;
const CONNECTIONS: usize = 64;
const BATCH: usize = 100;

/// Prints the ratios. Returns the number of lost deliveries.
pub fn run(bench: &Bench) -> usize {
    let bare = Measured::new(bench, Program::bare(bench));
    let workers = (1..=WORKERS).map(|count| Measured::new(bench, Program::workers(bench, count)));
    let mut measured: Vec<Measured> = std::iter::once(bare).chain(workers).collect();
    print_idle(bench, &measured);
    let batches = Load { batch: BATCH, ..Load::full(bench.plan.batch_connections, bench.plan.events) };
    let shapes = [
        (format!("{CONNECTIONS} connections"), Load::full(CONNECTIONS, bench.plan.events)),
        (format!("{} connections, batches of {BATCH}", bench.plan.batch_connections), batches),
    ];
    for (name, load) in shapes {
        measured.iter_mut().for_each(Measured::forget_rounds);
        for _ in 0..bench.plan.rounds {
            measured.iter_mut().for_each(|measured| measured.run(bench, &load));
        }
        println!("\n{name}: deliveries/s, CPU us/event, WAL bytes/event");
        measured.iter().for_each(|measured| measured.print(&measured.program.name));
        let base = measured[0].rates();
        for worker in &measured[1..] {
            let goal =
                if worker.program.subjects.len() == 1 { format!(" (goal {GOAL})") } else { String::new() };
            let ratio = Spread::of_ratios(&worker.rates(), &base);
            println!("  ratio of {} to the bare program {ratio:.2}{goal}", worker.program.name);
        }
    }
    measured.iter().map(|measured| measured.lost).sum()
}

/// Prints what all programs cost while none has load, because all of them run in every round.
fn print_idle(bench: &Bench, measured: &[Measured]) {
    let workers = || {
        let subjects = measured.iter().flat_map(|measured| &measured.program.subjects);
        subjects.map(|subject| subject.usage().cpu_us).sum::<f64>()
    };
    let (server, cpu, started) = (bench.server.usage(), workers(), Instant::now());
    std::thread::sleep(Duration::from_secs(2));
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "\nall programs without load: CPU {:.1} ms/s of the programs, {:.1} ms/s of the server",
        (workers() - cpu) / 1000.0 / seconds,
        bench.server.usage().since(server).cpu_us / 1000.0 / seconds
    );
}
