//! `hookstream store`: checks and copies a store while its worker runs.

use serde_json::{Value, json};

use crate::harness::manifests::{event, hook, merge, quick};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Process, Receiver, Reply, eventually, watchdog};

fn paused(url: &str, paused: bool) -> String {
    let mut spec = quick();
    merge(&mut spec, json!({"delivery": {"paused": paused}}));
    hook("h", url, spec)
}

async fn store(args: &[&str]) -> (i32, String) {
    let process = Process::spawn(std::iter::once("store").chain(args.iter().copied()), &[]);
    let status = process.wait(DEADLINE).await;
    (status.code().expect("an exit code"), process.log())
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_of_live_store_is_restored() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let standalone = Standalone::start(&paused(&receiver.url(), true), &[]).await;
    for n in 0..20 {
        standalone.publish_accepted(&event(&format!("e{n}"))).await;
    }
    let data = standalone.data.to_str().unwrap();
    let (code, report) = store(&["check", "--data", data, "--output", "json"]).await;
    assert_eq!(code, 0, "{report}");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!((&report["events"], &report["deliveries"]["pending"]), (&json!(20), &json!(20)), "{report}");
    assert_eq!(report["problems"], json!([]));

    let folder = watchdog::unique_path("backup");
    std::fs::create_dir(&folder).unwrap();
    let copy = folder.join("hookstream.db");
    let copy = copy.to_str().unwrap();
    let (code, output) = store(&["backup", "--data", data, "--to", copy]).await;
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("20 events, 20 deliveries, checked"), "{output}");
    let (code, output) = store(&["backup", "--data", data, "--to", copy]).await;
    assert_eq!(code, 2, "a file that exists is not overwritten: {output}");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left behind");
    // Events after the backup are not in the copy; the worker goes on.
    standalone.publish_accepted(&event("later")).await;
    standalone.process().kill9();

    let mut restored = Standalone::prepare(&paused(&receiver.url(), false), &[]);
    std::fs::create_dir(&restored.data).unwrap();
    std::fs::copy(copy, restored.data.join("hookstream.db")).unwrap();
    restored.restart().await;
    eventually(DEADLINE, "the copy's events to be delivered", async || {
        let mut ids: Vec<String> =
            receiver.requests().iter().map(|r| r.json()["id"].as_str().expect("an id").to_owned()).collect();
        ids.sort();
        ids.dedup();
        if ids.len() == 20 { Ok(()) } else { Err(format!("{ids:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_store_is_reported_and_unchanged() {
    let standalone = Standalone::start(&paused("http://127.0.0.1:9/", true), &[]).await;
    for n in 0..200 {
        standalone.publish_accepted(&event(&format!("e{n}"))).await;
    }
    standalone.process().terminate().await;
    let file = standalone.data.join("hookstream.db");
    let data = standalone.data.to_str().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..].fill(0xff);
    std::fs::write(&file, &bytes).unwrap();
    let (code, output) = store(&["check", "--data", data]).await;
    assert_eq!(code, 1, "{output}");
    assert!(output.contains("NOT SOUND"), "{output}");
    let copy = watchdog::unique_path("copy.db");
    let (code, output) = store(&["backup", "--data", data, "--to", copy.to_str().unwrap()]).await;
    assert!(code == 2 && !copy.exists(), "{code}: {output}");
    assert_eq!(std::fs::read(&file).unwrap(), bytes, "the command changed the file");

    // A folder without a store is not a damaged store.
    let missing_folder = watchdog::unique_path("nothing");
    let (code, output) = store(&["check", "--data", missing_folder.to_str().unwrap()]).await;
    assert_eq!(code, 2, "{output}");
}

/// A worker with a damaged store ends with a message and exit code 2, and leaves the file unchanged.
#[tokio::test(flavor = "multi_thread")]
async fn worker_exits_on_damaged_store() {
    let standalone = Standalone::start(&paused("http://127.0.0.1:9/", true), &[]).await;
    standalone.publish_accepted(&event("e")).await;
    standalone.process().terminate().await;
    let file = standalone.data.join("hookstream.db");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[..100].fill(0x55);
    std::fs::write(&file, &bytes).unwrap();
    let process = standalone.spawn();
    let status = process.wait(DEADLINE).await;
    assert_eq!(status.code(), Some(2), "{}", process.log());
    assert!(process.log().contains("cannot open the store"), "{}", process.log());
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
}
