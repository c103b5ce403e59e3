//! A wall clock that jumps delays no retry and ends no delivery. A preloaded library shifts the wall clock of the real
//! process; its monotonic clock stays as it is.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::json;

use crate::harness::deliveries::list_deliveries;
use crate::harness::manifests::{event, hook, merge, quick};
use crate::harness::metrics::{DELIVERED, FINISHED};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Receiver, Reply, eventually, watchdog};

/// Adds the seconds in the file to the wall clock.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *offset(void) {
    static volatile int64_t *mapped;
    if (!mapped) {
        int fd = open(getenv("CLOCK_OFFSET"), O_RDONLY);
        void *found = fd < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, fd, 0);
        if (found == MAP_FAILED) _exit(90);
        close(fd);
        mapped = found;
    }
    return mapped;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int result = (int)syscall(SYS_clock_gettime, clock, at);
    if (result == 0 && clock == CLOCK_REALTIME) at->tv_sec += *offset();
    return result;
}
"#;

/// The wall clock of a process under test.
pub(super) struct WallClock {
    offset: PathBuf,
    library: PathBuf,
}

impl WallClock {
    pub(super) fn compile() -> WallClock {
        let (source, library) = (watchdog::unique_path("clock.c"), watchdog::unique_path("clock.so"));
        std::fs::write(&source, SHIM).unwrap();
        let cc = std::process::Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .output()
            .expect("a C compiler, which building SQLite needs too");
        assert!(cc.status.success(), "{}", String::from_utf8_lossy(&cc.stderr));
        let clock = WallClock { offset: watchdog::unique_path("clock-offset"), library };
        std::fs::write(&clock.offset, 0_i64.to_ne_bytes()).unwrap();
        clock
    }

    /// Sets the clock this many hours ahead of the machine's, or behind it.
    fn shift(&self, hours: i64) {
        self.shift_seconds(hours * 3600);
    }

    /// Sets the clock this many seconds ahead of the machine's, or behind it. Writes in place, because the file is mapped.
    pub(super) fn shift_seconds(&self, seconds: i64) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().write(true).open(&self.offset).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    /// Runs the installation under this clock, from the next start on.
    pub(super) fn wrap(&self, standalone: &mut Standalone) {
        let (library, offset) = (self.library.display(), self.offset.display());
        let start = format!("LD_PRELOAD={library} CLOCK_OFFSET={offset} exec \"$@\"");
        standalone.wrapper = ["sh".into(), "-c".into(), start].into();
    }
}

/// Starts a receiver that answers the status, and returns the status, which the test can change.
fn receiver() -> (Receiver, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(503));
    let answered = status.clone();
    (Receiver::start(move |_, _| Reply::status(answered.load(Ordering::SeqCst))), status)
}

async fn wait_for_attempts(standalone: &Standalone, attempts: usize) {
    eventually(DEADLINE, &format!("{attempts} attempts"), async || {
        let list = list_deliveries(standalone, "state=pending").await;
        let made = list.first().map_or(0, |delivery| delivery["attempts"].as_array().unwrap().len());
        if made >= attempts { Ok(()) } else { Err(format!("{list:?}")) }
    })
    .await;
}

/// Starts a process on a clock that can be shifted, and publishes an event, whose first attempt fails.
async fn start_after_first_attempt(receiver: &Receiver, backoff: &str) -> (WallClock, Standalone) {
    let mut spec = quick();
    merge(&mut spec, json!({"delivery": {"retry": {"initialBackoff": backoff, "maxBackoff": backoff}}}));
    let clock = WallClock::compile();
    let mut standalone = Standalone::prepare(&hook("h", &receiver.url(), spec), &[]);
    clock.wrap(&mut standalone);
    standalone.restart().await;
    standalone.publish_accepted(&event("1")).await;
    wait_for_attempts(&standalone, 1).await;
    (clock, standalone)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jump_back_delays_no_retry_even_after_a_restart() {
    let (receiver, status) = receiver();
    let (clock, mut standalone) = start_after_first_attempt(&receiver, "3s").await;
    clock.shift(-2);
    wait_for_attempts(&standalone, 2).await;

    // The commit time is stored about once a second.
    wait_for_attempts(&standalone, 3).await;
    standalone.process().kill9();
    clock.shift(-4);
    status.store(200, Ordering::SeqCst);
    standalone.restart().await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jump_ahead_ends_no_delivery() {
    let (receiver, status) = receiver();
    let (clock, standalone) = start_after_first_attempt(&receiver, "1s").await;
    clock.shift(8 * 24);
    let line = |line: &str| line.contains("wall clock jumped");
    standalone.process().wait_for_line(line, DEADLINE).await;
    let attempts = receiver.requests().len();
    // It is tried again, and not ended by its age.
    receiver.wait_for(attempts + 2, DEADLINE).await;
    clock.shift(0);
    status.store(200, Ordering::SeqCst);
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    assert_eq!(list_deliveries(&standalone, "state=dead").await.len(), 0);
}
