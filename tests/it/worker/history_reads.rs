//! History reads beside deliveries: own connections, bounded requests with continue tokens, and no rows of deleted hooks.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::harness::http::answer;
use crate::harness::manifests::{event, hook, quick};
use crate::harness::metrics::{DELIVERED, FINISHED};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Receiver, Reply, eventually};

/// Hooks of the namespace `busy` that were deleted, with one delivery each.
const DELETED_HOOKS: usize = 30_000;
/// Deleted hooks without deliveries, as older programs left them.
const OLD_ROWS: usize = 2000;
/// The most deliveries that one request examines.
const EXAMINED: usize = 10_000;
const READERS: usize = 8;

/// Adds the rows of deleted hooks to the store of a process that does not run.
fn add_deleted_hooks(data: &Path) {
    let mut store = rusqlite::Connection::open(data.join("hookstream.db")).unwrap();
    let tx = store.transaction().unwrap();
    tx.execute_batch(&format!(
        "CREATE TEMP TABLE n AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {all})
             SELECT i FROM n;
         CREATE TEMP TABLE start AS SELECT (SELECT value FROM meta WHERE name = 'filed') AS event,
             (SELECT coalesce(max(id), 0) FROM hooks) AS hook, unixepoch() * 1000 AS now;
         INSERT OR IGNORE INTO namespace_numbers (place) VALUES ('busy');
         INSERT INTO hooks (id, uid, namespace, name)
             SELECT hook + i, 'deleted-' || i, 'busy', 'deleted-' || i FROM n, start;
         DELETE FROM n WHERE i > {DELETED_HOOKS};
         INSERT INTO events (seq, accepted, kept_until, id, namespace, origin, source, event, time, data)
             SELECT event + i, now, 0, 'old-' || i, 'busy', 'api', 's', 'e', '2026-11-22T06:43:22Z', '{{}}' FROM n, start;
         INSERT INTO deliveries (seq, hook, id, state, attempts, due, finished_at, size, namespace)
             SELECT (event + i) << 20, hook + i, randomblob(16), 1, 1, now, now, -514,
                    (SELECT id FROM namespace_numbers WHERE place = 'busy') FROM n, start;
         UPDATE meta SET value = (SELECT max(seq) FROM events) WHERE name = 'filed';",
        all = DELETED_HOOKS + OLD_ROWS,
    ))
    .unwrap();
    tx.commit().unwrap();
}

/// Follows a list to its end. Returns the number of items and of requests. The server may postpone requests (429).
async fn follow(client: &reqwest::Client, url: &str, stop: &AtomicBool) -> (usize, usize) {
    let (mut items, mut requests, mut token) = (0, 0, String::new());
    while !stop.load(Ordering::SeqCst) {
        let (status, page) = answer(client.get(format!("{url}{token}"))).await;
        assert!(status == 200 || status == 429, "{page}");
        if status == 429 {
            continue;
        }
        requests += 1;
        items += page["items"].as_array().unwrap().len();
        let Some(next) = page["continue"].as_str() else { break };
        token = format!("&continue={next}");
    }
    (items, requests)
}

/// Returns the nice values of the threads with this name.
fn nice_values(pid: u32, name: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let Some((before, after)) = stat.rsplit_once(')') else { continue };
        if before.ends_with(&format!("({name}")) {
            found.extend(after.split_whitespace().nth(16).and_then(|nice| nice.parse::<i32>().ok()));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_one_namespace_are_bounded_and_do_not_stop_anothers_deliveries() {
    const BACKLOG: usize = 500;
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let manifests = |paused: bool| {
        let mut spec = quick();
        spec["delivery"]["paused"] = json!(paused);
        hook("h", &receiver.url(), spec)
    };
    let mut standalone = Standalone::start(&manifests(true), &[]).await;
    for n in 0..BACKLOG {
        standalone.publish_accepted(&event(&format!("e{n}"))).await;
    }
    standalone.process().terminate().await;
    add_deleted_hooks(&standalone.data);
    standalone.restart().await;
    let busy = format!("http://{}/v1/namespaces/busy/deliveries", standalone.api);
    if cfg!(target_os = "linux") {
        let nice = nice_values(standalone.process().pid(), "store-history");
        assert!(
            nice.len() == 2 && nice.iter().all(|nice| *nice > 0),
            "own threads of a low priority: {nice:?}"
        );
    }

    // The rows of hooks that left nothing are removed, and those with history stay in every list.
    let url = format!("{busy}?limit=500");
    let stop = AtomicBool::new(false);
    let (items, requests) = follow(&standalone.client, &url, &stop).await;
    assert!(
        items == DELETED_HOOKS && requests >= DELETED_HOOKS / 500,
        "{items} items in {requests} requests"
    );

    // A request that finds nothing ends after a bounded number of rows, and its token continues there.
    let nothing = format!("{busy}?until=30m");
    let (status, page) = answer(standalone.client.get(&nothing)).await;
    assert_eq!((status, &page["items"]), (200, &json!([])));
    assert!(page["continue"].is_string(), "an empty page with a token: {page}");
    let (items, requests) = follow(&standalone.client, &nothing, &stop).await;
    assert!(items == 0 && requests >= DELETED_HOOKS / EXAMINED, "{requests} requests");

    // Eight clients list in a loop while the other namespace's backlog is delivered.
    let stop = Arc::new(stop);
    let readers: Vec<_> = (0..READERS)
        .map(|n| {
            let (client, stop) = (standalone.client.clone(), stop.clone());
            let url = if n % 2 == 0 { format!("{url}&state=delivered") } else { nothing.clone() };
            tokio::spawn(async move {
                let mut pages = 0;
                while !stop.load(Ordering::SeqCst) {
                    pages += follow(&client, &url, &stop).await.1;
                }
                pages
            })
        })
        .collect();
    standalone.write("all.yaml", &manifests(false));
    standalone.wait_for_count(FINISHED, &[DELIVERED], BACKLOG as u64).await;
    // Neither do the lists of this namespace wait behind all of those.
    let own = format!("http://{}/v1/namespaces/default/deliveries?state=delivered&limit=500", standalone.api);
    assert_eq!(follow(&standalone.client, &own, &AtomicBool::new(false)).await.0, BACKLOG);
    stop.store(true, Ordering::SeqCst);
    for reader in readers {
        assert!(reader.await.unwrap() > 0, "every client got pages");
    }

    // The sweep removes the rows of hooks without anything.
    let store = rusqlite::Connection::open(standalone.data.join("hookstream.db")).unwrap();
    eventually(DEADLINE * 3, "rows of deleted hooks to be removed", async || {
        let hooks: i64 = store.query_row("SELECT count(*) FROM hooks", [], |row| row.get(0)).unwrap();
        if hooks == DELETED_HOOKS as i64 + 1 { Ok(()) } else { Err(hooks.to_string()) }
    })
    .await;
}

/// The dispatcher ends the hold of a hook that was deleted while it was paused and had no deliveries.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_hook_that_is_deleted_leaves_no_row() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let spec = |paused: bool| -> Value { json!({"delivery": {"paused": paused}}) };
    let manifests = hook("kept", &receiver.url(), spec(true)) + &hook("deleted", &receiver.url(), spec(true));
    let standalone = Standalone::start(&manifests, &["--hook-grace", "1s"]).await;
    let names = || -> Vec<String> {
        let store = rusqlite::Connection::open(standalone.data.join("hookstream.db")).unwrap();
        let mut names = store.prepare("SELECT name FROM hooks WHERE name <> 'marker' ORDER BY name").unwrap();
        names.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    eventually(DEADLINE, "both holds to be stored", async || {
        let names = names();
        if names == ["deleted", "kept"] { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
    standalone.write("all.yaml", &hook("kept", &receiver.url(), spec(true)));
    eventually(DEADLINE * 4, "the deleted hook's row to be removed", async || {
        let names = names();
        if names == ["kept"] { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
}
