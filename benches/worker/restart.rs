//! A start with a million deliveries that wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hookstream::cluster::files::uid;
use hookstream::core::event::{Event, Origin};
use hookstream::core::gate::Asked;
use hookstream::core::time::Millis;
use hookstream::worker::store::sqlite::SqliteStore;
use hookstream::worker::store::{HookId, NewDelivery, NewEvent, Store};
use serde_json::value::RawValue;

use crate::process::{folder, standalone_with};
use crate::sink::Sink;

const HOOKS: usize = 50;
const EVENTS: usize = 20_000;
const GOAL: Duration = Duration::from_secs(2);
const GOAL_MIB: f64 = 250.0;

pub fn run(sink: &Sink) -> usize {
    let dir = folder();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).expect("a folder");
    let begun = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(fill(&data));
    println!("a backlog of {} deliveries made in {:.0?}", HOOKS * EVENTS, begun.elapsed());
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
    let begun = Instant::now();
    let subject = standalone_with(dir, &text, 1).0;
    while sink.count() == 0 && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let first = begun.elapsed();
    // Some thousand deliveries later the memory is what it will stay.
    std::thread::sleep(Duration::from_secs(8));
    println!(
        "restart with {} deliveries that wait: the first delivered after {first:.2?} (goal under {GOAL:?}); at most {:.0} MiB (goal under {GOAL_MIB:.0})",
        HOOKS * EVENTS,
        subject.peak()
    );
    usize::from(sink.count() == 0)
}

async fn fill(data: &std::path::Path) {
    let store = SqliteStore::open(data).expect("a store");
    let hooks: Vec<HookId> = (0..HOOKS)
        .map(|number| {
            let name = format!("h{number}");
            HookId {
                uid: uid("EventHook", "default", &name).into(),
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
                data: RawValue::from_string(data).expect("JSON"),
                attributes: [].into(),
            });
            let delivery = |hook: &HookId| NewDelivery {
                hook: hook.clone(),
                id: uuid::Uuid::now_v7(),
                due: now,
                asked: Asked::default(),
                dead: None,
            };
            NewEvent { event, dedup: None, deliveries: hooks.iter().map(delivery).collect() }
        });
        store.accept(events.collect(), now).await.expect("room");
    }
    store.close().await;
}
