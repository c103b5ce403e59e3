//! EventHook: what Kong has to be told for it, and whether what it refers to is there.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, json};
use sha2::{Digest, Sha256};
use url::Url;
use uuid::Uuid;

use super::backoff::resync;
use super::context::Context;
use super::problem::Problem;
use super::reconcile::{Done, Wanted};
use super::{cleanup, connection, reconcile, status};
use crate::admin::kong::{KongAccess, KongClient, KongHook, endpoint};
use crate::api::{
    Applied, AppliedTerms, Connection, DeliverBy, EventHook, EventHookStatus, External, HandlerKind,
    PreviousTerms,
};
use crate::cluster::{ClusterError, Key, secret_text, tls_options};
use crate::core::conditions::{Note, Standing};
use crate::core::hook::{self, Handler, Hook, InvalidSpec, Target, Webhook};
use crate::core::keys::KeyRing;
use crate::core::relay;
use crate::core::sign::secret_lines;
use crate::core::time::Millis;

/// The space of ids that are made from uids: a create that was cut off finds its own object again.
const KONG_IDS: Uuid = Uuid::from_u128(0x6861_6f6b_7374_7265_616d_2e64_6576_0002);
/// So long what Kong had queued before it was told something new is still taken.
const PREVIOUS_FOR: Duration = Duration::from_secs(600);
/// A hook without a vendor's object has nothing to compare; it is looked at now and then all the same.
const UNHURRIED: Duration = Duration::from_secs(3600);

/// What the hook refers to, read.
struct Found {
    secrets: Secrets,
    vendor: Option<Vendor>,
}

/// The gateway a hook is for.
struct Vendor {
    connection: Arc<Connection>,
    access: KongAccess,
    /// Present where Kong relays to the worker.
    ring: Option<Arc<KeyRing>>,
}

/// The values of the hook's Secrets. No `Debug`.
struct Secrets {
    url: Option<Url>,
    signing: Option<SecretString>,
    headers: Vec<(String, SecretString)>,
}

/// The pipeline.
pub async fn reconcile(object: Arc<EventHook>, context: Arc<Context>) -> Result<Duration, Problem> {
    if object.metadata.deletion_timestamp.is_some() {
        return cleanup::cleanup(&object, &context).await;
    }
    let hook = hook::validate(&object)?;
    if object.spec.suspend == Some(true) {
        return suspended(&object, &context).await;
    }
    let found = dereference(&object, &hook, &context).await?;
    let Some(vendor) = &found.vendor else { return in_the_worker_alone(&object, &context).await };

    let terms = terms(&object, &hook, vendor.ring.as_deref())?;
    let wanted = wanted(&object, &hook, &found, vendor, &terms, &context)?;
    let done = reconcile::apply(&context, &*object, &wanted).await?;
    context.last_access.lock().insert(connection_key(&hook), vendor.access.clone());

    tell(&object, &context, &done, &wanted.compared).await;
    let status = EventHookStatus {
        external: Some(External {
            id: wanted.id,
            connection: vendor.connection.name_any(),
            endpoint: endpoint(&vendor.access),
            workspace: vendor.access.workspace.clone(),
        }),
        applied: Some(applied(object.status.as_ref(), terms, Millis::now())),
        ..object.status.clone().unwrap_or_default()
    };
    let synced = Standing::Ready(Note::new("Synced", said(&hook)));
    status::write(&context, &*object, status, &synced, None).await?;
    let interval = connection::resync_interval(&vendor.connection, &context)?;
    Ok(resync(interval, &object.uid().unwrap_or_default()))
}

async fn suspended(object: &EventHook, context: &Context) -> Result<Duration, Problem> {
    let standing = Standing::Waiting(Note::new("Suspended", "reconciling is suspended; deliveries go on"));
    status::write(context, object, object.status.clone().unwrap_or_default(), &standing, None).await?;
    Ok(UNHURRIED)
}

/// Without a Connection there is nothing to sync and nothing to clean up, so no finalizer.
async fn in_the_worker_alone(object: &EventHook, context: &Context) -> Result<Duration, Problem> {
    let standing = Standing::Ready(Note::new("Valid", "the worker delivers what is published to it"));
    status::write(context, object, object.status.clone().unwrap_or_default(), &standing, None).await?;
    Ok(UNHURRIED)
}

/// Reads all that the hook refers to. The only step that reads the cluster.
async fn dereference(object: &EventHook, hook: &Hook, context: &Context) -> Result<Found, Problem> {
    let secrets = secrets(hook, context).await?;
    let Some(name) = &hook.connection else { return Ok(Found { secrets, vendor: None }) };
    let guarded = context
        .view
        .connection(&hook.namespace, name)
        .ok_or_else(|| Problem::ConnectionMissing(name.clone()))?;
    let connection = guarded.0.as_ref().map_err(|_| Problem::ConnectionInvalid(name.clone()))?;
    if connection.spec.kong.is_none() {
        return Err(Problem::WrongVendor(name.clone()));
    }
    let access = connection::kong_access(connection, context).await?;
    let ring = match hook.deliver_by {
        DeliverBy::Worker => Some(key_ring(object, context).await?),
        DeliverBy::Gateway => None,
    };
    Ok(Found { secrets, vendor: Some(Vendor { connection: Arc::new(connection.clone()), access, ring }) })
}

/// The key ring. It is made when the first hook needs it, but not while some object was already told a secret of a ring
/// that is gone: a new one would refuse every relay without a word.
async fn key_ring(object: &EventHook, context: &Context) -> Result<Arc<KeyRing>, ClusterError> {
    let told = |hook: &EventHook| {
        let applied = hook.status.as_ref().and_then(|s| s.applied.as_ref());
        applied.is_some_and(|a| a.terms.key_id.is_some())
    };
    let depends = told(object) || context.view.hooks.find(|h| h.0.as_ref().is_ok_and(told)).is_some();
    context.cluster.key_ring(!depends).await
}

async fn secrets(hook: &Hook, context: &Context) -> Result<Secrets, Problem> {
    let handler = &hook.handler;
    let cluster = &*context.cluster;
    let url = match handler.target() {
        None => None,
        Some(Target::Url(address)) => Some(address.url.clone()),
        Some(Target::Secret(reference)) => {
            let text = secret_text(cluster, &hook.namespace, reference).await?;
            let url = hook::parse_url(text.expose_secret()).map_err(|problem| {
                Problem::SecretUnusable(format!(
                    "key {} of Secret {} {problem}",
                    reference.key, reference.name
                ))
            })?;
            Some(url)
        }
    };
    let signing = match handler.signature() {
        Some(signature) => Some(secret_text(cluster, &hook.namespace, &signature.secret_ref).await?),
        None => None,
    };
    if let Some(tls) = handler.tls() {
        let options = tls_options(cluster, &hook.namespace, tls).await?;
        context.http.with(&options).map_err(|e| Problem::SecretUnusable(e.to_string()))?;
    }
    let mut headers = Vec::new();
    for header in handler.headers_from() {
        headers.push((header.name.clone(), secret_text(cluster, &hook.namespace, &header.secret_ref).await?));
    }
    Ok(Secrets { url, signing, headers })
}

/// What Kong is told, apart from secrets. A hook keeps its key until its rotation text changes: a new key in the ring
/// would otherwise tell every gateway a new secret at once.
fn terms(object: &EventHook, hook: &Hook, ring: Option<&KeyRing>) -> Result<AppliedTerms, Problem> {
    let rotation = object.spec.rotation.clone();
    let before = object.status.as_ref().and_then(|s| s.applied.as_ref()).map(|a| &a.terms);
    let kept = before.filter(|b| b.rotation == rotation).and_then(|b| b.key_id.clone());
    let key_id = match ring {
        None => None,
        Some(ring) => {
            let kept = kept.filter(|key| relay::secret(ring, key, object, rotation.as_deref()).is_some());
            let newest = || ring.newest().map(ToOwned::to_owned);
            Some(kept.or_else(newest).ok_or_else(|| ClusterError::KeyRing("it is empty".into()))?)
        }
    };
    Ok(AppliedTerms {
        deliver_by: hook.deliver_by,
        source: hook.source.clone(),
        event: hook.event.clone(),
        rotation: rotation.filter(|_| ring.is_some()),
        key_id,
    })
}

/// The hook that Kong should have. Pure.
fn wanted(
    object: &EventHook,
    hook: &Hook,
    found: &Found,
    vendor: &Vendor,
    terms: &AppliedTerms,
    context: &Context,
) -> Result<Wanted<KongClient>, Problem> {
    let config = match (&vendor.ring, &terms.key_id) {
        (Some(ring), Some(key)) => {
            let secret = relay::secret(ring, key, object, terms.rotation.as_deref())
                .ok_or_else(|| ClusterError::KeyRing(format!("it has no key {key}")))?;
            json!({"url": relay_url(hook, vendor, context)?.as_str(), "headers": {}, "ssl_verify": true,
                   "secret": secret.expose_secret()})
        }
        _ => gateway_config(hook, found, vendor)?,
    };
    let (snooze, on_change) = gateway_gates(hook);
    let desired = KongHook {
        source: hook.source.clone(),
        event: hook.event.clone(),
        handler: "webhook".to_owned(),
        snooze,
        on_change,
        config,
    };
    let uid = object.uid().unwrap_or_default();
    Ok(Wanted {
        client: KongClient::new(vendor.access.clone()),
        id: external_id(&uid),
        compared: desired.to_value(),
        desired,
    })
}

/// The id under which Kong has the hook of this uid.
pub fn external_id(uid: &str) -> String {
    Uuid::new_v5(&KONG_IDS, uid.as_bytes()).to_string()
}

fn relay_url(hook: &Hook, vendor: &Vendor, context: &Context) -> Result<Url, Problem> {
    let mut url = match &vendor.connection.spec.ingest_url {
        Some(text) => hook::parse_url(&text.0).map_err(|_| Problem::IngestUrlMissing)?,
        None => context.options.ingest_url.clone().ok_or(Problem::IngestUrlMissing)?,
    };
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["v1", "namespaces", &hook.namespace, "relays", &hook.name]);
    }
    Ok(url)
}

/// The config where Kong itself delivers.
fn gateway_config(hook: &Hook, found: &Found, vendor: &Vendor) -> Result<serde_json::Value, Problem> {
    let kind = hook.handler.kind();
    let kong = vendor.connection.spec.kong.as_ref();
    let allowed = kong.and_then(|k| k.gateway_handlers.clone());
    if !allowed.unwrap_or_else(|| vec![HandlerKind::Webhook, HandlerKind::Log]).contains(&kind) {
        return Err(Problem::HandlerNotAllowed(kind.into()));
    }
    let Handler::Webhook(Webhook { headers, signature, tls, .. }) = &hook.handler else {
        return Err(InvalidSpec::NotImplemented(vec!["deliverBy: Gateway with this handler"]).into());
    };
    let mut map: Map<String, serde_json::Value> =
        headers.iter().map(|(n, v)| (n.clone(), json!(v))).collect();
    map.extend(found.secrets.headers.iter().map(|(n, v)| (n.clone(), json!(v.expose_secret()))));
    let secret = found.secrets.signing.as_ref().map(|text| secret_lines(text.expose_secret()));
    if let (Some([_, _, ..]), Some(signature)) = (secret.as_deref(), signature) {
        return Err(Problem::SecretUnusable(format!(
            "Secret {} holds several secrets, and Kong takes one: leave one line",
            signature.secret_ref.name
        )));
    }
    let secret = secret.and_then(|lines| lines.first().map(ToString::to_string));
    let url = found.secrets.url.as_ref().map(Url::as_str);
    let verify = tls.as_ref().is_none_or(|tls| tls.insecure_skip_verify != Some(true));
    Ok(json!({"url": url, "headers": map, "secret": secret, "ssl_verify": verify}))
}

/// `snooze` in seconds and `on_change`, where Kong itself delivers. A relay carries none: the worker gates, once, and Kong
/// must tell it of every event.
fn gateway_gates(hook: &Hook) -> (Option<i64>, Option<bool>) {
    match hook.deliver_by {
        DeliverBy::Worker => (None, None),
        DeliverBy::Gateway => (
            hook.gates.snooze.map(|snooze| i64::try_from(snooze.period.as_secs()).unwrap_or(i64::MAX)),
            hook.gates.on_change.is_some().then_some(true),
        ),
    }
}

/// What Kong was told, with what it was told before for as long as that is still taken.
fn applied(status: Option<&EventHookStatus>, terms: AppliedTerms, now: Millis) -> Applied {
    let before = status.and_then(|s| s.applied.clone());
    let previous = match before {
        Some(before) if before.terms != terms => {
            Some(PreviousTerms { terms: before.terms, until: (now + PREVIOUS_FOR).rfc3339() })
        }
        Some(before) => before.previous.filter(|p| Millis::parse(&p.until).is_some_and(|until| until > now)),
        None => None,
    };
    Applied { terms, previous }
}

fn said(hook: &Hook) -> &'static str {
    match hook.deliver_by {
        DeliverBy::Worker => "Kong relays to the worker, which delivers",
        DeliverBy::Gateway => "Kong has the hook and delivers by itself",
    }
}

fn connection_key(hook: &Hook) -> Key {
    Key::new(&hook.namespace, hook.connection.as_deref().unwrap_or_default())
}

/// A change that nobody asked for is told: somebody else writes there too. What the spec, a Secret or the Connection
/// asks for anew is no such change.
async fn tell(object: &EventHook, context: &Context, done: &Done, wanted: &serde_json::Value) {
    let hash: [u8; 32] = Sha256::digest(wanted.to_string()).into();
    let before = context.told.lock().insert(object.uid().unwrap_or_default(), hash);
    let status = object.status.as_ref();
    let current = status.is_some_and(|s| s.observed_generation == object.metadata.generation);
    let ready = status.is_some_and(|s| s.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    if !current || !ready || before.is_some_and(|before| before != hash) {
        return;
    }
    // After a restart nobody knows what was told before: another flag may be the reason.
    let by = if before.is_some() { " by somebody else" } else { "" };
    let message = match done {
        Done::Updated(fields) => {
            format!("the hook at Kong was changed{by}; repaired: {}", fields.join(", "))
        }
        Done::Created => format!("the hook at Kong was deleted{by}; created again"),
        Done::Nothing => return,
    };
    status::tell(context, object, true, &Note::new("DriftRepaired", message)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(event: &str) -> AppliedTerms {
        AppliedTerms {
            deliver_by: DeliverBy::Worker,
            source: "crud".into(),
            event: Some(event.into()),
            rotation: None,
            key_id: Some("k".into()),
        }
    }

    #[test]
    fn what_kong_was_told_before_is_remembered_for_a_while() {
        let now = Millis(1_700_000_000_000);
        let first = applied(None, terms("a"), now);
        assert!(first.previous.is_none());
        let status = |applied| EventHookStatus { applied: Some(applied), ..EventHookStatus::default() };
        let second = applied(Some(&status(first)), terms("b"), now);
        assert_eq!(second.previous.as_ref().unwrap().terms, terms("a"));
        let third = applied(Some(&status(second.clone())), terms("b"), now + Duration::from_secs(599));
        assert_eq!(third, second, "unchanged until its time is over");
        let fourth = applied(Some(&status(third)), terms("b"), now + Duration::from_secs(601));
        assert!(fourth.previous.is_none());
    }

    #[test]
    fn gates_go_to_kong_where_kong_delivers() {
        let told = |deliver_by: &str, gates: serde_json::Value| {
            let mut spec = json!({"source": "crud", "connectionRef": {"name": "k"}, "deliverBy": deliver_by,
                "handler": {"webhook": {"url": "https://example.com"}}});
            spec.as_object_mut().unwrap().extend(gates.as_object().unwrap().clone());
            let object: EventHook = serde_json::from_value(json!({"apiVersion": "hookstream.dev/v1alpha1",
                "kind": "EventHook", "metadata": {"name": "h"}, "spec": spec}))
            .unwrap();
            gateway_gates(&hook::validate(&object).unwrap())
        };
        let both = json!({"snooze": {"period": "1m30s"}, "onChange": {}});
        assert_eq!(told("Gateway", both.clone()), (Some(90), Some(true)));
        assert_eq!(told("Gateway", json!({})), (None, None));
        assert_eq!(told("Worker", both), (None, None));
    }

    #[test]
    fn the_id_is_a_uuid_made_from_the_uid() {
        assert_eq!(external_id("u"), external_id("u"));
        assert_ne!(external_id("u"), external_id("v"));
        assert!(Uuid::parse_str(&external_id("u")).is_ok());
    }
}
