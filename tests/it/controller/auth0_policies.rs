//! Policies of streams and Hooks: suspension, immutable references, deletion policies.

use serde_json::{Value, json};

use crate::harness::Auth0;
use crate::harness::auth0_objects::{connect, hook, stream};
use crate::harness::objects::object;
use crate::harness::world::{Setup, World};

#[tokio::test(flavor = "multi_thread")]
async fn suspended_objects_are_unchanged_until_deleted() {
    let world = World::with("auth0-suspend", Setup { resync: Some("1s"), ..Setup::default() }).await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    world.apply(&[stream("s", json!({"worker": {}})), hook("h", json!({}))]).await;
    let (evs, hk) = ("evs/s", "hook.hookstream.dev/h");
    let objects_before = [world.ready("eventstreams/s").await, world.ready("hooks/h").await];
    world.edit(evs, json!({"suspend": true, "name": "renamed"})).await;
    world.edit(hk, json!({"suspend": true, "script": "2"})).await;
    for path in [evs, hk] {
        world.request(path, "while-suspended").await;
    }
    // Drift is not repaired while suspended.
    let id = |object: &Value| object["status"]["external"]["id"].as_str().unwrap().to_owned();
    auth0.patch_stream(&id(&objects_before[0]), json!({"name": "theirs"})).await;
    auth0.patch_hook(&id(&objects_before[1]), json!({"script": "theirs"})).await;
    // An object that was applied later has been reconciled.
    let fence = json!({"triggerId": "post-change-password"});
    world.apply(&[stream("fence", json!({"worker": {}})), hook("fence", fence)]).await;
    world.ready("eventstreams/fence").await;
    world.ready("hooks/fence").await;
    let streams = auth0.stored_streams().await;
    assert!(streams.iter().any(|s| s["name"] == "theirs"), "{streams:#?}");
    assert!(auth0.stored_hooks().await.iter().any(|h| h["script"] == "theirs"));
    for (path, object_before) in ["eventstreams/s", "hooks/h"].iter().zip(&objects_before) {
        let current = world.not_ready(path, "Suspended").await;
        assert_eq!(current["status"]["external"], object_before["status"]["external"]);
        assert!(current["status"]["handled"].is_null(), "{current:#}");
    }
    world.edit(evs, json!({"suspend": false})).await;
    world.edit(hk, json!({"suspend": null})).await;
    world.ready("eventstreams/s").await;
    world.ready("hooks/h").await;
    assert!(auth0.stored_streams().await.iter().any(|s| s["name"] == "renamed"));
    assert!(auth0.stored_hooks().await.iter().any(|h| h["script"] == "2"));

    for path in [evs, hk] {
        world.edit(path, json!({"suspend": true})).await;
    }
    world.kubectl(&["delete", "evs,hooks.hookstream.dev", "--all", "--timeout=60s"]).await;
    assert_eq!(auth0.stored_streams().await, Vec::<Value>::new());
    assert_eq!(auth0.stored_hooks().await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn references_are_immutable_and_orphans_stay() {
    let world = World::start("auth0-retarget").await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    world.edit("conn/auth0", json!({"deletionPolicy": "Orphan"})).await;
    let action = json!({"action": {"actionId": "9c2ba2a9-6e7c-4c43-b3f6-0a4c7b6c7f59"}});
    world
        .apply(&[
            stream("s", json!({"worker": {}})),
            stream("a", action.clone()),
            hook("h", json!({})),
            hook("deleted", json!({"deletionPolicy": "Delete", "triggerId": "post-change-password"})),
        ])
        .await;
    for path in ["eventstreams/s", "eventstreams/a", "hooks/h", "hooks/deleted", "connections/auth0"] {
        world.ready(path).await;
    }
    let other = json!({"connectionRef": {"name": "other"}});
    let adopt = json!({"adopt": {"id": "est_0123456789012345678901", "mode": "Override"}});
    for (path, spec, expected) in [
        ("evs/s", other.clone(), "connectionRef is immutable"),
        ("hook.hookstream.dev/h", other, "connectionRef is immutable"),
        ("evs/s", adopt.clone(), "adopt.id is immutable"),
        ("hook.hookstream.dev/h", adopt, "adopt.id is immutable"),
        ("hook.hookstream.dev/h", json!({"triggerId": "send-phone-message"}), "triggerId is immutable"),
        ("evs/s", json!({"destination": {"worker": null, "action": action["action"]}}), "immutable"),
        ("conn/auth0", json!({"auth0": {"domain": "127.0.0.1:1"}}), "domain is immutable"),
    ] {
        let patch = json!({ "spec": spec }).to_string();
        let result = world.namespace.kubectl(&["patch", path, "--type=merge", "-p", &patch]).await;
        let text = result.expect_err(&format!("{path} {patch}"));
        assert!(text.contains(expected), "{path}: {text}");
    }
    // A Connection accepts a reconcile request and acknowledges it.
    world.request("conn/auth0", "t1").await;
    let is_acknowledged = |o: &Value| o["status"]["handled"]["reconcileRequestedAt"] == "t1";
    world.until("connections/auth0", "acknowledged", is_acknowledged).await;

    world.kubectl(&["delete", "evs,hooks.hookstream.dev", "--all", "--timeout=60s"]).await;
    world.kubectl(&["delete", "conn/auth0", "--timeout=30s"]).await;
    assert_eq!(auth0.stored_streams().await.len(), 2, "by the Connection's deletion policy");
    let hooks = auth0.stored_hooks().await;
    assert_eq!((hooks.len(), &hooks[0]["name"]), (1, &json!("h")), "by the hook's own deletion policy");

    // An orphaned object can be adopted by any object of its kind, but an Auth0 object by no EventHook.
    let hook_of_auth0 = json!({"source": "crud", "connectionRef": {"name": "auth0"}, "handler": {"log": {}}});
    connect(&world, &auth0).await;
    world.apply(&[object("EventHook", "wrong", hook_of_auth0)]).await;
    let text = world.stalled("eventhooks/wrong", "WrongVendor").await;
    assert!(text.contains("not a Kong connection"), "{text}");
}
