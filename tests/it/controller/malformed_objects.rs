//! An object that this version cannot parse, written by another version or by hand, blocks no other object.

use serde_json::{Value, json};

use crate::harness::Auth0;
use crate::harness::auth0_objects::{connect, hook, stream};
use crate::harness::objects::{condition, message};
use crate::harness::world::World;

/// Writes a condition whose time the API server's `date-time` accepts and RFC 3339 does not.
async fn break_status(world: &World, plural: &str, name: &str) {
    let path = format!("{plural}/{name}");
    let mut conditions = world.get(&path).await.unwrap()["status"]["conditions"].clone();
    conditions.as_array_mut().unwrap().push(json!({"type": "ByHand", "status": "True", "reason": "ByHand",
        "message": "", "lastTransitionTime": "2026-01-01T00:00:00+99:99"}));
    patch_conditions(world, plural, name, conditions).await;
    let is_unreadable = |o: &Value| condition(o, "Ready")["reason"] == "InvalidObject";
    let object = world.until(&path, "unreadable", is_unreadable).await;
    assert!(message(&object).contains("cannot be read"), "{object:#}");
    assert_eq!(condition(&object, "Stalled")["status"], "True", "{object:#}");
    world.event(name, "InvalidObject").await;
}

async fn patch_conditions(world: &World, plural: &str, name: &str, conditions: Value) {
    let patch = json!({"status": {"conditions": conditions}}).to_string();
    let object = format!("{plural}.hookstream.dev/{name}");
    world.kubectl(&["patch", &object, "--subresource=status", "--type=merge", "-p", &patch]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_object_blocks_no_other_and_recovers() {
    let mut world = World::start("malformed").await;
    world.apply(&[world.connection(), world.hook("broken"), world.hook("whole")]).await;
    world.ready("eventhooks/broken").await;
    world.ready("eventhooks/whole").await;
    break_status(&world, "eventhooks", "broken").await;
    // The status keeps what it has of Kong's hook, and further reconciles write nothing.
    let object_before = world.get("eventhooks/broken").await.unwrap();
    assert!(object_before["status"]["external"]["id"].is_string(), "{object_before:#}");
    assert!(object_before["status"]["applied"]["keyId"].is_string(), "{object_before:#}");
    let version = |o: &Value| o["metadata"]["resourceVersion"].clone();

    // Other objects are reconciled: an edited one, after a restart, and a new one. Their events are delivered.
    world.edit("evh/whole", json!({"event": "routes"})).await;
    world.ready("eventhooks/whole").await;
    world.stop_operator().await;
    world.start_operator();
    world.apply(&[world.hook("new")]).await;
    world.ready("eventhooks/new").await;
    let object_after = world.get("eventhooks/broken").await.unwrap();
    assert_eq!(version(&object_after), version(&object_before), "{object_after:#}");
    world.edit("evh/whole", json!({"event": "services"})).await;
    world.ready("eventhooks/whole").await;
    assert_eq!(world.kong.emit("crud", "services", json!({})).await, 1);
    world.receiver.wait_for(1, crate::harness::DEADLINE).await;

    patch_conditions(&world, "eventhooks", "broken", json!([])).await;
    let object = world.ready("eventhooks/broken").await;
    assert!(object["status"]["external"]["id"].is_string(), "{object:#}");
    assert_eq!(world.kong.hooks().await.len(), 3, "the hook is found and not created twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn namespace_with_malformed_object_is_deleted() {
    let world = World::start("malformed-del").await;
    world.apply(&[world.connection(), world.hook("broken")]).await;
    world.ready("eventhooks/broken").await;
    break_status(&world, "eventhooks", "broken").await;
    world.kubectl(&["delete", "evh/broken", "--timeout=30s"]).await;
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new());
    world.kubectl(&["delete", "conn/kong", "--timeout=30s"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_object_reports_its_current_generation() {
    let world = World::start("malformed-gen").await;
    world.apply(&[world.connection(), world.hook("broken")]).await;
    world.ready("eventhooks/broken").await;
    break_status(&world, "eventhooks", "broken").await;
    world.edit("evh/broken", json!({"event": "routes"})).await;
    world.stalled("eventhooks/broken", "InvalidObject").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_connection_keeps_its_deletion_policy() {
    let world = World::start("malformed-orphan").await;
    let connection = world.connection_with(json!({"deletionPolicy": "Orphan"}));
    world.apply(&[connection, world.hook("kept")]).await;
    world.ready("connections/kong").await;
    world.ready("eventhooks/kept").await;
    break_status(&world, "connections", "kong").await;
    world.kubectl(&["delete", "evh/kept", "--timeout=30s"]).await;
    assert_eq!(world.kong.hooks().await.len(), 1, "the hook stays");
    world.kubectl(&["delete", "conn/kong", "--timeout=30s"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_observer_deletes_nothing() {
    const ID: &str = "11111111-2222-4333-8444-555555555555";
    let world = World::start("malformed-observer").await;
    world.apply(&[world.connection()]).await;
    world.ready("connections/kong").await;
    let config = json!({"url": "http://receiver.test/"});
    let at_kong =
        json!({"id": ID, "source": "crud", "event": "consumers", "handler": "webhook", "config": config});
    world.kong.create(at_kong).await;
    let adopt = json!({"deliverBy": "Gateway", "adopt": {"id": ID, "mode": "Override"}});
    world.apply(&[world.hook_with("observer", adopt)]).await;
    world.ready("eventhooks/observer").await;
    world.edit("evh/observer", json!({"managementPolicy": "ObserveOnly"})).await;
    let object = world.ready("eventhooks/observer").await;
    assert!(object["metadata"]["finalizers"].is_array(), "it was managed before: {object:#}");
    break_status(&world, "eventhooks", "observer").await;
    world.kubectl(&["delete", "evh/observer", "--timeout=30s"]).await;
    assert_eq!(world.kong.only_hook().await["id"], ID, "an observed hook stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_auth0_objects_block_no_other() {
    let world = World::start("malformed-others").await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    world.apply(&[stream("s", json!({"worker": {}})), hook("h", json!({}))]).await;
    world.ready("eventstreams/s").await;
    world.ready("hooks/h").await;
    for (plural, name) in [("eventstreams", "s"), ("hooks", "h")] {
        break_status(&world, plural, name).await;
    }
    let other = hook("other", json!({"triggerId": "post-change-password"}));
    world.apply(&[stream("other", json!({"worker": {}})), other]).await;
    world.ready("eventstreams/other").await;
    world.ready("hooks/other").await;
    patch_conditions(&world, "hooks", "h", json!([])).await;
    world.ready("hooks/h").await;
    assert_eq!(
        (auth0.stored_streams().await.len(), auth0.stored_hooks().await.len()),
        (2, 2),
        "nothing is created twice"
    );
    world.kubectl(&["delete", "evs,hooks.hookstream.dev", "--all", "--timeout=60s"]).await;
    assert_eq!((auth0.stored_streams().await.len(), auth0.stored_hooks().await.len()), (0, 0));
    world.kubectl(&["delete", "conn/auth0", "--timeout=30s"]).await;
}
