//! Stores that must not be copied, or not be used after a copy.

use rusqlite::Connection;
use tokio::sync::mpsc;

use super::super::super::portable::SourceInfo;
use super::*;

/// A folder with a store of one pending delivery.
async fn small() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    store.claim_installation("one", false).await.unwrap();
    store.accept(vec![new("e", &["h"], T0)], T0).await.unwrap();
    store.close().await;
    dir
}

fn raw(dir: &Path, sql: &str) {
    Connection::open(dir.join(sqlite::STORE_FILE)).unwrap().execute_batch(sql).unwrap();
}

async fn refusal(from: &Location, to: &Location) -> String {
    copy_all(from, to).await.unwrap_err().to_string()
}

fn open_refusal(dir: &Path) -> String {
    SqliteStore::open(dir).err().unwrap().to_string()
}

async fn database_refusal(url: &str) -> String {
    PostgresStore::open(&database(url), "worker").await.err().unwrap().to_string()
}

/// Returns the ids of the pending deliveries.
async fn pending(store: &impl TestStore) -> Vec<uuid::Uuid> {
    store.due_by("uid-h", LATE, 10).await.unwrap().iter().map(|delivery| delivery.id).collect()
}

const LATE: Millis = Millis(T0.0 * 2);

#[tokio::test]
async fn a_copied_folder_is_refused_until_it_is_unsealed() {
    let (dir, url) = (small().await, test_server::shared().new_database());
    let (from, to) = (in_folder(dir.path()), in_database(&url));
    copy_all(&from, &to).await.unwrap();
    let error = open_refusal(dir.path());
    let name = database_name(&url);
    assert!(error.contains(name) && error.contains("store unseal --data"), "{error}");
    assert_eq!(sqlite::check(dir.path()).unwrap().moved_to.map(|to| to.contains(name)), Some(true));
    let error = refusal(&from, &in_database(&test_server::shared().new_database())).await;
    assert!(error.contains("its data was copied to"), "{error}");

    let done = unseal(&from).await.unwrap();
    assert!(done.contains("workers can use it again"), "{done}");
    assert_eq!(unseal(&from).await.unwrap(), "nothing to do: its data was not copied");
    let store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(pending(&store).await.len(), 1);
    store.close().await;
    assert_eq!(sqlite::check(dir.path()).unwrap().min_reader, 9, "as before");
}

#[tokio::test]
async fn a_copied_database_is_refused_until_it_is_unsealed() {
    let (dir, url) = (small().await, test_server::shared().new_database());
    copy_all(&in_folder(dir.path()), &in_database(&url)).await.unwrap();
    let (from, back) = (in_database(&url), tempfile::tempdir().unwrap());
    // A worker that is suspended while its store is copied, so that its lease ends.
    let suspended = PostgresStore::open_still(&database(&url), "suspended").await.unwrap();
    let error = refusal(&from, &in_folder(back.path())).await;
    assert!(error.contains("workers use it (suspended)"), "{error}");
    end_leases(&url);
    copy_all(&from, &in_folder(back.path())).await.unwrap();
    let accepted = suspended.accept(vec![new("late", &["h"], T0)], T0).await;
    assert!(matches!(accepted, Err(StoreError::Unavailable(_))), "{accepted:?}");
    assert!(database_refusal(&url).await.contains("store unseal --store-url URL"));
    let report = postgres::administration::check(&database(&url)).await.unwrap();
    assert_eq!((report.events, report.problems.len()), (1, 0), "nothing was accepted");
    assert!(report.moved_to.is_some_and(|to| to == back.path().display().to_string()));

    let done = unseal(&from).await.unwrap();
    assert!(done.contains("workers can use it again"), "{done}");
    drop(suspended);
    let store = PostgresStore::open(&database(&url), "worker").await.unwrap();
    store.accept(vec![new("again", &["h"], T0)], T0).await.unwrap();
}

#[tokio::test]
async fn a_source_that_cannot_be_copied_is_named() {
    let url = test_server::shared().new_database();
    let to = in_database(&url);
    let empty = tempfile::tempdir().unwrap();
    let error = refusal(&in_folder(empty.path()), &to).await;
    assert!(error.contains("there is no store in it"), "{error}");
    let error = refusal(&in_folder(&empty.path().join("missing")), &to).await;
    assert!(error.contains("no such folder"), "{error}");

    let dir = small().await;
    let store = SqliteStore::open(dir.path()).unwrap();
    let error = refusal(&in_folder(dir.path()), &to).await;
    assert!(error.contains("a worker or another copy uses"), "{error}");
    store.close().await;
    raw(dir.path(), "UPDATE meta SET value = 9 WHERE name = 'version'");
    let error = refusal(&in_folder(dir.path()), &to).await;
    assert!(error.contains("it has format 9") && error.contains("start a worker of this version"), "{error}");
    raw(dir.path(), "UPDATE meta SET value = 10 WHERE name = 'version'; DELETE FROM hooks");
    let error = refusal(&in_folder(dir.path()), &to).await;
    assert!(error.contains("not sound") && error.contains("store recover"), "{error}");
    let error = refusal(&in_folder(dir.path()), &in_folder(empty.path())).await;
    assert!(error.contains("store backup"), "{error}");
}

#[tokio::test]
async fn a_target_that_cannot_be_used_is_named() {
    let (dir, url) = (small().await, test_server::shared().new_database());
    let (from, to) = (in_folder(dir.path()), in_database(&url));
    let store = PostgresStore::open(&database(&url), "worker").await.unwrap();
    let error = refusal(&from, &to).await;
    assert!(error.contains("workers use it (worker)"), "{error}");
    store.claim_installation("other", false).await.unwrap();
    store.close().await;
    let error = refusal(&from, &to).await;
    assert!(error.contains("another installation (other; the source is of one)"), "{error}");
    let store = PostgresStore::open(&database(&url), "worker").await.unwrap();
    store.claim_installation("one", true).await.unwrap();
    store.accept(vec![new("e", &["h"], T0)], T0).await.unwrap();
    store.close().await;
    let error = refusal(&from, &to).await;
    assert!(error.contains("it has events, pending deliveries, hooks, namespaces"), "{error}");
    let error = refusal(&in_database(&url), &from).await;
    assert!(error.contains("it has a store already"), "{error}");
    let stray = tempfile::tempdir().unwrap();
    let log = stray.path().join(format!("{}-wal", sqlite::STORE_FILE));
    std::fs::write(&log, "").unwrap();
    let error = refusal(&in_database(&url), &in_folder(stray.path())).await;
    assert!(error.contains("belongs to a store that was moved away"), "{error}");
    std::fs::remove_file(log).unwrap();
    let key = r"INSERT INTO hookstream.key_ring (id, key) VALUES ('k', '\x00')";
    test_server::shared().sql(database_name(&url), key).unwrap();
    let error = refusal(&in_database(&url), &in_folder(stray.path())).await;
    assert!(error.contains("hookstream.key_ring"), "{error}");
    let error = refusal(&in_database(&url), &in_folder(Path::new("/missing"))).await;
    assert!(error.contains("the folder does not exist"), "{error}");
    assert_eq!(pending(&SqliteStore::open(dir.path()).unwrap()).await.len(), 1, "the source is as it was");
}

/// A value that PostgreSQL cannot store ends the copy; nothing is lost, and both stores are as before.
#[tokio::test]
async fn a_failed_copy_leaves_both_stores_as_they_were() {
    let (dir, url) = (small().await, test_server::shared().new_database());
    let (from, to) = (in_folder(dir.path()), in_database(&url));
    raw(dir.path(), "UPDATE hooks SET name = 'a' || char(0)");
    let error = refusal(&from, &to).await;
    assert!(error.contains("0x00"), "{error}");
    PostgresStore::open(&database(&url), "worker").await.unwrap().close().await;
    raw(dir.path(), "UPDATE hooks SET name = 'a'");
    copy_all(&from, &to).await.unwrap();
}

fn mark(copy: Uuid) -> UnfinishedCopy {
    UnfinishedCopy { copy, from: "elsewhere".into(), min_reader: 0 }
}

#[tokio::test]
async fn an_interrupted_copy_to_a_database_is_repeated() {
    let (dir, url) = (small().await, test_server::shared().new_database());
    let (from, to) = (in_folder(dir.path()), in_database(&url));
    // As a killed process leaves it.
    let mut target = PostgresTarget::open(&database(&url), false).await.unwrap();
    target.begin(&mark(Uuid::now_v7())).await.unwrap();
    let error = refusal(&from, &to).await;
    assert!(error.contains("another copy uses the database"), "{error}");
    drop(target);
    for error in [database_refusal(&url).await, refusal(&to, &in_folder(dir.path().parent().unwrap())).await]
    {
        assert!(error.contains("a copy from elsewhere to it has not finished"), "{error}");
    }
    let report = postgres::administration::check(&database(&url)).await.unwrap();
    let [problem] = &report.problems[..] else { panic!("{report:?}") };
    assert!(problem.starts_with("a copy from elsewhere to it has not finished: repeat"), "{problem}");
    assert!(!report.needs_restore, "the source has everything");
    copy_all(&from, &to).await.unwrap();
    let store = PostgresStore::open(&database(&url), "worker").await.unwrap();
    assert_eq!(pending(&store).await.len(), 1);

    let url = test_server::shared().new_database();
    let mut target = PostgresTarget::open(&database(&url), false).await.unwrap();
    target.begin(&mark(Uuid::now_v7())).await.unwrap();
    drop(target);
    while let Err(error) = unseal(&in_database(&url)).await {
        // The server still ends the connection.
        assert!(error.to_string().contains("another copy"), "{error}");
    }
    PostgresStore::open(&database(&url), "worker").await.unwrap();
}

#[tokio::test]
async fn an_interrupted_copy_to_a_folder_is_repeated() {
    let (dir, url) = (small().await, test_server::shared().new_database());
    copy_all(&in_folder(dir.path()), &in_database(&url)).await.unwrap();
    let (from, back) = (in_database(&url), tempfile::tempdir().unwrap());
    let to = in_folder(back.path());
    let interrupt = async || {
        let mut target = SqliteTarget::open(back.path(), 0).unwrap();
        target.begin(&mark(Uuid::now_v7())).await.unwrap();
        let (_, batches) = mpsc::channel(1);
        target.write(&SourceInfo::default(), batches, &CopyProgress::default()).await.unwrap();
    };
    interrupt().await;
    let error = open_refusal(back.path());
    assert!(error.contains("a copy from elsewhere to it has not finished"), "{error}");
    let report = sqlite::check(back.path()).unwrap();
    assert_eq!(report.problems, ["a copy from elsewhere to it has not finished"]);
    assert_eq!(unseal(&to).await.unwrap(), "removed the unfinished copy from elsewhere");
    assert!(!back.path().join(sqlite::STORE_FILE).exists());
    interrupt().await;
    copy_all(&from, &to).await.unwrap();
    assert_eq!(pending(&SqliteStore::open(back.path()).unwrap()).await.len(), 1);
    let files: Vec<String> = std::fs::read_dir(back.path())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("copy") || name.contains("journal"))
        .collect();
    assert_eq!(files, Vec::<String>::new());
}

/// The process ended after it sealed the source: neither store can be used, and the same command finishes the copy.
#[tokio::test]
async fn a_copy_that_was_interrupted_after_the_seal_is_finished() {
    let (dir, url) = (small().await, test_server::shared().new_database());
    let (from, to, copy) = (in_folder(dir.path()), in_database(&url), Uuid::now_v7());
    let mut target = PostgresTarget::open(&database(&url), false).await.unwrap();
    target.begin(&mark(copy)).await.unwrap();
    drop(target);
    let seal = Seal { copy, to: "there".into(), at: T0.0, min_reader: 0 };
    SqliteSource::open(dir.path(), 0).unwrap().seal(&seal).await.unwrap();
    assert!(open_refusal(dir.path()).contains("its data was copied to there"));
    assert!(database_refusal(&url).await.contains("has not finished"));
    copy_all(&from, &to).await.unwrap();
    let store = PostgresStore::open(&database(&url), "worker").await.unwrap();
    assert_eq!(pending(&store).await.len(), 1);
    store.close().await;
    unseal(&from).await.unwrap();
    assert_eq!(sqlite::check(dir.path()).unwrap().min_reader, 9, "as before the first seal");

    // The same way back.
    let (back, copy) = (tempfile::tempdir().unwrap(), Uuid::now_v7());
    SqliteTarget::open(back.path(), 0).unwrap().begin(&mark(copy)).await.unwrap();
    let seal = Seal { copy, ..seal };
    PostgresSource::open(&database(&url), 0).await.unwrap().seal(&seal).await.unwrap();
    copy_all(&to, &in_folder(back.path())).await.unwrap();
    assert_eq!(pending(&SqliteStore::open(back.path()).unwrap()).await.len(), 1);
    unseal(&to).await.unwrap();
    PostgresStore::open(&database(&url), "worker").await.unwrap();
}
