//! The vendors' admin APIs.
//!
//! Purpose: one small trait behind which a vendor's objects are listed, read, created, changed and deleted, and one
//! enum into which every answer is sorted.
//!
//! Invariants: calls go through the egress connector, follow no redirect, have a deadline and a bound; of what a vendor
//! answers, only its known error fields are repeated, cut short, with what was sent in secret taken out; nothing here
//! retries (the reconciler does, for one object at a time).
//!
//! Left to others: what is wanted (`controller`), what differs (`core::plan`). The limiter and breaker a host come with
//! "Sync in full".

pub mod auth0;
mod error;
pub mod kong;

use std::future::Future;

pub use error::{AdminError, Class, Detail};

/// A vendor's objects of one kind. All calls may be repeated: a create that was cut off is found again.
pub trait ExternalClient: Send + Sync {
    /// What is wanted of an object.
    type Desired: Send + Sync;
    /// An object as the vendor shows it.
    type Observed: Send + Sync;

    /// Every object.
    fn list(&self) -> impl Future<Output = Result<Vec<Self::Observed>, AdminError>> + Send;
    /// One object; None where there is none.
    fn observe(&self, id: &str) -> impl Future<Output = Result<Option<Self::Observed>, AdminError>> + Send;
    /// Creates an object under an id that the operator chose.
    fn create(
        &self,
        id: &str,
        desired: &Self::Desired,
    ) -> impl Future<Output = Result<Self::Observed, AdminError>> + Send;
    /// Makes an existing object what is wanted.
    fn update(
        &self,
        id: &str,
        desired: &Self::Desired,
    ) -> impl Future<Output = Result<Self::Observed, AdminError>> + Send;
    /// Deletes an object. One that is not there is deleted.
    fn delete(&self, id: &str) -> impl Future<Output = Result<(), AdminError>> + Send;
}
