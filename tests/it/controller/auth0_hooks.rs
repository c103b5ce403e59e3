//! Extensibility Hooks of Auth0: lifecycle, secrets, one enabled hook for a trigger, and the end of the API.

use serde_json::{Value, json};

use crate::harness::Auth0;
use crate::harness::auth0_objects::{connect, hook};
use crate::harness::objects::{condition, message, secret};
use crate::harness::world::World;

fn from_secret(name: &str, key: &str) -> Value {
    json!({"name": name, "secretRef": {"name": "keys", "key": key}})
}

#[tokio::test(flavor = "multi_thread")]
async fn syncs_script_and_secrets_and_repairs_drift() {
    let world = World::start("hooks").await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    let scripts = |text: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "scripts"}, "data": {"a.js": text}});
    let keys = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"},
        "stringData": {"a": "v4lue-a", "b": "v4lue-b"}});
    let claims = hook(
        "claims",
        json!({"script": null, "scriptConfigMapRef": {"name": "scripts", "key": "a.js"},
               "dependencies": {"lodash": "4.17.21"}, "secrets": [from_secret("A", "a"), from_secret("B", "b")]}),
    );
    world.apply(&[keys, scripts("one"), claims]).await;
    let object = world.ready("hooks/claims").await;
    let stored_hook = auth0.stored_hooks().await.remove(0);
    assert_eq!((&stored_hook["script"], &stored_hook["enabled"]), (&json!("one"), &json!(true)));
    assert_eq!(stored_hook["secrets"], json!({"A": "v4lue-a", "B": "v4lue-b"}));
    assert_eq!(stored_hook["dependencies"], json!({"lodash": "4.17.21"}));
    assert_eq!(object["status"]["external"]["id"], stored_hook["id"]);
    let warning = condition(&object, "EndOfLife");
    assert_eq!(warning["status"], "True");
    assert!(warning["message"].as_str().unwrap().contains("18 November 2026"), "{warning}");
    world.event("claims", "HooksEnded").await;

    // Changes of ConfigMap and Secret reach Auth0. Secrets are compared by hash, and only changed ones are sent.
    world.apply(&[scripts("two")]).await;
    auth0.until_hooks("the new script", |h| h[0]["script"] == "two").await;
    auth0.forget_requests().await;
    world.kubectl(&["patch", "secret/keys", "-p", r#"{"stringData":{"b":"v4lue-c"}}"#]).await;
    auth0.until_hooks("the new secret", |h| h[0]["secrets"] == json!({"A": "v4lue-a", "B": "v4lue-c"})).await;
    world
        .edit(
            "hook.hookstream.dev/claims",
            json!({"secrets": [from_secret("A", "a"), from_secret("NEW", "a")]}),
        )
        .await;
    auth0.until_hooks("the new list", |h| h[0]["secrets"] == json!({"A": "v4lue-a", "NEW": "v4lue-a"})).await;
    world.ready("hooks/claims").await;
    let path = format!("/api/v2/hooks/{}/secrets", stored_hook["id"].as_str().unwrap());
    for (method, count) in [("PATCH", 1), ("POST", 1), ("DELETE", 1)] {
        assert_eq!(auth0.count(method, &path).await, count, "{method}");
    }

    // Drift is repaired, an added dependency and an added secret included.
    let id = stored_hook["id"].as_str().unwrap();
    auth0.patch_hook(id, json!({"dependencies": {"lodash": "4.17.21", "left-pad": "1.0.0"}})).await;
    auth0.call("POST", &path, Some(json!({"EXTRA": "x"}))).await;
    world.request("hook.hookstream.dev/claims", "t1").await;
    let is_acknowledged = |o: &Value| o["status"]["handled"]["reconcileRequestedAt"] == "t1";
    world.until("hooks/claims", "acknowledged", is_acknowledged).await;
    let repaired = auth0.stored_hooks().await.remove(0);
    assert_eq!(repaired["dependencies"], json!({"lodash": "4.17.21"}));
    assert_eq!(repaired["secrets"], json!({"A": "v4lue-a", "NEW": "v4lue-a"}));
    let event = world.event("claims", "DriftRepaired").await;
    assert!(event["note"].as_str().unwrap().contains("dependencies"), "{event:#}");
    let warnings = world.events("claims").await.iter().filter(|e| e["reason"] == "HooksEnded").count();
    assert_eq!(warnings, 1, "one Event, not one for each reconcile");

    let text = world.get("hooks/claims").await.unwrap().to_string();
    assert!(!text.contains("v4lue"), "{text}");
    world.assert_hides(&["v4lue-a", "v4lue-b", "v4lue-c"]).await;
    world.kubectl(&["delete", "hook.hookstream.dev/claims", "conn/auth0", "--timeout=30s"]).await;
    assert_eq!(auth0.stored_hooks().await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn enables_one_hook_per_trigger() {
    let world = World::start("hooks-trigger").await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    world.apply(&[hook("first", json!({}))]).await;
    world.ready("hooks/first").await;
    world.apply(&[hook("second", json!({}))]).await;
    let object = world.not_ready("hooks/second", "TriggerTaken").await;
    assert!(message(&object).contains("disable first ("), "{object:#}");
    assert_eq!(auth0.stored_hooks().await.len(), 1);
    world.apply(&[hook("second", json!({"enabled": false}))]).await;
    world.ready("hooks/second").await;
    let is_enabled =
        |hooks: &[Value], name: &str| hooks.iter().any(|h| h["name"] == name && h["enabled"] == true);
    let hooks = auth0.stored_hooks().await;
    assert!(is_enabled(&hooks, "first") && !is_enabled(&hooks, "second"), "{hooks:#?}");
    // The two hooks swap.
    world.edit("hook.hookstream.dev/second", json!({"enabled": true})).await;
    world.not_ready("hooks/second", "TriggerTaken").await;
    world.edit("hook.hookstream.dev/first", json!({"enabled": false})).await;
    world.ready("hooks/first").await;
    world.ready("hooks/second").await;
    let hooks = auth0.stored_hooks().await;
    assert!(!is_enabled(&hooks, "first") && is_enabled(&hooks, "second"), "{hooks:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn survives_lost_answers_adopts_and_orphans() {
    let world = World::start("hooks-adopt").await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    world.apply(&[secret("keys", "a", "v4lue")]).await;
    world.ready("connections/auth0").await;
    // Each call of the create loses its answer in turn.
    for (path, method) in [("/api/v2/hooks", "POST"), ("/api/v2/hooks", "PATCH")] {
        auth0.fault(json!({"method": method, "path": path, "dropAnswer": true, "times": 1})).await;
        world.apply(&[hook("lost", json!({"secrets": [from_secret("A", "a")]}))]).await;
        world.ready("hooks/lost").await;
        let stored_hook = auth0.stored_hooks().await;
        assert_eq!(
            (stored_hook.len(), &stored_hook[0]["secrets"]["A"], &stored_hook[0]["enabled"]),
            (1, &json!("v4lue"), &json!(true))
        );
        world.kubectl(&["delete", "hook.hookstream.dev/lost", "--timeout=30s"]).await;
        assert_eq!(auth0.stored_hooks().await, Vec::<Value>::new());
        auth0.clear_faults().await;
    }

    let existing = auth0
        .create_hook(json!({"name": "there", "triggerId": "credentials-exchange", "script": "theirs", "enabled": true}))
        .await;
    let id = existing["id"].as_str().unwrap();
    world.apply(&[hook("there", json!({}))]).await;
    let text = world.stalled("hooks/there", "Conflict").await;
    assert!(text.contains(id), "{text}");
    world.kubectl(&["delete", "hook.hookstream.dev/there", "--timeout=30s"]).await;
    world.apply(&[hook("there", json!({"managementPolicy": "ObserveOnly"}))]).await;
    let text = world.stalled("hooks/there", "Differs").await;
    assert!(text.contains("script"), "{text}");
    world.kubectl(&["delete", "hook.hookstream.dev/there", "--timeout=30s"]).await;
    let adopt = json!({"adopt": {"id": id, "mode": "Override"}, "deletionPolicy": "Orphan"});
    world.apply(&[hook("there", adopt)]).await;
    world.ready("hooks/there").await;
    assert_eq!(auth0.stored_hooks().await[0]["script"], "module.exports = 1");
    world.kubectl(&["delete", "hook.hookstream.dev/there", "--timeout=30s"]).await;
    assert_eq!(auth0.stored_hooks().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn stalls_when_hooks_api_has_ended() {
    for status in ["403", "404", "410"] {
        let world = World::start("hooks-ended").await;
        let auth0 = Auth0::start(&["--hooks-gone", status]).await;
        connect(&world, &auth0).await;
        world.apply(&[hook("late", json!({}))]).await;
        let text = world.stalled("hooks/late", "EndOfLife").await;
        assert!(text.contains("Action"), "{text}");
        world.kubectl(&["delete", "hook.hookstream.dev/late", "--timeout=30s"]).await;
    }
}
