//! The worker: takes events in, matches hooks, keeps what it accepted and delivers it.
//!
//! `ingest -> route -> store -> dispatch -> handlers`.

pub mod store;
