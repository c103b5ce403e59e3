//! `cargo bench --bench controller`: compares the controller's cost with the minimum that each object needs. Runs the
//! real `hookstream controller` with a real API server and etcd, and an emulated Kong. `BENCH_OBJECTS` (default 10000)
//! is the number of EventHooks.
//!
//! Each figure is printed with its goal. Exits 0 unless an object did not become ready.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod api;
mod limited;
mod many;

/// The harness of the integration tests.
#[path = "../../tests/it"]
#[allow(dead_code, reason = "the bench uses a part of it")]
mod it {
    pub mod harness;
}
use it::harness;

use std::process::ExitCode;

/// The allocator of the `hookstream` program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const OBJECTS: usize = 10_000;
/// EventHooks of the Connection with a rate limit.
const LIMITED: usize = 1_000;

#[tokio::main]
async fn main() -> ExitCode {
    let text = std::env::var("BENCH_OBJECTS").unwrap_or_else(|_| OBJECTS.to_string());
    let Ok(objects) = text.parse::<usize>() else {
        println!("BENCH_OBJECTS={text}: must be a count of objects, such as 1000");
        return ExitCode::from(2);
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "{objects} EventHooks; {cores} cores shared by etcd, kube-apiserver, the Kong emulator, the controller and the bench"
    );
    let result = async {
        many::run(objects).await?;
        limited::run(objects.min(LIMITED)).await
    };
    match result.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}
