//! Manifests over a live cluster, as `kubectl apply` would store them: for previews of a change before it is made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Map, Value};

use super::backend::{Cluster, ClusterError};
use super::data::Data;
use super::files::{OfflineManifests, view_of};
use super::object::{ObjectKey, ResourceKind, WriteTarget};
use super::read_only::ReadOnlyCluster;
use super::view::View;

/// Members of the metadata that the manifests do not set.
const LIVE_METADATA: [&str; 6] =
    ["uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "finalizers"];

/// The content of manifests, with the state of the cluster's objects. Read-only.
pub struct ManifestOverlay {
    manifests: OfflineManifests,
    live: Arc<dyn Cluster>,
}

impl ManifestOverlay {
    pub fn new(manifests: OfflineManifests, live: Arc<dyn Cluster>) -> Self {
        ManifestOverlay { manifests, live }
    }

    /// Returns the keys of the objects in the manifests.
    pub fn keys(&self) -> BTreeSet<(ResourceKind, ObjectKey)> {
        self.manifests.objects().map(|(kind, key, _)| (kind, key.clone())).collect()
    }

    /// Returns a view of the live objects with the specs of the manifests.
    pub async fn view(&self, live: Vec<(ResourceKind, Value)>) -> View {
        let mut objects: BTreeMap<(ResourceKind, ObjectKey), Value> =
            live.into_iter().map(|(kind, object)| ((kind, key_of(&object)), object)).collect();
        for (kind, key, manifest) in self.manifests.objects() {
            let id = (kind, key.clone());
            let merged = match objects.get(&id) {
                Some(live) => merge(manifest, live),
                None => manifest.clone(),
            };
            objects.insert(id, merged);
        }
        let objects: Vec<(ResourceKind, Value)> =
            objects.into_iter().map(|((kind, _), object)| (kind, object)).collect();
        view_of(&objects).await
    }
}

fn key_of(object: &Value) -> ObjectKey {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    ObjectKey::new(text("/metadata/namespace"), text("/metadata/name"))
}

/// Returns the manifest with the identity and the state of the live object. Labels and annotations that the manifest does not
/// set stay, as with `kubectl apply`.
fn merge(manifest: &Value, live: &Value) -> Value {
    let mut merged = manifest.clone();
    let Some(object) = merged.as_object_mut() else { return merged };
    match live.get("status") {
        Some(status) => drop(object.insert("status".into(), status.clone())),
        None => drop(object.remove("status")),
    }
    let (Some(metadata), Some(live)) = (
        object.get_mut("metadata").and_then(Value::as_object_mut),
        live.get("metadata").and_then(Value::as_object),
    ) else {
        return merged;
    };
    for member in LIVE_METADATA {
        match live.get(member) {
            Some(value) => drop(metadata.insert(member.into(), value.clone())),
            None => drop(metadata.remove(member)),
        }
    }
    for member in ["labels", "annotations"] {
        let mut all: Map<String, Value> =
            live.get(member).and_then(Value::as_object).cloned().unwrap_or_default();
        all.extend(metadata.get(member).and_then(Value::as_object).cloned().unwrap_or_default());
        metadata.insert(member.into(), Value::Object(all));
    }
    merged
}

/// Never reads the key ring, so that a preview needs no right on its Secret.
impl ReadOnlyCluster for ManifestOverlay {
    const WRITE_PROBLEM: &'static str = "a preview writes nothing";
    const KEY_RING_PROBLEM: &'static str = "a preview does not read the key ring";

    fn read_secret<'a>(
        &'a self,
        key: &'a ObjectKey,
    ) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>> {
        Box::pin(async move {
            match self.manifests.secret(key).await? {
                Some(data) => Ok(Some(data)),
                None => self.live.secret(key).await,
            }
        })
    }

    fn read_config_map<'a>(
        &'a self,
        key: &'a ObjectKey,
    ) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>> {
        Box::pin(async move {
            match self.manifests.config_map(key).await? {
                Some(data) => Ok(Some(data)),
                None => self.live.config_map(key).await,
            }
        })
    }

    fn read_stored<'a>(&'a self, target: &'a WriteTarget) -> BoxFuture<'a, Result<Value, ClusterError>> {
        self.live.read_object(target)
    }

    fn read_installation_id(&self) -> BoxFuture<'_, Result<Option<String>, ClusterError>> {
        self.live.installation_id()
    }

    fn read_installation_mark(&self) -> BoxFuture<'_, Result<Option<String>, ClusterError>> {
        self.live.installation_mark()
    }

    fn read_namespace_uid<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<String>, ClusterError>> {
        self.live.namespace_uid(name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merges_spec_of_the_manifest_and_state_of_the_cluster() {
        let manifest = json!({"kind": "EventHook", "spec": {"source": "new"}, "metadata":
            {"name": "a", "uid": "derived", "labels": {"x": "new"}, "annotations": {"own": "1"}}});
        let live = json!({"kind": "EventHook", "spec": {"source": "old"}, "status": {"external": {"id": "e"}},
            "metadata": {"name": "a", "uid": "live", "generation": 3, "labels": {"x": "old", "y": "1"},
                "annotations": {"hookstream.dev/owner": "o"}, "finalizers": ["hookstream.dev/cleanup"]}});
        assert_eq!(
            merge(&manifest, &live),
            json!({"kind": "EventHook", "spec": {"source": "new"}, "status": {"external": {"id": "e"}},
                "metadata": {"name": "a", "uid": "live", "generation": 3, "labels": {"x": "new", "y": "1"},
                    "annotations": {"own": "1", "hookstream.dev/owner": "o"}, "finalizers": ["hookstream.dev/cleanup"]}})
        );
    }
}
