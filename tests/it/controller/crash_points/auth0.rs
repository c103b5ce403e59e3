//! Scenarios of EventStreams and Hooks.

use hookstream::cluster::ResourceKind;
use serde_json::{Value, json};

use super::double::Copied;
use super::scene::{Scene, is_marked};
use super::{CREATE, Scenario};
use crate::harness::manifests::merged;

fn stream(scene: &Scene, destination: Value, extra: Value) {
    let spec = json!({"connectionRef": {"name": "c"}, "name": "ours", "subscriptions": [{"eventType": "user.created"}],
        "destination": destination});
    scene.double.apply(ResourceKind::EventStream, "o", merged(spec, extra));
}

fn stream_to_worker(scene: &Scene) {
    stream(scene, json!({"worker": {}}), json!({}));
}

fn edit_stream(scene: &Scene) {
    let types = json!([{"eventType": "user.created"}, {"eventType": "user.deleted"}]);
    stream(scene, json!({"worker": {}}), json!({"name": "renamed", "subscriptions": types}));
}

/// A destination at an external endpoint, with a token from a Secret.
fn webhook() -> Value {
    let token = json!({"tokenSecretRef": {"name": "receiver", "key": "secret"}});
    json!({"webhook": {"endpoint": "https://receiver.test/", "authorization": {"bearer": token}}})
}

fn stream_to_webhook(scene: &Scene) {
    scene.double.put_secret("receiver", "one");
    stream(scene, webhook(), json!({}));
}

fn adopt_stream(scene: &Scene, mode: &str) {
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

fn delete_stream(scene: &Scene) {
    scene.double.delete(ResourceKind::EventStream, "o");
}

pub const STREAMS: [Scenario; 14] = [
    Scenario { name: "create a stream to the worker", after: stream_to_worker, ..CREATE },
    Scenario { name: "create a stream to a webhook", after: stream_to_webhook, ..CREATE },
    Scenario {
        name: "create a disabled stream",
        after: |scene| stream(scene, json!({"worker": {}}), json!({"enabled": false})),
        ..CREATE
    },
    Scenario { name: "update a stream", before: stream_to_worker, after: edit_stream, ..CREATE },
    Scenario {
        name: "rotate the worker's token",
        before: stream_to_worker,
        after: |scene| stream(scene, json!({"worker": {}}), json!({"rotation": "2"})),
        ..CREATE
    },
    Scenario {
        name: "another secret of a stream",
        before: stream_to_webhook,
        after: |scene| scene.double.put_secret("receiver", "two"),
        is_done: has_new_hash,
        ..CREATE
    },
    Scenario {
        name: "a stream from worker to webhook",
        before: stream_to_worker,
        after: stream_to_webhook,
        ..CREATE
    },
    Scenario {
        name: "a stream from webhook to worker",
        before: stream_to_webhook,
        after: stream_to_worker,
        ..CREATE
    },
    Scenario {
        name: "disable a stream",
        before: stream_to_worker,
        after: |scene| stream(scene, json!({"worker": {}}), json!({"enabled": false})),
        ..CREATE
    },
    Scenario {
        name: "adopt a stream",
        foreign: Some(|| foreign_stream("theirs")),
        after: |scene| adopt_stream(scene, "Override"),
        ..CREATE
    },
    Scenario {
        name: "adopt an equal stream",
        foreign: Some(|| foreign_stream("ours")),
        after: |scene| adopt_stream(scene, "Match"),
        ..CREATE
    },
    Scenario {
        name: "delete a stream",
        before: stream_to_worker,
        after: delete_stream,
        remaining: 0,
        ..CREATE
    },
    Scenario {
        name: "delete an adopted stream",
        foreign: Some(|| foreign_stream("theirs")),
        before: |scene| adopt_stream(scene, "Override"),
        after: delete_stream,
        remaining: 0,
        ..CREATE
    },
    Scenario {
        name: "recreate a stream under its name",
        before: stream_to_worker,
        after: delete_stream,
        again: Some(stream_to_webhook),
        ..CREATE
    },
];

fn copy_stream(scene: &Scene, what: Copied) {
    scene.double.copy(ResourceKind::EventStream, "o", "copy", what);
}

fn restore_stream(scene: &Scene, what: Copied) {
    scene.double.copy(ResourceKind::EventStream, "o", "o", what);
}

/// Applies an object that observes the stream of the scene by its name, or manages it.
fn second_stream(scene: &Scene, management: &str) {
    let spec = json!({"connectionRef": {"name": "c"}, "name": "ours", "subscriptions": [{"eventType": "user.created"}],
        "destination": webhook(), "managementPolicy": management});
    scene.double.apply(ResourceKind::EventStream, "copy", spec);
}

/// Copied, restored, observed and upgraded streams.
pub const STREAM_OWNERSHIP: [Scenario; 8] = [
    Scenario {
        name: "copy a stream with its status",
        before: stream_to_worker,
        after: |scene| copy_stream(scene, Copied::All),
        ..CREATE
    },
    Scenario {
        name: "delete a copy of a stream",
        before: stream_to_worker,
        after: |scene| {
            copy_stream(scene, Copied::All);
            scene.double.delete(ResourceKind::EventStream, "copy");
        },
        ..CREATE
    },
    Scenario {
        name: "manage an observed stream of another object",
        before: |scene| {
            stream_to_webhook(scene);
            second_stream(scene, "ObserveOnly");
        },
        after: |scene| second_stream(scene, "Full"),
        ..CREATE
    },
    Scenario {
        name: "restore a stream from its manifest",
        before: stream_to_worker,
        after: |scene| restore_stream(scene, Copied::Spec),
        ..CREATE
    },
    Scenario {
        name: "restore a stream with its status",
        before: stream_to_worker,
        after: |scene| restore_stream(scene, Copied::All),
        ..CREATE
    },
    Scenario {
        name: "restore a stream to a webhook",
        before: stream_to_webhook,
        after: |scene| restore_stream(scene, Copied::Metadata),
        ..CREATE
    },
    Scenario {
        name: "restore an adopted stream",
        foreign: Some(|| foreign_stream("ours")),
        before: |scene| adopt_stream(scene, "Match"),
        after: |scene| restore_stream(scene, Copied::Metadata),
        ..CREATE
    },
    Scenario {
        name: "mark a stream of an earlier version",
        before: stream_to_worker,
        after: |scene| scene.double.remove_annotations(ResourceKind::EventStream, "o"),
        is_done: |_, now| is_marked(now),
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

fn script_with_secrets(scene: &Scene) {
    for name in ["kept", "rotated", "old"] {
        scene.double.put_secret(name, &format!("the {name} one"));
    }
    script(scene, &["kept", "rotated", "old"], json!({}));
}

fn plain_script(scene: &Scene) {
    script(scene, &[], json!({}));
}

fn adopt_hook(scene: &Scene, mode: &str) {
    scene.double.put_secret("kept", "the kept one");
    let secrets: &[&str] = if mode == "Match" { &[] } else { &["kept"] };
    script(scene, secrets, json!({"adopt": {"id": scene.foreign(), "mode": mode}}));
}

fn foreign_hook(name: &str, script: &str) -> (&'static str, Value) {
    let trigger = "credentials-exchange";
    ("/api/v2/hooks", json!({"name": name, "triggerId": trigger, "script": script, "enabled": true}))
}

fn delete_hook(scene: &Scene) {
    scene.double.delete(ResourceKind::Hook, "o");
}

pub const HOOK_OWNERSHIP: [Scenario; 2] = [
    Scenario {
        name: "copy a hook with its status",
        before: plain_script,
        after: |scene| scene.double.copy(ResourceKind::Hook, "o", "copy", Copied::All),
        ..CREATE
    },
    Scenario {
        name: "restore a hook",
        before: plain_script,
        after: |scene| scene.double.copy(ResourceKind::Hook, "o", "o", Copied::Metadata),
        ..CREATE
    },
];

pub const HOOKS: [Scenario; 11] = [
    Scenario { name: "create a hook", after: plain_script, ..CREATE },
    Scenario { name: "create a hook with secrets", after: script_with_secrets, ..CREATE },
    Scenario {
        name: "update a hook",
        before: plain_script,
        after: |scene| {
            script(scene, &[], json!({"script": "2", "name": "renamed", "dependencies": {"a": "1"}}))
        },
        ..CREATE
    },
    Scenario {
        name: "add, change and remove secrets",
        before: script_with_secrets,
        after: |scene| {
            scene.double.put_secret("rotated", "another");
            scene.double.put_secret("new", "the new one");
            script(scene, &["kept", "rotated", "new"], json!({"script": "2"}));
        },
        ..CREATE
    },
    Scenario {
        name: "another secret of a hook",
        before: script_with_secrets,
        after: |scene| scene.double.put_secret("rotated", "another"),
        is_done: has_new_hash,
        ..CREATE
    },
    Scenario {
        name: "disable a hook",
        before: plain_script,
        after: |scene| script(scene, &[], json!({"enabled": false})),
        ..CREATE
    },
    Scenario {
        name: "adopt a hook",
        foreign: Some(|| foreign_hook("theirs", "x")),
        after: |scene| adopt_hook(scene, "Override"),
        ..CREATE
    },
    Scenario {
        name: "adopt an equal hook",
        foreign: Some(|| foreign_hook("ours", "module.exports = 1")),
        after: |scene| adopt_hook(scene, "Match"),
        ..CREATE
    },
    Scenario {
        name: "delete a hook",
        before: script_with_secrets,
        after: delete_hook,
        remaining: 0,
        ..CREATE
    },
    Scenario {
        name: "delete an adopted hook",
        foreign: Some(|| foreign_hook("theirs", "x")),
        before: |scene| adopt_hook(scene, "Override"),
        after: delete_hook,
        remaining: 0,
        ..CREATE
    },
    Scenario {
        name: "recreate a hook under its name",
        before: plain_script,
        after: delete_hook,
        again: Some(script_with_secrets),
        ..CREATE
    },
];
