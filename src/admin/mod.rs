//! The vendors' admin APIs.
//!
//! Purpose: one small trait (`ExternalClient`) to list, read, create, update and delete a vendor's objects, and one enum
//! (`AdminError`) that classifies every failure.
//!
//! Invariants: every call goes through the egress connector and `limit`, follows no redirect, and has a deadline and a
//! size bound. `limit` enforces the rates and rejects calls while another replica leads. Errors repeat only the known
//! error fields of a response, truncated and with sent secrets redacted. Nothing here retries; the reconciler does, for
//! one object at a time.
//!
//! Out of scope: the desired state and the ownership of objects (`controller`), and their comparison (`core::plan`).

mod absence;
mod access;
pub mod auth0;
mod client;
mod error;
pub mod kong;
pub mod limit;
mod pages;
mod response;
#[cfg(test)]
pub mod testing;

/// The largest response in bytes: a page of a thousand Kong hooks with long configs, or of a hundred Auth0 Hooks with long
/// scripts.
pub const MAX_RESPONSE: usize = 16 * 1024 * 1024;

pub use access::AdminAccess;
pub use client::{ExternalClient, ListScope, Listing};
pub use error::{AdminError, AdminErrorClass, ErrorDetail};
