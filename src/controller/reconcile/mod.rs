//! The pipeline, generic over kinds: locate, plan, apply, status.
//!
//! Purpose: a kind says what it wants (`Wanted`) and how it is reached (`Vendor`); `sync` makes it so, or reports what
//! differs where nothing may be written, and `finish` writes the status.
//!
//! Invariants: the finalizer stands before the first external write, and none where nothing is ours; what another
//! object of the cluster has is never taken; an object that the vendor gave its id to is created under a record, so that
//! a create whose answer was lost is found again; a write whose answer did not come is looked at before it is repeated.
//!
//! Left to others: what a kind wants, how a vendor is spoken to, how a failure is told (`observed`).

mod apply;
mod cleanup;
mod finish;
mod holders;
mod kind;
mod locate;
mod memory;
mod preview;
mod record;
mod snapshot;

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use serde_json::Value;

pub use cleanup::{cleanup, delete_external};
pub use finish::{finish, suspended};
pub use holders::Claims;
pub(super) use kind::shared_members;
pub use kind::{Done, Hashes, Policies, Synced, Vendor, Wanted};
pub use memory::Memory;
pub use preview::{Change, Preview, Ring, preview};
pub use record::PENDING_CREATE;
pub use snapshot::Snapshots;

use super::connection;
use super::context::Context;
use super::problem::Problem;
use super::status::Managed;
use crate::admin::{AdminError, ExternalClient};
use crate::api::{External, FINALIZER};
use crate::cluster::{ClusterError, Target};
use crate::core::conditions::Note;
use crate::core::keys::KeyRing;
use record::Record;

/// What a sync came to.
pub struct Outcome {
    pub external: External,
    /// The object as the vendor shows it now.
    pub item: Arc<Value>,
    pub hashes: Option<Hashes>,
    pub done: Done,
    /// Why the object is not as wanted, where nothing may be written or a write changes nothing.
    pub differs: Option<Note>,
    /// What the kind still waits for.
    pub pending: Option<Note>,
}

/// One sync of one object.
struct Run<'a, K: Synced> {
    context: &'a Context,
    object: &'a K,
    vendor: &'a Vendor<K::Client>,
    wanted: &'a Wanted<<K::Client as ExternalClient>::Desired>,
    policies: Policies<'a>,
    uid: String,
    /// Where the object is, as far as known.
    external: Option<External>,
    /// True where something of the vendor's is ours already: nothing is left to adopt.
    taken: bool,
    /// The record of a create that was begun.
    record: Option<Record>,
    /// The last token that was acknowledged.
    handled: Option<String>,
    /// How old a snapshot may be.
    oldest: Duration,
}

/// The vendor of an object, by its Connection.
pub async fn vendor<K: Synced>(
    context: &Context,
    object: &K,
    name: &str,
) -> Result<Vendor<K::Client>, Problem> {
    let namespace = object.namespace().unwrap_or_default();
    let guarded = context
        .view
        .connection(&namespace, name)
        .ok_or_else(|| Problem::ConnectionMissing(name.to_owned()))?;
    let connection = guarded.0.as_ref().map_err(|_| Problem::ConnectionInvalid(name.to_owned()))?;
    let wrong = || Problem::WrongVendor { connection: name.to_owned(), vendor: K::VENDOR };
    if !K::is_vendor(&connection.spec) {
        return Err(wrong());
    }
    let access = connection::access(connection, context).await?;
    let client = K::client(&access).ok_or_else(wrong)?;
    Ok(Vendor { connection: Arc::new(connection.clone()), access, client })
}

/// Makes the vendor's object what is wanted, as far as the object's policies allow.
pub async fn sync<K: Synced>(
    context: &Context,
    object: &K,
    vendor: &Vendor<K::Client>,
    wanted: &Wanted<<K::Client as ExternalClient>::Desired>,
) -> Result<Outcome, Problem> {
    context.backoff.may_call(&object.uid().unwrap_or_default())?;
    // What a gateway can do is found out while it is done: then the way is looked for again.
    for _ in 0..3 {
        let run = Run::new(context, object, vendor, wanted)?;
        // Boxed, here and below: the steps of a sync, one in the other, outgrow a thread's stack.
        match Box::pin(run.once()).await {
            Err(Problem::Admin(AdminError::Unsupported(what))) => {
                tracing::debug!(name = object.name_any(), "the vendor does not support {what}");
            }
            other => return other,
        }
    }
    Err(AdminError::Unsupported("any of the ways to write").into())
}

/// How old a snapshot may be: short beside the interval, so that what it misses is found in the next round.
fn oldest(interval: Duration) -> Duration {
    (interval / 20).clamp(Duration::from_millis(100), Duration::from_secs(30))
}

/// Where a vendor's object of this id is.
fn place_at<C>(vendor: &Vendor<C>, id: &str) -> External {
    External {
        id: id.to_owned(),
        connection: vendor.connection.name_any(),
        endpoint: vendor.access.endpoint(),
        workspace: vendor.access.workspace().map(ToOwned::to_owned),
    }
}

impl<'a, K: Synced> Run<'a, K> {
    /// What is known before anything is asked.
    fn new(
        context: &'a Context,
        object: &'a K,
        vendor: &'a Vendor<K::Client>,
        wanted: &'a Wanted<<K::Client as ExternalClient>::Desired>,
    ) -> Result<Self, Problem> {
        let uid = object.uid().unwrap_or_default();
        let interval = connection::resync_interval(&vendor.connection, context)?;
        let mut status = object.status().cloned().unwrap_or_default();
        let handled = K::parts(&mut status).handled.clone().and_then(|h| h.reconcile_requested_at);
        let told = object.annotations().get(PENDING_CREATE).and_then(|text| Record::parse(text));
        let policies = object.policies();
        // The finalizer of an object that adopts stands only once it has taken what it adopts.
        let held = object.finalizers().iter().any(|f| f == FINALIZER);
        let adopted = || policies.adopt.filter(|_| held).map(|adopt| place_at(vendor, &adopt.id));
        let external = context.memory.external(&uid, object.external()).or_else(adopted);
        Ok(Run {
            context,
            object,
            vendor,
            wanted,
            policies,
            // Who only observed knows where the object is, and has not taken it.
            taken: if policies.adopt.is_some() { held } else { external.is_some() },
            external,
            record: context.memory.record(&uid, told),
            handled,
            uid,
            oldest: oldest(interval),
        })
    }

    /// Where an object of this id is.
    fn place(&self, id: &str) -> External {
        place_at(self.vendor, id)
    }

    async fn ring(&self) -> Result<Arc<KeyRing>, ClusterError> {
        self.context.ring().await
    }
}

/// Puts our finalizer on the object.
pub async fn hold<K: Managed>(context: &Context, object: &K) -> Result<(), Problem> {
    let mut finalizers = object.finalizers().to_vec();
    if finalizers.iter().any(|f| f == FINALIZER) {
        return Ok(());
    }
    finalizers.push(FINALIZER.to_owned());
    Ok(context.cluster.write_finalizers(&Target::of(K::KIND, object), finalizers).await?)
}

/// Takes our finalizer off the object. One that is gone has none.
pub async fn release<K: Managed>(context: &Context, object: &K) -> Result<(), Problem> {
    let finalizers: Vec<String> = object.finalizers().iter().filter(|f| *f != FINALIZER).cloned().collect();
    if finalizers.len() == object.finalizers().len() {
        return Ok(());
    }
    match context.cluster.write_finalizers(&Target::of(K::KIND, object), finalizers).await {
        Err(ClusterError::Gone) => Ok(()),
        other => Ok(other?),
    }
}
