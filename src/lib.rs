//! Hookstream: a Kubernetes operator that configures Kong and Auth0 from custom resources, and a worker that delivers
//! events durably.
//!
//! Dependencies point one way: `cli -> controller, console, worker -> admin, cluster, sandbox, traces -> net, memory -> core -> api`. `core`
//! depends on neither Kubernetes nor HTTP. `emulator` emulates the vendors and depends only on `core`, `api` and `net`.
//! The embedded store is in `worker::store`. The `mod.rs` of each folder states its purpose, its invariants and what is out of
//! scope.

pub mod admin;
pub mod api;
pub mod cli;
pub mod cluster;
pub mod console;
pub mod controller;
pub mod core;
pub mod emulator;
pub mod leadership;
pub mod memory;
pub mod metrics;
pub mod net;
pub mod ops;
pub mod sandbox;
pub mod traces;
pub mod worker;
