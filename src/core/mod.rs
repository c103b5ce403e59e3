//! What Hookstream decides, without doing anything: values in, values out.
//!
//! Invariants: no Kubernetes client, no HTTP, no files, no clock (time is an argument); so everything here is tested
//! without a cluster or a socket.
//!
//! Left to others: reading and writing (`cluster`, `admin`, `worker`).

pub mod event;
pub mod time;
pub mod duration;
pub mod keys;
pub mod retry;
pub mod conditions;
pub mod egress;
pub mod hook;
pub mod plan;
pub mod relay;
pub mod sign;
