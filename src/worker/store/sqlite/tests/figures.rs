//! Figures for `make bench`.

use super::*;

/// A million that wait: opening, the backlog and what is due cost what they cost with ten.
#[tokio::test]
#[ignore = "a million rows"]
async fn store_million_backlog() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let names: Vec<String> = (0..50).map(|n| format!("h{n}")).collect();
    let begun = Instant::now();
    for n in 0..200_u64 {
        let batch = (0..100_u64).map(|m| {
            let hooks: Vec<&str> = names.iter().map(String::as_str).collect();
            new(&format!("{n}-{m}"), &hooks, T0 + Duration::from_millis(n * 100 + m))
        });
        store.accept(batch.collect(), T0).await.unwrap();
    }
    println!("1,000,000 deliveries stored in {:?}", begun.elapsed());
    drop(store);
    let begun = Instant::now();
    let store = SqliteStore::open(dir.path()).unwrap();
    println!("open {:?}", begun.elapsed());
    let late = Millis(T0.0 * 2);
    let time = async |what: &str, ask: futures::future::BoxFuture<'_, usize>| {
        let begun = Instant::now();
        let n = ask.await;
        println!("{what}: {n} in {:?}", begun.elapsed());
    };
    time("backlog", async { store.backlog().await.unwrap().len() }.boxed()).await;
    time("due, 100", async { store.due_by("uid-h7", late, 100).await.unwrap().len() }.boxed()).await;
    time("due again, 100", async { store.due_by("uid-h7", late, 100).await.unwrap().len() }.boxed()).await;
    time("next_due", async { store.next_due("uid-h7", T0).await.unwrap().iter().count() }.boxed()).await;
    time("sweep", async { usize::from(store.sweep(RETENTION, late).await.unwrap()) }.boxed()).await;
}

/// Accept and settle, 64 at a time, 1 KiB each; and what the disk gives for the same bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn store_group_commit() {
    const PRODUCERS: usize = 64;
    let dir = tempfile::tempdir_in(".").unwrap();
    let body = format!("\"{}\"", "x".repeat(1022));
    for round in 1..=3 {
        let place = dir.path().join(format!("r{round}"));
        std::fs::create_dir(&place).unwrap();
        let store = Arc::new(SqliteStore::open(&place).unwrap());
        let begun = Instant::now();
        let producers = (0..PRODUCERS).map(|p| {
            let (store, body) = (store.clone(), body.clone());
            tokio::spawn(async move {
                let (mut n, mut waits) = (0_u32, Vec::new());
                while begun.elapsed() < Duration::from_secs(5) {
                    n += 1;
                    let id = format!("{p}-{n}");
                    let mut dedup = [0; 32];
                    dedup[..8].copy_from_slice(&fastrand::u64(..).to_le_bytes());
                    let dedup =
                        Some(super::super::super::Dedup { key: dedup, window: Duration::from_secs(86_400) });
                    let deliveries = vec![delivery(&format!("h{}", p % 8), T0)];
                    let event = NewEvent { event: event_with(&id, &body), dedup, deliveries };
                    let asked = Instant::now();
                    let seq = store.accept(vec![event], T0).await.unwrap()[0].deliveries[0].seq;
                    waits.push(asked.elapsed());
                    store.settle(settled(seq, T0, 200, Next::Delivered)).await.unwrap();
                }
                waits
            })
        });
        let mut waits: Vec<_> = join_all(producers).await.into_iter().flat_map(Result::unwrap).collect();
        let rate = waits.len() as f64 / begun.elapsed().as_secs_f64();
        waits.sort();
        let at = |q: usize| waits[(waits.len() - 1) * q / 100];
        // The floor: half of the producers' events of 1 KiB appended and synced, as an accept's group would be.
        let floor = std::fs::File::create(place.join("floor")).unwrap();
        let (begun, mut syncs) = (Instant::now(), 0_u32);
        let group = vec![b'x'; PRODUCERS / 2 * 1024];
        while begun.elapsed() < Duration::from_secs(2) {
            std::io::Write::write_all(&mut &floor, &group).unwrap();
            floor.sync_data().unwrap();
            syncs += 1;
        }
        let sync = begun.elapsed() / syncs;
        println!(
            "round {round}: {rate:.0} cycles/s, accept p50 {:?} p99 {:?} max {:?}; floor {:.0} events/s, fdatasync of {} KiB {sync:?}",
            at(50),
            at(99),
            at(100),
            f64::from(syncs) * (PRODUCERS / 2) as f64 / begun.elapsed().as_secs_f64(),
            group.len() / 1024,
        );
        store.close().await;
    }
}
