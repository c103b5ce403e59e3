//! An idle cluster has no writes: neither objects nor Kong are written, however often they are compared.

use serde_json::{Value, json};

use crate::harness::objects::object;
use crate::harness::world::{Setup, World};
use crate::harness::{DEADLINE, eventually, free_port};

/// Returns the metadata of all custom resources, resource versions included.
async fn object_metadata(world: &World) -> Vec<Value> {
    let base = format!("/apis/hookstream.dev/v1alpha1/namespaces/{}", world.namespace.name);
    let mut all = Vec::new();
    for kind in ["eventhooks", "connections"] {
        let list = world.read(&format!("{base}/{kind}")).await.unwrap();
        all.extend(list["items"].as_array().unwrap().iter().map(|o| o["metadata"].clone()));
    }
    all
}

async fn count_events(world: &World) -> usize {
    let mut count = 0;
    for name in ["kong", "away", "one", "two", "alone", "no-secret", "no-kong"] {
        count += world.events(name).await.len();
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_cluster_writes_neither_objects_nor_kong() {
    let world = World::with("idle", Setup { resync: Some("1s"), ..Setup::default() }).await;
    let unreachable = json!({"kong": {"adminUrl": format!("http://127.0.0.1:{}", free_port())}});
    let signature = json!({"secretRef": {"name": "none", "key": "none"}});
    world
        .apply(&[
            world.connection(),
            object("Connection", "away", unreachable),
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
    world.until("connections/kong", "with a finalizer", |o| o["metadata"]["finalizers"].is_array()).await;
    world.not_ready("eventhooks/no-secret", "SecretMissing").await;
    world.not_ready("eventhooks/no-kong", "Unreachable").await;
    world.not_ready("connections/away", "Unreachable").await;
    world.until("connections/away", "with a finalizer", |o| o["metadata"]["finalizers"].is_array()).await;

    let count_lists = async || world.kong.count("GET", "/event-hooks").await;
    let wait_for_lists = async |from: usize, more: usize| {
        eventually(DEADLINE, "several resyncs", async || {
            let now = count_lists().await;
            if now >= from + more { Ok(now) } else { Err(format!("{now} lists, {from} before")) }
        })
        .await
    };
    // The start is over once several resyncs in a row change no object.
    let settled_objects = eventually(DEADLINE, "resyncs without a write", async || {
        let earlier = object_metadata(&world).await;
        wait_for_lists(count_lists().await, 4).await;
        let now = object_metadata(&world).await;
        if now == earlier { Ok(now) } else { Err("the last resyncs changed an object".to_owned()) }
    })
    .await;
    let puts = world.kong.count("PUT", "/").await;
    let events = count_events(&world).await;
    assert_eq!(puts, 3);
    // The Lease is the only object that is written.
    let lease_versions = async || {
        let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", world.home.name);
        let list = world.read(&leases).await.unwrap();
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|l| l["metadata"]["resourceVersion"].clone())
            .collect::<Vec<_>>()
    };
    let leases_before = lease_versions().await;
    assert_eq!(leases_before.len(), 1);
    // The controller compares the three hooks several times; they may share lists.
    wait_for_lists(count_lists().await, 8).await;
    assert_eq!(
        object_metadata(&world).await,
        settled_objects,
        "resource versions and managed fields are unchanged"
    );
    assert_eq!(world.kong.count("PUT", "/").await, puts);
    assert_eq!(count_events(&world).await, events);
    eventually(DEADLINE, "the Lease to be renewed", async || {
        if lease_versions().await == leases_before { Err("not renewed".into()) } else { Ok(()) }
    })
    .await;
}
