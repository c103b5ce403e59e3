//! Throughput with few hooks and with many. An event reaches one hook, whatever their number.
//!
//! The worker runs in a process of its own, on hooks that are put into its view: files for 100,000 would be measured too.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hookstream::api::{Connection, EventHook, EventStream, Hook};
use hookstream::cluster::files::{Files, Options};
use hookstream::cluster::{Change, Feed, Guarded, Subscribers, View};
use hookstream::core::egress::Policy;
use hookstream::metrics::Metrics;
use hookstream::net::{Egress, HttpClient};
use hookstream::ops::Readiness;
use hookstream::sandbox::{self, Sandbox};
use hookstream::worker::store::sqlite::SqliteStore;
use hookstream::worker::store::{Retention, Shares};
use hookstream::worker::{Disk, Limits, Worker};
use kube::runtime::watcher::Event;
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::bare::CONCURRENCY;
use crate::load::{self, Round};
use crate::process::{PATH, Subject, folder, start};
use crate::sink::Sink;

const EVENTS: usize = 10_000;
const ROUNDS: usize = 3;
const CONNECTIONS: usize = 64;
const CHANGES: usize = 20_000;
/// The part of the throughput with one hook that many should reach.
const GOAL: f64 = 0.8;

pub fn run(sink: &Sink) -> usize {
    println!(
        "throughput by the number of hooks: {CONNECTIONS} connections, 1 KiB, {EVENTS} events a round, {ROUNDS} rounds"
    );
    let (mut lost, mut one, mut idle) = (0, f64::NAN, f64::NAN);
    for hooks in [1, 10, 100_000] {
        let subject = subject(sink.address(), hooks);
        let (rests, most) = (subject.resident(), subject.peak());
        if hooks == 1 {
            idle = rests;
        } else {
            let each = (rests - idle) * 1024.0 * 1024.0 / hooks as f64;
            println!(
                "{hooks:>9} hooks  at rest {rests:.0} MiB, {each:.0} bytes a hook; while they were listed {most:.0} MiB"
            );
        }
        lost += load::round(&subject, sink, CONNECTIONS, EVENTS / 5).lost;
        let rounds: Vec<Round> =
            (0..ROUNDS).map(|_| load::round(&subject, sink, CONNECTIONS, EVENTS)).collect();
        let median = Round::median(&rounds);
        lost += median.lost;
        if hooks == 1 {
            one = median.rate;
        }
        println!(
            "{hooks:>9} hooks  {:>7.0} events/s  {:>4.0} us CPU/event  {:.2} of one hook's (goal {GOAL}), at most {:.0} MiB{}",
            median.rate,
            median.cpu,
            median.rate / one,
            subject.peak(),
            if hooks > 10 { " (goal under 250)" } else { "" }
        );
    }
    change(sink.address());
    lost
}

/// What the change of one hook costs among few and among many.
fn change(sink: SocketAddr) {
    for hooks in [1, 100_000] {
        let dir = folder();
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--change", &sink.to_string(), &hooks.to_string()]).current_dir(dir.path());
        let output = command.output().expect("a worker");
        print!("{}", String::from_utf8_lossy(&output.stdout));
    }
}

fn subject(sink: SocketAddr, hooks: usize) -> Subject {
    let dir = folder();
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--worker", &sink.to_string(), &hooks.to_string()]).current_dir(dir.path());
    start(command, "listening on", PATH, hooks, Some(dir))
}

/// The worker, its data in the current folder. `change`: it only tells what a change of a hook costs, and ends.
pub fn worker(sink: &str, hooks: usize, change: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let sink = sink.to_owned();
    runtime.block_on(runtime.spawn(serve(sink, hooks, change))).expect("a worker that does not panic");
}

async fn serve(sink: String, hooks: usize, change: bool) {
    rustls::crypto::ring::default_provider().install_default().expect("the first one");
    std::fs::create_dir("data").expect("a folder");
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {secret: secret}\n";
    std::fs::write("all.yaml", secret).expect("a manifest");
    let options =
        Options { manifests: vec!["all.yaml".into()], data: "data".into(), prune: false, token: None };
    let files = Files::open(options).expect("the manifests");
    let mut subscribers = Subscribers::default();
    let changes = subscribers.subscribe();
    let subscribers = Arc::new(subscribers);
    let (mut feed, fed) = Feed::<EventHook>::new(1, subscribers.clone(), Change::EventHook);
    let (mut none, nothing) = Feed::<Connection>::new(1, subscribers.clone(), Change::Connection);
    let (mut no_streams, streams) = Feed::<EventStream>::new(1, subscribers.clone(), Change::EventStream);
    let (mut no_scripts, scripts) = Feed::<Hook>::new(1, subscribers, Change::Hook);
    let view = View::new(fed, nothing, streams, scripts);
    let metrics = Arc::new(Metrics::default());
    let store = SqliteStore::open(Path::new("data")).expect("a store");
    let egress = Egress::new(Policy { loopback: true, ..Policy::default() });
    let program = env!("CARGO_BIN_EXE_hookstream").into();
    let sandbox = sandbox::Options { program, ..sandbox::Options::default() };
    let worker = Worker {
        cluster: Arc::new(files),
        view,
        store: Arc::new(store),
        http: HttpClient::new(egress).expect("a client"),
        metrics,
        sandbox: Sandbox::start(sandbox).await,
        starting: Readiness::default().pending("the ingest port is open"),
        tls: None,
        limits: Limits {
            max_event_bytes: 1 << 20,
            max_request_bytes: 1 << 20,
            dedup_window: Duration::from_secs(86_400),
            relay_dedup_window: Duration::ZERO,
        },
        retention: Retention {
            history_age: Duration::from_secs(86_400),
            dead_letter_age: Duration::from_secs(86_400),
            history_bytes: 1 << 30,
            dead_letter_bytes: 1 << 30,
        },
        disk: Disk::new(Path::new("data"), 100),
        shares: Shares::default(),
        grace: Duration::from_secs(3600),
        accept_new_store: false,
        listen: "127.0.0.1:0".into(),
        api_listen: "127.0.0.1:0".into(),
    };
    let stop = CancellationToken::new();
    let (stopping, opened) = (stop.clone(), Arc::new(Notify::new()));
    let open = opened.clone();
    let filling = async move {
        none.apply(0, Event::Init).await;
        none.apply(0, Event::InitDone).await;
        no_streams.apply(0, Event::Init).await;
        no_streams.apply(0, Event::InitDone).await;
        no_scripts.apply(0, Event::Init).await;
        no_scripts.apply(0, Event::InitDone).await;
        feed.apply(0, Event::Init).await;
        for number in 0..hooks {
            feed.apply(0, Event::InitApply(hook(number, &sink, 1))).await;
        }
        feed.apply(0, Event::InitDone).await;
        opened.notified().await;
        if change {
            let changed: Vec<_> =
                (0..CHANGES).map(|number| hook(number % hooks, "127.0.0.1:9", 2 + number as i64)).collect();
            let begun = Instant::now();
            for hook in changed {
                // Waits where the worker is behind by more than a thousand.
                feed.apply(0, Event::Apply(hook)).await;
            }
            let each = begun.elapsed().as_secs_f64() * 1e6 / CHANGES as f64;
            println!(
                "{hooks:>9} hooks  a change of one is taken in within {each:.1} us (goal: microseconds)"
            );
            stopping.cancel();
        }
        std::future::pending::<()>().await;
    };
    tokio::spawn(filling);
    let listening = |ports: hookstream::worker::Listening| {
        if !change {
            println!("listening on {}", ports.ingest);
        }
        open.notify_one();
    };
    worker.run(changes, stop, listening).await.expect("a worker");
}

/// A hook that has delivered before, as the cluster would show it: at its first delivery its status is written, once.
fn hook(number: usize, sink: &str, generation: i64) -> Guarded<EventHook> {
    let signature = json!({"secretRef": {"name": "keys", "key": "secret"}});
    let delivering = json!({"type": "Delivering", "status": "True", "reason": "Delivering",
        "message": "deliveries go out", "observedGeneration": generation,
        "lastTransitionTime": "2026-11-14T22:13:20Z"});
    serde_json::from_value(json!({
        "apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
        "metadata": {"name": format!("h{number}"), "namespace": "default", "uid": format!("uid-{number}"),
            "generation": generation, "resourceVersion": format!("{number}.{generation}")},
        "spec": {"source": format!("bench-{number}"), "delivery": {"concurrency": CONCURRENCY},
            "handler": {"webhook": {"url": format!("http://{sink}/"), "signature": signature}}},
        "status": {"conditions": [delivering]}
    }))
    .expect("a hook")
}
