//! The operations of `Cluster` on manifests in files and their state.

use std::sync::Arc;

use futures::future::BoxFuture;
use secrecy::ExposeSecret;
use serde_json::Value;
use subtle::ConstantTimeEq;

use super::file_cluster::{FileCluster, Inner};
use super::objects::object_uid;
use crate::cluster::{
    AuthorizationError, Cluster, ClusterError, Data, DeliveryStatus, LeaderReport, Metadata, ObjectKey,
    Permission, WriteTarget,
};
use crate::core::conditions::ConditionMessage;
use crate::core::keys::KeyRing;
use crate::core::names::is_namespace;

impl Cluster for FileCluster {
    fn secret<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>> {
        Box::pin(async move { Ok(self.inner.lock().manifests.secret(key)) })
    }

    fn config_map<'a>(
        &'a self,
        key: &'a ObjectKey,
    ) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>> {
        Box::pin(async move { Ok(self.inner.lock().manifests.config_map(key)) })
    }

    fn write_status<'a>(
        &'a self,
        target: &'a WriteTarget,
        status: Value,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(async move {
            self.leadership.may_write()?;
            let id = (target.kind, target.key.clone());
            self.write(&id, |Inner { manifests, state, .. }| state.set_status(&id, &status, manifests)).await
        })
    }

    fn write_delivery_status<'a>(
        &'a self,
        target: &'a WriteTarget,
        status: DeliveryStatus,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(async move {
            let id = (target.kind, target.key.clone());
            let prepare = |Inner { manifests, state, .. }: &mut Inner| {
                state.set_delivery_status(&id, &status, manifests)
            };
            self.write(&id, prepare).await
        })
    }

    fn write_metadata<'a>(
        &'a self,
        target: &'a WriteTarget,
        metadata: Metadata,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(async move {
            self.leadership.may_write()?;
            let id = (target.kind, target.key.clone());
            self.write(&id, |Inner { manifests, state, .. }| state.set_metadata(&id, &metadata, manifests))
                .await
        })
    }

    fn read_object<'a>(&'a self, target: &'a WriteTarget) -> BoxFuture<'a, Result<Value, ClusterError>> {
        Box::pin(async move {
            let object = self.inner.lock().object(&(target.kind, target.key.clone()), self.prune);
            object.map(|object| object.value).ok_or(ClusterError::Gone)
        })
    }

    fn publish_event<'a>(
        &'a self,
        target: &'a WriteTarget,
        warning: bool,
        note: &'a ConditionMessage,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if !self.leadership.is_leader() {
                return;
            }
            let kind: &str = target.kind.into();
            if warning {
                tracing::warn!(object = %target.key, kind, reason = note.reason, "{}", note.message);
            } else {
                tracing::info!(object = %target.key, kind, reason = note.reason, "{}", note.message);
            }
        })
    }

    fn leader(&self) -> BoxFuture<'_, LeaderReport> {
        let report = match (self.leadership.has_election(), self.leadership.is_leader()) {
            (false, _) => LeaderReport::NoElection,
            (true, true) => LeaderReport::Leads {
                holder: rustix::system::uname().nodename().to_string_lossy().into_owned(),
                since: None,
            },
            (true, false) => LeaderReport::Unknown {
                message: "another standalone leads, or none does".to_owned(),
                role: None,
            },
        };
        Box::pin(std::future::ready(report))
    }

    fn publishes_to_log(&self) -> bool {
        true
    }

    fn key_ring(&self, _create: bool) -> BoxFuture<'_, Result<Arc<KeyRing>, ClusterError>> {
        Box::pin(async move { Ok(self.key_ring.lock().clone()) })
    }

    /// Returns a constant: uids are derived from names here, so any folder may use the store of another.
    fn installation_id(&self) -> BoxFuture<'_, Result<Option<String>, ClusterError>> {
        Box::pin(async { Ok(Some("standalone".to_owned())) })
    }

    /// Returns a random id: two installations with the same manifests have the same uids.
    fn installation_mark(&self) -> BoxFuture<'_, Result<Option<String>, ClusterError>> {
        Box::pin(async { Ok(self.installation.lock().clone()) })
    }

    /// Derives the uid from the name: namespaces are neither created nor deleted here. A name that no namespace can have has
    /// none.
    fn namespace_uid<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<String>, ClusterError>> {
        Box::pin(async move { Ok(is_namespace(name).then(|| object_uid("Namespace", "", name))) })
    }

    fn authorize<'a>(
        &'a self,
        token: Option<&'a str>,
        _permission: Permission<'a>,
    ) -> BoxFuture<'a, Result<(), AuthorizationError>> {
        Box::pin(async move {
            let Some(expected) = &self.token else { return Ok(()) };
            let given = token.unwrap_or_default();
            let is_equal: bool = expected.expose_secret().as_bytes().ct_eq(given.as_bytes()).into();
            if is_equal { Ok(()) } else { Err(AuthorizationError::Unauthenticated) }
        })
    }
}
