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
//! Memory: a response, its parsed form and the objects of a list that are kept are reserved in the share `admin_responses`
//! of the memory budget before they exist (`limit::AdminMemory`). Lists are read element by element (`pages`), so that a
//! vendor's answer costs no more than its bound, whatever it contains.
//!
//! Out of scope: the desired state and the ownership of objects (`controller`), and their comparison (`core::plan`).

mod absence;
mod access;
pub mod auth0;
mod client;
mod error;
pub mod kong;
pub mod limit;
mod listing;
mod pages;
mod parsed_size;
mod response;
#[cfg(test)]
pub mod testing;

/// The largest response in bytes: a page of a thousand Kong hooks with long configs, or of a hundred Auth0 streams.
pub const MAX_RESPONSE: usize = 16 * 1024 * 1024;

pub use access::AdminAccess;
pub use client::{ExternalClient, ListScope};
pub use error::{AdminError, AdminErrorClass, ErrorDetail};
pub use limit::AdminMemory;
pub use listing::{ListElement, ListFilter, ListedObject, Listing};
pub use parsed_size::parsed_size;
