//! Pure decisions: functions from values to values, without I/O.
//!
//! Invariants: no Kubernetes client, no HTTP client, no files and no clock (the current time is an argument). The tests
//! need neither a cluster nor a socket.
//!
//! Out of scope: reading and writing (`cluster`, `admin`, `worker`).

pub mod api_server;
pub mod auth0_events;
pub mod auth0_hook;
pub mod breaker;
pub mod bucket;
pub mod catalogue;
pub mod catalogue_samples;
pub mod change_log;
pub mod clock;
pub mod conditions;
pub mod delivery_reason;
pub mod digest;
pub mod duration;
pub mod egress;
pub mod event;
pub mod fair_pool;
pub mod fair_shares;
pub mod fast_map;
pub mod filter;
pub mod gate;
pub mod hook;
pub mod hook_pacing;
pub mod id;
pub mod json_string;
pub mod keys;
pub mod label_selector;
pub mod lease;
pub mod lua;
pub mod names;
pub mod output;
pub mod parallel;
pub mod plan;
pub mod receiver_breaker;
pub mod redact;
pub mod references;
pub mod relay;
pub mod relay_mark;
pub mod retry;
pub mod schema;
pub mod shown_readiness;
pub mod sign;
pub mod size;
pub mod stream;
pub mod stream_auth;
pub mod suggest;
pub mod template;
pub mod time;
pub mod trace;
pub mod urls;
pub mod version;
pub mod webhook_handshake;
