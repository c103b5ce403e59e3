//! The state of standalone in a database: adapts the tables to what the cluster of files stores.

use futures::future::BoxFuture;

use crate::cluster::ObjectKey;
use crate::cluster::files::{
    ObjectId, StateAuthor, StateBackend, StateChanges, StateError, StateVersion, StateWrite, StoredState,
};
use crate::core::keys::KeyRing;
use crate::worker::store::StoreError;
use crate::worker::store::postgres::standalone::{
    ObjectName, ObjectRow, ObjectWrite, ObjectWriteError, StandaloneState,
};

/// The kinds of the objects that have a state.
const KINDS: [&str; 4] = ["EventHook", "Connection", "EventStream", "Hook"];

/// The state of standalone in a database.
pub struct DatabaseState(pub StandaloneState);

impl StateBackend for DatabaseState {
    fn is_shared(&self) -> bool {
        true
    }

    fn changes(&self, since: Option<StateVersion>) -> BoxFuture<'_, Result<StateChanges, StateError>> {
        Box::pin(async move {
            let changes = self.0.changes(&KINDS, since.unwrap_or(0)).await.map_err(failed)?;
            let written = changes.written.into_iter();
            let written = written.filter_map(|(object, row)| Some((object_id(&object)?, stored(row))));
            let deleted = changes.deleted.iter();
            let deleted = deleted.filter_map(|(object, version)| Some((object_id(object)?, *version)));
            Ok(StateChanges {
                written: written.collect(),
                deleted: deleted.collect(),
                horizon: changes.horizon,
            })
        })
    }

    fn read<'a>(&'a self, id: &'a ObjectId) -> BoxFuture<'a, Result<Option<StoredState>, StateError>> {
        Box::pin(async move {
            let row = self.0.object(&object_name(id)).await.map_err(failed)?;
            Ok(row.map(stored))
        })
    }

    fn write(&self, write: StateWrite) -> BoxFuture<'_, Result<StateVersion, StateError>> {
        Box::pin(async move {
            let write = ObjectWrite {
                object: object_name(&write.id),
                before: write.before,
                state: write.text,
                needs_lease: write.author == StateAuthor::Controller,
            };
            self.0.write_object(&write).await.map_err(|error| match error {
                ObjectWriteError::Conflict => StateError::Conflict,
                ObjectWriteError::NotLeading => StateError::NotLeading,
                ObjectWriteError::Store(error) => failed(error),
            })
        })
    }

    fn key_ring(&self, new: Option<KeyRing>) -> BoxFuture<'_, Result<Option<KeyRing>, StateError>> {
        Box::pin(async move {
            match new {
                Some(new) => self.0.open_key_ring(&new).await.map(Some).map_err(failed),
                None => self.0.key_ring().await.map_err(failed),
            }
        })
    }

    fn installation_id(&self, new: Option<String>) -> BoxFuture<'_, Result<Option<String>, StateError>> {
        Box::pin(async move { self.0.installation_mark(new.as_deref()).await.map_err(failed) })
    }
}

fn failed(error: StoreError) -> StateError {
    StateError::Failed(error.to_string())
}

fn stored(row: ObjectRow) -> StoredState {
    StoredState { version: row.version, text: row.state }
}

fn object_name((kind, key): &ObjectId) -> ObjectName {
    ObjectName { kind: kind.into(), namespace: key.namespace.clone(), name: key.name.clone() }
}

fn object_id(object: &ObjectName) -> Option<ObjectId> {
    Some((object.kind.parse().ok()?, ObjectKey::new(&object.namespace, &object.name)))
}

#[cfg(test)]
mod tests {
    use strum::IntoEnumIterator;

    use super::*;
    use crate::cluster::ResourceKind;
    use crate::cluster::files::state_conformance;
    use crate::worker::store::postgres::connect::PostgresOptions;
    use crate::worker::store::postgres::standalone::SharedDatabase;
    use crate::worker::store::postgres::test_server;

    #[tokio::test]
    async fn conforms() {
        let url = test_server::shared().new_database();
        let mut options: PostgresOptions = url.parse().unwrap();
        options.allow_unsafe_sync = true;
        let database = SharedDatabase::connect(&options).await.unwrap();
        let [one, other] = ["one", "other"].map(|name| DatabaseState(database.standalone(name.into())));
        state_conformance::check(&one, &other).await;
        state_conformance::check_shared(&one, &other).await;
    }

    #[test]
    fn stores_every_kind() {
        assert!(ResourceKind::iter().map(<&str>::from).eq(KINDS));
    }
}
