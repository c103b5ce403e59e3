//! Stateful emulators of the vendors' admin APIs, for tests, demos and people without a licence or a tenant.
//!
//! Purpose: respond as the vendor was observed to respond, even if its documentation disagrees. Behaviour that was
//! never observed is implemented in the simplest way, and a comment says so.
//!
//! Invariants:
//! - No vendor source code is used.
//! - Requests, queues, logs and stored objects are bounded.
//! - Routes under `/__emulator/` belong to the emulator. They need no credentials, no fault applies to them, and the
//!   request log does not contain them.
//! - The request log contains no bodies, because bodies contain secrets.
//!
//! Out of scope: performance and security. An emulator is not for production, and it listens on any address that the
//! caller configures.

mod auth0;
mod client;
mod control;
mod error;
mod faults;
mod kong;
mod queue;
mod recent;
mod state;
#[cfg(test)]
mod testing;

pub use auth0::{Auth0Options, ClientKey, TenantRateLimit, serve_auth0};
pub use error::Error;
pub use kong::{KongOptions, MissingDelete, ReadBack, serve_kong};
