//! The lifecycle of a hook, from `kubectl apply` to a signed delivery and to its deletion.

use hmac::{Hmac, KeyInit, Mac};
use hookstream::api::EventHook;
use hookstream::core::keys::KeyRing;
use hookstream::core::relay;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::harness::objects::{message, secret};
use crate::harness::world::{Setup, World};
use crate::harness::{DEADLINE, eventually};

const SIGNING: &str = "what-the-receiver-checks-with";

fn signed_hook(world: &World) -> Value {
    let signature = json!({"secretRef": {"name": "signing", "key": "secret"}});
    world.hook_with("consumers", json!({"handler": {"webhook": {"signature": signature}}}))
}

fn hmac(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn hook_is_synced_delivered_edited_repaired_and_deleted() {
    let world = World::with("skeleton", Setup { resync: Some("1s"), ..Setup::default() }).await;
    world
        .apply(&[
            secret("signing", "secret", &format!("{SIGNING}\n")),
            world.connection(),
            signed_hook(&world),
        ])
        .await;
    world.kubectl(&["wait", "--for=condition=Ready", "evh/consumers", "--timeout=30s"]).await;
    world.kubectl(&["wait", "--for=condition=Ready", "conn/kong", "--timeout=30s"]).await;

    // Kong has one hook, which relays to the worker with a secret that controller and worker derive.
    let hook = world.kong.only_hook().await;
    let relay = format!("{}/v1/namespaces/{}/relays/consumers", world.ingest, world.namespace.name);
    let relay = {
        let url = hook["config"]["url"].as_str().unwrap();
        assert!(url.starts_with(&format!("{relay}?installation=")), "{url}");
        url.to_owned()
    };
    let relay_secret = hook["config"]["secret"].as_str().unwrap().to_owned();
    assert_eq!(relay_secret, derive_relay_secret(&world).await);
    assert_eq!((&hook["source"], &hook["event"]), (&json!("crud"), &json!("consumers")));
    let object = world.get("eventhooks/consumers").await.unwrap();
    assert_eq!(object["status"]["external"]["id"], hook["id"]);
    assert_eq!(object["status"]["external"]["endpoint"], world.kong.url);
    assert_eq!(object["metadata"]["finalizers"].as_array().unwrap().len(), 1);
    let connection = world.ready("connections/kong").await;
    assert!(connection["status"]["version"].as_str().unwrap().starts_with("3.14"), "{connection:#}");

    // An event at Kong reaches the receiver, signed with the user's secret.
    let data = json!({"operation": "create", "entity": {"username": "ada"}});
    assert_eq!(world.kong.emit("crud", "consumers", data).await, 1);
    let request = world.receiver.wait_for(1, DEADLINE).await.remove(0);
    assert_eq!(request.header("x-kong-signature"), hmac(SIGNING, &request.body));
    assert_eq!(request.json()["entity"]["username"], "ada");
    assert_eq!((&request.json()["source"], &request.json()["event"]), (&json!("crud"), &json!("consumers")));

    // An edit changes the hook at Kong, and events follow it.
    world.edit("evh/consumers", json!({"event": "routes"})).await;
    world.kong.until_hooks("the edit", |h| h.len() == 1 && h[0]["event"] == "routes").await;
    world.ready("eventhooks/consumers").await;
    assert_eq!(world.kong.emit("crud", "consumers", json!({})).await, 0);
    assert_eq!(world.kong.emit("crud", "routes", json!({"n": 2})).await, 1);
    assert_eq!(world.receiver.wait_for(2, DEADLINE).await[1].json()["n"], 2);
    assert!(
        world.events("consumers").await.iter().all(|e| e["reason"] != "DriftRepaired"),
        "there was no drift"
    );

    // Drift at Kong is repaired and reported, without the secret.
    let id = hook["id"].as_str().unwrap();
    let drifted = json!({"config": {"url": "http://127.0.0.1:1/elsewhere", "secret": "not-yours-any-more"}});
    world.kong.patch(id, drifted).await;
    let is_repaired = |h: &[Value]| {
        h.len() == 1 && h[0]["config"]["url"] == relay && h[0]["config"]["secret"] == relay_secret
    };
    world.kong.until_hooks("the repair", is_repaired).await;
    let repair = world.event("consumers", "DriftRepaired").await;
    let note = repair["note"].as_str().unwrap();
    assert!(note.contains("config.url") && note.contains("config.secret"), "{note}");
    assert_eq!((&repair["type"], &repair["regarding"]["kind"]), (&json!("Warning"), &json!("EventHook")));
    world.ready("eventhooks/consumers").await;

    // A hook that another client deletes is recreated with the same id, and reported before.
    world.kong.fault(json!({"method": "PUT", "path": "/event-hooks", "status": 500})).await;
    world.kong.delete(id).await;
    let missing = world.event("consumers", "ExternalObjectMissing").await;
    let note = missing["note"].as_str().unwrap();
    assert!(note.contains(id) && missing["type"] == "Warning", "{missing:#}");
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new(), "it is not created yet");
    world.kong.clear_faults().await;
    world.kong.until_hooks("the hook again", |h| is_repaired(h) && h[0]["id"] == id).await;
    world.ready("eventhooks/consumers").await;
    world.kong.delete(id).await;
    world.kong.until_hooks("the hook once more", |h| is_repaired(h) && h[0]["id"] == id).await;
    eventually(DEADLINE, "an Event of the second repair", async || {
        let events = world.events("consumers").await;
        let is_deletion = |e: &&Value| e["note"].as_str().is_some_and(|n| n.contains("deleted"));
        events.iter().find(is_deletion).map(drop).ok_or(format!("{events:#?}"))
    })
    .await;
    world.assert_hides(&[SIGNING, &relay_secret, "not-yours-any-more"]).await;

    // kubectl returns when the object is gone; by then Kong's hook is gone, too.
    world.kubectl(&["delete", "evh/consumers", "--timeout=30s"]).await;
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new());
    world.kubectl(&["delete", "conn/kong", "--timeout=30s"]).await;
}

/// Derives the relay secret as the worker does.
async fn derive_relay_secret(world: &World) -> String {
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.home.name);
    let data = secrets.get("hookstream-keys").await.unwrap().data.unwrap();
    let key_ring = KeyRing::from_data(data.iter().map(|(id, key)| (id.as_str(), key.0.as_slice()))).unwrap();
    let hooks: Api<EventHook> = Api::namespaced(world.client.clone(), &world.namespace.name);
    let hook = hooks.get("consumers").await.unwrap();
    let key = hook.status.as_ref().unwrap().applied.as_ref().unwrap().settings.key_id.clone().unwrap();
    relay::derive_secret(&key_ring, &key, &hook, None).unwrap().expose_secret().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn hook_without_connection_calls_no_vendor() {
    let world = World::start("alone").await;
    let alone = world.hook_with("alone", json!({"connectionRef": null, "source": "shop", "event": null}));
    world.apply(&[alone]).await;
    let object = world.ready("eventhooks/alone").await;
    assert!(
        object["metadata"]["finalizers"].is_null(),
        "a hook without an external object needs no finalizer: {object:#}"
    );
    assert!(message(&object).contains("worker"), "{object:#}");
    world.kubectl(&["delete", "evh/alone", "--timeout=30s"]).await;
    assert_eq!(world.kong.requests().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn adds_finalizer_before_create() {
    let mut world = World::start("finalizer").await;
    // The PUT is delayed for longer than the test runs, so that the object can be read before the create.
    world.kong.fault(json!({"method": "PUT", "delayMs": 600_000})).await;
    world.apply(&[world.connection(), world.hook("cut-off")]).await;
    eventually(DEADLINE, "a PUT in flight", async || {
        if world.kong.count_faulted_requests().await > 0 { Ok(()) } else { Err("no PUT".into()) }
    })
    .await;
    let object = world.get("eventhooks/cut-off").await.unwrap();
    assert_eq!(object["metadata"]["finalizers"].as_array().map(Vec::len), Some(1), "{object:#}");
    assert_eq!(world.kong.hooks().await.len(), 0, "the PUT is still delayed");

    // The next operator's PUT succeeds, its answer is lost, and the operator dies. The one after it finds the hook by the
    // object's uid.
    world.kill_operator();
    world.kong.clear_faults().await;
    world.kong.fault(json!({"method": "PUT", "dropAnswer": true})).await;
    world.start_operator();
    world.kong.only_hook().await;
    world.kill_operator();
    let delete = ["delete", "evh/cut-off", "conn/kong", "--wait=false"];
    world.kubectl(&delete).await;
    world.kong.clear_faults().await;
    world.start_operator();
    world.wait_until_deleted("eventhooks/cut-off").await;
    world.wait_until_deleted("connections/kong").await;
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answer_creates_no_second_hook() {
    let world = World::start("lost-answer").await;
    world.kong.fault(json!({"method": "PUT", "dropAnswer": true, "times": 1})).await;
    world.apply(&[world.connection(), world.hook("once")]).await;
    world.ready("eventhooks/once").await;
    assert_eq!(world.kong.hooks().await.len(), 1);
    assert_eq!(world.kong.count("PUT", "/").await, 1, "the hook is found by its id and not created again");
    world.event("once", "Unreachable").await;
}
