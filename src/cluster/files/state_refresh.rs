//! Keeps a `FileCluster` in sync with a state that other processes write.

use std::time::Duration;

use super::file_cluster::{FileCluster, lost_key_ring};
use super::state_backend::{StateChanges, StateError, StateVersion};
use crate::core::keys::KeyRing;
use crate::core::time::Millis;

/// The time between two reads. Bounds how late this process sees what another one wrote.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// After a longer time without a read, everything is read: the state remembers deletions for an hour.
const MAX_GAP: Duration = Duration::from_secs(600);
/// How long a read may take. The first one is of everything.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(60);

impl FileCluster {
    /// Reads what other processes write, periodically. Never ends if the state is shared.
    pub(super) async fn follow_shared_state(&self) {
        if !self.backend.is_shared() {
            return;
        }
        let (mut horizon, mut is_failing) = (None, false);
        loop {
            tokio::time::sleep(REFRESH_INTERVAL).await;
            let started = Millis::steady();
            // A process that was suspended may miss deletions.
            let since =
                horizon.filter(|(_, read)| started.since(*read) < MAX_GAP).map(|(horizon, _)| horizon);
            let read = tokio::time::timeout(REFRESH_TIMEOUT, self.refresh(since)).await;
            let timeout = || StateError::Failed(format!("no answer within {} s", REFRESH_TIMEOUT.as_secs()));
            match read.unwrap_or_else(|_| Err(timeout())) {
                Ok(read) => {
                    horizon = Some((read, started));
                    if std::mem::take(&mut is_failing) {
                        tracing::info!("state of other processes read again");
                    }
                }
                Err(error) => {
                    // The database may be another one when it is back, so read everything.
                    horizon = None;
                    // Log only the first failure of an outage.
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(%error, "read of the state of other processes failed, retried");
                    }
                }
            }
        }
    }

    /// Reads everything that former leaders wrote into the view. Call it after the lease is held and before this process
    /// leads: a reconcile of an older state could create an external object twice.
    pub async fn prepare_to_lead(&self) -> Result<(), StateError> {
        let (changes, key_ring) = self.read(None).await?;
        self.set_key_ring(key_ring);
        {
            let mut inner = self.inner.lock();
            let deleted = inner.state.apply(changes, true)?;
            // This process decides from now on which objects were removed, by its own files.
            inner.expect_saved_objects();
            let all = inner.ids();
            inner.changed.extend(deleted.into_iter().chain(all));
        }
        self.update_view().await;
        Ok(())
    }

    /// Applies what others wrote since `since`. Returns the horizon of the next read.
    async fn refresh(&self, since: Option<StateVersion>) -> Result<StateVersion, StateError> {
        let (changes, key_ring) = self.read(since).await?;
        self.set_key_ring(key_ring);
        let horizon = changes.horizon;
        let mut inner = self.inner.lock();
        let changed = inner.state.apply(changes, since.is_none())?;
        let is_changed = !changed.is_empty();
        inner.changed.extend(changed);
        if is_changed {
            self.changed.notify_one();
        }
        Ok(horizon)
    }

    async fn read(&self, since: Option<StateVersion>) -> Result<(StateChanges, KeyRing), StateError> {
        let key_ring = self.backend.key_ring(None).await?.ok_or_else(lost_key_ring)?;
        Ok((self.backend.changes(since).await?, key_ring))
    }

    /// Uses a key ring that was changed.
    fn set_key_ring(&self, key_ring: KeyRing) {
        let mut current = self.key_ring.lock();
        if !current.entries().eq(key_ring.entries()) {
            tracing::info!(newest = key_ring.newest_key_id(), "key ring changed");
            *current = key_ring.into();
        }
    }
}
