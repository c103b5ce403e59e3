//! Tests against a real API server and against the program as people run it: one module a promise.
//!
//! clippy.toml lets tests unwrap, but not the helpers they call, and here everything is test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

/// For `fuzz_targets`.
extern crate self as libfuzzer_sys;

mod harness;
mod standalone;
mod world;

mod a_lost_key_ring;
mod auth0_emulator;
mod auth0_hooks;
mod auth0_limits;
mod auth0_policies;
mod auth0_streams;
mod bad_events;
mod bad_receivers;
mod bad_references;
mod callers_are_judged;
mod charts;
mod commands;
mod controllers_are_killed;
mod crash_points;
mod crd_rules;
mod crds_generated;
mod deletion_leaves_nothing;
mod deliveries;
mod deliveries_api;
mod deliveries_wait;
mod delivering;
mod demo;
mod deploy_files;
mod diffs;
mod documented;
mod egress_proxy;
mod events_by_http;
mod failed_sync;
mod filters;
mod full_disk;
mod fuzz_targets;
mod gates;
mod generated;
mod handlers;
mod harness_works;
mod holds;
mod idle_means_no_writes;
mod imports;
mod kong_answers;
mod kong_hides_secrets;
mod kong_reads;
mod kubectl_explain;
mod kustomized;
mod ladder;
mod leadership;
mod metrics;
mod mistakes;
mod moves;
mod namespaces_end;
mod nothing_accepted_is_lost;
mod one_malformed_object;
mod policies;
mod probes;
mod rate_limits;
mod relays;
mod release;
mod request_ids;
mod scripts;
mod shares;
mod skeleton;
mod standalone_files;
mod store_command;
mod streams;
mod suspend_and_policies;
mod through_the_cluster;
mod what_is_not_there;
mod whose_history;
