//! Scenarios of EventStreams and Hooks.

use hookstream::cluster::ResourceKind;
use serde_json::{Value, json};

use super::scene::Scene;
use super::{CREATE, Scenario};
use crate::harness::manifests::merged;

fn stream(scene: &Scene, destination: Value, extra: Value) {
    let spec = json!({"connectionRef": {"name": "c"}, "name": "ours", "subscriptions": [{"eventType": "user.created"}],
        "destination": destination});
    scene.double.apply(ResourceKind::EventStream, "o", merged(spec, extra));
}

fn into_the_worker(scene: &Scene) {
    stream(scene, json!({"worker": {}}), json!({}));
}

fn edited(scene: &Scene) {
    let types = json!([{"eventType": "user.created"}, {"eventType": "user.deleted"}]);
    stream(scene, json!({"worker": {}}), json!({"name": "renamed", "subscriptions": types}));
}

/// A destination at an external endpoint, with a token from a Secret.
fn webhook() -> Value {
    let token = json!({"tokenSecretRef": {"name": "receiver", "key": "secret"}});
    json!({"webhook": {"endpoint": "https://receiver.test/", "authorization": {"bearer": token}}})
}

fn into_a_webhook(scene: &Scene) {
    scene.double.put_secret("receiver", "one");
    stream(scene, webhook(), json!({}));
}

fn adopts_stream(scene: &Scene, mode: &str) {
    scene.double.put_secret("receiver", "one");
    stream(scene, webhook(), json!({"adopt": {"id": scene.foreign(), "mode": mode}}));
}

fn foreign_stream(name: &str) -> (&'static str, Value) {
    let authorization = json!({"method": "bearer", "token": "theirs"});
    let configuration =
        json!({"webhook_endpoint": "https://receiver.test/", "webhook_authorization": authorization});
    let destination = json!({"type": "webhook", "configuration": configuration});
    let types = json!([{"event_type": "user.created"}]);
    ("/api/v2/event-streams", json!({"name": name, "subscriptions": types, "destination": destination}))
}

/// Returns true if the stream's secret hash was updated.
fn has_new_hash(before: &Value, now: &Value) -> bool {
    before["status"]["secretHashes"] != now["status"]["secretHashes"]
}

fn deleted(scene: &Scene) {
    scene.double.delete(ResourceKind::EventStream, "o");
}

pub const STREAMS: [Scenario; 14] = [
    Scenario { name: "create a stream into the worker", after: into_the_worker, ..CREATE },
    Scenario { name: "create a stream into a webhook", after: into_a_webhook, ..CREATE },
    Scenario {
        name: "create a stream that is disabled",
        after: |scene| stream(scene, json!({"worker": {}}), json!({"enabled": false})),
        ..CREATE
    },
    Scenario { name: "update a stream", before: into_the_worker, after: edited, ..CREATE },
    Scenario {
        name: "rotate the worker's token",
        before: into_the_worker,
        after: |scene| stream(scene, json!({"worker": {}}), json!({"rotation": "2"})),
        ..CREATE
    },
    Scenario {
        name: "another secret of a stream",
        before: into_a_webhook,
        after: |scene| scene.double.put_secret("receiver", "two"),
        is_done: has_new_hash,
        ..CREATE
    },
    Scenario {
        name: "a stream from worker to webhook",
        before: into_the_worker,
        after: into_a_webhook,
        ..CREATE
    },
    Scenario {
        name: "a stream from webhook to worker",
        before: into_a_webhook,
        after: into_the_worker,
        ..CREATE
    },
    Scenario {
        name: "disable a stream",
        before: into_the_worker,
        after: |scene| stream(scene, json!({"worker": {}}), json!({"enabled": false})),
        ..CREATE
    },
    Scenario {
        name: "adopt a stream",
        foreign: Some(|| foreign_stream("theirs")),
        after: |scene| adopts_stream(scene, "Override"),
        ..CREATE
    },
    Scenario {
        name: "adopt a stream that agrees",
        foreign: Some(|| foreign_stream("ours")),
        after: |scene| adopts_stream(scene, "Match"),
        ..CREATE
    },
    Scenario { name: "delete a stream", before: into_the_worker, after: deleted, remaining: 0, ..CREATE },
    Scenario {
        name: "delete a stream that was adopted",
        foreign: Some(|| foreign_stream("theirs")),
        before: |scene| adopts_stream(scene, "Override"),
        after: deleted,
        remaining: 0,
        ..CREATE
    },
    Scenario {
        name: "a stream made again under its name",
        before: into_the_worker,
        after: deleted,
        again: Some(into_a_webhook),
        ..CREATE
    },
];

fn script(scene: &Scene, secrets: &[&str], extra: Value) {
    let secrets: Vec<Value> = secrets
        .iter()
        .map(|name| json!({"name": name.to_uppercase(), "secretRef": {"name": name, "key": "secret"}}))
        .collect();
    let mut spec = json!({"connectionRef": {"name": "c"}, "name": "ours", "triggerId": "credentials-exchange",
        "script": "module.exports = 1"});
    if !secrets.is_empty() {
        spec["secrets"] = json!(secrets);
    }
    scene.double.apply(ResourceKind::Hook, "o", merged(spec, extra));
}

fn with_secrets(scene: &Scene) {
    for name in ["kept", "turned", "old"] {
        scene.double.put_secret(name, &format!("the {name} one"));
    }
    script(scene, &["kept", "turned", "old"], json!({}));
}

fn plain(scene: &Scene) {
    script(scene, &[], json!({}));
}

fn adopts_hook(scene: &Scene, mode: &str) {
    scene.double.put_secret("kept", "the kept one");
    let secrets: &[&str] = if mode == "Match" { &[] } else { &["kept"] };
    script(scene, secrets, json!({"adopt": {"id": scene.foreign(), "mode": mode}}));
}

fn foreign_hook(name: &str, script: &str) -> (&'static str, Value) {
    let trigger = "credentials-exchange";
    ("/api/v2/hooks", json!({"name": name, "triggerId": trigger, "script": script, "enabled": true}))
}

fn no_hook(scene: &Scene) {
    scene.double.delete(ResourceKind::Hook, "o");
}

pub const HOOKS: [Scenario; 11] = [
    Scenario { name: "create a hook", after: plain, ..CREATE },
    Scenario { name: "create a hook with secrets", after: with_secrets, ..CREATE },
    Scenario {
        name: "update a hook",
        before: plain,
        after: |scene| {
            script(scene, &[], json!({"script": "2", "name": "renamed", "dependencies": {"a": "1"}}))
        },
        ..CREATE
    },
    Scenario {
        name: "add, change and remove secrets",
        before: with_secrets,
        after: |scene| {
            scene.double.put_secret("turned", "another");
            scene.double.put_secret("new", "the new one");
            script(scene, &["kept", "turned", "new"], json!({"script": "2"}));
        },
        ..CREATE
    },
    Scenario {
        name: "another secret of a hook",
        before: with_secrets,
        after: |scene| scene.double.put_secret("turned", "another"),
        is_done: has_new_hash,
        ..CREATE
    },
    Scenario {
        name: "disable a hook",
        before: plain,
        after: |scene| script(scene, &[], json!({"enabled": false})),
        ..CREATE
    },
    Scenario {
        name: "adopt a hook",
        foreign: Some(|| foreign_hook("theirs", "x")),
        after: |scene| adopts_hook(scene, "Override"),
        ..CREATE
    },
    Scenario {
        name: "adopt a hook that agrees",
        foreign: Some(|| foreign_hook("ours", "module.exports = 1")),
        after: |scene| adopts_hook(scene, "Match"),
        ..CREATE
    },
    Scenario { name: "delete a hook", before: with_secrets, after: no_hook, remaining: 0, ..CREATE },
    Scenario {
        name: "delete a hook that was adopted",
        foreign: Some(|| foreign_hook("theirs", "x")),
        before: |scene| adopts_hook(scene, "Override"),
        after: no_hook,
        remaining: 0,
        ..CREATE
    },
    Scenario {
        name: "a hook made again under its name",
        before: plain,
        after: no_hook,
        again: Some(with_secrets),
        ..CREATE
    },
];
