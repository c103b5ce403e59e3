//! The `Cluster` of standalone: manifests from files and folders, and state in the data folder.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use subtle::ConstantTimeEq;
use tokio::sync::Notify;

use super::documents::ManifestError;
use super::key_ring::open_key_ring;
use super::manifest_set::ManifestSet;
use super::object_lists::{ObjectLists, reflectors};
use super::objects::object_uid;
use super::state::{PendingWrite, StateStore};
use crate::cluster::{
    AuthorizationError, Cluster, ClusterError, Data, Metadata, ObjectChange, ObjectKey, Permission,
    ResourceKind, Subscribers, View, WriteTarget,
};
use crate::core::conditions::ConditionMessage;
use crate::core::keys::KeyRing;

/// The time between two scans. An edited manifest is applied after one scan, a removed one after two.
const SCAN_INTERVAL: Duration = Duration::from_millis(800);

/// The manifests, data folder and settings of standalone.
#[derive(Debug)]
pub struct FileClusterOptions {
    /// Files and folders with manifests.
    pub manifests: Vec<PathBuf>,
    /// The folder for state.
    pub data: PathBuf,
    /// Delete at the vendor the objects that were removed from the manifests.
    pub prune: bool,
    /// The token that callers must send; None if they need no token.
    pub token: Option<SecretString>,
}

/// A cluster of files: objects from manifests, and their state from the data folder.
pub struct FileCluster {
    inner: Mutex<Inner>,
    /// Locked from a change until its file is written, so that an older write cannot overtake a newer one.
    writing: tokio::sync::Mutex<()>,
    changed: Notify,
    key_ring: Arc<KeyRing>,
    token: Option<SecretString>,
    prune: bool,
}

struct Inner {
    manifests: ManifestSet,
    state: StateStore,
}

impl FileCluster {
    /// Reads the manifests and the state. A path that does not exist or contains no manifest is an error. Otherwise an
    /// operator with a mistyped path would start without objects and look healthy.
    pub fn open(options: FileClusterOptions) -> Result<Self, ManifestError> {
        let key_ring = Arc::new(open_key_ring(&options.data)?);
        let state = StateStore::open(&options.data)?;
        let mut manifests = ManifestSet::new(options.manifests);
        manifests.scan()?;
        Ok(FileCluster {
            inner: Mutex::new(Inner { manifests, state }),
            writing: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            key_ring,
            token: options.token,
            prune: options.prune,
        })
    }

    /// Returns the current objects, for a command that reads them once.
    pub async fn view(&self) -> View {
        let objects = self.merge_state(false);
        objects.into_view().await
    }

    /// Returns the view that both roles read, and the future that keeps it in sync with the files.
    pub fn watch(
        self: &Arc<Self>,
        subscribers: Subscribers,
    ) -> (View, impl std::future::Future<Output = ()> + Send + use<>) {
        let subscribers = Arc::new(subscribers);
        let (view, mut reflectors) = reflectors(&subscribers);
        let this = self.clone();
        let run = async move {
            let mut is_new_scan = true;
            let mut changes = Vec::new();
            loop {
                reflectors.replace(this.merge_state(is_new_scan)).await;
                for change in changes.drain(..) {
                    subscribers.notify(&change).await;
                }
                is_new_scan = tokio::select! {
                    () = this.changed.notified() => false,
                    () = tokio::time::sleep(SCAN_INTERVAL) => true,
                };
                if is_new_scan {
                    changes = this.scan();
                }
            }
        };
        (view, run)
    }

    /// Reads the files again. Returns the changed Secrets and ConfigMaps.
    fn scan(&self) -> Vec<ObjectChange> {
        let mut inner = self.inner.lock();
        match inner.manifests.scan() {
            Ok(changes) => changes,
            Err(error) => {
                inner.manifests.log_once(&error.to_string());
                Vec::new()
            }
        }
    }

    /// Returns the objects with their state. `is_new_scan` is true if the files were read since the last call.
    fn merge_state(&self, is_new_scan: bool) -> ObjectLists {
        let mut inner = self.inner.lock();
        let Inner { manifests, state } = &mut *inner;
        let mut objects = ObjectLists::default();
        for (kind, object) in state.merge(manifests, self.prune, is_new_scan) {
            objects.add(kind, &object);
        }
        objects
    }

    /// Changes the state, then writes the changed file. The write runs outside of the lock, so that readers never wait
    /// for the disk.
    async fn update(
        &self,
        change: impl FnOnce(&mut Inner) -> Result<PendingWrite, ManifestError>,
    ) -> Result<(), ClusterError> {
        let failed = |error: String| ClusterError::ClusterError(error);
        let _writing = self.writing.lock().await;
        let write = change(&mut self.inner.lock()).map_err(|e| failed(e.to_string()))?;
        let written = tokio::task::spawn_blocking(move || write.run()).await;
        written.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
        self.changed.notify_one();
        Ok(())
    }
}

impl Cluster for FileCluster {
    fn secret<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>> {
        Box::pin(async move { Ok(self.inner.lock().manifests.secret(key)) })
    }

    fn config_map<'a>(
        &'a self,
        key: &'a ObjectKey,
    ) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>> {
        Box::pin(async move { Ok(self.inner.lock().manifests.config_map(key)) })
    }

    fn write_status<'a>(
        &'a self,
        target: &'a WriteTarget,
        status: Value,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(self.update(move |inner| inner.state.set_status(target, status)))
    }

    fn write_delivery_status<'a>(
        &'a self,
        target: &'a WriteTarget,
        condition: Condition,
        resumed: Option<String>,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(self.update(move |inner| inner.state.set_delivery_status(target, &condition, resumed)))
    }

    fn write_metadata<'a>(
        &'a self,
        target: &'a WriteTarget,
        metadata: Metadata,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(
            self.update(move |Inner { manifests, state }| state.set_metadata(target, metadata, manifests)),
        )
    }

    fn read_object<'a>(&'a self, target: &'a WriteTarget) -> BoxFuture<'a, Result<Value, ClusterError>> {
        Box::pin(async move {
            let mut inner = self.inner.lock();
            let Inner { manifests, state } = &mut *inner;
            let objects = state.merge(manifests, self.prune, false);
            let matches = |kind: ResourceKind, object: &Value| {
                let meta = |name: &str| object.pointer(&format!("/metadata/{name}")).and_then(Value::as_str);
                kind == target.kind
                    && meta("name") == Some(target.key.name.as_str())
                    && meta("namespace") == Some(target.key.namespace.as_str())
            };
            let found = objects.into_iter().find(|(kind, object)| matches(*kind, object));
            found.map(|(_, object)| object).ok_or(ClusterError::Gone)
        })
    }

    fn publish_event<'a>(
        &'a self,
        target: &'a WriteTarget,
        warning: bool,
        note: &'a ConditionMessage,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let kind: &str = target.kind.into();
            if warning {
                tracing::warn!(object = %target.key, kind, reason = note.reason, "{}", note.message);
            } else {
                tracing::info!(object = %target.key, kind, reason = note.reason, "{}", note.message);
            }
        })
    }

    fn publishes_to_log(&self) -> bool {
        true
    }

    fn key_ring(&self, _create: bool) -> BoxFuture<'_, Result<Arc<KeyRing>, ClusterError>> {
        Box::pin(async move { Ok(self.key_ring.clone()) })
    }

    /// Returns a constant: uids are derived from names here, so any folder may use the store of another.
    fn installation_id(&self) -> BoxFuture<'_, Result<Option<String>, ClusterError>> {
        Box::pin(async { Ok(Some("standalone".to_owned())) })
    }

    /// Derives the uid from the name: namespaces are neither created nor deleted here.
    fn namespace_uid<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<String>, ClusterError>> {
        Box::pin(async move { Ok(Some(object_uid("Namespace", "", name))) })
    }

    fn authorize<'a>(
        &'a self,
        token: Option<&'a str>,
        _permission: Permission<'a>,
    ) -> BoxFuture<'a, Result<(), AuthorizationError>> {
        Box::pin(async move {
            let Some(expected) = &self.token else { return Ok(()) };
            let given = token.unwrap_or_default();
            let is_equal: bool = expected.expose_secret().as_bytes().ct_eq(given.as_bytes()).into();
            if is_equal { Ok(()) } else { Err(AuthorizationError::Unauthenticated) }
        })
    }
}
