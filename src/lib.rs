//! Hookstream: a Kubernetes operator that keeps Kong's and Auth0's admin APIs true to custom resources, and a worker
//! that delivers events durably.
//!
//! Arrows point down only: `cli -> controller, worker -> admin, store, cluster, net, sandbox -> core -> api`. `core` knows
//! neither Kubernetes nor HTTP; `emulator` stands in for vendors and needs only `core`, `api` and `net`; every folder's
//! `mod.rs` tells its purpose, its invariants and what it leaves to others.

pub mod admin;
pub mod api;
pub mod cli;
pub mod cluster;
pub mod controller;
pub mod core;
pub mod emulator;
pub mod leadership;
pub mod metrics;
pub mod net;
pub mod ops;
pub mod sandbox;
pub mod worker;
