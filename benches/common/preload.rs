//! Stores as large as a user's: idempotency keys within their window, and finished deliveries.
//!
//! A store is filled once through the store's own interface and kept in `target/bench`, by format version and size. Retention
//! runs meanwhile, as in a worker that has run for a week: of the oldest events only the keys are left, and a measured worker
//! removes as much as it accepts.
//!
//! Each run works on a copy. A kept store is filled again when half of the window of its keys has passed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use hookstream::cluster::files::object_uid;
use hookstream::core::event::{Event, Origin};
use hookstream::core::gate::GateRequest;
use hookstream::core::time::Millis;
use hookstream::worker::store::sqlite::{self, SqliteStore};
use hookstream::worker::store::{
    AttemptRecord, Dedup, DispatchStore, ExchangeChange, HookId, IngestStore, MaintenanceStore, NewDelivery,
    NewEvent, NextStep, Retention, Settlement,
};
use serde_json::value::RawValue;

use super::settings::number;

/// The window of the keys and the age of the history, of the filled store and of the worker that runs on it.
pub const WINDOW: &str = "168h";
pub const WINDOW_TIME: Duration = Duration::from_secs(168 * 3600);
/// The time over which the stored events were accepted.
const SPREAD: Duration = Duration::from_secs(12 * 3600);
/// Events of one request, as a batch of a client.
const BATCH: usize = 100;
/// Requests in flight while a store is filled.
const IN_FLIGHT: usize = 16;
/// Bytes of an event's data: with its attributes it is a CloudEvent of 1 KiB.
const DATA_BYTES: usize = 930;
/// Bytes that the store counts for an event beside its data, see docs/operations.md.
const COUNTED_BYTES: usize = 512;
/// How often retention removes what is over the limit while a store is filled.
const SWEEPS: usize = 20;

/// The content of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Idempotency keys, those of the delivered events included.
    pub keys: usize,
    /// Delivered events, with data.
    pub deliveries: usize,
}

impl Size {
    /// The size that the goals name: `BENCH_KEYS` and `BENCH_DELIVERIES`.
    pub fn large() -> Size {
        Size { keys: number("BENCH_KEYS", 5_000_000), deliveries: number("BENCH_DELIVERIES", 2_000_000) }
    }

    /// A fifth of that, for runs that must be short.
    pub fn medium() -> Size {
        Size { keys: number("BENCH_KEYS", 1_000_000), deliveries: number("BENCH_DELIVERIES", 400_000) }
    }

    /// Returns the bytes that the store counts for its deliveries.
    fn history_bytes(self) -> usize {
        self.deliveries * (COUNTED_BYTES + DATA_BYTES)
    }

    /// Returns the flags of a worker on a copy of the store: the window of the keys, and a limit of the history that the
    /// store has just reached, so that retention runs.
    pub fn worker_flags(self, history_age: &str) -> Vec<String> {
        let bytes = self.history_bytes();
        // An empty store gets the limit of a full one.
        let bytes = number("BENCH_HISTORY_BYTES", if bytes == 0 { 4 << 30 } else { bytes });
        let bytes = bytes.to_string();
        ["--dedup-window", WINDOW, "--history-age", history_age, "--history-bytes", &bytes]
            .map(Into::into)
            .into()
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys in the window and {} finished deliveries", self.keys, self.deliveries)
    }
}

/// Creates the folder `data` with a copy of the store of this size, which is filled first if there is none.
pub fn copy_to(data: &Path, size: Size) {
    let name = format!("swept-{}-{}", size.keys, size.deliveries);
    let kept =
        fill_once(&name, &size.to_string(), WINDOW_TIME / 2, async |data: &Path| fill(data, size).await);
    copy_store(&kept, data);
}

/// Copies the kept store of this folder to the folder `data`.
pub fn copy_store(kept: &Path, data: &Path) {
    std::fs::create_dir_all(data).expect("a folder");
    let files = std::fs::read_dir(kept.join("data")).expect("the kept store");
    for file in files {
        let from = file.expect("a file").path();
        let to = data.join(from.file_name().expect("a name"));
        // Shares the blocks where the file system can (copy_file_range).
        std::fs::copy(&from, &to).expect("a copy");
        // Otherwise the copy would be written to the disk while the worker is measured.
        File::open(&to).and_then(|file| file.sync_all()).expect("a sync");
    }
}

/// Returns the folder of the kept store with this name, which is filled if there is none that is younger than `max_age`.
pub fn fill_once(name: &str, content: &str, max_age: Duration, fill: impl AsyncFnOnce(&Path)) -> PathBuf {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
    let name = format!("store-v{}-{name}", format_version());
    let (kept, partial) = (all.join(&name), all.join(format!("{name}.partial")));
    let age = kept.metadata().and_then(|metadata| metadata.modified()).ok();
    let age = age.and_then(|at| SystemTime::now().duration_since(at).ok());
    if age.is_some_and(|age| age < max_age) {
        return kept;
    }
    std::fs::remove_dir_all(&kept).ok();
    std::fs::remove_dir_all(&partial).ok();
    std::fs::create_dir_all(partial.join("data")).expect("a folder");
    println!("filling a store with {content}, once in {} h ...", max_age.as_secs() / 3600);
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(fill(&partial.join("data")));
    std::fs::rename(&partial, &kept).expect("a name");
    println!("filled in {:.0?}: {}", started.elapsed(), kept.display());
    kept
}

/// Returns the version of the format that this program writes.
fn format_version() -> i64 {
    let dir = super::process::temp_folder();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { SqliteStore::open(dir.path()).expect("a store").close().await });
    sqlite::check(dir.path()).expect("a new store").version
}

async fn fill(data: &Path, size: Size) {
    let store = SqliteStore::open(data).expect("a store");
    let hook = HookId {
        uid: object_uid("EventHook", "default", "sink").into(),
        namespace: "default".into(),
        name: "sink".into(),
    };
    let end = Millis::now();
    let total = size.keys.max(size.deliveries);
    let retention = Retention {
        history_age: WINDOW_TIME,
        dead_letter_age: WINDOW_TIME,
        unmatched_age: WINDOW_TIME,
        history_bytes: size.history_bytes() as u64,
        dead_letter_bytes: u64::MAX,
    };
    let sweep_every = (total / SWEEPS).max(BATCH).next_multiple_of(BATCH);
    let mut in_flight = FuturesOrdered::new();
    for first in (0..total).step_by(BATCH) {
        let age = SPREAD.as_millis() as u64 * (total - first) as u64 / total as u64;
        let now = Millis(end.0 - i64::try_from(age).expect("a time"));
        let events = (first..(first + BATCH).min(total)).map(|number| event(number, &hook, now)).collect();
        in_flight.push_back(accept_and_settle(&store, events, now));
        if in_flight.len() >= IN_FLIGHT {
            in_flight.next().await;
        }
        if first % sweep_every == 0 || first + BATCH >= total {
            while in_flight.next().await.is_some() {}
            while store.sweep(retention, now).await.expect("a sweep") {}
        }
    }
    store.close().await;
}

async fn accept_and_settle(store: &SqliteStore, events: Vec<NewEvent>, now: Millis) {
    let (sender, accepted) = tokio::sync::oneshot::channel();
    store.accept_then(events, now, Box::new(|_, result| drop(sender.send(result))));
    let accepted = accepted.await.expect("a result").expect("the store accepts");
    let deliveries = accepted.iter().flat_map(|event| &event.deliveries);
    let settlements: Vec<Settlement> = deliveries
        .map(|delivery| Settlement {
            delivery: delivery.seq,
            at: now,
            attempt: Some(AttemptRecord {
                at: now,
                duration: Duration::from_micros(700),
                status: Some(200),
                error: None,
                detail: None,
            }),
            next: NextStep::Delivered,
            progress: None,
            exchange: ExchangeChange::Nothing,
        })
        .collect();
    if !settlements.is_empty() {
        store.settle_many(settlements).await.expect("the store settles");
    }
}

fn event(number: usize, hook: &HookId, now: Millis) -> NewEvent {
    let id = format!("{:032x}", fastrand::u128(..));
    let mut key = [0; 32];
    fastrand::fill(&mut key);
    let head = format!(r#"{{"number":{number},"filler":""#);
    let data = format!(r#"{head}{}"}}"#, "x".repeat(DATA_BYTES - head.len() - 2));
    let event = Event {
        id,
        namespace: "default".into(),
        origin: Origin::Api,
        source: "bench-0".into(),
        event: "e".into(),
        time: now.rfc3339(),
        data: RawValue::from_string(data).expect("JSON").into(),
        attributes: [].into(),
    };
    NewEvent {
        event: Arc::new(event),
        dedup: Some(Dedup { key, window: WINDOW_TIME }),
        deliveries: vec![delivery_to(hook, now)],
    }
}

/// Returns a delivery that is due at once and has no gates.
pub fn delivery_to(hook: &HookId, now: Millis) -> NewDelivery {
    NewDelivery {
        epoch: None,
        hook: hook.clone(),
        id: uuid::Uuid::now_v7(),
        due: now,
        gate_request: GateRequest::default(),
        dead: None,
    }
}
