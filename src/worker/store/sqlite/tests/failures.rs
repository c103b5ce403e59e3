//! Full, slow, broken disks, long reads, and power failures.

use super::*;

#[tokio::test]
async fn a_failed_sync_fails_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let fault = Arc::new(Mutex::new(None));
    let store = open_tuned(dir.path(), |t| t.fault = fault.clone());
    store.accept(vec![new("kept", &["x"], T0)], T0).await.unwrap();
    let failed = store.failed();
    *fault.lock() = Some(ffi::SQLITE_IOERR_FSYNC);
    let group = join_all((0..10).map(|n| store.accept(vec![new(&format!("e{n}"), &["x"], T0)], T0))).await;
    assert!(group.iter().all(|r| matches!(r, Err(StoreError::Fatal(_)))), "{group:?}");
    assert!(matches!(failed.await, StoreError::Fatal(_)));
    let fatal = |e: StoreError| assert!(matches!(e, StoreError::Fatal(_)), "{e}");
    fatal(store.accept(vec![new("z", &["x"], T0)], T0).await.unwrap_err());
    fatal(store.settle(settled(1, T0, 200, NextStep::Delivered)).await.unwrap_err());
    fatal(store.due_by("uid-x", T0, 9).await.unwrap_err());
    fatal(store.failed().await);
    store.close().await;
    let store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(store.due_by("uid-x", T0, 99).await.unwrap().len(), 1);
}

#[tokio::test]
async fn survives_a_full_or_busy_commit() {
    let dir = tempfile::tempdir().unwrap();
    let fault = Arc::new(Mutex::new(None));
    let store = open_tuned(dir.path(), |t| t.fault = fault.clone());
    for (code, want) in
        [(ffi::SQLITE_FULL, "Full"), (ffi::SQLITE_BUSY, "Busy"), (ffi::SQLITE_IOERR_SHMSIZE, "Full")]
    {
        *fault.lock() = Some(code);
        let keyed = || NewEvent { dedup: key(1, Duration::from_secs(1)), ..new("a", &["x", "new-hook"], T0) };
        let name: &'static str = store.accept(vec![keyed()], T0).await.unwrap_err().into();
        assert_eq!(name, want);
        *fault.lock() = None;
        assert_eq!(store.due_by("uid-x", T0, 9).await.unwrap().len(), 0, "nothing is stored partially");
        assert!(!store.space().await.unwrap().is_disk_full, "the disk has space");
    }
    let got = store.accept(vec![new("a", &["x", "new-hook"], T0)], T0).await.unwrap();
    assert!(!got[0].duplicate);
    assert_eq!(
        store.due_by("uid-new-hook", T0, 9).await.unwrap().len(),
        1,
        "a rolled back row id of the hook is not cached"
    );
}

#[tokio::test]
async fn an_unreadable_database_fails_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    store.accept((0..500).map(|n| new(&format!("e{n}"), &["x"], T0)).collect(), T0).await.unwrap();
    store.close().await;
    let file = std::fs::File::options().write(true).open(dir.path().join(FILE)).unwrap();
    let size = file.metadata().unwrap().len();
    let store = SqliteStore::open(dir.path()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(
        &file,
        &vec![0xff; usize::try_from(size).unwrap() - 16_384],
        16_384,
    )
    .unwrap();
    let got = store.due_by("uid-x", T0, 999).await;
    assert!(matches!(got, Err(StoreError::Fatal(_))), "{:?}", got.map(|p| p.len()));
    assert!(matches!(store.failed().await, StoreError::Fatal(_)));
}

#[tokio::test]
async fn a_full_queue_refuses_accept_and_delays_settle() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open_tuned(dir.path(), |t| {
        t.queue = 2;
        t.queue_bytes = 10_000;
    }));
    let seq = store.accept(vec![new("a", &["x"], T0)], T0).await.unwrap()[0].deliveries[0].seq;
    // Another process blocks the writer.
    let blocker = raw(dir.path());
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let spawn = |id: &str| {
        let (store, event) = (store.clone(), new(id, &["x"], T0));
        tokio::spawn(async move { store.accept(vec![event], T0).await })
    };
    let first = spawn("b");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let big =
        NewEvent { event: event_with("big", &format!("\"{}\"", "x".repeat(20_000))), ..new("", &["x"], T0) };
    let second = spawn("c");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(matches!(store.accept(vec![big], T0).await, Err(StoreError::Busy)), "bounded by bytes");
    let third = spawn("d");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(
        matches!(store.accept(vec![new("e", &["x"], T0)], T0).await, Err(StoreError::Busy)),
        "bounded by the number of operations"
    );
    let settling = {
        let store = store.clone();
        tokio::spawn(async move { store.settle(settled(seq, T0, 200, NextStep::Delivered)).await })
    };
    assert_eq!(store.due_by("uid-x", T0, 9).await.unwrap().len(), 1, "reads are not blocked");
    blocker.execute_batch("ROLLBACK").unwrap();
    for accepted in [first, second, third] {
        accepted.await.unwrap().unwrap();
    }
    settling.await.unwrap().unwrap();
    assert_eq!(store.due_by("uid-x", T0, 9).await.unwrap().len(), 3);
}

async fn longest_log(store: &SqliteStore, dir: &Path) -> u64 {
    let mut longest = 0;
    for n in 0..400 {
        store.accept((0..10).map(|m| new(&format!("e{n}-{m}"), &["x"], T0)).collect(), T0).await.unwrap();
        longest = longest.max(std::fs::metadata(dir.join("hookstream.db-wal")).unwrap().len());
    }
    longest / 4120
}

/// At every moment some reader has a snapshot, but each reader only for a short time.
#[tokio::test]
async fn the_log_is_bounded_under_overlapping_readers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_tuned(dir.path(), |t| (t.wal_pages, t.max_wal_pages) = (32, 64));
    let stop = Arc::new(AtomicBool::new(false));
    let readers = [raw(dir.path()), raw(dir.path())];
    let reader = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let begin = |conn: &Connection| conn.execute_batch("BEGIN; SELECT count(*) FROM meta").unwrap();
            begin(&readers[0]);
            while !stop.load(Ordering::Relaxed) {
                for (one, other) in [(0, 1), (1, 0)] {
                    begin(&readers[other]);
                    std::thread::sleep(Duration::from_millis(2));
                    readers[one].execute_batch("COMMIT").unwrap();
                }
            }
        }
    });
    let longest = longest_log(&store, dir.path()).await;
    stop.store(true, Ordering::Relaxed);
    reader.join().unwrap();
    // Unbounded, the log would have 5,557 pages. Readers with the same snapshot, or a busy machine, may make some waits
    // unsuccessful (64 pages each), but not most of them.
    assert!(longest < 24 * 64, "{longest} pages");
}

/// During a backup of several minutes the log grows, and most groups do not wait for the backup.
#[tokio::test]
async fn a_long_read_does_not_stop_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_tuned(dir.path(), |t| (t.wal_pages, t.max_wal_pages) = (32, 256));
    let backup = raw(dir.path());
    backup.execute_batch("BEGIN; SELECT count(*) FROM meta").unwrap();
    let started = Instant::now();
    let longest = longest_log(&store, dir.path()).await;
    assert!(longest > 2 * 256, "{longest} pages: the long read had no effect");
    // One wait for every 256 pages. If each of the 400 groups waited, it would take 100 s.
    assert!(started.elapsed() < Duration::from_secs(60), "{:?} for {longest} pages", started.elapsed());
    backup.execute_batch("COMMIT").unwrap();
    store.accept(vec![new("then", &["x"], T0)], T0).await.unwrap();
}

/// Copies the files while the writer runs, as a machine would find them after a power failure, and opens the copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_image_contains_acknowledged_events() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = Arc::new(CheckpointCounter::default());
    let store = Arc::new(open_tuned(dir.path(), |t| {
        t.checkpoints = checkpoints.clone();
        t.wal_pages = 1000;
    }));
    let acknowledged = Arc::new(Mutex::new(Vec::<DeliverySeq>::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let producers: Vec<_> = (0..8)
        .map(|p| {
            let (store, acknowledged, stop) = (store.clone(), acknowledged.clone(), stop.clone());
            tokio::spawn(async move {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    let pair =
                        vec![new(&format!("{p}-{n}a"), &["x"], T0), new(&format!("{p}-{n}b"), &["x"], T0)];
                    let got = store.accept(pair, T0).await.unwrap();
                    acknowledged.lock().extend(seqs_of(&got));
                }
            })
        })
        .collect();
    let (mut images, mut tries) = (0, 0);
    while images < 12 && tries < 400 {
        tries += 1;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..40))).await;
        let copy = tempfile::tempdir().unwrap();
        let acknowledged_before: Vec<DeliverySeq> = acknowledged.lock().clone();
        let before = checkpoints.counts();
        // In another process: closing a file here would release the locks that SQLite has on it.
        let cp = Command::new("cp")
            .args([dir.path().join(FILE), dir.path().join("hookstream.db-wal"), copy.path().to_path_buf()])
            .status()
            .unwrap();
        assert!(cp.success());
        // The two files are copied one after the other. If a checkpoint ran in between, no power failure could leave
        // this pair.
        if before.1 > 0 || checkpoints.counts() != before {
            continue;
        }
        images += 1;
        let image = SqliteStore::open(copy.path()).unwrap();
        let there: std::collections::HashSet<DeliverySeq> =
            image.due_by("uid-x", T0, usize::MAX).await.unwrap().iter().map(|p| p.seq).collect();
        let lost: Vec<_> = acknowledged_before.iter().filter(|seq| !there.contains(seq)).collect();
        assert!(lost.is_empty(), "image {images}: {} lost of {}", lost.len(), acknowledged_before.len());
        assert_eq!(there.len() % 2, 0, "an accept of two events is stored completely or not at all");
        image.accept(vec![new("next", &["x"], T0)], T0).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    join_all(producers).await.into_iter().for_each(Result::unwrap);
    println!("{images} images of {tries}, {} acknowledged", acknowledged.lock().len());
    assert!(images >= 3, "{images} of {tries}");
}

/// A small file system of its own, if this machine allows mounting one.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "hookstream-test"]).arg(dir.path());
        mount.stderr(std::process::Stdio::null());
        mount.status().ok()?.success().then_some(Tmpfs(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.0.path()).status());
    }
}

#[tokio::test]
#[ignore = "mounts a tmpfs: make test runs it where user namespaces are allowed"]
async fn full_disk_is_reported_and_survived_needs_mount() {
    let disk = Tmpfs::mount("20m").expect("a tmpfs");
    let dir: PathBuf = disk.0.path().join("store");
    std::fs::create_dir(&dir).unwrap();
    let store = SqliteStore::open(&dir).unwrap();
    let body = format!("\"{}\"", "x".repeat(20_000));
    let big = |id: &str| {
        let deliveries = ["x", "y"].map(|name| delivery(name, T0)).to_vec();
        NewEvent { event: event_with(id, &body), dedup: None, deliveries }
    };
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 4 << 20]).unwrap();
    let (mut accepted, mut full) = (0, 0);
    for n in 0..2000 {
        match store.accept(vec![big(&format!("{n}a")), big(&format!("{n}b"))], T0).await {
            Ok(_) => accepted += 2,
            Err(StoreError::Full) => full += 1,
            Err(e) => panic!("{e}"),
        }
        if full == 5 {
            break;
        }
    }
    assert!(full == 5 && accepted > 20, "{accepted} accepted, {full} refused");
    let count = async |store: &SqliteStore| {
        let x = store.due_by("uid-x", T0, 9999).await.unwrap().len();
        assert_eq!(store.due_by("uid-y", T0, 9999).await.unwrap().len(), x);
        x
    };
    assert_eq!(count(&store).await, accepted, "nothing is lost, and nothing is stored partially");
    // Settling works as far as the log has space; a refused settlement changes nothing.
    let (mut settled_count, mut refused) = (0, 0);
    for pending in store.due_by("uid-x", T0, 20).await.unwrap() {
        match store.settle(settled(pending.seq, T0, 503, NextStep::Retry { due: T0 })).await {
            Ok(_) => settled_count += 1,
            Err(StoreError::Full) => refused += 1,
            Err(e) => panic!("{e}"),
        }
    }
    println!("with the disk full: {settled_count} settled, {refused} refused");
    // After a crash on the full disk the store opens and has everything.
    drop(store);
    let store = SqliteStore::open(&dir).unwrap();
    assert_eq!(count(&store).await, accepted);
    std::fs::remove_file(&ballast).unwrap();
    assert!(!store.space().await.unwrap().is_disk_full, "the disk has space again");
    store.accept(vec![big("after-a"), big("after-b")], T0).await.unwrap();
    assert_eq!(count(&store).await, accepted + 2);
    println!("{accepted} accepted before the disk was full");
    store.close().await;
}
