//! What the API server cannot refuse: references to what is not there or cannot be used, and specs that cannot be
//! carried out. Each says what to do, and heals when it is done, at once.

use serde_json::{Value, json};

use crate::world::{Setup, World, merged, message, object, secret};

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_or_key_heals_when_it_comes() {
    let world = World::start("no-secret").await;
    let signed = json!({"signature": {"secretRef": {"name": "late-signing", "key": "secret"}}});
    let by_secret = json!({"url": null, "urlSecretRef": {"name": "late-url", "key": "url"}});
    let reference = json!({"name": "late-header", "key": "value"});
    let headers = json!({"headersFrom": [{"name": "authorization", "secretRef": reference}]});
    let no_key = json!({"signature": {"secretRef": {"name": "here", "key": "other"}}});
    let hook = |name: &str, webhook: Value| world.hook_with(name, json!({"handler": {"webhook": webhook}}));
    world
        .apply(&[
            world.connection(),
            secret("here", "secret", "s3cret-here"),
            hook("signing", signed),
            hook("url", by_secret),
            hook("header", headers),
            hook("no-key", no_key),
        ])
        .await;
    for (name, reason, named) in [
        ("signing", "SecretMissing", "late-signing"),
        ("url", "SecretMissing", "late-url"),
        ("header", "SecretMissing", "late-header"),
        ("no-key", "SecretKeyMissing", "here has no key other"),
    ] {
        let object = world.not_ready(&format!("eventhooks/{name}"), reason).await;
        assert!(message(&object).contains(named), "{object:#}");
        assert!(message(&object).contains(if reason == "SecretMissing" { "create it" } else { "add it" }));
        world.event(name, reason).await;
    }
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new(), "nothing is told to Kong meanwhile");

    // The URL comes, but is none, is carried by the wrong scheme, is nothing, and then is one.
    for (value, reason) in [
        ("not-a-url-at-all", "SecretUnusable"),
        ("ftp://ftp.example.com/", "SecretUnusable"),
        ("", "SecretInvalid"),
    ] {
        world.apply(&[secret("late-url", "url", value)]).await;
        let object = world.not_ready("eventhooks/url", reason).await;
        assert!(message(&object).contains("late-url"), "{object:#}");
    }
    world
        .apply(&[
            secret("late-url", "url", &format!("{}/from-secret", world.receiver.url())),
            secret("late-signing", "secret", "s3cret-late"),
            secret("late-header", "value", "Bearer s3cret-header"),
            secret("here", "other", "s3cret-other"),
        ])
        .await;
    for name in ["signing", "url", "header", "no-key"] {
        world.ready(&format!("eventhooks/{name}")).await;
    }
    assert_eq!(world.kong.hooks().await.len(), 4);

    // What goes again is missed again, and what Kong has stays.
    world.kubectl(&["delete", "secret/late-signing"]).await;
    world.not_ready("eventhooks/signing", "SecretMissing").await;
    assert_eq!(world.kong.hooks().await.len(), 4);
    world.shows_none_of(&["s3cret", "not-a-url-at-all", "ftp.example.com", "from-secret"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_connection_heals_when_it_comes() {
    let world = World::start("no-conn").await;
    world.apply(&[world.hook("early")]).await;
    let object = world.not_ready("eventhooks/early", "ConnectionMissing").await;
    assert!(message(&object).contains("kong") && message(&object).contains("create it"), "{object:#}");
    assert!(object["metadata"]["finalizers"].is_null(), "nothing exists outside: {object:#}");
    world.event("early", "ConnectionMissing").await;

    // It comes without its token, which comes last.
    let token = json!({"kong": {"tokenSecretRef": {"name": "admin", "key": "token"}}});
    world.apply(&[world.connection_with(token)]).await;
    for of in ["connections/kong", "eventhooks/early"] {
        let object = world.not_ready(of, "SecretMissing").await;
        assert!(message(&object).contains("admin"), "{object:#}");
    }
    world.event("kong", "SecretMissing").await;
    world.apply(&[secret("admin", "token", "t0ken-late")]).await;
    world.ready("connections/kong").await;
    world.ready("eventhooks/early").await;
    world.shows_none_of(&["t0ken-late"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_address_for_relays_a_hook_is_stalled() {
    let world = World::with("no-ingest", Setup { no_ingest_url: true, ..Setup::default() }).await;
    let gateway = json!({"deliverBy": "Gateway"});
    world.apply(&[world.connection(), world.hook("relayed"), world.hook_with("direct", gateway)]).await;
    let said = world.stalled("eventhooks/relayed", "IngestUrlMissing").await;
    assert!(said.contains("ingestUrl") && said.contains("--ingest-url"), "{said}");
    // Where Kong delivers by itself, nobody has to reach the worker.
    world.ready("eventhooks/direct").await;
    world.edit("conn/kong", json!({"ingestUrl": "https://hooks.example.com/base/"})).await;
    world.ready("eventhooks/relayed").await;
    let url = format!("https://hooks.example.com/base/v1/namespaces/{}/relays/relayed", world.namespace.name);
    assert!(world.kong.hooks().await.iter().any(|h| h["config"]["url"] == url));
    // Another address is the user's own change, not somebody else's at Kong.
    world.edit("conn/kong", json!({"ingestUrl": "https://hooks.example.com/moved"})).await;
    let moved = |h: &[Value]| h.iter().any(|h| h["config"]["url"].as_str().unwrap().contains("/moved/"));
    world.kong.until_hooks("the new address", moved).await;
    world.request("evh/relayed", "after").await;
    let after = |o: &Value| o["status"]["handled"]["reconcileRequestedAt"] == "after";
    world.until("eventhooks/relayed", "looked at again", after).await;
    assert!(world.events("relayed").await.iter().all(|e| e["reason"] != "DriftRepaired"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_carried_out_is_named() {
    let world = World::start("not-possible").await;
    let handler =
        |handler: Value| merged(json!({"handler": {"webhook": null}}), json!({ "handler": handler }));
    let auth0 = json!({"auth0": {"domain": "a.eu.auth0.com", "tokenSecretRef": {"name": "a", "key": "b"}}});
    let custom = json!({"url": "http://h/", "method": "POST", "body": "{% if %}"});
    world
        .apply(&[
            object("Connection", "auth0", auth0),
            secret("a", "b", "t0ken"),
            world.connection(),
            world.hook_with("filtered", json!({"filter": "data.x &&\n dat.y"})),
            world
                .hook_with("broken-lambda", handler(json!({"lambda": {"functions": ["return function ("]}}))),
            world.hook_with("broken-template", handler(json!({ "webhookCustom": custom }))),
            world.hook_with("of-auth0", json!({"connectionRef": {"name": "auth0"}})),
        ])
        .await;
    let said = world.stalled("eventhooks/of-auth0", "WrongVendor").await;
    assert!(said.contains("auth0"), "{said}");
    let said = world.stalled("eventhooks/broken-lambda", "InvalidLambda").await;
    assert!(said.contains("handler.lambda.functions[0]: line 1, column"), "{said}");
    let said = world.stalled("eventhooks/broken-template", "InvalidTemplate").await;
    assert!(said.contains("handler.webhookCustom.body: line 1, column"), "{said}");
    let said = world.stalled("eventhooks/filtered", "InvalidFilter").await;
    assert!(said.contains("line 2, column 2: no such name: dat"), "{said}");
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new());

    world.edit("evh/filtered", json!({"filter": "data.x == 1"})).await;
    world.ready("eventhooks/filtered").await;
}
