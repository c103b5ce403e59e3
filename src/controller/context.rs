//! The context that all reconciles share: clients, settings and caches.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use url::Url;

use super::backoff::Backoff;
use super::named_ids::all_named_ids;
use super::state::{
    ClaimedIds, Installations, ObjectMemory, OwnerIndex, Snapshots, SourceCache, StreamFailures,
};
use crate::admin::auth0::LoginCache;
use crate::admin::kong::DetectedCapabilities;
use crate::admin::limit::Pacer;
use crate::admin::{AdminAccess, AdminError, MAX_RESPONSE};
use crate::api::{Capabilities, Connection, DeletionPolicy, EventHook, EventStream};
use crate::cluster::{Cluster, ClusterError, ObjectKey, View};
use crate::core::bucket::Rate;
use crate::core::keys::KeyRing;
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::net::HttpClient;

/// The memory of admin responses in a process without a worker, and so without a memory budget: four of the largest.
const DEFAULT_ADMIN_MEMORY: u64 = 4 * MAX_RESPONSE as u64;

/// The controller's settings.
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    /// The worker's address for Kong, unless the Connection has its own.
    pub ingest_url: Option<Url>,
    /// The worker's internet address for Auth0, unless the Connection has its own.
    pub public_ingest_url: Option<Url>,
    /// Time between two comparisons of an object with the vendor, unless the Connection has its own.
    pub resync_interval: Duration,
    /// Rate limit of calls to one host, over all Connections.
    pub admin_ceiling: Rate,
    /// Bytes of all responses of admin APIs together.
    pub admin_memory: u64,
    /// How long the worker accepts relayed events with the settings that Kong had before a change.
    pub relay_overlap: Duration,
    /// Time between two checks of the key ring, in addition to those of reconciles.
    pub key_ring_check: Duration,
    /// The id of this installation. None: the cluster's default.
    pub installation_id: Option<String>,
    /// Former ids of this installation, whose relays it continues to own.
    pub former_installation_ids: Vec<String>,
    pub deadlines: Deadlines,
    /// Keep every object of a list, and read an object alone only if no list shows it. For a preview: one list serves all
    /// its objects, and is as old as the command at most.
    pub prefers_lists: bool,
}

impl Default for ControllerOptions {
    fn default() -> Self {
        let resync_interval = Duration::from_secs(600);
        let admin_ceiling = Rate { requests: 10, interval: Duration::from_secs(1), burst: 10 };
        ControllerOptions {
            ingest_url: None,
            public_ingest_url: None,
            resync_interval,
            admin_ceiling,
            admin_memory: DEFAULT_ADMIN_MEMORY,
            relay_overlap: Duration::from_secs(600),
            key_ring_check: Duration::from_secs(30),
            installation_id: None,
            former_installation_ids: Vec::new(),
            deadlines: Deadlines::default(),
            prefers_lists: false,
        }
    }
}

/// How long the controller waits for events that may never happen.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// Bounds a deletion without usable credentials, the wait for other finalizers, and the deletion of an external
    /// object at a former address.
    pub credentials: Duration,
    /// Bounds a deletion at a vendor that does not answer or rejects the call.
    pub vendor: Duration,
    /// Grace period after a create, in which the vendor may not show the new object.
    pub creation: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            credentials: Duration::from_secs(600),
            vendor: Duration::from_secs(3600),
            creation: Duration::from_secs(30),
        }
    }
}

/// Shared by all reconciles.
pub struct Context {
    pub cluster: Arc<dyn Cluster>,
    pub view: View,
    pub http: HttpClient,
    pub options: ControllerOptions,
    pub metrics: Arc<Metrics>,
    /// Only the leader reconciles. `Cluster` checks the leadership again before each write, and `pacer` before each
    /// call to a vendor.
    pub leadership: Leadership,
    /// Builds the HTTP clients of Connections; these clients enforce the rate limits.
    pub pacer: Arc<Pacer>,
    pub(super) backoff: Backoff,
    pub(super) memory: ObjectMemory,
    pub(super) claims: ClaimedIds,
    pub(super) owners: Arc<OwnerIndex>,
    pub(super) snapshots: Snapshots,
    pub(super) sources: SourceCache,
    pub(super) stream_failures: StreamFailures,
    pub(super) installations: Installations,
    /// Access tokens of Auth0.
    pub(super) tokens: LoginCache,
    /// The accesses that last worked, by Connection and address. They let the controller clean up after the Secret was
    /// deleted, and at an address that the Connection no longer has.
    last_access: Mutex<HashMap<(ObjectKey, String), AdminAccess>>,
    /// The deletion policies of Connections as they were last read. They stay known after a Connection was deleted.
    last_policies: Mutex<HashMap<ObjectKey, DeletionPolicy>>,
    /// Capabilities of gateways, learned from their answers, by Connection.
    capabilities: Mutex<HashMap<ObjectKey, Arc<DetectedCapabilities>>>,
    /// Responses that were too large for a reconcile, by the object's uid, with its Connection.
    oversized: Mutex<HashMap<String, (ObjectKey, AdminError)>>,
    /// Reconcile requests for Connections whose status lacks something that another reconcile learned.
    connection_updates: mpsc::UnboundedSender<ObjectKey>,
    pub(super) connections_to_update: Mutex<Option<mpsc::UnboundedReceiver<ObjectKey>>>,
    /// A deleted key ring was restored, and no object has reported it yet.
    key_ring_restored: AtomicBool,
}

impl Context {
    pub fn new(
        cluster: Arc<dyn Cluster>,
        view: View,
        http: HttpClient,
        options: ControllerOptions,
        metrics: Arc<Metrics>,
        leadership: Leadership,
    ) -> Self {
        let (connection_updates, connections_to_update) = mpsc::unbounded_channel();
        let owners = {
            let view = view.clone();
            Arc::new(OwnerIndex::new(move || all_named_ids(&view)))
        };
        let (named, keeps_all) = (owners.clone(), options.prefers_lists);
        Context {
            pacer: Pacer::new(
                options.admin_ceiling,
                leadership.clone(),
                metrics.clone(),
                options.admin_memory,
            ),
            leadership,
            cluster,
            view,
            http,
            options,
            metrics,
            backoff: Backoff::default(),
            memory: ObjectMemory::default(),
            claims: ClaimedIds::default(),
            owners,
            snapshots: Snapshots::new(move |id| keeps_all || named.contains(id)),
            sources: SourceCache::default(),
            stream_failures: StreamFailures::default(),
            installations: Installations::default(),
            tokens: LoginCache::default(),
            last_access: Mutex::default(),
            last_policies: Mutex::default(),
            capabilities: Mutex::default(),
            oversized: Mutex::default(),
            connection_updates,
            connections_to_update: Mutex::new(Some(connections_to_update)),
            key_ring_restored: AtomicBool::new(false),
        }
    }

    /// Returns the longest accepted age of a list that is searched for a name. Zero before a write: a list from before this
    /// moment may lack an object with that name.
    pub(super) fn max_name_list_age(&self) -> Duration {
        if self.options.prefers_lists { Duration::MAX } else { Duration::ZERO }
    }

    /// Drops the caches of writes. Called when leadership is gained: another replica may have written since.
    pub fn clear_caches(&self) {
        self.memory.clear();
        self.claims.clear();
        self.snapshots.clear();
    }

    /// Drops the state of one object.
    pub(super) fn forget(&self, uid: &str) {
        self.backoff.forget(uid);
        self.memory.forget(uid);
        self.claims.forget(uid);
        self.stream_failures.forget(uid);
        let oversized = self.oversized.lock().remove(uid);
        if let Some((connection, _)) = oversized {
            self.connection_updates.send(connection).ok();
        }
    }

    /// Remembers an access that worked.
    pub(super) fn remember_access(&self, connection: ObjectKey, access: &AdminAccess) {
        self.last_access.lock().insert((connection, access.endpoint()), access.clone());
    }

    /// Returns the access that last worked at this address. Without an address, returns one that worked at any address of
    /// the Connection.
    pub(super) fn last_access(&self, connection: &ObjectKey, endpoint: Option<&str>) -> Option<AdminAccess> {
        let all = self.last_access.lock();
        match endpoint {
            Some(endpoint) => all.get(&(connection.clone(), endpoint.to_owned())).cloned(),
            None => all.iter().find(|((key, _), _)| key == connection).map(|(_, access)| access.clone()),
        }
    }

    /// Remembers the deletion policy of a Connection.
    pub(super) fn remember_policy(&self, connection: &Connection) {
        let policy = connection.spec.deletion_policy.unwrap_or(DeletionPolicy::Delete);
        self.last_policies.lock().insert(ObjectKey::of(connection), policy);
    }

    /// Returns the deletion policy of a Connection as it was last read. None if this process never read it.
    pub(super) fn last_policy(&self, connection: &ObjectKey) -> Option<DeletionPolicy> {
        self.last_policies.lock().get(connection).copied()
    }

    /// Drops the credentials and capabilities of a deleted Connection.
    pub(super) fn forget_connection(&self, connection: &ObjectKey) {
        self.last_access.lock().retain(|(key, _), _| key != connection);
        self.last_policies.lock().remove(connection);
        self.capabilities.lock().remove(connection);
        self.oversized.lock().retain(|_, (key, _)| key != connection);
        self.installations.forget_connection(connection);
    }

    /// Remembers whether a response was too large for an object's reconcile, and requests a reconcile of the Connection
    /// when that changes: its status reports it.
    pub(super) fn report_oversized(&self, uid: &str, connection: ObjectKey, error: Option<&AdminError>) {
        let mut all = self.oversized.lock();
        let has_changed = match error {
            Some(error @ AdminError::ResponseTooLarge(_)) => {
                all.insert(uid.to_owned(), (connection.clone(), error.clone())).is_none()
            }
            // A postponed call says nothing about the responses.
            Some(error) if error.is_deferred() => false,
            _ => all.remove(uid).is_some(),
        };
        if has_changed {
            self.request_connection(connection);
        }
    }

    /// Returns the error of a response that was too large for an object of the Connection.
    pub(super) fn oversized_response(&self, connection: &ObjectKey) -> Option<AdminError> {
        let all = self.oversized.lock();
        all.values().find(|(key, _)| key == connection).map(|(_, error)| error.clone())
    }

    /// Returns the capabilities of a gateway that this process has learned, initially those in the Connection's status.
    pub(super) fn capabilities(
        &self,
        connection: &ObjectKey,
        in_status: Option<&Capabilities>,
    ) -> Arc<DetectedCapabilities> {
        let mut all = self.capabilities.lock();
        let entry = all.entry(connection.clone());
        entry
            .or_insert_with(|| Arc::new(DetectedCapabilities::new(in_status.cloned().unwrap_or_default())))
            .clone()
    }

    /// Forgets the capabilities of a gateway, because another version may have others. Inserts an empty entry: without it,
    /// the status that the watch still shows would restore the capabilities of the older version.
    pub(super) fn reset_capabilities(&self, connection: &ObjectKey) {
        self.capabilities.lock().insert(connection.clone(), Arc::default());
    }

    /// Requests a reconcile of the Connection if new capabilities of its gateway were learned, so that its status gets them.
    pub(super) fn report_new_capabilities(&self, connection: ObjectKey, access: &AdminAccess) {
        let AdminAccess::Kong(kong) = access else { return };
        if kong.capabilities.take_changed() {
            self.request_connection(connection);
        }
    }

    /// Requests a reconcile of a Connection.
    pub(super) fn request_connection(&self, connection: ObjectKey) {
        // A closed channel means that the controller is stopping.
        self.connection_updates.send(connection).ok();
    }

    /// Returns the key ring and creates it when the first object needs it. Does not create one while a vendor still has
    /// a secret that derives from a lost key ring: the worker would silently reject every relay.
    pub(super) async fn key_ring(&self) -> Result<Arc<KeyRing>, ClusterError> {
        let key_ring = self.load_key_ring().await?;
        // Fails one reconcile, which is repeated: its condition, its Event and the metric report the deletion.
        if self.is_key_ring_restored() && self.key_ring_restored.swap(false, Ordering::Relaxed) {
            let text = "its Secret was deleted, and restored from memory: find out who deleted it; to revoke a key, replace it";
            return Err(ClusterError::KeyRing(text.into()));
        }
        Ok(key_ring)
    }

    /// True if a deleted key ring was restored, and no object has reported it yet.
    pub(super) fn is_key_ring_restored(&self) -> bool {
        if self.cluster.take_key_ring_restored() {
            self.metrics.record_key_ring_restore();
            self.key_ring_restored.store(true, Ordering::Relaxed);
        }
        self.key_ring_restored.load(Ordering::Relaxed)
    }

    /// Like `key_ring`, but leaves the report of a restored key ring to the next caller of `key_ring`.
    pub(super) async fn load_key_ring(&self) -> Result<Arc<KeyRing>, ClusterError> {
        match self.cluster.key_ring(false).await {
            // Check the objects only in this case, because the check reads all of them.
            Err(ClusterError::KeyRing(_)) => self.cluster.key_ring(self.key_ring_user().is_none()).await,
            other => other,
        }
    }

    /// Returns an object whose vendor has a secret that derives from a key ring.
    pub(super) fn key_ring_user(&self) -> Option<KeyRingUser> {
        let is_hook_keyed = |hook: &EventHook| {
            let applied = hook.status.as_ref().and_then(|s| s.applied.as_ref());
            applied.is_some_and(|a| a.settings.key_id.is_some())
        };
        let is_stream_keyed = |stream: &EventStream| {
            let applied = stream.status.as_ref().and_then(|s| s.applied.as_ref());
            applied.is_some_and(|a| a.settings.key_id.is_some())
        };
        let hook = self.view.hooks.all().find(|h| h.0.as_ref().is_ok_and(is_hook_keyed));
        let stream = || self.view.streams.all().find(|s| s.0.as_ref().is_ok_and(is_stream_keyed));
        match hook {
            Some(hook) => Some(KeyRingUser::EventHook(ObjectKey::of(&*hook))),
            None => stream().map(|stream| KeyRingUser::EventStream(ObjectKey::of(&*stream))),
        }
    }
}

/// An object that depends on the key ring.
#[derive(Clone, Debug)]
pub(super) enum KeyRingUser {
    EventHook(ObjectKey),
    EventStream(ObjectKey),
}
