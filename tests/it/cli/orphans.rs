//! `hookstream orphans` lists what no custom resource holds, and deletes only what this installation provably configured.

use std::process::Output;

use serde_json::{Value, json};

use crate::harness::auth0_objects::{connect, stream};
use crate::harness::manifests::{hook, merge, quick};
use crate::harness::standalone::Standalone;
use crate::harness::world::World;
use crate::harness::{Auth0, DEADLINE, Kong, Process, eventually};

/// Returns the exit code, and the rows by the id at the vendor.
fn rows(output: &Output) -> (i32, Vec<Value>) {
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text} {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), report["items"].as_array().unwrap().clone())
}

fn state<'a>(rows: &'a [Value], id: &Value) -> Option<&'a str> {
    rows.iter().find(|row| row["id"] == *id)?["state"].as_str()
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_relays_of_lost_objects_and_nothing_else() {
    let mut world = World::start("orphans").await;
    let gateway = json!({"deliverBy": "Gateway"});
    let all =
        [world.connection(), world.hook("lost"), world.hook("kept"), world.hook_with("direct", gateway)];
    world.apply(&all).await;
    let mut ids = Vec::new();
    for name in ["lost", "kept", "direct"] {
        let object = world.ready(&format!("eventhooks/{name}")).await;
        ids.push(object["status"]["external"]["id"].clone());
    }
    let [lost, kept, direct] = ids.try_into().unwrap();
    // The objects are lost without a cleanup, as by a restore of etcd.
    world.kill_operator();
    for name in ["lost", "direct"] {
        let path = format!("evh/{name}");
        world.kubectl(&["patch", &path, "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#]).await;
        world.kubectl(&["delete", &path, "--timeout=30s"]).await;
    }
    // Another client's hook, and a copy of a relay with its mark.
    let by_hand = json!({"source": "crud", "handler": "webhook", "config": {"url": "http://example.com"}});
    let by_hand = world.kong.create(by_hand).await["id"].clone();
    let mut copy = world.kong.hooks().await.into_iter().find(|hook| hook["id"] == kept).unwrap();
    copy.as_object_mut()
        .unwrap()
        .retain(|name, _| ["source", "event", "handler", "config"].contains(&name.as_str()));
    let copy = world.kong.create(copy).await["id"].clone();

    let orphans = |flags: &[&str]| {
        // The rights that docs/restore.md names, which are the controller's.
        let kubeconfig = world.accounts.controller.to_str().unwrap();
        let mut args = vec!["orphans", "--namespace", &world.namespace.name, "--operator-namespace"];
        args.extend([world.home.name.as_str(), "--kubeconfig", kubeconfig, "-o", "json"]);
        args.extend(flags);
        Process::command(args, &[]).output().unwrap()
    };
    // One of the objects is created again, and would take the relay over.
    world.apply(&[world.hook("lost")]).await;
    let (code, deleted) = rows(&orphans(&["--delete", "--yes"]));
    assert_eq!((code, deleted.len(), state(&deleted, &lost)), (1, 3, None), "{deleted:#?}");
    assert_eq!(world.kong.hooks().await.len(), 5);
    world.kubectl(&["delete", "evh/lost", "--timeout=30s"]).await;

    let (code, listed) = rows(&orphans(&[]));
    assert_eq!((code, listed.len()), (1, 4), "{listed:#?}");
    assert_eq!(state(&listed, &lost), Some("orphan"), "{listed:#?}");
    for unmanaged in [&direct, &by_hand, &copy] {
        assert_eq!(state(&listed, unmanaged), Some("unmanaged"), "{listed:#?}");
    }
    assert_eq!(state(&listed, &kept), None, "a custom resource holds it");

    // Another installation, or this one under another id, proves nothing.
    let (_, listed) = rows(&orphans(&["--installation-id", "other", "--delete", "--yes"]));
    assert_eq!(state(&listed, &lost), Some("unmanaged"), "{listed:#?}");
    let unconfirmed = orphans(&["--delete"]);
    assert_eq!(unconfirmed.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unconfirmed.stderr).contains("--yes"));
    assert_eq!(world.kong.hooks().await.len(), 5);

    let (code, deleted) = rows(&orphans(&["--delete", "--yes"]));
    assert_eq!((code, state(&deleted, &lost)), (1, Some("deleted")), "{deleted:#?}");
    let left: Vec<Value> = world.kong.hooks().await.into_iter().map(|hook| hook["id"].clone()).collect();
    assert_eq!(left.len(), 4);
    for id in [&kept, &direct, &by_hand, &copy] {
        assert!(left.contains(id), "{id} in {left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_lost_streams_of_a_tenant() {
    let mut world = World::start("orphan-streams").await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    let bus = json!({"eventBridge": {"accountId": "123456789012", "region": "eu-central-1"}});
    let all =
        [stream("lost", json!({"worker": {}})), stream("kept", json!({"worker": {}})), stream("bus", bus)];
    world.apply(&all).await;
    let mut ids = Vec::new();
    for name in ["lost", "bus"] {
        let object = world.ready(&format!("eventstreams/{name}")).await;
        ids.push(object["status"]["external"]["id"].clone());
    }
    world.ready("eventstreams/kept").await;
    world.kill_operator();
    for name in ["lost", "bus"] {
        let path = format!("evs/{name}");
        world.kubectl(&["patch", &path, "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#]).await;
        world.kubectl(&["delete", &path, "--timeout=30s"]).await;
    }
    let kubeconfig = world.accounts.controller.to_str().unwrap();
    let mut args = vec!["orphans", "--namespace", &world.namespace.name, "--operator-namespace"];
    args.extend([world.home.name.as_str(), "--kubeconfig", kubeconfig, "-o", "json", "--delete", "--yes"]);
    let (code, rows) = rows(&Process::command(args, &[]).output().unwrap());
    assert_eq!((code, rows.len()), (1, 2), "{rows:#?}");
    assert_eq!(state(&rows, &ids[0]), Some("deleted"), "{rows:#?}");
    assert_eq!(state(&rows, &ids[1]), Some("unmanaged"), "{rows:#?}");
    let streams = auth0.stored_streams().await;
    assert_eq!(streams.len(), 2, "{streams:#?}");
    assert!(streams.iter().all(|stream| stream["id"] != ids[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_finds_relays_of_removed_manifests() {
    let kong = Kong::start(&[]).await;
    let relayed = |name: &str| {
        let mut spec = quick();
        merge(&mut spec, json!({"source": "crud", "connectionRef": {"name": "kong"}}));
        hook(name, "http://example.com", spec)
    };
    let mut standalone = Standalone::start(&(kong.connection() + &relayed("kept")), &[]).await;
    standalone.write("removed.yaml", &relayed("removed"));
    kong.wait_for_hooks(2).await;
    std::fs::remove_file(standalone.manifests.join("removed.yaml")).unwrap();
    let orphans = |flags: &[&str]| {
        let (manifests, data) = (standalone.manifests.to_str().unwrap(), standalone.data.to_str().unwrap());
        let mut args = vec!["orphans", "--manifests", manifests, "--data", data, "-o", "json"];
        args.extend(flags);
        rows(&Process::command(args, &[]).output().unwrap())
    };
    // Beside the running process; without --prune it leaves the relay in place.
    let listed = eventually(DEADLINE, "an orphan", async || {
        let (code, listed) = orphans(&[]);
        if code == 1 { Ok(listed) } else { Err(format!("{code}: {listed:?}")) }
    });
    let listed = listed.await;
    assert_eq!(listed.len(), 1, "{listed:#?}");
    assert_eq!((&listed[0]["state"], &listed[0]["relay"]), (&json!("orphan"), &json!("default/removed")));
    let (code, deleted) = orphans(&["--delete", "--yes"]);
    assert_eq!((code, &deleted[0]["state"]), (0, &json!("deleted")), "{deleted:#?}");
    let left = kong.only_hook().await;
    assert!(left["config"]["url"].as_str().unwrap().contains("/relays/kept?"), "{left:#}");
    assert_eq!(orphans(&[]), (0, Vec::new()));
    standalone.restart().await;
}
