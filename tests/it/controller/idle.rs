//! An idle cluster has no writes: neither objects nor Kong are written, however often they are compared.

use serde_json::{Value, json};

use crate::harness::objects::object;
use crate::harness::world::{Setup, World};
use crate::harness::{DEADLINE, eventually, free_port};

/// Returns all custom resources, without fields that the API server itself may change.
async fn objects(world: &World) -> Vec<Value> {
    let base = format!("/apis/hookstream.dev/v1alpha1/namespaces/{}", world.namespace.name);
    let mut all = Vec::new();
    for kind in ["eventhooks", "connections"] {
        let list = world.read(&format!("{base}/{kind}")).await.unwrap();
        all.extend(list["items"].as_array().unwrap().iter().map(|o| o["metadata"].clone()));
    }
    all
}

async fn all_events(world: &World) -> usize {
    let mut count = 0;
    for name in ["kong", "away", "one", "two", "alone", "no-secret", "no-kong"] {
        count += world.events(name).await.len();
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_neither_objects_nor_kong() {
    let world = World::with("idle", Setup { resync: Some("1s"), ..Setup::default() }).await;
    let nowhere = json!({"kong": {"adminUrl": format!("http://127.0.0.1:{}", free_port())}});
    let signature = json!({"secretRef": {"name": "none", "key": "none"}});
    world
        .apply(&[
            world.connection(),
            object("Connection", "away", nowhere),
            world.hook("one"),
            world.hook_with(
                "two",
                json!({"event": null, "rotation": "2", "handler": {"webhook": {"headers": {"a": "b"}}}}),
            ),
            world.hook_with("alone", json!({"connectionRef": null})),
            world.hook_with("no-secret", json!({"handler": {"webhook": {"signature": signature}}})),
            world.hook_with("no-kong", json!({"connectionRef": {"name": "away"}})),
            world.hook_with(
                "gateway",
                json!({"deliverBy": "Gateway", "handler": {"webhook": {"headers": {"a": "b"}}}}),
            ),
        ])
        .await;
    for name in ["one", "two", "alone", "gateway"] {
        world.ready(&format!("eventhooks/{name}")).await;
    }
    world.ready("connections/kong").await;
    world.until("connections/kong", "held", |o| o["metadata"]["finalizers"].is_array()).await;
    world.not_ready("eventhooks/no-secret", "SecretMissing").await;
    world.not_ready("eventhooks/no-kong", "Unreachable").await;
    world.not_ready("connections/away", "Unreachable").await;
    world.until("connections/away", "held", |o| o["metadata"]["finalizers"].is_array()).await;

    // The start is over when two reads in a row return the same objects.
    let mut before = objects(&world).await;
    let lists = async || world.kong.count("GET", "/event-hooks").await;
    let resyncs = async |from: usize, more: usize| {
        eventually(DEADLINE, "several resyncs", async || {
            let now = lists().await;
            if now >= from + more { Ok(now) } else { Err(format!("{now} lists, {from} before")) }
        })
        .await
    };
    eventually(DEADLINE, "quiet after the start", async || {
        let now = objects(&world).await;
        let same = now == before;
        before = now;
        if same { Ok(()) } else { Err("still writing".into()) }
    })
    .await;
    let puts = world.kong.count("PUT", "/").await;
    let events = all_events(&world).await;
    assert_eq!(puts, 3);
    // The Lease is the only object that is written.
    let renewed = async || {
        let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", world.home.name);
        let list = world.read(&leases).await.unwrap();
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|l| l["metadata"]["resourceVersion"].clone())
            .collect::<Vec<_>>()
    };
    let lease = renewed().await;
    assert_eq!(lease.len(), 1);
    // Three hooks, compared several times; they may share lists.
    resyncs(lists().await, 8).await;
    assert_eq!(objects(&world).await, before, "resource versions and managed fields are unchanged");
    assert_eq!(world.kong.count("PUT", "/").await, puts);
    assert_eq!(all_events(&world).await, events);
    eventually(DEADLINE, "the Lease to be renewed", async || {
        if renewed().await == lease { Err("not yet".into()) } else { Ok(()) }
    })
    .await;
}
