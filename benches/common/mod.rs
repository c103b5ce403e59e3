//! Shared by the `relay` and `worker` benches: the measured processes, the load generator and the receiver.
#![allow(dead_code, reason = "each bench uses a part of it")]

pub mod history;
pub mod hostile;
pub mod load;
pub mod process;
pub mod publish;
pub mod sink;

/// Concurrent deliveries of the measured hook and of the bare relay.
pub const CONCURRENCY: usize = 64;
