//! A restart with a million pending deliveries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hookstream::cluster::files::object_uid;
use hookstream::core::event::{Event, Origin};
use hookstream::core::gate::GateRequest;
use hookstream::core::time::Millis;
use hookstream::worker::store::sqlite::SqliteStore;
use hookstream::worker::store::{HookId, IngestStore, MaintenanceStore, NewDelivery, NewEvent};
use serde_json::value::RawValue;

use crate::common::process::{start_with_manifests, temp_folder};
use crate::common::sink::Sink;

const HOOKS: usize = 50;
const EVENTS: usize = 20_000;
/// Goal for the time from start to the first delivery.
const GOAL: Duration = Duration::from_secs(2);
/// Goal for the peak memory.
const GOAL_MIB: f64 = 250.0;

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
                 spec: {{source: bench, handler: {{webhook: {{url: 'http://{}/'}}}}}}\n",
                sink.address()
            )
        })
        .collect();
    sink.expect(EVENTS);
    let started = Instant::now();
    let subject = start_with_manifests(dir, &text, 1).0;
    while sink.count() == 0 && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let first = started.elapsed();
    // Memory is stable after some thousand deliveries.
    std::thread::sleep(Duration::from_secs(8));
    println!(
        "restart with {} pending deliveries: first delivery after {first:.2?} (goal under {GOAL:?}); peak {:.0} MiB (goal under {GOAL_MIB:.0})",
        HOOKS * EVENTS,
        subject.peak_mib()
    );
    usize::from(sink.count() == 0)
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
            let delivery = |hook: &HookId| NewDelivery {
                hook: hook.clone(),
                id: uuid::Uuid::now_v7(),
                due: now,
                gate_request: GateRequest::default(),
                dead: None,
            };
            NewEvent { event, dedup: None, deliveries: hooks.iter().map(delivery).collect() }
        });
        let (sender, accepted) = tokio::sync::oneshot::channel();
        store.accept_then(events.collect(), now, Box::new(|_, result| drop(sender.send(result))));
        accepted.await.expect("a result").expect("the store accepts");
    }
    store.close().await;
}
