//! One worker with millions of finished deliveries and idempotency keys, and with a checkpoint and a vacuum in each round,
//! compared with an empty store, in alternating rounds.

use std::time::Instant;

use crate::Bench;
use crate::common::figures::Spread;
use crate::common::load::Load;
use crate::connection::Connection;
use crate::preload;
use crate::programs::Program;
use crate::rounds::Measured;

/// The share of the rate on an empty store that it should keep.
const GOAL: f64 = 0.8;
const CONNECTIONS: usize = 64;

/// Prints the ratio. Returns the number of lost deliveries.
pub fn run(bench: &Bench) -> usize {
    let (events, rows) = (bench.plan.events, bench.plan.rows);
    let mut empty = Measured::new(bench, Program::workers(bench, 1));
    let mut filled = Measured::new(bench, Program::workers(bench, 1));
    let started = Instant::now();
    preload::finished(&filled.program.database, rows);
    println!("\n{rows} finished deliveries and keys inserted in {:.0?}", started.elapsed());
    let side = Connection::open(&filled.program.url);
    for _ in 0..bench.plan.rounds {
        empty.run(bench, &Load::full(CONNECTIONS, events));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                side.run("CHECKPOINT");
                side.run("VACUUM hookstream.pending");
            });
            filled.run(bench, &Load::full(CONNECTIONS, events));
        });
    }
    println!("{CONNECTIONS} connections, one worker: deliveries/s, CPU us/event, WAL bytes/event");
    empty.print("empty store");
    filled.print("filled, checkpoint, vacuum");
    println!(
        "  ratio to an empty store {:.2} (goal {GOAL})",
        Spread::of_ratios(&filled.rates(), &empty.rates())
    );
    empty.lost + filled.lost
}
