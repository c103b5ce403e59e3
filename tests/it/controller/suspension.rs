//! Suspension, orphaning, rotation of secrets, and reconcile requests.

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::harness::DEADLINE;
use crate::harness::http::http;
use crate::harness::world::{Setup, World};

#[tokio::test(flavor = "multi_thread")]
async fn suspended_hook_is_unchanged_until_deleted() {
    let world = World::with("suspend", Setup { resync: Some("1s"), ..Setup::default() }).await;
    world.apply(&[world.connection(), world.hook("rests")]).await;
    world.ready("eventhooks/rests").await;
    let before = world.ready("eventhooks/rests").await;
    world.edit("evh/rests", json!({"suspend": true, "event": "routes"})).await;
    world.request("evh/rests", "while-it-rests").await;
    // An object that was applied later has been reconciled twice.
    world.apply(&[world.hook_with("fence", json!({"event": "fence"}))]).await;
    world.ready("eventhooks/fence").await;
    let hooks = world.kong.until_hooks("both", |h| h.len() == 2).await;
    let rests = hooks.iter().find(|h| h["event"] != "fence").unwrap();
    assert_eq!(rests["event"], "consumers", "the edit is not applied while suspended");
    // As in Flux, conditions and tokens stay, because nothing was observed.
    let suspended = world.get("eventhooks/rests").await.unwrap();
    assert_eq!(suspended["status"]["conditions"], before["status"]["conditions"]);
    assert_eq!(suspended["status"]["observedGeneration"], before["metadata"]["generation"]);
    assert!(suspended["status"]["handled"].is_null(), "{suspended:#}");
    world.kubectl(&["delete", "evh/fence", "--timeout=30s"]).await;
    // Deliveries go on with the settings that Kong has.
    assert_eq!(world.kong.emit("crud", "consumers", json!({"n": 1})).await, 1);
    world.receiver.wait_for(1, DEADLINE).await;
    world.edit("evh/rests", json!({"suspend": false})).await;
    world.ready("eventhooks/rests").await;
    assert_eq!(world.kong.only_hook().await["event"], "routes");

    world.edit("evh/rests", json!({"suspend": true})).await;
    world.kubectl(&["delete", "evh/rests", "--timeout=30s"]).await;
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn orphaned_hooks_stay_at_kong() {
    let world = World::start("orphan").await;
    world
        .apply(&[
            world.connection_with(json!({"deletionPolicy": "Orphan"})),
            world.hook_with("by-connection", json!({"event": "a"})),
            world.hook_with("by-itself", json!({"event": "b", "deletionPolicy": "Orphan"})),
            world.hook_with("deleted", json!({"event": "c", "deletionPolicy": "Delete"})),
        ])
        .await;
    for name in ["by-connection", "by-itself", "deleted"] {
        world.ready(&format!("eventhooks/{name}")).await;
    }
    world.kubectl(&["delete", "evh", "--all", "--timeout=30s"]).await;
    world.kubectl(&["delete", "conn/kong", "--timeout=30s"]).await;
    let mut left: Vec<_> = world.kong.hooks().await.iter().map(|h| h["event"].to_string()).collect();
    left.sort();
    assert_eq!(left, ["\"a\"", "\"b\""]);
    assert_eq!(world.kong.count("DELETE", "/").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_accepts_old_and_new_secret() {
    let world = World::start("rotate").await;
    world.apply(&[world.connection(), world.hook("turns")]).await;
    world.ready("eventhooks/turns").await;
    let old = world.kong.only_hook().await;
    let secret = |hook: &Value| hook["config"]["secret"].as_str().unwrap().to_owned();
    world.edit("evh/turns", json!({"rotation": "2026-11"})).await;
    let changed = |h: &[Value]| h.len() == 1 && h[0]["config"]["secret"] != old["config"]["secret"];
    let new = world.kong.until_hooks("a new secret", changed).await.remove(0);
    let object = world.ready("eventhooks/turns").await;
    assert!(object["status"]["applied"]["previous"]["until"].is_string(), "{object:#}");
    assert_eq!((&new["id"], &new["config"]["url"]), (&old["id"], &old["config"]["url"]));

    let relay = async |secret: &str, n: u32| {
        let body = json!({"source": "crud", "event": "consumers", "n": n}).to_string();
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(body.as_bytes());
        let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
        let request = http().post(new["config"]["url"].as_str().unwrap()).body(body);
        request.header("x-kong-signature", signature).send().await.unwrap().status().as_u16()
    };
    assert_eq!(relay(&secret(&old), 1).await, 202, "queued relays have the old signature");
    assert_eq!(relay(&secret(&new), 2).await, 202);
    assert_eq!(relay("guessed", 3).await, 401);
    let mut got: Vec<_> =
        world.receiver.wait_for(2, DEADLINE).await.iter().map(|r| r.json()["n"].clone()).collect();
    got.sort_by_key(|n| n.as_u64());
    assert_eq!(got, [1, 2]);
    assert!(world.events("turns").await.iter().all(|e| e["reason"] != "DriftRepaired"), "there was no drift");
    world.shows_none_of(&[&secret(&old), &secret(&new)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reconcile_request_is_acknowledged() {
    let world = World::start("requested").await;
    world.apply(&[world.connection(), world.hook("asked")]).await;
    world.ready("eventhooks/asked").await;
    let handled = |o: &Value, token: &str| o["status"]["handled"]["reconcileRequestedAt"] == token;
    let hook = world.kong.only_hook().await;
    world.kong.patch(hook["id"].as_str().unwrap(), json!({"event": "services"})).await;
    world.request("evh/asked", "t1").await;
    world.until("eventhooks/asked", "acknowledged", |o| handled(o, "t1")).await;
    assert_eq!(world.kong.only_hook().await["event"], "consumers", "the repair precedes the acknowledgement");
    world.event("asked", "DriftRepaired").await;
    // The same with another token, and for a Connection.
    let gets = world.kong.count("GET", "/event-hooks/").await;
    world.request("evh/asked", "t2").await;
    world.until("eventhooks/asked", "acknowledged", |o| handled(o, "t2")).await;
    assert!(world.kong.count("GET", "/event-hooks/").await > gets);
    world.request("conn/kong", "t3").await;
    world.until("connections/kong", "acknowledged", |o| handled(o, "t3")).await;
    // A failing reconcile is acknowledged, too, because a client waits for its result.
    world.kong.fault(json!({"status": 503})).await;
    world.request("evh/asked", "t4").await;
    world.until("eventhooks/asked", "acknowledged", |o| handled(o, "t4")).await;
    world.not_ready("eventhooks/asked", "ServerError").await;
}
