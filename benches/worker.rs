//! `cargo bench --bench worker`: what the number of hooks costs, whom a hanging receiver harms, and a restart with a
//! million deliveries that wait. Each figure has its goal beside it; none makes the run fail but an event that was lost.
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
    let mut args = std::env::args().skip(1);
    // The worker with its hooks in memory is this program once more.
    if args.next().as_deref() == Some("--worker") {
        let mut next = || args.next().expect("an argument");
        hooks::worker(&next(), next().parse().expect("a number"));
        return ExitCode::SUCCESS;
    }
    let sink = sink::Sink::start();
    let lost = hooks::run(&sink) + hanging::run(&sink) + restart::run(&sink);
    if lost > 0 {
        println!("BROKEN: {lost} accepted events were not delivered");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
