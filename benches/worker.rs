//! `cargo bench --bench worker`: what the number of hooks costs, whom a hanging receiver harms, and a restart with a
//! million deliveries that wait. Each figure has its goal beside it; none makes the run fail but an event that was lost.
//! One part alone: `cargo bench --bench worker -- hooks` (or `hanging`, `restart`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "worker/hanging.rs"]
mod hanging;
#[path = "worker/hooks.rs"]
mod hooks;
#[path = "relay/load.rs"]
mod load;
#[path = "relay/process.rs"]
mod process;
#[path = "worker/restart.rs"]
mod restart;
#[path = "relay/sink.rs"]
mod sink;

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Names that the parts of this program share with the other one.
mod bare {
    pub const CONCURRENCY: usize = 64;
}

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // The worker with its hooks in memory is this program once more.
    if let [mode @ ("--worker" | "--change"), sink, hooks] =
        &args.iter().map(String::as_str).collect::<Vec<_>>()[..]
    {
        hooks::worker(sink, hooks.parse().expect("a number"), *mode == "--change");
        return ExitCode::SUCCESS;
    }
    let sink = sink::Sink::start();
    let named: Vec<&str> = args.iter().map(String::as_str).filter(|arg| !arg.starts_with('-')).collect();
    type Part = fn(&sink::Sink) -> usize;
    let mut broken = false;
    for (part, run) in [("hooks", hooks::run as Part), ("hanging", hanging::run), ("restart", restart::run)] {
        if named.is_empty() || named.contains(&part) {
            let lost = run(&sink);
            if lost > 0 {
                println!("BROKEN: {part}: {lost} accepted events were not delivered");
                broken = true;
            }
        }
    }
    if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
