//! A disk whose fsync fails: the process ends, because the state of the disk is unknown, and a restart has every accepted
//! event. A preloaded library injects the fault into the real process.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::harness::http::client;
use crate::harness::manifests::{event, hook, quick};
use crate::harness::standalone::{EVENTS, Standalone};
use crate::harness::{DEADLINE, Receiver, Reply, eventually, watchdog};

/// While the file exists, every fsync fails.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int fails(void) {
    const char *flag = getenv("FAIL_SYNC_WHILE");
    return flag && access(flag, F_OK) == 0;
}

int fsync(int fd) {
    if (fails()) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}

int fdatasync(int fd) {
    if (fails()) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
"#;

/// Compiles the library. Returns its path.
fn shim() -> PathBuf {
    let (source, library) = (watchdog::unique_path("shim.c"), watchdog::unique_path("shim.so"));
    std::fs::write(&source, SHIM).unwrap();
    let cc = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .arg("-ldl")
        .output()
        .expect("a C compiler, which building SQLite needs too");
    assert!(cc.status.success(), "{}", String::from_utf8_lossy(&cc.stderr));
    library
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_fsync_ends_process_and_loses_nothing() {
    let accepts = Arc::new(AtomicBool::new(false));
    let does_accept = accepts.clone();
    let receiver = Receiver::start(move |_, _| {
        Reply::status(if does_accept.load(Ordering::SeqCst) { 200 } else { 503 })
    });
    let mut standalone = Standalone::prepare(&hook("h", &receiver.url(), quick()), &[]);
    let flag = watchdog::unique_path("no-sync");
    let start = format!("LD_PRELOAD={} FAIL_SYNC_WHILE={} exec \"$@\"", shim().display(), flag.display());
    standalone.wrapper = ["sh".into(), "-c".into(), start].into();
    standalone.restart().await;

    let accepted_ids = Arc::new(Mutex::new(Vec::new()));
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..8 {
        let (url, accepted_ids) = (standalone.url(EVENTS), accepted_ids.clone());
        senders.spawn(async move {
            let client = client();
            for number in 0.. {
                let id = format!("{sender}-{number}");
                match client.post(&url).json(&event(&id)).send().await.map(|answer| answer.status().as_u16())
                {
                    Ok(202) => accepted_ids.lock().unwrap().push(id),
                    // The worker refused the event, or the process has ended. Only a 202 means that the event is on disk.
                    Ok(503) | Err(_) => return,
                    Ok(status) => panic!("{id} was answered {status}"),
                }
            }
        });
    }
    eventually(DEADLINE, "more than 300 accepted events", async || {
        let n = accepted_ids.lock().unwrap().len();
        if n > 300 { Ok(()) } else { Err(n.to_string()) }
    })
    .await;
    std::fs::write(&flag, "").unwrap();
    let status = standalone.process().wait(DEADLINE).await;
    assert_eq!(status.code(), Some(3), "{}", standalone.process().log());
    assert!(standalone.process().log().contains("the store failed"), "{}", standalone.process().log());
    while senders.join_next().await.transpose().expect("a sender").is_some() {}

    std::fs::remove_file(&flag).unwrap();
    accepts.store(true, Ordering::SeqCst);
    let earlier_requests = receiver.requests().len();
    standalone.restart().await;
    let accepted_ids = accepted_ids.lock().unwrap().clone();
    eventually(DEADLINE, "every accepted event to be delivered", async || {
        let all = receiver.requests();
        let received: HashSet<String> = all[earlier_requests..]
            .iter()
            .map(|r| r.json()["id"].as_str().expect("an id").to_owned())
            .collect();
        let missing: Vec<_> = accepted_ids.iter().filter(|id| !received.contains(*id)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{} of {}", missing.len(), accepted_ids.len())) }
    })
    .await;
}

/// The process does not start on a disk whose fsync fails.
#[tokio::test(flavor = "multi_thread")]
async fn does_not_start_without_fsync() {
    let mut standalone = Standalone::prepare(&hook("h", "http://127.0.0.1:9/", quick()), &[]);
    let flag = watchdog::unique_path("no-sync");
    std::fs::write(&flag, "").unwrap();
    let start = format!("LD_PRELOAD={} FAIL_SYNC_WHILE={} exec \"$@\"", shim().display(), flag.display());
    standalone.wrapper = ["sh".into(), "-c".into(), start].into();
    let process = standalone.spawn();
    let status = process.wait(DEADLINE).await;
    assert!(status.code().is_some_and(|code| code >= 2), "{status:?}: {}", process.log());
    assert!(!process.log().contains("ingest listening"), "{}", process.log());
}
