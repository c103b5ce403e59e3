//! `cargo bench --bench console`: measures the time in which the worker answers each page of the web console on a store with
//! 100,000 hooks and 10 million deliveries (`BENCH_HOOKS`, `BENCH_DELIVERIES`), and prints it with the limit of 100 ms. Only a
//! page that fails fails the run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;
mod pages;
mod store;

/// The allocator of the `hookstream` program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use std::process::ExitCode;

use common::process::temp_folder;
use store::Content;

fn main() -> ExitCode {
    let content = Content::from_environment();
    let folder = temp_folder();
    content.copy_to(&folder.path().join("data"));
    std::env::set_current_dir(folder.path()).expect("a folder");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let failed = runtime.block_on(runtime.spawn(pages::measure(content))).expect("no panic");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
