//! Adoption of existing objects, observation, and moves. The controller changes nothing that it was not asked to manage.

use serde_json::{Value, json};

use crate::harness::Kong;
use crate::harness::manifests::merged;
use crate::harness::objects::{condition, message, secret};
use crate::harness::world::{Setup, World};

const ID: &str = "11111111-2222-4333-8444-555555555555";
const OTHER_ID: &str = "66666666-2222-4333-8444-555555555555";

/// Creates a hook at Kong as another client would.
async fn create_at_kong(world: &World, id: &str, event: &str) {
    let config = json!({"url": "http://receiver.test/", "headers": {"x-team": "a"}, "secret": "s1gned"});
    world
        .kong
        .create(json!({"id": id, "source": "crud", "event": event, "handler": "webhook", "config": config}))
        .await;
}

/// Returns an EventHook with the same content that adopts that hook.
fn adopting_hook(world: &World, name: &str, id: &str, extra: Value) -> Value {
    let webhook = json!({"url": "http://receiver.test/", "headers": {"x-team": "a"},
        "signature": {"secretRef": {"name": "signing", "key": "secret"}}});
    let spec = json!({"deliverBy": "Gateway", "handler": {"webhook": webhook}, "adopt": {"id": id, "mode": "Match"}});
    world.hook_with(name, merged(spec, extra))
}

async fn start(hint: &str, resync: Option<&str>) -> World {
    let world = World::with(hint, Setup { resync, ..Setup::default() }).await;
    world.apply(&[world.connection(), secret("signing", "secret", "s1gned")]).await;
    world.ready("connections/kong").await;
    world
}

async fn count_writes(world: &World) -> usize {
    let mut count = 0;
    for method in ["PUT", "PATCH", "DELETE"] {
        count += world.kong.count(method, "/event-hooks").await;
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn match_adopts_equal_hook_without_write() {
    let world = start("match", Some("1s")).await;
    create_at_kong(&world, ID, "consumers").await;
    create_at_kong(&world, OTHER_ID, "routes").await;
    let hooks_before = world.kong.hooks().await;
    world
        .apply(&[
            adopting_hook(&world, "agrees", ID, json!({})),
            adopting_hook(&world, "differs", OTHER_ID, json!({"snooze": {"period": "5s"}})),
            adopting_hook(&world, "nowhere", "77777777-2222-4333-8444-555555555555", json!({})),
        ])
        .await;
    let object = world.ready("eventhooks/agrees").await;
    assert_eq!(object["status"]["external"]["id"], ID);
    let text = world.stalled("eventhooks/differs", "Differs").await;
    assert!(text.contains("event, snooze") && text.contains("adopt.mode: Match"), "{text}");
    let differs = world.get("eventhooks/differs").await.unwrap();
    assert!(
        differs["metadata"]["finalizers"].is_null(),
        "a hook that was not adopted has no finalizer: {differs:#}"
    );
    assert_eq!(condition(&differs, "Synced")["status"], "False");
    let text = world.stalled("eventhooks/nowhere", "AdoptNotFound").await;
    assert!(text.contains("77777777"), "{text}");
    assert_eq!(world.kong.hooks().await, hooks_before);
    assert_eq!(count_writes(&world).await, 0);

    // Deleting an object that adopted nothing leaves the hook at Kong. Once corrected, the object adopts it.
    world.kubectl(&["delete", "evh/nowhere", "--timeout=30s"]).await;
    world.edit("evh/differs", json!({"event": "routes", "snooze": null})).await;
    world.ready("eventhooks/differs").await;
    assert_eq!(count_writes(&world).await, 0);
    // An adopted hook is managed: edits and the deletion reach Kong.
    world.edit("evh/agrees", json!({"event": "services"})).await;
    world.ready("eventhooks/agrees").await;
    world.kubectl(&["delete", "evh/agrees", "--timeout=30s"]).await;
    let remaining_hooks = world.kong.hooks().await;
    assert_eq!((remaining_hooks.len(), &remaining_hooks[0]["id"]), (1, &json!(OTHER_ID)));
    world.assert_hides(&["s1gned"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn override_adopts_unless_another_object_did() {
    let world = start("override", None).await;
    create_at_kong(&world, ID, "sessions").await;
    let mode = json!({"adopt": {"mode": "Override"}});
    world.apply(&[adopting_hook(&world, "first", ID, mode.clone())]).await;
    world.ready("eventhooks/first").await;
    let hook = world.kong.only_hook().await;
    assert_eq!((&hook["id"], &hook["event"]), (&json!(ID), &json!("consumers")));
    assert!(world.events("first").await.iter().all(|e| e["reason"] != "DriftRepaired"), "there was no drift");

    world.apply(&[adopting_hook(&world, "second", ID, mode)]).await;
    let text = world.stalled("eventhooks/second", "Held").await;
    assert!(text.contains("/first"), "{text}");
    world.kubectl(&["delete", "evh/second", "--timeout=30s"]).await;
    world.kong.only_hook().await;

    // The adopted hook can become a relay. If another client deletes it, it is recreated with the same id.
    world
        .edit(
            "evh/first",
            json!({"deliverBy": "Worker", "handler": {"webhook": {"signature": {"scheme": "Kong"}}}}),
        )
        .await;
    world.ready("eventhooks/first").await;
    let hook = world.kong.only_hook().await;
    assert!(hook["config"]["url"].as_str().unwrap().contains("/relays/first?installation="), "{hook:#}");
    world.kong.delete(ID).await;
    world.request("evh/first", "again").await;
    world.kong.until_hooks("the hook again", |h| h.len() == 1 && h[0]["id"] == ID).await;

    // The API server rejects a new connectionRef or id, because it would be another external object.
    for (spec, expected) in [
        (json!({"connectionRef": {"name": "other"}}), "connectionRef is immutable"),
        (json!({"adopt": {"id": OTHER_ID}}), "adopt.id is immutable"),
    ] {
        let patch = json!({ "spec": spec }).to_string();
        let result = world.namespace.kubectl(&["patch", "evh/first", "--type=merge", "-p", &patch]).await;
        assert!(result.unwrap_err().contains(expected));
    }
    world.kubectl(&["delete", "evh/first", "--timeout=30s"]).await;
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn observe_only_reports_drift_and_writes_nothing() {
    let world = start("observe", Some("1s")).await;
    create_at_kong(&world, ID, "consumers").await;
    world.apply(&[adopting_hook(&world, "watches", ID, json!({"managementPolicy": "ObserveOnly"}))]).await;
    let object = world.ready("eventhooks/watches").await;
    assert_eq!(object["status"]["external"]["id"], ID);
    assert!(object["metadata"]["finalizers"].is_null(), "an observed hook needs no cleanup: {object:#}");

    world.kong.patch(ID, json!({"event": "routes", "config": {"secret": "an0ther"}})).await;
    let drifted = world.not_ready("eventhooks/watches", "Differs").await;
    assert_eq!(condition(&drifted, "Synced")["status"], "False", "{drifted:#}");
    assert!(
        message(&drifted).contains("config.secret") && message(&drifted).contains("event"),
        "{drifted:#}"
    );
    assert_eq!(drifted["status"]["external"]["id"], ID);
    world.kong.patch(ID, json!({"event": "consumers", "config": {"secret": "s1gned"}})).await;
    world.ready("eventhooks/watches").await;
    world.kong.delete(ID).await;
    let text = world.stalled("eventhooks/watches", "AdoptNotFound").await;
    assert!(text.contains(ID), "{text}");
    create_at_kong(&world, ID, "consumers").await;
    world.ready("eventhooks/watches").await;
    world.kubectl(&["delete", "evh/watches", "--timeout=30s"]).await;
    world.kong.only_hook().await;
    // The three writes are the test's own: two patches and a delete.
    assert_eq!(count_writes(&world).await, 3);
    world.assert_hides(&["s1gned", "an0ther"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_runs_all_handlers_that_connection_allows() {
    let world = World::start("handlers").await;
    let all = ["Webhook", "WebhookCustom", "Log", "Lambda"];
    let lambda = json!({"lambda": {"functions": ["return function(data) return true end"]}});
    let custom = json!({"webhookCustom": {"url": "http://receiver.test/", "method": "PUT",
        "body": "{{ entity.id }}", "headers": {"a": "b"}}});
    let hook = |name: &str, handler: &Value| {
        let handler = merged(json!({"webhook": null}), handler.clone());
        world.hook_with(name, json!({"deliverBy": "Gateway", "event": null, "handler": handler}))
    };
    world
        .apply(&[
            world.connection(),
            hook("log", &json!({"log": {}})),
            hook("lambda", &lambda),
            hook("custom", &custom),
        ])
        .await;
    world.ready("eventhooks/log").await;
    for name in ["lambda", "custom"] {
        let text = world.stalled(&format!("eventhooks/{name}"), "HandlerNotAllowed").await;
        assert!(text.contains("gatewayHandlers"), "{text}");
    }
    world.edit("conn/kong", json!({"kong": {"gatewayHandlers": all}})).await;
    for name in ["lambda", "custom"] {
        world.ready(&format!("eventhooks/{name}")).await;
    }
    let hooks = world.kong.hooks().await;
    let config_of = |handler: &str| &hooks.iter().find(|h| h["handler"] == handler).unwrap()["config"];
    assert_eq!(config_of("log"), &json!({}));
    assert_eq!(config_of("lambda")["functions"], json!(["return function(data) return true end"]));
    let config = config_of("webhook-custom");
    assert_eq!((&config["method"], &config["body_format"]), (&json!("PUT"), &json!(true)));

    // A handler that changes to another kind keeps its hook.
    let log = json!({"handler": {"webhookCustom": null, "log": {}}});
    world.edit("evh/custom", log).await;
    world.ready("eventhooks/custom").await;
    assert_eq!(world.kong.hooks().await.iter().filter(|h| h["handler"] == "log").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn warns_about_unknown_source() {
    let world = World::start("sources").await;
    world
        .apply(&[
            world.connection(),
            world.hook("known"),
            world.hook_with("typo", json!({"source": "crudd"})),
            world.hook_with("event", json!({"event": "consumer"})),
        ])
        .await;
    let source_known = |object: &Value| condition(object, "SourceKnown");
    assert_eq!(source_known(&world.ready("eventhooks/known").await)["status"], "True");
    for (name, expected) in [("typo", "not list the source crudd"), ("event", "not list the event consumer")]
    {
        let object = world.ready(&format!("eventhooks/{name}")).await;
        assert_eq!(source_known(&object)["status"], "False", "{object:#}");
        assert!(source_known(&object)["message"].as_str().unwrap().contains(expected), "{object:#}");
    }
    world.edit("evh/typo", json!({"source": "crud"})).await;
    assert_eq!(source_known(&world.ready("eventhooks/typo").await)["status"], "True");
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_for_other_finalizers() {
    let world = World::start("finalizers").await;
    world.apply(&[world.connection(), world.hook("shared")]).await;
    world.ready("eventhooks/shared").await;
    let patch = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}}).to_string();
    let both = patch(json!(["example.com/mine", "hookstream.dev/cleanup"]));
    world.kubectl(&["patch", "evh/shared", "--type=merge", "-p", &both]).await;
    world.kubectl(&["delete", "evh/shared", "--wait=false"]).await;
    let object = world.not_ready("eventhooks/shared", "OtherFinalizers").await;
    assert!(message(&object).contains("example.com/mine"), "{object:#}");
    world.kong.only_hook().await;
    let ours = patch(json!(["hookstream.dev/cleanup"]));
    world.kubectl(&["patch", "evh/shared", "--type=merge", "-p", &ours]).await;
    world.wait_until_deleted("eventhooks/shared").await;
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn address_change_deletes_hook_at_old_address() {
    let world = World::start("moved").await;
    world
        .apply(&[
            world.connection(),
            world.hook("moves"),
            world.hook_with("stays", json!({"event": "b", "deletionPolicy": "Orphan"})),
        ])
        .await;
    world.ready("eventhooks/moves").await;
    world.ready("eventhooks/stays").await;
    let new_kong = Kong::start(&[]).await;
    world.edit("conn/kong", json!({"kong": {"adminUrl": new_kong.url}})).await;
    new_kong.until_hooks("both hooks", |hooks| hooks.len() == 2).await;
    world.kong.until_hooks("only the orphaned hook", |h| h.len() == 1 && h[0]["event"] == "b").await;
    let is_moved = |o: &Value| o["status"]["external"]["endpoint"] == new_kong.url.as_str();
    let moved = world.until("eventhooks/moves", "at the new address", is_moved).await;
    assert_eq!(moved["status"]["conditions"].as_array().map(Vec::len), Some(5), "{moved:#}");

    // Another DNS name of the same gateway is not a move.
    let (puts, deletes) = (new_kong.count("PUT", "/").await, new_kong.count("DELETE", "/").await);
    let alias = format!("{}/", new_kong.url.replace("127.0.0.1", "localhost"));
    world.edit("conn/kong", json!({"kong": {"adminUrl": alias}})).await;
    let is_renamed = |o: &Value| o["status"]["external"]["endpoint"].as_str().unwrap().contains("localhost");
    world.until("eventhooks/moves", "at the other name", is_renamed).await;
    assert_eq!((new_kong.count("PUT", "/").await, new_kong.count("DELETE", "/").await), (puts, deletes));
    world.kubectl(&["delete", "evh/moves", "evh/stays", "--timeout=30s"]).await;
    assert_eq!(new_kong.count("DELETE", "/").await, deletes + 1);
    assert_eq!(new_kong.hooks().await.len(), 1, "the hook with the policy Orphan stays");
}
