//! `cargo bench --bench relay`: what durability costs. Events a second from accepted to delivered, through the real
//! `hookstream standalone` on its embedded store, beside a bare relay that takes the same request, signs it and passes
//! it on, looks at nothing and keeps nothing. Both in one run, on loopback, in alternating rounds. Then what templates and
//! lambdas cost.
//!
//! Exits 0 unless something broke: an event that was accepted and not delivered, or a process that did not start.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "relay/bare.rs"]
mod bare;
#[path = "relay/handlers.rs"]
mod handlers;
#[path = "relay/load.rs"]
mod load;
#[path = "relay/process.rs"]
mod process;
#[path = "relay/sink.rs"]
mod sink;

use std::process::ExitCode;

use load::Round;

/// The share of the bare relay's rate that is aimed at. No pass or fail here.
const GOAL: f64 = 0.5;
const ROUNDS: usize = 3;
const EVENTS: usize = 20_000;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    // The bare relay is this program once more, so that its CPU is counted apart.
    if args.next().as_deref() == Some("--bare-relay") {
        bare::run(&args.next().expect("the sink's address"));
        return ExitCode::SUCCESS;
    }
    let number = |name: &str, default: usize| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (rounds, events) = (number("BENCH_ROUNDS", ROUNDS), number("BENCH_EVENTS", EVENTS));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "1 KiB events, HMAC-SHA256, loopback, {events} events a round, {rounds} rounds each, {cores} cores shared by generator, subject and sink"
    );
    println!(
        "{:11}  {:7}  {:>9}  {:>12}  {:>22}  {:>5}",
        "connections", "", "events/s", "CPU us/event", "p50 / p99 to delivered", "ratio"
    );
    let sink = sink::Sink::start();
    let mut lost = 0;
    let all = match number("BENCH_CONNECTIONS", 0) {
        0 => vec![64, 256],
        one => vec![one],
    };
    for connections in all {
        let relay = process::bare_relay(sink.address());
        let durable = process::standalone(sink.address());
        // Warm: connections, caches, the store's first pages.
        for subject in [&relay, &durable] {
            lost += load::round(subject, &sink, connections, events / 10).lost;
        }
        let (mut bare, mut stored) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            bare.push(load::round(&relay, &sink, connections, events));
            stored.push(load::round(&durable, &sink, connections, events));
        }
        lost += bare.iter().chain(&stored).map(|round| round.lost).sum::<usize>();
        let (bare, stored) = (Round::median(&bare), Round::median(&stored));
        print(connections, "relay", &bare, "");
        print(connections, "durable", &stored, &format!("{:.2}", stored.rate / bare.rate));
    }
    println!("ratio: durable to bare, of the medians (goal {GOAL})");
    let whole = handlers::run(sink.address(), rounds, events);
    if lost > 0 || !whole {
        println!("BROKEN: accepted events were not delivered ({lost} to the sink)");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn print(connections: usize, name: &str, round: &Round, ratio: &str) {
    let times = format!("{:.1} / {:.1} ms", round.p50, round.p99);
    println!("{connections:11}  {name:7}  {:>9.0}  {:>12.0}  {times:>22}  {ratio:>5}", round.rate, round.cpu);
}
