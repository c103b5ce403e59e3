//! The key ring is created once. A lost one is not replaced silently, because the worker would reject every relay.

use base64::prelude::*;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, PostParams};

use serde_json::{Value, json};

use crate::harness::auth0_objects::{connect, stream};
use crate::harness::objects::message;
use crate::harness::world::{Setup, World};
use crate::harness::{Auth0, DEADLINE, eventually};

const KEY_RING: &str = "hookstream-keys";

#[tokio::test(flavor = "multi_thread")]
async fn stalls_until_key_ring_is_restored() {
    let flags = ["--key-ring-check-interval", "1s"];
    let mut world = World::with("ring", Setup { flags: &flags, ..Setup::default() }).await;
    let key_rings: Api<Secret> = Api::namespaced(world.client.clone(), &world.home.name);
    world.apply(&[world.connection()]).await;
    world.ready("connections/kong").await;
    assert!(
        key_rings.get_opt(KEY_RING).await.unwrap().is_none(),
        "it is created for the first hook that needs it"
    );
    world.apply(&[world.hook("one"), world.hook("two")]).await;
    world.ready("eventhooks/one").await;
    world.ready("eventhooks/two").await;
    let mut key_ring = key_rings.get(KEY_RING).await.unwrap();
    assert_eq!(key_ring.data.as_ref().unwrap().len(), 1);
    let secrets: Vec<_> = world.kong.hooks().await.iter().map(|h| h["config"]["secret"].clone()).collect();
    assert_ne!(secrets[0], secrets[1], "each hook has its own secret");

    // A restart keeps the key ring.
    world.stop_operator().await;
    world.start_operator();
    world.request("evh/one", "after-restart").await;
    let is_handled =
        |o: &serde_json::Value| o["status"]["handled"]["reconcileRequestedAt"] == "after-restart";
    world.until("eventhooks/one", "handled", is_handled).await;
    assert_eq!(key_rings.get(KEY_RING).await.unwrap().data, key_ring.data);

    world.stop_operator().await;
    key_rings.delete(KEY_RING, &DeleteParams::default()).await.unwrap();
    world.start_operator();
    world.apply(&[world.hook("new")]).await;
    for path in ["eventhooks/one", "eventhooks/two", "eventhooks/new"] {
        let object = world.not_ready(path, "KeyRing").await;
        let text = message(&object);
        assert!(text.contains("restore it") && text.contains(KEY_RING), "{text}");
    }
    world.event("one", "KeyRing").await;
    is_exported(&world, "hookstream_key_ring_missing 1").await;
    assert!(
        key_rings.get_opt(KEY_RING).await.unwrap().is_none(),
        "it is not recreated while hooks depend on the old one"
    );
    // Deleting a hook needs no key ring.
    world.kubectl(&["delete", "evh/two", "--timeout=30s"]).await;

    key_ring.metadata.resource_version = None;
    key_ring.metadata.uid = None;
    key_rings.create(&PostParams::default(), &key_ring).await.unwrap();
    world.ready("eventhooks/one").await;
    world.ready("eventhooks/new").await;
    is_exported(&world, "hookstream_key_ring_missing 0").await;
    let secrets_now: Vec<_> =
        world.kong.hooks().await.iter().map(|h| h["config"]["secret"].clone()).collect();
    assert!(secrets_now.iter().any(|s| secrets.contains(s)), "a hook lost its secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_restores_deleted_key_ring() {
    let world = World::with("ring-restored", Setup { resync: Some("1s"), ..Setup::default() }).await;
    let key_rings: Api<Secret> = Api::namespaced(world.client.clone(), &world.home.name);
    world.apply(&[world.connection(), world.hook("one")]).await;
    world.ready("eventhooks/one").await;
    let key_ring = key_rings.get(KEY_RING).await.unwrap();
    let hook = world.kong.only_hook().await;
    key_rings.delete(KEY_RING, &DeleteParams::default()).await.unwrap();
    let restored = eventually(DEADLINE, "the key ring", async || {
        key_rings.get(KEY_RING).await.map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(restored.data, key_ring.data);
    let event = world.event("one", "KeyRing").await;
    assert!(event["note"].as_str().unwrap().contains("restored from memory"), "{event:#}");
    assert_eq!(event["type"], "Warning");
    world.ready("eventhooks/one").await;
    assert_eq!(world.kong.only_hook().await, hook, "the relay keeps its secret");
    world.assert_hides(&[hook["config"]["secret"].as_str().unwrap()]).await;

    // Replacing the keys revokes them: the relay gets a secret of the new one, and deletions stay undone.
    let data = json!({"k9": BASE64_STANDARD.encode([7_u8; 32])});
    let patch = json!([{"op": "replace", "path": "/data", "value": data}]).to_string();
    world.home.kubectl(&["patch", "secret", KEY_RING, "--type=json", "-p", &patch]).await.unwrap();
    let is_revoked =
        |hooks: &[Value]| hooks.len() == 1 && hooks[0]["config"]["secret"] != hook["config"]["secret"];
    world.kong.until_hooks("a secret of the new key", is_revoked).await;
    assert_eq!(key_rings.get(KEY_RING).await.unwrap().data.unwrap().len(), 1, "the old key is not restored");
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_is_found_although_nothing_is_reconciled() {
    let flags = ["--key-ring-check-interval", "1s"];
    let world = World::with("ring-checked", Setup { flags: &flags, ..Setup::default() }).await;
    let key_rings: Api<Secret> = Api::namespaced(world.client.clone(), &world.home.name);
    world.apply(&[world.connection(), world.hook("one")]).await;
    world.ready("eventhooks/one").await;
    let key_ring = key_rings.get(KEY_RING).await.unwrap();
    key_rings.delete(KEY_RING, &DeleteParams::default()).await.unwrap();
    // No object changes, and the next resync is minutes away.
    let restored = eventually(DEADLINE, "the key ring", async || {
        key_rings.get(KEY_RING).await.map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(restored.data, key_ring.data);
    let event = world.event("one", "KeyRing").await;
    assert_eq!(event["type"], "Warning", "{event:#}");
    is_exported(&world, "hookstream_key_ring_restores_total 1").await;
    is_exported(&world, "hookstream_key_ring_missing 0").await;
    world.ready("eventhooks/one").await;
}

/// Waits until the operator exports this sample.
async fn is_exported(world: &World, sample: &str) {
    eventually(DEADLINE, sample, async || {
        let metrics = world.metrics().await?;
        let key_ring: Vec<_> = metrics.lines().filter(|line| line.contains("key_ring")).collect();
        if key_ring.contains(&sample) { Ok(()) } else { Err(format!("{key_ring:#?}")) }
    })
    .await;
}

/// Which stream an interrupted create made cannot be known without the keys.
#[tokio::test(flavor = "multi_thread")]
async fn lost_key_ring_does_not_block_deletion() {
    let flags = ["--credentials-patience", "2s"];
    let mut world = World::with("ring-pending", Setup { flags: &flags, ..Setup::default() }).await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    world.apply(&[world.connection(), world.hook("keyed")]).await;
    world.ready("eventhooks/keyed").await;
    world.ready("connections/auth0").await;
    world.stop_operator().await;
    let key_rings: Api<Secret> = Api::namespaced(world.client.clone(), &world.home.name);
    key_rings.delete(KEY_RING, &DeleteParams::default()).await.unwrap();
    let mut pending: Value = stream("pending", json!({"worker": {}}));
    pending["metadata"]["finalizers"] = json!(["hookstream.dev/cleanup"]);
    pending["metadata"]["annotations"] =
        json!({"hookstream.dev/pending-create": r#"{"name":"pending","hash":"k:1"}"#});
    world.apply(&[pending]).await;
    world.start_operator();
    world.not_ready("eventstreams/pending", "KeyRing").await;
    world.kubectl(&["delete", "evs/pending", "--timeout=60s"]).await;
    world.event("pending", "Orphaned").await;
}
