//! A Connection whose address changes: the hook is created at the new address before it is deleted at the former one.

use serde_json::{Value, json};

use crate::harness::objects::message;
use crate::harness::world::World;
use crate::harness::{DEADLINE, Kong, eventually};

fn endpoint(object: &Value) -> &Value {
    &object["status"]["external"]["endpoint"]
}

async fn wait_for_faulted_request(kong: &Kong) {
    eventually(DEADLINE, "a request that matches the fault", async || {
        match kong.count_faulted_requests().await {
            0 => Err("none".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_hook_while_new_address_is_a_proxy_or_rejects_the_create() {
    let world = World::start("wrong-address").await;
    world.apply(&[world.connection(), world.hook("h")]).await;
    world.ready("eventhooks/h").await;
    let new = Kong::start(&[]).await;
    // Kong's proxy port, where no Kong admin API answers.
    let body = json!({"message": "no Route matched with those values"});
    new.fault(json!({"path": "/event-hooks", "status": 404, "body": body})).await;
    world.edit("conn/kong", json!({"kong": {"adminUrl": new.url}})).await;
    world.not_ready("eventhooks/h", "UnexpectedAnswer").await;
    assert_eq!(world.kong.hooks().await.len(), 1, "a 404 of a proxy deletes nothing");

    // The admin API answers, and the create fails: the hook stays at the former address.
    new.clear_faults().await;
    new.fault(json!({"method": "PUT", "status": 503})).await;
    world.edit("evh/h", json!({"event": "routes"})).await;
    world.not_ready("eventhooks/h", "ServerError").await;
    assert_eq!((world.kong.hooks().await.len(), world.kong.count("DELETE", "/").await), (1, 0));

    new.clear_faults().await;
    let is_moved = |o: &Value| *endpoint(o) == new.url.as_str() && o["status"]["formerLocations"].is_null();
    world.until("eventhooks/h", "at the new address", is_moved).await;
    world.ready("eventhooks/h").await;
    assert_eq!((world.kong.hooks().await.len(), new.hooks().await.len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn recreates_hook_if_the_former_address_is_the_same_gateway() {
    let mut world = World::start("alias").await;
    world.apply(&[world.connection(), world.hook("h")]).await;
    let id = world.ready("eventhooks/h").await["status"]["external"]["id"].as_str().unwrap().to_owned();
    // While no controller runs, the hook is deleted at Kong, and the Connection gets another name of the same Kong. The
    // controller then creates the hook under the one name and deletes it under the other.
    world.stop_operator().await;
    world.kong.delete(&id).await;
    let alias = world.kong.url.replace("127.0.0.1", "localhost");
    world.edit("conn/kong", json!({"kong": {"adminUrl": alias}})).await;
    world.start_operator();
    let is_moved = |o: &Value| *endpoint(o) == alias.as_str() && o["status"]["formerLocations"].is_null();
    world.until("eventhooks/h", "at the other name", is_moved).await;
    world.ready("eventhooks/h").await;
    let hook = world.kong.only_hook().await;
    assert_eq!(hook["id"], id.as_str());
    assert!(world.kong.count("DELETE", "/event-hooks").await > 1, "it was deleted under the former name");

    // A hook that exists is not moved to another name: nothing is deleted, and an Event says what was assumed.
    let deletes = world.kong.count("DELETE", "/").await;
    world.edit("conn/kong", json!({"kong": {"adminUrl": world.kong.url}})).await;
    let is_back = |o: &Value| *endpoint(o) == world.kong.url.as_str();
    world.until("eventhooks/h", "at the first name", is_back).await;
    let event = world.event("h", "AddressChanged").await;
    assert!(event["note"].as_str().unwrap().contains(&alias), "{event:#}");
    assert_eq!(world.kong.count("DELETE", "/").await, deletes);
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_at_former_address_after_a_restart() {
    let mut world = World::start("moved-restart").await;
    world.apply(&[world.connection(), world.hook("h")]).await;
    world.ready("eventhooks/h").await;
    let new = Kong::start(&[]).await;
    // The operator dies after the create at the new address and before the delete at the former one. The next operator
    // finds the hook at both addresses and knows that it is not one gateway.
    world.kong.fault(json!({"method": "DELETE", "delayMs": 600_000})).await;
    world.edit("conn/kong", json!({"kong": {"adminUrl": new.url}})).await;
    wait_for_faulted_request(&world.kong).await;
    assert_eq!((world.kong.hooks().await.len(), new.hooks().await.len()), (1, 1));
    world.kill_operator();
    world.kong.clear_faults().await;
    world.start_operator();
    world.kong.wait_for_hooks(0).await;
    world.ready("eventhooks/h").await;
    assert_eq!(new.hooks().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn gives_up_unreachable_former_address() {
    let mut world = World::start("old-address").await;
    world.apply(&[world.connection(), world.hook("h")]).await;
    let object = world.ready("eventhooks/h").await;
    let id = object["status"]["external"]["id"].as_str().unwrap();
    world.kong.stop();
    let new = Kong::start(&[]).await;
    world.edit("conn/kong", json!({"kong": {"adminUrl": new.url}})).await;
    let is_waiting = |o: &Value| message(o).contains("at the former address");
    let waiting = world.until("eventhooks/h", "waiting for the former address", is_waiting).await;
    assert!(
        message(&waiting).contains(id) && message(&waiting).contains("deletionPolicy: Orphan"),
        "{waiting:#}"
    );
    let former = &waiting["status"]["formerLocations"][0];
    assert_eq!((&former["id"], &former["endpoint"]), (&json!(id), &json!(world.kong.url)), "{waiting:#}");
    assert!(waiting["status"]["lastError"]["message"].is_string(), "{waiting:#}");
    assert_eq!(new.hooks().await.len(), 1, "the hook works at the new address already");

    // With a short deadline the next operator gives the former address up.
    world.stop_operator().await;
    let _operator = world.another("run", &["--credentials-patience", "1s"]);
    world.ready("eventhooks/h").await;
    let event = world.event("h", "Orphaned").await;
    let note = event["note"].as_str().unwrap();
    assert!(event["type"] == "Warning" && note.contains(id) && note.contains("delete it there"), "{event:#}");
    assert_eq!(new.hooks().await.len(), 1);
}
