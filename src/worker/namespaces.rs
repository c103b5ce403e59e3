//! Which namespace of a name is meant: history is a namespace's own by its uid, and ends with it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::dispatch::Handle;
use super::route::Routes;
use super::store::Store;
use crate::cluster::Cluster;

/// Every namespace is looked at this often.
const EVERY: Duration = Duration::from_secs(60);
/// Before history is shown, its namespace is looked at again where that was longer ago.
const FRESH: Duration = Duration::from_secs(5);
/// An API server that does not answer holds nobody up for longer, and is not asked again for a while.
const WITHIN: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_secs(5);
/// What is accepted is known to be of a namespace that was looked at once: a hook that is new looks again.
const EVER: Duration = Duration::MAX;

/// Looks at namespaces and tells the store.
pub struct Namespaces {
    cluster: Arc<dyn Cluster>,
    store: Arc<dyn Store>,
    dispatch: Handle,
    looked: Mutex<HashMap<String, Instant>>,
    /// When the API server last did not answer.
    failed: Mutex<Option<Instant>>,
}

impl Namespaces {
    pub fn new(cluster: Arc<dyn Cluster>, store: Arc<dyn Store>, dispatch: Handle) -> Self {
        Namespaces { cluster, store, dispatch, looked: Mutex::default(), failed: Mutex::default() }
    }

    /// Before history of this namespace is shown.
    pub async fn shown(&self, name: &str) {
        self.within(name, FRESH).await;
    }

    /// Before something is stored in this namespace. False: there is none of this name, for certain.
    pub async fn stored(&self, name: &str) -> bool {
        self.within(name, EVER).await
    }

    async fn within(&self, name: &str, age: Duration) -> bool {
        let looked = self.looked.lock().get(name).copied();
        let failed = self.failed.lock().is_some_and(|at| at.elapsed() < AGAIN);
        failed || looked.is_some_and(|at| at.elapsed() <= age) || self.look(name).await
    }

    /// Asks for the namespace's uid. Where nobody can tell, it is taken for the one that it was. False: there is none.
    pub async fn look(&self, name: &str) -> bool {
        let uid = match tokio::time::timeout(WITHIN, self.cluster.namespace_uid(name)).await {
            Ok(Ok(uid)) => uid,
            Ok(Err(error)) => {
                self.untold(name, &error.to_string());
                return true;
            }
            Err(_) => {
                self.untold(name, "the API server does not answer");
                return true;
            }
        };
        match self.store.namespace_is(name, uid.as_deref()).await {
            Ok(ended) => {
                if ended {
                    tracing::info!(namespace = name, "the namespace ended: its history is removed");
                    self.dispatch.namespace_ended(name.into()).await;
                }
                self.note(name, uid.is_some());
            }
            Err(error) => {
                tracing::warn!(namespace = name, %error, "which namespace this is could not be noted")
            }
        }
        uid.is_some()
    }

    fn untold(&self, name: &str, error: &str) {
        tracing::debug!(namespace = name, error, "which namespace this is cannot be told now");
        *self.failed.lock() = Some(Instant::now());
    }

    fn note(&self, name: &str, exists: bool) {
        let mut looked = self.looked.lock();
        match exists {
            true => looked.insert(name.to_owned(), Instant::now()),
            // Not kept: who makes up names must not fill the memory.
            false => looked.remove(name),
        };
    }

    /// Looks at every namespace now and then. Never ends.
    pub async fn follow(&self, routes: &Routes) {
        loop {
            let mut names: BTreeSet<String> = routes.namespaces();
            names.extend(self.store.namespaces().await.unwrap_or_default());
            for name in names {
                self.look(&name).await;
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}
