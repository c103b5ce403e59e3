//! The custom resources `hookstream.dev/v1alpha1`, as Rust types.
//!
//! Purpose: one definition of each kind, from which `hookstream crds` makes the CRDs. The doc comments here are what
//! `kubectl explain` prints, so they speak to users: shape, units, defaults, limits.
//!
//! Invariants: no defaults in the schema but those that can never change their meaning (code holds the others, the
//! comment tells them); unions are optional members with an "exactly one of" rule; everything has a bound and every
//! list a list type; nothing here reads or writes anything. An optional member is an `Option` that is left out where it is
//! None (`skip_serializing_none`); where `schema_with` hides that from the schema, `serde(default)` says it again.
//!
//! Left to others: what an object means (`core`), where it is read and written (`cluster`).

mod auth0_hook;
mod common;
mod connection;
mod crds;
mod eventhook;
mod eventstream;
mod handler;

pub use auth0_hook::*;
pub use common::*;
pub use connection::*;
pub use crds::{crds, to_yaml};
pub use eventhook::*;
pub use eventstream::*;
pub use handler::*;

/// The API group of every kind.
pub const GROUP: &str = "hookstream.dev";
/// The finalizer that stands while something exists at the vendor, or while a Connection is in use.
pub const FINALIZER: &str = "hookstream.dev/cleanup";
/// Asks for a reconcile now; its value is an opaque token that is acknowledged in `status.handled`.
pub const RECONCILE_REQUESTED_AT: &str = "hookstream.dev/reconcileRequestedAt";
/// Lets a hook go on that was held after an answer of 410, or a stream that Auth0 disabled; its value is an opaque token, acknowledged in
/// `status.handled`.
pub const RESUME: &str = "hookstream.dev/resume";
/// The label that `--require-secret-label` asks of every Secret the operator may use.
pub const USE_LABEL: &str = "hookstream.dev/use";

#[cfg(test)]
mod tests;
