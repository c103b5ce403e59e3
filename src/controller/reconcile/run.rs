//! Syncs one object: runs observe, decide and apply. Also dereferences the Connection.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use serde_json::Value;

use super::claim::{find_other_owner, find_owned, ownership_key_ring};
use super::decide::{Action, DecisionFacts, Found, decide};
use super::kind::{DesiredObject, Effect, Policies, SecretHashes, Synced, VendorAccess};
use super::orphans;
use crate::admin::{AdminError, ExternalClient};
use crate::api::{External, FormerLocation};
use crate::cluster::{ClusterError, ObjectKey};
use crate::controller::access::{access, resync_interval};
use crate::controller::context::Context;
use crate::controller::error::SyncError;
use crate::controller::installation::check_found;
use crate::controller::state::{CreateRecord, MarkerOwner, MarkerProof, OwnershipMarker};
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
    /// The ownership marker that is written when the create record is removed.
    pub marker: Option<OwnershipMarker>,
    /// The reason why the external object is not as desired: a policy forbids the write, or the vendor did not keep it.
    pub difference: Option<ConditionMessage>,
    /// The step that the kind still waits for.
    pub pending: Option<ConditionMessage>,
    /// The former locations from which the external object still has to be deleted.
    pub former_locations: Vec<FormerLocation>,
    /// Why it could not be deleted there yet, and the delay until the next attempt.
    pub former_error: Option<(SyncError, Duration)>,
}

/// One attempt of a sync, with all facts that are known before its first call.
pub(super) struct SyncRun<'a, K: Synced> {
    pub context: &'a Context,
    pub object: &'a K,
    pub vendor: &'a VendorAccess<K::Client>,
    pub desired: &'a DesiredObject<<K::Client as ExternalClient>::Desired>,
    pub policies: Policies<'a>,
    pub uid: String,
    /// The external object that belongs to the custom resource or that it observes, if it is known.
    pub external: Option<External>,
    /// The former locations from which the external object still has to be deleted.
    pub former: Vec<FormerLocation>,
    /// True if an external object provably belongs to the custom resource: nothing is left to adopt.
    pub is_owned: bool,
    /// The id of the external object that belonged to an earlier custom resource of this name.
    pub inherited_id: Option<String>,
    /// The key ring for ownership markers. None if the object needs none, or if it cannot be read.
    pub owner_keys: Option<Arc<KeyRing>>,
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
    let installation = context.installation().await?;
    Ok(VendorAccess { connection: Arc::new(connection.clone()), access, client, installation })
}

/// Brings the external object to the desired state, as far as the object's policies allow. Reports a response that is too
/// large on the Connection.
pub async fn sync<K: Synced>(
    context: &Context,
    object: &K,
    vendor: &VendorAccess<K::Client>,
    desired: &DesiredObject<<K::Client as ExternalClient>::Desired>,
) -> Result<SyncResult, SyncError> {
    let result = Box::pin(repeat_sync(context, object, vendor, desired)).await;
    let error = result.as_ref().err().and_then(SyncError::admin);
    let connection = ObjectKey::of(&*vendor.connection);
    context.report_oversized(&object.uid().unwrap_or_default(), connection, error);
    result
}

async fn repeat_sync<K: Synced>(
    context: &Context,
    object: &K,
    vendor: &VendorAccess<K::Client>,
    desired: &DesiredObject<<K::Client as ExternalClient>::Desired>,
) -> Result<SyncResult, SyncError> {
    context.backoff.may_call(&object.uid().unwrap_or_default())?;
    // A rejected call may reveal that the gateway lacks a capability. The next attempt then uses another operation.
    for _ in 0..MAX_ATTEMPTS {
        let owner_keys = ownership_key_ring(context, object).await?;
        let run = SyncRun::new(context, object, vendor, desired, owner_keys)?;
        // Boxed, here and below: the nested futures of a sync exceed a thread's stack.
        match Box::pin(run.execute()).await {
            Err(SyncError::Admin(AdminError::Unsupported(what))) => {
                tracing::debug!(name = object.name_any(), "operation not supported by the vendor: {what}");
            }
            Err(error) => return Err(error),
            Ok(result) => {
                if let Some(result) = Box::pin(SyncRun::finish_move(context, object, vendor, result)).await? {
                    return Ok(result);
                }
                tracing::debug!(
                    name = object.name_any(),
                    "former address is the same vendor, creating again"
                );
            }
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
    /// Collects the facts from the status, the annotations and this process's memory. Without `owner_keys`, ownership
    /// markers cannot be verified.
    pub fn new(
        context: &'a Context,
        object: &'a K,
        vendor: &'a VendorAccess<K::Client>,
        desired: &'a DesiredObject<<K::Client as ExternalClient>::Desired>,
        owner_keys: Option<Arc<KeyRing>>,
    ) -> Result<Self, SyncError> {
        let uid = object.uid().unwrap_or_default();
        let interval = resync_interval(&vendor.connection, context)?;
        let mut status = object.status().cloned().unwrap_or_default();
        let handled = K::shared(&mut status).handled.clone();
        let policies = object.policies();
        // Observing needs no ownership.
        let observed =
            || context.memory.external(&uid, object.external()).filter(|_| policies.observes_only());
        let owned = Some(()).filter(|()| !policies.observes_only());
        let owned = owned.and_then(|()| find_owned(context, object, owner_keys.as_deref()));
        let former = context.memory.former_locations(&uid, object.former_locations());
        let (inherited, owned) = match owned {
            Some(owned) if owned.is_inherited => (Some(owned.id), None),
            other => (None, other),
        };
        Ok(SyncRun {
            context,
            object,
            vendor,
            desired,
            policies,
            is_owned: owned.is_some(),
            external: match owned {
                // Before the object exists at its new address, the marker names the one at the former address.
                Some(owned) if owned.external.is_none() && former.iter().any(|f| f.id == owned.id) => None,
                Some(owned) => Some(owned.external.unwrap_or_else(|| external_at(vendor, &owned.id))),
                None => observed(),
            },
            former,
            inherited_id: inherited,
            owner_keys,
            create_record: context.memory.create_record(&uid, CreateRecord::of(object)),
            handled_request: handled.and_then(|handled| handled.reconcile_requested_at),
            uid,
            max_snapshot_age: match context.options.prefers_lists {
                true => Duration::MAX,
                false => max_snapshot_age(interval),
            },
        })
    }

    async fn execute(mut self) -> Result<SyncResult, SyncError> {
        let same_vendor = Box::pin(self.begin_move()).await?;
        let found = Box::pin(self.observe()).await?;
        let (client, own) = (&self.vendor.client, self.vendor.installation.as_deref());
        self.context.report_other_installations(ObjectKey::of(&*self.vendor.connection), client, own);
        let key_ring = match self.has_hashes_to_check(found.as_ref()) {
            true => Some(self.key_ring().await?),
            false => None,
        };
        let action = self.decide(found, key_ring.as_deref(), false)?;
        let (context, object) = (self.context, self.object);
        let result = Box::pin(self.apply(action)).await?;
        // Only now, because a failed attempt is repeated and would report it again.
        if let Some(former) = same_vendor {
            orphans::report_same_vendor(context, object, &former, &result.external).await;
        }
        Ok(result)
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
        let own = self.vendor.installation.as_deref();
        let may_differ = adopts || self.policies.observes_only();
        let found = found.map(|found| check_found::<K>(self.context, own, found, may_differ)).transpose()?;
        let to_take = found.as_ref().filter(|found| adopts || found.is_inherited);
        let other_owner = to_take.and_then(|found| self.find_other_owner(&found.id));
        let facts = DecisionFacts {
            what: K::WHAT,
            uid: &self.uid,
            expected_id: self.external.as_ref().map(|external| external.id.as_str()),
            is_owned: self.is_owned,
            // A status that was copied from another object says nothing about this one.
            is_in_status: self.is_owned && self.object.external().is_some(),
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

    /// Returns the name of another custom resource that owns the external object with this id.
    pub fn find_other_owner(&self, id: &str) -> Option<String> {
        find_other_owner(self.context, self.object, id, self.owner_keys.as_deref())
    }

    /// Returns the marker of this external object if the custom resource has none, or one that was made with an older key.
    pub fn missing_marker(&self, id: &str) -> Option<OwnershipMarker> {
        let key_ring = self.owner_keys.as_deref()?;
        let owner = MarkerOwner::of(K::KIND, self.object);
        let is_current = |marker: &OwnershipMarker| {
            marker.names(K::KIND, id)
                && marker.is_newest(key_ring)
                && marker.verify(Some(key_ring), &owner) == MarkerProof::Owner
        };
        let marker = OwnershipMarker::of(self.object).filter(is_current);
        if marker.is_some() { None } else { OwnershipMarker::new(key_ring, &owner, id) }
    }

    pub async fn key_ring(&self) -> Result<Arc<KeyRing>, ClusterError> {
        self.context.key_ring().await
    }
}
