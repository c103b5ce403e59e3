//! Stateful emulators of the vendors' admin APIs, for tests, demos and people without a licence or a tenant.
//!
//! Purpose: answer as the vendor was observed to answer, also where its documents say otherwise. Behaviour that was
//! never observed is implemented in the simplest way, and a comment says so.
//!
//! Invariants:
//! - No vendor source code is used.
//! - Requests, queues, logs and stored objects are bounded.
//! - Routes under `/__emulator/` belong to the emulator. They need no credentials, no fault applies to them, and the
//!   request log does not contain them.
//! - The request log holds no bodies, because bodies carry secrets.
//!
//! Not a goal: performance or security. An emulator is not for production; it listens on whatever address the caller
//! configures.

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

pub use auth0::{Auth0Options, TenantRateLimit, serve_auth0};
pub use error::Error;
pub use kong::{KongOptions, MissingDelete, ReadBack, serve_kong};
