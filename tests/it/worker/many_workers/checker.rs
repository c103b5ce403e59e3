//! A checker in the manner of Jepsen: several workers on a PostgreSQL server with a synchronous standby. Senders publish to
//! all of them while workers and servers are killed, paused and replaced. One worker's clock is two minutes off, and one worker
//! is connected through PgBouncer. Then the records of the senders and of the receiver are compared.
//!
//! Nothing accepted is lost; an event has one delivery for each hook, however often its sender repeated it; only what was in
//! flight is sent twice; a gate decides as one process would; and a hook's concurrency is exceeded at most by what a former
//! owner had in flight.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use super::super::clock_jumps::WallClock;
use super::record::{Record, recorded};
use super::servers::Servers;
use super::{prepare_on_copy, signal, wait_until_settled};
use crate::harness::manifests::{hook, merge, quick};
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
/// Shorter than the lease of a worker.
const REFUSAL: Duration = Duration::from_secs(3);
/// By how many seconds one worker's clock is off.
const CLOCK_OFFSET: i64 = 120;
/// A worker attempts what it has in memory for as long as its lease lasts, and keeps the outcomes. After a longer outage, another
/// worker may own the deliveries.
const LONG_OUTAGE: Duration = Duration::from_secs(5);
/// Events that may be in memory when an outage begins: senders need answers, so there are few.
const IN_MEMORY: usize = 200;
/// The outcome of an attempt that arrived earlier is recorded when an outage begins: the workers record them in groups, one after
/// the other, and the receiver answers after `ANSWER`.
const UNRECORDED: Duration = Duration::from_secs(1);

/// What the receiver saw of one event: the arrivals by `webhook-id`.
type Arrivals = HashMap<String, BTreeMap<String, Vec<Instant>>>;

/// What happens to the processes in a cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// `kill -9` of a worker, which starts again.
    KillWorker,
    /// Commits of which the standby knows nothing, and then its promotion.
    LoseCommits,
    /// A worker is stopped for longer than its lease, and goes on.
    PauseWorker,
    /// `kill -9` of the server, which starts again.
    KillServer,
    /// A worker stops in order and starts again.
    RestartWorker,
    /// `kill -9` of the server, and its standby takes its place.
    FailOver,
    /// Nothing listens on the server's port for a while.
    RefuseConnections,
}

/// The first three are those of `make test`.
const FAULTS: [Fault; 7] = [
    Fault::KillWorker,
    Fault::LoseCommits,
    Fault::PauseWorker,
    Fault::KillServer,
    Fault::RestartWorker,
    Fault::FailOver,
    Fault::RefuseConnections,
];

impl Fault {
    /// True if attempts of a process may go on that another one cannot know.
    fn replaces_an_owner(self) -> bool {
        matches!(self, Fault::KillWorker | Fault::PauseWorker | Fault::LoseCommits | Fault::FailOver)
    }
}

/// Three workers with the same manifests, keys and database. The clock of the second one is off, and the third one uses
/// PgBouncer.
async fn start_workers(servers: &Servers, clock: &WallClock, manifests: &str) -> Vec<Standalone> {
    let (direct, pooled) = (servers.url(), servers.pooled_url());
    let mut workers = vec![Standalone::start(manifests, &["--store-url", &direct]).await];
    for url in [&direct, &pooled] {
        workers.push(prepare_on_copy(manifests, &["--store-url", url], &workers[0].data));
    }
    clock.wrap(&mut workers[1]);
    for worker in &mut workers[1..] {
        worker.restart().await;
    }
    let line = |line: &str| line.contains("following the database's");
    workers[1].process().wait_for_line(line, DEADLINE).await;
    workers
}

/// What the senders have done.
#[derive(Default)]
struct Accepted {
    ids: Mutex<BTreeSet<String>>,
    /// The first answer that no sender expects.
    failure: Mutex<Option<String>>,
}

/// Publishes events until `stop`, each until a worker accepts it.
async fn publish(
    sender: usize,
    urls: Vec<String>,
    accepted: Arc<Accepted>,
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
        let data = json!({"id": id, "group": n % GROUPS, "one": "for all"});
        let body = json!({"id": id, "source": "s", "event": "e", "data": data});
        loop {
            let url = &urls[random.usize(0..urls.len())];
            match client.post(url).json(&body).send().await {
                Ok(response) if response.status() == 202 => break,
                Ok(response) if response.status().is_server_error() => {}
                Ok(response) => {
                    let status = response.status();
                    let body = response.text().await.unwrap_or_default();
                    let failure = format!("{id} was answered {status} by {url}: {body}");
                    accepted.failure.lock().unwrap().get_or_insert(failure);
                    return;
                }
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        accepted.ids.lock().unwrap().insert(id);
        tokio::time::sleep(Duration::from_millis(random.u64(0..20))).await;
    }
}

/// Waits until the senders had `more` further events accepted.
async fn wait_for_progress(accepted: &Accepted, more: usize) {
    let before = accepted.ids.lock().unwrap().len();
    eventually(DEADLINE, "events to be accepted", async || {
        let failure = accepted.failure.lock().unwrap().clone();
        assert_eq!(failure, None);
        let now = accepted.ids.lock().unwrap().len();
        if now >= before + more { Ok(()) } else { Err(format!("{} of {more}", now - before)) }
    })
    .await;
}

async fn check(cycles: usize, seed: u64) {
    recorded(&format!("checker-{seed}"), async |record| check_recorded(cycles, seed, record).await).await;
}

async fn check_recorded(cycles: usize, seed: u64, record: &Record) {
    record.note(&format!("{cycles} cycles, seed {seed}"));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut servers = Servers::start().await;
    let clock = WallClock::compile();
    clock.shift_seconds(if random.bool() { CLOCK_OFFSET } else { -CLOCK_OFFSET });
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
    let mut hot = spec.clone();
    merge(&mut hot, json!({"groupBy": ["one"], "snooze": {"period": "24h", "trailing": "None"}}));
    let url = |path: &str| format!("{}{path}", receiver.url());
    let manifests = hook("all", &url("/all"), spec.clone())
        + &hook("more", &url("/more"), spec)
        + &hook("gated", &url("/gated"), gated)
        + &hook("hot", &url("/hot"), hot);
    let mut workers = start_workers(&servers, &clock, &manifests).await;

    let (accepted, stop) = (Arc::<Accepted>::default(), Arc::new(AtomicBool::new(false)));
    let urls: Vec<String> = workers.iter().map(|worker| worker.url(EVENTS)).collect();
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..4 {
        senders.spawn(publish(sender, urls.clone(), accepted.clone(), stop.clone(), seed));
    }
    // Deliveries of each hook that may be repeated, and its concurrency.
    let (mut in_flight, mut allowed) = (0, CONCURRENCY);
    let mut outages = Vec::new();
    for cycle in 0..cycles {
        wait_for_progress(&accepted, 50).await;
        let (fault, number) = (FAULTS[cycle % FAULTS.len()], random.usize(0..WORKERS));
        record.note(&format!("cycle {cycle}: {fault:?} {number}"));
        let started = Instant::now();
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
            Fault::KillServer => servers.crash().await,
            Fault::LoseCommits => servers.lose_commits_and_fail_over().await,
            Fault::FailOver => servers.fail_over().await,
            Fault::RefuseConnections => servers.refuse_connections(REFUSAL).await,
            Fault::RestartWorker => {
                workers[number].process().terminate().await;
                workers[number].restart().await;
            }
        }
        // Each hook may have had this many deliveries in flight at the process that was interrupted.
        in_flight += CONCURRENCY;
        let is_of_server = !matches!(fault, Fault::KillWorker | Fault::PauseWorker | Fault::RestartWorker);
        if is_of_server && started.elapsed() > LONG_OUTAGE {
            outages.push((started, Instant::now()));
        }
        if fault.replaces_an_owner() {
            // Within the time of an attempt, one owner is replaced.
            allowed = 2 * CONCURRENCY;
        }
    }
    wait_for_progress(&accepted, 50).await;
    stop.store(true, Ordering::SeqCst);
    while let Some(ended) = senders.join_next().await {
        ended.expect("a sender");
    }
    let accepted = accepted.ids.lock().unwrap().clone();
    record.note("the senders have stopped");
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
    record.note(&format!("{} events", accepted.len()));
    for (path, of_hook) in arrivals.iter() {
        let mut repeats = 0;
        for (id, deliveries) in of_hook {
            assert_eq!(deliveries.len(), 1, "{id} has several deliveries at {path}: {deliveries:?}");
            repeats += deliveries.values().map(|arrived| arrived.len() - 1).sum::<usize>();
        }
        let times: Vec<Instant> = of_hook.values().flat_map(BTreeMap::values).flatten().copied().collect();
        // In a long outage, the outcomes of these attempts may not be recorded before another worker owns the hook.
        let unrecorded = |(start, end): &(Instant, Instant)| {
            times.iter().filter(|time| **time + UNRECORDED >= *start && *time <= end).count().min(IN_MEMORY)
        };
        let may_repeat = in_flight + outages.iter().map(unrecorded).sum::<usize>();
        let concurrent = highest_overlap(times);
        record.note(&format!(
            "{path}: {} deliveries, {repeats} repeats of at most {may_repeat}, up to {concurrent} at a time",
            of_hook.len()
        ));
        assert!(repeats <= may_repeat, "{repeats} repeats at {path}, of at most {may_repeat}");
        assert!(concurrent <= allowed, "{concurrent} at a time at {path}");
    }
    // One delivery of each group, whichever worker asked the gate first.
    for (path, groups) in [("/gated", GROUPS), ("/hot", 1)] {
        assert_eq!(arrivals.get(path).map_or(0, HashMap::len), groups, "{path}: {:?}", arrivals.get(path));
    }
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
async fn workers_and_servers_die_and_nothing_is_lost() {
    check(3, seed()).await;
}

/// `SOAK_CYCLES`, 50 by default.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half an hour: make soak"]
async fn soak_workers_and_servers_die_and_nothing_is_lost() {
    let cycles = number("SOAK_CYCLES").and_then(|cycles| usize::try_from(cycles).ok());
    check(cycles.unwrap_or(50), seed()).await;
}
