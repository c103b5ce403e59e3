//! Tests against a real API server and against the real program, in one module for each area.
//!
//! clippy.toml lets tests unwrap, but not the helpers they call, and here everything is test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

/// For `fuzz_targets`.
extern crate self as libfuzzer_sys;

mod harness;

mod cli;
mod console;
mod controller;
mod crds;
mod docs;
mod emulator;
mod fuzz_targets;
mod harness_tests;
mod install;
mod local_cluster;
mod worker;
