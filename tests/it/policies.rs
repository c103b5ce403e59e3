//! Taking over what exists, only looking at it, and moving: nothing that somebody else made is touched unasked.

use serde_json::{Value, json};

use crate::world::{Kong, Setup, World, condition, merged, message, secret};

const ID: &str = "11111111-2222-4333-8444-555555555555";
const OTHER: &str = "66666666-2222-4333-8444-555555555555";

/// A hook at Kong that somebody made by hand.
async fn by_hand(world: &World, id: &str, event: &str) {
    let config = json!({"url": "http://receiver.test/", "headers": {"x-team": "a"}, "secret": "s1gned"});
    world
        .kong
        .create(json!({"id": id, "source": "crud", "event": event, "handler": "webhook", "config": config}))
        .await;
}

/// The same hook as a user declares it.
fn declared(world: &World, name: &str, id: &str, extra: Value) -> Value {
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

async fn writes(world: &World) -> usize {
    let mut count = 0;
    for method in ["PUT", "PATCH", "DELETE"] {
        count += world.kong.count(method, "/event-hooks").await;
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn match_takes_what_agrees_and_writes_nothing() {
    let world = start("match", Some("1s")).await;
    by_hand(&world, ID, "consumers").await;
    by_hand(&world, OTHER, "routes").await;
    let before = world.kong.hooks().await;
    world
        .apply(&[
            declared(&world, "agrees", ID, json!({})),
            declared(&world, "differs", OTHER, json!({"snooze": {"period": "5s"}})),
            declared(&world, "nowhere", "77777777-2222-4333-8444-555555555555", json!({})),
        ])
        .await;
    let object = world.ready("eventhooks/agrees").await;
    assert_eq!(object["status"]["external"]["id"], ID);
    let said = world.stalled("eventhooks/differs", "Differs").await;
    assert!(said.contains("event, snooze") && said.contains("adopt.mode: Match"), "{said}");
    let differs = world.get("eventhooks/differs").await.unwrap();
    assert!(differs["metadata"]["finalizers"].is_null(), "nothing is taken: {differs:#}");
    assert_eq!(condition(&differs, "Synced")["status"], "False");
    let said = world.stalled("eventhooks/nowhere", "AdoptNotFound").await;
    assert!(said.contains("77777777"), "{said}");
    assert_eq!(world.kong.hooks().await, before);
    assert_eq!(writes(&world).await, 0);

    // What was not taken is nobody's: deleted, it stays at Kong. Corrected, it is taken.
    world.kubectl(&["delete", "evh/nowhere", "--timeout=30s"]).await;
    world.edit("evh/differs", json!({"event": "routes", "snooze": null})).await;
    world.ready("eventhooks/differs").await;
    assert_eq!(writes(&world).await, 0);
    // What was taken is ours from then on: edits go there, and so does deletion.
    world.edit("evh/agrees", json!({"event": "services"})).await;
    world.ready("eventhooks/agrees").await;
    world.kubectl(&["delete", "evh/agrees", "--timeout=30s"]).await;
    let left = world.kong.hooks().await;
    assert_eq!((left.len(), &left[0]["id"]), (1, &json!(OTHER)));
    world.shows_none_of(&["s1gned"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn override_takes_over_unless_another_object_has_it() {
    let world = start("override", None).await;
    by_hand(&world, ID, "sessions").await;
    let mode = json!({"adopt": {"mode": "Override"}});
    world.apply(&[declared(&world, "first", ID, mode.clone())]).await;
    world.ready("eventhooks/first").await;
    let hook = world.kong.only_hook().await;
    assert_eq!((&hook["id"], &hook["event"]), (&json!(ID), &json!("consumers")));
    assert!(world.events("first").await.iter().all(|e| e["reason"] != "DriftRepaired"), "nobody drifted");

    world.apply(&[declared(&world, "second", ID, mode)]).await;
    let said = world.stalled("eventhooks/second", "Held").await;
    assert!(said.contains("/first"), "{said}");
    world.kubectl(&["delete", "evh/second", "--timeout=30s"]).await;
    world.kong.only_hook().await;

    // It may go on as a relay; deleted by somebody else, it comes back under its id.
    world
        .edit(
            "evh/first",
            json!({"deliverBy": "Worker", "handler": {"webhook": {"signature": {"scheme": "Kong"}}}}),
        )
        .await;
    world.ready("eventhooks/first").await;
    let hook = world.kong.only_hook().await;
    assert!(hook["config"]["url"].as_str().unwrap().ends_with("/relays/first"), "{hook:#}");
    world.kong.delete(ID).await;
    world.request("evh/first", "again").await;
    world.kong.until_hooks("the hook again", |h| h.len() == 1 && h[0]["id"] == ID).await;

    // A new connectionRef or id is another object: refused.
    for (spec, says) in [
        (json!({"connectionRef": {"name": "other"}}), "connectionRef is immutable"),
        (json!({"adopt": {"id": OTHER}}), "adopt.id is immutable"),
    ] {
        let patch = json!({ "spec": spec }).to_string();
        let refused = world.namespace.kubectl(&["patch", "evh/first", "--type=merge", "-p", &patch]).await;
        assert!(refused.unwrap_err().contains(says));
    }
    world.kubectl(&["delete", "evh/first", "--timeout=30s"]).await;
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_observes_reports_and_writes_nothing() {
    let world = start("observe", Some("1s")).await;
    by_hand(&world, ID, "consumers").await;
    world.apply(&[declared(&world, "watches", ID, json!({"managementPolicy": "ObserveOnly"}))]).await;
    let object = world.ready("eventhooks/watches").await;
    assert_eq!(object["status"]["external"]["id"], ID);
    assert!(object["metadata"]["finalizers"].is_null(), "nothing is to be cleaned up: {object:#}");

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
    let said = world.stalled("eventhooks/watches", "AdoptNotFound").await;
    assert!(said.contains(ID), "{said}");
    by_hand(&world, ID, "consumers").await;
    world.ready("eventhooks/watches").await;
    world.kubectl(&["delete", "evh/watches", "--timeout=30s"]).await;
    world.kong.only_hook().await;
    // The test's own: two patches and a delete.
    assert_eq!(writes(&world).await, 3);
    world.shows_none_of(&["s1gned", "an0ther"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_four_handlers_run_at_the_gateway_where_the_connection_allows_it() {
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
        let said = world.stalled(&format!("eventhooks/{name}"), "HandlerNotAllowed").await;
        assert!(said.contains("gatewayHandlers"), "{said}");
    }
    world.edit("conn/kong", json!({"kong": {"gatewayHandlers": all}})).await;
    for name in ["lambda", "custom"] {
        world.ready(&format!("eventhooks/{name}")).await;
    }
    let hooks = world.kong.hooks().await;
    let of = |handler: &str| &hooks.iter().find(|h| h["handler"] == handler).unwrap()["config"];
    assert_eq!(of("log"), &json!({}));
    assert_eq!(of("lambda")["functions"], json!(["return function(data) return true end"]));
    let config = of("webhook-custom");
    assert_eq!((&config["method"], &config["body_format"]), (&json!("PUT"), &json!(true)));

    // One that becomes another is still one.
    let log = json!({"handler": {"webhookCustom": null, "log": {}}});
    world.edit("evh/custom", log).await;
    world.ready("eventhooks/custom").await;
    assert_eq!(world.kong.hooks().await.iter().filter(|h| h["handler"] == "log").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_the_gateway_does_not_know_is_a_warning() {
    let world = World::start("sources").await;
    world
        .apply(&[
            world.connection(),
            world.hook("known"),
            world.hook_with("typo", json!({"source": "crudd"})),
            world.hook_with("event", json!({"event": "consumer"})),
        ])
        .await;
    let known = |object: &Value| condition(object, "SourceKnown");
    assert_eq!(known(&world.ready("eventhooks/known").await)["status"], "True");
    for (name, says) in [("typo", "no source crudd"), ("event", "no event consumer")] {
        let object = world.ready(&format!("eventhooks/{name}")).await;
        assert_eq!(known(&object)["status"], "False", "{object:#}");
        assert!(known(&object)["message"].as_str().unwrap().contains(says), "{object:#}");
    }
    world.edit("evh/typo", json!({"source": "crud"})).await;
    assert_eq!(known(&world.ready("eventhooks/typo").await)["status"], "True");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_finalizers_go_first() {
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
    world.gone("eventhooks/shared").await;
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_address_leaves_nothing_at_the_old_one() {
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
    let new = Kong::start(&[]).await;
    world.edit("conn/kong", json!({"kong": {"adminUrl": new.url}})).await;
    new.until_hooks("both", |hooks| hooks.len() == 2).await;
    world.kong.until_hooks("only what is left on purpose", |h| h.len() == 1 && h[0]["event"] == "b").await;
    let told = |o: &Value| o["status"]["external"]["endpoint"] == new.url.as_str();
    let moved = world.until("eventhooks/moves", "at the new address", told).await;
    assert_eq!(moved["status"]["conditions"].as_array().map(Vec::len), Some(5), "{moved:#}");

    // Another name of the same gateway moves nothing.
    let (puts, deletes) = (new.count("PUT", "/").await, new.count("DELETE", "/").await);
    let alias = format!("{}/", new.url.replace("127.0.0.1", "localhost"));
    world.edit("conn/kong", json!({"kong": {"adminUrl": alias}})).await;
    let told = |o: &Value| o["status"]["external"]["endpoint"].as_str().unwrap().contains("localhost");
    world.until("eventhooks/moves", "at the other name", told).await;
    assert_eq!((new.count("PUT", "/").await, new.count("DELETE", "/").await), (puts, deletes));
    world.kubectl(&["delete", "evh/moves", "evh/stays", "--timeout=30s"]).await;
    assert_eq!(new.count("DELETE", "/").await, deletes + 1);
    assert_eq!(new.hooks().await.len(), 1, "what is left on purpose");
}
