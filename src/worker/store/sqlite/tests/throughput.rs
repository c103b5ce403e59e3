//! Measurements for `make bench`.

use super::super::runs::Entry;
use super::*;

/// With a million pending deliveries, opening, `backlog` and `due` take as long as with ten.
#[tokio::test]
#[ignore = "a million rows"]
async fn store_million_backlog() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let names: Vec<String> = (0..50).map(|n| format!("h{n}")).collect();
    let started = Instant::now();
    for n in 0..200_u64 {
        let batch = (0..100_u64).map(|m| {
            let hooks: Vec<&str> = names.iter().map(String::as_str).collect();
            new(&format!("{n}-{m}"), &hooks, T0 + Duration::from_millis(n * 100 + m))
        });
        store.accept(batch.collect(), T0).await.unwrap();
    }
    println!("1,000,000 deliveries stored in {:?}", started.elapsed());
    drop(store);
    let started = Instant::now();
    let store = SqliteStore::open(dir.path()).unwrap();
    println!("open {:?}", started.elapsed());
    let late = Millis(T0.0 * 2);
    let time = async |what: &str, operation: futures::future::BoxFuture<'_, usize>| {
        let started = Instant::now();
        let n = operation.await;
        println!("{what}: {n} in {:?}", started.elapsed());
    };
    time("backlog", async { store.backlog().await.unwrap().len() }.boxed()).await;
    time("due, 100", async { store.due_by("uid-h7", late, 100).await.unwrap().len() }.boxed()).await;
    time("due again, 100", async { store.due_by("uid-h7", late, 100).await.unwrap().len() }.boxed()).await;
    time("next_due", async { store.next_due("uid-h7", T0).await.unwrap().iter().count() }.boxed()).await;
    time("sweep", async { usize::from(store.sweep(RETENTION, late).await.unwrap()) }.boxed()).await;
}

/// Keys in the window before the measurement.
const PRELOADED_KEYS: u64 = 2_000_000;

/// Stores keys as if their events had been accepted and removed.
async fn preload_keys(store: &SqliteStore, keys: u64) {
    const BATCH: u64 = 50_000;
    for _ in 0..keys / BATCH {
        let insert = |_: &Connection, cache: &mut super::super::cache::WriterCache| {
            for _ in 0..BATCH {
                let key = fastrand::u128(..).to_be_bytes();
                cache.keys.insert(Entry::new(key, 0, (T0 + WINDOW).0), WINDOW);
            }
            Ok(())
        };
        store.write_unmaterialized(insert).await.unwrap();
        // Twice: the first sweep after accepted keys leaves their work to their groups.
        store.sweep(RETENTION, T0).await.unwrap();
        while store.sweep(RETENTION, T0).await.unwrap() {}
    }
}

const WINDOW: Duration = Duration::from_secs(86_400);

/// Returns the bytes that this process has passed to the kernel.
fn written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
}

/// Accepts and settles with 64 concurrent producers, 1 KiB each and with a key, on a store with keys in its window, and
/// compares with the disk's own rate for these bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn store_group_commit() {
    const PRODUCERS: usize = 64;
    let dir = tempfile::tempdir_in(".").unwrap();
    let body = format!("\"{}\"", "x".repeat(1022));
    // The first round shows the cost of everything but keys.
    for (round, has_keys) in [(1, false), (2, true), (3, true)] {
        let folder = dir.path().join(format!("r{round}"));
        std::fs::create_dir(&folder).unwrap();
        let store = Arc::new(SqliteStore::open(&folder).unwrap());
        preload_keys(&store, PRELOADED_KEYS).await;
        println!("key memory {} bytes", store.stats().await.unwrap().key_memory_bytes);
        let (written, started) = (written_bytes(), Instant::now());
        let producers = (0..PRODUCERS).map(|p| {
            let (store, body) = (store.clone(), body.clone());
            tokio::spawn(async move {
                let (mut n, mut latencies) = (0_u32, Vec::new());
                while started.elapsed() < Duration::from_secs(5) {
                    n += 1;
                    let id = format!("{p}-{n}");
                    let mut dedup = [0; 32];
                    dedup[..16].copy_from_slice(&fastrand::u128(..).to_be_bytes());
                    let dedup = has_keys.then_some(super::super::super::Dedup { key: dedup, window: WINDOW });
                    let deliveries = vec![delivery(&format!("h{}", p % 8), T0)];
                    let event = NewEvent { event: event_with(&id, &body), dedup, deliveries };
                    let requested = Instant::now();
                    let seq = store.accept(vec![event], T0).await.unwrap()[0].deliveries[0].seq;
                    latencies.push(requested.elapsed());
                    store.settle(settled(seq, T0, 200, NextStep::Delivered)).await.unwrap();
                }
                latencies
            })
        });
        let mut latencies: Vec<_> = join_all(producers).await.into_iter().flat_map(Result::unwrap).collect();
        let rate = latencies.len() as f64 / started.elapsed().as_secs_f64();
        let written = (written_bytes() - written) / latencies.len() as u64;
        latencies.sort();
        let at = |q: usize| latencies[(latencies.len() - 1) * q / 100];
        // The baseline: appends and syncs half of the producers' events of 1 KiB, as the group of an accept would.
        let floor = std::fs::File::create(folder.join("floor")).unwrap();
        let (started, mut syncs) = (Instant::now(), 0_u32);
        let group = vec![b'x'; PRODUCERS / 2 * 1024];
        while started.elapsed() < Duration::from_secs(2) {
            std::io::Write::write_all(&mut &floor, &group).unwrap();
            floor.sync_data().unwrap();
            syncs += 1;
        }
        let sync = started.elapsed() / syncs;
        println!(
            "round {round}, keys {has_keys}: {rate:.0} cycles/s, {written} bytes written a cycle, accept p50 {:?} p99 {:?} max {:?}; floor {:.0} events/s, fdatasync of {} KiB {sync:?}",
            at(50),
            at(99),
            at(100),
            f64::from(syncs) * (PRODUCERS / 2) as f64 / started.elapsed().as_secs_f64(),
            group.len() / 1024,
        );
        store.close().await;
    }
}

/// Accepts and settles events in batches, to count the writer's instructions per event with callgrind.
#[tokio::test]
#[ignore = "a measurement: run it under callgrind"]
async fn store_cost() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let body = format!("\"{}\"", "x".repeat(498));
    for n in 0..100 {
        let one = |m: usize| NewEvent {
            event: event_with(&format!("{n}-{m}"), &body),
            ..new("", &[&format!("h{}", m % 8)], T0)
        };
        let accepted = join_all((0..100).map(|m| store.accept(vec![one(m)], T0))).await;
        let seqs = accepted.into_iter().map(|accepted| accepted.unwrap()[0].deliveries[0].seq);
        let outcomes = seqs.map(|seq| settled(seq, T0, 200, NextStep::Delivered)).collect();
        store.settle_many(outcomes).await.unwrap();
    }
    store.close().await;
    println!("10000 events");
}

/// Accepts and settles events in groups of one size, so that the bytes written for each do not depend on the machine's speed.
/// With history at the age limit, so that each round also removes as much as it adds.
#[tokio::test]
#[ignore = "a measurement"]
async fn store_bytes_of_deliveries_at_once() {
    const GROUP: usize = 32;
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let body = format!("\"{}\"", "x".repeat(1022));
    let run = async |events: usize, from: Millis| {
        for n in 0..events / GROUP {
            let at = from + Duration::from_millis(n as u64);
            let one = |m: usize| NewEvent {
                event: event_with(&format!("{}-{n}-{m}", from.0), &body),
                ..new("", &[&format!("h{}", m % 10)], at)
            };
            let accepted = store.accept((0..GROUP).map(one).collect(), at).await.unwrap();
            let outcomes =
                seqs_of(&accepted).into_iter().map(|seq| settled(seq, at, 200, NextStep::Delivered));
            store.settle_many(outcomes.collect()).await.unwrap();
        }
    };
    let written_by = async |events: usize, from: Millis| {
        let (before, started) = (written_bytes(), Instant::now());
        run(events, from).await;
        ((written_bytes() - before) / events as u64, started.elapsed() / u32::try_from(events).unwrap())
    };
    run(20_000, T0).await;
    let (bytes, took) = written_by(20_000, T0 + Duration::from_secs(60)).await;
    println!("{bytes} bytes written for an accept and its settlement, in {took:?}");
    let (before, late) = (written_bytes(), T0 + Duration::from_secs(86_400) + Duration::from_secs(30));
    let started = Instant::now();
    while store.sweep(RETENTION, late).await.unwrap() {}
    let (swept, took) = ((written_bytes() - before) / 20_000, started.elapsed() / 20_000);
    println!("{swept} bytes written to remove one, in {took:?}");
    store.close().await;
}
