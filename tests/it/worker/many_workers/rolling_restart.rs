//! Workers are replaced while events arrive.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::Semaphore;

use super::{signal, start_on_copy, wait_until_settled};
use crate::harness::http::answer;
use crate::harness::manifests::{event, hook, quick};
use crate::harness::postgres::shared;
use crate::harness::standalone::{EVENTS, Standalone};
use crate::harness::{DEADLINE, Receiver, Reply, eventually};

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
    // Repeats that are right: attempts that a stopping worker did not wait for, on a busy machine.
    let mut aborted = 0;
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
        aborted += aborted_attempts(&old);
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
    let repeats = requests.len() - ids.len();
    assert!(repeats <= aborted, "{repeats} are sent twice, and {aborted} attempts were aborted");
}

/// Returns how many attempts were in flight when the worker no longer waited for them: 0 unless its 10 s were over.
fn aborted_attempts(worker: &Standalone) -> usize {
    let log = worker.process().log();
    let Some(line) = log.lines().find(|line| line.contains("attempts in flight aborted")) else { return 0 };
    let (_, number) = line.split_once("\"attempts\":").expect("their number");
    let digits = number.split(|c: char| !c.is_ascii_digit()).next().expect("a part");
    digits.parse().unwrap_or_else(|_| panic!("{line}"))
}

/// A worker that stops waits for its attempts. Its hooks are sent by the other one meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_worker_does_not_hold_its_hooks_back() {
    for _ in 0..STOPS {
        if stops_beside_another_worker().await {
            return;
        }
    }
    panic!("{STOPS} workers that stopped did not wait until the other one had sent their hooks' deliveries");
}

/// A worker waits 10 s for its attempts. On a busy machine, the other one may need longer for its first deliveries.
const STOPS: usize = 4;

/// Stops one of two workers whose attempts in flight do not end. Returns false if it ended before the other one had sent the next
/// delivery of each hook.
async fn stops_beside_another_worker() -> bool {
    const HOOKS: usize = 20;
    let permits = Arc::new(Semaphore::new(0));
    let holding = permits.clone();
    let receiver = Receiver::start(move |request, _| match request.json()["id"] == "held" {
        true => Reply::AfterPermit(holding.clone(), Reply::status(200).into()),
        false => Reply::status(200),
    });
    let manifests: String = (0..HOOKS).map(|n| hook(&format!("h{n}"), &receiver.url(), quick())).collect();
    let database = shared().new_database();
    let args = ["--store-url", &database, "--allow-unsafe-commits"];
    let stopping = Standalone::start(&manifests, &args).await;
    stopping.publish_accepted(&event("held")).await;
    receiver.wait_for(HOOKS, DEADLINE).await;
    let other = start_on_copy(&manifests, &args, &stopping.data).await;
    signal(stopping.process().pid(), "TERM");
    other.publish_accepted(&event("next")).await;
    receiver.wait_for(2 * HOOKS, DEADLINE).await;
    let is_waiting = stopping.process().ended().is_none();
    permits.add_permits(2 * HOOKS);
    eventually(DEADLINE, "the worker to stop", async || {
        stopping.process().ended().map(drop).ok_or_else(|| "it runs".to_owned())
    })
    .await;
    let aborted = aborted_attempts(&stopping);
    if aborted > 0 {
        println!("not counted: the stopping worker aborted {aborted} attempts");
        return false;
    }
    assert!(is_waiting, "it ended while its attempts were in flight");
    wait_until_settled(&other).await;
    assert_eq!(receiver.requests().len(), 2 * HOOKS, "nothing is sent twice");
    true
}
