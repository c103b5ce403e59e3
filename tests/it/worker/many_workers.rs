//! Several workers on one PostgreSQL server: a checker in the manner of Jepsen. Senders publish to all of them while workers
//! and the server are killed and paused. Then the records of the senders and of the receiver are compared.
//!
//! Nothing accepted is lost; an event has one delivery for each hook, however often its sender repeated it; only what was in
//! flight is sent twice; a gate decides as one process would; and a hook's concurrency is exceeded at most by what a former
//! owner had in flight.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::http::answer;
use crate::harness::manifests::{event, hook, merge, quick};
use crate::harness::postgres::{PostgresServer, PostgresServerOptions, shared};
use crate::harness::standalone::{EVENTS, Standalone};
use crate::harness::{DEADLINE, Receiver, Reply, eventually, number, seed};

const WORKERS: usize = 3;
const CONCURRENCY: usize = 8;
/// How long the receiver takes for an answer.
const ANSWER: Duration = Duration::from_millis(20);
/// Groups of the gate.
const GROUPS: usize = 5;
/// Longer than the lease of a worker.
const PAUSE: Duration = Duration::from_secs(12);

/// What the receiver saw of one event: the arrivals by `webhook-id`.
type Arrivals = HashMap<String, BTreeMap<String, Vec<Instant>>>;

/// What happens to the processes in a cycle.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// `kill -9` of a worker, which starts again.
    KillWorker,
    /// A worker is stopped for longer than its lease, and goes on.
    PauseWorker,
    /// `kill -9` of the server, which starts again.
    KillServer,
    /// A worker stops in order and starts again.
    RestartWorker,
}

const FAULTS: [Fault; 4] = [Fault::KillWorker, Fault::KillServer, Fault::PauseWorker, Fault::RestartWorker];

/// Three workers with the same manifests, keys and database.
async fn start_workers(database: &str, manifests: &str) -> Vec<Standalone> {
    let args = ["--store-url", database];
    let mut workers = vec![Standalone::start(manifests, &args).await];
    for _ in 1..WORKERS {
        workers.push(start_on_copy(manifests, &args, &workers[0].data).await);
    }
    workers
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy_folder(&path, &target),
            false => drop(std::fs::copy(&path, target).expect("a copy")),
        }
    }
}

fn signal(pid: u32, name: &str) {
    let status = std::process::Command::new("kill").args([format!("-{name}"), pid.to_string()]).status();
    assert!(status.expect("kill").success());
}

/// Publishes events until `stop`, each until a worker accepts it.
async fn publish(
    sender: usize,
    urls: Vec<String>,
    accepted: Arc<Mutex<BTreeSet<String>>>,
    stop: Arc<AtomicBool>,
    seed: u64,
) {
    let mut random = fastrand::Rng::with_seed(seed ^ sender as u64);
    // A request to a paused worker must end.
    let client = reqwest::Client::builder().timeout(Duration::from_secs(3)).build().expect("a client");
    for n in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let id = format!("{sender}-{n}");
        let body = json!({"id": id, "source": "s", "event": "e", "data": {"id": id, "group": n % GROUPS}});
        loop {
            let url = &urls[random.usize(0..urls.len())];
            match client.post(url).json(&body).send().await {
                Ok(response) if response.status() == 202 => break,
                Ok(response) if response.status().is_server_error() => {}
                Ok(response) => panic!("{id} was answered {}", response.status()),
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        accepted.lock().unwrap().insert(id);
        tokio::time::sleep(Duration::from_millis(random.u64(0..20))).await;
    }
}

/// Waits until the senders had `more` further events accepted.
async fn wait_for_progress(accepted: &Mutex<BTreeSet<String>>, more: usize) {
    let before = accepted.lock().unwrap().len();
    eventually(DEADLINE, "events to be accepted", async || {
        let now = accepted.lock().unwrap().len();
        if now >= before + more { Ok(()) } else { Err(format!("{} of {more}", now - before)) }
    })
    .await;
}

async fn check(cycles: usize, seed: u64) {
    println!("{cycles} cycles, seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let server = PostgresServer::start(PostgresServerOptions { durable: true, ..Default::default() })
        .expect("a server");
    let arrivals: Arc<Mutex<HashMap<String, Arrivals>>> = Arc::default();
    let recorded = arrivals.clone();
    let receiver = Receiver::start(move |request, _| {
        let id = request.json()["id"].as_str().expect("an event's id").to_owned();
        let delivery = request.header("webhook-id").to_owned();
        let mut recorded = recorded.lock().unwrap();
        let of_hook = recorded.entry(request.path.clone()).or_default();
        of_hook.entry(id).or_default().entry(delivery).or_default().push(Instant::now());
        Reply::After(ANSWER, Reply::status(200).into())
    });
    let mut spec = quick();
    merge(&mut spec, json!({"delivery": {"concurrency": CONCURRENCY}}));
    let mut gated = spec.clone();
    merge(&mut gated, json!({"groupBy": ["group"], "snooze": {"period": "24h", "trailing": "None"}}));
    let url = |path: &str| format!("{}{path}", receiver.url());
    let manifests = hook("all", &url("/all"), spec.clone())
        + &hook("more", &url("/more"), spec)
        + &hook("gated", &url("/gated"), gated);
    let mut workers = start_workers(&server.new_database(), &manifests).await;

    let (accepted, stop) = (Arc::new(Mutex::new(BTreeSet::new())), Arc::new(AtomicBool::new(false)));
    let urls: Vec<String> = workers.iter().map(|worker| worker.url(EVENTS)).collect();
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..4 {
        senders.spawn(publish(sender, urls.clone(), accepted.clone(), stop.clone(), seed));
    }
    let in_flight = AtomicUsize::new(0);
    for cycle in 0..cycles {
        wait_for_progress(&accepted, 50).await;
        let (fault, number) = (FAULTS[cycle % FAULTS.len()], random.usize(0..WORKERS));
        println!("cycle {cycle}: {fault:?} {number}");
        match fault {
            Fault::KillWorker => {
                workers[number].process().kill9();
                // The others take its shards when its lease ends, or it comes back before.
                if random.bool() {
                    wait_for_progress(&accepted, 20).await;
                }
                workers[number].restart().await;
            }
            Fault::PauseWorker => {
                let pid = workers[number].process().pid();
                signal(pid, "STOP");
                tokio::time::sleep(PAUSE).await;
                signal(pid, "CONT");
            }
            Fault::KillServer => {
                server.kill9();
                server.restart().expect("a restart");
            }
            Fault::RestartWorker => {
                workers[number].process().terminate().await;
                workers[number].restart().await;
            }
        }
        // Each hook may have had this many deliveries in flight at the process that was interrupted.
        in_flight.fetch_add(CONCURRENCY, Ordering::SeqCst);
    }
    wait_for_progress(&accepted, 50).await;
    stop.store(true, Ordering::SeqCst);
    while let Some(ended) = senders.join_next().await {
        ended.expect("a sender");
    }
    let accepted = accepted.lock().unwrap().clone();
    eventually(DEADLINE, "all accepted events to arrive", async || {
        let arrivals = arrivals.lock().unwrap();
        for path in ["/all", "/more"] {
            let of_hook = arrivals.get(path);
            let missing: Vec<_> = accepted
                .iter()
                .filter(|id| !of_hook.is_some_and(|arrived| arrived.contains_key(*id)))
                .collect();
            if !missing.is_empty() {
                return Err(format!(
                    "{} of {} at {path}, such as {}",
                    missing.len(),
                    accepted.len(),
                    missing[0]
                ));
            }
        }
        Ok(())
    })
    .await;
    wait_until_settled(&workers[0]).await;

    let arrivals = arrivals.lock().unwrap();
    println!("{} events", accepted.len());
    for (path, of_hook) in arrivals.iter() {
        let mut repeats = 0;
        for (id, deliveries) in of_hook {
            assert_eq!(deliveries.len(), 1, "{id} has several deliveries at {path}: {deliveries:?}");
            repeats += deliveries.values().map(|arrived| arrived.len() - 1).sum::<usize>();
        }
        let times = of_hook.values().flat_map(BTreeMap::values).flatten().copied().collect();
        let concurrent = highest_overlap(times);
        println!("{path}: {} deliveries, {repeats} repeats, up to {concurrent} at a time", of_hook.len());
        assert!(repeats <= in_flight.load(Ordering::SeqCst), "{repeats} repeats at {path}");
        assert!(concurrent <= 2 * CONCURRENCY, "{concurrent} at a time at {path}");
    }
    // One delivery of each group, whichever worker asked the gate first.
    let gated = arrivals.get("/gated").map_or(0, HashMap::len);
    assert_eq!(gated, GROUPS, "{:?}", arrivals.get("/gated"));
}

/// Waits until no delivery is pending, so that every repeat has arrived.
async fn wait_until_settled(worker: &Standalone) {
    let url = format!("http://{}/v1/namespaces/default/deliveries?state=pending", worker.api);
    eventually(DEADLINE, "all deliveries to be settled", async || {
        let (status, list): (u16, Value) = answer(worker.client.get(&url)).await;
        match list["items"].as_array() {
            Some(items) if items.is_empty() => Ok(()),
            _ => Err(format!("{status} {list}")),
        }
    })
    .await;
}

/// Returns how many of the requests that arrived at these times were answered at the same time.
fn highest_overlap(mut times: Vec<Instant>) -> usize {
    times.sort();
    let (mut first, mut highest) = (0, 0);
    for (last, time) in times.iter().enumerate() {
        while times[first] + ANSWER <= *time {
            first += 1;
        }
        highest = highest.max(last + 1 - first);
    }
    highest
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_and_the_server_die_and_nothing_is_lost() {
    check(3, seed()).await;
}

/// `SOAK_CYCLES`, 50 by default.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half an hour: make soak"]
async fn soak_workers_and_the_server_die_and_nothing_is_lost() {
    let cycles = number("SOAK_CYCLES").and_then(|cycles| usize::try_from(cycles).ok());
    check(cycles.unwrap_or(50), seed()).await;
}

/// Each worker is replaced by a new one, as a Deployment does: the new one is ready before senders leave the old one, which then
/// stops. No publish is refused, and everything is delivered once.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_refuses_no_event() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let manifests: String = (0..20).map(|n| hook(&format!("h{n}"), &receiver.url(), quick())).collect();
    let database = shared().new_database();
    let args = ["--store-url", &database, "--allow-unsafe-commits"];
    let first = Standalone::start(&manifests, &args).await;
    let data = first.data.clone();
    let mut workers = [first, start_on_copy(&manifests, &args, &data).await];

    let urls = Arc::new(Mutex::new(workers.iter().map(|worker| worker.url(EVENTS)).collect::<Vec<_>>()));
    let stop = Arc::new(AtomicBool::new(false));
    let durations = Arc::new(Mutex::new(Vec::new()));
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..4 {
        let (urls, stop, durations) = (urls.clone(), stop.clone(), durations.clone());
        senders.spawn(async move {
            let client = reqwest::Client::new();
            for n in 0.. {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let url = {
                    let urls = urls.lock().unwrap();
                    urls[n % urls.len()].clone()
                };
                let started = Instant::now();
                let (status, answer) = answer(client.post(url).json(&event(&format!("{sender}-{n}")))).await;
                assert_eq!(status, 202, "{answer}");
                durations.lock().unwrap().push(started.elapsed());
            }
        });
    }
    let progress = async |more: usize| {
        let before = durations.lock().unwrap().len();
        eventually(DEADLINE, "events to be accepted", async || match durations.lock().unwrap().len() {
            now if now >= before + more => Ok(()),
            now => Err(format!("{} of {more}", now - before)),
        })
        .await;
    };
    for (number, worker) in workers.iter_mut().enumerate() {
        progress(50).await;
        let new = start_on_copy(&manifests, &args, &data).await;
        urls.lock().unwrap()[number] = new.url(EVENTS);
        // Requests that are on their way to the old one, as those of a load balancer.
        progress(50).await;
        let old = std::mem::replace(worker, new);
        old.process().terminate().await;
    }
    progress(50).await;
    stop.store(true, Ordering::SeqCst);
    while let Some(ended) = senders.join_next().await {
        ended.expect("a sender");
    }
    wait_until_settled(&workers[0]).await;
    let mut durations = durations.lock().unwrap().clone();
    durations.sort();
    println!("{} events, p99 of an accept {:?}", durations.len(), durations[durations.len() * 99 / 100]);
    let requests = receiver.requests();
    let ids: BTreeSet<&str> = requests.iter().map(|request| request.header("webhook-id")).collect();
    assert_eq!(ids.len(), durations.len() * 20, "each hook has each event");
    assert_eq!(requests.len(), ids.len(), "nothing is sent twice");
}

/// Starts a further worker with the keys of another one.
async fn start_on_copy(manifests: &str, args: &[&str], data: &Path) -> Standalone {
    let mut worker = Standalone::prepare(manifests, args);
    copy_folder(data, &worker.data);
    worker.restart().await;
    worker
}
