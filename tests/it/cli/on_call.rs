//! The commands of an engineer on call, against the worker of a cluster: a real API server decides about each request.

use std::time::Instant;

use serde_json::{Value, json};

use super::run;
use crate::harness::http::{answer, http};
use crate::harness::world::World;
use crate::harness::{DEADLINE, eventually, watchdog};

const DELIVERIES: usize = 10_000;
const BATCH: usize = 1000;
/// Deliveries a second of the mistaken replay.
const RATE: u64 = 1000;
const READ: &str = "{apiGroups: [hookstream.dev], resources: [deliveries], verbs: [list, get]}";
const CHANGE: &str = "{apiGroups: [hookstream.dev], resources: [deliveries/replay, deliveries/cancel, events], verbs: [create]}";

/// A user of the worker's API port.
struct User {
    namespace: String,
    api: String,
    token: String,
    token_file: String,
}

impl User {
    async fn create(world: &World, name: &str, rules: &str) -> User {
        world.namespace.service_account(name, rules).await;
        let token = world.namespace.token(name, &["hookstream"]).await;
        let file = watchdog::unique_path("token");
        std::fs::write(&file, &token).unwrap();
        let api = eventually(DEADLINE, "the address of the API port", async || {
            let log = world.log();
            let line = log.lines().find(|line| line.contains("api listening")).ok_or_else(|| log.clone())?;
            let line: Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
            Ok(format!("http://{}", line["address"].as_str().unwrap()))
        })
        .await;
        let (namespace, token_file) = (world.namespace.name.clone(), file.display().to_string());
        User { namespace, api, token, token_file }
    }

    /// Runs a command that calls the worker. Returns the exit code, standard output and standard error.
    async fn run(&self, args: &[&str]) -> (i32, String, String) {
        let target = ["-n", &self.namespace, "--url", &self.api, "--token-file", &self.token_file];
        run(&[args, &target].concat()).await
    }

    /// Runs a command that must succeed. Returns its standard output.
    async fn expect(&self, args: &[&str]) -> String {
        let (code, out, error) = self.run(args).await;
        assert_eq!(code, 0, "{args:?}: {out}{error}");
        out
    }

    /// Publishes one event of the source `bulk`. Returns the worker's answer.
    async fn publish_one(&self, world: &World, id: &str) -> Value {
        let url = format!("{}/v1/namespaces/{}/events", world.ingest, self.namespace);
        let event = json!({"id": id, "source": "bulk", "event": "e", "data": {}});
        answer(http().post(url).bearer_auth(&self.token).json(&event)).await.1
    }

    /// Publishes `DELIVERIES` events of the source `bulk`, each of which matches one hook.
    async fn publish(&self, world: &World) {
        // The worker may register the hook after the controller reports it as ready.
        let mut tries = 0;
        eventually(DEADLINE, "the hook to match", async || {
            tries += 1;
            let accepted = self.publish_one(world, &format!("first-{tries}")).await;
            if accepted["deliveries"] == 1 { Ok(()) } else { Err(accepted.to_string()) }
        })
        .await;
        let url = format!("{}/v1/namespaces/{}/events", world.ingest, self.namespace);
        for batch in 0..DELIVERIES / BATCH {
            let event = |n: usize| json!({"specversion": "1.0", "id": format!("{batch}-{n}"), "source": "bulk", "type": "e", "data": {}});
            let events: Vec<_> = (usize::from(batch == 0)..BATCH).map(event).collect();
            let request = http().post(&url).bearer_auth(&self.token).body(json!(events).to_string());
            let request = request.header("content-type", "application/cloudevents-batch+json");
            let (status, body) = answer(request).await;
            assert_eq!(status, 202, "{body}");
        }
    }
}

/// The developer knows the source of the event and when it happened.
#[tokio::test(flavor = "multi_thread")]
async fn unmatched_kong_event_is_found_and_explained() {
    let world = World::start("unmatched").await;
    let filter = json!({"filter": "data.operation == \"delete\""});
    world.apply(&[world.connection(), world.hook_with("relayed", filter)]).await;
    world.ready("eventhooks/relayed").await;
    let user = User::create(&world, "reader", &format!("[{READ}]")).await;
    let mut tries = 0;
    // An event of the second in which the hook was created may be older than the hook.
    eventually(DEADLINE, "an explained event", async || {
        tries += 1;
        let data = json!({"entity": {"id": tries.to_string()}, "operation": "create"});
        world.kong.emit("crud", "consumers", data).await;
        let list = ["events", "list", "--source", "crud", "--since", "1h", "-o", "json"];
        let page: Value = serde_json::from_str(&user.expect(&list).await).unwrap();
        let item = &page["items"][0];
        let Some(id) = item["id"].as_str() else { return Err(page.to_string()) };
        assert_eq!(item["outcome"], "unmatched", "{page}");
        let explained = user.expect(&["deliveries", "explain", id]).await;
        if explained.contains("its filter rejects the event") { Ok(()) } else { Err(explained) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mistaken_replay_of_10_000_is_stopped() {
    let world = World::start("on-call").await;
    let paused =
        json!({"source": "bulk", "event": null, "connectionRef": null, "delivery": {"paused": true}});
    world.apply(&[world.hook_with("bulk", paused)]).await;
    world.ready("eventhooks/bulk").await;
    let user = User::create(&world, "on-call", &format!("[{READ}, {CHANGE}]")).await;
    let reader = User::create(&world, "reader", &format!("[{READ}]")).await;
    user.publish(&world).await;
    let cancelled = user.expect(&["deliveries", "cancel", "--hook", "bulk"]).await;
    assert_eq!(cancelled, format!("{DELIVERIES} deliveries cancelled\n"));

    let replay = ["deliveries", "replay", "--hook", "bulk", "--state", "cancelled"];
    let counted = user.expect(&[&replay[..], &["--dry-run"]].concat()).await;
    assert_eq!(counted, format!("{DELIVERIES} deliveries would be replayed\n"));
    user.publish_one(&world, "one-more").await;
    let cancelled = user.expect(&["deliveries", "cancel", "--event", "one-more"]).await;
    assert_eq!(cancelled, "1 delivery cancelled\n");
    let counted = user.expect(&[&replay[..], &["--dry-run"]].concat()).await;
    assert_eq!(counted, format!("more than {DELIVERIES} deliveries would be replayed\n"));
    // The message has the user, the right, the namespace, and the role that has the right.
    let (code, _, error) = reader.run(&replay).await;
    let (name, role) = (&reader.namespace, "the ClusterRole hookstream-deliveries-operator");
    let remedy = format!(
        "system:serviceaccount:{name}:reader needs the right to create deliveries/replay in namespace {name}: bind {role} there"
    );
    assert!(code == 2 && error.contains(&remedy) && error.lines().count() == 1, "{error}");

    let started = user.expect(&[&replay[..], &["--rate", &RATE.to_string()]].concat()).await;
    let id = started.split(' ').nth(1).unwrap();
    let replayed = async || {
        let shown = user.expect(&["replays", "show", id, "-o", "json"]).await;
        serde_json::from_str::<Value>(&shown).unwrap()["replayed"].as_u64().unwrap()
    };
    let before = eventually(DEADLINE, "the first replayed deliveries", async || match replayed().await {
        0 => Err("none".to_owned()),
        count => Ok(count),
    })
    .await;
    let since = Instant::now();
    user.expect(&["replays", "cancel", id]).await;
    // What it put back until the command ended, and one second more.
    let most = before + RATE * (since.elapsed().as_secs() + 2);
    let stopped = replayed().await;
    assert!(stopped <= most && stopped < DELIVERIES as u64, "{before}, then {stopped}");
    let undone = user.expect(&["deliveries", "cancel", "--hook", "bulk"]).await;
    assert_eq!(undone, format!("{stopped} deliveries cancelled\n"));
    assert!(world.receiver.requests().is_empty());
}
