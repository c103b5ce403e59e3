//! Extensibility Hooks of Auth0: their life by kubectl, their secrets, one enabled hook a trigger, and their end.

use serde_json::{Value, json};

use crate::auth0_streams::connect;
use crate::world::{Auth0, World, condition, message, object, secret};

pub fn hook(name: &str, extra: Value) -> Value {
    let mut spec = json!({"connectionRef": {"name": "auth0"}, "name": name, "triggerId": "credentials-exchange",
        "script": "module.exports = 1"});
    crate::standalone::merge(&mut spec, extra);
    object("Hook", name, spec)
}

fn from_secret(name: &str, key: &str) -> Value {
    json!({"name": name, "secretRef": {"name": "keys", "key": key}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_lives_with_its_script_and_secrets() {
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
    let kept = auth0.kept_hooks().await.remove(0);
    assert_eq!((&kept["script"], &kept["enabled"]), (&json!("one"), &json!(true)));
    assert_eq!(kept["secrets"], json!({"A": "v4lue-a", "B": "v4lue-b"}));
    assert_eq!(kept["dependencies"], json!({"lodash": "4.17.21"}));
    assert_eq!(object["status"]["external"]["id"], kept["id"]);
    let warning = condition(&object, "EndOfLife");
    assert_eq!(warning["status"], "True");
    assert!(warning["message"].as_str().unwrap().contains("18 November 2026"), "{warning}");
    world.event("claims", "HooksEnded").await;

    // ConfigMap and Secret reach Auth0 by themselves; secrets are told apart by their hash, and none is sent without need.
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
    let path = format!("/api/v2/hooks/{}/secrets", kept["id"].as_str().unwrap());
    for (method, times) in [("PATCH", 1), ("POST", 1), ("DELETE", 1)] {
        assert_eq!(auth0.count(method, &path).await, times, "{method}");
    }

    // What somebody else changes is repaired, a dependency and an extra secret too.
    let id = kept["id"].as_str().unwrap();
    auth0.patch_hook(id, json!({"dependencies": {"lodash": "4.17.21", "left-pad": "1.0.0"}})).await;
    auth0.call("POST", &path, Some(json!({"EXTRA": "x"}))).await;
    world.request("hook.hookstream.dev/claims", "t1").await;
    let done = |o: &Value| o["status"]["handled"]["reconcileRequestedAt"] == "t1";
    world.until("hooks/claims", "acknowledged", done).await;
    let repaired = auth0.kept_hooks().await.remove(0);
    assert_eq!(repaired["dependencies"], json!({"lodash": "4.17.21"}));
    assert_eq!(repaired["secrets"], json!({"A": "v4lue-a", "NEW": "v4lue-a"}));
    let event = world.event("claims", "DriftRepaired").await;
    assert!(event["note"].as_str().unwrap().contains("dependencies"), "{event:#}");
    let warned = world.events("claims").await.iter().filter(|e| e["reason"] == "HooksEnded").count();
    assert_eq!(warned, 1, "one Event, not one a look");

    let text = world.get("hooks/claims").await.unwrap().to_string();
    assert!(!text.contains("v4lue"), "{text}");
    world.shows_none_of(&["v4lue-a", "v4lue-b", "v4lue-c"]).await;
    world.kubectl(&["delete", "hook.hookstream.dev/claims", "conn/auth0", "--timeout=30s"]).await;
    assert_eq!(auth0.kept_hooks().await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_one_trigger_one_hook_is_enabled_and_nobody_fights() {
    let world = World::start("hooks-trigger").await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    world.apply(&[hook("first", json!({}))]).await;
    world.ready("hooks/first").await;
    world.apply(&[hook("second", json!({}))]).await;
    let object = world.not_ready("hooks/second", "TriggerTaken").await;
    assert!(message(&object).contains("disable first ("), "{object:#}");
    assert_eq!(auth0.kept_hooks().await.len(), 1);
    world.apply(&[hook("second", json!({"enabled": false}))]).await;
    world.ready("hooks/second").await;
    let enabled =
        |hooks: &[Value], name: &str| hooks.iter().any(|h| h["name"] == name && h["enabled"] == true);
    let hooks = auth0.kept_hooks().await;
    assert!(enabled(&hooks, "first") && !enabled(&hooks, "second"), "{hooks:#?}");
    // The two change places.
    world.edit("hook.hookstream.dev/second", json!({"enabled": true})).await;
    world.not_ready("hooks/second", "TriggerTaken").await;
    world.edit("hook.hookstream.dev/first", json!({"enabled": false})).await;
    world.ready("hooks/first").await;
    world.ready("hooks/second").await;
    let hooks = auth0.kept_hooks().await;
    assert!(!enabled(&hooks, "first") && enabled(&hooks, "second"), "{hooks:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_adoption_and_orphans() {
    let world = World::start("hooks-adopt").await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    world.apply(&[secret("keys", "a", "v4lue")]).await;
    world.ready("connections/auth0").await;
    // The create is cut off after each of its calls in turn.
    for (path, method) in [("/api/v2/hooks", "POST"), ("/api/v2/hooks", "PATCH")] {
        auth0.fault(json!({"method": method, "path": path, "dropAnswer": true, "times": 1})).await;
        world.apply(&[hook("lost", json!({"secrets": [from_secret("A", "a")]}))]).await;
        world.ready("hooks/lost").await;
        let kept = auth0.kept_hooks().await;
        assert_eq!(
            (kept.len(), &kept[0]["secrets"]["A"], &kept[0]["enabled"]),
            (1, &json!("v4lue"), &json!(true))
        );
        world.kubectl(&["delete", "hook.hookstream.dev/lost", "--timeout=30s"]).await;
        assert_eq!(auth0.kept_hooks().await, Vec::<Value>::new());
        auth0.no_faults().await;
    }

    let there = auth0
        .create_hook(json!({"name": "there", "triggerId": "credentials-exchange", "script": "theirs", "enabled": true}))
        .await;
    let id = there["id"].as_str().unwrap();
    world.apply(&[hook("there", json!({}))]).await;
    let why = world.stalled("hooks/there", "Conflict").await;
    assert!(why.contains(id), "{why}");
    world.kubectl(&["delete", "hook.hookstream.dev/there", "--timeout=30s"]).await;
    world.apply(&[hook("there", json!({"managementPolicy": "ObserveOnly"}))]).await;
    let why = world.stalled("hooks/there", "Differs").await;
    assert!(why.contains("script"), "{why}");
    world.kubectl(&["delete", "hook.hookstream.dev/there", "--timeout=30s"]).await;
    let adopt = json!({"adopt": {"id": id, "mode": "Override"}, "deletionPolicy": "Orphan"});
    world.apply(&[hook("there", adopt)]).await;
    world.ready("hooks/there").await;
    assert_eq!(auth0.kept_hooks().await[0]["script"], "module.exports = 1");
    world.kubectl(&["delete", "hook.hookstream.dev/there", "--timeout=30s"]).await;
    assert_eq!(auth0.kept_hooks().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_is_gone_is_the_end() {
    for status in ["403", "404", "410"] {
        let world = World::start("hooks-gone").await;
        let auth0 = Auth0::start(&["--hooks-gone", status]).await;
        connect(&world, &auth0).await;
        world.apply(&[hook("late", json!({}))]).await;
        let why = world.stalled("hooks/late", "EndOfLife").await;
        assert!(why.contains("Action"), "{why}");
        world.kubectl(&["delete", "hook.hookstream.dev/late", "--timeout=30s"]).await;
    }
}
