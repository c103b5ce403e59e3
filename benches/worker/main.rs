//! `cargo bench --bench worker`: measures the cost of many hooks, the effect of a hanging receiver and of hostile
//! neighbours on other hooks, and a restart with a million pending deliveries. Each figure is printed with its goal; only
//! a lost event fails the run. Run one part with `cargo bench --bench worker -- hooks` (or `hanging`, `fairness`,
//! `restart`). The part `soak` runs only when it is named.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;
mod fairness;
mod hanging;
mod hooks;
mod restart;
mod soak;

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
    let parts: [(&str, Part); 5] = [
        ("hooks", hooks::run),
        ("hanging", hanging::run),
        ("fairness", fairness::run),
        ("restart", restart::run),
        ("soak", soak::run),
    ];
    for (part, run) in parts {
        if selected.contains(&part) || (selected.is_empty() && part != "soak") {
            let lost = run(&sink);
            if lost > 0 {
                println!("FAILED: {part}: {lost} accepted events were not delivered");
                failed = true;
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
