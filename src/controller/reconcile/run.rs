//! Syncs one object: runs observe, decide and apply. Also dereferences the Connection.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use serde_json::Value;

use super::claim::find_other_owner;
use super::cleanup;
use super::decide::{Action, DecisionFacts, FormerAddress, Found, decide};
use super::kind::{DesiredObject, Effect, Policies, SecretHashes, Synced, VendorAccess};
use crate::admin::{AdminError, ExternalClient};
use crate::api::External;
use crate::cluster::ClusterError;
use crate::controller::access::{access, resync_interval};
use crate::controller::context::Context;
use crate::controller::error::SyncError;
use crate::controller::finalizer;
use crate::controller::state::{CreateRecord, PENDING_CREATE};
use crate::core::conditions::ConditionMessage;
use crate::core::keys::KeyRing;

/// Maximum attempts of one sync. Each one uses the capabilities that the previous one learned.
const MAX_ATTEMPTS: u32 = 3;

/// The result of a sync.
pub struct SyncResult {
    pub external: External,
    /// The external object as the vendor shows it now.
    pub item: Arc<Value>,
    pub secret_hashes: Option<SecretHashes>,
    pub effect: Effect,
    /// The reason why the external object is not as desired: a policy forbids the write, or the vendor did not keep it.
    pub difference: Option<ConditionMessage>,
    /// The step that the kind still waits for.
    pub pending: Option<ConditionMessage>,
}

/// One attempt of a sync, with all facts that are known before its first call.
pub(super) struct SyncRun<'a, K: Synced> {
    pub context: &'a Context,
    pub object: &'a K,
    pub vendor: &'a VendorAccess<K::Client>,
    pub desired: &'a DesiredObject<<K::Client as ExternalClient>::Desired>,
    pub policies: Policies<'a>,
    pub uid: String,
    /// The external object, if it is known.
    pub external: Option<External>,
    /// True if an external object belongs to the custom resource already: nothing is left to adopt.
    pub is_owned: bool,
    /// The record of a create whose result is not in the status yet.
    pub create_record: Option<CreateRecord>,
    /// The last handled value of the annotation `hookstream.dev/reconcileRequestedAt`.
    pub handled_request: Option<String>,
    /// Longest accepted age of a snapshot.
    pub max_snapshot_age: Duration,
}

/// Dereferences the Connection `name` of an object: returns the Connection and a client for its vendor.
pub async fn vendor_access<K: Synced>(
    context: &Context,
    object: &K,
    name: &str,
) -> Result<VendorAccess<K::Client>, SyncError> {
    let namespace = object.namespace().unwrap_or_default();
    let guarded = context
        .view
        .connection(&namespace, name)
        .ok_or_else(|| SyncError::ConnectionMissing(name.to_owned()))?;
    let connection = guarded.0.as_ref().map_err(|_| SyncError::ConnectionInvalid(name.to_owned()))?;
    let wrong_vendor = || SyncError::WrongVendor { connection: name.to_owned(), vendor: K::VENDOR };
    if !K::is_vendor(&connection.spec) {
        return Err(wrong_vendor());
    }
    let access = access(connection, context).await?;
    let client = K::client(&access).ok_or_else(wrong_vendor)?;
    Ok(VendorAccess { connection: Arc::new(connection.clone()), access, client })
}

/// Brings the external object to the desired state, as far as the object's policies allow.
pub async fn sync<K: Synced>(
    context: &Context,
    object: &K,
    vendor: &VendorAccess<K::Client>,
    desired: &DesiredObject<<K::Client as ExternalClient>::Desired>,
) -> Result<SyncResult, SyncError> {
    context.backoff.may_call(&object.uid().unwrap_or_default())?;
    // A rejected call may reveal that the gateway lacks a capability. The next attempt then uses another operation.
    for _ in 0..MAX_ATTEMPTS {
        let run = SyncRun::new(context, object, vendor, desired)?;
        // Boxed, here and below: the nested futures of a sync exceed a thread's stack.
        match Box::pin(run.execute()).await {
            Err(SyncError::Admin(AdminError::Unsupported(what))) => {
                tracing::debug!(name = object.name_any(), "operation not supported by the vendor: {what}");
            }
            other => return other,
        }
    }
    Err(AdminError::Unsupported("any operation that could write this object").into())
}

/// Longest accepted age of a snapshot. Much shorter than the resync interval, so that the next resync finds a change
/// that the snapshot missed.
fn max_snapshot_age(resync_interval: Duration) -> Duration {
    (resync_interval / 20).clamp(Duration::from_millis(100), Duration::from_secs(30))
}

/// Returns the reference to the external object with this id at the vendor.
fn external_at<C>(vendor: &VendorAccess<C>, id: &str) -> External {
    External {
        id: id.to_owned(),
        connection: vendor.connection.name_any(),
        endpoint: vendor.access.endpoint(),
        workspace: vendor.access.workspace().map(ToOwned::to_owned),
    }
}

impl<'a, K: Synced> SyncRun<'a, K> {
    /// Collects the facts from the status, the annotations and this process's memory.
    pub fn new(
        context: &'a Context,
        object: &'a K,
        vendor: &'a VendorAccess<K::Client>,
        desired: &'a DesiredObject<<K::Client as ExternalClient>::Desired>,
    ) -> Result<Self, SyncError> {
        let uid = object.uid().unwrap_or_default();
        let interval = resync_interval(&vendor.connection, context)?;
        let mut status = object.status().cloned().unwrap_or_default();
        let handled = K::shared(&mut status).handled.clone();
        let annotation = object.annotations().get(PENDING_CREATE);
        let annotated = annotation.and_then(|text| CreateRecord::parse(text));
        let policies = object.policies();
        // An object with `adopt` has the finalizer only if it owns the external object already.
        let has_finalizer = finalizer::is_present(object);
        let adopted = || policies.adopt.filter(|_| has_finalizer).map(|adopt| external_at(vendor, &adopt.id));
        let external = context.memory.external(&uid, object.external()).or_else(adopted);
        Ok(SyncRun {
            context,
            object,
            vendor,
            desired,
            policies,
            // Do not ask the status: with ObserveOnly it names an external object that is not owned.
            is_owned: if policies.adopt.is_some() { has_finalizer } else { external.is_some() },
            external,
            create_record: context.memory.create_record(&uid, annotated),
            handled_request: handled.and_then(|handled| handled.reconcile_requested_at),
            uid,
            max_snapshot_age: max_snapshot_age(interval),
        })
    }

    async fn execute(mut self) -> Result<SyncResult, SyncError> {
        let left = Box::pin(self.clean_up_former_address()).await?;
        let found = Box::pin(self.observe()).await?;
        let key_ring = match self.has_hashes_to_check(found.as_ref()) {
            true => Some(self.key_ring().await?),
            false => None,
        };
        let action = self.decide(found, key_ring.as_deref(), false)?;
        let (context, object) = (self.context, self.object);
        let result = Box::pin(self.apply(action)).await?;
        // Only now, because a failed attempt is repeated and would report it again.
        if let Some(former) = left {
            cleanup::report_left_at_former_address(context, object, &former).await;
        }
        Ok(result)
    }

    /// Deletes the external object at the Connection's former address, if the policies say so. Otherwise returns it.
    async fn clean_up_former_address(&mut self) -> Result<Option<External>, SyncError> {
        match Box::pin(self.resolve_address()).await? {
            Some((former, FormerAddress::Delete)) => {
                cleanup::delete_at_former_address::<K>(self.context, self.object, &former).await?;
                Ok(None)
            }
            Some((former, FormerAddress::Orphan)) if !self.policies.observes_only() => Ok(Some(former)),
            _ => Ok(None),
        }
    }

    /// True if `decide` has to compare a secret with a stored hash, which requires the key ring.
    pub fn has_hashes_to_check(&self, found: Option<&Found>) -> bool {
        let hashes = self.object.secret_hashes();
        found.is_some()
            && self.desired.secrets.keys().any(|path| hashes.is_some_and(|h| h.contains_key(path)))
    }

    /// Runs the decide stage. `secrets_are_placeholders`: there is no key ring to derive the secrets from.
    pub fn decide(
        &self,
        found: Option<Found>,
        key_ring: Option<&KeyRing>,
        secrets_are_placeholders: bool,
    ) -> Result<Action, SyncError> {
        let adopts = self.policies.adopt.is_some() && !self.is_owned && !self.policies.observes_only();
        let other_owner = found
            .as_ref()
            .filter(|_| adopts)
            .and_then(|found| find_other_owner(self.context, self.object, &self.external_at(&found.id)));
        let facts = DecisionFacts {
            what: K::WHAT,
            uid: &self.uid,
            expected_id: self.external.as_ref().map(|external| external.id.as_str()),
            is_owned: self.is_owned,
            is_in_status: self.object.external().is_some(),
            other_owner,
            hashes: self.object.secret_hashes(),
            key_ring,
            secrets_read_back: K::Client::SECRETS_READ_BACK,
            secrets_are_placeholders,
        };
        decide(found, self.desired, &self.policies, &facts)
    }

    /// Returns the reference to the external object with this id at the vendor.
    pub fn external_at(&self, id: &str) -> External {
        external_at(self.vendor, id)
    }

    pub async fn key_ring(&self) -> Result<Arc<KeyRing>, ClusterError> {
        self.context.key_ring().await
    }
}
