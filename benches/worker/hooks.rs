//! Throughput and memory with few and with many hooks, on a filled store. Each event matches one hook, independent of the
//! number of hooks.
//!
//! The worker runs in a separate process, and its hooks are inserted into its view. Reading 100,000 files would distort
//! the measurement.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Instant;

use hookstream::api::EventHook;
use hookstream::cluster::DeserializeGuard;
use kube::runtime::watcher::Event;
use serde_json::json;

use crate::common::CONCURRENCY;
use crate::common::figures::Spread;
use crate::common::load::{self, Round};
use crate::common::memory_worker::{MemoryWorker, Options};
use crate::common::preload::Size;
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
    let hook_sink = sink.clone();
    let make = move |number| hook(number, &hook_sink, 1);
    let mut worker = MemoryWorker::start(Options::new(hooks, Box::new(make))).await;
    if !change {
        println!("listening on {}", worker.ports.ingest);
        return std::future::pending().await;
    }
    let changed: Vec<_> =
        (0..CHANGES).map(|number| hook(number % hooks, "127.0.0.1:9", 2 + number as i64)).collect();
    let started = Instant::now();
    for hook in changed {
        // Blocks while the worker is more than a thousand changes behind.
        worker.hooks.apply(0, Event::Apply(hook)).await;
    }
    let per_change = started.elapsed().as_secs_f64() * 1e6 / CHANGES as f64;
    println!(
        "{hooks:>9} hooks  a change of one hook is processed in {per_change:.1} us (goal: microseconds)"
    );
    worker.stop().await;
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
