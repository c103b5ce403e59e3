//! Queues of the dispatcher's state, so that reporting it never blocks: holds, for the store, and delivery health, for the
//! condition `Delivering`.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::breaker_reports::BreakerReports;
use super::coalescing_queue::CoalescingQueue;
use super::health_timeline::HealthTimeline;
use super::store::{DispatchStore, HookId, StoreError};
use crate::api::EventHook;
use crate::core::conditions::DELIVERING;
use crate::core::time::Millis;

/// The delay before a failed write is repeated.
const FAILED_RETRY: Duration = Duration::from_secs(5);
/// Holds that are stored in one batch, so that they share a commit.
const HOLD_BATCH: usize = 256;

/// Queued reports for the store and for the API server. The queues are separate, so that the store learns of holds,
/// during which deliveries do not age, even while the API server hangs.
#[derive(Default)]
pub struct ReportQueues {
    pub holds: CoalescingQueue<HoldChange>,
    pub health: CoalescingQueue<DeliveryHealth>,
    /// Read on request, and never queued.
    pub breakers: BreakerReports,
    /// The same.
    pub timeline: HealthTimeline,
}

/// The hook's deliveries are held, or no longer held.
#[derive(Debug)]
pub struct HoldChange {
    pub hook: HookId,
    pub held: bool,
    pub at: Millis,
}

/// The health of a hook's deliveries, as its condition `Delivering` reports it.
#[derive(Clone, Debug)]
pub struct DeliveryHealth {
    pub hook: HookId,
    pub healthy: bool,
    pub reason: &'static str,
    pub message: String,
    /// The last error of an attempt, if attempts fail.
    pub last_error: Option<String>,
    /// The last success that this process has seen.
    pub last_success: Option<Millis>,
    /// The token of the `resume` annotation that was executed.
    pub resumed: Option<String>,
}

/// Stores holds. Retries while the store is full or busy; it then accepts no deliveries either. Drops those of hooks that
/// another worker owns: it corrects them when it takes a hook over, and an older one would undo that.
pub async fn store_holds(holds: &CoalescingQueue<HoldChange>, store: &dyn DispatchStore) {
    loop {
        let batch = holds.pop(HOLD_BATCH).await;
        let owned = batch.into_iter().filter(|(uid, _)| store.owns(uid));
        let writes = owned.map(|(uid, change)| async move {
            // The lease may have ended. If the hook stays with this process, the write is repeated.
            if !store.owns_now(&uid) {
                return Some((uid, change));
            }
            match store.set_held(&change.hook, change.held, change.at).await {
                Err(StoreError::Full | StoreError::Busy | StoreError::Unavailable(_)) => Some((uid, change)),
                Err(error) => {
                    tracing::warn!(hook = %change.hook.name, %error, "write of a hook's hold failed");
                    None
                }
                Ok(()) => None,
            }
        });
        let rejected: Vec<_> = join_all(writes).await.into_iter().flatten().collect();
        if !rejected.is_empty() {
            rejected.into_iter().for_each(|(uid, change)| holds.requeue(&uid, change));
            tokio::time::sleep(FAILED_RETRY).await;
        }
    }
}

/// Returns the object's condition `Delivering`.
pub fn delivering_condition(hook: &EventHook) -> Option<&Condition> {
    hook.status.as_ref()?.conditions.iter().find(|c| c.type_ == DELIVERING)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::store::DispatchStore;
    use crate::worker::store::sqlite::SqliteStore;

    #[tokio::test]
    async fn stores_every_queued_hold() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).unwrap();
        let holds = CoalescingQueue::default();
        let hooks: Vec<HookId> = (0..300)
            .map(|n| HookId { uid: format!("{n}").into(), namespace: "default".into(), name: "h".into() })
            .collect();
        for hook in &hooks {
            holds.push(&hook.uid, HoldChange { hook: hook.clone(), held: true, at: Millis(1) });
        }
        let all = async {
            while store.held_hooks().await.unwrap().len() < hooks.len() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = store_holds(&holds, &store) => unreachable!("it never ends"),
            () = all => {}
        }
    }
}
