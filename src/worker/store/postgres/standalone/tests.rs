//! The lease and the fence of the controller's writes, on a real server.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::Semaphore;

use super::super::test_server;
use super::lease::LeaseTry;
use super::*;
use crate::core::time::Millis;
use crate::leadership::{Leadership, LeaseAtExit};

async fn database() -> (String, SharedDatabase) {
    let url = test_server::shared().new_database();
    let mut options: PostgresOptions = url.parse().unwrap();
    options.allow_unsafe_sync = true;
    let name = url.rsplit('/').next().unwrap().to_owned();
    (name, SharedDatabase::connect(&options).await.unwrap())
}

fn object() -> ObjectName {
    ObjectName { kind: "EventHook", namespace: "n".into(), name: "a".into() }
}

fn write(before: Option<u64>, needs_lease: bool) -> ObjectWrite {
    ObjectWrite { object: object(), before, state: Some("{}".into()), needs_lease }
}

/// Ends the lease as its time does.
fn expire(database: &str) {
    let sql = "UPDATE hookstream.leases SET lease_until = clock_timestamp() - interval '1 ms'";
    test_server::shared().sql(database, sql).unwrap();
}

#[tokio::test]
async fn one_process_holds_the_lease_until_it_ends() {
    let (name, database) = database().await;
    let (a, b) = (database.standalone("a".into()), database.standalone("b".into()));
    let session = a.session().await.unwrap();
    assert_eq!(a.lease.hold(&session).await.unwrap(), LeaseTry::Held);
    match b.lease.hold(&session).await.unwrap() {
        LeaseTry::Other { holder, remaining } => {
            assert_eq!(holder, "a");
            assert!(remaining > Duration::ZERO && remaining <= lease::LEASE, "{remaining:?}");
        }
        LeaseTry::Held => panic!("two holders"),
    }
    assert_eq!(a.lease.hold(&session).await.unwrap(), LeaseTry::Held, "renewed");
    expire(&name);
    assert_eq!(b.lease.hold(&session).await.unwrap(), LeaseTry::Held);
    assert!(matches!(a.lease.hold(&session).await.unwrap(), LeaseTry::Other { .. }));
    // A release by a former holder changes nothing.
    a.lease.release(&session).await.unwrap();
    assert!(matches!(a.lease.hold(&session).await.unwrap(), LeaseTry::Other { .. }));
    b.lease.release(&session).await.unwrap();
    assert_eq!(a.lease.hold(&session).await.unwrap(), LeaseTry::Held);
}

#[tokio::test]
async fn controller_without_the_lease_writes_nothing() {
    let (name, database) = database().await;
    let (a, b) = (database.standalone("a".into()), database.standalone("b".into()));
    let session = a.session().await.unwrap();
    a.lease.hold(&session).await.unwrap();
    let first = a.write_object(&write(None, true)).await.unwrap();
    let refused = b.write_object(&write(Some(first), true)).await;
    assert!(matches!(refused, Err(ObjectWriteError::NotLeading)), "{refused:?}");
    let second = b.write_object(&write(Some(first), false)).await.unwrap();
    let conflict = a.write_object(&write(Some(first), true)).await;
    assert!(matches!(conflict, Err(ObjectWriteError::Conflict)), "{conflict:?}");
    expire(&name);
    let late = a.write_object(&write(Some(second), true)).await;
    assert!(matches!(late, Err(ObjectWriteError::NotLeading)), "{late:?}");
}

/// A transaction that is still open when others read has a lower number than those that they have seen.
#[tokio::test]
async fn reads_miss_no_write_that_commits_late() {
    let (_, database) = database().await;
    let state = database.standalone("a".into());
    let late = state.session().await.unwrap();
    let tx = late.begin().await.unwrap();
    tx.batch("INSERT INTO hookstream.objects VALUES ('EventHook', 'n', 'late', '{}', pg_current_xact_id())")
        .await
        .unwrap();
    state.write_object(&write(None, false)).await.unwrap();
    let names = |changes: &ChangedObjects| {
        changes.written.iter().map(|(object, _)| object.name.clone()).collect::<Vec<_>>()
    };
    let first = state.changes(&["EventHook"], 0).await.unwrap();
    assert_eq!(names(&first), ["a"]);
    tx.commit().await.unwrap();
    let second = state.changes(&["EventHook"], first.horizon).await.unwrap();
    assert!(names(&second).contains(&"late".to_owned()), "{second:?}");
    let third = state.changes(&["EventHook"], second.horizon).await.unwrap();
    assert_eq!(state.changes(&["EventHook"], 0).await.unwrap().written.len(), 2);
    assert!(state.changes(&["Hook"], 0).await.unwrap().written.is_empty());
    // A deletion that commits late.
    let tx = late.begin().await.unwrap();
    tx.batch("DELETE FROM hookstream.objects WHERE name = 'late'").await.unwrap();
    state
        .write_object(&ObjectWrite {
            object: ObjectName { name: "b".into(), ..object() },
            ..write(None, false)
        })
        .await
        .unwrap();
    let before = state.changes(&["EventHook"], third.horizon).await.unwrap();
    assert!(before.deleted.is_empty(), "{before:?}");
    tx.commit().await.unwrap();
    let after = state.changes(&["EventHook"], before.horizon).await.unwrap();
    assert_eq!(after.deleted.iter().map(|(object, _)| &*object.name).collect::<Vec<_>>(), ["late"]);
    assert!(state.changes(&["Hook"], before.horizon).await.unwrap().deleted.is_empty());
}

/// Names that come and go must not accumulate.
#[tokio::test]
async fn deletions_are_forgotten_after_an_hour() {
    let (name, database) = database().await;
    let state = database.standalone("a".into());
    let version = state.write_object(&write(None, false)).await.unwrap();
    state.write_object(&ObjectWrite { state: None, ..write(Some(version), false) }).await.unwrap();
    let sql = "UPDATE hookstream.deleted_objects SET deleted_at = deleted_at - interval '61 min'";
    test_server::shared().sql(&name, sql).unwrap();
    let other = ObjectWrite { object: ObjectName { name: "b".into(), ..object() }, ..write(None, false) };
    let version = state.write_object(&other).await.unwrap();
    let known = || test_server::shared().sql(&name, "SELECT name FROM hookstream.deleted_objects").unwrap();
    assert_eq!(known(), [["a"]]);
    state.write_object(&ObjectWrite { before: Some(version), state: None, ..other }).await.unwrap();
    assert_eq!(known(), [["b"]]);
}

/// A state that takes longer to read than the leadership lasts must not keep every process from leading.
#[tokio::test]
async fn lease_is_renewed_while_the_state_is_read() {
    let (name, database) = database().await;
    let (leadership, handle) = Leadership::leased(Millis::steady);
    let (permits, read) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (waits, reads) = (permits.clone(), read.clone());
    let before_leading = Box::new(move || -> BoxFuture<'static, Result<(), String>> {
        let (waits, number) = (waits.clone(), reads.fetch_add(1, Ordering::SeqCst));
        Box::pin(async move {
            waits.acquire().await.unwrap().forget();
            if number == 0 { Err("the first read fails".into()) } else { Ok(()) }
        })
    });
    let election = DatabaseElection::new(database.standalone("a".into()), handle, before_leading);
    let running = election.start(Arc::default());
    let renewals = || {
        let sql = "SELECT lease_until FROM hookstream.leases";
        test_server::shared().sql(&name, sql).unwrap().first().map(|row| row[0].clone())
    };
    // Two renewals while the read waits.
    for _ in 0..2 {
        let before = renewals();
        while renewals() == before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert!(!leadership.is_leader());
    permits.add_permits(2);
    assert_eq!(leadership.wait_until_gained(0).await, 1);
    assert!(leadership.is_leader());
    assert_eq!(read.load(Ordering::SeqCst), 2, "the failed read was repeated, and no other");
    running.stop(LeaseAtExit::Release).await;
    assert!(!leadership.is_leader());
    assert_eq!(renewals().as_deref(), Some("-infinity"));
}
