//! Figures of hand-overs: prints them, and asserts only that nothing is lost or refused.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{start_on_copy, wait_until_settled};
use crate::harness::http::answer;
use crate::harness::manifests::{hook, merge, quick};
use crate::harness::postgres::{PostgresServer, PostgresServerOptions};
use crate::harness::standalone::{EVENTS, Standalone};
use crate::harness::{DEADLINE, Receiver, Reply, eventually, number};

const WORKERS: usize = 3;
/// Events in a second, unless `SOAK_RATE` says otherwise.
const RATE: u64 = 500;
/// Each gets one event in this many.
const HOOKS: u64 = 40;

/// The records of one measurement.
#[derive(Default)]
pub(super) struct Timings {
    /// When the sender had its answer, and how long it took, by the event's id.
    pub(super) accepted: Mutex<HashMap<String, (Instant, Duration)>>,
    pub(super) refused: Mutex<Vec<String>>,
    /// The first arrival, by the event's id.
    pub(super) arrived: Mutex<HashMap<String, Instant>>,
}

impl Timings {
    /// Waits until this many further events are accepted.
    pub(super) async fn wait_for(&self, more: usize) {
        let before = self.accepted.lock().unwrap().len();
        eventually(DEADLINE, "events to be accepted", async || match self.accepted.lock().unwrap().len() {
            now if now >= before + more => Ok(()),
            now => Err(format!("{} of {more}", now - before)),
        })
        .await;
    }

    /// Waits until everything has arrived. Returns the longest time from an answer to the arrival.
    pub(super) async fn longest_delivery(&self) -> Duration {
        eventually(DEADLINE, "all events to arrive", async || {
            let (accepted, arrived) = (self.accepted.lock().unwrap(), self.arrived.lock().unwrap());
            match accepted.keys().filter(|id| !arrived.contains_key(*id)).count() {
                0 => Ok(()),
                missing => Err(format!("{missing} are missing")),
            }
        })
        .await;
        let arrived = self.arrived.lock().unwrap();
        let accepted = self.accepted.lock().unwrap();
        let delays = accepted.iter().map(|(id, (at, _))| arrived[id].saturating_duration_since(*at));
        delays.max().unwrap_or_default()
    }

    fn p99_of_accepts(&self) -> Duration {
        let mut all: Vec<Duration> = self.accepted.lock().unwrap().values().map(|(_, took)| *took).collect();
        all.sort_unstable();
        all[all.len() * 99 / 100]
    }
}

/// Returns the manifests of the hooks, each with an event name of its own.
pub(super) fn manifests(url: &str) -> String {
    let of_hook = |n| {
        let mut spec = quick();
        merge(&mut spec, json!({"event": format!("e{n}")}));
        hook(&format!("h{n}"), url, spec)
    };
    (0..HOOKS).map(of_hook).collect()
}

/// Publishes this many events a second, whatever the answers take, each to the next of the URLs.
pub(super) async fn publish(
    rate: u64,
    urls: Arc<Mutex<Vec<String>>>,
    record: Arc<Timings>,
    stop: Arc<AtomicBool>,
    name: &'static str,
) {
    let client = reqwest::Client::new();
    let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / rate));
    let mut requests = tokio::task::JoinSet::new();
    for n in 0_u64.. {
        ticks.tick().await;
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let url = {
            let urls = urls.lock().unwrap();
            urls[usize::try_from(n).unwrap() % urls.len()].clone()
        };
        let (client, record) = (client.clone(), record.clone());
        requests.spawn(async move {
            let id = format!("{name}-{n}");
            let event = format!("e{}", n % HOOKS);
            let body = json!({"id": id, "source": "s", "event": event, "data": {"id": id}});
            let started = Instant::now();
            let (status, answer) = answer(client.post(url).json(&body)).await;
            match status {
                202 => drop(record.accepted.lock().unwrap().insert(id, (Instant::now(), started.elapsed()))),
                status => record.refused.lock().unwrap().push(format!("{status} {answer}")),
            }
        });
    }
    requests.join_all().await;
}

/// Prints how long hand-overs take under load: when workers are replaced one after the other, and when one
/// is killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: make soak"]
async fn soak_figures_of_hand_overs() {
    let rate = number("SOAK_RATE").unwrap_or(RATE);
    // Two seconds each.
    let some = usize::try_from(rate * 2).expect("a rate");
    let record: Arc<Mutex<Arc<Timings>>> = Arc::default();
    let recording = record.clone();
    let receiver = Receiver::start(move |request, _| {
        let id = request.json()["id"].as_str().expect("an event's id").to_owned();
        recording.lock().unwrap().arrived.lock().unwrap().entry(id).or_insert(request.at);
        Reply::status(200)
    });
    let manifests = manifests(&receiver.url());
    let server = PostgresServer::start(PostgresServerOptions { durable: true, ..Default::default() })
        .expect("a server");
    let database = server.new_database();
    let args = ["--store-url", &database];
    let mut workers = vec![Standalone::start(&manifests, &args).await];
    let data = workers[0].data.clone();
    for _ in 1..WORKERS {
        workers.push(start_on_copy(&manifests, &args, &data).await);
    }
    let urls = Arc::new(Mutex::new(workers.iter().map(|worker| worker.url(EVENTS)).collect::<Vec<_>>()));
    let begin = |name: &'static str| {
        let (fresh, stop) = (Arc::new(Timings::default()), Arc::new(AtomicBool::new(false)));
        *record.lock().unwrap() = fresh.clone();
        let sender = tokio::spawn(publish(rate, urls.clone(), fresh.clone(), stop.clone(), name));
        (fresh, stop, sender)
    };

    let (replaced, stop, sender) = begin("replaced");
    for (number, worker) in workers.iter_mut().enumerate() {
        replaced.wait_for(some).await;
        let new = start_on_copy(&manifests, &args, &data).await;
        urls.lock().unwrap()[number] = new.url(EVENTS);
        // Those that are on their way to the old one, as behind a load balancer.
        replaced.wait_for(some).await;
        let old = std::mem::replace(worker, new);
        old.process().terminate().await;
    }
    replaced.wait_for(some).await;
    stop.store(true, Ordering::SeqCst);
    sender.await.expect("the sender");
    let longest = replaced.longest_delivery().await;
    let refused = replaced.refused.lock().unwrap().len();
    println!(
        "{WORKERS} workers replaced under {rate} events/s: {refused} refused, p99 of an accept {:?}, longest delivery {longest:?}",
        replaced.p99_of_accepts()
    );
    assert_eq!(*replaced.refused.lock().unwrap(), [""; 0]);
    wait_until_settled(&workers[0]).await;

    let (killed, stop, sender) = begin("killed");
    killed.wait_for(some).await;
    // A load balancer sends nothing to a pod that has ended.
    urls.lock().unwrap().pop();
    killed.wait_for(some).await;
    workers[WORKERS - 1].process().kill9();
    killed.wait_for(some * 8).await;
    stop.store(true, Ordering::SeqCst);
    sender.await.expect("the sender");
    println!(
        "one of {WORKERS} workers killed under {rate} events/s: p99 of an accept {:?}, longest delivery {:?} (the lease is 10 s)",
        killed.p99_of_accepts(),
        killed.longest_delivery().await
    );
    assert_eq!(*killed.refused.lock().unwrap(), [""; 0]);
}
