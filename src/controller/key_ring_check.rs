//! Checks the key ring although nothing is reconciled, so that a deletion is found while the leader can still restore it.

use std::sync::Arc;

use kube::runtime::reflector::ObjectRef;

use super::context::{Context, KeyRingUser};
use super::triggers::RequestQueues;
use crate::cluster::ClusterError;

/// Checks periodically. Requests a reconcile of one object that depends on the key ring if that was lost or restored: its
/// condition and its Event report it.
pub async fn run(context: Arc<Context>, queues: RequestQueues) {
    let mut was_missing = false;
    loop {
        tokio::time::sleep(context.options.key_ring_check).await;
        let user = if context.leadership.is_leader() { context.key_ring_user() } else { None };
        let is_missing = match &user {
            None => false,
            Some(_) => match context.cluster.key_ring(false).await {
                Err(ClusterError::KeyRing(_)) => true,
                // An API server that does not answer says nothing about the key ring.
                Err(_) => was_missing,
                Ok(_) => false,
            },
        };
        context.metrics.set_key_ring_missing(is_missing);
        let is_new = is_missing && !was_missing;
        was_missing = is_missing;
        // The queues close when the controller stops.
        match user.filter(|_| is_new || context.is_key_ring_restored()) {
            Some(KeyRingUser::EventHook(key)) => {
                queues.hooks.send(ObjectRef::new(&key.name).within(&key.namespace)).await.ok();
            }
            Some(KeyRingUser::EventStream(key)) => {
                queues.streams.send(ObjectRef::new(&key.name).within(&key.namespace)).await.ok();
            }
            None => {}
        }
    }
}
