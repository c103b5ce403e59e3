//! Moves of a hook with pending deliveries: from the worker to the gateway none is lost, and an old address that is gone
//! delays the new one for a limited time only.

use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;

use crate::harness::http::http;
use crate::harness::world::World;
use crate::harness::{DEADLINE, Receiver, Reply, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn drains_backlog_after_move_to_gateway() {
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

    // Five deliveries are pending. Kong delivers to another receiver from now on, so that the two are distinct.
    let gateway_receiver = Receiver::start(|_, _| Reply::status(200));
    let gateway = json!({"deliverBy": "Gateway", "delivery": null, "handler": {"webhook": {"url": gateway_receiver.url()}}});
    let object_before = world.get("eventhooks/h").await.unwrap();
    world.edit("evh/h", gateway).await;
    let object = world.ready("eventhooks/h").await;
    assert_eq!(object["status"]["applied"]["deliverBy"], "Gateway");
    assert_eq!(object["status"]["applied"]["previous"]["deliverBy"], "Worker");
    assert_eq!(
        object["status"]["external"]["id"], object_before["status"]["external"]["id"],
        "the hook is kept"
    );
    let new = world.kong.only_hook().await;
    assert_eq!((&new["id"], &new["config"]["url"]), (&old["id"], &json!(gateway_receiver.url())));

    // Relays that Kong queued before are accepted with the former settings; a guessed secret is not.
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

    // Deliveries go to the receiver of the current spec; all six arrive.
    let numbers = eventually(DEADLINE, "all six deliveries", async || {
        let mut numbers: Vec<u64> =
            gateway_receiver.requests().iter().filter_map(|r| r.json()["n"].as_u64()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.len() >= 6 { Ok(numbers) } else { Err(format!("{numbers:?}")) }
    })
    .await;
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
    // Kong itself delivers later events.
    world.kong.emit("crud", "consumers", json!({"n": 7})).await;
    eventually(DEADLINE, "the gateway's own delivery", async || {
        let is_delivered = gateway_receiver.requests().iter().any(|r| r.json()["n"] == 7);
        if is_delivered { Ok(()) } else { Err("no such request".to_owned()) }
    })
    .await;
}
