//! Kubernetes Events, told beside the reconciles: an object that is ready is not held up by the word about it.

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

use crate::api::GROUP;
use crate::cluster::Target;
use crate::core::conditions::{Note, cut};
use crate::leadership::Leadership;

/// The longest note that the API server takes.
const MAX_NOTE: usize = 1024;
/// Notes that wait, some hundred bytes each; then whoever has one more waits too, so that none is lost.
const QUEUE: usize = 16_384;
/// Few: ten thousand objects that start together are to become ready first.
const AT_ONCE: usize = 2;
/// How long a stop waits for what is not told yet.
const PATIENCE: Duration = Duration::from_secs(5);

/// Publishes Events.
pub struct Events {
    client: Client,
    leadership: Leadership,
    /// Unset: nobody tells in the background, and whoever publishes tells.
    queue: OnceLock<mpsc::Sender<Told>>,
    /// How many are not told yet.
    waiting: watch::Sender<usize>,
}

struct Told {
    target: Target,
    warning: bool,
    note: Note,
    at: Timestamp,
}

impl Events {
    pub fn new(client: Client, leadership: Leadership) -> Arc<Self> {
        Arc::new(Events { client, leadership, queue: OnceLock::new(), waiting: watch::Sender::new(0) })
    }

    /// Tells in the background from now on, as long as the work lasts.
    pub fn run(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        let (queue, receiver) = mpsc::channel(QUEUE);
        // One that was set before goes on.
        self.queue.set(queue).ok();
        let events = self.clone();
        async move {
            let tell = |told: Told| {
                let events = &events;
                async move {
                    events.tell(&told).await;
                    events.waiting.send_modify(|waiting| *waiting -= 1);
                }
            };
            ReceiverStream::new(receiver).for_each_concurrent(AT_ONCE, tell).await;
        }
    }

    /// Never fails: what cannot be told is logged.
    pub async fn publish(&self, target: &Target, warning: bool, note: &Note) {
        let told = Told { target: target.clone(), warning, note: note.clone(), at: Timestamp::now() };
        let Some(queue) = self.queue.get() else { return self.tell(&told).await };
        self.waiting.send_modify(|waiting| *waiting += 1);
        if let Err(mpsc::error::SendError(told)) = queue.send(told).await {
            self.waiting.send_modify(|waiting| *waiting -= 1);
            self.tell(&told).await;
        }
    }

    /// Waits for a while until everything is told.
    pub async fn flush(&self) {
        let mut waiting = self.waiting.subscribe();
        let left = tokio::time::timeout(PATIENCE, waiting.wait_for(|waiting| *waiting == 0)).await;
        if left.is_err() {
            tracing::warn!(events = *self.waiting.borrow(), "Events could not be published before the stop");
        }
    }

    async fn tell(&self, told: &Told) {
        if !self.leadership.leads() {
            return;
        }
        if let Err(error) = self.create(told).await {
            let error = super::cluster_error(error);
            let (object, reason) = (&told.target.key, told.note.reason);
            tracing::warn!(%object, reason, %error, "an Event could not be published");
        }
    }

    async fn create(&self, told: &Told) -> Result<(), kube::Error> {
        let Told { target, warning, note, at } = told;
        let kind: &str = target.kind.into();
        let event = Event {
            metadata: ObjectMeta {
                // Ends in a hyphen: the API server refuses a generateName that ends in a dot.
                generate_name: Some(format!("{}-", cut(&target.key.name, 200).trim_end_matches(['.', '-']))),
                namespace: Some(target.key.namespace.clone()),
                ..ObjectMeta::default()
            },
            action: Some("Reconcile".into()),
            event_time: Some(MicroTime(*at)),
            note: Some(cut(&note.message, MAX_NOTE).to_owned()),
            reason: Some(note.reason.to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some(format!("{GROUP}/v1alpha1")),
                kind: Some(kind.to_owned()),
                name: Some(target.key.name.clone()),
                namespace: Some(target.key.namespace.clone()),
                uid: Some(target.uid.clone()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some("hookstream.dev/controller".into()),
            reporting_instance: Some(cut(&super::hostname(), 128).to_owned()),
            type_: Some(if *warning { "Warning" } else { "Normal" }.into()),
            ..Event::default()
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &target.key.namespace);
        api.create(&PostParams::default(), &event).await.map(drop)
    }
}
