//! `hookstream store copy` with the real program: from the embedded store to a database, and back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::{run, run_with};
use crate::harness::http::answer;
use crate::harness::manifests::{event, hook, quick};
use crate::harness::postgres::shared;
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Process, Receiver, Reply, eventually};

/// The server of the tests does not sync.
const UNSAFE: &str = "--allow-unsafe-commits";

async fn start(standalone: &Standalone) -> Process {
    let process = standalone.spawn();
    process.wait_for_line(|line| line.contains("ingest listening"), DEADLINE).await;
    process
}

/// Waits until the API reports this many deliveries by state.
async fn wait_for_states(standalone: &Standalone, expected: &[(&str, usize)]) {
    let url = format!("http://{}/v1/namespaces/default/deliveries?limit=100", standalone.api);
    let expected: BTreeMap<String, usize> =
        expected.iter().map(|(state, count)| ((*state).to_owned(), *count)).collect();
    eventually(DEADLINE, &format!("{expected:?}"), async || {
        let (_, list) = answer(standalone.client.get(&url)).await;
        let mut states: BTreeMap<String, usize> = BTreeMap::new();
        for item in list["items"].as_array().into_iter().flatten() {
            *states.entry(item["state"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
        if states == expected { Ok(()) } else { Err(list.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moves_an_installation_to_a_database_and_back() {
    // Rejects events `late-...` until it is open, and counts the accepted deliveries of each event.
    let is_open = Arc::new(AtomicBool::new(false));
    let accepted: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
    let receiver = Receiver::start({
        let (is_open, accepted) = (is_open.clone(), accepted.clone());
        move |request, _| {
            let id = request.json()["id"].as_str().unwrap_or_default().to_owned();
            if id.starts_with("late") && !is_open.load(Ordering::SeqCst) {
                return Reply::status(503);
            }
            *accepted.lock().unwrap().entry(id).or_default() += 1;
            Reply::status(200)
        }
    });
    let mut standalone = Standalone::prepare(&hook("h", &receiver.url(), quick()), &[]);
    let process = start(&standalone).await;
    for id in ["e0", "e1", "e2", "late-0"] {
        standalone.publish_accepted(&event(id)).await;
    }
    wait_for_states(&standalone, &[("delivered", 3), ("pending", 1)]).await;

    let url = shared().new_database();
    let folder = standalone.data.display().to_string();
    let to_database = ["store", "copy", "--from", &folder, "--to", &url, UNSAFE];
    let (code, _, error) = run(&to_database).await;
    assert_eq!(code, 2);
    assert!(error.contains(&format!("--from {folder}")) && error.contains("stop it first"), "{error}");
    process.terminate().await;
    let (code, out, error) = run(&[&to_database[..], &["--dry-run"]].concat()).await;
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(out.contains("can be copied to") && out.contains("nothing was changed"), "{out}");
    let (code, out, error) = run(&to_database).await;
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(out.contains("all counts are equal"), "{out}");
    for (kind, count) in [("events", 4), ("delivered deliveries", 3), ("pending deliveries", 1)] {
        let is_line = |line: &str| line == format!("{kind:24}{count:>14}{count:>14}");
        assert!(out.lines().any(is_line), "{kind}: {out}");
    }

    // The folder is refused, and says where its data is.
    let refused = standalone.spawn();
    assert_eq!(refused.wait(DEADLINE).await.code(), Some(2));
    let name = url.rsplit('/').next().expect("a name");
    assert!(refused.log().contains(name) && refused.log().contains("store unseal"), "{}", refused.log());
    let (_, out, _) = run(&["store", "check", "--data", &folder]).await;
    assert!(out.contains("Copied to:") && out.contains(name), "{out}");

    standalone.add_args(&["--store-url", &url, UNSAFE]);
    is_open.store(true, Ordering::SeqCst);
    let process = start(&standalone).await;
    wait_for_states(&standalone, &[("delivered", 4)]).await;
    let (status, answer) = standalone.publish(&event("e0")).await;
    assert_eq!((status, &answer["duplicate"]), (202, &json!(true)), "{answer}");
    standalone.publish_accepted(&event("e3")).await;
    is_open.store(false, Ordering::SeqCst);
    standalone.publish_accepted(&event("late-1")).await;
    wait_for_states(&standalone, &[("delivered", 5), ("pending", 1)]).await;
    process.terminate().await;

    // Back, into the same folder without the old store.
    let to_folder = ["store", "copy", "--from", &url, "--to", &folder, UNSAFE, "--output", "json"];
    let (code, _, error) = run(&to_folder).await;
    assert_eq!(code, 2);
    assert!(error.contains(&format!("--to {folder}")) && error.contains("has a store already"), "{error}");
    let old = standalone.data.join("old");
    std::fs::create_dir(&old).expect("a folder");
    for file in std::fs::read_dir(&standalone.data).expect("files") {
        let file = file.expect("a file").path();
        let name = file.file_name().expect("a name").to_owned();
        if name.to_string_lossy().starts_with("hookstream.db") {
            std::fs::rename(&file, old.join(name)).expect("a moved file");
        }
    }
    let (code, out, error) = run(&to_folder).await;
    assert_eq!((code, error.as_str()), (0, ""));
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert!(
        report["rows"].as_array().is_some_and(|rows| rows.iter().all(|row| row["source"] == row["copy"]))
    );
    let database = [("HOOKSTREAM_STORE_URL", url.as_str()), ("HOOKSTREAM_ALLOW_UNSAFE_COMMITS", "true")];
    let (_, out, _) = run_with(&["store", "check"], &database).await;
    assert!(out.contains("Copied to:") && out.contains(&folder), "{out}");
    let refused = standalone.spawn();
    assert_eq!(refused.wait(DEADLINE).await.code(), Some(2));
    assert!(refused.log().contains("store unseal --store-url"), "{}", refused.log());

    let mut back = Standalone::prepare(&hook("h", &receiver.url(), quick()), &[]);
    back.data.clone_from(&standalone.data);
    back.manifests.clone_from(&standalone.manifests);
    is_open.store(true, Ordering::SeqCst);
    let process = start(&back).await;
    wait_for_states(&back, &[("delivered", 6)]).await;
    let (_, answer) = back.publish(&event("e3")).await;
    assert_eq!(answer["duplicate"], json!(true), "{answer}");
    process.terminate().await;
    let accepted = accepted.lock().unwrap().clone();
    let once = ["e0", "e1", "e2", "e3", "late-0", "late-1"].map(|id| (id.to_owned(), 1));
    assert_eq!(accepted, BTreeMap::from(once));
}

/// A process that is killed while it copies leaves stores that the same command copies again.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_copy_is_repeated() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let standalone = Standalone::prepare(&hook("h", &receiver.url(), quick()), &[]);
    let process = start(&standalone).await;
    for n in 0..20 {
        standalone.publish_accepted(&event(&format!("e{n}"))).await;
    }
    wait_for_states(&standalone, &[("delivered", 20)]).await;
    process.terminate().await;
    let url = shared().new_database();
    let folder = standalone.data.display().to_string();
    let args = ["store", "copy", "--from", &folder, "--to", &url, UNSAFE];
    let name = url.rsplit('/').next().expect("a name");
    // Holds a lock for which the copy waits after it has marked the target, until the copy was killed.
    run_with(&["store", "migrate", "--store-url", &url, UNSAFE], &[]).await;
    let sql = |sql: &str| shared().sql(name, sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    sql("CREATE TABLE killed (n int)");
    let holder = std::thread::spawn({
        let name = name.to_owned();
        move || {
            shared().sql(
                &name,
                "BEGIN; LOCK TABLE hookstream.events IN ROW EXCLUSIVE MODE;
                 DO $$ BEGIN
                     FOR n IN 1..6000 LOOP
                         EXIT WHEN EXISTS (SELECT FROM killed);
                         PERFORM pg_sleep(0.01);
                     END LOOP;
                 END $$; COMMIT",
            )
        }
    });
    let copy = Process::spawn(args, &[]);
    let waiting = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                   WHERE d.datname = current_database() AND NOT l.granted";
    eventually(DEADLINE, "the copy to wait", async || match sql(waiting).concat().concat().as_str() {
        "0" => Err(copy.log()),
        _ => Ok(()),
    })
    .await;
    copy.kill9();
    sql("INSERT INTO killed VALUES (1)");
    holder.join().expect("a thread").expect("SQL");
    let (code, _, error) = run_with(&["store", "check", "--store-url", &url, UNSAFE], &[]).await;
    assert_eq!(code, 1);
    assert!(error.contains(&format!("a copy from {folder} to it has not finished")), "{error}");
    eventually(DEADLINE, "the server to end the killed copy, and the next one to succeed", async || {
        let next = run(&args).await;
        if next.0 == 0 { Ok(()) } else { Err(next.2) }
    })
    .await;
    let (code, out, _) =
        run_with(&["store", "check", "--store-url", &url, UNSAFE, "--output", "json"], &[]).await;
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &report["events"], &report["problems"]), (0, &json!(20), &json!([])), "{report}");
}
