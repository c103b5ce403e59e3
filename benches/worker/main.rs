//! `cargo bench --bench worker`: measures the cost of many hooks and the effect of a hanging receiver on other hooks.
//! Also measures a restart with a million pending deliveries. Each figure is printed with its goal; only a lost event
//! fails the run. Run one part with `cargo bench --bench worker -- hooks` (or `hanging`, `restart`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;
mod hanging;
mod hooks;
mod restart;

/// The allocator of the `hookstream` program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use std::process::ExitCode;

use common::sink::Sink;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // The worker with its hooks in memory is a second process of this program.
    if let [mode @ ("--worker" | "--change"), sink, hooks] =
        &args.iter().map(String::as_str).collect::<Vec<_>>()[..]
    {
        hooks::run_worker(sink, hooks.parse().expect("a number"), *mode == "--change");
        return ExitCode::SUCCESS;
    }
    let sink = Sink::start();
    let selected: Vec<&str> = args.iter().map(String::as_str).filter(|arg| !arg.starts_with('-')).collect();
    type Part = fn(&Sink) -> usize;
    let mut failed = false;
    for (part, run) in [("hooks", hooks::run as Part), ("hanging", hanging::run), ("restart", restart::run)] {
        if selected.is_empty() || selected.contains(&part) {
            let lost = run(&sink);
            if lost > 0 {
                println!("FAILED: {part}: {lost} accepted events were not delivered");
                failed = true;
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
