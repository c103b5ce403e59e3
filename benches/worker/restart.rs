//! A restart with a million pending deliveries: the first delivery, the memory, and the rate at the begin and the end of
//! the drain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hookstream::cluster::files::object_uid;
use hookstream::core::event::{Event, Origin};
use hookstream::core::time::Millis;
use hookstream::worker::store::sqlite::SqliteStore;
use hookstream::worker::store::{HookId, IngestStore, MaintenanceStore, NewEvent};
use serde_json::value::RawValue;

use crate::common::preload::delivery_to;
use crate::common::process::{start_with_manifests, temp_folder};
use crate::common::sink::Sink;

const HOOKS: usize = 50;
const EVENTS: usize = 20_000;
/// Goal for the time from start to the first delivery.
const GOAL: Duration = Duration::from_secs(2);
/// Goal for the peak memory.
const GOAL_MIB: f64 = 250.0;
/// Goal for the rate of the last tenth of the drain as a share of the first tenth's.
const GOAL_DRAIN: f64 = 0.9;
/// The drain ends if nothing arrives for this long.
const STALLED_AFTER: Duration = Duration::from_secs(30);

pub fn run(sink: &Sink) -> usize {
    let dir = temp_folder();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).expect("a folder");
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(fill_store(&data));
    println!("a backlog of {} deliveries created in {:.0?}", HOOKS * EVENTS, started.elapsed());
    let text: String = (0..HOOKS)
        .map(|number| {
            format!(
                "---\napiVersion: hookstream.dev/v1alpha1\nkind: EventHook\nmetadata: {{name: h{number}}}\n\
                 spec: {{source: bench, handler: {{webhook: {{url: 'http://{}/{number}'}}}}}}\n",
                sink.address()
            )
        })
        .collect();
    sink.expect_fan_out(EVENTS, HOOKS);
    let started = Instant::now();
    let subject = start_with_manifests(dir, &text, 1).0;
    while sink.count() == 0 && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let first = started.elapsed();
    let drained = watch_drain(sink, HOOKS * EVENTS);
    println!(
        "restart with {} pending deliveries: first delivery after {first:.2?} (goal under {GOAL:?}); peak {:.0} MiB (goal under {GOAL_MIB:.0})",
        HOOKS * EVENTS,
        subject.peak_mib()
    );
    let [begin, end] = drained.tenths;
    println!(
        "  drain: {:.0} deliveries/s, CPU {:.1} us/delivery; first tenth {begin:.0}/s, last tenth {end:.0}/s, ratio {:.2} (goal {GOAL_DRAIN})",
        drained.rate,
        subject.usage().cpu_us / (HOOKS * EVENTS) as f64,
        end / begin
    );
    HOOKS * EVENTS - drained.arrived
}

/// The drain of a backlog.
struct Drain {
    arrived: usize,
    /// Deliveries per second.
    rate: f64,
    /// Deliveries per second in the first and in the last tenth.
    tenths: [f64; 2],
}

/// Waits until `expected` deliveries arrived, or none for a while.
fn watch_drain(sink: &Sink, expected: usize) -> Drain {
    let started = (Instant::now(), sink.count());
    // When each tenth was complete.
    let mut tenths = vec![started];
    let mut last = started;
    while last.1 < expected && last.0.elapsed() < STALLED_AFTER {
        std::thread::sleep(Duration::from_millis(5));
        let arrived = sink.count();
        if arrived > last.1 {
            last = (Instant::now(), arrived);
        }
        while tenths.len() <= 10 && arrived >= expected * tenths.len() / 10 {
            tenths.push(last);
        }
    }
    let rate = |from: (Instant, usize), to: (Instant, usize)| {
        (to.1 - from.1) as f64 / to.0.duration_since(from.0).as_secs_f64()
    };
    let tenth = |number: usize| match (tenths.get(number), tenths.get(number + 1)) {
        (Some(from), Some(to)) => rate(*from, *to),
        _ => f64::NAN,
    };
    Drain { arrived: last.1, rate: rate(started, last), tenths: [tenth(0), tenth(9)] }
}

/// Stores `EVENTS` events, each with a pending delivery to every hook.
async fn fill_store(data: &std::path::Path) {
    let store = SqliteStore::open(data).expect("a store");
    let hooks: Vec<HookId> = (0..HOOKS)
        .map(|number| {
            let name = format!("h{number}");
            HookId {
                uid: object_uid("EventHook", "default", &name).into(),
                namespace: "default".into(),
                name: name.into(),
            }
        })
        .collect();
    let now = Millis::now();
    for batch in 0..EVENTS / 100 {
        let events = (0..100).map(|n| {
            let number = batch * 100 + n;
            let data = format!(r#"{{"number":{number},"filler":"{}"}}"#, "x".repeat(200));
            let event = Arc::new(Event {
                id: format!("e{number}"),
                namespace: "default".into(),
                origin: Origin::Api,
                source: "bench".into(),
                event: "e".into(),
                time: now.rfc3339(),
                data: RawValue::from_string(data).expect("JSON").into(),
                attributes: [].into(),
            });
            let deliveries = hooks.iter().map(|hook| delivery_to(hook, now)).collect();
            NewEvent { event, dedup: None, deliveries }
        });
        let (sender, accepted) = tokio::sync::oneshot::channel();
        store.accept_then(events.collect(), now, Box::new(|_, result| drop(sender.send(result))));
        accepted.await.expect("a result").expect("the store accepts");
    }
    store.close().await;
}
