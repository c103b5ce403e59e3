//! An object that this version cannot read (another version wrote it, or somebody by hand) blocks no other.

use serde_json::{Value, json};

use crate::world::{World, condition, message};

/// A condition with a time that the API server's `date-time` lets through, and RFC 3339 does not.
async fn break_status(world: &World, name: &str) {
    let mut conditions =
        world.get(&format!("eventhooks/{name}")).await.unwrap()["status"]["conditions"].clone();
    conditions.as_array_mut().unwrap().push(json!({"type": "ByHand", "status": "True", "reason": "ByHand",
        "message": "", "lastTransitionTime": "2026-01-01T00:00:00+99:99"}));
    patch_conditions(world, name, conditions).await;
    let unreadable = |o: &Value| condition(o, "Ready")["reason"] == "InvalidObject";
    let object = world.until(&format!("eventhooks/{name}"), "unreadable", unreadable).await;
    assert!(message(&object).contains("cannot be read"), "{object:#}");
    assert_eq!(condition(&object, "Stalled")["status"], "True", "{object:#}");
    world.event(name, "InvalidObject").await;
}

async fn patch_conditions(world: &World, name: &str, conditions: Value) {
    let patch = json!({"status": {"conditions": conditions}}).to_string();
    let object = format!("evh/{name}");
    world.kubectl(&["patch", &object, "--subresource=status", "--type=merge", "-p", &patch]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_no_other_and_heals() {
    let mut world = World::start("malformed").await;
    world.apply(&[world.connection(), world.hook("broken"), world.hook("whole")]).await;
    world.ready("eventhooks/broken").await;
    world.ready("eventhooks/whole").await;
    break_status(&world, "broken").await;
    // What is known of Kong stays, and looking again writes nothing.
    let before = world.get("eventhooks/broken").await.unwrap();
    assert!(before["status"]["external"]["id"].is_string(), "{before:#}");
    assert!(before["status"]["applied"]["keyId"].is_string(), "{before:#}");
    let version = |o: &Value| o["metadata"]["resourceVersion"].clone();

    // The others: as they are, after a restart, edited, new, and with deliveries.
    world.edit("evh/whole", json!({"event": "routes"})).await;
    world.ready("eventhooks/whole").await;
    world.stop_operator().await;
    world.start_operator();
    world.apply(&[world.hook("new")]).await;
    world.ready("eventhooks/new").await;
    let after = world.get("eventhooks/broken").await.unwrap();
    assert_eq!(version(&after), version(&before), "{after:#}");
    world.edit("evh/whole", json!({"event": "services"})).await;
    world.ready("eventhooks/whole").await;
    assert_eq!(world.kong.emit("crud", "services", json!({})).await, 1);
    world.receiver.wait_for(1, crate::harness::DEADLINE).await;

    patch_conditions(&world, "broken", json!([])).await;
    let object = world.ready("eventhooks/broken").await;
    assert!(object["status"]["external"]["id"].is_string(), "{object:#}");
    assert_eq!(world.kong.hooks().await.len(), 3, "found again, not made twice");
}

/// Nor does it hang: a namespace with it can be deleted.
#[tokio::test(flavor = "multi_thread")]
async fn can_be_deleted_and_leaves_nothing() {
    let world = World::start("malformed-del").await;
    world.apply(&[world.connection(), world.hook("broken")]).await;
    world.ready("eventhooks/broken").await;
    break_status(&world, "broken").await;
    world.kubectl(&["delete", "evh/broken", "--timeout=30s"]).await;
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new());
    world.kubectl(&["delete", "conn/kong", "--timeout=30s"]).await;
}
