//! What every reconcile has at hand.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use url::Url;

use super::backoff::Backoff;
use super::eventhook::Sources;
use super::eventstream::Failures;
use super::reconcile::{Claims, Memory, Snapshots};
use crate::admin::Access;
use crate::admin::auth0::Tokens;
use crate::admin::kong::Learned;
use crate::admin::limit::Pacer;
use crate::api::{Capabilities, EventHook, EventStream};
use crate::cluster::{Cluster, ClusterError, Key, View};
use crate::core::bucket::Rate;
use crate::core::keys::KeyRing;
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::net::HttpClient;

/// The controller's settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// How Kong reaches the worker, unless a Connection says so itself.
    pub ingest_url: Option<Url>,
    /// How Auth0 reaches the worker from the internet, unless a Connection says so itself.
    pub public_ingest_url: Option<Url>,
    /// How often objects are compared with the vendor, unless a Connection says so itself.
    pub resync_interval: Duration,
    /// How often one host is called at most, by all Connections together.
    pub admin_ceiling: Rate,
    pub patience: Patience,
}

impl Default for Options {
    fn default() -> Self {
        let resync_interval = Duration::from_secs(600);
        let admin_ceiling = Rate { requests: 10, interval: Duration::from_secs(1), burst: 10 };
        Options {
            ingest_url: None,
            public_ingest_url: None,
            resync_interval,
            admin_ceiling,
            patience: Patience::default(),
        }
    }
}

/// How long is waited for what may never come.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For credentials of a vendor, for other finalizers, and for an address that is no longer used.
    pub credentials: Duration,
    /// For a vendor that answers nothing, or only refuses, while an object is being deleted.
    pub vendor: Duration,
    /// How long what was created may not be shown.
    pub creation: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            credentials: Duration::from_secs(600),
            vendor: Duration::from_secs(3600),
            creation: Duration::from_secs(30),
        }
    }
}

/// What every reconcile has at hand.
pub struct Context {
    pub cluster: Arc<dyn Cluster>,
    pub view: View,
    pub http: HttpClient,
    pub options: Options,
    pub metrics: Arc<Metrics>,
    /// Only the replica that leads reconciles. The writes themselves ask again: `Cluster` before each of the controller's,
    /// `pacer` before each call.
    pub leadership: Leadership,
    /// Makes the HTTP clients of Connections, which keep their rates.
    pub pacer: Arc<Pacer>,
    pub(super) backoff: Backoff,
    pub(super) memory: Memory,
    pub(super) claims: Claims,
    pub(super) snapshots: Snapshots,
    pub(super) sources: Sources,
    pub(super) failures: Failures,
    /// The logins at Auth0.
    pub(super) tokens: Tokens,
    /// The accesses that last worked, by Connection and address: a namespace whose Secret is deleted first still cleans
    /// up, and an address that a Connection no longer has, too.
    last_access: Mutex<HashMap<(Key, String), Access>>,
    /// What gateways were found to be able to do, by Connection.
    learned: Mutex<HashMap<Key, Arc<Learned>>>,
    /// Connections that have something new to tell.
    nudges: mpsc::UnboundedSender<Key>,
    pub(super) nudged: Mutex<Option<mpsc::UnboundedReceiver<Key>>>,
}

impl Context {
    pub fn new(
        cluster: Arc<dyn Cluster>,
        view: View,
        http: HttpClient,
        options: Options,
        metrics: Arc<Metrics>,
        leadership: Leadership,
    ) -> Self {
        let (nudges, nudged) = mpsc::unbounded_channel();
        Context {
            pacer: Pacer::new(options.admin_ceiling, leadership.clone(), metrics.clone()),
            leadership,
            cluster,
            view,
            http,
            options,
            metrics,
            backoff: Backoff::default(),
            memory: Memory::default(),
            claims: Claims::default(),
            snapshots: Snapshots::default(),
            sources: Sources::default(),
            failures: Failures::default(),
            tokens: Tokens::default(),
            last_access: Mutex::default(),
            learned: Mutex::default(),
            nudges,
            nudged: Mutex::new(Some(nudged)),
        }
    }

    /// Another replica may write from now on: what is remembered may be old when this one leads again.
    pub fn forget_all(&self) {
        self.memory.clear();
        self.claims.clear();
        self.snapshots.clear();
    }

    pub(super) fn forget(&self, uid: &str) {
        self.backoff.forget(uid);
        self.memory.forget(uid);
        self.claims.forget(uid);
        self.failures.forget(uid);
    }

    pub(super) fn remember_access(&self, connection: Key, access: &Access) {
        self.last_access.lock().insert((connection, access.endpoint()), access.clone());
    }

    /// The access that last worked: at this address, else at any.
    pub(super) fn last_access(&self, connection: &Key, endpoint: Option<&str>) -> Option<Access> {
        let all = self.last_access.lock();
        let there = endpoint.and_then(|endpoint| all.get(&(connection.clone(), endpoint.to_owned())));
        there
            .or_else(|| all.iter().find(|((key, _), _)| key == connection).map(|(_, access)| access))
            .cloned()
    }

    /// The Connection is gone: nobody needs its credentials any more.
    pub(super) fn forget_connection(&self, connection: &Key) {
        self.last_access.lock().retain(|(key, _), _| key != connection);
        self.learned.lock().remove(connection);
    }

    /// What a gateway can do, as far as this process or the Connection's status knows.
    pub(super) fn learned(&self, connection: &Key, told: Option<&Capabilities>) -> Arc<Learned> {
        let mut all = self.learned.lock();
        let known = all.entry(connection.clone());
        known.or_insert_with(|| Arc::new(Learned::new(told.cloned().unwrap_or_default()))).clone()
    }

    /// Another version may be able to do other things. Nothing is known of it: a status that the watch still shows would
    /// bring back what the older one could do.
    pub(super) fn unlearn(&self, connection: &Key) {
        self.learned.lock().insert(connection.clone(), Arc::default());
    }

    /// Where something about a Connection's gateway was learned, its status is to tell it.
    pub(super) fn tell_news(&self, connection: Key, access: &Access) {
        let Access::Kong(kong) = access else { return };
        if kong.learned.news() {
            // Closed: the controller is stopping.
            self.nudges.send(connection).ok();
        }
    }

    /// The key ring. It is made when the first object needs it, but not while some object was already told a secret of a
    /// ring that is gone: a new one would refuse every relay without a word.
    pub(super) async fn ring(&self) -> Result<Arc<KeyRing>, ClusterError> {
        match self.cluster.key_ring(false).await {
            // Asked only where there is none: to look at every object costs as much as there are objects.
            Err(ClusterError::KeyRing(_)) => self.cluster.key_ring(!self.depends_on_a_ring()).await,
            other => other,
        }
    }

    fn depends_on_a_ring(&self) -> bool {
        let told = |hook: &EventHook| {
            let applied = hook.status.as_ref().and_then(|s| s.applied.as_ref());
            applied.is_some_and(|a| a.terms.key_id.is_some())
        };
        let streams = |stream: &EventStream| {
            let applied = stream.status.as_ref().and_then(|s| s.applied.as_ref());
            applied.is_some_and(|a| a.terms.key_id.is_some())
        };
        self.view.hooks.find(|h| h.0.as_ref().is_ok_and(told)).is_some()
            || self.view.streams.find(|s| s.0.as_ref().is_ok_and(streams)).is_some()
    }
}
