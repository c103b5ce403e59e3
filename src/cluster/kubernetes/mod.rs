//! A Kubernetes cluster.

mod cache;
mod crds;
mod events;
mod lease;
mod pulse;
mod reviews;
mod ring;
mod watch;
mod written;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::{Access, AccessError, Cluster, ClusterError, Data, Key, Kind, Metadata, Target};
use crate::api::{Connection, EventHook, EventStream, FINALIZER, GROUP, Hook};
use crate::core::conditions::Note;
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
    /// The controller's writes.
    written: written::Written,
    events: Arc<events::Events>,
}

impl Kubernetes {
    pub fn new(client: Client, options: &Options, leadership: Leadership) -> Self {
        Kubernetes {
            secrets: Arc::new(Cache::new(client.clone(), options.require_secret_label)),
            config_maps: Arc::new(Cache::new(client.clone(), false)),
            ring: ring::RingCache::new(client.clone(), options.namespace.clone()),
            reviews: reviews::Reviews::new(client.clone(), options.token_audience.clone()),
            home: options.namespace.clone(),
            events: events::Events::new(client.clone(), leadership.clone()),
            client,
            leadership,
            written: written::Written::default(),
        }
    }

    /// From now on Events are told by this work, and nobody waits for them.
    pub fn tell_events(&self) -> impl Future<Output = ()> + Send + use<> {
        self.events.run()
    }

    async fn uid_of(&self, namespace: &str) -> Result<Option<String>, kube::Error> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        Ok(api.get_metadata_opt(namespace).await?.and_then(|found| found.metadata.uid))
    }

    /// The version that it made.
    async fn patch_status(
        &self,
        manager: &str,
        target: &Target,
        status: Value,
    ) -> Result<Option<String>, ClusterError> {
        let kind: &str = target.kind.into();
        let body = json!({
            "apiVersion": format!("{GROUP}/v1alpha1"),
            "kind": kind,
            // The uid: a status of an object that was deleted must not land on its successor.
            "metadata": {"name": target.key.name, "namespace": target.key.namespace, "uid": target.uid},
            "status": status,
        });
        let (params, patch) = (PatchParams::apply(manager).force(), Patch::Apply(&body));
        let object = self.api(target).patch_status(&target.key.name, &params, &patch).await;
        Ok(object.map_err(cluster_error)?.metadata.resource_version)
    }

    /// Untyped: an object that cannot be read is told so all the same, and its answer is not logged as a defect.
    fn api(&self, target: &Target) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &target.key.namespace, &resource(target.kind))
    }

    async fn patch_metadata(
        &self,
        target: &Target,
        change: Metadata,
    ) -> Result<Option<String>, ClusterError> {
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
        let object = self.api(target).patch_metadata(&target.key.name, &params, &patch).await;
        Ok(object.map_err(cluster_error)?.metadata.resource_version)
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
            let version = self.patch_status(MANAGER, target, status).await?;
            self.written.wrote(&target.uid, version.as_deref(), Instant::now());
            Ok(())
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
        Box::pin(async move { self.patch_status(WORKER, target, status).await.map(drop) })
    }

    fn has_told(&self, target: &Target) -> bool {
        self.written.is_seen(&target.uid, &target.resource_version, Instant::now())
    }

    fn write_metadata<'a>(
        &'a self,
        target: &'a Target,
        metadata: Metadata,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(async move {
            self.leadership.may_write()?;
            let version = self.patch_metadata(target, metadata).await?;
            self.written.wrote(&target.uid, version.as_deref(), Instant::now());
            Ok(())
        })
    }

    fn stored<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Value, ClusterError>> {
        Box::pin(async move {
            let object = self.api(target).get(&target.key.name).await.map_err(cluster_error)?;
            serde_json::to_value(object).map_err(|e| ClusterError::ClusterError(e.to_string()))
        })
    }

    fn publish<'a>(&'a self, target: &'a Target, warning: bool, note: &'a Note) -> BoxFuture<'a, ()> {
        Box::pin(self.events.publish(target, warning, note))
    }

    fn flush_events(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.events.flush())
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
