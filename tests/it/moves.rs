//! What was under way when a hook moves: from the worker to the gateway nothing that waits is lost, and an address that
//! is gone holds up its successor for a while only.

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::harness::{DEADLINE, Receiver, Reply, eventually};
use crate::world::{Kong, Setup, World, http, message};

#[tokio::test(flavor = "multi_thread")]
async fn from_the_worker_to_the_gateway_the_backlog_drains() {
    let world = World::start("drains").await;
    let receiver = Receiver::start(|_, _| Reply::status(503));
    let handler = json!({"webhook": {"url": receiver.url()}});
    let retry = json!({"retry": {"initialBackoff": "200ms", "maxBackoff": "500ms"}});
    world
        .apply(&[world.connection(), world.hook_with("h", json!({"handler": handler, "delivery": retry}))])
        .await;
    world.ready("eventhooks/h").await;
    let old = world.kong.only_hook().await;
    for n in 0..5 {
        world.kong.emit("crud", "consumers", json!({"n": n})).await;
    }
    receiver.wait_for(5, DEADLINE).await;

    // Five wait. What Kong now delivers itself goes elsewhere, so that it cannot be taken for theirs.
    let elsewhere = Receiver::start(|_, _| Reply::status(200));
    let gateway =
        json!({"deliverBy": "Gateway", "delivery": null, "handler": {"webhook": {"url": elsewhere.url()}}});
    let before = world.get("eventhooks/h").await.unwrap();
    world.edit("evh/h", gateway).await;
    let object = world.ready("eventhooks/h").await;
    assert_eq!(object["status"]["applied"]["deliverBy"], "Gateway");
    assert_eq!(object["status"]["applied"]["previous"]["deliverBy"], "Worker");
    assert_eq!(object["status"]["external"]["id"], before["status"]["external"]["id"], "it is the same hook");
    let new = world.kong.only_hook().await;
    let there = json!(format!("{}/", elsewhere.url()));
    assert_eq!((&new["id"], &new["config"]["url"]), (&old["id"], &there));

    // What Kong had queued before comes in by the old terms; a guess does not.
    let relay = async |secret: &str, n: u32| {
        let body = json!({"source": "crud", "event": "consumers", "n": n}).to_string();
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(body.as_bytes());
        let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
        let request = http().post(old["config"]["url"].as_str().unwrap()).body(body);
        request.header("x-kong-signature", signature).send().await.unwrap().status().as_u16()
    };
    assert_eq!(relay(old["config"]["secret"].as_str().unwrap(), 5).await, 202);
    assert_eq!(relay("guessed", 6).await, 401);

    // Where the deliveries go is the spec's to say now; all six arrive.
    let numbers = eventually(DEADLINE, "all six deliveries", async || {
        let mut got: Vec<u64> = elsewhere.requests().iter().filter_map(|r| r.json()["n"].as_u64()).collect();
        got.sort_unstable();
        got.dedup();
        if got.len() >= 6 { Ok(got) } else { Err(format!("{got:?}")) }
    })
    .await;
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
    // And Kong itself delivers what comes from now on.
    world.kong.emit("crud", "consumers", json!({"n": 7})).await;
    eventually(DEADLINE, "the gateway's own", async || {
        let came = elsewhere.requests().iter().any(|r| r.json()["n"] == 7);
        if came { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_address_that_is_gone_is_left_after_a_while() {
    let flags = ["--credentials-patience", "4s"];
    let world = World::with("old-address", Setup { flags: &flags, ..Setup::default() }).await;
    world.apply(&[world.connection(), world.hook("h")]).await;
    let object = world.ready("eventhooks/h").await;
    let id = object["status"]["external"]["id"].as_str().unwrap();
    world.kong.stop();
    let new = Kong::start(&[]).await;
    world.edit("conn/kong", json!({"kong": {"adminUrl": new.url}})).await;
    let waits = |o: &Value| message(o).contains("at the former address");
    let told = world.until("eventhooks/h", "told of the old address", waits).await;
    assert!(message(&told).contains(id) && message(&told).contains("deletionPolicy: Orphan"), "{told:#}");
    assert_eq!(told["status"]["external"]["endpoint"], world.kong.url.as_str(), "there it still may be");
    assert!(told["status"]["lastError"]["message"].is_string(), "{told:#}");
    assert_eq!(new.hooks().await, Vec::<Value>::new(), "not at two places");

    let there = |o: &Value| o["status"]["external"]["endpoint"] == new.url.as_str();
    world.until("eventhooks/h", "at the new address", there).await;
    world.ready("eventhooks/h").await;
    assert_eq!(new.hooks().await.len(), 1);
    let event = world.event("h", "Orphaned").await;
    let note = event["note"].as_str().unwrap();
    assert!(event["type"] == "Warning" && note.contains(id) && note.contains("delete it there"), "{event:#}");
}
