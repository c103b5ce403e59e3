//! Manifests that are read once, for commands: objects, Secrets and ConfigMaps of files, without state.

use std::path::PathBuf;
use std::sync::Arc;

use futures::future::{BoxFuture, ready};
use serde_json::Value;

use super::definition::DEFAULT_NAMESPACE;
use super::documents::ManifestError;
use super::manifest_set::ManifestSet;
use super::object_lists::ObjectLists;
use super::objects::FileObject;
use crate::api::EventHook;
use crate::cluster::{ClusterError, Data, ObjectKey, ReadOnlyCluster, ResourceKind, View, WriteTarget};

/// The content of files, read-only.
pub struct OfflineManifests(ManifestSet);

impl OfflineManifests {
    /// Reads files and folders; `-` is standard input. A file that cannot be read is an error, because a command's user does
    /// not read a log.
    pub fn read(paths: Vec<PathBuf>) -> Result<Self, ManifestError> {
        Self::read_with_namespace(&paths, DEFAULT_NAMESPACE)
    }

    /// Reads files and folders as `read` does. Objects without a namespace get this one.
    pub fn read_with_namespace(paths: &[PathBuf], namespace: &str) -> Result<Self, ManifestError> {
        ManifestSet::read_once(paths, namespace).map(OfflineManifests)
    }

    /// Returns every object with its kind and key, as untyped JSON.
    pub fn objects(&self) -> impl Iterator<Item = (ResourceKind, &ObjectKey, &Value)> {
        self.0.objects().map(|(kind, key, object)| (kind, key, &object.value))
    }

    /// Returns the EventHooks, each with its key, or the reason why it cannot be deserialized.
    pub fn hooks(&self) -> Vec<(ObjectKey, Result<EventHook, String>)> {
        let hooks = self.0.objects().filter(|(kind, _, _)| *kind == ResourceKind::EventHook);
        let read = |object: &Value| {
            let guard =
                FileObject::new(object.clone()).deserialize::<EventHook>().ok_or("not an EventHook")?;
            guard.0.map_err(|invalid| invalid.error)
        };
        hooks.map(|(_, key, object)| (key.clone(), read(&object.value))).collect()
    }

    /// Returns the objects as the controller reads them.
    pub async fn view(&self) -> View {
        let mut objects = ObjectLists::default();
        for (kind, _, object) in self.0.objects() {
            objects.add(kind, &FileObject::new(object.value.clone()));
        }
        objects.into_view().await
    }

    /// Adds a placeholder Secret, for a dry run that masks secrets anyway.
    pub fn add_secret(&mut self, key: ObjectKey, data: Data) {
        self.0.add_secret(key, data);
    }
}

impl ReadOnlyCluster for OfflineManifests {
    const WRITE_PROBLEM: &'static str = "manifests are read-only";
    const KEY_RING_PROBLEM: &'static str = "the manifests contain no key ring";

    fn read_secret<'a>(
        &'a self,
        key: &'a ObjectKey,
    ) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>> {
        Box::pin(ready(Ok(self.0.secret(key))))
    }

    fn read_config_map<'a>(
        &'a self,
        key: &'a ObjectKey,
    ) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>> {
        Box::pin(ready(Ok(self.0.config_map(key))))
    }

    fn read_stored<'a>(&'a self, target: &'a WriteTarget) -> BoxFuture<'a, Result<Value, ClusterError>> {
        let object = self.0.object(target.kind, &target.key);
        Box::pin(ready(object.map(|object| object.value.clone()).ok_or(ClusterError::Gone)))
    }
}
