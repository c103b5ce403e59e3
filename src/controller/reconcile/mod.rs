//! The reconcile pipeline, the same for every kind:
//! `dereference -> validate -> observe -> decide -> apply -> status`.
//!
//! Purpose: the `reconcile` function of a kind parses the spec and dereferences the Secrets and the Connection
//! (`vendor_access`), then validates them by building the `DesiredObject`. `sync` runs observe, decide and apply. `finish` is the status
//! stage. `preview` runs the same stages up to decide. `clean_up` deletes the external object of a deleted custom
//! resource.
//!
//! Invariants: the finalizer is added before the first external write, and never to an object that owns nothing. An
//! external object of another custom resource is never adopted, and ownership needs proof (`claim`). At a vendor that chooses the ids, a create record is
//! written before the create. With it, the controller finds the object of a create without a response. After a write
//! without a response, it observes the object before it repeats the write. After a change of the Connection's address, the
//! external object exists at the new address before it is deleted at the former one.
//!
//! Out of scope: the desired object of each kind (`eventhook`, `eventstream`, `auth0_hook`), calls to vendors
//! (`admin`), and reports of failures (`supervise`).

mod apply;
mod claim;
mod cleanup;
mod decide;
mod field_change;
mod finish;
mod former;
mod kind;
mod observe;
mod orphans;
mod preview;
mod recorded;
mod run;
mod suspend;

pub use claim::index_change;
pub use cleanup::{clean_up, delete_external};
pub use decide::Found;
pub use field_change::FieldChange;
pub use finish::finish;
pub(super) use kind::shared_members;
pub use kind::{DesiredObject, Policies, SecretHashes, Synced, VendorAccess};
pub use preview::{Preview, PreviewKeys, VendorChange, preview};
pub use run::{sync, vendor_access};
pub use suspend::{remember_synced, report_suspended};
