//! The status stage: writes the result of a sync, and an Event if another client changed the external object.

use std::time::Duration;

use kube::ResourceExt;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::kind::{DesiredObject, Effect, Synced, VendorAccess};
use super::run::SyncResult;
use super::suspend::remember_synced;
use crate::admin::ExternalClient;
use crate::cluster::{Metadata, ObjectKey, WriteTarget};
use crate::controller::access::resync_interval;
use crate::controller::backoff::resync_delay;
use crate::controller::context::Context;
use crate::controller::error::SyncError;
use crate::controller::state::{OWNED_OBJECT, OwnershipMarker, PENDING_CREATE};
use crate::controller::status;
use crate::core::conditions::{ConditionMessage, ObjectReadiness, is_ready};
use crate::core::time::Millis;

/// Writes the status and returns when the next resync is due. `status` has the kind's own members; this fills in the
/// shared ones. `ready` is the message of the Ready condition if the external object is as desired.
pub async fn finish<K: Synced>(
    context: &Context,
    object: &K,
    vendor: &VendorAccess<K::Client>,
    desired: &DesiredObject<<K::Client as ExternalClient>::Desired>,
    result: SyncResult,
    mut status: K::Status,
    ready: ConditionMessage,
) -> Result<Duration, SyncError> {
    let uid = object.uid().unwrap_or_default();
    let connection = &vendor.connection;
    context.remember_access(ObjectKey::of(&**connection), &vendor.access);
    context.report_new_capabilities(ObjectKey::of(&**connection), &vendor.access);
    report_drift::<K>(context, object, &result.effect, &desired.with_secrets()).await;
    if result.effect == Effect::TakenOver {
        let (what, id) = (K::WHAT, &result.external.id);
        let message = format!("took over the {what} {id} of an earlier object with this name");
        status::publish_event(context, object, false, &ConditionMessage::new("TakenOver", message)).await;
    }
    K::set_synced(&mut status, Some(result.external.clone()), result.secret_hashes);
    K::set_locations(&mut status, Some(result.external), result.former_locations);
    let readiness = match (result.difference, result.pending, &result.former_error) {
        (Some(message), ..) => {
            context.metrics.record_drift_found(K::KIND.into());
            ObjectReadiness::Stalled(message)
        }
        (None, Some(message), _) => ObjectReadiness::Reconciling(message),
        (None, None, Some((error, _))) => error.readiness(),
        (None, None, None) => ObjectReadiness::Ready(ready),
    };
    let former_error = result.former_error.as_ref().and_then(|(error, _)| error.admin());
    let last_error = former_error.map(|error| error.last_error(Millis::now()));
    status::write(context, object, status, &readiness, last_error).await?;
    remove_create_record(context, object, result.marker).await?;
    if matches!(readiness, ObjectReadiness::Ready(_)) {
        remember_synced(object, context);
    }
    context.memory.record_success(&uid);
    let next = resync_delay(resync_interval(connection, context)?, &uid);
    Ok(result.former_error.map_or(next, |(_, retry_after)| retry_after.min(next)))
}

/// Removes the create record and writes the marker, if one is given: the status names the external object now, or nothing
/// was created.
pub(super) async fn remove_create_record<K: Synced>(
    context: &Context,
    object: &K,
    marker: Option<OwnershipMarker>,
) -> Result<(), SyncError> {
    let uid = object.uid().unwrap_or_default();
    let is_annotated = object.annotations().contains_key(PENDING_CREATE);
    if marker.is_none() && !is_annotated && context.memory.create_record(&uid, None).is_none() {
        return Ok(());
    }
    let marker = marker.map(|marker| (OWNED_OBJECT, Some(marker.to_text())));
    let annotations = [(PENDING_CREATE, None)].into_iter().chain(marker).collect();
    // Write without a resource version: only the controller writes these annotations, so a concurrent change of the
    // object is no conflict.
    let target = WriteTarget { resource_version: String::new(), ..WriteTarget::of(K::KIND, object) };
    context.cluster.write_metadata(&target, Metadata { finalizers: None, annotations }).await?;
    context.memory.set_create_record(&uid, None);
    Ok(())
}

/// Publishes an Event about repaired drift. Drift means that the sync had to write although the object was ready and
/// its spec, Secrets and Connection did not change.
async fn report_drift<K: Synced>(context: &Context, object: &K, effect: &Effect, desired: &Value) {
    let hash: [u8; 32] = Sha256::digest(desired.to_string()).into();
    let before = context.memory.replace_desired_hash(&object.uid().unwrap_or_default(), hash);
    let mut status = object.status().cloned().unwrap_or_default();
    let shared = K::shared(&mut status);
    let is_current = *shared.observed_generation == object.meta().generation;
    if !is_current || !is_ready(shared.conditions) || before.is_some_and(|before| before != hash) {
        return;
    }
    // After a restart, a changed flag may be the reason instead: this process does not know the previous desired
    // object.
    let by = if before.is_some() { " by another client" } else { "" };
    let message = match effect {
        Effect::Updated(fields) => {
            format!("the {} was changed{by}; repaired: {}", K::WHAT, fields.join(", "))
        }
        Effect::Created => format!("the {} was deleted{by}; created again", K::WHAT),
        Effect::Adopted | Effect::TakenOver | Effect::None => return,
    };
    context.metrics.record_drift_found(K::KIND.into());
    context.metrics.record_drift_repaired(K::KIND.into());
    status::publish_event(context, object, true, &ConditionMessage::new("DriftRepaired", message)).await;
}
