//! The context that all reconciles share: clients, settings and caches.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use url::Url;

use super::backoff::Backoff;
use super::state::{ClaimedIds, ObjectMemory, Snapshots, SourceCache, StreamFailures};
use crate::admin::auth0::LoginCache;
use crate::admin::kong::DetectedCapabilities;
use crate::admin::limit::Pacer;
use crate::admin::{AdminAccess, MAX_RESPONSE};
use crate::api::{Capabilities, EventHook, EventStream};
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
    pub deadlines: Deadlines,
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
            deadlines: Deadlines::default(),
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
    pub(super) snapshots: Snapshots,
    pub(super) sources: SourceCache,
    pub(super) stream_failures: StreamFailures,
    /// Access tokens of Auth0.
    pub(super) tokens: LoginCache,
    /// The accesses that last worked, by Connection and address. They let the controller clean up after the Secret was
    /// deleted, and at an address that the Connection no longer has.
    last_access: Mutex<HashMap<(ObjectKey, String), AdminAccess>>,
    /// Capabilities of gateways, learned from their answers, by Connection.
    capabilities: Mutex<HashMap<ObjectKey, Arc<DetectedCapabilities>>>,
    /// Reconcile requests for Connections whose status lacks a newly learned capability.
    capability_updates: mpsc::UnboundedSender<ObjectKey>,
    pub(super) connections_to_update: Mutex<Option<mpsc::UnboundedReceiver<ObjectKey>>>,
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
        let (capability_updates, connections_to_update) = mpsc::unbounded_channel();
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
            snapshots: Snapshots::default(),
            sources: SourceCache::default(),
            stream_failures: StreamFailures::default(),
            tokens: LoginCache::default(),
            last_access: Mutex::default(),
            capabilities: Mutex::default(),
            capability_updates,
            connections_to_update: Mutex::new(Some(connections_to_update)),
        }
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
    }

    /// Remembers an access that worked.
    pub(super) fn remember_access(&self, connection: ObjectKey, access: &AdminAccess) {
        self.last_access.lock().insert((connection, access.endpoint()), access.clone());
    }

    /// Returns the access that last worked at this address, or, if there is none, at any address of the Connection.
    pub(super) fn last_access(&self, connection: &ObjectKey, endpoint: Option<&str>) -> Option<AdminAccess> {
        let all = self.last_access.lock();
        let at_endpoint = endpoint.and_then(|endpoint| all.get(&(connection.clone(), endpoint.to_owned())));
        at_endpoint
            .or_else(|| all.iter().find(|((key, _), _)| key == connection).map(|(_, access)| access))
            .cloned()
    }

    /// Drops the credentials and capabilities of a deleted Connection.
    pub(super) fn forget_connection(&self, connection: &ObjectKey) {
        self.last_access.lock().retain(|(key, _), _| key != connection);
        self.capabilities.lock().remove(connection);
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
            // A closed channel means that the controller is stopping.
            self.capability_updates.send(connection).ok();
        }
    }

    /// Returns the key ring and creates it when the first object needs it. Does not create one while a vendor still has
    /// a secret that derives from a lost key ring: the worker would silently reject every relay.
    pub(super) async fn key_ring(&self) -> Result<Arc<KeyRing>, ClusterError> {
        let key_ring = match self.cluster.key_ring(false).await {
            // Check the objects only in this case, because the check reads all of them.
            Err(ClusterError::KeyRing(_)) => self.cluster.key_ring(!self.depends_on_a_key_ring()).await?,
            other => other?,
        };
        // Fails one reconcile, which is repeated: its condition, its Event and the metric report the deletion.
        if self.cluster.take_key_ring_restored() {
            let text = "its Secret was deleted, and restored from memory: find out who deleted it; to revoke a key, replace it";
            return Err(ClusterError::KeyRing(text.into()));
        }
        Ok(key_ring)
    }

    /// True if a vendor has a secret that derives from a key ring.
    fn depends_on_a_key_ring(&self) -> bool {
        let is_hook_keyed = |hook: &EventHook| {
            let applied = hook.status.as_ref().and_then(|s| s.applied.as_ref());
            applied.is_some_and(|a| a.settings.key_id.is_some())
        };
        let is_stream_keyed = |stream: &EventStream| {
            let applied = stream.status.as_ref().and_then(|s| s.applied.as_ref());
            applied.is_some_and(|a| a.settings.key_id.is_some())
        };
        self.view.hooks.find(|h| h.0.as_ref().is_ok_and(is_hook_keyed)).is_some()
            || self.view.streams.find(|s| s.0.as_ref().is_ok_and(is_stream_keyed)).is_some()
    }
}
