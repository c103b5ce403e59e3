//! Tracks the uid of each namespace. History belongs to one namespace object and ends with it, even if the namespace is
//! recreated.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::dispatch::DispatchHandle;
use super::index::HookIndex;
use super::store::MaintenanceStore;
use crate::cluster::Cluster;

/// The pause between two checks of every namespace.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// The maximum age of a check before history is shown.
const MAX_AGE_TO_SHOW: Duration = Duration::from_secs(5);
/// The maximum age of a check before an event is accepted. Any check suffices, because each new hook triggers another
/// one.
const MAX_AGE_TO_ACCEPT: Duration = Duration::MAX;
/// How long a check waits for the API server.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long checks are skipped after the API server failed, so that it does not delay every request.
const FAILURE_PAUSE: Duration = Duration::from_secs(5);

/// Checks namespaces and reports their uids to the store.
pub struct Namespaces {
    cluster: Arc<dyn Cluster>,
    store: Arc<dyn MaintenanceStore>,
    dispatch: DispatchHandle,
    /// When an existing namespace was last checked.
    checked: Mutex<HashMap<String, Instant>>,
    /// When the API server last failed to answer.
    failed: Mutex<Option<Instant>>,
}

impl Namespaces {
    pub fn new(
        cluster: Arc<dyn Cluster>,
        store: Arc<dyn MaintenanceStore>,
        dispatch: DispatchHandle,
    ) -> Self {
        Namespaces { cluster, store, dispatch, checked: Mutex::default(), failed: Mutex::default() }
    }

    /// Checks the namespace before its history is shown.
    pub async fn check_before_read(&self, name: &str) {
        self.check_if_older(name, MAX_AGE_TO_SHOW).await;
    }

    /// Checks the namespace before an event is stored in it. Returns false if it certainly does not exist.
    pub async fn check_before_accept(&self, name: &str) -> bool {
        self.check_if_older(name, MAX_AGE_TO_ACCEPT).await
    }

    async fn check_if_older(&self, name: &str, age: Duration) -> bool {
        let checked = self.checked.lock().get(name).copied();
        let failed = self.failed.lock().is_some_and(|at| at.elapsed() < FAILURE_PAUSE);
        failed || checked.is_some_and(|at| at.elapsed() <= age) || self.check(name).await
    }

    /// Reads the namespace's uid. Returns false if there is no such namespace; an unavailable API server counts as
    /// unchanged.
    pub async fn check(&self, name: &str) -> bool {
        let uid = match tokio::time::timeout(TIMEOUT, self.cluster.namespace_uid(name)).await {
            Ok(Ok(uid)) => uid,
            Ok(Err(error)) => {
                self.record_failure(name, &error.to_string());
                return true;
            }
            Err(_) => {
                self.record_failure(name, "the API server does not answer");
                return true;
            }
        };
        match self.store.set_namespace_uid(name, uid.as_deref()).await {
            Ok(ended) => {
                if ended {
                    tracing::info!(namespace = name, "namespace deleted, removing its history");
                    self.dispatch.namespace_ended(name.into()).await;
                }
                self.record_checked(name, uid.is_some());
            }
            Err(error) => {
                tracing::warn!(namespace = name, %error, "write of a namespace's uid failed")
            }
        }
        uid.is_some()
    }

    fn record_failure(&self, name: &str, error: &str) {
        tracing::debug!(namespace = name, error, "check of a namespace failed");
        *self.failed.lock() = Some(Instant::now());
    }

    fn record_checked(&self, name: &str, exists: bool) {
        let mut checked = self.checked.lock();
        match exists {
            true => checked.insert(name.to_owned(), Instant::now()),
            // Forget names without a namespace, so that a client cannot fill the memory with invented names.
            false => checked.remove(name),
        };
    }

    /// Checks every namespace that has hooks or history, once a minute. Never ends.
    pub async fn check_periodically(&self, index: &HookIndex) {
        loop {
            let mut names: BTreeSet<String> = index.namespaces();
            names.extend(self.store.namespaces().await.unwrap_or_default());
            for name in names {
                self.check(&name).await;
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }
}
