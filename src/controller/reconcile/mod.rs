//! The reconcile pipeline, the same for every kind: dereference, validate, observe, decide, apply, status.
//!
//! Purpose: a kind validates its spec, dereferences what it refers to (`vendor_access`) and builds the `DesiredObject`.
//! `sync` observes the external object, decides (`decide`, pure) and applies the action. `finish` writes the status.
//! `preview` runs the same stages up to the decision. `clean_up` deletes.
//!
//! Invariants: the finalizer is added before the first external write, and never to an object that owns nothing; an
//! external object of another custom resource is never adopted; at a vendor that chooses the ids, a create is preceded by
//! a create record, so that a create without an answer is found again; a write without an answer is observed before it is
//! repeated.
//!
//! Left to others: what a kind desires (`eventhook`, `eventstream`, `auth0_hook`), how to call a vendor (`admin`), how to
//! report a failure (`supervise`).

mod apply;
mod claim;
mod cleanup;
mod decide;
mod finish;
mod kind;
mod observe;
mod preview;
mod run;

pub use cleanup::{clean_up, delete_external};
pub use finish::{SUSPENDED_REQUEUE, finish};
pub(super) use kind::shared_members;
pub use kind::{DesiredObject, Policies, SecretHashes, Synced, VendorAccess};
pub use preview::{Preview, PreviewKeys, VendorChange, preview};
pub use run::{sync, vendor_access};
