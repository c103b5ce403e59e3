//! `cargo bench --bench relay`: the cost of durability. Measures events per second from acceptance to delivery through
//! the real `hookstream standalone` on its embedded store. Compares them with a bare relay that signs and forwards the
//! same request without parsing or storing it. Both run on loopback in alternating rounds. Then measures the cost of
//! templates and lambdas.
//!
//! Exits 0 unless an accepted event was not delivered or a process did not start.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod bare;
#[path = "../common/mod.rs"]
mod common;
mod handlers;

use std::process::ExitCode;

use common::load::{self, Round};
use common::{process, sink};

/// Goal for the durable rate as a share of the bare relay's rate. Informational: the run does not fail below it.
const GOAL: f64 = 0.5;
const ROUNDS: usize = 3;
const EVENTS: usize = 20_000;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    // The bare relay is a second process of this program, so that its CPU time is measured separately.
    if args.next().as_deref() == Some("--bare-relay") {
        bare::run(&args.next().expect("the sink's address"));
        return ExitCode::SUCCESS;
    }
    let setting = |name: &str, default: usize| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (rounds, events) = (setting("BENCH_ROUNDS", ROUNDS), setting("BENCH_EVENTS", EVENTS));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "1 KiB events, HMAC-SHA256, loopback, {events} events per round, {rounds} rounds each, {cores} cores shared by load generator, subject and receiver"
    );
    println!(
        "{:11}  {:7}  {:>9}  {:>12}  {:>22}  {:>5}",
        "connections", "subject", "events/s", "CPU us/event", "p50 / p99 to delivery", "ratio"
    );
    let sink = sink::Sink::start();
    let mut lost = 0;
    let connection_counts = match setting("BENCH_CONNECTIONS", 0) {
        0 => vec![64, 256],
        count => vec![count],
    };
    for connections in connection_counts {
        let relay = process::start_bare_relay(sink.address());
        let durable = process::start_standalone(sink.address());
        // Warm up the connections, the caches and the store's first pages.
        for subject in [&relay, &durable] {
            lost += load::run_round(subject, &sink, connections, events / 10).lost;
        }
        let (mut bare, mut stored) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            bare.push(load::run_round(&relay, &sink, connections, events));
            stored.push(load::run_round(&durable, &sink, connections, events));
        }
        lost += bare.iter().chain(&stored).map(|round| round.lost).sum::<usize>();
        let (bare, stored) = (Round::median(&bare), Round::median(&stored));
        print_row(connections, "bare", &bare, "");
        print_row(connections, "durable", &stored, &format!("{:.2}", stored.rate / bare.rate));
    }
    println!("ratio: durable divided by bare, of the medians (goal {GOAL})");
    let all_delivered = handlers::run(sink.address(), rounds, events);
    if lost > 0 || !all_delivered {
        println!("FAILED: accepted events were not delivered ({lost} to the receiver)");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn print_row(connections: usize, name: &str, round: &Round, ratio: &str) {
    let times = format!("{:.1} / {:.1} ms", round.p50, round.p99);
    println!(
        "{connections:11}  {name:7}  {:>9.0}  {:>12.0}  {times:>22}  {ratio:>5}",
        round.rate, round.cpu_us
    );
}
