//! Throughput and memory with few and with many hooks, on a filled store. Each event matches one hook, independent of the
//! number of hooks.
//!
//! The worker runs in a separate process, and its hooks are inserted into its view. Reading 100,000 files would distort
//! the measurement.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hookstream::api::{Connection, EventHook, EventStream, Hook};
use hookstream::cluster::files::{FileCluster, FileClusterOptions};
use hookstream::cluster::{DeserializeGuard, ObjectChange, Reflector, Subscribers, View};
use hookstream::core::egress::EgressRules;
use hookstream::memory::{ItemSizes, MemoryBudget, Split};
use hookstream::metrics::Metrics;
use hookstream::net::{Egress, HttpClient};
use hookstream::ops::Readiness;
use hookstream::sandbox::{self, Sandbox};
use hookstream::traces::Traces;
use hookstream::worker::store::sqlite::SqliteStore;
use hookstream::worker::store::{KeepResponses, Retention, Shares};
use hookstream::worker::{Disk, HandshakeOrigins, Limits, Worker};
use kube::runtime::watcher::Event;
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::common::CONCURRENCY;
use crate::common::figures::Spread;
use crate::common::load::{self, Round};
use crate::common::preload::{Size, WINDOW_TIME};
use crate::common::process::{PATH, Subject, folder_with_store, start, temp_folder};
use crate::common::sink::Sink;

const EVENTS: usize = 20_000;
const ROUNDS: usize = 5;
const CONNECTIONS: usize = 64;
const CHANGES: usize = 20_000;

pub fn run(sink: &Sink) -> usize {
    println!(
        "throughput by number of hooks: {CONNECTIONS} connections, 1 KiB events with ids, {EVENTS} events per round, {ROUNDS} rounds, a store with {}",
        Size::medium()
    );
    let subjects = [1, 10, 100_000].map(|hooks| (hooks, start_worker(sink.address(), hooks)));
    let idle = subjects.each_ref().map(|(_, subject)| (subject.resident_mib(), subject.peak_mib()));
    let mut rounds: [Vec<Round>; 3] = Default::default();
    let mut lost = 0;
    for (_, subject) in &subjects {
        lost += load::run_round(subject, sink, CONNECTIONS, EVENTS / 5).lost;
    }
    for _ in 0..ROUNDS {
        for ((_, subject), rounds) in subjects.iter().zip(&mut rounds) {
            rounds.push(load::run_round(subject, sink, CONNECTIONS, EVENTS));
        }
    }
    let rates = rounds.each_ref().map(|rounds| rounds.iter().map(|round| round.rate).collect::<Vec<_>>());
    for (index, (hooks, subject)) in subjects.iter().enumerate() {
        let (resident, peak) = idle[index];
        println!(
            "{hooks:>9} hooks  {:.0} events/s, CPU {:.1} us/event, {:.2} of the rate with one hook (must {}, goal {})",
            Spread::of(rates[index].iter().copied()),
            Spread::of(rounds[index].iter().map(|round| round.cpu_us)),
            Spread::of_ratios(&rates[index], &rates[0]),
            if *hooks > 10 { 0.8 } else { 0.9 },
            if *hooks > 10 { 0.9 } else { 0.95 },
        );
        println!(
            "{:>9}        {resident:.0} MiB when idle, {:.0} bytes per hook more than one hook; {peak:.0} MiB at most while listing; {:.0} MiB at most (must 250, goal 150)",
            "",
            (resident - idle[0].0) * 1024.0 * 1024.0 / *hooks as f64,
            subject.peak_mib(),
        );
        lost += rounds[index].iter().map(|round| round.lost).sum::<usize>();
    }
    drop(subjects);
    measure_change(sink.address());
    lost
}

/// Prints the cost of changing one hook among few and among many.
fn measure_change(sink: SocketAddr) {
    for hooks in [1, 100_000] {
        let dir = temp_folder();
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--change", &sink.to_string(), &hooks.to_string()]).current_dir(dir.path());
        let output = command.output().expect("a worker");
        print!("{}", String::from_utf8_lossy(&output.stdout));
    }
}

fn start_worker(sink: SocketAddr, hooks: usize) -> Subject {
    let dir = folder_with_store(Size::medium());
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--worker", &sink.to_string(), &hooks.to_string()]).current_dir(dir.path());
    start(command, "listening on", PATH, hooks, Some(dir))
}

/// Runs the worker, with its data in the current folder. With `change`, it prints the cost of changing a hook and exits.
pub fn run_worker(sink: &str, hooks: usize, change: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let sink = sink.to_owned();
    runtime.block_on(runtime.spawn(serve(sink, hooks, change))).expect("the worker does not panic");
}

async fn serve(sink: String, hooks: usize, change: bool) {
    rustls::crypto::ring::default_provider().install_default().expect("the first one");
    std::fs::create_dir_all("data").expect("a folder");
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {secret: secret}\n";
    std::fs::write("all.yaml", secret).expect("a manifest");
    let options = FileClusterOptions {
        manifests: vec!["all.yaml".into()],
        data: "data".into(),
        prune: false,
        token: None,
    };
    let files = FileCluster::open(options).expect("the manifests");
    let mut subscribers = Subscribers::default();
    let changes = subscribers.subscribe();
    let subscribers = Arc::new(subscribers);
    let (mut hook_feed, hook_cache) =
        Reflector::<EventHook>::new(1, subscribers.clone(), ObjectChange::EventHook);
    let (mut connection_feed, connections) =
        Reflector::<Connection>::new(1, subscribers.clone(), ObjectChange::Connection);
    let (mut stream_feed, streams) =
        Reflector::<EventStream>::new(1, subscribers.clone(), ObjectChange::EventStream);
    let (mut script_feed, scripts) = Reflector::<Hook>::new(1, subscribers, ObjectChange::Hook);
    let view = View::new(hook_cache, connections, streams, scripts);
    let metrics = Arc::new(Metrics::default());
    let store = SqliteStore::open(Path::new("data")).expect("a store");
    let egress = Egress::new(EgressRules { loopback: true, ..EgressRules::default() });
    let program = env!("CARGO_BIN_EXE_hookstream").into();
    let sandbox = sandbox::SandboxOptions { program, ..sandbox::SandboxOptions::default() };
    let sizes = ItemSizes {
        event: 1 << 20,
        request: 1 << 20,
        attempt: 72 << 10,
        rendered: 4 << 20,
        script_reply: 28 << 20,
        admin_response: 16 << 20,
    };
    let memory = MemoryBudget::new(Split::new(512 << 20, &sizes).expect("a split"), &metrics);
    let worker = Worker {
        cluster: Arc::new(files),
        view,
        store: Arc::new(store),
        http: HttpClient::new(egress).expect("a client"),
        memory,
        metrics,
        traces: Traces::default(),
        sandbox: Sandbox::start(sandbox).await,
        starting: Readiness::default().add_gate("the ingest port is open"),
        tls: None,
        trusted_proxies: Vec::new(),
        local_access: None,
        api_extension: None,
        limits: Limits {
            max_event_bytes: 1 << 20,
            max_request_bytes: 1 << 20,
            dedup_window: WINDOW_TIME,
            relay_dedup_window: Duration::ZERO,
        },
        handshake: HandshakeOrigins::default(),
        webhook_origin: "bench".to_owned(),
        keep_responses: KeepResponses::default(),
        retention: Retention {
            history_age: WINDOW_TIME,
            dead_letter_age: Duration::from_secs(86_400),
            unmatched_age: WINDOW_TIME,
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
    let (stop_after_changes, opened) = (stop.clone(), Arc::new(Notify::new()));
    let open = opened.clone();
    let feed_changes = async move {
        connection_feed.apply(0, Event::Init).await;
        connection_feed.apply(0, Event::InitDone).await;
        stream_feed.apply(0, Event::Init).await;
        stream_feed.apply(0, Event::InitDone).await;
        script_feed.apply(0, Event::Init).await;
        script_feed.apply(0, Event::InitDone).await;
        hook_feed.apply(0, Event::Init).await;
        for number in 0..hooks {
            hook_feed.apply(0, Event::InitApply(hook(number, &sink, 1))).await;
        }
        hook_feed.apply(0, Event::InitDone).await;
        opened.notified().await;
        if change {
            let changed: Vec<_> =
                (0..CHANGES).map(|number| hook(number % hooks, "127.0.0.1:9", 2 + number as i64)).collect();
            let started = Instant::now();
            for hook in changed {
                // Blocks while the worker is more than a thousand changes behind.
                hook_feed.apply(0, Event::Apply(hook)).await;
            }
            let per_change = started.elapsed().as_secs_f64() * 1e6 / CHANGES as f64;
            println!(
                "{hooks:>9} hooks  a change of one hook is processed in {per_change:.1} us (goal: microseconds)"
            );
            stop_after_changes.cancel();
        }
        std::future::pending::<()>().await;
    };
    tokio::spawn(feed_changes);
    let on_listening = |ports: hookstream::worker::Listening| {
        if !change {
            println!("listening on {}", ports.ingest);
        }
        open.notify_one();
    };
    worker.run(changes, stop, on_listening).await.expect("a worker");
}

/// Returns a hook whose status already reports a delivery. Otherwise the worker would write its status once, at its first
/// delivery.
fn hook(number: usize, sink: &str, generation: i64) -> DeserializeGuard<EventHook> {
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
