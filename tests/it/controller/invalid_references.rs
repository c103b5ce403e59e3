//! Errors that the API server cannot reject: missing or unusable references, and specs that cannot be applied. The message
//! says what to do, and the object recovers at once when it is done.

use serde_json::{Value, json};

use crate::harness::manifests::merged;
use crate::harness::objects::{message, object, secret};
use crate::harness::world::{Setup, World};

#[tokio::test(flavor = "multi_thread")]
async fn recovers_when_missing_secret_or_key_appears() {
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
    for (name, reason, expected) in [
        ("signing", "SecretMissing", "late-signing"),
        ("url", "SecretMissing", "late-url"),
        ("header", "SecretMissing", "late-header"),
        ("no-key", "SecretKeyMissing", "here has no key other"),
    ] {
        let object = world.not_ready(&format!("eventhooks/{name}"), reason).await;
        assert!(message(&object).contains(expected), "{object:#}");
        assert!(message(&object).contains(if reason == "SecretMissing" { "create it" } else { "add it" }));
        world.event(name, reason).await;
    }
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new(), "nothing is written to Kong meanwhile");

    // The URL arrives as an invalid one, with a wrong scheme, empty, and at last as a valid one.
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

    // A reference that is removed is missing again, and Kong keeps its hooks.
    world.kubectl(&["delete", "secret/late-signing"]).await;
    world.not_ready("eventhooks/signing", "SecretMissing").await;
    assert_eq!(world.kong.hooks().await.len(), 4);
    world.assert_hides(&["s3cret", "not-a-url-at-all", "ftp.example.com", "from-secret"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recovers_when_missing_connection_appears() {
    let world = World::start("no-conn").await;
    world.apply(&[world.hook("early")]).await;
    let object = world.not_ready("eventhooks/early", "ConnectionMissing").await;
    assert!(message(&object).contains("kong") && message(&object).contains("create it"), "{object:#}");
    assert!(object["metadata"]["finalizers"].is_null(), "there is no external object: {object:#}");
    world.event("early", "ConnectionMissing").await;

    // The Connection is created without its token, which is created last.
    let token = json!({"kong": {"tokenSecretRef": {"name": "admin", "key": "token"}}});
    world.apply(&[world.connection_with(token)]).await;
    for path in ["connections/kong", "eventhooks/early"] {
        let object = world.not_ready(path, "SecretMissing").await;
        assert!(message(&object).contains("admin"), "{object:#}");
    }
    world.event("kong", "SecretMissing").await;
    world.apply(&[secret("admin", "token", "t0ken-late")]).await;
    world.ready("connections/kong").await;
    world.ready("eventhooks/early").await;
    world.assert_hides(&["t0ken-late"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stalls_relay_without_ingest_url() {
    let world = World::with("no-ingest", Setup { no_ingest_url: true, ..Setup::default() }).await;
    let gateway = json!({"deliverBy": "Gateway"});
    world.apply(&[world.connection(), world.hook("relayed"), world.hook_with("direct", gateway)]).await;
    let text = world.stalled("eventhooks/relayed", "IngestUrlMissing").await;
    assert!(text.contains("ingestUrl") && text.contains("--ingest-url"), "{text}");
    // Where Kong delivers itself, the worker needs no address.
    world.ready("eventhooks/direct").await;
    world.edit("conn/kong", json!({"ingestUrl": "https://hooks.example.com/base/"})).await;
    world.ready("eventhooks/relayed").await;
    let url =
        format!("https://hooks.example.com/base/v1/namespaces/{}/relays/relayed?", world.namespace.name);
    assert!(world.kong.hooks().await.iter().any(|h| h["config"]["url"].as_str().unwrap().starts_with(&url)));
    // A changed ingest address is a change of the user, and no drift.
    world.edit("conn/kong", json!({"ingestUrl": "https://hooks.example.com/moved"})).await;
    let has_moved = |h: &[Value]| h.iter().any(|h| h["config"]["url"].as_str().unwrap().contains("/moved/"));
    world.kong.until_hooks("the new address", has_moved).await;
    world.request("evh/relayed", "after").await;
    let is_handled = |o: &Value| o["status"]["handled"]["reconcileRequestedAt"] == "after";
    world.until("eventhooks/relayed", "reconciled", is_handled).await;
    assert!(world.events("relayed").await.iter().all(|e| e["reason"] != "DriftRepaired"));
}

#[tokio::test(flavor = "multi_thread")]
async fn stalls_invalid_specs_with_position() {
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
    let text = world.stalled("eventhooks/of-auth0", "WrongVendor").await;
    assert!(text.contains("auth0"), "{text}");
    let text = world.stalled("eventhooks/broken-lambda", "InvalidLambda").await;
    assert!(text.contains("handler.lambda.functions[0]: line 1, column"), "{text}");
    let text = world.stalled("eventhooks/broken-template", "InvalidTemplate").await;
    assert!(text.contains("handler.webhookCustom.body: line 1, column"), "{text}");
    let text = world.stalled("eventhooks/filtered", "InvalidFilter").await;
    assert!(text.contains("line 2, column 2: unknown name dat"), "{text}");
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new());

    world.edit("evh/filtered", json!({"filter": "data.x == 1"})).await;
    world.ready("eventhooks/filtered").await;
}
