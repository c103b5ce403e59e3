//! `cargo bench --bench relay`: the cost of durability. Measures events per second from acceptance to delivery through
//! the real `hookstream standalone`, on a store with millions of idempotency keys and finished deliveries. Compares them
//! with an empty store, with a bare relay that signs and forwards the same requests without storing them, and with one
//! that also appends and syncs them. All run on loopback in alternating rounds.
//!
//! Parts: `ratios`, `stall`, `fan-out`, `history`, `sweep`, `handlers`; without a name all of them. `quick` runs `ratios`
//! with few events. Environment variables change the sizes, see `Plan`.
//!
//! Exits 0 unless an accepted event was not delivered or a process did not start.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod bare;
#[path = "../common/mod.rs"]
mod common;
mod fan_out;
mod handlers;
mod history_cost;
mod ratios;
mod stall;
mod subjects;
mod sweep;
mod synced_log;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use common::preload::Size;
use common::settings::number;
use common::sink::Sink;

/// The allocator of the `hookstream` program, for the relays too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The sizes of a run.
pub struct Plan {
    /// The content of the store: `BENCH_KEYS` and `BENCH_DELIVERIES`.
    pub size: Size,
    /// `BENCH_ROUNDS`.
    pub rounds: usize,
    /// Events of a round: `BENCH_EVENTS`.
    pub events: usize,
    /// Connections that send batches: `BENCH_BATCH_CONNECTIONS`.
    pub batch_connections: usize,
    /// Seconds of a round at half load: `BENCH_LATENCY_SECONDS`.
    pub latency_seconds: f64,
    /// Seconds of the part `stall`: `BENCH_STALL_SECONDS`.
    pub stall_seconds: usize,
    /// Events per second of the part `stall`: `BENCH_STALL_RATE`. None: half of the measured rate.
    pub stall_rate: Option<f64>,
    /// The folder of the charts: `BENCH_PLOTS`.
    pub plots: PathBuf,
}

impl Plan {
    fn new(is_quick: bool) -> Plan {
        let default = |full, quick| if is_quick { quick } else { full };
        let plots = std::env::var_os("BENCH_PLOTS").map(PathBuf::from);
        Plan {
            size: if is_quick { Size::medium() } else { Size::large() },
            rounds: number("BENCH_ROUNDS", default(5, 3)),
            events: number("BENCH_EVENTS", default(100_000, 20_000)),
            batch_connections: number("BENCH_BATCH_CONNECTIONS", 16),
            latency_seconds: number("BENCH_LATENCY_SECONDS", default(10, 2)) as f64,
            stall_seconds: number("BENCH_STALL_SECONDS", 600),
            stall_rate: Some(number("BENCH_STALL_RATE", 0)).filter(|rate| *rate > 0).map(|rate| rate as f64),
            plots: plots.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench")),
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // A relay is a second process of this program, so that its CPU time is measured separately.
    if let [mode, receiver, log @ ..] = &args[..]
        && mode == "--bare-relay"
    {
        bare::run(receiver, log.first().map(String::as_str));
        return ExitCode::SUCCESS;
    }
    let selected: Vec<&str> = args.iter().map(String::as_str).filter(|arg| !arg.starts_with('-')).collect();
    let is_quick = selected.contains(&"quick");
    let plan = Plan::new(is_quick);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "structured CloudEvents of 1 KiB with ids, Standard Webhooks signatures, loopback; {} events per round, {} rounds each; {cores} cores shared by load generator, subject and receiver; load average {}",
        plan.events,
        plan.rounds,
        load_average()
    );
    println!("store: {}; figures: median (minimum-maximum)", plan.size);
    let sink = Sink::start();
    let mut lost = 0;
    type Part = fn(&Sink, &Plan) -> usize;
    let parts: [(&str, Part); 6] = [
        ("ratios", ratios::run),
        ("stall", stall::run),
        ("fan-out", fan_out::run),
        ("history", history_cost::run),
        ("sweep", sweep::run),
        ("handlers", |sink, plan| {
            // Templates and lambdas are measured against a webhook on the same store: its size matters less.
            usize::from(!handlers::run(sink.address(), Size::medium(), plan.rounds, plan.events / 5))
        }),
    ];
    for (name, run) in parts {
        if selected.contains(&name) || (is_quick && name == "ratios") || selected.is_empty() {
            lost += run(&sink, &plan);
        }
    }
    println!("load average at the end {}", load_average());
    if lost > 0 {
        println!("FAILED: {lost} accepted events were not delivered");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Returns the load averages of the last 1, 5 and 15 minutes.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
