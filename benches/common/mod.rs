//! Shared by the `relay`, `worker`, `console` and `postgres` benches: the measured processes, the load generator, the receiver, the stores on
//! which they work, and the figures.
#![allow(dead_code, reason = "each bench uses a part of it")]

pub mod counters;
pub mod figures;
pub mod forwarder;
pub mod generator;
pub mod history;
pub mod hostile;
pub mod listener;
pub mod load;
pub mod memory_worker;
pub mod plot;
pub mod preload;
pub mod process;
pub mod publish;
pub mod settings;
pub mod sink;

/// Concurrent deliveries of the measured hook and of the bare relay.
pub const CONCURRENCY: usize = 64;
