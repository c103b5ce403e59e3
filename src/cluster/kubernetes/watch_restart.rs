//! Restarts all watches when the API server has gone back in time, because its etcd was restored from a backup.
//!
//! A watch continues from the last version that it received. After a restore that version is in the future: the API server
//! accepts the watch and sends nothing until its versions have caught up, and never what happened before. The watch looks
//! healthy, because its requests succeed. So the version of a small list is compared with the newest one that was seen.
//! A restore that raises the versions needs no check: the API server answers 410, and the watch lists again.

use std::sync::Arc;
use std::time::Duration;

use kube::api::{ListParams, ObjectList};
use kube::core::{PartialObjectMeta, Request};
use kube::{Api, Client};
use tokio::sync::{Notify, watch};

use super::api_server::to_cluster_error;
use super::watch_liveness::{NotOfWatch, WatchLiveness};
use crate::api::EventHook;

/// The checks during one watch request. A version that a watch request names is checked before the request ends.
const CHECKS_PER_WATCH: u32 = 3;
/// The time until a failed check is repeated: the first answer after an outage may come from a restored API server, and
/// its versions must not catch up before the check.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// The deadline of a check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// Compares the API server's versions with those of the watches.
pub struct RestoreDetector {
    client: Client,
    /// The path of EventHooks in the first watched namespace. All custom resources share the versions of one etcd.
    path: String,
    interval: Duration,
    liveness: Arc<WatchLiveness>,
    /// Counts the restores. A watch restarts when it changes.
    restores: watch::Sender<u64>,
    watch_failed: Notify,
}

impl RestoreDetector {
    pub fn new(
        client: Client,
        namespaces: &[String],
        watch_timeout: Duration,
        liveness: Arc<WatchLiveness>,
    ) -> Self {
        let api: Api<EventHook> = match namespaces.first() {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        RestoreDetector {
            client,
            path: api.resource_url().to_owned(),
            interval: watch_timeout / CHECKS_PER_WATCH,
            liveness,
            restores: watch::Sender::new(0),
            watch_failed: Notify::new(),
        }
    }

    /// Returns a receiver of the number of restores.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.restores.subscribe()
    }

    /// Reports a failed watch, so that the next check runs soon: the API server may be restarted after a restore.
    pub fn watch_failed(&self) {
        self.watch_failed.notify_one();
    }

    /// Checks periodically.
    pub async fn run(&self) {
        let mut pause = self.interval;
        loop {
            tokio::select! {
                // With jitter, so that many replicas do not check together.
                () = tokio::time::sleep(pause.mul_f64(0.8 + 0.4 * fastrand::f64())) => {}
                () = self.watch_failed.notified() => tokio::time::sleep(RETRY_AFTER.min(self.interval)).await,
            }
            pause = match tokio::time::timeout(CHECK_TIMEOUT, self.read_version()).await {
                Ok(Ok(version)) => {
                    self.compare(version);
                    self.interval
                }
                Ok(Err(error)) => {
                    tracing::debug!(error = %to_cluster_error(error), "the check for a restored API server failed");
                    RETRY_AFTER.min(self.interval)
                }
                Err(_) => RETRY_AFTER.min(self.interval),
            };
        }
    }

    /// Returns the API server's current version; None if it is no number.
    async fn read_version(&self) -> Result<Option<u64>, kube::Error> {
        let request = Request::new(&*self.path).list_metadata(&ListParams::default().limit(1));
        let mut request = request.map_err(kube::Error::BuildRequest)?;
        request.extensions_mut().insert(NotOfWatch);
        let list: ObjectList<PartialObjectMeta<EventHook>> = self.client.request(request).await?;
        Ok(list.metadata.resource_version.and_then(|version| version.parse().ok()))
    }

    fn compare(&self, version: Option<u64>) {
        let Some(version) = version else { return };
        let newest = self.liveness.newest_version();
        if version >= newest {
            self.liveness.record_version(&version.to_string());
            return;
        }
        tracing::error!(
            version,
            newest,
            "the API server returned to an older resource version, listing everything again; was its etcd restored from a backup?"
        );
        self.liveness.metrics().record_cluster_restore();
        self.liveness.replace_newest_version(version);
        self.restores.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::super::api_server::testing::unresponsive_client;
    use super::*;

    #[tokio::test]
    async fn older_version_restarts_the_watches_once() {
        let liveness = WatchLiveness::new(Duration::from_secs(200), Arc::default());
        let detector =
            RestoreDetector::new(unresponsive_client(), &[], Duration::from_secs(200), liveness.clone());
        let restores = detector.subscribe();
        for version in [Some(7), None, Some(7), Some(9)] {
            detector.compare(version);
        }
        assert_eq!(*restores.borrow(), 0);
        liveness.record_version("12");
        liveness.record_version("opaque");
        detector.compare(Some(11));
        assert_eq!(*restores.borrow(), 1, "a watch continued from version 12");
        detector.compare(Some(11));
        detector.compare(Some(13));
        assert_eq!(*restores.borrow(), 1);
    }
}
