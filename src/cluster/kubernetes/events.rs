//! Publishes Kubernetes Events in the background, so that an Event never delays a reconcile.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::api_server::{hostname, to_cluster_error};
use crate::api::API_VERSION;
use crate::cluster::{EventPublisherRole, WriteTarget};
use crate::core::conditions::{ConditionMessage, cut};
use crate::leadership::Leadership;

/// The longest note that the API server accepts, in bytes.
const MAX_NOTE_BYTES: usize = 1024;
/// Capacity of the queue, at some hundred bytes an Event. When it is full, `publish` blocks, so that no Event is lost.
const QUEUE_CAPACITY: usize = 16_384;
/// Concurrent API calls. Kept low, because the reconciles of 10,000 objects at a start go first.
const CONCURRENCY: usize = 2;
/// How long a stop waits for queued Events.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Creates Events, directly or through a queue once `run` was called.
pub struct EventPublisher {
    client: Client,
    leadership: Leadership,
    /// Unset until `run`; until then `publish` creates Events itself.
    queue: OnceLock<mpsc::Sender<QueuedEvent>>,
    /// The number of Events that are queued or being created.
    unpublished: watch::Sender<usize>,
}

struct QueuedEvent {
    role: EventPublisherRole,
    target: WriteTarget,
    warning: bool,
    note: ConditionMessage,
    at: Timestamp,
}

impl EventPublisher {
    pub fn new(client: Client, leadership: Leadership) -> Arc<Self> {
        let unpublished = watch::Sender::new(0);
        Arc::new(EventPublisher { client, leadership, queue: OnceLock::new(), unpublished })
    }

    /// Creates Events from the queue while the returned future runs.
    pub fn run(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        let (queue, receiver) = mpsc::channel(QUEUE_CAPACITY);
        // An error means that an earlier call has set the queue, which stays in use.
        self.queue.set(queue).ok();
        let publisher = self.clone();
        async move {
            let create = |event: QueuedEvent| {
                let publisher = &publisher;
                async move {
                    publisher.create_or_log(&event).await;
                    publisher.unpublished.send_modify(|count| *count -= 1);
                }
            };
            ReceiverStream::new(receiver).for_each_concurrent(CONCURRENCY, create).await;
        }
    }

    /// Queues an Event. Never fails; an Event that cannot be created is logged.
    pub async fn publish(
        &self,
        role: EventPublisherRole,
        target: &WriteTarget,
        warning: bool,
        note: &ConditionMessage,
    ) {
        let event =
            QueuedEvent { role, target: target.clone(), warning, note: note.clone(), at: Timestamp::now() };
        let Some(queue) = self.queue.get() else { return self.create_or_log(&event).await };
        self.unpublished.send_modify(|count| *count += 1);
        if let Err(mpsc::error::SendError(event)) = queue.send(event).await {
            self.unpublished.send_modify(|count| *count -= 1);
            self.create_or_log(&event).await;
        }
    }

    /// Waits until all Events are created, at most `FLUSH_TIMEOUT`.
    pub async fn flush(&self) {
        let mut unpublished = self.unpublished.subscribe();
        let flushed = tokio::time::timeout(FLUSH_TIMEOUT, unpublished.wait_for(|count| *count == 0)).await;
        if flushed.is_err() {
            tracing::warn!(events = *self.unpublished.borrow(), "events not published before the stop");
        }
    }

    async fn create_or_log(&self, event: &QueuedEvent) {
        if event.role == EventPublisherRole::Controller && !self.leadership.is_leader() {
            return;
        }
        if let Err(error) = self.create(event).await {
            let error = to_cluster_error(error);
            let (object, reason) = (&event.target.key, event.note.reason);
            tracing::warn!(%object, reason, %error, "publishing an Event failed");
        }
    }

    async fn create(&self, event: &QueuedEvent) -> Result<(), kube::Error> {
        let QueuedEvent { role, target, warning, note, at } = event;
        let (action, controller) = match role {
            EventPublisherRole::Controller => ("Reconcile", "hookstream.dev/controller"),
            EventPublisherRole::Worker => ("Deliver", "hookstream.dev/worker"),
        };
        let kind: &str = target.kind.into();
        let event = Event {
            metadata: ObjectMeta {
                // Ends in a hyphen, because the API server rejects a generateName that ends in a dot.
                generate_name: Some(format!("{}-", cut(&target.key.name, 200).trim_end_matches(['.', '-']))),
                namespace: Some(target.key.namespace.clone()),
                ..ObjectMeta::default()
            },
            action: Some(action.into()),
            event_time: Some(MicroTime(*at)),
            note: Some(cut(&note.message, MAX_NOTE_BYTES).to_owned()),
            reason: Some(note.reason.to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some(API_VERSION.to_owned()),
                kind: Some(kind.to_owned()),
                name: Some(target.key.name.clone()),
                namespace: Some(target.key.namespace.clone()),
                uid: Some(target.uid.clone()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(controller.into()),
            reporting_instance: Some(cut(&hostname(), 128).to_owned()),
            type_: Some(if *warning { "Warning" } else { "Normal" }.into()),
            ..Event::default()
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &target.key.namespace);
        api.create(&PostParams::default(), &event).await.map(drop)
    }
}
