//! The `Cluster` of standalone: manifests from files and folders, and state in the data folder.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use subtle::ConstantTimeEq;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::definition::ManifestKey;
use super::documents::ManifestError;
use super::file_scanner::{FileChanges, FileScanner};
use super::installation::{open_installation_id, read_installation_id};
use super::key_ring::open_key_ring;
use super::manifest_set::ManifestSet;
use super::object_lists::{ObjectLists, Reflectors, reflectors};
use super::objects::{FileObject, object_uid};
use super::state::{ObjectId, PendingWrite, StateStore};
use crate::cluster::{
    AuthorizationError, Cluster, ClusterError, Data, DeliveryStatus, Metadata, ObjectChange, ObjectKey,
    Permission, ResourceKind, Subscribers, View, WriteTarget,
};
use crate::core::conditions::ConditionMessage;
use crate::core::keys::KeyRing;
use crate::core::names::is_namespace;
use crate::core::time::Millis;

/// The time between two scans. An edited manifest is applied after one scan, a removed one after three.
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
    /// Locked while the files are read, unlike `inner`, for which deliveries wait.
    scanner: Mutex<ScannerState>,
    inner: Mutex<Inner>,
    /// Locked from a change until its file is written, so that an older write cannot overtake a newer one.
    writing: tokio::sync::Mutex<()>,
    changed: Notify,
    key_ring: Arc<KeyRing>,
    /// None until `create_installation_id`.
    installation: Mutex<Option<String>>,
    data: PathBuf,
    token: Option<SecretString>,
    prune: bool,
}

struct ScannerState {
    scanner: FileScanner,
    /// The error of the last scan. It was logged.
    last_error: Option<String>,
}

struct Inner {
    manifests: ManifestSet,
    state: StateStore,
    /// Objects that changed since the view was updated.
    changed: BTreeSet<ObjectId>,
    /// Secrets and ConfigMaps that changed since the subscribers were notified.
    changed_data: Vec<ObjectChange>,
}

impl FileCluster {
    /// Reads the manifests and the state. A path that does not exist or contains no manifest is an error. Otherwise an
    /// operator with a mistyped path would start without objects and look healthy.
    pub fn open(options: FileClusterOptions) -> Result<Self, ManifestError> {
        let key_ring = Arc::new(open_key_ring(&options.data)?);
        let mut state = StateStore::open(&options.data)?;
        let mut scanner = FileScanner::new(options.manifests, false);
        let mut manifests = ManifestSet::default();
        manifests.apply(scanner.scan()?);
        for ((kind, key), file) in state.saved_objects() {
            manifests.expect(*kind, key.clone(), file);
        }
        state.restart_cleanups(Millis::now());
        let (changed, changed_data) = (BTreeSet::new(), Vec::new());
        Ok(FileCluster {
            scanner: Mutex::new(ScannerState { scanner, last_error: None }),
            inner: Mutex::new(Inner { manifests, state, changed, changed_data }),
            writing: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            key_ring,
            installation: Mutex::new(read_installation_id(&options.data)?),
            data: options.data,
            token: options.token,
            prune: options.prune,
        })
    }

    /// Returns the current objects, for a command that reads them once. Objects without a manifest are left out, unless
    /// they exist at a vendor.
    pub async fn view(&self) -> View {
        self.objects(|object| object.problem.is_none()).into_view().await
    }

    /// Gives this installation a random id, unless it has one. Commands that only read a data folder do not call it.
    pub fn create_installation_id(&self) -> Result<(), ManifestError> {
        *self.installation.lock() = Some(open_installation_id(&self.data)?);
        Ok(())
    }

    /// Returns all objects as untyped JSON, also those that cannot be deserialized. Leaves out removed ones.
    pub fn raw_objects(&self) -> Vec<(ResourceKind, Value)> {
        let mut inner = self.inner.lock();
        let ids = inner.ids();
        let objects = ids.iter().filter_map(|id| Some((id.0, inner.object(id, self.prune)?.value)));
        objects.collect()
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
            reflectors.replace(this.objects(|_| true)).await;
            let mut next_scan = Instant::now() + SCAN_INTERVAL;
            loop {
                tokio::select! {
                    () = this.changed.notified() => {}
                    // At a fixed time: status writes, of which there may be thousands, must not postpone the scan.
                    () = tokio::time::sleep_until(next_scan) => {
                        this.scan_in_background().await;
                        next_scan = Instant::now() + SCAN_INTERVAL;
                    }
                }
                this.update_view(&mut reflectors, &subscribers).await;
            }
        };
        (view, run)
    }

    /// Applies the changes since the last call to the view, and notifies the subscribers. Its work is proportional to the
    /// number of changed objects.
    async fn update_view(&self, reflectors: &mut Reflectors, subscribers: &Subscribers) {
        let (mut objects, data) = {
            let mut inner = self.inner.lock();
            let objects: Vec<ObjectId> = std::mem::take(&mut inner.changed).into_iter().collect();
            (objects, std::mem::take(&mut inner.changed_data))
        };
        objects.sort_by_key(|(kind, _)| update_order(*kind));
        for id in objects {
            // One object at a time, so that deliveries never wait long for the lock.
            let object = self.inner.lock().object(&id, self.prune);
            reflectors.update(id.0, &id.1, object.as_ref()).await;
        }
        for change in data {
            subscribers.notify(&change).await;
        }
    }

    /// Scans on a blocking thread: reading and parsing many files must not delay requests.
    async fn scan_in_background(self: &Arc<Self>) {
        let this = self.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || this.scan()).await {
            tracing::error!(%error, "scan of the manifests failed");
        }
    }

    /// Reads the changed files, and records what they add, change or remove.
    fn scan(&self) {
        let mut files = self.scanner.lock();
        let changes = match files.scanner.scan() {
            Ok(changes) => changes,
            Err(error) => {
                let error = error.to_string();
                // Every scan would log it again.
                if files.last_error.as_ref() != Some(&error) {
                    tracing::error!("{error}; the objects that were last read stay in effect");
                    files.last_error = Some(error);
                }
                return;
            }
        };
        files.last_error = None;
        // An older write of a state must not run after the deletion of its file.
        let _writing = self.writing.blocking_lock();
        let writes = self.inner.lock().apply(changes);
        for write in writes {
            if let Err(error) = write.and_then(PendingWrite::run) {
                tracing::warn!(%error, "write of the state of a removed object failed");
            }
        }
    }

    /// Returns the objects that pass the filter.
    fn objects(&self, filter: impl Fn(&FileObject) -> bool) -> ObjectLists {
        let mut inner = self.inner.lock();
        let ids = inner.ids();
        let mut objects = ObjectLists::default();
        for id in ids {
            if let Some(object) = inner.object(&id, self.prune).filter(&filter) {
                objects.add(id.0, &object);
            }
        }
        objects
    }

    /// Changes the state of an object, then writes its file. The write runs outside of the lock, so that readers never wait
    /// for the disk.
    async fn update(
        &self,
        target: &WriteTarget,
        change: impl FnOnce(&mut Inner) -> Result<PendingWrite, ManifestError>,
    ) -> Result<(), ClusterError> {
        let failed = |error: String| ClusterError::ClusterError(error);
        let _writing = self.writing.lock().await;
        let write = {
            let mut inner = self.inner.lock();
            inner.changed.insert((target.kind, target.key.clone()));
            change(&mut inner).map_err(|e| failed(e.to_string()))?
        };
        let written = tokio::task::spawn_blocking(move || write.run()).await;
        written.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
        self.changed.notify_one();
        Ok(())
    }
}

impl Inner {
    /// Returns the ids of all objects with a manifest or a state.
    fn ids(&self) -> BTreeSet<ObjectId> {
        let defined = self.manifests.objects().map(|(kind, key, _)| (kind, key.clone()));
        defined.chain(self.state.ids().cloned()).collect()
    }

    fn object(&mut self, id: &ObjectId, prune: bool) -> Option<FileObject> {
        self.state.object(id, &self.manifests, prune)
    }

    /// Applies the result of a scan. Returns the writes that follow from removed objects.
    fn apply(&mut self, changes: FileChanges) -> Vec<Result<PendingWrite, ManifestError>> {
        let mut writes = Vec::new();
        for key in self.manifests.apply(changes) {
            self.changed_data.extend(key.data_change());
            let ManifestKey::Object(kind, key) = key else { continue };
            let is_removed = self.manifests.object(kind, &key).is_none();
            let id = (kind, key);
            if is_removed {
                writes.push(self.state.set_removed(&id, &self.manifests));
            }
            self.changed.insert(id);
        }
        writes
    }
}

/// Returns the order of updates: Connections, which the others reference, come first and EventHooks last.
fn update_order(kind: ResourceKind) -> u8 {
    match kind {
        ResourceKind::Connection => 0,
        ResourceKind::EventStream => 1,
        ResourceKind::Hook => 2,
        ResourceKind::EventHook => 3,
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
        Box::pin(self.update(target, move |Inner { manifests, state, .. }| {
            state.set_status(target, status, manifests)
        }))
    }

    fn write_delivery_status<'a>(
        &'a self,
        target: &'a WriteTarget,
        status: DeliveryStatus,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(self.update(target, move |Inner { manifests, state, .. }| {
            state.set_delivery_status(target, status, manifests)
        }))
    }

    fn write_metadata<'a>(
        &'a self,
        target: &'a WriteTarget,
        metadata: Metadata,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(self.update(target, move |Inner { manifests, state, .. }| {
            state.set_metadata(target, metadata, manifests)
        }))
    }

    fn read_object<'a>(&'a self, target: &'a WriteTarget) -> BoxFuture<'a, Result<Value, ClusterError>> {
        Box::pin(async move {
            let object = self.inner.lock().object(&(target.kind, target.key.clone()), self.prune);
            object.map(|object| object.value).ok_or(ClusterError::Gone)
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

    /// Returns a random id: two installations with the same manifests have the same uids.
    fn installation_mark(&self) -> BoxFuture<'_, Result<Option<String>, ClusterError>> {
        Box::pin(async { Ok(self.installation.lock().clone()) })
    }

    /// Derives the uid from the name: namespaces are neither created nor deleted here. A name that no namespace can have has
    /// none.
    fn namespace_uid<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<String>, ClusterError>> {
        Box::pin(async move { Ok(is_namespace(name).then(|| object_uid("Namespace", "", name))) })
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
