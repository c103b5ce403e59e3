//! `cargo bench --bench postgres`: what the PostgreSQL store costs. Measures events per second from acceptance to delivery
//! through one, two and three real `hookstream standalone` processes on one durable server, compared with a bare program
//! that makes the same rows with as few statements as possible. All run on loopback in alternating rounds.
//!
//! Parts: `rates`, `filled`, `snapshot`, `restart`, `hooks`; without a name all of them. `quick` makes each small. Environment
//! variables change the sizes, see `Plan`. `BENCH_PG_STATEMENTS=1` prints the statements that took most of the server's time.
//!
//! The server's data are in the folder for temporary files, which must be on a disk.
//!
//! Exits 0 unless an accepted event was not delivered or a process did not start.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod bare;
#[path = "../common/mod.rs"]
mod common;
mod connection;
mod filled;
mod groups;
mod hooks;
#[allow(unused_imports, reason = "its tests run in the test program")]
#[path = "../../tests/it/harness/postgres.rs"]
mod postgres;
mod preload;
mod programs;
mod rates;
mod restart;
mod rounds;
mod server;
mod snapshot;

use std::process::ExitCode;

use common::settings::number;
use common::sink::Sink;
use server::Server;

/// The allocator of the `hookstream` program, for the bare program too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The sizes of a run.
pub struct Plan {
    /// `BENCH_ROUNDS`.
    pub rounds: usize,
    /// Events of a round: `BENCH_EVENTS`.
    pub events: usize,
    /// Connections that send batches: `BENCH_BATCH_CONNECTIONS`.
    pub batch_connections: usize,
    /// Finished deliveries and idempotency keys of the part `filled`: `BENCH_PG_ROWS`.
    pub rows: usize,
    /// How long the part `snapshot` holds its snapshot: `BENCH_PG_SNAPSHOT_SECONDS`.
    pub snapshot_seconds: usize,
    /// Pending deliveries of the part `restart`: `BENCH_PG_PENDING`.
    pub pending: usize,
    /// Hooks of the part `hooks`: `BENCH_PG_HOOKS`.
    pub hooks: usize,
}

impl Plan {
    fn new(is_quick: bool) -> Plan {
        let default = |full, quick| if is_quick { quick } else { full };
        Plan {
            rounds: number("BENCH_ROUNDS", default(5, 3)),
            events: number("BENCH_EVENTS", default(50_000, 4_000)),
            batch_connections: number("BENCH_BATCH_CONNECTIONS", 16),
            rows: number("BENCH_PG_ROWS", default(5_000_000, 200_000)),
            snapshot_seconds: number("BENCH_PG_SNAPSHOT_SECONDS", default(600, 20)),
            pending: number("BENCH_PG_PENDING", default(1_000_000, 50_000)),
            hooks: number("BENCH_PG_HOOKS", default(100_000, 2_000)),
        }
    }
}

/// What the parts share.
pub struct Bench {
    pub server: Server,
    pub sink: Sink,
    pub plan: Plan,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // The bare program is a second process of this program, so that its CPU time is measured separately.
    if let [mode, receiver, url] = &args[..]
        && mode == bare::MODE
    {
        bare::run(receiver, url);
        return ExitCode::SUCCESS;
    }
    let selected: Vec<&str> = args.iter().map(String::as_str).filter(|arg| !arg.starts_with('-')).collect();
    let is_quick = selected.contains(&"quick");
    let selected: Vec<&str> = selected.into_iter().filter(|name| *name != "quick").collect();
    let plan = Plan::new(is_quick);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "structured CloudEvents of 1 KiB with ids, Standard Webhooks signatures, loopback; {} events per round, {} rounds each; {cores} cores shared by load generator, subject, database and receiver; load average {}",
        plan.events,
        plan.rounds,
        load_average()
    );
    let bench = Bench { server: Server::start(), sink: Sink::start(), plan };
    println!("{}; figures: median (minimum-maximum)", bench.server.description());
    let mut lost = 0;
    type Part = fn(&Bench) -> usize;
    let parts: [(&str, Part); 5] = [
        ("rates", rates::run),
        ("filled", filled::run),
        ("snapshot", snapshot::run),
        ("restart", restart::run),
        ("hooks", hooks::run),
    ];
    for (name, run) in parts {
        if selected.contains(&name) || selected.is_empty() {
            bench.server.forget_statements();
            lost += run(&bench);
            bench.server.print_statements();
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
