//! `cargo bench --bench controller`: what the controller costs beside what it cannot do without, on a real API server and
//! etcd, with the real `hookstream controller` and an emulated Kong. `BENCH_OBJECTS` (default 10000): how many EventHooks.
//!
//! Each figure has its goal beside it. Exits 0 unless something broke: an object that did not become ready.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "controller/api.rs"]
mod api;
#[path = "controller/limited.rs"]
mod limited;
#[path = "controller/many.rs"]
mod many;

/// What the tests stand on.
#[path = "../tests/it"]
#[allow(dead_code, reason = "each program uses its part")]
mod it {
    pub mod harness;
    pub mod standalone;
    pub mod world;
}
use it::{harness, standalone, world};

use std::process::ExitCode;

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const OBJECTS: usize = 10_000;
/// Hooks of the Connection with a rate limit.
const LIMITED: usize = 1_000;

#[tokio::main]
async fn main() -> ExitCode {
    let text = std::env::var("BENCH_OBJECTS").unwrap_or_else(|_| OBJECTS.to_string());
    let Ok(objects) = text.parse::<usize>() else {
        println!("BENCH_OBJECTS={text}: must be a number of objects, such as 1000");
        return ExitCode::from(2);
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "{objects} EventHooks; {cores} cores shared by etcd, kube-apiserver, Kong's emulator, controller and bench"
    );
    let result = async {
        many::run(objects).await?;
        limited::run(objects.min(LIMITED)).await
    };
    match result.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("BROKEN: {error}");
            ExitCode::FAILURE
        }
    }
}
