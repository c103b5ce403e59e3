//! The `Cluster` of standalone: manifests from files and folders, and state in a data folder or a shared database.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use secrecy::SecretString;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::definition::ManifestKey;
use super::documents::ManifestError;
use super::file_scanner::{FileChanges, FileScanner};
use super::folder_state::FolderState;
use super::installation::{generate_installation_id, read_installation_id};
use super::key_ring::open_key_ring;
use super::manifest_set::ManifestSet;
use super::object_lists::{ObjectLists, Reflectors, reflectors};
use super::objects::FileObject;
use super::state::{PreparedWrite, StateStore};
use super::state_backend::{ObjectId, StateBackend, StateChanges, StateError};
use crate::cluster::keys::generate_key_ring;
use crate::cluster::{ClusterError, ObjectChange, ResourceKind, Subscribers, View};
use crate::core::keys::KeyRing;
use crate::core::time::Millis;
use crate::leadership::{Leadership, NotLeading};

/// The time between two scans. An edited manifest is applied after one scan, a removed one after three.
const SCAN_INTERVAL: Duration = Duration::from_millis(800);
/// How often a write is repeated that other processes overtake.
const MAX_CONFLICTS: usize = 20;

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

/// The manifests and settings of standalone with a state that several processes share.
#[derive(Debug)]
pub struct SharedClusterOptions {
    /// Files and folders with manifests.
    pub manifests: Vec<PathBuf>,
    /// Delete at the vendor the objects that were removed from the manifests.
    pub prune: bool,
    /// The token that callers must send; None if they need no token.
    pub token: Option<SecretString>,
}

/// A cluster of files: objects from manifests, and their state from a backend.
pub struct FileCluster {
    /// Locked while the files are read, unlike `inner`, for which deliveries wait.
    scanner: Mutex<ScannerState>,
    pub(super) inner: Mutex<Inner>,
    /// Locked from a change until it is stored, so that an older write cannot overtake a newer one.
    writing: tokio::sync::Mutex<()>,
    pub(super) changed: Notify,
    pub(super) key_ring: Mutex<Arc<KeyRing>>,
    /// None until `create_installation_id`.
    pub(super) installation: Mutex<Option<String>>,
    pub(super) backend: Arc<dyn StateBackend>,
    /// Writes of the controller need it.
    pub(super) leadership: Leadership,
    /// None until `watch`.
    view: OnceLock<ViewWriter>,
    pub(super) token: Option<SecretString>,
    pub(super) prune: bool,
}

struct ScannerState {
    scanner: FileScanner,
    /// The error of the last scan. It was logged.
    last_error: Option<String>,
}

pub(super) struct Inner {
    pub(super) manifests: ManifestSet,
    pub(super) state: StateStore,
    /// Objects that changed since the view was updated.
    pub(super) changed: BTreeSet<ObjectId>,
    /// Secrets and ConfigMaps that changed since the subscribers were notified.
    changed_data: Vec<ObjectChange>,
    /// Removed objects of which this is not stored yet.
    removed: BTreeSet<ObjectId>,
}

/// Updates the view.
struct ViewWriter {
    reflectors: tokio::sync::Mutex<Reflectors>,
    subscribers: Arc<Subscribers>,
}

/// Why a cluster of files cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Manifests(#[from] ManifestError),
    #[error("the state of standalone: {0}")]
    State(#[from] StateError),
}

impl FileCluster {
    /// Reads the manifests and the state of a data folder. A path that does not exist or contains no manifest is an error.
    /// Otherwise an operator with a mistyped path would start without objects and look healthy.
    pub fn open(options: FileClusterOptions) -> Result<Self, ManifestError> {
        let FileClusterOptions { manifests, data, prune, token } = options;
        let failed = |error: String| ManifestError::new(&data, error);
        let new = generate_key_ring().map_err(|e| failed(e.to_string()))?;
        let key_ring = open_key_ring(&data, &new)?;
        let folder = FolderState::open(&data)?;
        let stored = folder.load()?;
        let installation = read_installation_id(&data)?;
        let shared = SharedClusterOptions { manifests, prune, token };
        let backend = Arc::new(folder);
        let cluster = Self::new(shared, backend, key_ring, stored, Leadership::always());
        let cluster = cluster.map_err(|error| match error {
            OpenError::Manifests(error) => error,
            OpenError::State(error) => failed(error.to_string()),
        })?;
        *cluster.installation.lock() = installation;
        Ok(cluster)
    }

    /// Reads the manifests as `open` does, and the state of a backend. Of an empty one it creates the key ring and the id of
    /// the installation. `leadership`: that of the controller which writes to this cluster.
    pub async fn connect(
        options: SharedClusterOptions,
        backend: Arc<dyn StateBackend>,
        leadership: Leadership,
    ) -> Result<Self, OpenError> {
        let new = generate_key_ring().map_err(|e| StateError::Failed(e.to_string()))?;
        let key_ring = backend.key_ring(Some(new)).await?.ok_or_else(lost_key_ring)?;
        let stored = backend.changes(None).await?;
        let cluster = Self::new(options, backend, key_ring, stored, leadership)?;
        cluster.create_installation_id().await?;
        Ok(cluster)
    }

    fn new(
        options: SharedClusterOptions,
        backend: Arc<dyn StateBackend>,
        key_ring: KeyRing,
        stored: StateChanges,
        leadership: Leadership,
    ) -> Result<Self, OpenError> {
        let mut state = StateStore::new(backend.is_shared());
        state.apply(stored, true)?;
        let mut scanner = FileScanner::new(options.manifests, false);
        let mut manifests = ManifestSet::default();
        manifests.apply(scanner.scan()?);
        let mut inner = Inner {
            manifests,
            state,
            changed: BTreeSet::new(),
            changed_data: Vec::new(),
            removed: BTreeSet::new(),
        };
        inner.expect_saved_objects();
        Ok(FileCluster {
            scanner: Mutex::new(ScannerState { scanner, last_error: None }),
            inner: Mutex::new(inner),
            writing: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            key_ring: Mutex::new(Arc::new(key_ring)),
            installation: Mutex::default(),
            backend,
            leadership,
            view: OnceLock::new(),
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
    pub async fn create_installation_id(&self) -> Result<(), StateError> {
        let new = generate_installation_id().map_err(|e| StateError::Failed(e.to_string()))?;
        let id = self.backend.installation_id(Some(new)).await?;
        *self.installation.lock() = id;
        Ok(())
    }

    /// Returns all objects as untyped JSON, also those that cannot be deserialized. Leaves out removed ones.
    pub fn raw_objects(&self) -> Vec<(ResourceKind, Value)> {
        let mut inner = self.inner.lock();
        let ids = inner.ids();
        let objects = ids.iter().filter_map(|id| Some((id.0, inner.object(id, self.prune)?.value)));
        objects.collect()
    }

    /// Returns the view that both roles read, and the future that keeps it in sync with the files and with a shared state.
    pub fn watch(
        self: &Arc<Self>,
        subscribers: Subscribers,
    ) -> (View, impl std::future::Future<Output = ()> + Send + use<>) {
        let subscribers = Arc::new(subscribers);
        let (view, reflectors) = reflectors(&subscribers);
        let writer = ViewWriter { reflectors: tokio::sync::Mutex::new(reflectors), subscribers };
        let this = self.clone();
        let run = async move {
            let writer = this.view.get_or_init(|| writer);
            writer.reflectors.lock().await.replace(this.objects(|_| true)).await;
            tokio::join!(this.follow_files(), this.follow_shared_state());
        };
        (view, run)
    }

    /// Scans the files periodically, and updates the view after each change.
    async fn follow_files(self: &Arc<Self>) {
        let mut next_scan = Instant::now() + SCAN_INTERVAL;
        loop {
            tokio::select! {
                () = self.changed.notified() => {}
                // At a fixed time: status writes, of which there may be thousands, must not postpone the scan.
                () = tokio::time::sleep_until(next_scan) => {
                    self.scan_in_background().await;
                    next_scan = Instant::now() + SCAN_INTERVAL;
                }
            }
            self.update_view().await;
        }
    }

    /// Applies the changes since the last call to the view, and notifies the subscribers. Its work is proportional to the
    /// number of changed objects.
    pub(super) async fn update_view(&self) {
        let Some(ViewWriter { reflectors, subscribers }) = self.view.get() else { return };
        let mut reflectors = reflectors.lock().await;
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
        match tokio::task::spawn_blocking(move || this.scan()).await {
            Ok(Some(changes)) => self.inner.lock().apply(changes),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "scan of the manifests failed"),
        }
        self.record_removals().await;
    }

    /// Reads the changed files. None: a path cannot be read, so nothing counts as changed.
    fn scan(&self) -> Option<FileChanges> {
        let mut files = self.scanner.lock();
        match files.scanner.scan() {
            Ok(changes) => {
                files.last_error = None;
                Some(changes)
            }
            Err(error) => {
                let error = error.to_string();
                // Every scan would log it again.
                if files.last_error.as_ref() != Some(&error) {
                    tracing::error!("{error}; the objects that were last read stay in effect");
                    files.last_error = Some(error);
                }
                None
            }
        }
    }

    /// Stores which objects were removed from the manifests. Only the leader does: others may have older files.
    async fn record_removals(&self) {
        // Before it leads, a process finds them by the state of the former leader, and keeps them until it leads.
        if !self.leadership.is_leader() {
            return;
        }
        let removed = std::mem::take(&mut self.inner.lock().removed);
        for id in removed {
            let written = self.write(&id, |Inner { manifests, state, .. }| {
                // It may have come back since an earlier try.
                match manifests.object(id.0, &id.1) {
                    Some(_) => Ok(None),
                    None => state.set_removed(&id, manifests),
                }
            });
            if let Err(error) = written.await {
                tracing::warn!(object = %id.1, %error, "write of the state of a removed object failed, retried");
                self.inner.lock().removed.insert(id);
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

    /// Stores a change of an object's state. `prepare` decides it again if another process has changed the state. The write
    /// runs outside of the lock, so that readers never wait for it.
    pub(super) async fn write(
        &self,
        id: &ObjectId,
        prepare: impl Fn(&mut Inner) -> Result<Option<PreparedWrite>, StateError>,
    ) -> Result<(), ClusterError> {
        let _writing = self.writing.lock().await;
        let mut result = Err(StateError::Conflict);
        for _ in 0..MAX_CONFLICTS {
            let prepared = prepare(&mut self.inner.lock());
            result = match prepared {
                Ok(Some(prepared)) => match self.backend.write(prepared.write.clone()).await {
                    Ok(version) => {
                        self.inner.lock().state.complete(prepared, version);
                        Ok(())
                    }
                    Err(StateError::Conflict) => match self.backend.read(id).await {
                        Ok(stored) => match self.inner.lock().state.replace(id, stored) {
                            Ok(()) => Err(StateError::Conflict),
                            Err(error) => Err(error),
                        },
                        Err(error) => Err(error),
                    },
                    Err(error) => Err(error),
                },
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            if !matches!(result, Err(StateError::Conflict)) {
                break;
            }
        }
        self.inner.lock().changed.insert(id.clone());
        self.changed.notify_one();
        result.map_err(|error| match error {
            StateError::Conflict => ClusterError::Conflict,
            StateError::NotLeading => NotLeading.into(),
            StateError::Failed(error) => ClusterError::ClusterError(error),
        })
    }
}

/// Returns the error of a backend whose key ring was removed while it was read.
pub(super) fn lost_key_ring() -> StateError {
    StateError::Failed("the key ring was removed: restore it from a backup".into())
}

impl Inner {
    /// Returns the ids of all objects with a manifest or a state.
    pub(super) fn ids(&self) -> BTreeSet<ObjectId> {
        let defined = self.manifests.objects().map(|(kind, key, _)| (kind, key.clone()));
        defined.chain(self.state.ids().cloned()).collect()
    }

    pub(super) fn object(&mut self, id: &ObjectId, prune: bool) -> Option<FileObject> {
        self.state.object(id, &self.manifests, prune)
    }

    /// Counts the objects that had a manifest as missing until enough scans agree, and gives cleanups their full period.
    pub(super) fn expect_saved_objects(&mut self) {
        let Inner { manifests, state, .. } = self;
        for ((kind, key), file) in state.saved_objects() {
            manifests.expect(*kind, key.clone(), file);
        }
        state.restart_cleanups(Millis::now());
    }

    /// Applies the result of a scan.
    fn apply(&mut self, changes: FileChanges) {
        for key in self.manifests.apply(changes) {
            self.changed_data.extend(key.data_change());
            let ManifestKey::Object(kind, key) = key else { continue };
            let is_removed = self.manifests.object(kind, &key).is_none();
            let id = (kind, key);
            if is_removed {
                self.removed.insert(id.clone());
            }
            self.changed.insert(id);
        }
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
