//! Moves an external object to another address of its Connection: the object is created at the new address first, and
//! only then deleted at the former one.
//!
//! Before the create, the status names the new location and lists the former one in `formerLocations`. With this record
//! a controller that continues the move knows that it created the object at the new address itself. Without it, an
//! object that exists at both addresses is one object, because both addresses lead to one gateway.

use std::time::Duration;

use kube::ResourceExt;

use super::cleanup::{self, deletion_policy};
use super::decide::{FormerAddress, decide_former_address};
use super::finish::remove_create_record;
use super::kind::{Synced, VendorAccess};
use super::orphans;
use super::run::{SyncResult, SyncRun};
use crate::admin::{AdminError, ExternalClient};
use crate::api::{DeletionPolicy, External, FormerLocation};
use crate::cluster::ClusterError;
use crate::controller::access::is_current_address;
use crate::controller::context::Context;
use crate::controller::error::SyncError;
use crate::controller::state::{MarkerOwner, OwnershipMarker, SnapshotEntry};
use crate::controller::{finalizer, status};
use crate::core::time::Millis;

/// Longest list of former locations in a status. The oldest location of a longer list is given up.
const MAX_FORMER: usize = 8;
/// Bounds of the delay between two attempts at a former address.
const MIN_RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(60);

/// How long an object waits for its Connection to be verified at a new address before it reports that.
const VERIFICATION_GRACE: Duration = Duration::from_secs(3);

fn now() -> String {
    Millis::now().rfc3339()
}

fn is_same_address(a: &External, b: &External) -> bool {
    (&a.endpoint, &a.workspace) == (&b.endpoint, &b.workspace)
}

fn is_same_location(a: &External, b: &External) -> bool {
    a.id == b.id && is_same_address(a, b)
}

impl<K: Synced> SyncRun<'_, K> {
    /// Compares the address in the status with the Connection's. If they differ, checks that the vendor's API answers at
    /// the new address, points `external` there, and returns the external object at the former address with its fate.
    pub async fn resolve_address(&mut self) -> Result<Option<(External, FormerAddress)>, SyncError> {
        let Some(former) = self.external.clone() else { return Ok(None) };
        let new = self.external_at(&former.id);
        if is_same_address(&former, &new) {
            return Ok(None);
        }
        let exists = self.exists_at_new_address(&former.id).await?;
        let deletion = deletion_policy(self.object, self.context)?;
        // The Connection has an earlier address again, where this object was created too: not the same vendor.
        let earlier = self.former.iter().find(|f| is_same_address(&f.external(), &new)).map(|f| f.id.clone());
        let fate = decide_former_address(exists && earlier.is_none(), deletion, &self.policies);
        // An id that the former vendor chose means nothing to another vendor. The id there is known before the create
        // only if it derives from the uid.
        let derived = || K::derived_id(&self.uid).filter(|_| self.vendor.client.may_accept_client_ids());
        self.external = match fate {
            FormerAddress::SameVendor => Some(new),
            _ => earlier.or_else(derived).map(|id| self.external_at(&id)),
        };
        Ok(Some((former, fate)))
    }

    /// Returns a location that the object leaves, with the proof that it owns the external object there. An id that is
    /// derived from the uid needs none.
    fn former_location(&self, external: External) -> FormerLocation {
        let owner = MarkerOwner::of(K::KIND, self.object);
        let key_ring = self.owner_keys.as_deref();
        let proof = key_ring.and_then(|key_ring| OwnershipMarker::new(key_ring, &owner, &external.id));
        let proof = proof.map(|marker| marker.to_text());
        FormerLocation { proof, ..FormerLocation::new(external, now()) }
    }

    /// Returns true if the new address has an object with this id. Fails unless the vendor's API answers there with a
    /// complete list: a 404 of a proxy, or of Kong's proxy port, is no proof that the object is missing.
    async fn exists_at_new_address(&self, id: &str) -> Result<bool, SyncError> {
        let client = &self.vendor.client;
        match self.context.snapshots.get(client, id, self.max_snapshot_age).await? {
            SnapshotEntry::Present(_) => Ok(true),
            SnapshotEntry::Absent => Ok(false),
            SnapshotEntry::Unknown => Ok(client.observe(id).await?.is_some()),
        }
    }

    /// Begins a move if the Connection has another address than the external object: records the former location, before
    /// anything is created at the new address. Returns the former location if it is the same vendor under another address.
    ///
    /// Fails with `Conflict` after the record, so that the next reconcile continues with the object as it is stored now:
    /// an error report of this one would write the older status.
    pub async fn begin_move(&mut self) -> Result<Option<External>, SyncError> {
        if let Some(endpoint) = self.create_elsewhere() {
            return Err(Box::pin(self.settle_create(&endpoint)).await);
        }
        let moved = match Box::pin(self.resolve_address()).await? {
            Some(_) if self.policies.observes_only() => return Ok(None),
            Some((former, FormerAddress::SameVendor)) => return Ok(Some(former)),
            Some((former, FormerAddress::Delete | FormerAddress::Orphan)) => {
                vec![self.former_location(former)]
            }
            None => self.interrupted_creates(),
        };
        if moved.is_empty() {
            return Ok(None);
        }
        self.check_verified()?;
        Err(self.record_move(moved).await)
    }

    /// Fails until the status of the Connection has the new address. Then a later move away from it finds the credentials
    /// that belong to it, also after a restart. The Connection usually follows within moments: wait for that silently.
    fn check_verified(&self) -> Result<(), SyncError> {
        if is_current_address(&self.vendor.connection, &self.vendor.access.endpoint()) {
            self.context.memory.record_former_success(&self.uid);
            return Ok(());
        }
        match self.context.memory.record_former_failure(&self.uid) < VERIFICATION_GRACE {
            true => Err(ClusterError::Conflict.into()),
            false => Err(SyncError::AddressNotVerified {
                what: K::WHAT,
                connection: self.vendor.connection.name_any(),
            }),
        }
    }

    /// Writes the location of the object and its former locations into the status. Returns the error that ends this
    /// reconcile: `Conflict` after the write.
    async fn record_move(&mut self, moved: Vec<FormerLocation>) -> SyncError {
        let (context, object) = (self.context, self.object);
        let current = self.external.clone().unwrap_or_else(|| self.external_at(""));
        let mut all = std::mem::take(&mut self.former);
        all.retain(|f| !is_same_location(&f.external(), &current));
        for former in moved {
            if !all.iter().any(|f| is_same_location(&f.external(), &former.external())) {
                all.push(former);
            }
        }
        while all.len() > MAX_FORMER {
            let oldest = all.remove(0);
            orphans::report_given_up_address(context, object, &oldest, "the Connection moved too often")
                .await;
        }
        let mut status = object.status().cloned().unwrap_or_default();
        K::set_locations(&mut status, self.external.clone(), all.clone());
        if let Err(error) = status::write_members(context, object, status).await {
            return error.into();
        }
        match &self.external {
            Some(external) => context.memory.set_external(&self.uid, external.clone()),
            None => context.memory.forget_external(&self.uid),
        }
        context.memory.set_former_locations(&self.uid, all);
        ClusterError::Conflict.into()
    }

    /// Returns the address of an interrupted create whose result is unknown, if the Connection has another address now.
    fn create_elsewhere(&self) -> Option<String> {
        let record = self.create_record.as_ref()?;
        let current = self.external_at("");
        let is_elsewhere =
            |endpoint: &&String| (*endpoint, &record.workspace) != (&current.endpoint, &current.workspace);
        record.endpoint.as_ref().filter(is_elsewhere).cloned()
    }

    /// Finds out what an interrupted create left at its address, and records it as a former location. Nothing is created
    /// at the new address before, because that needs a create record of its own. Returns the error that ends this
    /// reconcile.
    async fn settle_create(&mut self, endpoint: &str) -> SyncError {
        let (context, object) = (self.context, self.object);
        let moved = match cleanup::find_recorded(object, context, &self.vendor.access).await {
            Ok(found) => found.map(|(access, id)| {
                let workspace = access.workspace().map(ToOwned::to_owned);
                let at = External { endpoint: access.endpoint(), workspace, ..self.external_at(&id) };
                self.former_location(at)
            }),
            Err(error @ SyncError::NotVisibleYet(_)) => return error,
            Err(error) if error.was_not_attempted() => return error,
            Err(error) => {
                let waited = context.memory.record_former_failure(&self.uid);
                if waited < context.options.deadlines.credentials {
                    let (what, id, endpoint) = (K::WHAT, object.name_any(), endpoint.to_owned());
                    return SyncError::OldAddress { what, id, endpoint, error: Box::new(error) };
                }
                let former = FormerLocation {
                    id: object.name_any(),
                    endpoint: endpoint.to_owned(),
                    ..FormerLocation::default()
                };
                orphans::report_given_up_address(context, object, &former, &error.to_string()).await;
                None
            }
        };
        if let Some(moved) = moved
            && let error = self.record_move(vec![moved]).await
            && !matches!(error, SyncError::Cluster(ClusterError::Conflict))
        {
            return error;
        }
        context.memory.record_former_success(&self.uid);
        // The grace period of the next create is its own.
        context.memory.record_presence(&self.uid);
        match remove_create_record(context, object, None).await {
            Ok(()) => ClusterError::Conflict.into(),
            Err(error) => error,
        }
    }

    /// Returns the former addresses at which an interrupted create may have left the object: the object has the
    /// finalizer, its status names no location, and the Connection had that address since the object exists.
    fn interrupted_creates(&self) -> Vec<FormerLocation> {
        let is_interrupted = self.external.is_none()
            && self.former.is_empty()
            && self.policies.adopt.is_none()
            && finalizer::is_present(self.object);
        let Some(id) = K::derived_id(&self.uid).filter(|_| is_interrupted) else { return Vec::new() };
        let current = self.external_at(&id);
        let mut all = cleanup::locations_since_creation(self.object, &self.vendor.connection, &current);
        all.retain(|location| location.endpoint != current.endpoint);
        all
    }

    /// Deletes the object at its former locations, as far as the policies say so, after it exists at the new address. None if
    /// the deletion removed the object at the new address too: both addresses lead to one vendor, and the object has to be
    /// created again.
    pub async fn finish_move(
        context: &Context,
        object: &K,
        vendor: &VendorAccess<K::Client>,
        mut result: SyncResult,
    ) -> Result<Option<SyncResult>, SyncError> {
        let uid = object.uid().unwrap_or_default();
        let all = context.memory.former_locations(&uid, object.former_locations());
        if all.is_empty() {
            return Ok(Some(result));
        }
        let (mut remaining, mut may_be_gone) = (Vec::new(), false);
        for former in all {
            if is_same_location(&former.external(), &result.external) {
                continue;
            }
            match Box::pin(leave(context, object, &former)).await {
                Ok(()) => may_be_gone |= former.id == result.external.id,
                Err(error) if error.was_not_attempted() => return Err(error),
                Err(error) => {
                    remaining.push(former);
                    result.former_error = Some((error, Duration::ZERO));
                }
            }
        }
        context.memory.set_former_locations(&uid, remaining.clone());
        if may_be_gone && vendor.client.observe(&result.external.id).await?.is_none() {
            context.snapshots.mark_deleted(vendor.client.list_scope(), &result.external.id);
            return Ok(None);
        }
        match &mut result.former_error {
            None => context.memory.record_former_success(&uid),
            Some((error, retry_after)) => {
                let failing = context.memory.record_former_failure(&uid);
                *retry_after = (failing / 2).clamp(MIN_RETRY, MAX_RETRY).mul_f64(1.0 + fastrand::f64() / 4.0);
                tracing::warn!(name = object.name_any(), "{error}");
            }
        }
        result.former_locations = remaining;
        Ok(Some(result))
    }
}

/// Deletes the object at one former location, or reports that it stays there. Gives up after the credentials deadline: a
/// former address that no longer exists must not keep the object from being ready forever.
async fn leave<K: Synced>(context: &Context, object: &K, former: &FormerLocation) -> Result<(), SyncError> {
    let policy = match object.policies().observes_only() {
        true => Some("managementPolicy: ObserveOnly"),
        false => {
            (deletion_policy(object, context)? == DeletionPolicy::Orphan).then_some("deletionPolicy: Orphan")
        }
    };
    if let Some(policy) = policy {
        orphans::report_left_at_former_address(context, object, former, policy).await;
        return Ok(());
    }
    let Err(error) = cleanup::delete_at_former_address(context, object, former).await else { return Ok(()) };
    if error.was_not_attempted() {
        return Err(error);
    }
    let uid = object.uid().unwrap_or_default();
    let deadline = context.options.deadlines.credentials;
    let waited = Millis::parse(&former.since).map(|since| Millis::now().since(since)).unwrap_or_default();
    let has_ended = matches!(error.admin(), Some(AdminError::EndOfLife(_)));
    // The former address may have been down together with the previous process.
    let has_waited = waited >= deadline && context.memory.record_former_failure(&uid) >= deadline / 10;
    if has_ended || has_waited {
        orphans::report_given_up_address(context, object, former, &error.to_string()).await;
        return Ok(());
    }
    Err(error)
}
