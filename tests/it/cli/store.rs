//! `hookstream store`: checks and copies a store while its worker runs.

use std::path::{Path, PathBuf};

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

/// A store that a killed process left, with this many acknowledged events.
async fn killed_store(events: usize) -> Standalone {
    let standalone = Standalone::start(&paused("http://127.0.0.1:9/", true), &[]).await;
    for n in 0..events {
        standalone.publish_accepted(&event(&format!("e{n}"))).await;
    }
    standalone.process().kill9();
    standalone
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = ["hookstream.db", "hookstream.db-wal", "hookstream.db-shm"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), std::fs::read(folder.join(name)).ok()?)))
        .collect();
    files.sort();
    files
}

/// Copies a store to a folder of its own, and flips one bit of a file.
fn damaged_copy(folder: &Path, file: &str, bit: usize) -> PathBuf {
    let copy = watchdog::unique_path("damaged");
    std::fs::create_dir(&copy).unwrap();
    for (name, mut bytes) in files(folder) {
        if name == file {
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        std::fs::write(copy.join(name), bytes).unwrap();
    }
    copy
}

async fn recover(data: &Path, to: &Path) -> (i32, Value) {
    let (data, to) = (data.to_str().unwrap(), to.to_str().unwrap());
    let (code, output) = store(&["recover", "--data", data, "--to", to, "--output", "json"]).await;
    (code, serde_json::from_str(&output).unwrap_or_else(|e| panic!("{e}: {output}")))
}

/// Returns the rows of a table that were copied, and those that were lost.
fn rows(report: &Value, table: &str) -> (u64, Option<u64>) {
    let tables = report["tables"].as_array().expect("tables");
    let table = tables.iter().find(|row| row["table"] == table).expect("a table");
    (table["copied"].as_u64().expect("a count"), table["lost"].as_u64())
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bit_in_the_log_is_reported_and_the_rest_is_recovered() {
    const EVENTS: usize = 300;
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let killed = killed_store(EVENTS).await;
    let log = std::fs::metadata(killed.data.join("hookstream.db-wal")).unwrap().len();
    let bits = usize::try_from(log).unwrap() * 8;
    // The header, the middle, and the last transaction.
    for bit in [17, bits / 2, bits - 9] {
        let damaged = damaged_copy(&killed.data, "hookstream.db-wal", bit);
        let data = damaged.to_str().unwrap();
        let before = files(&damaged);
        for _ in 0..2 {
            let (code, output) = store(&["check", "--data", data]).await;
            assert_eq!(code, 1, "bit {bit}: {output}");
            assert!(output.contains("the log is damaged at byte"), "{output}");
        }
        let copy = watchdog::unique_path("copy.db");
        let (code, output) = store(&["backup", "--data", data, "--to", copy.to_str().unwrap()]).await;
        assert!(code == 2 && output.contains("is damaged at byte"), "{code}: {output}");

        let mut worker = Standalone::prepare(&paused(&receiver.url(), true), &[]);
        worker.data = damaged.clone();
        let process = worker.spawn();
        let status = process.wait(DEADLINE).await;
        let log = process.log();
        assert_eq!(status.code(), Some(3), "{log}");
        assert!(
            log.contains("hookstream store recover") && log.contains("Readable before the damage"),
            "{log}"
        );
        assert_eq!(files(&damaged), before, "the store was changed");

        // A damaged header loses no page.
        let is_frame = bit > 32 * 8;
        let (code, report) = recover(&damaged, &copy).await;
        assert_eq!(
            (code, &report["damagedFrames"]),
            (i32::from(is_frame), &json!(u64::from(is_frame))),
            "{report}"
        );
        let (copied, lost) = rows(&report, "events");
        // At most the damaged transaction is lost.
        assert!(copied + lost.expect("a number") >= EVENTS as u64 - u64::from(is_frame), "{report}");
        assert_eq!(files(&damaged), before, "the store was changed");
        assert_eq!(report["store"]["problems"], json!([]));

        // What was recovered is delivered.
        let first = receiver.requests().len();
        let mut recovered = Standalone::prepare(&paused(&receiver.url(), false), &[]);
        std::fs::create_dir(&recovered.data).unwrap();
        std::fs::copy(&copy, recovered.data.join("hookstream.db")).unwrap();
        recovered.restart().await;
        let pending = report["store"]["deliveries"]["pending"].as_u64().expect("a count");
        receiver.wait_for(first + usize::try_from(pending).unwrap(), DEADLINE).await;
    }
}

/// The process was killed in the middle of a write: the worker starts and has every acknowledged event.
#[tokio::test(flavor = "multi_thread")]
async fn torn_tail_of_the_log_is_no_damage() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let killed = killed_store(20).await;
    let wal = killed.data.join("hookstream.db-wal");
    let log = std::fs::read(&wal).unwrap();
    for torn in [1, 30, 4000, 4120 + 7] {
        let mut written = log.clone();
        // The frames of a transaction that was not committed.
        written.extend_from_slice(&log[32..32 + torn]);
        std::fs::write(&wal, written).unwrap();
        let data = killed.data.to_str().unwrap();
        let (code, output) = store(&["check", "--data", data]).await;
        assert_eq!(code, 0, "{torn}: {output}");
    }
    let mut worker = Standalone::prepare(&paused(&receiver.url(), false), &[]);
    worker.data = killed.data.clone();
    worker.restart().await;
    receiver.wait_for(20, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_pages_of_the_file_are_skipped() {
    const EVENTS: u64 = 400;
    let standalone = Standalone::start(&paused("http://127.0.0.1:9/", true), &[]).await;
    for n in 0..EVENTS {
        let data = json!({"id": format!("e{n}"), "source": "s", "event": "e", "data": "x".repeat(300)});
        standalone.publish_accepted(&data).await;
    }
    standalone.process().terminate().await;
    let path = standalone.data.join("hookstream.db");
    let intact = std::fs::read(&path).unwrap();
    let pages = intact.len() / 4096;
    let mut lost_events = 0;
    // Pages of the schema (the first ones) are not skipped: without it, no row can be read.
    for page in (pages / 3..pages).step_by(pages / 8) {
        let mut bytes = intact.clone();
        bytes[page * 4096..(page + 1) * 4096].fill(0xff);
        std::fs::write(&path, &bytes).unwrap();
        let copy = watchdog::unique_path("copy.db");
        let (_, report) = recover(&standalone.data, &copy).await;
        let (copied, lost) = rows(&report, "events");
        let lost = lost.expect("the number of lost events");
        assert_eq!(copied + lost, EVENTS, "page {page}: {report}");
        assert!(lost < 40, "page {page}: {report}");
        lost_events += lost;
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "the store was changed");
    }
    assert!(lost_events > 0, "no page of the events was damaged");
}
