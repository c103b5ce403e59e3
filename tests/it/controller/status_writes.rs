//! Status writes: a text that is too long blocks none, and members that another manager wrote do not stay.

use serde_json::{Value, json};

use crate::harness::objects::condition;
use crate::harness::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn long_annotation_blocks_no_status_write() {
    let world = World::start("long-tokens").await;
    world.apply(&[world.connection(), world.hook("long")]).await;
    world.ready("eventhooks/long").await;
    let tokens = ["1", "2"].map(|end| "x".repeat(300) + end);
    let mut handled = Vec::new();
    for token in &tokens {
        world.request("evh/long", token).await;
        world.edit("evh/long", json!({"rotation": &token[300..]})).await;
        let is_new = |o: &Value| {
            let token = o["status"]["handled"]["reconcileRequestedAt"].as_str().unwrap_or_default();
            token.starts_with("xxx") && !handled.iter().any(|handled| handled == token)
        };
        let object = world.until("eventhooks/long", "acknowledged", is_new).await;
        handled.push(object["status"]["handled"]["reconcileRequestedAt"].as_str().unwrap().to_owned());
        world.ready("eventhooks/long").await;
    }
    assert!(handled.iter().all(|token| token.len() == 256), "{handled:?}");

    // An acknowledged request is not carried out again, and its object not written again.
    let version = world.get("eventhooks/long").await.unwrap()["metadata"]["resourceVersion"].clone();
    world.apply(&[world.hook_with("fence", json!({"event": "fence"}))]).await;
    world.ready("eventhooks/fence").await;
    let object = world.get("eventhooks/long").await.unwrap();
    assert_eq!(object["metadata"]["resourceVersion"], version, "{object:#}");
    assert_eq!(condition(&object, "Ready")["status"], "True");
}

#[tokio::test(flavor = "multi_thread")]
async fn removes_status_members_of_other_managers() {
    let world = World::start("foreign-status").await;
    world.apply(&[world.connection(), world.hook("edited")]).await;
    let before = world.ready("eventhooks/edited").await;
    let by_hand = json!({"lastError": {"message": "by hand"}, "external": {"workspace": "by-hand"}});
    let patch = json!({ "status": by_hand }).to_string();
    world.kubectl(&["patch", "evh/edited", "--subresource=status", "--type=merge", "-p", &patch]).await;
    world.request("evh/edited", "now").await;
    let is_handled = |o: &Value| o["status"]["handled"]["reconcileRequestedAt"] == "now";
    world.until("eventhooks/edited", "acknowledged", is_handled).await;
    let is_clean = |o: &Value| {
        o["status"]["lastError"].is_null() && o["status"]["external"] == before["status"]["external"]
    };
    let object = world.until("eventhooks/edited", "clean", is_clean).await;
    assert_eq!(condition(&object, "Ready")["status"], "True", "{object:#}");
}
