//! Suspension, orphaning, rotation of secrets, and reconcile requests.

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::harness::DEADLINE;
use crate::harness::http::http;
use crate::harness::objects::condition;
use crate::harness::world::{Setup, World};

#[tokio::test(flavor = "multi_thread")]
async fn suspended_hook_is_unchanged_until_deleted() {
    let mut world = World::with("suspend", Setup { resync: Some("1s"), ..Setup::default() }).await;
    world.apply(&[world.connection(), world.hook("suspended")]).await;
    let object_before = world.ready("eventhooks/suspended").await;
    world.edit("evh/suspended", json!({"suspend": true, "event": "routes"})).await;
    world.request("evh/suspended", "while-suspended").await;
    // Once the hook `fence` exists, the controller has handled the earlier edit and request.
    world.apply(&[world.hook_with("fence", json!({"event": "fence"}))]).await;
    world.ready("eventhooks/fence").await;
    let hooks = world.kong.until_hooks("both hooks", |h| h.len() == 2).await;
    let hook = hooks.iter().find(|h| h["event"] != "fence").unwrap();
    assert_eq!(hook["event"], "consumers", "the edit is not applied while suspended");
    // The edited spec is not synced, so the object is not ready. Tokens stay, because nothing was observed.
    let suspended = world.not_ready("eventhooks/suspended", "Suspended").await;
    assert_eq!(condition(&suspended, "Suspended")["status"], "True", "{suspended:#}");
    for other in ["Stalled", "Reconciling"] {
        assert_eq!(condition(&suspended, other)["status"], "False", "{suspended:#}");
    }
    assert_eq!(suspended["status"]["external"], object_before["status"]["external"]);
    assert!(suspended["status"]["handled"].is_null(), "{suspended:#}");
    world.kubectl(&["delete", "evh/fence", "--timeout=30s"]).await;
    // Deliveries go on with the settings that Kong has.
    assert_eq!(world.kong.emit("crud", "consumers", json!({"n": 1})).await, 1);
    world.receiver.wait_for(1, DEADLINE).await;
    world.edit("evh/suspended", json!({"suspend": false})).await;
    let resumed = world.ready("eventhooks/suspended").await;
    assert_eq!(world.kong.only_hook().await["event"], "routes");
    assert!(condition(&resumed, "Suspended").is_null(), "{resumed:#}");

    // Suspending alone leaves a synced object ready, also after a restart.
    world.edit("evh/suspended", json!({"suspend": true})).await;
    let is_suspended = |o: &Value| condition(o, "Suspended")["status"] == "True";
    let suspended = world.until("eventhooks/suspended", "suspended", is_suspended).await;
    world.ready("eventhooks/suspended").await;
    world.stop_operator().await;
    world.start_operator();
    world.apply(&[world.hook_with("new", json!({"suspend": true}))]).await;
    world.not_ready("eventhooks/new", "Suspended").await;
    let object = world.ready("eventhooks/suspended").await;
    for name in ["Ready", "Suspended"] {
        assert_eq!(condition(&object, name), condition(&suspended, name), "nothing is written again");
    }
    world.kubectl(&["delete", "evh/suspended", "--timeout=30s"]).await;
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
    let mut remaining_events: Vec<_> =
        world.kong.hooks().await.iter().map(|h| h["event"].to_string()).collect();
    remaining_events.sort();
    assert_eq!(remaining_events, ["\"a\"", "\"b\""]);
    assert_eq!(world.kong.count("DELETE", "/").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_accepts_old_and_new_secret() {
    let world = World::start("rotate").await;
    world.apply(&[world.connection(), world.hook("rotated")]).await;
    world.ready("eventhooks/rotated").await;
    let old = world.kong.only_hook().await;
    let secret = |hook: &Value| hook["config"]["secret"].as_str().unwrap().to_owned();
    world.edit("evh/rotated", json!({"rotation": "2026-11"})).await;
    let has_new_secret = |h: &[Value]| h.len() == 1 && h[0]["config"]["secret"] != old["config"]["secret"];
    let new = world.kong.until_hooks("a new secret", has_new_secret).await.remove(0);
    let object = world.ready("eventhooks/rotated").await;
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
    let mut numbers: Vec<_> =
        world.receiver.wait_for(2, DEADLINE).await.iter().map(|r| r.json()["n"].clone()).collect();
    numbers.sort_by_key(|n| n.as_u64());
    assert_eq!(numbers, [1, 2]);
    assert!(
        world.events("rotated").await.iter().all(|e| e["reason"] != "DriftRepaired"),
        "there was no drift"
    );
    world.assert_hides(&[&secret(&old), &secret(&new)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledges_reconcile_request() {
    let world = World::start("requested").await;
    world.apply(&[world.connection(), world.hook("requested")]).await;
    world.ready("eventhooks/requested").await;
    let is_handled = |o: &Value, token: &str| o["status"]["handled"]["reconcileRequestedAt"] == token;
    let hook = world.kong.only_hook().await;
    world.kong.patch(hook["id"].as_str().unwrap(), json!({"event": "services"})).await;
    world.request("evh/requested", "t1").await;
    world.until("eventhooks/requested", "acknowledged", |o| is_handled(o, "t1")).await;
    assert_eq!(world.kong.only_hook().await["event"], "consumers", "the repair precedes the acknowledgement");
    world.event("requested", "DriftRepaired").await;
    // The same with another token, and for a Connection.
    let gets_before = world.kong.count("GET", "/event-hooks/").await;
    world.request("evh/requested", "t2").await;
    world.until("eventhooks/requested", "acknowledged", |o| is_handled(o, "t2")).await;
    assert!(world.kong.count("GET", "/event-hooks/").await > gets_before);
    world.request("conn/kong", "t3").await;
    world.until("connections/kong", "acknowledged", |o| is_handled(o, "t3")).await;
    // A failing reconcile is acknowledged, too, because a client waits for its result.
    world.kong.fault(json!({"status": 503})).await;
    world.request("evh/requested", "t4").await;
    world.until("eventhooks/requested", "acknowledged", |o| is_handled(o, "t4")).await;
    world.not_ready("eventhooks/requested", "ServerError").await;
}
