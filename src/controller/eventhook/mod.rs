//! EventHook: dereferences its Secrets and Connection, and builds the hook that Kong should have.

mod config;
mod imported;
mod relay_settings;
mod sources;

use std::sync::Arc;
use std::time::Duration;

use super::context::Context;
use super::error::SyncError;
use super::reconcile::{self, DesiredObject, Preview, PreviewKeys, Synced, VendorAccess, shared_members};
use super::status;
use crate::admin::kong::{KongClient, KongHook};
use crate::admin::{AdminAccess, ExternalClient};
use crate::api::{AppliedSettings, ConnectionSpec, DeliverBy, EventHook};
use crate::cluster::{ObjectStore, View};
use crate::core::conditions::{ConditionMessage, ObjectReadiness};
use crate::core::hook::{self, CompiledHook};
use crate::core::id::kong_id;
use crate::core::keys::KeyRing;
use crate::core::time::Millis;
use config::HookSecrets;

pub use imported::find_differences;

/// Requeue delay of a hook without a Connection, which has no external object to compare.
const WITHOUT_CONNECTION_REQUEUE: Duration = Duration::from_secs(3600);

impl Synced for EventHook {
    type Client = KongClient;
    const WHAT: &'static str = "hook at Kong";
    const VENDOR: &'static str = "Kong";

    shared_members!();

    fn is_vendor(connection: &ConnectionSpec) -> bool {
        connection.kong.is_some()
    }

    fn client(access: &AdminAccess) -> Option<KongClient> {
        Some(KongClient::new(access.kong()?.clone()))
    }

    fn store(view: &View) -> &ObjectStore<EventHook> {
        &view.hooks
    }

    fn derived_id(uid: &str) -> Option<String> {
        Some(kong_id(uid))
    }
}

/// Reconciles an EventHook.
pub async fn reconcile(object: Arc<EventHook>, context: Arc<Context>) -> Result<Duration, SyncError> {
    if object.metadata.deletion_timestamp.is_some() {
        return reconcile::clean_up(&*object, &context).await;
    }
    if object.policies().suspend {
        return reconcile::report_suspended(&*object, &context).await;
    }
    let hook = hook::validate(&object)?;
    let secrets = config::read_secrets(&hook, &context).await?;
    let Some(name) = &hook.connection else { return reconcile_without_connection(&object, &context).await };
    let vendor = reconcile::vendor_access::<EventHook>(&context, &object, name).await?;
    let key_ring = match hook.deliver_by {
        DeliverBy::Worker => Some(context.key_ring().await?),
        DeliverBy::Gateway => None,
    };
    let settings = relay_settings::desired_settings(&object, &hook, key_ring.as_deref())?;
    let desired = desired_hook(&object, &hook, &secrets, &vendor, &settings, key_ring.as_deref(), &context)?;
    let result = reconcile::sync(&context, &*object, &vendor, &desired).await?;

    let mut status = object.status.clone().unwrap_or_default();
    if !object.policies().observes_only() {
        let overlap = context.options.relay_overlap;
        let applied = relay_settings::next_applied(object.status.as_ref(), settings, overlap, Millis::now());
        status.applied = Some(Box::new(applied));
    }
    let version = vendor.connection.status.as_ref().and_then(|s| s.version.as_deref());
    let check = context.sources.check(&vendor.client, version, &hook.source, hook.event.as_deref()).await;
    sources::set_condition(&mut status.conditions, &check, object.metadata.generation);
    let ready = ConditionMessage::new("Synced", ready_message(&hook, version));
    reconcile::finish(&context, &*object, &vendor, &desired, result, status, ready).await
}

/// Previews a sync of an EventHook.
pub async fn preview(object: &EventHook, context: &Context) -> Result<Preview, SyncError> {
    let hook = hook::validate(object)?;
    let secrets = config::read_secrets(&hook, context).await?;
    let Some(name) = &hook.connection else {
        return Ok(Preview::unchanged("without connectionRef no vendor is configured"));
    };
    let vendor = reconcile::vendor_access::<EventHook>(context, object, name).await?;
    let keys = match hook.deliver_by {
        DeliverBy::Worker => Some(PreviewKeys::load(context).await?),
        DeliverBy::Gateway => None,
    };
    let key_ring = keys.as_ref().map(|keys| &*keys.key_ring);
    let settings = relay_settings::desired_settings(object, &hook, key_ring)?;
    let desired = desired_hook(object, &hook, &secrets, &vendor, &settings, key_ring, context)?;
    reconcile::preview(context, object, &vendor, &desired, keys.as_ref()).await
}

/// Reconciles a hook that only the worker serves. It has no external object and so needs no finalizer.
async fn reconcile_without_connection(object: &EventHook, context: &Context) -> Result<Duration, SyncError> {
    let readiness = ObjectReadiness::Ready(ConditionMessage::new(
        "Valid",
        "the worker delivers the events that are published to it",
    ));
    status::write(context, object, object.status.clone().unwrap_or_default(), &readiness, None).await?;
    reconcile::remember_synced(object, context);
    Ok(WITHOUT_CONNECTION_REQUEUE)
}

/// Returns the hook that Kong should have. Makes no calls.
fn desired_hook(
    object: &EventHook,
    hook: &CompiledHook,
    secrets: &HookSecrets,
    vendor: &VendorAccess<KongClient>,
    settings: &AppliedSettings,
    key_ring: Option<&KeyRing>,
    context: &Context,
) -> Result<DesiredObject<KongHook>, SyncError> {
    let kong = vendor.connection.spec.kong.as_ref();
    let (config, secret_paths) = match (key_ring, &settings.key_id) {
        (Some(key_ring), Some(key)) => {
            let base = match &vendor.connection.spec.ingest_url {
                Some(text) => hook::parse_url(&text.0).map_err(|_| SyncError::IngestUrlMissing)?,
                None => context.options.ingest_url.clone().ok_or(SyncError::IngestUrlMissing)?,
            };
            let installation = vendor.installation.as_deref();
            let rotation = settings.rotation.as_deref();
            config::relay_config(object, hook, base, key_ring, key, rotation, installation)?
        }
        _ => config::gateway_config(hook, secrets, kong.and_then(|k| k.gateway_handlers.as_deref()))?,
    };
    let (snooze, on_change) = config::kong_gates(hook);
    let body = KongHook {
        source: hook.source.to_string(),
        event: hook.event.as_deref().map(ToOwned::to_owned),
        handler: config::handler_name(hook).to_owned(),
        snooze,
        on_change,
        config,
    };
    let object = body.to_value();
    let mut desired = DesiredObject::new(body, object, &secret_paths, None);
    if hook.deliver_by == DeliverBy::Worker {
        desired.relay_url = KongClient::receiver_url(&desired.readable).map(ToOwned::to_owned);
    }
    Ok(desired)
}

/// Returns the message of the Ready condition of a hook in sync. `version` is the gateway's.
fn ready_message(hook: &CompiledHook, version: Option<&str>) -> String {
    match hook.deliver_by {
        DeliverBy::Worker => "Kong relays events to the worker, which delivers them".into(),
        DeliverBy::Gateway => match hook.handler.signature().and(version).map(signature_hash) {
            Some(algorithm) => {
                format!("Kong has the hook and delivers its events directly, signed with HMAC-{algorithm}")
            }
            None => "Kong has the hook and delivers its events directly".into(),
        },
    }
}

/// Returns the hash algorithm with which a gateway of this version signs.
fn signature_hash(version: &str) -> &'static str {
    let mut numbers = version.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    if version >= (3, 14) { "SHA256" } else { "SHA1" }
}
