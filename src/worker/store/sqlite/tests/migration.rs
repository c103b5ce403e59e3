//! Migration of stores of older formats.

use super::*;

/// A migrated store has all rows, and bytes that version 1 did not count are never subtracted.
#[tokio::test]
async fn migrates_a_store_of_version_1() {
    let dir = tempfile::tempdir().unwrap();
    let mut conn = raw(dir.path());
    migrate::migrate(&mut conn, &schema::MIGRATIONS[..1]).unwrap();
    let id = uuid::Uuid::now_v7();
    conn.execute_batch(&format!(
        "INSERT INTO hooks VALUES (1, 'uid-x', 'shop', 'x');
         INSERT INTO events VALUES (1, {t}, 0, 'old', 'shop', 'api', 'orders', 'paid', '2023', NULL, '{{}}');
         INSERT INTO deliveries VALUES (1, 1, 1, x'{id}', 0, 2, {t}, NULL, NULL);
         INSERT INTO deliveries VALUES (2, 1, 1, x'00112233445566778899aabbccddeeff', 2, 1, {t}, {t}, 'MaxAge');",
        t = T0.0,
        id = id.simple(),
    ))
    .unwrap();
    drop(conn);
    let store = SqliteStore::open(dir.path()).unwrap();
    // A copy of the old format is kept, for a rollback by more than one release.
    let kept: i64 = Connection::open(dir.path().join("hookstream.db.v1"))
        .unwrap()
        .query_row("SELECT count(*) FROM deliveries", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, 2);
    let mode = std::fs::metadata(dir.path().join("hookstream.db.v1")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let old = store.due_by("uid-x", T0, 9).await.unwrap().remove(0);
    assert_eq!((old.id, old.attempts, old.accepted, old.suppressed), (id, 2, T0, 0));
    store.settle(settled(old.seq, T0, 200, NextStep::Delivered)).await.unwrap();
    // The background job adds the ids of old events.
    while store.sweep(RETENTION, T0).await.unwrap() {}
    assert_eq!(store.explain("shop", "old").await.unwrap().unwrap().deliveries.len(), 2);
    assert_eq!(stored_pending_bytes(dir.path()), 0);
    // A program of version 1 settles a delivery that we counted, as after a rollback.
    store.accept(vec![new("new", &["x"], T0)], T0).await.unwrap();
    store.close().await;
    assert!(stored_pending_bytes(dir.path()) > 0);
    raw(dir.path())
        .execute("UPDATE deliveries SET state = 1, finished_at = ?1 WHERE state = 0", [T0.0])
        .unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    while store.sweep(RETENTION, Millis(T0.0 * 2)).await.unwrap() {}
    assert_eq!(stored_pending_bytes(dir.path()), 0);
}

/// Deliveries get new sequence numbers, and all references are updated.
#[tokio::test]
async fn migrates_a_store_of_version_4() {
    let dir = tempfile::tempdir().unwrap();
    let mut conn = raw(dir.path());
    migrate::migrate(&mut conn, &schema::MIGRATIONS[..4]).unwrap();
    let ids: Vec<_> = (0..4).map(|_| uuid::Uuid::now_v7()).collect();
    let replay = uuid::Uuid::now_v7();
    let filter = r#"{"namespace":"shop","hook":null,"state":"dead","event":null,"since":null,"until":null}"#;
    conn.execute_batch(&format!(
        "INSERT INTO hooks (id, uid, namespace, name, waiting) VALUES (1, 'uid-x', 'shop', 'x', 514), (2, 'uid-y', 'shop', 'y', 514);
         INSERT INTO events VALUES (5, {t}, 0, 'a', 'shop', 'api', 'orders', 'paid', '2023', NULL, '{{}}'),
                                   (9, {t}, 0, 'b', 'shop', 'api', 'orders', 'paid', '2023', NULL, '{{}}'),
                                   (11, {t}, 0, 'gone', 'shop', 'api', 'orders', 'paid', '2023', NULL, '{{}}');
         INSERT INTO deliveries (seq, event, hook, id, state, attempts, due, finished_at, reason, size) VALUES
             (3, 5, 1, x'{}', 2, 1, {t}, {t}, 'MaxAttempts', -514), (4, 5, 2, x'{}', 0, 1, {t}, NULL, NULL, 514),
             (7, 9, 1, x'{}', 0, 0, {t}, NULL, NULL, 514), (8, 9, 2, x'{}', 5, 0, {t}, NULL, NULL, 514);
         INSERT INTO attempts VALUES (3, 1, {t}, 1000, 503, 'Status', NULL), (4, 1, {t}, 2000, 500, 'Status', NULL);
         INSERT INTO gates VALUES (1, 1, x'01', NULL, {t} + 1000, 7, 0, {t});
         INSERT INTO candidates VALUES (2, x'02', 8, {t} + 5000, 1000, NULL, NULL);
         INSERT INTO replays VALUES (x'{}', 'shop', '{filter}', 10, {t}, {t}, 3, 8, 1, NULL);
         DELETE FROM events WHERE seq = 11;",
        ids[0].simple(),
        ids[1].simple(),
        ids[2].simple(),
        ids[3].simple(),
        replay.simple(),
        t = T0.0,
    ))
    .unwrap();
    drop(conn);
    let store = SqliteStore::open(dir.path()).unwrap();
    let seq = |event: i64, index: usize| sequence::delivery_seq(event, index);
    let dead = store.delivery("shop", ids[0]).await.unwrap().unwrap();
    assert_eq!((dead.seq, dead.event_id.as_str(), dead.attempts[0].status), (seq(5, 0), "a", Some(503)));
    let tried = store.due_by("uid-y", T0, 9).await.unwrap().remove(0);
    assert_eq!((tried.seq, tried.id, tried.attempts), (seq(5, 1), ids[1], 1));
    while store.sweep(RETENTION, T0).await.unwrap() {}
    let both: Vec<_> =
        store.explain("shop", "b").await.unwrap().unwrap().deliveries.iter().map(|d| d.seq).collect();
    assert_eq!(both, [seq(9, 0), seq(9, 1)]);
    let one = |sql: &str| raw(dir.path()).query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(one("SELECT owner FROM gates"), seq(9, 0));
    assert_eq!(one("SELECT delivery FROM candidates"), seq(9, 1));
    assert_eq!((one("SELECT at FROM replays"), one("SELECT top FROM replays")), (seq(5, 0), seq(9, 1)));
    assert!(!store.replay_progress("shop", replay).await.unwrap().unwrap().done);
    let next = store.accept(vec![new("c", &["x"], T0)], T0).await.unwrap().remove(0);
    assert_eq!(next.seq, 12, "the sequence number of a removed event is not reused");
    store.close().await;
    assert_eq!(check(dir.path()).unwrap().problems, Vec::<String>::new());
}

/// Deliveries get the number of their namespace, also those that a program of format 5 inserts after a rollback.
#[tokio::test]
async fn migrates_a_store_of_version_5() {
    use super::super::super::DeliveryFilter;
    let dir = tempfile::tempdir().unwrap();
    let mut conn = raw(dir.path());
    migrate::migrate(&mut conn, &schema::MIGRATIONS[..5]).unwrap();
    let insert = |conn: &Connection, event: i64, hook: i64| {
        let (seq, id) = (sequence::delivery_seq(event, 0), uuid::Uuid::now_v7());
        conn.execute_batch(&format!(
            "INSERT INTO events (seq, accepted, kept_until, id, namespace, origin, source, event, time, data)
             VALUES ({event}, {t}, 0, 'e{event}', 'shop', 'api', 'orders', 'paid', '2023', '{{}}');
             INSERT INTO deliveries (seq, hook, id, state, attempts, due, finished_at, size)
             VALUES ({seq}, {hook}, x'{}', 1, 0, {t}, {t}, -514);
             UPDATE meta SET value = {event} WHERE name = 'filed';",
            id.simple(),
            t = T0.0,
        ))
        .unwrap();
    };
    conn.execute_batch(
        "INSERT INTO hooks (id, uid, namespace, name) VALUES (1, 'uid-x', 'shop', 'x'), (2, 'uid-y', 'shop', 'y'),
                                                             (3, 'uid-z', 'other', 'z');",
    )
    .unwrap();
    insert(&conn, 1, 1);
    insert(&conn, 2, 2);
    insert(&conn, 3, 3);
    drop(conn);
    let listed = async |store: &SqliteStore, namespace: &str| {
        let filter = DeliveryFilter { namespace: namespace.into(), ..DeliveryFilter::default() };
        let page = store.list(filter, None, 9).await.unwrap();
        page.records.into_iter().map(|record| record.event_id).collect::<Vec<_>>()
    };
    let store = SqliteStore::open(dir.path()).unwrap();
    assert!(dir.path().join("hookstream.db.v5").exists(), "a copy of the old format is kept");
    assert_eq!(listed(&store, "shop").await, ["e2", "e1"]);
    assert_eq!(listed(&store, "other").await, ["e3"]);
    store.close().await;
    // As an older program does: it knows neither the column nor the number of a new namespace.
    let conn = raw(dir.path());
    conn.execute_batch(
        "INSERT INTO hooks (id, uid, namespace, name) VALUES (9, 'uid-n', 'new', 'n');
         INSERT INTO hooks (id, uid, namespace, name, held_since) VALUES (10, 'uid-h', 'held', 'h', 1);",
    )
    .unwrap();
    insert(&conn, 4, 1);
    insert(&conn, 5, 9);
    drop(conn);
    let store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(listed(&store, "shop").await, ["e4", "e2", "e1"]);
    assert_eq!(listed(&store, "new").await, ["e5"]);
    assert!(
        store.namespaces().await.unwrap().contains(&"held".into()),
        "a hook without deliveries counts too"
    );
    while store.sweep(RETENTION, Millis(T0.0 * 2)).await.unwrap() {}
    assert_eq!(listed(&store, "shop").await, [""; 0]);
    let hooks: i64 = raw(dir.path()).query_row("SELECT count(*) FROM hooks", [], |row| row.get(0)).unwrap();
    assert_eq!(hooks, 1, "the held one");
    store.close().await;
    // Without deliveries, there is no other sign of the hook.
    raw(dir.path()).execute("DELETE FROM namespace_numbers", []).unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(store.namespaces().await.unwrap(), ["held"]);
}
