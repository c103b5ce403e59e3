//! Manifests read once, for commands: Secrets and ConfigMaps of files, and no state.

use std::path::PathBuf;
use std::sync::Arc;

use futures::future::{BoxFuture, ready};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::Value;

use super::manifests::{ManifestError, Manifests, guarded};
use super::{Objects, once};
use crate::api::EventHook;
use crate::cluster::{Access, AccessError, Cluster, ClusterError, Data, Key, Kind, Metadata, Target, View};
use crate::core::conditions::Note;
use crate::core::keys::KeyRing;

/// What stands in files. Nothing can be written to it.
pub struct Offline(Manifests);

impl Offline {
    /// Reads files and folders. A file that cannot be read is an error: nobody would see it in a log.
    pub fn read(paths: Vec<PathBuf>) -> Result<Self, ManifestError> {
        let mut manifests = Manifests::with_state(paths);
        manifests.scan_strictly()?;
        Ok(Offline(manifests))
    }

    /// The EventHooks, each with its key; an error where it cannot be read as one.
    pub fn hooks(&self) -> Vec<(Key, Result<EventHook, String>)> {
        let of_it = self.0.objects().filter(|((kind, _), _)| *kind == Kind::EventHook);
        let read = |object: &Value| {
            let guarded = guarded::<EventHook>(object).ok_or("it is no EventHook")?;
            guarded.0.map_err(|invalid| invalid.error)
        };
        of_it.map(|((_, key), object)| (key.clone(), read(object))).collect()
    }

    /// The objects, for who looks at them as the controller does.
    pub async fn view(&self) -> View {
        let mut all = Objects::default();
        for ((kind, _), object) in self.0.objects() {
            all.add(*kind, object);
        }
        once(all).await
    }

    /// A Secret for who only wants to see the shape of a request.
    pub fn add_secret(&mut self, key: Key, data: Data) {
        self.0.add_secret(key, data);
    }
}

/// Files take no writes here.
fn refused<'a, T: Send + 'a>() -> BoxFuture<'a, Result<T, ClusterError>> {
    Box::pin(ready(Err(ClusterError::ClusterError("manifests are only read".into()))))
}

impl Cluster for Offline {
    fn secret<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>> {
        Box::pin(ready(Ok(self.0.secret(key))))
    }

    fn config_map<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>> {
        Box::pin(ready(Ok(self.0.config_map(key))))
    }

    fn write_status<'a>(&'a self, _: &'a Target, _: Value) -> BoxFuture<'a, Result<(), ClusterError>> {
        refused()
    }

    fn write_delivering<'a>(
        &'a self,
        _: &'a Target,
        _: Condition,
        _: Option<String>,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        refused()
    }

    fn write_metadata<'a>(&'a self, _: &'a Target, _: Metadata) -> BoxFuture<'a, Result<(), ClusterError>> {
        refused()
    }

    fn stored<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Value, ClusterError>> {
        Box::pin(ready(self.0.object(target.kind, &target.key).cloned().ok_or(ClusterError::Gone)))
    }

    fn publish<'a>(&'a self, _: &'a Target, _: bool, _: &'a Note) -> BoxFuture<'a, ()> {
        Box::pin(ready(()))
    }

    fn key_ring(&self, _: bool) -> BoxFuture<'_, Result<Arc<KeyRing>, ClusterError>> {
        Box::pin(ready(Err(ClusterError::KeyRing("it is not among the manifests".into()))))
    }

    fn installation(&self) -> BoxFuture<'_, Result<Option<String>, ClusterError>> {
        refused()
    }

    fn namespace_uid<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<String>, ClusterError>> {
        refused()
    }

    fn authorize<'a>(&'a self, _: Option<&'a str>, _: Access<'a>) -> BoxFuture<'a, Result<(), AccessError>> {
        Box::pin(ready(Err(AccessError::Unavailable)))
    }
}
