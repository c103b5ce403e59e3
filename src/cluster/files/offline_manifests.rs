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
use crate::cluster::{
    AuthorizationError, Cluster, ClusterError, Data, DeliveryStatus, Metadata, ObjectKey, Permission,
    ResourceKind, View, WriteTarget,
};
use crate::core::conditions::ConditionMessage;
use crate::core::keys::KeyRing;

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

/// Returns the error of every write.
fn read_only<'a, T: Send + 'a>() -> BoxFuture<'a, Result<T, ClusterError>> {
    Box::pin(ready(Err(ClusterError::ClusterError("manifests are read-only".into()))))
}

impl Cluster for OfflineManifests {
    fn secret<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>> {
        Box::pin(ready(Ok(self.0.secret(key))))
    }

    fn config_map<'a>(
        &'a self,
        key: &'a ObjectKey,
    ) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>> {
        Box::pin(ready(Ok(self.0.config_map(key))))
    }

    fn write_status<'a>(&'a self, _: &'a WriteTarget, _: Value) -> BoxFuture<'a, Result<(), ClusterError>> {
        read_only()
    }

    fn write_delivery_status<'a>(
        &'a self,
        _: &'a WriteTarget,
        _: DeliveryStatus,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        read_only()
    }

    fn write_metadata<'a>(
        &'a self,
        _: &'a WriteTarget,
        _: Metadata,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        read_only()
    }

    fn read_object<'a>(&'a self, target: &'a WriteTarget) -> BoxFuture<'a, Result<Value, ClusterError>> {
        Box::pin(ready(
            self.0
                .object(target.kind, &target.key)
                .map(|object| object.value.clone())
                .ok_or(ClusterError::Gone),
        ))
    }

    fn publish_event<'a>(
        &'a self,
        _: &'a WriteTarget,
        _: bool,
        _: &'a ConditionMessage,
    ) -> BoxFuture<'a, ()> {
        Box::pin(ready(()))
    }

    fn key_ring(&self, _: bool) -> BoxFuture<'_, Result<Arc<KeyRing>, ClusterError>> {
        Box::pin(ready(Err(ClusterError::KeyRing("the manifests contain no key ring".into()))))
    }

    fn installation_id(&self) -> BoxFuture<'_, Result<Option<String>, ClusterError>> {
        read_only()
    }

    fn installation_mark(&self) -> BoxFuture<'_, Result<Option<String>, ClusterError>> {
        Box::pin(ready(Ok(None)))
    }

    fn namespace_uid<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<String>, ClusterError>> {
        read_only()
    }

    fn authorize<'a>(
        &'a self,
        _: Option<&'a str>,
        _: Permission<'a>,
    ) -> BoxFuture<'a, Result<(), AuthorizationError>> {
        Box::pin(ready(Err(AuthorizationError::Unavailable)))
    }
}
