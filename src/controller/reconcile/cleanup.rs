//! Cleanup of a deleted object: deletes the external object that provably belongs to it, then removes the finalizer. Relies
//! on the ownership marker, the status, the create record and the derived id, and not on the spec, which may no longer be
//! valid.

use std::time::Duration;

use kube::ResourceExt;

use super::claim::{OwnedObject, find_other_owner, find_owned, ownership_key_ring};
use super::kind::Synced;
use super::orphans::{report_given_up_address, report_left_at_former_address, report_orphan};
use super::recorded::{Candidate, find_candidates};
use crate::admin::{AdminAccess, AdminError, ExternalClient};
use crate::api::{ConfiguredAddress, Connection, DeletionPolicy, External, FINALIZER, FormerLocation};
use crate::cluster::{ClusterError, ObjectKey, ReferenceError};
use crate::controller::access::{access, access_at};
use crate::controller::context::Context;
use crate::controller::error::SyncError;
use crate::controller::finalizer;
use crate::controller::installation::find_other_installation;
use crate::controller::state::{
    CreateRecord, MarkerOwner, MarkerProof, OWNED_OBJECT, OwnershipMarker, is_same_id,
};
use crate::core::keys::KeyRing;
use crate::core::time::Millis;

/// Requeue delay of an object that has nothing left to clean up.
const DONE_REQUEUE: Duration = Duration::from_secs(600);

/// Deletes the external object of an object that is being deleted, then removes the finalizer.
pub async fn clean_up<K: Synced>(object: &K, context: &Context) -> Result<Duration, SyncError> {
    let uid = object.uid().unwrap_or_default();
    if !finalizer::is_present(object) {
        context.forget(&uid);
        return Ok(DONE_REQUEUE);
    }
    let others: Vec<&str> =
        object.finalizers().iter().map(String::as_str).filter(|f| *f != FINALIZER).collect();
    // Owners of other finalizers may still need the external object. The wait is bounded: two controllers that both
    // want to be the last would otherwise wait forever.
    if !others.is_empty() && time_since_deletion(object) < context.options.deadlines.credentials {
        return Err(SyncError::OtherFinalizers(others.join(", ")));
    }
    if let Err(error) = delete_external(object, context).await {
        if error.was_not_attempted() || !should_give_up(object, context, &error) {
            return Err(error);
        }
        report_give_up(object, context, &error).await;
    }
    finalizer::remove(context, object).await?;
    context.forget(&uid);
    Ok(DONE_REQUEUE)
}

/// Deletes the external object, unless the policies say that it stays. Reports one that stays.
pub async fn delete_external<K: Synced>(object: &K, context: &Context) -> Result<(), SyncError> {
    if object.policies().observes_only() {
        report_left(object, context, "managementPolicy: ObserveOnly").await;
        return Ok(());
    }
    if deletion_policy(object, context)? != DeletionPolicy::Delete {
        report_left(object, context, "deletionPolicy: Orphan").await;
        return Ok(());
    }
    match delete_known_objects(object, context).await {
        // No call of this API can succeed any more: waiting would not delete the object.
        Err(SyncError::Admin(error @ AdminError::EndOfLife(_))) => {
            report_left(object, context, &error.to_string()).await;
            Ok(())
        }
        other => other,
    }
}

/// Returns the deletion policy that applies: the object's own, otherwise the Connection's, otherwise `Delete`. Of a
/// Connection that no longer exists, that is the policy that it last had. Fails if the Connection's is unknown: the
/// default could delete an external object that should stay.
pub fn deletion_policy<K: Synced>(object: &K, context: &Context) -> Result<DeletionPolicy, SyncError> {
    if let Some(policy) = object.policies().deletion {
        return Ok(policy);
    }
    let namespace = object.namespace().unwrap_or_default();
    // Without a Connection there is no external object.
    let Some(name) = connection_name(object, None) else { return Ok(DeletionPolicy::Delete) };
    let policy = match context.view.connection(&namespace, &name).as_ref().map(|guarded| &guarded.0) {
        Some(Ok(connection)) => connection.spec.deletion_policy,
        Some(Err(invalid)) => invalid.deletion_policy().map_err(|_| SyncError::PolicyUnknown(name))?,
        // Its policy is known only if this process has read the Connection.
        None => {
            let last = context.last_policy(&ObjectKey::new(&namespace, &name));
            Some(last.ok_or(SyncError::ConnectionMissing(name))?)
        }
    };
    Ok(policy.unwrap_or(DeletionPolicy::Delete))
}

/// Deletes the external object at an address that the Connection no longer has, with credentials that were configured for
/// that address.
pub async fn delete_at_former_address<K: Synced>(
    context: &Context,
    object: &K,
    former: &FormerLocation,
) -> Result<(), SyncError> {
    let key_ring = ownership_key_ring(context, object).await?;
    // Another object may have adopted it there meanwhile.
    if find_other_owner(context, object, &former.id, key_ring.as_deref()).is_some() {
        return Ok(());
    }
    // A status can be copied to another object.
    if !is_proven_former(context, object, former, key_ring.as_deref()) {
        report_given_up_address(context, object, former, "there is no proof that it belongs to this object")
            .await;
        return Ok(());
    }
    let result = match access_to_external(object, context, Some(&former.external())).await {
        Ok(Some(access)) => delete_by_id(object, context, &access, &former.id).await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    result.map_err(|error| match error.was_not_attempted() {
        true => error,
        false => SyncError::OldAddress {
            what: K::WHAT,
            id: former.id.clone(),
            endpoint: former.endpoint.clone(),
            error: Box::new(error),
        },
    })
}

/// True if the object provably owned the external object at a former location.
fn is_proven_former<K: Synced>(
    context: &Context,
    object: &K,
    former: &FormerLocation,
    key_ring: Option<&KeyRing>,
) -> bool {
    let owner = MarkerOwner::of(K::KIND, object);
    let is_proof = |marker: OwnershipMarker| {
        marker.names(K::KIND, &former.id) && marker.verify(key_ring, &owner) == MarkerProof::Owner
    };
    K::derived_id(&owner.uid).is_some_and(|derived| is_same_id(K::KIND, &derived, &former.id))
        || context.memory.wrote(&owner.uid, &former.id)
        || OwnershipMarker::of(object).is_some_and(is_proof)
        || former.proof.as_deref().and_then(OwnershipMarker::parse).is_some_and(is_proof)
}

/// Deletes every external object that provably belongs to this custom resource.
async fn delete_known_objects<K: Synced>(object: &K, context: &Context) -> Result<(), SyncError> {
    let current = Box::pin(delete_current_object(object, context)).await;
    // Attempt the former locations too: each has its own address and may answer although the current one does not.
    let former = Box::pin(delete_former_objects(object, context)).await;
    current.and(former)
}

/// Deletes the external object at every former location, and where an interrupted create may have left it.
async fn delete_former_objects<K: Synced>(object: &K, context: &Context) -> Result<(), SyncError> {
    let uid = object.uid().unwrap_or_default();
    let external = context.memory.external(&uid, object.external());
    let mut remaining = context.memory.former_locations(&uid, object.former_locations());
    let mut places = remaining.clone();
    if external.is_none() && remaining.is_empty() && object.policies().adopt.is_none() {
        places.extend(interrupted_creates(object, context));
    }
    let mut result = Ok(());
    for former in places {
        match delete_at_former_address(context, object, &former).await {
            Ok(()) => remaining.retain(|place| *place != former),
            Err(error) => result = result.and(Err(error)),
        }
    }
    context.memory.set_former_locations(&uid, remaining);
    result
}

/// Returns the former addresses of the Connection at which a create may have been interrupted before the status named its
/// location.
fn interrupted_creates<K: Synced>(object: &K, context: &Context) -> Vec<FormerLocation> {
    let (namespace, uid) = (object.namespace().unwrap_or_default(), object.uid().unwrap_or_default());
    let Some((name, id)) = connection_name(object, None).zip(K::derived_id(&uid)) else { return Vec::new() };
    let Some(guarded) = context.view.connection(&namespace, &name) else { return Vec::new() };
    let Ok(connection) = &guarded.0 else { return Vec::new() };
    let workspace = connection.spec.kong.as_ref().and_then(|kong| kong.workspace.clone());
    let workspace = workspace.filter(|workspace| workspace != "default");
    let at = External { id, connection: name, endpoint: String::new(), workspace };
    locations_since_creation(object, connection, &at)
}

/// Returns the locations that an external object may have had since the custom resource exists: `at`, with every address
/// of the Connection in that time, the last one included.
pub fn locations_since_creation<K: Synced>(
    object: &K,
    connection: &Connection,
    at: &External,
) -> Vec<FormerLocation> {
    let created = object.meta().creation_timestamp.as_ref().map(|time| Millis(time.0.as_millisecond()));
    let existed = |address: &&ConfiguredAddress| {
        let replaced_at = address.replaced_at.as_deref().and_then(Millis::parse);
        replaced_at.zip(created).is_none_or(|(at, created)| created <= at)
    };
    let all = connection.status.as_ref().map(|status| status.addresses.as_slice()).unwrap_or_default();
    let since = Millis::now().rfc3339();
    let locations = all.iter().filter(existed).map(|address| {
        let external = External { endpoint: address.endpoint.clone(), ..at.clone() };
        FormerLocation::new(external, since.clone())
    });
    locations.collect()
}

/// Deletes the external object at its current location, and the object that a create record describes.
async fn delete_current_object<K: Synced>(object: &K, context: &Context) -> Result<(), SyncError> {
    let uid = object.uid().unwrap_or_default();
    let key_ring = ownership_key_ring(context, object).await?;
    let owned = find_owned(context, object, key_ring.as_deref()).filter(|owned| !owned.is_inherited);
    let has_record = context.memory.create_record(&uid, CreateRecord::of(object)).is_some();
    if owned.is_some() || has_record || created_id(object).is_some() {
        delete_proven_objects(object, context, owned.as_ref()).await?;
    }
    // Only now, because a failed attempt is repeated and would report it again.
    if owned.is_none() {
        report_unproven(object, context, key_ring.as_deref()).await;
    }
    Ok(())
}

/// Deletes the external object that the custom resource owns, and those that an unfinished create of its may have left.
async fn delete_proven_objects<K: Synced>(
    object: &K,
    context: &Context,
    owned: Option<&OwnedObject>,
) -> Result<(), SyncError> {
    let uid = object.uid().unwrap_or_default();
    let external = owned.and_then(|owned| owned.external.clone());
    let Some(access) = access_to_external(object, context, external.as_ref()).await? else { return Ok(()) };
    if owned.is_some() && K::client(&access).is_none() {
        // Releasing the object now would leave the external object at the other vendor without a report.
        return Err(wrong_vendor(object));
    }
    context.backoff.may_call(&uid)?;
    // Of an object that is being moved, the marker may still name the id at the former address.
    let former = context.memory.former_locations(&uid, object.former_locations());
    let is_here = |owned: &&OwnedObject| owned.external.is_some() || former.iter().all(|f| f.id != owned.id);
    let mut ids: Vec<String> = owned.into_iter().filter(is_here).map(|owned| owned.id.clone()).collect();
    // The object may have been created although the status was never written: find it by the derived id or the create
    // record.
    if external.is_none() {
        ids.extend(created_id(object));
    }
    ids.dedup();
    for id in ids {
        delete_by_id(object, context, &access, &id).await?;
    }
    // After a delete by the status, because the create may be the second half of a recreation.
    if let Some((access, id)) = find_recorded(object, context, &access).await? {
        delete_by_id(object, context, &access, &id).await?;
    }
    Ok(())
}

/// Reports an external object that the object names without a proof of ownership, and that therefore stays. Reports nothing
/// if it belongs to another custom resource: the object is a copy and never owned it.
async fn report_unproven<K: Synced>(object: &K, context: &Context, key_ring: Option<&KeyRing>) {
    let marked = OwnershipMarker::of(object).map(|marker| marker.id().to_owned());
    let in_status = object.external().map(|external| external.id.clone());
    let adopted = object.policies().adopt.map(|adopt| adopt.id.clone());
    let Some(id) = in_status.or(marked).or(adopted) else { return };
    if find_other_owner(context, object, &id, key_ring).is_some() {
        return;
    }
    let place = object.external().map(|e| format!(" at {}", e.endpoint)).unwrap_or_default();
    let message = format!(
        "no proof that the {} {id} belongs to this object ({OWNED_OBJECT} is missing, or was copied): it may remain{place}",
        K::WHAT
    );
    report_orphan(context, object, message).await;
}

/// Returns the id under which a create whose result is unknown may have created the external object. An object with `adopt`
/// creates none under the id that is derived from its uid.
fn created_id<K: Synced>(object: &K) -> Option<String> {
    K::derived_id(&object.uid().unwrap_or_default()).filter(|_| object.policies().adopt.is_none())
}

/// Returns the id of the external object that the create record describes, and the access to the address of the create;
/// None if there is no such object. `current` is the access for a record without an address. Fails with `NotVisibleYet`
/// during the grace period.
pub async fn find_recorded<K: Synced>(
    object: &K,
    context: &Context,
    current: &AdminAccess,
) -> Result<Option<(AdminAccess, String)>, SyncError> {
    let uid = object.uid().unwrap_or_default();
    let Some(record) = context.memory.create_record(&uid, CreateRecord::of(object)) else { return Ok(None) };
    let connection = connection_name(object, None).unwrap_or_default();
    let access = match record.endpoint.clone().filter(|endpoint| *endpoint != current.endpoint()) {
        Some(endpoint) => {
            let (workspace, connection) = (record.workspace.clone(), connection.clone());
            let at = External { id: String::new(), connection, endpoint, workspace };
            let Some(access) = access_to_external(object, context, Some(&at)).await? else { return Ok(None) };
            access
        }
        None => current.clone(),
    };
    let client = K::client(&access).ok_or_else(|| wrong_vendor::<K>(object))?;
    let key_ring = context.key_ring().await?;
    for Candidate { id, is_match, .. } in
        find_candidates::<K>(context, &client, &uid, &record, &key_ring).await?
    {
        if is_match && find_other_owner(context, object, &id, Some(&*key_ring)).is_none() {
            return Ok(Some((access, id)));
        }
    }
    // The vendor may not show a new object immediately.
    let (absent, grace) = (context.memory.record_absence(&uid), context.options.deadlines.creation);
    if absent < grace { Err(SyncError::NotVisibleYet(grace.saturating_sub(absent))) } else { Ok(None) }
}

/// Deletes an external object, unless another installation configured it last. Reports one that stays.
async fn delete_by_id<K: Synced>(
    object: &K,
    context: &Context,
    access: &AdminAccess,
    id: &str,
) -> Result<(), SyncError> {
    let Some(client) = K::client(access) else { return Ok(()) };
    if let Some(other) = find_other_installation::<K>(context, &client, id).await? {
        let (what, endpoint) = (K::WHAT, access.endpoint());
        let message =
            format!("installation {other} configured it last: the {what} {id} remains at {endpoint}");
        report_orphan(context, object, message).await;
        return Ok(());
    }
    context.snapshots.track_write(client.list_scope(), id, client.delete(id)).await?;
    if K::Client::CONFIRMS_DELETES && client.observe(id).await?.is_some() {
        context.snapshots.mark_unknown(client.list_scope(), id);
        return Err(SyncError::StillVisible { what: K::WHAT, id: id.to_owned() });
    }
    context.snapshots.mark_deleted(client.list_scope(), id);
    Ok(())
}

fn wrong_vendor<K: Synced>(object: &K) -> SyncError {
    let connection = connection_name(object, object.external()).unwrap_or_default();
    SyncError::WrongVendor { connection, vendor: K::VENDOR }
}

/// Returns the name of the Connection under which the external object was created, otherwise of the Connection in the
/// spec.
fn connection_name<K: Synced>(object: &K, external: Option<&External>) -> Option<String> {
    let of_external = external.or_else(|| object.external()).map(|e| e.connection.clone());
    of_external.or_else(|| object.policies().connection.map(ToOwned::to_owned))
}

/// Returns the access to an external object at its recorded address. At the Connection's own address, that is the
/// Connection's access, or the last one that worked if there is none. A former address receives only credentials that were
/// configured for it. None if the object names no Connection: nothing was created.
async fn access_to_external<K: Synced>(
    object: &K,
    context: &Context,
    external: Option<&External>,
) -> Result<Option<AdminAccess>, SyncError> {
    let Some(name) = connection_name(object, external) else { return Ok(None) };
    let namespace = object.namespace().unwrap_or_default();
    let key = ObjectKey::new(&namespace, &name);
    let connection = context.view.connection(&namespace, &name);
    let current = match connection.as_ref().map(|c| &c.0) {
        Some(Ok(connection)) => access(connection, context).await.map(|access| (connection, access)),
        Some(Err(_)) => Err(SyncError::ConnectionInvalid(name.clone())),
        None => Err(SyncError::ConnectionMissing(name.clone())),
    };
    let Some(external) = external else {
        return match (current, context.last_access(&key, None)) {
            (Ok((_, current)), _) => Ok(Some(current)),
            (Err(_), Some(last)) => Ok(Some(last)),
            (Err(error), None) => Err(error),
        };
    };
    let in_workspace = |access: AdminAccess| access.in_workspace(external.workspace.as_deref());
    if let Ok((_, access)) = &current
        && access.endpoint() == external.endpoint
    {
        return Ok(Some(in_workspace(access.clone())));
    }
    if let Some(last) = context.last_access(&key, Some(&external.endpoint)) {
        return Ok(Some(in_workspace(last)));
    }
    let (connection, access) = current?;
    let access = access_at(connection, access, &external.endpoint, context).await?;
    Ok(Some(in_workspace(access)))
}

/// Returns the time since the deletion was requested.
fn time_since_deletion<K: Synced>(object: &K) -> Duration {
    let since = object.meta().deletion_timestamp.as_ref().map(|t| Millis(t.0.as_millisecond()));
    since.map(|since| Millis::now().since(since)).unwrap_or_default()
}

/// True if the finalizer may be removed although the external object was not deleted. Otherwise a deleted namespace
/// could hang forever. Without usable credentials the credentials deadline applies; if the vendor does not answer or
/// rejects the call, the vendor deadline. Both count from the deletion request. A process also has to fail for a tenth
/// of the deadline itself, because the vendor may have been down together with the previous process.
fn should_give_up<K: Synced>(object: &K, context: &Context, error: &SyncError) -> bool {
    let deadlines = &context.options.deadlines;
    let deadline = match error {
        error if error.was_not_attempted() => return false,
        // A lost key ring does not come back by itself, and a namespace must not wait for it forever.
        SyncError::Cluster(ClusterError::KeyRing(_)) => deadlines.credentials,
        // Another error of the cluster says nothing about the vendor or its credentials.
        SyncError::Cluster(_) | SyncError::Secret(ReferenceError::Cluster(_)) => return false,
        // The credentials exist, and the Connection only has to permit their use, as after an upgrade.
        SyncError::InsecureHttp(_) => deadlines.vendor,
        SyncError::Admin(_) | SyncError::NotVisibleYet(_) | SyncError::StillVisible { .. } => {
            deadlines.vendor
        }
        _ => deadlines.credentials,
    };
    let failing = context.memory.record_failure(&object.uid().unwrap_or_default());
    time_since_deletion(object) >= deadline && failing >= deadline / 10
}

/// Returns the id of the external object as far as it is known; otherwise the name of the custom resource.
fn best_known_id<K: Synced>(object: &K, context: &Context) -> String {
    let uid = object.uid().unwrap_or_default();
    let external = context.memory.external(&uid, object.external());
    external.map(|e| e.id).or_else(|| K::derived_id(&uid)).unwrap_or_else(|| object.name_any())
}

/// Reports that the external object stays at the vendor because of a policy or of an error.
async fn report_left<K: Synced>(object: &K, context: &Context, why: &str) {
    let (what, id) = (K::WHAT, best_known_id(object, context));
    let external = context.memory.external(&object.uid().unwrap_or_default(), object.external());
    let place = external.map(|e| format!(" at {}", e.endpoint)).unwrap_or_default();
    report_orphan(context, object, format!("{why}: the {what} {id} may remain{place}")).await;
    let uid = object.uid().unwrap_or_default();
    for former in context.memory.former_locations(&uid, object.former_locations()) {
        report_left_at_former_address(context, object, &former, why).await;
    }
}

async fn report_give_up<K: Synced>(object: &K, context: &Context, error: &SyncError) {
    let uid = object.uid().unwrap_or_default();
    for former in context.memory.former_locations(&uid, object.former_locations()) {
        report_given_up_address(context, object, &former, &error.to_string()).await;
    }
    let id = match error {
        // Only the object at a former address is left.
        SyncError::OldAddress { id, .. } => id.clone(),
        _ => best_known_id(object, context),
    };
    let message = format!(
        "{error}; gave up after {} s; the {} {id} may still exist: delete it there",
        time_since_deletion(object).as_secs(),
        K::WHAT,
    );
    report_orphan(context, object, message).await;
}
