//! EventHook: what Kong has to be told for it, and whether what it refers to is there.

mod config;
mod sources;
mod terms;

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::reflector::Store;
use uuid::Uuid;

pub use sources::Sources;

use super::context::Context;
use super::problem::Problem;
use super::reconcile::{self, Preview, Ring, Synced, Vendor, Wanted, shared_members};
use super::{connection, status};
use crate::admin::Access;
use crate::admin::kong::{KongClient, KongHook};
use crate::api::{AppliedTerms, ConnectionSpec, DeliverBy, EventHook};
use crate::cluster::{Guarded, View};
use crate::core::conditions::{Note, Standing};
use crate::core::hook::{self, Hook};
use crate::core::keys::KeyRing;
use crate::core::time::Millis;
use config::References;

/// The space of ids that are made from uids: a create that was cut off finds its own object again.
const KONG_IDS: Uuid = Uuid::from_u128(0x6861_6f6b_7374_7265_616d_2e64_6576_0002);
/// A hook without a vendor's object has nothing to compare; it is looked at now and then all the same.
const UNHURRIED: Duration = Duration::from_secs(3600);

impl Synced for EventHook {
    type Client = KongClient;
    const WHAT: &'static str = "hook at Kong";
    const VENDOR: &'static str = "Kong";

    shared_members!();

    fn is_vendor(connection: &ConnectionSpec) -> bool {
        connection.kong.is_some()
    }

    fn client(access: &Access) -> Option<KongClient> {
        Some(KongClient::new(access.kong()?.clone()))
    }

    fn all(view: &View) -> &Store<Guarded<EventHook>> {
        &view.hooks
    }

    fn own_id(uid: &str) -> Option<String> {
        Some(external_id(uid))
    }
}

/// The id under which Kong has the hook of this uid.
fn external_id(uid: &str) -> String {
    Uuid::new_v5(&KONG_IDS, uid.as_bytes()).to_string()
}

/// The pipeline.
pub async fn reconcile(object: Arc<EventHook>, context: Arc<Context>) -> Result<Duration, Problem> {
    if object.metadata.deletion_timestamp.is_some() {
        return reconcile::cleanup(&*object, &context).await;
    }
    if object.policies().suspend {
        return Ok(reconcile::suspended());
    }
    let hook = hook::validate(&object)?;
    let references = config::read(&hook, &context).await?;
    let Some(name) = &hook.connection else { return in_the_worker_alone(&object, &context).await };
    let vendor = reconcile::vendor::<EventHook>(&context, &object, name).await?;
    let ring = match hook.deliver_by {
        DeliverBy::Worker => Some(context.ring().await?),
        DeliverBy::Gateway => None,
    };
    let terms = terms::terms(&object, &hook, ring.as_deref())?;
    let wanted = wanted(&object, &hook, &references, &vendor, &terms, ring.as_deref(), &context)?;
    let outcome = reconcile::sync(&context, &*object, &vendor, &wanted).await?;

    let mut status = object.status.clone().unwrap_or_default();
    if !object.policies().observes_only() {
        status.applied = Some(Box::new(terms::applied(object.status.as_ref(), terms, Millis::now())));
    }
    // Where nobody knows now, what was known stays.
    if let Some(known) = context.sources.check(&vendor, &hook).await {
        sources::report(&mut status.conditions, known, object.metadata.generation);
    }
    let ready = Note::new("Synced", said(&hook, &vendor));
    reconcile::finish(&context, &*object, &vendor, &wanted, outcome, status, ready).await
}

/// What a sync would change.
pub async fn preview(object: &EventHook, context: &Context) -> Result<Preview, Problem> {
    let hook = hook::validate(object)?;
    let references = config::read(&hook, context).await?;
    let Some(name) = &hook.connection else {
        return Ok(Preview::nothing("without connectionRef nothing is told to a vendor"));
    };
    let vendor = reconcile::vendor::<EventHook>(context, object, name).await?;
    let ring = match hook.deliver_by {
        DeliverBy::Worker => Some(Ring::of(context).await?),
        DeliverBy::Gateway => None,
    };
    let keys = ring.as_ref().map(|ring| &*ring.keys);
    let terms = terms::terms(object, &hook, keys)?;
    let wanted = wanted(object, &hook, &references, &vendor, &terms, keys, context)?;
    reconcile::preview(context, object, &vendor, &wanted, ring.as_ref()).await
}

/// Without a Connection there is nothing to sync and nothing to clean up, so no finalizer.
async fn in_the_worker_alone(object: &EventHook, context: &Context) -> Result<Duration, Problem> {
    let standing = Standing::Ready(Note::new("Valid", "the worker delivers what is published to it"));
    status::write(context, object, object.status.clone().unwrap_or_default(), &standing, None).await?;
    Ok(UNHURRIED)
}

/// The hook that Kong should have. Pure.
fn wanted(
    object: &EventHook,
    hook: &Hook,
    references: &References,
    vendor: &Vendor<KongClient>,
    terms: &AppliedTerms,
    ring: Option<&KeyRing>,
    context: &Context,
) -> Result<Wanted<KongHook>, Problem> {
    let kong = vendor.connection.spec.kong.as_ref();
    let (config, secrets) = match (ring, &terms.key_id) {
        (Some(ring), Some(key)) => {
            let base = match &vendor.connection.spec.ingest_url {
                Some(text) => hook::parse_url(&text.0).map_err(|_| Problem::IngestUrlMissing)?,
                None => context.options.ingest_url.clone().ok_or(Problem::IngestUrlMissing)?,
            };
            config::relay(object, hook, base, ring, key, terms.rotation.as_deref())?
        }
        _ => config::gateway(hook, references, kong.and_then(|k| k.gateway_handlers.as_deref()))?,
    };
    let (snooze, on_change) = config::gates(hook);
    let desired = KongHook {
        source: hook.source.clone(),
        event: hook.event.clone(),
        handler: config::handler_name(hook).to_owned(),
        snooze,
        on_change,
        config,
    };
    let compared = desired.to_value();
    Ok(Wanted::new(desired, compared, &secrets, None))
}

fn said(hook: &Hook, vendor: &Vendor<KongClient>) -> String {
    match hook.deliver_by {
        DeliverBy::Worker => "Kong relays to the worker, which delivers".into(),
        DeliverBy::Gateway => {
            let version = vendor.connection.status.as_ref().and_then(|s| s.version.as_deref());
            let signs = hook.handler.signature().and(version).map(connection::signs_with);
            match signs {
                Some(algorithm) => {
                    format!("Kong has the hook and delivers by itself, signed with HMAC-{algorithm}")
                }
                None => "Kong has the hook and delivers by itself".into(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_a_uuid_made_from_the_uid() {
        assert_eq!(external_id("u"), external_id("u"));
        assert_ne!(external_id("u"), external_id("v"));
        assert!(Uuid::parse_str(&external_id("u")).is_ok());
    }
}
