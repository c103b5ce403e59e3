//! Measures how many objects are not ready, for the metrics.

use std::time::Duration;

use super::context::Context;
use super::status::Managed;
use crate::cluster::{DeserializeGuard, ObjectStore};
use crate::core::conditions::is_ready;

/// The pause between two measurements. Each visits every object.
const INTERVAL: Duration = Duration::from_secs(15);

/// Measures until it is dropped.
pub async fn run(context: &Context) {
    loop {
        count(context, &context.view.hooks);
        count(context, &context.view.connections);
        count(context, &context.view.streams);
        count(context, &context.view.auth0_hooks);
        tokio::time::sleep(INTERVAL).await;
    }
}

fn count<K: Managed>(context: &Context, store: &ObjectStore<K>) {
    // An object that cannot be read is not synced.
    let is_ready = |guard: &DeserializeGuard<K>| guard.0.as_ref().is_ok_and(has_ready_condition);
    let not_ready = store.all().filter(|guard| !is_ready(guard)).count();
    context.metrics.set_objects_not_ready(K::KIND.into(), not_ready);
}

fn has_ready_condition<K: Managed>(object: &K) -> bool {
    is_ready(object.status().map(K::conditions).unwrap_or_default())
}
