//! Durability: an event that was answered with 202 is delivered, however often the process is killed; a sender can repeat a
//! request that was cut off.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::harness::http::answer;
use crate::harness::manifests::{event, hook, merge, quick};
use crate::harness::metrics::{DEAD, FINISHED};
use crate::harness::standalone::{EVENTS, Standalone};
use crate::harness::{DEADLINE, Kong, Receiver, Reply, eventually, number, seed};

/// The receiver's record of one event.
#[derive(Default)]
struct EventRecord {
    webhook_ids: HashSet<String>,
    attempts: usize,
    delivered: usize,
}

type Ledger = Arc<Mutex<HashMap<String, EventRecord>>>;

/// Starts a receiver that fails about every fourth request, by the random numbers of `seed`.
fn start_receiver(seed: u64) -> (Receiver, Ledger) {
    let ledger = Ledger::default();
    let (shared_ledger, random) = (ledger.clone(), Mutex::new(fastrand::Rng::with_seed(seed)));
    let receiver = Receiver::start(move |request, _| {
        let id = request.json()["id"].as_str().expect("an event's id").to_owned();
        let (fails, delay) = {
            let mut random = random.lock().unwrap();
            (random.u8(0..4) == 0, Duration::from_millis(random.u64(0..15)))
        };
        let mut ledger = shared_ledger.lock().unwrap();
        let record = ledger.entry(id).or_default();
        record.webhook_ids.insert(request.header("webhook-id").to_owned());
        record.attempts += 1;
        record.delivered += usize::from(!fails);
        Reply::After(delay, Reply::status(if fails { 503 } else { 200 }).into())
    });
    (receiver, ledger)
}

/// The sent events: accepted ids, and the bodies of requests without an answer.
#[derive(Default)]
struct Sent {
    accepted: Vec<String>,
    cut_off: Vec<(String, Value)>,
}

/// A destination of a sender: the API, or a relay with Kong's signature.
#[derive(Clone)]
struct Target {
    client: reqwest::Client,
    url: String,
    secret: Option<String>,
}

impl Target {
    async fn send(&self, body: &Value) -> Result<u16, String> {
        let text = body.to_string();
        let mut request = self.client.post(&self.url).header("content-type", "application/json");
        if let Some(secret) = &self.secret {
            let signature = hookstream::core::sign::kong_signature(
                secret.as_bytes(),
                hookstream::api::SignatureAlgorithm::SHA256,
                hookstream::api::SignatureEncoding::PrefixedHex,
                text.as_bytes(),
            );
            request = request.header("x-kong-signature", signature);
        }
        let response = request.body(text).send().await.map_err(|e| e.to_string())?;
        Ok(response.status().as_u16())
    }

    /// Sends events one after another until a request gets no answer.
    async fn send_until_cut_off(self, prefix: String, sent: Arc<Mutex<Sent>>) {
        for number in 0.. {
            let id = format!("{prefix}-{number}");
            let body = match self.secret {
                None => event(&id),
                Some(_) => json!({"source": "crud", "event": "consumers", "id": id}),
            };
            match self.send(&body).await {
                Ok(202) => sent.lock().unwrap().accepted.push(id),
                Ok(status) => panic!("{id} was answered {status}"),
                Err(_) => return sent.lock().unwrap().cut_off.push((id, body)),
            }
        }
    }
}

async fn kill_cycles(cycles: usize, seed: u64) {
    println!("{cycles} cycles");
    let mut random = fastrand::Rng::with_seed(seed);
    let (receiver, ledger) = start_receiver(seed);
    let kong = Kong::start(&[]).await;
    let mut spec = quick();
    merge(&mut spec, json!({"delivery": {"concurrency": 32}}));
    let mut relayed = spec.clone();
    merge(&mut relayed, json!({"source": "crud", "event": "consumers", "connectionRef": {"name": "kong"}}));
    let url = receiver.url();
    let manifests = kong.connection() + &hook("published", &url, spec) + &hook("relayed", &url, relayed);
    // The deduplication window is longer than a slow restart, so that a repeated relay is recognized.
    let mut standalone = Standalone::start(&manifests, &["--relay-dedup-window", "1h"]).await;
    let hooks = kong.wait_for_hooks(1).await;
    let secret = hooks[0]["config"]["secret"].as_str().expect("the relay's secret").to_owned();
    let relay_url = hooks[0]["config"]["url"].as_str().expect("the relay's address").to_owned();

    let mut accepted: Vec<String> = Vec::new();
    let (mut emitted, mut resent) = (0, 0);
    for cycle in 0..cycles {
        let sent = Arc::new(Mutex::new(Sent::default()));
        let mut senders = tokio::task::JoinSet::new();
        for number in 0..8 {
            let is_relay = number >= 6;
            let target = Target {
                client: crate::harness::http::client(),
                url: if is_relay { relay_url.clone() } else { standalone.url(EVENTS) },
                secret: is_relay.then(|| secret.clone()),
            };
            senders.spawn(target.send_until_cut_off(format!("{cycle}-{number}"), sent.clone()));
        }
        // Kong's own relay: after a closed connection Kong sends it again.
        for _ in 0..3 {
            let id = format!("emitted-{emitted}");
            assert_eq!(kong.emit("crud", "consumers", json!({"id": id})).await, 1);
            accepted.push(id);
            emitted += 1;
        }
        // The crash must happen at a random moment; the sleep does not wait for an event.
        tokio::time::sleep(Duration::from_millis(random.u64(20..450))).await;
        standalone.process().kill9();
        while senders.join_next().await.transpose().expect("a sender that does not panic").is_some() {}
        standalone.restart().await;
        if random.u8(0..4) == 0 {
            // A second kill while the process reads its backlog.
            tokio::time::sleep(Duration::from_millis(random.u64(0..60))).await;
            standalone.process().kill9();
            standalone.restart().await;
        }
        let sent = std::mem::take(&mut *sent.lock().unwrap());
        accepted.extend(sent.accepted);
        for (id, body) in sent.cut_off {
            let is_relay = body["source"] == "crud";
            let target = Target {
                client: standalone.client.clone(),
                url: if is_relay { relay_url.clone() } else { standalone.url(EVENTS) },
                secret: is_relay.then(|| secret.clone()),
            };
            assert_eq!(target.send(&body).await, Ok(202), "{id}, repeated");
            accepted.push(id);
            resent += 1;
        }
    }

    let started = Instant::now();
    eventually(Duration::from_secs(60), "every accepted event to be delivered", async || {
        let ledger = ledger.lock().unwrap();
        let missing: Vec<&String> =
            accepted.iter().filter(|id| ledger.get(*id).is_none_or(|record| record.delivered == 0)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!("{} of {} are missing, such as {:?}", missing.len(), accepted.len(), missing[0]))
    })
    .await;
    assert_eq!(standalone.count(FINISHED, &[DEAD]).await, 0);
    let ledger = ledger.lock().unwrap();
    for (id, record) in ledger.iter() {
        assert_eq!(record.webhook_ids.len(), 1, "{id} has several webhook-ids: {:?}", record.webhook_ids);
    }
    let repeated = ledger.values().filter(|record| record.delivered > 1).count();
    println!(
        "{} accepted ({emitted} emitted by Kong, {resent} sent again), all delivered, {} attempts, {repeated} delivered more \
         than once under one webhook-id; the last one {:?} after the last crash",
        accepted.len(),
        ledger.values().map(|record| record.attempts).sum::<usize>(),
        started.elapsed(),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn delivers_everything_through_30_kills() {
    kill_cycles(30, seed()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make soak"]
async fn soak_durability() {
    let cycles = usize::try_from(number("SOAK_CYCLES").unwrap_or(200)).expect("cycles");
    kill_cycles(cycles, seed()).await;
}

/// A sender that hangs up does not know whether its event was accepted. Its repeated request must be delivered, without a
/// restart of the worker.
#[tokio::test(flavor = "multi_thread")]
async fn sender_that_hung_up_can_retry() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let mut spec = quick();
    merge(&mut spec, json!({"delivery": {"concurrency": 64}}));
    let standalone = Standalone::start(&hook("h", &receiver.url(), spec), &[]).await;
    let ids: Vec<String> = (0..400).map(|number| format!("hung-up-{number}")).collect();
    let mut random = fastrand::Rng::with_seed(seed());
    let mut senders = tokio::task::JoinSet::new();
    for id in ids.clone() {
        let pause = Duration::from_micros(random.u64(0..4000));
        let listen = standalone.listen.clone();
        senders.spawn(async move {
            let body = event(&id).to_string();
            let head = format!(
                "POST {EVENTS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let mut socket = tokio::net::TcpStream::connect(listen).await.expect("a connection");
            socket.write_all(format!("{head}{body}").as_bytes()).await.expect("sending");
            // Hangs up before, during or after the commit.
            tokio::time::sleep(pause).await;
        });
    }
    while senders.join_next().await.transpose().expect("a sender").is_some() {}
    for id in &ids {
        let request = standalone.client.post(standalone.url(EVENTS)).json(&event(id));
        let (status, body) = answer(request).await;
        assert_eq!(status, 202, "{id}: {body}");
    }
    eventually(DEADLINE, "every event to be delivered", async || {
        let delivered: HashSet<String> =
            receiver.requests().iter().map(|r| r.json()["id"].as_str().expect("an id").to_owned()).collect();
        let missing: Vec<_> = ids.iter().filter(|id| !delivered.contains(*id)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{} are missing: {missing:?}", missing.len())) }
    })
    .await;
}
