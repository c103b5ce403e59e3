//! Several standalones without a data folder, with the same manifests and one database, act as one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::run;
use crate::harness::http::answer;
use crate::harness::manifests::{event, hook, merge, quick};
use crate::harness::postgres::shared;
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Kong, Receiver, Reply, eventually};

/// The server of the tests does not sync.
const UNSAFE: &str = "--allow-unsafe-commits";

/// The address that Kong knows, in front of several processes.
struct LoadBalancer {
    url: String,
    state: Arc<Mutex<Routing>>,
}

#[derive(Default)]
struct Routing {
    target: String,
    connections: JoinSet<()>,
}

impl LoadBalancer {
    async fn start() -> LoadBalancer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let state = Arc::<Mutex<Routing>>::default();
        let routing = state.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut routing = routing.lock().unwrap();
                let target = routing.target.clone();
                routing.connections.spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(target).await {
                        tokio::io::copy_bidirectional(&mut client, &mut server).await.ok();
                    }
                });
            }
        });
        LoadBalancer { url, state }
    }

    /// Leads to this process from now on. Connections to others end.
    fn lead_to(&self, process: &Standalone) {
        let mut state = self.state.lock().unwrap();
        state.target.clone_from(&process.listen);
        state.connections.abort_all();
    }
}

fn relayed(name: &str, url: &str, event: &str) -> String {
    let mut spec = quick();
    merge(&mut spec, json!({"source": "crud", "event": event, "connectionRef": {"name": "kong"}}));
    hook(name, url, spec)
}

async fn wait_until_leading(process: &Standalone) {
    process.process().wait_for_line(|line| line.contains("this process leads"), DEADLINE).await;
}

/// Returns the number of requests that change something at Kong.
async fn count_writes(kong: &Kong) -> usize {
    let mut all = 0;
    for method in ["PUT", "POST", "PATCH", "DELETE"] {
        all += kong.count(method, "").await;
    }
    all
}

/// Waits until the leader has reconciled both objects since its start.
async fn wait_for_reconciles(process: &Standalone) {
    eventually(DEADLINE, "reconciles of the connection and the hook", async || {
        let mut all = Vec::new();
        for kind in ["Connection", "EventHook"] {
            let kind = format!(r#"kind="{kind}""#);
            all.push(process.count("hookstream_reconciles", &[&kind, r#"outcome="Applied""#]).await);
        }
        if all.iter().all(|n| *n > 0) { Ok(()) } else { Err(format!("{all:?}")) }
    })
    .await;
}

/// Returns what a process says of the objects.
async fn status(process: &Standalone) -> Value {
    let url = format!("http://{}", process.api);
    let (_, out, error) = run(&["status", "--url", &url, "-o", "json"]).await;
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {error}"));
    json!([report["healthy"], report["worker"]["connections"], report["worker"]["notReady"]])
}

#[tokio::test(flavor = "multi_thread")]
async fn two_standalones_without_data_act_as_one() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let kong = Kong::start(&[]).await;
    let balancer = LoadBalancer::start().await;
    let database = shared().new_database();
    let args = ["--store-url", &database, UNSAFE, "--ingest-url", &balancer.url];
    let manifests = kong.connection()
        + &relayed("relayed", &format!("{}/relayed", receiver.url()), "consumers")
        + &hook("plain", &receiver.url(), quick());
    let one = Standalone::start_without_data(&manifests, &args).await;
    balancer.lead_to(&one);
    let other = Standalone::start_without_data(&manifests, &args).await;
    wait_until_leading(&one).await;
    other.process().wait_for_line(|line| line.contains("another process leads"), DEADLINE).await;
    let hooks = kong.wait_for_hooks(1).await;
    wait_for_reconciles(&one).await;
    // Neither says that there is no election.
    for (process, expected) in [(&one, "leads"), (&other, "unknown")] {
        eventually(DEADLINE, "the leader", async || {
            let url = format!("http://{}/v1/status", process.api);
            let (_, status) = answer(process.client.get(&url)).await;
            if status["leader"]["state"] == expected { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    }

    // The follower sees what the leader wrote.
    eventually(DEADLINE, "the same status of both", async || {
        let (one, other) = (status(&one).await, status(&other).await);
        let is_good = one[0] == true && one == other && one[1]["items"] != json!([]);
        if is_good { Ok(()) } else { Err(format!("{one:#} {other:#}")) }
    })
    .await;

    one.publish_accepted(&event("1")).await;
    other.publish_accepted(&event("2")).await;
    // Either verifies what Kong signs.
    for (process, expected) in [(&one, 1), (&other, 2)] {
        balancer.lead_to(process);
        assert_eq!(kong.emit("crud", "consumers", json!({"id": expected})).await, 1);
        eventually(DEADLINE, "a relayed event", async || {
            let relayed = receiver.requests().iter().filter(|r| r.path == "/relayed").count();
            if relayed == expected { Ok(()) } else { Err(relayed.to_string()) }
        })
        .await;
    }
    receiver.wait_for(4, DEADLINE).await;
    let url = format!("http://{}/v1/namespaces/default/deliveries?state=pending", other.api);
    eventually(DEADLINE, "all deliveries to be settled", async || {
        let (_, list) = answer(other.client.get(&url)).await;
        if list["items"] == json!([]) { Ok(()) } else { Err(list.to_string()) }
    })
    .await;
    let requests = receiver.requests();
    let ids: BTreeSet<&str> = requests.iter().map(|r| r.header("webhook-id")).collect();
    assert_eq!((requests.len(), ids.len()), (4, 4), "each is delivered once");
    assert_eq!(kong.hooks().await, hooks);
    assert_eq!(count_writes(&kong).await, 1, "the hook is written once");
    assert!(!other.process().log().contains("this process leads"), "{}", other.process().log());
    assert!(!one.data.exists() && !other.data.exists());

    // A key that is added in the database is used by both.
    let name = database.rsplit('/').next().expect("a name");
    let sql = "INSERT INTO hookstream.key_ring VALUES ('k9999999999999', sha256('key'))";
    shared().sql(name, sql).expect("SQL");
    for process in [&one, &other] {
        let is_changed = |line: &str| line.contains("key ring changed") && line.contains("k9999999999999");
        process.process().wait_for_line(is_changed, DEADLINE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_standalone_leads_after_a_crash_and_after_a_stop() {
    let kong = Kong::start(&[]).await;
    let database = shared().new_database();
    let args = ["--store-url", &database, UNSAFE, "--ingest-url", "http://127.0.0.1:1"];
    let manifests = |event: &str| kong.connection() + &relayed("relayed", "http://127.0.0.1:1", event);
    let mut one = Standalone::start_without_data(&manifests("consumers"), &args).await;
    wait_until_leading(&one).await;
    let mut other = Standalone::start_without_data(&manifests("consumers"), &args).await;
    let first = kong.only_hook().await;
    wait_for_reconciles(&one).await;

    one.process().kill9();
    let killed = Instant::now();
    for process in [&one, &other] {
        process.write("all.yaml", &manifests("routes"));
    }
    wait_until_leading(&other).await;
    println!("another process leads {:?} after the crash", killed.elapsed());
    let hooks =
        kong.until_hooks("the changed hook", |hooks| hooks.iter().any(|h| h["event"] == "routes")).await;
    assert_eq!(hooks.len(), 1, "{hooks:#?}");
    assert_eq!(hooks[0]["id"], first["id"]);
    wait_for_reconciles(&other).await;

    // The leader stops in order: the next one does not wait for the end of the lease.
    one.restart().await;
    one.process().wait_for_line(|line| line.contains("another process leads"), DEADLINE).await;
    let writes = count_writes(&kong).await;
    assert_eq!(other.process().terminate().await.code(), Some(0));
    assert!(other.process().log().contains("lease of the controller released"), "{}", other.process().log());
    wait_until_leading(&one).await;
    wait_for_reconciles(&one).await;

    // Both again: the database has the key ring and what Kong was last configured with.
    assert_eq!(one.process().terminate().await.code(), Some(0));
    other.restart().await;
    wait_until_leading(&other).await;
    wait_for_reconciles(&other).await;
    assert_eq!(kong.hooks().await, hooks);
    assert_eq!(count_writes(&kong).await, writes, "nothing has changed, so nothing is written");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_leader_decides_what_was_removed() {
    let kong = Kong::start(&[]).await;
    let database = shared().new_database();
    let args = ["--store-url", &database, UNSAFE, "--prune", "--ingest-url", "http://127.0.0.1:1"];
    let kept = kong.connection() + &relayed("kept", "http://127.0.0.1:1", "consumers");
    let leader = Standalone::start_without_data(&kept, &args).await;
    leader.write("second.yaml", &relayed("second", "http://127.0.0.1:1", "routes"));
    wait_until_leading(&leader).await;
    let hooks = kong.wait_for_hooks(2).await;
    // Its files are older.
    let older = Standalone::start_without_data(&kept, &args).await;
    older.process().wait_for_line(|line| line.contains("object removed from the manifests"), DEADLINE).await;
    // Once a later change has reached Kong, the leader has seen what the other process did.
    leader.write("third.yaml", &relayed("third", "http://127.0.0.1:1", "services"));
    let now = kong.wait_for_hooks(3).await;
    assert!(
        hooks.iter().all(|hook| now.contains(hook)),
        "a process that does not lead removes nothing: {now:#?}"
    );
    std::fs::remove_file(leader.manifests.join("second.yaml")).expect("its manifest");
    kong.wait_for_hooks(2).await;
}

/// A leader that was stopped for longer than its lease finds another one, and writes nothing with what it knew before.
#[tokio::test(flavor = "multi_thread")]
async fn leader_that_was_stopped_stands_by_when_it_continues() {
    let kong = Kong::start(&[]).await;
    let database = shared().new_database();
    let args = ["--store-url", &database, UNSAFE, "--ingest-url", "http://127.0.0.1:1"];
    let manifests = |event: &str| kong.connection() + &relayed("relayed", "http://127.0.0.1:1", event);
    let one = Standalone::start_without_data(&manifests("consumers"), &args).await;
    wait_until_leading(&one).await;
    let other = Standalone::start_without_data(&manifests("consumers"), &args).await;
    kong.only_hook().await;
    wait_for_reconciles(&one).await;
    signal(&one, "-STOP");
    wait_until_leading(&other).await;
    other.write("all.yaml", &manifests("routes"));
    let hooks =
        kong.until_hooks("the changed hook", |hooks| hooks.iter().any(|h| h["event"] == "routes")).await;
    wait_for_reconciles(&other).await;
    signal(&one, "-CONT");
    one.process().wait_for_line(|line| line.contains("another process leads"), DEADLINE).await;
    eventually(DEADLINE, "the former leader to follow", async || {
        let metrics = one.metrics().await;
        let line = metrics.lines().find(|line| line.starts_with("hookstream_leader ")).unwrap_or_default();
        if line == "hookstream_leader 0" { Ok(()) } else { Err(line.to_owned()) }
    })
    .await;
    assert_eq!(kong.hooks().await, hooks);
}

fn signal(process: &Standalone, name: &str) {
    let pid = process.process().pid().to_string();
    let status = std::process::Command::new("kill").args([name, &pid]).status().expect("kill");
    assert!(status.success());
}
