//! Suspended objects: reports the suspension, and whether the current generation is synced. Touches nothing else.

use std::time::Duration;

use kube::ResourceExt;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::kind::Synced;
use crate::controller::context::Context;
use crate::controller::error::SyncError;
use crate::controller::status;

/// Requeue delay of a suspended object, which changes only with its spec.
const SUSPENDED_REQUEUE: Duration = Duration::from_secs(3600);

/// Reports that the object is suspended. It stays ready only if its spec, except for `suspend`, was synced.
pub async fn report_suspended<K: Synced>(object: &K, context: &Context) -> Result<Duration, SyncError> {
    let is_synced = context.memory.synced_spec(&object.uid().unwrap_or_default()) == Some(spec_hash(object));
    status::write_suspended(context, object, is_synced).await?;
    Ok(SUSPENDED_REQUEUE)
}

/// Remembers that the object's spec is synced, so that suspending the object leaves it ready.
pub fn remember_synced<K: Synced>(object: &K, context: &Context) {
    context.memory.set_synced_spec(&object.uid().unwrap_or_default(), spec_hash(object));
}

/// Returns the hash of the spec without `suspend`: an edit may suspend the object and change other members, too.
fn spec_hash<K: Synced>(object: &K) -> [u8; 32] {
    let mut object = serde_json::to_value(object).unwrap_or_default();
    let mut spec = object.get_mut("spec").map(Value::take).unwrap_or_default();
    if let Some(members) = spec.as_object_mut() {
        members.remove("suspend");
    }
    Sha256::digest(spec.to_string()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::EventHook;
    use serde_json::json;

    #[test]
    fn only_suspend_leaves_the_hash_unchanged() {
        let hash = |extra: Value| {
            let mut spec = json!({"source": "s", "handler": {"log": {}}});
            spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let object = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
                "metadata": {"name": "h"}, "spec": spec});
            spec_hash(&serde_json::from_value::<EventHook>(object).unwrap())
        };
        assert_eq!(hash(json!({})), hash(json!({"suspend": true})));
        assert_eq!(hash(json!({})), hash(json!({"suspend": false})));
        assert_ne!(hash(json!({})), hash(json!({"suspend": true, "event": "e"})));
    }
}
