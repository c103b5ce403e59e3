//! A restart with many pending deliveries: the time until the first delivery, and the rate of the drain.

use std::time::{Duration, Instant};

use crate::Bench;
use crate::common::process::temp_folder;
use crate::preload;
use crate::programs::{HOOKS, Program, copy_folder, manifests, start_worker};
use crate::rounds::Measured;

/// The time until the first delivery should be less.
const GOAL: Duration = Duration::from_secs(5);
/// The drain ends if nothing arrives for this long.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// Prints the times. Returns the number of lost deliveries.
pub fn run(bench: &Bench) -> usize {
    let pending = bench.plan.pending;
    let first = Measured::new(bench, Program::workers(bench, 1));
    let mut lost = first.lost;
    let Program { subjects, database, url, .. } = first.program;
    let dir = temp_folder();
    for worker in subjects {
        copy_folder(&worker.data_folder(), &dir.path().join("data"));
        worker.stop();
    }
    let started = Instant::now();
    preload::pending(&database, pending);
    println!("\n{pending} pending deliveries inserted in {:.0?}", started.elapsed());
    bench.sink.expect(pending);
    let started = Instant::now();
    let worker = start_worker(dir, &manifests(bench, HOOKS), HOOKS, &url);
    let ready = started.elapsed();
    let mut last = (0, Instant::now());
    let mut first = None;
    while last.0 < pending && last.1.elapsed() < STALLED_AFTER {
        std::thread::sleep(Duration::from_millis(1));
        let count = bench.sink.count();
        if count > last.0 {
            first.get_or_insert_with(|| started.elapsed());
            last = (count, Instant::now());
        }
    }
    let first = first.unwrap_or(Duration::MAX);
    let drained = last.1.duration_since(started).saturating_sub(first);
    println!(
        "restart with {pending} pending deliveries: ingest open after {ready:.2?}, first delivery after {first:.2?} (goal under {GOAL:?})"
    );
    println!(
        "  drain: {:.0} deliveries/s, CPU {:.0} us/delivery of the worker, peak {:.0} MiB",
        last.0 as f64 / drained.as_secs_f64(),
        worker.usage().cpu_us / pending as f64,
        worker.peak_mib()
    );
    lost += pending - last.0;
    lost
}
