//! What every `StateBackend` does. Both backends run it.

use super::state_backend::{ObjectId, StateAuthor, StateBackend, StateError, StateWrite};
use crate::cluster::keys::generate_key_ring;
use crate::cluster::{ObjectKey, ResourceKind};

pub fn id(name: &str) -> ObjectId {
    (ResourceKind::EventHook, ObjectKey::new("default", name))
}

fn write(name: &str, before: Option<u64>, text: Option<&str>) -> StateWrite {
    let text = text.map(|text| {
        format!(r#"{{"kind":"EventHook","namespace":"default","name":"{name}","spec_hash":"{text}"}}"#)
    });
    StateWrite { id: id(name), before, text, author: StateAuthor::Worker }
}

/// Checks an empty backend. `other`: the same state as another process reads it.
pub async fn check(backend: &dyn StateBackend, other: &dyn StateBackend) {
    assert!(backend.changes(None).await.unwrap().written.is_empty());

    // The first process creates the key ring and the id; all others have the same.
    assert!(backend.key_ring(None).await.unwrap().is_none());
    let new = || Some(generate_key_ring().unwrap());
    let created = backend.key_ring(new()).await.unwrap().unwrap();
    let again = other.key_ring(new()).await.unwrap().unwrap();
    assert!(created.entries().eq(again.entries()));
    assert!(other.key_ring(None).await.unwrap().unwrap().entries().eq(created.entries()));
    assert_eq!(backend.installation_id(None).await.unwrap(), None);
    let ids = [("a-b", backend), ("c-d", other)];
    for (new, backend) in ids {
        let id = backend.installation_id(Some(new.to_owned())).await.unwrap();
        assert_eq!(id.as_deref(), Some("a-b"));
    }

    let first = backend.write(write("a", None, Some("1"))).await.unwrap();
    backend.write(write("b", None, Some("1"))).await.unwrap();
    let read = other.changes(None).await.unwrap();
    assert_eq!(read.written.len(), 2);
    let second = backend.write(write("a", Some(first), Some("2"))).await.unwrap();
    let stored = other.read(&id("a")).await.unwrap().unwrap();
    assert!(stored.version == second && stored.text.contains("\"2\""), "{stored:?}");
    assert!(other.read(&id("c")).await.unwrap().is_none());
    backend.write(write("b", other.read(&id("b")).await.unwrap().map(|s| s.version), None)).await.unwrap();
    assert!(other.read(&id("b")).await.unwrap().is_none());
    assert_eq!(other.changes(None).await.unwrap().written.len(), 1);
}

/// Checks a backend that several processes share: a write of one that has not read the latest state is refused, and each reads
/// what others write.
pub async fn check_shared(backend: &dyn StateBackend, other: &dyn StateBackend) {
    let first = backend.write(write("s", None, Some("1"))).await.unwrap();
    let start = other.changes(None).await.unwrap();
    let second = other.write(write("s", Some(first), Some("2"))).await.unwrap();
    assert!(second > first);
    for stale in [
        write("s", None, Some("3")),
        write("s", Some(first), Some("3")),
        write("s", Some(first), None),
        write("never-written", Some(first), Some("3")),
    ] {
        let result = backend.write(stale.clone()).await;
        assert!(matches!(result, Err(StateError::Conflict)), "{stale:?}: {result:?}");
    }
    let changes = backend.changes(Some(start.horizon)).await.unwrap();
    let found = changes.written.iter().find(|(found, _)| *found == id("s")).unwrap();
    assert!(found.1.version == second && found.1.text.contains("\"2\""));
    assert!(changes.deleted.iter().all(|(deleted, _)| *deleted != id("s")));
    let changes = backend.changes(Some(changes.horizon)).await.unwrap();
    other.write(write("s", Some(second), None)).await.unwrap();
    let deleted = backend.changes(Some(changes.horizon)).await.unwrap();
    let of_s = deleted.deleted.iter().find(|(deleted, _)| *deleted == id("s")).unwrap();
    assert!(of_s.1 > second && deleted.written.iter().all(|(written, _)| *written != id("s")), "{deleted:?}");
    assert!(backend.changes(None).await.unwrap().deleted.is_empty(), "a read of all states");
    // A state that is created again has a greater version than the deleted one.
    let created = backend.write(write("s", None, Some("4"))).await.unwrap();
    assert!(created > of_s.1);
    // Deleted and created again within one read.
    let changes = other.changes(Some(changes.horizon)).await.unwrap();
    assert!(changes.written.iter().any(|(found, stored)| *found == id("s") && stored.version == created));
}
