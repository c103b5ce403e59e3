//! EventStream: dereferences its Secret and Connection, and builds the event stream that Auth0 should
//! have. `recovery` handles a stream that Auth0 disabled; `types` checks the event types that it subscribes to.

mod recovery;
mod types;
mod worker_endpoint;

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::{Value, json};

use super::context::Context;
use super::error::SyncError;
use super::reconcile::{self, DesiredObject, Preview, PreviewKeys, Synced, shared_members};
use crate::admin::AdminAccess;
use crate::admin::auth0::{DestinationBody, StreamBody, StreamClient, WebhookAuthorization};
use crate::api::{AdoptMode, ConnectionSpec, EventStream};
use crate::cluster::{ClusterError, ObjectStore, View, read_secret_text};
use crate::core::conditions::ConditionMessage;
use crate::core::stream::{self, Authorization, Destination, Stream};
use crate::core::stream_auth;
use crate::core::time::Millis;
use recovery::{RecoveryRun, server_status};
use worker_endpoint::WorkerEndpoint;

impl Synced for EventStream {
    type Client = StreamClient;
    const WHAT: &'static str = "event stream at Auth0";
    const VENDOR: &'static str = "Auth0";

    shared_members!();

    fn is_vendor(connection: &ConnectionSpec) -> bool {
        connection.auth0.is_some()
    }

    fn client(access: &AdminAccess) -> Option<StreamClient> {
        Some(StreamClient::new(access.auth0()?.clone()))
    }

    fn store(view: &View) -> &ObjectStore<EventStream> {
        &view.streams
    }
}

/// Reconciles an EventStream.
pub async fn reconcile(object: Arc<EventStream>, context: Arc<Context>) -> Result<Duration, SyncError> {
    if object.metadata.deletion_timestamp.is_some() {
        return Box::pin(reconcile::clean_up(&*object, &context)).await;
    }
    if object.policies().suspend {
        return reconcile::report_suspended(&*object, &context).await;
    }
    let stream = stream::validate(&object)?;
    let vendor = reconcile::vendor_access::<EventStream>(&context, &object, &stream.connection).await?;
    let key_ring = match stream.destination {
        Destination::Worker(_) => Some(context.key_ring().await?),
        _ => None,
    };
    let settings = stream_auth::desired_settings(&object, stream.destination.kind(), key_ring.as_deref())
        .ok_or_else(|| ClusterError::KeyRing("it is empty".into()))?;
    let worker = match &key_ring {
        Some(key_ring) => {
            Some(WorkerEndpoint::new(&object, &stream, &vendor, &settings, key_ring, &context)?)
        }
        None => None,
    };
    let desired = desired_stream(&object, &stream, worker.as_ref(), &context).await?;
    let mut result = Box::pin(reconcile::sync(&context, &*object, &vendor, &desired)).await?;

    let mut status = object.status.clone().unwrap_or_default();
    let source = result.item.pointer("/destination/configuration/aws_partner_event_source");
    status.partner_event_source = source.and_then(Value::as_str).map(ToOwned::to_owned);
    types::set_condition(&mut status.conditions, &stream.subscriptions, object.metadata.generation);
    let recovery = RecoveryRun {
        context: &context,
        object: &object,
        stream: &stream,
        client: &vendor.client,
        desired: &desired.body,
        worker: worker.as_ref(),
        id: &result.external.id,
        server_status: server_status(&result.item),
    };
    let recovered = Box::pin(recovery.run(&mut status)).await?;
    if !object.policies().observes_only() {
        let before = object.status.as_ref().and_then(|s| s.applied.as_ref());
        status.applied = Some(stream_auth::next_applied(before, settings, stream.enabled, Millis::now()));
    }
    result.difference = result.difference.or(recovered.stalled);
    result.pending = recovered.waiting;
    let ready = ConditionMessage::new("Synced", ready_message(&stream));
    let next = reconcile::finish(&context, &*object, &vendor, &desired, result, status, ready).await?;
    Ok(recovered.requeue.map_or(next, |requeue| requeue.min(next)))
}

/// Previews a sync of an EventStream.
pub async fn preview(object: &EventStream, context: &Context) -> Result<Preview, SyncError> {
    let stream = stream::validate(object)?;
    let vendor = reconcile::vendor_access::<EventStream>(context, object, &stream.connection).await?;
    let keys = match stream.destination {
        Destination::Worker(_) => Some(PreviewKeys::load(context).await?),
        _ => None,
    };
    let key_ring = keys.as_ref().map(|keys| &*keys.key_ring);
    let settings = stream_auth::desired_settings(object, stream.destination.kind(), key_ring)
        .ok_or_else(|| ClusterError::KeyRing("it is empty".into()))?;
    let worker = match key_ring {
        Some(key_ring) => Some(WorkerEndpoint::new(object, &stream, &vendor, &settings, key_ring, context)?),
        None => None,
    };
    let mut desired = desired_stream(object, &stream, worker.as_ref(), context).await?;
    // Compare the status too: a reconcile leaves it to `recovery`, which runs after the sync.
    insert_status(&mut desired.readable, stream.enabled);
    reconcile::preview(context, object, &vendor, &desired, keys.as_ref()).await
}

/// Adds the status (enabled or disabled) to the compared members.
fn insert_status(object: &mut Value, enabled: bool) {
    if let Some(members) = object.as_object_mut() {
        members.insert("status".into(), json!(if enabled { "enabled" } else { "disabled" }));
    }
}

/// Dereferences the Secret of the destination, and returns the stream that Auth0 should have.
async fn desired_stream(
    object: &EventStream,
    stream: &Stream,
    worker: Option<&WorkerEndpoint>,
    context: &Context,
) -> Result<DesiredObject<StreamBody>, SyncError> {
    let destination = match (&stream.destination, worker) {
        (Destination::Webhook { endpoint, authorization }, _) => {
            let secret =
                read_secret_text(&*context.cluster, &stream.namespace, authorization.secret()).await?;
            DestinationBody::Webhook {
                endpoint: endpoint.clone(),
                authorization: webhook_authorization(authorization, secret),
            }
        }
        (Destination::EventBridge { account_id, region }, _) => {
            DestinationBody::EventBridge { account_id: account_id.clone(), region: region.clone() }
        }
        (Destination::Action { action_id }, _) => DestinationBody::Action { action_id: action_id.clone() },
        (Destination::Worker(_), Some(worker)) => DestinationBody::Webhook {
            endpoint: worker.url.to_string(),
            authorization: WebhookAuthorization::Bearer { token: worker.token.clone() },
        },
        (Destination::Worker(_), None) => return Err(SyncError::PublicIngestUrlMissing),
    };
    let body = StreamBody {
        name: stream.name.clone(),
        subscriptions: stream.subscriptions.clone(),
        enabled: stream.enabled,
        destination,
    };
    let mut object_at_vendor = body.to_value();
    // Before an adoption with mode Match, report every difference, including the status.
    let is_matching = object.spec.adopt.as_ref().is_some_and(|a| a.mode == AdoptMode::Match);
    if is_matching && object.external().is_none() {
        insert_status(&mut object_at_vendor, stream.enabled);
    }
    let path = body.secret_path();
    let paths: Vec<&str> = path.as_deref().into_iter().collect();
    let desired = DesiredObject::new(body, object_at_vendor, &paths, Some(stream.name.clone()));
    Ok(DesiredObject { relay_url: worker.map(|worker| worker.url.to_string()), ..desired })
}

fn webhook_authorization(authorization: &Authorization, secret: SecretString) -> WebhookAuthorization {
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

/// Returns the message of the Ready condition of a stream in sync.
fn ready_message(stream: &Stream) -> &'static str {
    match (&stream.destination, stream.enabled) {
        (_, false) => "Auth0 has the stream, which the spec disables",
        (Destination::Worker(_), true) => "Auth0 sends its events to the worker",
        (_, true) => "Auth0 has the stream and sends its events",
    }
}
