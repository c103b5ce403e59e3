//! Tests against a real API server and against the program as people run it: one module a promise.
//!
//! clippy.toml lets tests unwrap, but not the helpers they call, and here everything is test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod harness;

mod callers_are_judged;
mod crd_rules;
mod crds_generated;
mod deploy_files;
mod harness_works;
mod kubectl_explain;

mod bad_events;
mod deliveries;
mod deliveries_wait;
mod full_disk;
mod nothing_accepted_is_lost;
mod relays;
mod standalone;
mod standalone_files;
