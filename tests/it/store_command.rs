//! `hookstream store`: a store is checked and copied beside its worker, and a copy is a store.

use serde_json::{Value, json};

use crate::harness::{DEADLINE, Process, Receiver, Reply, eventually, watchdog};
use crate::standalone::{Standalone, event, hook, merge, quick};

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
async fn a_copy_of_a_live_store_is_restored() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let standalone = Standalone::start(&paused(&receiver.url(), true), &[]).await;
    for n in 0..20 {
        standalone.accepted(&event(&format!("e{n}"))).await;
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
    let (code, said) = store(&["backup", "--data", data, "--to", copy]).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("20 events, 20 deliveries, checked"), "{said}");
    let (code, said) = store(&["backup", "--data", data, "--to", copy]).await;
    assert_eq!(code, 2, "a file that exists is not overwritten: {said}");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left behind");
    // What came after the copy is not in it; the worker went on.
    standalone.accepted(&event("later")).await;
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
async fn a_damaged_store_is_told_and_left_alone() {
    let standalone = Standalone::start(&paused("http://127.0.0.1:9/", true), &[]).await;
    for n in 0..200 {
        standalone.accepted(&event(&format!("e{n}"))).await;
    }
    standalone.process().terminate().await;
    let file = standalone.data.join("hookstream.db");
    let data = standalone.data.to_str().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..].fill(0xff);
    std::fs::write(&file, &bytes).unwrap();
    let (code, said) = store(&["check", "--data", data]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("NOT SOUND"), "{said}");
    let copy = watchdog::unique_path("copy.db");
    let (code, said) = store(&["backup", "--data", data, "--to", copy.to_str().unwrap()]).await;
    assert!(code == 2 && !copy.exists(), "{code}: {said}");
    assert_eq!(std::fs::read(&file).unwrap(), bytes, "the file is as it was");

    // No store at all is not a damaged one.
    let nothing = watchdog::unique_path("nothing");
    let (code, said) = store(&["check", "--data", nothing.to_str().unwrap()]).await;
    assert_eq!(code, 2, "{said}");
}

/// A worker on a damaged file ends with a message and its exit code, and does not touch the file.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_does_not_start_on_a_damaged_store() {
    let standalone = Standalone::start(&paused("http://127.0.0.1:9/", true), &[]).await;
    standalone.accepted(&event("e")).await;
    standalone.process().terminate().await;
    let file = standalone.data.join("hookstream.db");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[..100].fill(0x55);
    std::fs::write(&file, &bytes).unwrap();
    let process = standalone.spawn();
    let ended = process.wait(DEADLINE).await;
    assert_eq!(ended.code(), Some(2), "{}", process.log());
    assert!(process.log().contains("cannot open the store"), "{}", process.log());
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
}
