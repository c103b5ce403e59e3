//! One worker while a snapshot is held open, so that VACUUM cannot remove rows of the pending deliveries. Compared with a
//! worker on another database of the same server, in alternating rounds.

use std::time::{Duration, Instant};

use crate::Bench;
use crate::common::figures::Spread;
use crate::common::load::Load;
use crate::connection::Connection;
use crate::programs::Program;
use crate::rounds::Measured;

/// The share of the rate without the snapshot that it should keep.
const GOAL: f64 = 0.7;
const CONNECTIONS: usize = 64;

/// Prints the ratio. Returns the number of lost deliveries.
pub fn run(bench: &Bench) -> usize {
    let mut free = Measured::new(bench, Program::workers(bench, 1));
    let mut held = Measured::new(bench, Program::workers(bench, 1));
    let load = Load::full(CONNECTIONS, bench.plan.events);
    let (snapshot, started) = (Connection::open(&held.program.url), Instant::now());
    // The first statement takes the snapshot.
    snapshot.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM hookstream.meta");
    let planned = Duration::from_secs(bench.plan.snapshot_seconds as u64);
    while held.rounds.is_empty() || started.elapsed() < planned {
        held.run(bench, &load);
        free.run(bench, &load);
    }
    println!("\n{CONNECTIONS} connections, one worker, a snapshot held for {:.0?}", started.elapsed());
    free.print("without the snapshot");
    held.print("with the snapshot");
    let (of_held, of_free) = (held.rates(), free.rates());
    let last = of_held.last().zip(of_free.last()).map_or(f64::NAN, |(held, free)| held / free);
    println!(
        "  ratio to the rate without it {:.2}, in the last round {last:.2} (goal {GOAL})",
        Spread::of_ratios(&of_held, &of_free)
    );
    let dead = held.program.database.number(
        "SELECT n_dead_tup FROM pg_stat_user_tables WHERE schemaname = 'hookstream' AND relname = 'pending'",
    );
    println!("  rows of pending that could not be removed: about {dead}");
    snapshot.run("COMMIT");
    free.lost + held.lost
}
