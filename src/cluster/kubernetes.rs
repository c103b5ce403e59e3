//! A Kubernetes cluster.

mod cache;
mod crds;
mod lease;
mod pulse;
mod reviews;
mod ring;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ObjectReference, Secret};
use k8s_openapi::api::events::v1::Event as KubeEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, ObjectMeta};
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::{Access, AccessError, Cluster, ClusterError, Data, Key, Kind, Metadata, Target};
use crate::api::{Connection, EventHook, EventStream, FINALIZER, GROUP, Hook};
use crate::core::conditions::{Note, cut};
use crate::core::keys::KeyRing;
use crate::leadership::Leadership;

use cache::Cache;
pub use lease::{Candidacy, Competing, Ending, LeaseOptions};
pub use pulse::{Pulse, PulseLayer};
pub use watch::{Watching, watch};

/// The controller's name in managed fields and events.
const MANAGER: &str = "hookstream-controller";
/// The worker's name in managed fields: each owns its part of a status.
const WORKER: &str = "hookstream-worker";
/// The longest note that the API server takes in an event.
const MAX_NOTE: usize = 1024;

/// What the roles need to know of the cluster they run in.
#[derive(Clone, Debug)]
pub struct Options {
    /// The operator's own namespace, where the key ring is.
    pub namespace: String,
    /// The namespaces to work in; none: all.
    pub namespaces: Vec<String>,
    /// Use only Secrets with the label `hookstream.dev/use: "true"`.
    pub require_secret_label: bool,
    /// The audience that callers' tokens must have.
    pub token_audience: String,
    /// How long one watch lasts before it is begun again.
    pub watch_timeout: Duration,
}

/// A cluster through its API server.
pub struct Kubernetes {
    client: Client,
    secrets: Arc<Cache<Secret>>,
    config_maps: Arc<Cache<ConfigMap>>,
    ring: ring::RingCache,
    reviews: reviews::Reviews,
    /// The operator's own namespace.
    home: String,
    /// Asked before each of the controller's writes. The worker's are its own.
    leadership: Leadership,
}

impl Kubernetes {
    pub fn new(client: Client, options: &Options, leadership: Leadership) -> Self {
        Kubernetes {
            secrets: Arc::new(Cache::new(client.clone(), options.require_secret_label)),
            config_maps: Arc::new(Cache::new(client.clone(), false)),
            ring: ring::RingCache::new(client.clone(), options.namespace.clone()),
            reviews: reviews::Reviews::new(client.clone(), options.token_audience.clone()),
            home: options.namespace.clone(),
            client,
            leadership,
        }
    }

    async fn uid_of(&self, namespace: &str) -> Result<Option<String>, kube::Error> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        Ok(api.get_metadata_opt(namespace).await?.and_then(|found| found.metadata.uid))
    }

    async fn patch_status(&self, manager: &str, target: &Target, status: Value) -> Result<(), ClusterError> {
        let kind: &str = target.kind.into();
        let body = json!({
            "apiVersion": format!("{GROUP}/v1alpha1"),
            "kind": kind,
            // The uid: a status of an object that was deleted must not land on its successor.
            "metadata": {"name": target.key.name, "namespace": target.key.namespace, "uid": target.uid},
            "status": status,
        });
        let (params, patch) = (PatchParams::apply(manager).force(), Patch::Apply(&body));
        let status = self.api(target).patch_status(&target.key.name, &params, &patch).await;
        status.map(drop).map_err(cluster_error)
    }

    /// Untyped: an object that cannot be read is told so all the same, and its answer is not logged as a defect.
    fn api(&self, target: &Target) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &target.key.namespace, &resource(target.kind))
    }

    async fn patch_metadata(&self, target: &Target, change: Metadata) -> Result<(), ClusterError> {
        let mut body = json!({"uid": target.uid});
        if let Some(members) = body.as_object_mut() {
            // Another controller's finalizer that was added meanwhile must not be lost.
            if !target.resource_version.is_empty() {
                members.insert("resourceVersion".into(), json!(target.resource_version));
            }
            members.extend(change.finalizers.map(|all| ("finalizers".to_owned(), json!(all))));
            if !change.annotations.is_empty() {
                members.insert("annotations".into(), json!(change.annotations));
            }
        }
        let body = json!({ "metadata": body });
        let (params, patch) = (PatchParams::default(), Patch::Merge(&body));
        let metadata = self.api(target).patch_metadata(&target.key.name, &params, &patch).await;
        metadata.map(drop).map_err(cluster_error)
    }

    /// Every object of a kind that has our finalizer, in these namespaces (none: all).
    pub async fn held(&self, kind: Kind, namespaces: &[String]) -> Result<Vec<Target>, ClusterError> {
        let resource = resource(kind);
        let apis: Vec<Api<DynamicObject>> = match namespaces {
            [] => vec![Api::all_with(self.client.clone(), &resource)],
            some => some.iter().map(|n| Api::namespaced_with(self.client.clone(), n, &resource)).collect(),
        };
        let mut held = Vec::new();
        for api in apis {
            // By its metadata: an object that cannot be read is let go all the same.
            for object in api.list_metadata(&ListParams::default()).await.map_err(cluster_error)? {
                if object.finalizers().iter().any(|f| f == FINALIZER) {
                    held.push(Target {
                        kind,
                        key: Key {
                            namespace: object.namespace().unwrap_or_default(),
                            name: object.name_any(),
                        },
                        uid: object.uid().unwrap_or_default(),
                        resource_version: String::new(),
                    });
                }
            }
        }
        Ok(held)
    }

    /// Takes our finalizer off an object, whatever else happens to it meanwhile.
    pub async fn let_go(&self, target: &Target) -> Result<(), ClusterError> {
        for _ in 0..5 {
            let object = match self.api(target).get_metadata(&target.key.name).await.map_err(cluster_error) {
                Err(ClusterError::Gone) => return Ok(()),
                other => other?,
            };
            let others = object.finalizers().iter().filter(|f| *f != FINALIZER).cloned().collect();
            let now =
                Target { resource_version: object.resource_version().unwrap_or_default(), ..target.clone() };
            match self.write_finalizers(&now, others).await {
                Err(ClusterError::Conflict) => {}
                Err(ClusterError::Gone) => return Ok(()),
                other => return other,
            }
        }
        Err(ClusterError::Conflict)
    }

    async fn create_event(&self, target: &Target, warning: bool, note: &Note) -> Result<(), kube::Error> {
        let kind: &str = target.kind.into();
        let event = KubeEvent {
            metadata: ObjectMeta {
                // Ends in a hyphen: the API server refuses a generateName that ends in a dot.
                generate_name: Some(format!("{}-", cut(&target.key.name, 200).trim_end_matches(['.', '-']))),
                namespace: Some(target.key.namespace.clone()),
                ..ObjectMeta::default()
            },
            action: Some("Reconcile".into()),
            event_time: Some(MicroTime(jiff::Timestamp::now())),
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
            reporting_instance: Some(cut(&hostname(), 128).to_owned()),
            type_: Some(if warning { "Warning" } else { "Normal" }.into()),
            ..KubeEvent::default()
        };
        let api: Api<KubeEvent> = Api::namespaced(self.client.clone(), &target.key.namespace);
        api.create(&PostParams::default(), &event).await.map(drop)
    }
}

/// How the API server knows a kind.
pub fn resource(kind: Kind) -> ApiResource {
    match kind {
        Kind::EventHook => ApiResource::erase::<EventHook>(&()),
        Kind::Connection => ApiResource::erase::<Connection>(&()),
        Kind::EventStream => ApiResource::erase::<EventStream>(&()),
        Kind::Hook => ApiResource::erase::<Hook>(&()),
    }
}

fn hostname() -> String {
    std::env::var("HOSTNAME").unwrap_or_else(|_| "hookstream".into())
}

/// An API server that takes a request and does not answer (its node is gone, a proxy swallows) holds up nobody who can go
/// on with what was read before: it is waited for so long, and then not asked again for a while.
#[derive(Clone, Copy)]
struct Patience {
    within: Duration,
    again: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { within: Duration::from_secs(2), again: Duration::from_secs(10) }
    }
}

fn no_answer() -> ClusterError {
    ClusterError::ClusterError("the API server does not answer".into())
}

fn cluster_error(error: kube::Error) -> ClusterError {
    match &error {
        kube::Error::Api(status) if status.code == 409 => ClusterError::Conflict,
        kube::Error::Api(status) if status.code == 404 => ClusterError::Gone,
        kube::Error::Api(status) => {
            ClusterError::ClusterError(format!("the API server refused: {}", status.message))
        }
        _ => ClusterError::ClusterError(format!("the API server cannot be reached: {error}")),
    }
}

impl Cluster for Kubernetes {
    fn secret<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>> {
        Box::pin(self.secrets.get(key))
    }

    fn config_map<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>> {
        Box::pin(self.config_maps.get(key))
    }

    fn write_status<'a>(
        &'a self,
        target: &'a Target,
        status: Value,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(async move {
            self.leadership.may_write()?;
            self.patch_status(MANAGER, target, status).await
        })
    }

    fn write_delivering<'a>(
        &'a self,
        target: &'a Target,
        condition: Condition,
        resumed: Option<String>,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        let mut status = json!({ "conditions": [condition] });
        // Left out, not null: the schema wants an object.
        if let (Some(token), Some(status)) = (resumed, status.as_object_mut()) {
            status.insert("handled".into(), json!({ "resume": token }));
        }
        Box::pin(self.patch_status(WORKER, target, status))
    }

    fn write_metadata<'a>(
        &'a self,
        target: &'a Target,
        metadata: Metadata,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(async move {
            self.leadership.may_write()?;
            self.patch_metadata(target, metadata).await
        })
    }

    fn stored<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Value, ClusterError>> {
        Box::pin(async move {
            let object = self.api(target).get(&target.key.name).await.map_err(cluster_error)?;
            serde_json::to_value(object).map_err(|e| ClusterError::ClusterError(e.to_string()))
        })
    }

    fn publish<'a>(&'a self, target: &'a Target, warning: bool, note: &'a Note) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if !self.leadership.leads() {
                return;
            }
            if let Err(error) = self.create_event(target, warning, note).await {
                let error = cluster_error(error);
                tracing::warn!(object = %target.key, reason = note.reason, %error, "an Event could not be published");
            }
        })
    }

    fn key_ring(&self, create: bool) -> BoxFuture<'_, Result<Arc<KeyRing>, ClusterError>> {
        Box::pin(self.ring.get(create && self.leadership.leads()))
    }

    /// The uid of the operator's own namespace: it ends with the installation, and the key ring is in it.
    fn installation(&self) -> BoxFuture<'_, Result<Option<String>, ClusterError>> {
        Box::pin(async move {
            match self.uid_of(&self.home).await {
                Ok(Some(uid)) => Ok(Some(uid)),
                Ok(None) => Err(ClusterError::Gone),
                Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
                Err(error) => Err(cluster_error(error)),
            }
        })
    }

    fn namespace_uid<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<String>, ClusterError>> {
        Box::pin(async move { self.uid_of(name).await.map_err(cluster_error) })
    }

    fn authorize<'a>(
        &'a self,
        token: Option<&'a str>,
        access: Access<'a>,
    ) -> BoxFuture<'a, Result<(), AccessError>> {
        Box::pin(self.reviews.authorize(token, access))
    }
}

#[cfg(test)]
mod testing {
    use std::convert::Infallible;
    use std::future::{Pending, pending};
    use std::task::{Context, Poll};

    use http::{Request, Response};
    use kube::client::Body;

    use super::*;

    #[derive(Clone)]
    struct Hangs;

    impl tower_service::Service<Request<Body>> for Hangs {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Pending<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            pending()
        }
    }

    /// A client of an API server that takes requests and never answers.
    pub fn hanging() -> Client {
        Client::new(Hangs, "default")
    }

    pub fn short() -> Patience {
        Patience { within: Duration::from_millis(50), again: Duration::from_secs(3600) }
    }
}
