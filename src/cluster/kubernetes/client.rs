//! The `Cluster` in Kubernetes: reads, status and metadata writes, Events, and authorization through the API server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::api_reviewer::ApiReviewer;
use super::api_server::{api_resource, to_cluster_error};
use super::authorizer::Authorizer;
use super::data_cache::DataCache;
use super::events::EventPublisher;
use super::foreign_status::removal_patch;
use super::key_ring::{KeyRingCache, KeyRingRights};
use super::leader::{LeaseLocation, find_leader};
use super::own_writes::OwnWrites;
use crate::api::{API_VERSION, FINALIZER, bound_status};
use crate::cluster::{
    AuthorizationError, Cluster, ClusterError, Data, DeliveryStatus, EventPublisherRole, LeaderReport,
    Metadata, ObjectKey, Permission, ResourceKind, WriteTarget,
};
use crate::core::conditions::ConditionMessage;
use crate::core::keys::KeyRing;
use crate::leadership::Leadership;

/// The controller's field manager.
const CONTROLLER_MANAGER: &str = "hookstream-controller";
/// The worker's field manager. Controller and worker each own a part of a status.
const WORKER_MANAGER: &str = "hookstream-worker";
/// Objects in one page of a list.
const LIST_PAGE: u32 = 500;

/// The settings of access to the cluster.
#[derive(Clone, Debug)]
pub struct KubernetesOptions {
    /// The operator's own namespace, which contains the key ring.
    pub namespace: String,
    /// A Secret with a key ring that is managed elsewhere. None: the operator's own.
    pub key_ring_secret: Option<String>,
    /// The namespaces to work in; empty means all.
    pub namespaces: Vec<String>,
    /// Selects the objects of this installation by their labels. All others are ignored: they are never read.
    pub label_selector: String,
    /// Use only Secrets with the label `hookstream.dev/use: "true"`.
    pub require_secret_label: bool,
    /// The audience that callers' tokens must be issued for.
    pub token_audience: String,
    /// How long a watch request lasts before it is restarted.
    pub watch_timeout: Duration,
}

/// A cluster through its API server.
pub struct Kubernetes {
    pub(super) client: Client,
    pub(super) secrets: Arc<DataCache<Secret>>,
    pub(super) config_maps: Arc<DataCache<ConfigMap>>,
    key_ring: KeyRingCache,
    authorizer: Authorizer<ApiReviewer>,
    operator_namespace: String,
    /// Checked before each of the controller's writes. The worker's writes need no leadership.
    leadership: Leadership,
    /// None: this process does not show which replica leads.
    lease: Option<LeaseLocation>,
    /// The controller's writes that the watch has not delivered yet.
    own_writes: OwnWrites,
    events: Arc<EventPublisher>,
}

impl Kubernetes {
    pub fn new(client: Client, options: &KubernetesOptions, leadership: Leadership) -> Self {
        Kubernetes {
            secrets: Arc::new(DataCache::new(client.clone(), options.require_secret_label)),
            config_maps: Arc::new(DataCache::new(client.clone(), false)),
            key_ring: KeyRingCache::new(
                client.clone(),
                options.namespace.clone(),
                options.key_ring_secret.clone(),
            ),
            authorizer: Authorizer::new(
                ApiReviewer::new(client.clone(), options.token_audience.clone()),
                options.token_audience.clone(),
            ),
            operator_namespace: options.namespace.clone(),
            events: EventPublisher::new(client.clone(), leadership.clone()),
            client,
            leadership,
            lease: None,
            own_writes: OwnWrites::default(),
        }
    }

    /// Sets the Lease that shows which replica of the controller leads.
    #[must_use]
    pub fn with_lease(self, lease: LeaseLocation) -> Self {
        Kubernetes { lease: Some(lease), ..self }
    }

    /// Publishes Events in the background while the returned future runs, so that no reconcile waits for them.
    pub fn run_event_publisher(&self) -> impl Future<Output = ()> + Send + use<> {
        self.events.run()
    }

    async fn read_namespace_uid(&self, namespace: &str) -> Result<Option<String>, kube::Error> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        Ok(api.get_metadata_opt(namespace).await?.and_then(|found| found.metadata.uid))
    }

    /// Applies a status. Returns the new resource version.
    async fn patch_status(
        &self,
        manager: &str,
        target: &WriteTarget,
        mut status: Value,
    ) -> Result<Option<String>, ClusterError> {
        let kind: &str = target.kind.into();
        // The API server rejects the whole status for one text that is too long.
        bound_status(kind, &mut status);
        let body = json!({
            "apiVersion": API_VERSION,
            "kind": kind,
            // With the uid, the status of a deleted object cannot reach a new object of the same name.
            "metadata": {"name": target.key.name, "namespace": target.key.namespace, "uid": target.uid},
            "status": status,
        });
        let (params, patch) = (PatchParams::apply(manager).force(), Patch::Apply(&body));
        let object = self.api(target).patch_status(&target.key.name, &params, &patch).await;
        let object = object.map_err(to_cluster_error)?;
        let stored = object.data.get("status").filter(|_| manager == CONTROLLER_MANAGER);
        let sent = body.get("status");
        match sent.zip(stored).and_then(|(sent, stored)| removal_patch(kind, sent, stored)) {
            Some(removals) => self.remove_status_members(target, &object, &removals).await,
            None => Ok(object.metadata.resource_version),
        }
    }

    /// Removes members of a status that another manager wrote. Returns the new resource version.
    async fn remove_status_members(
        &self,
        target: &WriteTarget,
        object: &DynamicObject,
        removals: &Value,
    ) -> Result<Option<String>, ClusterError> {
        // With the version, only what was just read is removed.
        let metadata = json!({"uid": target.uid, "resourceVersion": object.metadata.resource_version});
        let body = json!({"metadata": metadata, "status": removals});
        let params = PatchParams { field_manager: Some(CONTROLLER_MANAGER.into()), ..PatchParams::default() };
        let patched = self.api(target).patch_status(&target.key.name, &params, &Patch::Merge(&body)).await;
        Ok(patched.map_err(to_cluster_error)?.metadata.resource_version)
    }

    /// Returns an untyped API, because the status of an object that cannot be deserialized is written too.
    fn api(&self, target: &WriteTarget) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &target.key.namespace, &api_resource(target.kind))
    }

    /// Patches metadata. Returns the new resource version.
    async fn patch_metadata(
        &self,
        target: &WriteTarget,
        change: Metadata,
    ) -> Result<Option<String>, ClusterError> {
        let mut body = json!({"uid": target.uid});
        if let Some(members) = body.as_object_mut() {
            // With the version, a finalizer that another controller added concurrently is not lost.
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
        Ok(object.map_err(to_cluster_error)?.metadata.resource_version)
    }

    /// Returns the APIs of a kind in these namespaces (empty means all).
    fn apis(&self, kind: ResourceKind, namespaces: &[String]) -> Vec<Api<DynamicObject>> {
        let resource = api_resource(kind);
        match namespaces {
            [] => vec![Api::all_with(self.client.clone(), &resource)],
            namespaces => {
                namespaces.iter().map(|n| Api::namespaced_with(self.client.clone(), n, &resource)).collect()
            }
        }
    }

    /// Lists the objects of a kind in these namespaces (empty means all) with these labels (empty means any) as untyped JSON.
    pub async fn list_objects(
        &self,
        kind: ResourceKind,
        namespaces: &[String],
        label_selector: &str,
    ) -> Result<Vec<Value>, ClusterError> {
        let mut objects = Vec::new();
        for api in self.apis(kind, namespaces) {
            let mut params = ListParams::default().labels(label_selector).limit(LIST_PAGE);
            loop {
                let page = api.list(&params).await.map_err(to_cluster_error)?;
                for object in page.items {
                    let value = serde_json::to_value(object);
                    objects.push(value.map_err(|e| ClusterError::ClusterError(e.to_string()))?);
                }
                match page.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => params = params.continue_token(&token),
                    None => break,
                }
            }
        }
        Ok(objects)
    }

    /// Lists the objects of a kind that have our finalizer, in the namespaces and with the labels of the options.
    pub async fn list_finalized(
        &self,
        kind: ResourceKind,
        options: &KubernetesOptions,
    ) -> Result<Vec<WriteTarget>, ClusterError> {
        let params = ListParams::default().labels(&options.label_selector);
        let mut targets = Vec::new();
        for api in self.apis(kind, &options.namespaces) {
            // Lists metadata only, so that objects that cannot be deserialized are included.
            for object in api.list_metadata(&params).await.map_err(to_cluster_error)? {
                if object.finalizers().iter().any(|f| f == FINALIZER) {
                    targets.push(WriteTarget {
                        kind,
                        key: ObjectKey {
                            namespace: object.namespace().unwrap_or_default(),
                            name: object.name_any(),
                        },
                        uid: object.uid().unwrap_or_default(),
                        resource_version: String::new(),
                    });
                }
            }
        }
        Ok(targets)
    }

    /// Removes our finalizer from an object. Retries up to 5 times when the object is modified concurrently.
    pub async fn remove_finalizer(&self, target: &WriteTarget) -> Result<(), ClusterError> {
        for _ in 0..5 {
            let object = match self.api(target).get_metadata(&target.key.name).await.map_err(to_cluster_error)
            {
                Err(ClusterError::Gone) => return Ok(()),
                other => other?,
            };
            let others = object.finalizers().iter().filter(|f| *f != FINALIZER).cloned().collect();
            let current = WriteTarget {
                resource_version: object.resource_version().unwrap_or_default(),
                ..target.clone()
            };
            match self.write_finalizers(&current, others).await {
                Err(ClusterError::Conflict) => {}
                Err(ClusterError::Gone) => return Ok(()),
                other => return other,
            }
        }
        Err(ClusterError::Conflict)
    }
}

impl Cluster for Kubernetes {
    fn secret<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>> {
        Box::pin(self.secrets.get(key))
    }

    fn config_map<'a>(
        &'a self,
        key: &'a ObjectKey,
    ) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>> {
        Box::pin(self.config_maps.get(key))
    }

    fn write_status<'a>(
        &'a self,
        target: &'a WriteTarget,
        status: Value,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(async move {
            self.leadership.may_write()?;
            let version = self.patch_status(CONTROLLER_MANAGER, target, status).await?;
            self.own_writes.record(&target.uid, version.as_deref(), Instant::now());
            Ok(())
        })
    }

    fn write_delivery_status<'a>(
        &'a self,
        target: &'a WriteTarget,
        delivery: DeliveryStatus,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        let DeliveryStatus { condition, report, resumed } = delivery;
        let mut status = json!({ "conditions": [condition], "delivery": report });
        // Omit `handled` instead of writing null, because the schema requires an object.
        if let (Some(token), Some(status)) = (resumed, status.as_object_mut()) {
            status.insert("handled".into(), json!({ "resume": token }));
        }
        Box::pin(async move { self.patch_status(WORKER_MANAGER, target, status).await.map(drop) })
    }

    fn has_observed_own_write(&self, target: &WriteTarget) -> bool {
        self.own_writes.is_observed(&target.uid, &target.resource_version, Instant::now())
    }

    fn write_metadata<'a>(
        &'a self,
        target: &'a WriteTarget,
        metadata: Metadata,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(async move {
            self.leadership.may_write()?;
            let version = self.patch_metadata(target, metadata).await?;
            self.own_writes.record(&target.uid, version.as_deref(), Instant::now());
            Ok(())
        })
    }

    fn read_object<'a>(&'a self, target: &'a WriteTarget) -> BoxFuture<'a, Result<Value, ClusterError>> {
        Box::pin(async move {
            let object = self.api(target).get(&target.key.name).await.map_err(to_cluster_error)?;
            serde_json::to_value(object).map_err(|e| ClusterError::ClusterError(e.to_string()))
        })
    }

    fn publish_event<'a>(
        &'a self,
        target: &'a WriteTarget,
        warning: bool,
        note: &'a ConditionMessage,
    ) -> BoxFuture<'a, ()> {
        Box::pin(self.events.publish(EventPublisherRole::Controller, target, warning, note))
    }

    fn publish_delivery_event<'a>(
        &'a self,
        target: &'a WriteTarget,
        warning: bool,
        note: &'a ConditionMessage,
    ) -> BoxFuture<'a, ()> {
        Box::pin(self.events.publish(EventPublisherRole::Worker, target, warning, note))
    }

    fn flush_events(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.events.flush())
    }

    fn key_ring(&self, create: bool) -> BoxFuture<'_, Result<Arc<KeyRing>, ClusterError>> {
        let restore = self.leadership.is_leader();
        Box::pin(self.key_ring.get(KeyRingRights { create: create && restore, restore }))
    }

    fn take_key_ring_restored(&self) -> bool {
        self.key_ring.take_restored()
    }

    /// Returns the uid of the operator's own namespace. The namespace contains the key ring and is deleted with the
    /// installation.
    fn installation_id(&self) -> BoxFuture<'_, Result<Option<String>, ClusterError>> {
        Box::pin(async move {
            match self.read_namespace_uid(&self.operator_namespace).await {
                Ok(Some(uid)) => Ok(Some(uid)),
                Ok(None) => Err(ClusterError::Gone),
                Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
                Err(error) => Err(to_cluster_error(error)),
            }
        })
    }

    fn namespace_uid<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<String>, ClusterError>> {
        Box::pin(async move { self.read_namespace_uid(name).await.map_err(to_cluster_error) })
    }

    fn leader(&self) -> BoxFuture<'_, LeaderReport> {
        Box::pin(async move {
            match &self.lease {
                Some(lease) => find_leader(&self.client, lease).await,
                None => LeaderReport::Unknown { message: "no Lease was named".to_owned(), role: None },
            }
        })
    }

    fn authorize<'a>(
        &'a self,
        token: Option<&'a str>,
        permission: Permission<'a>,
    ) -> BoxFuture<'a, Result<(), AuthorizationError>> {
        Box::pin(self.authorizer.authorize(token, permission))
    }
}
