//! The pages of the web console in Chromium, on a real worker.
//!
//! These tests are ignored by default; `make test` runs them where Chromium is, or can be installed (`find.sh`).
//!
//! clippy.toml lets tests unwrap, but not the helpers they call, and here everything is test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

/// The harness of the integration tests.
#[path = "../it/harness/mod.rs"]
mod harness;

mod access;
mod actions;
mod appearance;
mod driver;
mod harness_check;
mod hooks;
mod seeded;
