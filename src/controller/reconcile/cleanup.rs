//! Cleanup of a deleted object: deletes its external object, then removes the finalizer. Relies on the status, the
//! create record and the derived id, and not on the spec, which may no longer be valid.

use std::time::Duration;

use kube::ResourceExt;

use super::claim::find_other_owner;
use super::kind::Synced;
use crate::admin::{AdminAccess, AdminError, ExternalClient};
use crate::api::{DeletionPolicy, External, FINALIZER};
use crate::cluster::{ClusterError, ObjectKey, ReferenceError};
use crate::controller::access::access;
use crate::controller::context::Context;
use crate::controller::error::SyncError;
use crate::controller::state::{CreateRecord, PENDING_CREATE, is_hash_of};
use crate::controller::{finalizer, status};
use crate::core::conditions::ConditionMessage;
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

/// Returns the deletion policy that applies: the object's own, otherwise the Connection's, otherwise `Delete`. Fails if
/// the Connection's cannot be read: the default could delete an external object that should stay.
pub fn deletion_policy<K: Synced>(object: &K, context: &Context) -> Result<DeletionPolicy, SyncError> {
    if let Some(policy) = object.policies().deletion {
        return Ok(policy);
    }
    let namespace = object.namespace().unwrap_or_default();
    let name = connection_name(object, None).unwrap_or_default();
    let policy = match context.view.connection(&namespace, &name).as_ref().map(|guarded| &guarded.0) {
        Some(Ok(connection)) => connection.spec.deletion_policy,
        Some(Err(invalid)) => invalid.deletion_policy().map_err(|_| SyncError::PolicyUnknown(name))?,
        None => None,
    };
    Ok(policy.unwrap_or(DeletionPolicy::Delete))
}

/// Deletes the external object at an address that the Connection no longer has. Gives up after the credentials
/// deadline: a former address that no longer exists must not block syncs at the new address forever.
pub async fn delete_at_former_address<K: Synced>(
    context: &Context,
    object: &K,
    former: &External,
) -> Result<(), SyncError> {
    let uid = object.uid().unwrap_or_default();
    let result = match access_to_external(object, context, Some(former)).await {
        Ok(Some(access)) => delete_by_id::<K>(context, &access, &former.id).await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    let Err(error) = result else {
        context.memory.record_success(&uid);
        return Ok(());
    };
    if error.was_not_attempted() {
        return Err(error);
    }
    let has_ended = matches!(error, SyncError::Admin(AdminError::EndOfLife(_)));
    if !has_ended && context.memory.record_failure(&uid) < context.options.deadlines.credentials {
        return Err(SyncError::OldAddress {
            what: K::WHAT,
            id: former.id.clone(),
            endpoint: former.endpoint.clone(),
            error: Box::new(error),
        });
    }
    context.memory.record_success(&uid);
    let (id, endpoint) = (&former.id, &former.endpoint);
    let message = format!("{error}; the {} {id} may still exist at {endpoint}: delete it there", K::WHAT);
    report_orphan(context, object, message).await;
    Ok(())
}

/// Reports an external object that `deletionPolicy: Orphan` leaves at an address that the Connection no longer has.
pub async fn report_left_at_former_address<K: Synced>(context: &Context, object: &K, former: &External) {
    let (id, endpoint) = (&former.id, &former.endpoint);
    let message = format!("deletionPolicy: Orphan: the {} {id} may remain at {endpoint}", K::WHAT);
    report_orphan(context, object, message).await;
}

/// Deletes every external object that this custom resource may have created.
async fn delete_known_objects<K: Synced>(object: &K, context: &Context) -> Result<(), SyncError> {
    let uid = object.uid().unwrap_or_default();
    let external = context.memory.external(&uid, object.external());
    let Some(access) = access_to_external(object, context, external.as_ref()).await? else { return Ok(()) };
    if external.is_some() && K::client(&access).is_none() {
        // Releasing the object now would leave the external object at the other vendor without a report.
        return Err(wrong_vendor(object));
    }
    context.backoff.may_call(&uid)?;
    let external_at = |id: String| External {
        id,
        connection: connection_name(object, external.as_ref()).unwrap_or_default(),
        endpoint: access.endpoint(),
        workspace: access.workspace().map(ToOwned::to_owned),
    };
    let mut ids: Vec<String> = match (&external, object.policies().adopt) {
        (Some(external), _) => vec![external.id.clone()],
        // The object was adopted, but the status was never written. Do not delete the external object of another owner.
        (None, Some(adopt)) => {
            let owner = find_other_owner(context, object, &external_at(adopt.id.clone()));
            if owner.is_some() { Vec::new() } else { vec![adopt.id.clone()] }
        }
        (None, None) => Vec::new(),
    };
    // The object may have been created although the status was never written: find it by the derived id or the create
    // record.
    if external.is_none() {
        ids.extend(K::derived_id(&uid));
    }
    ids.extend(find_recorded_id(object, context, &access, &external_at).await?);
    ids.dedup();
    for id in ids {
        delete_by_id::<K>(context, &access, &id).await?;
    }
    // The Connection has another address now. The object may exist there too, although the status does not say so yet.
    if let (Some(external), Some(derived)) = (&external, K::derived_id(&uid))
        && let Ok(Some(current)) = access_to_external(object, context, None).await
        && current.endpoint() != external.endpoint
    {
        delete_by_id::<K>(context, &current, &derived).await?;
    }
    Ok(())
}

/// Returns the id of the external object that the create record describes; None if there is none. Fails with
/// `NotVisibleYet` during the grace period.
async fn find_recorded_id<K: Synced>(
    object: &K,
    context: &Context,
    access: &AdminAccess,
    external_at: &impl Fn(String) -> External,
) -> Result<Option<String>, SyncError> {
    let uid = object.uid().unwrap_or_default();
    let annotated = object.annotations().get(PENDING_CREATE).and_then(|text| CreateRecord::parse(text));
    let Some(record) = context.memory.create_record(&uid, annotated) else { return Ok(None) };
    let client = K::client(access).ok_or_else(|| wrong_vendor::<K>(object))?;
    let key_ring = context.key_ring().await?;
    for item in context.snapshots.list(&client).await?.items {
        let Some(id) = K::Client::id(&item).map(ToOwned::to_owned) else { continue };
        let item = match K::Client::LIST_IS_COMPLETE {
            true => Some((*item).clone()),
            false => client.observe(&id).await?,
        };
        let is_ours = item.is_some_and(|item| {
            record.may_precede(K::Client::created_at(&item))
                && is_hash_of(
                    &key_ring,
                    &record.hash,
                    &uid,
                    PENDING_CREATE,
                    &K::Client::comparable_fields(&item),
                )
        });
        if is_ours && find_other_owner(context, object, &external_at(id.clone())).is_none() {
            return Ok(Some(id));
        }
    }
    // The vendor may not show a new object immediately.
    let (absent, grace) = (context.memory.record_absence(&uid), context.options.deadlines.creation);
    if absent < grace { Err(SyncError::NotVisibleYet(grace.saturating_sub(absent))) } else { Ok(None) }
}

async fn delete_by_id<K: Synced>(context: &Context, access: &AdminAccess, id: &str) -> Result<(), SyncError> {
    let Some(client) = K::client(access) else { return Ok(()) };
    context.snapshots.track_write(client.list_scope(), id, client.delete(id)).await?;
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

/// Returns the access to an external object at its recorded address. At a former address it prefers the credentials
/// that last worked there, otherwise the current ones; without current ones it uses the last that worked. None if the
/// object names no Connection: nothing was created.
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
        Some(Ok(connection)) => access(connection, context).await,
        Some(Err(_)) => Err(SyncError::ConnectionInvalid(name.clone())),
        None => Err(SyncError::ConnectionMissing(name.clone())),
    };
    let at_recorded_address = |access: AdminAccess| match external {
        Some(external) => access.at(&external.endpoint, external.workspace.as_deref()),
        None => access,
    };
    let has_moved = |access: &AdminAccess| external.is_some_and(|e| e.endpoint != access.endpoint());
    let last = context.last_access(&key, external.map(|e| e.endpoint.as_str()));
    match (current, last) {
        (Ok(current), Some(last)) if has_moved(&current) => Ok(Some(at_recorded_address(last))),
        (Ok(current), _) => Ok(Some(at_recorded_address(current))),
        (Err(_), Some(last)) => Ok(Some(at_recorded_address(last))),
        (Err(error), None) => Err(error),
    }
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
        SyncError::Admin(_) | SyncError::NotVisibleYet(_) => deadlines.vendor,
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
}

async fn report_give_up<K: Synced>(object: &K, context: &Context, error: &SyncError) {
    let id = best_known_id(object, context);
    let message = format!(
        "{error}; gave up after {} s; the {} {id} may still exist: delete it there",
        time_since_deletion(object).as_secs(),
        K::WHAT,
    );
    report_orphan(context, object, message).await;
}

/// Reports an external object that may be orphaned. Logs it too, because the API server accepts no Events in a
/// namespace that is being deleted.
async fn report_orphan<K: Synced>(context: &Context, object: &K, message: String) {
    if !context.cluster.publishes_to_log() {
        tracing::warn!(namespace = object.namespace(), name = object.name_any(), "{message}");
    }
    status::publish_event(context, object, true, &ConditionMessage::new("Orphaned", message)).await;
}
