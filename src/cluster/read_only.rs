//! A cluster for previews and commands: reads, and rejects every write.

use std::future::ready;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;

use super::backend::{AuthorizationError, Cluster, ClusterError, DeliveryStatus, Permission};
use super::data::Data;
use super::object::{Metadata, ObjectKey, WriteTarget};
use crate::core::conditions::ConditionMessage;
use crate::core::keys::KeyRing;

/// The reads of a [`Cluster`] that accepts no writes, has no key ring and grants no permission.
pub trait ReadOnlyCluster: Send + Sync + 'static {
    /// Why a write is rejected.
    const WRITE_PROBLEM: &'static str;
    /// Why there is no key ring.
    const KEY_RING_PROBLEM: &'static str;

    /// Reads as `Cluster::secret`.
    fn read_secret<'a>(
        &'a self,
        key: &'a ObjectKey,
    ) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>>;

    /// Reads as `Cluster::config_map`.
    fn read_config_map<'a>(
        &'a self,
        key: &'a ObjectKey,
    ) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>>;

    /// Reads as `Cluster::read_object`.
    fn read_stored<'a>(&'a self, target: &'a WriteTarget) -> BoxFuture<'a, Result<Value, ClusterError>>;

    /// Reads as `Cluster::installation_id`.
    fn read_installation_id(&self) -> BoxFuture<'_, Result<Option<String>, ClusterError>> {
        reject::<Self, _>()
    }

    /// Reads as `Cluster::installation_mark`.
    fn read_installation_mark(&self) -> BoxFuture<'_, Result<Option<String>, ClusterError>> {
        Box::pin(ready(Ok(None)))
    }

    /// Reads as `Cluster::namespace_uid`.
    fn read_namespace_uid<'a>(
        &'a self,
        _name: &'a str,
    ) -> BoxFuture<'a, Result<Option<String>, ClusterError>> {
        reject::<Self, _>()
    }
}

/// Returns the error of every write.
fn reject<'a, C: ReadOnlyCluster + ?Sized, T: Send + 'a>() -> BoxFuture<'a, Result<T, ClusterError>> {
    Box::pin(ready(Err(ClusterError::ClusterError(C::WRITE_PROBLEM.into()))))
}

impl<C: ReadOnlyCluster> Cluster for C {
    fn secret<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>> {
        self.read_secret(key)
    }

    fn config_map<'a>(
        &'a self,
        key: &'a ObjectKey,
    ) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>> {
        self.read_config_map(key)
    }

    fn write_status<'a>(&'a self, _: &'a WriteTarget, _: Value) -> BoxFuture<'a, Result<(), ClusterError>> {
        reject::<C, _>()
    }

    fn write_delivery_status<'a>(
        &'a self,
        _: &'a WriteTarget,
        _: DeliveryStatus,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        reject::<C, _>()
    }

    fn write_metadata<'a>(
        &'a self,
        _: &'a WriteTarget,
        _: Metadata,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        reject::<C, _>()
    }

    fn read_object<'a>(&'a self, target: &'a WriteTarget) -> BoxFuture<'a, Result<Value, ClusterError>> {
        self.read_stored(target)
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
        Box::pin(ready(Err(ClusterError::KeyRing(C::KEY_RING_PROBLEM.into()))))
    }

    fn installation_id(&self) -> BoxFuture<'_, Result<Option<String>, ClusterError>> {
        self.read_installation_id()
    }

    fn installation_mark(&self) -> BoxFuture<'_, Result<Option<String>, ClusterError>> {
        self.read_installation_mark()
    }

    fn namespace_uid<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<String>, ClusterError>> {
        self.read_namespace_uid(name)
    }

    fn authorize<'a>(
        &'a self,
        _: Option<&'a str>,
        _: Permission<'a>,
    ) -> BoxFuture<'a, Result<(), AuthorizationError>> {
        Box::pin(ready(Err(AuthorizationError::Unavailable)))
    }
}
