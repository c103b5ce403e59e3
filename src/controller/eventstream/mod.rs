//! EventStream: what Auth0 has to be told for it. `recovery`: what is done when Auth0 disabled it. `types`: whether Auth0
//! is known to emit what it subscribes to.

mod recovery;
mod types;

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::reflector::Store;
use secrecy::SecretString;
use serde_json::{Value, json};
use url::Url;

pub use recovery::Failures;

use super::context::Context;
use super::problem::Problem;
use super::reconcile::{self, Preview, Ring, Synced, Vendor, Wanted, shared_members};
use crate::admin::Access;
use crate::admin::auth0::{DestinationBody, StreamBody, StreamClient, WebhookAuthorization};
use crate::api::{AdoptMode, ConnectionSpec, EventStream, StreamTerms};
use crate::cluster::{ClusterError, Guarded, View, secret_text};
use crate::core::conditions::Note;
use crate::core::hook::parse_url;
use crate::core::keys::KeyRing;
use crate::core::stream::{self, Authorization, Destination, Stream};
use crate::core::stream_auth;
use crate::core::time::Millis;

impl Synced for EventStream {
    type Client = StreamClient;
    const WHAT: &'static str = "event stream at Auth0";
    const VENDOR: &'static str = "Auth0";

    shared_members!();

    fn is_vendor(connection: &ConnectionSpec) -> bool {
        connection.auth0.is_some()
    }

    fn client(access: &Access) -> Option<StreamClient> {
        Some(StreamClient::new(access.auth0()?.clone()))
    }

    fn all(view: &View) -> &Store<Guarded<EventStream>> {
        &view.streams
    }
}

/// The worker as Auth0 is told of it: where it is, and the token that it takes.
struct Worker {
    endpoint: Url,
    token: SecretString,
}

/// The pipeline.
pub async fn reconcile(object: Arc<EventStream>, context: Arc<Context>) -> Result<Duration, Problem> {
    if object.metadata.deletion_timestamp.is_some() {
        return Box::pin(reconcile::cleanup(&*object, &context)).await;
    }
    if object.policies().suspend {
        return Ok(reconcile::suspended());
    }
    let stream = stream::validate(&object)?;
    let vendor = reconcile::vendor::<EventStream>(&context, &object, &stream.connection).await?;
    let ring = match stream.destination {
        Destination::Worker(_) => Some(context.ring().await?),
        _ => None,
    };
    let terms = stream_auth::wanted_terms(&object, stream.destination.kind(), ring.as_deref())
        .ok_or_else(|| ClusterError::KeyRing("it is empty".into()))?;
    let worker = match &ring {
        Some(ring) => Some(worker(&object, &stream, &vendor, &terms, ring, &context)?),
        None => None,
    };
    let wanted = wanted(&object, &stream, worker.as_ref(), &context).await?;
    let mut outcome = Box::pin(reconcile::sync(&context, &*object, &vendor, &wanted)).await?;

    let mut status = object.status.clone().unwrap_or_default();
    let source = outcome.item.pointer("/destination/configuration/aws_partner_event_source");
    status.partner_event_source = source.and_then(Value::as_str).map(ToOwned::to_owned);
    types::report(&mut status.conditions, &stream.subscriptions, object.metadata.generation);
    let look = recovery::Look {
        context: &context,
        object: &object,
        stream: &stream,
        client: &vendor.client,
        desired: &wanted.desired,
        worker: worker.as_ref(),
        id: &outcome.external.id,
        shown: recovery::shown(&outcome.item),
    };
    let settled = Box::pin(look.settle(&mut status)).await?;
    if !object.policies().observes_only() {
        let before = object.status.as_ref().and_then(|s| s.applied.as_ref());
        status.applied = Some(stream_auth::applied(before, terms, stream.enabled, Millis::now()));
    }
    outcome.differs = outcome.differs.or(settled.stalled);
    outcome.pending = settled.waiting;
    let ready = Note::new("Synced", said(&stream));
    let next = reconcile::finish(&context, &*object, &vendor, &wanted, outcome, status, ready).await?;
    Ok(settled.next.map_or(next, |soon| soon.min(next)))
}

/// What a sync would change.
pub async fn preview(object: &EventStream, context: &Context) -> Result<Preview, Problem> {
    let stream = stream::validate(object)?;
    let vendor = reconcile::vendor::<EventStream>(context, object, &stream.connection).await?;
    let ring = match stream.destination {
        Destination::Worker(_) => Some(Ring::of(context).await?),
        _ => None,
    };
    let keys = ring.as_ref().map(|ring| &*ring.keys);
    let terms = stream_auth::wanted_terms(object, stream.destination.kind(), keys)
        .ok_or_else(|| ClusterError::KeyRing("it is empty".into()))?;
    let worker = match keys {
        Some(keys) => Some(worker(object, &stream, &vendor, &terms, keys, context)?),
        None => None,
    };
    let mut wanted = wanted(object, &stream, worker.as_ref(), context).await?;
    // Whether it is enabled is `recovery`'s to write, after the sync.
    show_status(&mut wanted.compared, stream.enabled);
    reconcile::preview(context, object, &vendor, &wanted, ring.as_ref()).await
}

fn show_status(whole: &mut Value, enabled: bool) {
    if let Some(members) = whole.as_object_mut() {
        members.insert("status".into(), json!(if enabled { "enabled" } else { "disabled" }));
    }
}

/// Where Auth0 finds the worker. Never by a Service's name, nor by the address that Kong uses: Auth0 is on the internet.
fn worker(
    object: &EventStream,
    stream: &Stream,
    vendor: &Vendor<StreamClient>,
    terms: &StreamTerms,
    ring: &KeyRing,
    context: &Context,
) -> Result<Worker, Problem> {
    let mut endpoint = match &vendor.connection.spec.ingest_url {
        Some(text) => parse_url(&text.0).map_err(|_| Problem::PublicIngestUrlMissing)?,
        None => context.options.public_ingest_url.clone().ok_or(Problem::PublicIngestUrlMissing)?,
    };
    if endpoint.scheme() != "https" && !stream::is_loopback(&endpoint) {
        return Err(Problem::PublicIngestUrlUnusable(endpoint));
    }
    if let Ok(mut path) = endpoint.path_segments_mut() {
        path.pop_if_empty().extend(["v1", "namespaces", &stream.namespace, "streams", &stream.object]);
    }
    let key = terms.key_id.as_deref().unwrap_or_default();
    let token = stream_auth::token(ring, key, object, terms.rotation.as_deref())
        .ok_or_else(|| ClusterError::KeyRing(format!("it has no key {key}")))?;
    Ok(Worker { endpoint, token })
}

/// The stream that Auth0 should have.
async fn wanted(
    object: &EventStream,
    stream: &Stream,
    worker: Option<&Worker>,
    context: &Context,
) -> Result<Wanted<StreamBody>, Problem> {
    let destination = match (&stream.destination, worker) {
        (Destination::Webhook { endpoint, authorization }, _) => {
            let secret = secret_text(&*context.cluster, &stream.namespace, authorization.secret()).await?;
            DestinationBody::Webhook {
                endpoint: endpoint.clone(),
                authorization: shown_by(authorization, secret),
            }
        }
        (Destination::EventBridge { account_id, region }, _) => {
            DestinationBody::EventBridge { account_id: account_id.clone(), region: region.clone() }
        }
        (Destination::Action { action_id }, _) => DestinationBody::Action { action_id: action_id.clone() },
        (Destination::Worker(_), Some(worker)) => DestinationBody::Webhook {
            endpoint: worker.endpoint.to_string(),
            authorization: WebhookAuthorization::Bearer { token: worker.token.clone() },
        },
        (Destination::Worker(_), None) => return Err(Problem::PublicIngestUrlMissing),
    };
    let desired = StreamBody {
        name: stream.name.clone(),
        subscriptions: stream.subscriptions.clone(),
        enabled: stream.enabled,
        destination,
    };
    let mut whole = desired.whole();
    // Whoever adopts by Match wants to see every difference before anything is theirs.
    let matches = object.spec.adopt.as_ref().is_some_and(|a| a.mode == AdoptMode::Match);
    if matches && object.external().is_none() {
        show_status(&mut whole, stream.enabled);
    }
    let path = desired.secret_path();
    let paths: Vec<&str> = path.as_deref().into_iter().collect();
    Ok(Wanted::new(desired, whole, &paths, Some(stream.name.clone())))
}

fn shown_by(authorization: &Authorization, secret: SecretString) -> WebhookAuthorization {
    match authorization {
        Authorization::Basic { username, .. } => {
            WebhookAuthorization::Basic { username: username.clone(), password: secret }
        }
        Authorization::Bearer { .. } => WebhookAuthorization::Bearer { token: secret },
        Authorization::Header { name, .. } => {
            WebhookAuthorization::CustomHeader { key: name.clone(), value: secret }
        }
    }
}

fn said(stream: &Stream) -> &'static str {
    match (&stream.destination, stream.enabled) {
        (_, false) => "Auth0 has the stream, and it is disabled as the spec says",
        (Destination::Worker(_), true) => "Auth0 sends its events to the worker",
        (_, true) => "Auth0 has the stream and sends its events",
    }
}
