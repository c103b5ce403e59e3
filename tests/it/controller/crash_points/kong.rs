//! Scenarios of EventHooks.

use std::time::Duration;

use hookstream::cluster::ResourceKind;
use serde_json::{Value, json};

use super::double::Copied;
use super::scene::{Scene, is_marked};
use super::{CREATE, Scenario};
use crate::harness::manifests::merged;

fn hook(scene: &Scene, extra: Value) {
    let spec = json!({"source": "crud", "event": "consumers", "connectionRef": {"name": "c"},
        "handler": {"webhook": {"url": "http://receiver.test/"}}});
    scene.double.apply(ResourceKind::EventHook, "o", merged(spec, extra));
}

fn relay(scene: &Scene) {
    hook(scene, json!({}));
}

fn deliver_by_gateway(scene: &Scene) {
    hook(scene, json!({"deliverBy": "Gateway", "snooze": {"period": "60s"}}));
}

fn signed(scene: &Scene, secret: &str) {
    scene.double.put_secret("signing", secret);
    let signature = json!({"secretRef": {"name": "signing", "key": "secret"}});
    hook(scene, json!({"deliverBy": "Gateway", "handler": {"webhook": {"signature": signature}}}));
}

fn adopt(scene: &Scene, mode: &str, extra: Value) {
    let spec = json!({"adopt": {"id": scene.foreign(), "mode": mode}});
    hook(scene, merged(spec, extra));
}

/// Returns a hook of another client.
fn foreign_log() -> (&'static str, Value) {
    ("/event-hooks", json!({"source": "crud", "handler": "log", "config": {}}))
}

/// Returns a hook of another client that equals `hook` with delivery by the gateway.
fn equal_webhook() -> (&'static str, Value) {
    let config = json!({"url": "http://receiver.test/"});
    ("/event-hooks", json!({"source": "crud", "event": "consumers", "handler": "webhook", "config": config}))
}

fn has_moved(before: &Value, now: &Value) -> bool {
    let endpoint = |object: &Value| object["status"]["external"]["endpoint"].clone();
    endpoint(before) != endpoint(now)
}

fn delete(scene: &Scene) {
    scene.double.delete(ResourceKind::EventHook, "o");
}

fn copy(scene: &Scene, what: Copied) {
    scene.double.copy(ResourceKind::EventHook, "o", "copy", what);
}

fn delete_copy(scene: &Scene, what: Copied) {
    copy(scene, what);
    scene.double.delete(ResourceKind::EventHook, "copy");
}

fn restore(scene: &Scene, what: Copied) {
    scene.double.copy(ResourceKind::EventHook, "o", "o", what);
}

/// Copied, restored and upgraded objects. No foreign hook changes, and none is created twice.
pub const OWNERSHIP: [Scenario; 11] = [
    Scenario {
        name: "copy a relay with its status",
        before: relay,
        after: |scene| copy(scene, Copied::All),
        remaining: 2,
        ..CREATE
    },
    Scenario {
        name: "delete a copy of a relay",
        before: relay,
        after: |scene| delete_copy(scene, Copied::All),
        ..CREATE
    },
    Scenario {
        name: "copy an adopted hook with its finalizer",
        foreign: Some(foreign_log),
        before: |scene| adopt(scene, "Override", json!({})),
        after: |scene| copy(scene, Copied::Metadata),
        ..CREATE
    },
    Scenario {
        name: "copy an adopted hook with its status",
        foreign: Some(foreign_log),
        before: |scene| adopt(scene, "Override", json!({})),
        after: |scene| copy(scene, Copied::All),
        ..CREATE
    },
    Scenario {
        name: "delete a copy of an adopted hook",
        foreign: Some(foreign_log),
        before: |scene| adopt(scene, "Override", json!({})),
        after: |scene| delete_copy(scene, Copied::All),
        ..CREATE
    },
    Scenario {
        name: "restore a relay from its manifest",
        before: relay,
        after: |scene| restore(scene, Copied::Spec),
        ..CREATE
    },
    Scenario {
        name: "restore a relay with its status",
        before: relay,
        after: |scene| restore(scene, Copied::All),
        ..CREATE
    },
    Scenario {
        name: "restore a hook of the gateway",
        before: deliver_by_gateway,
        after: |scene| restore(scene, Copied::Metadata),
        ..CREATE
    },
    Scenario {
        name: "restore an adopted hook",
        foreign: Some(foreign_log),
        before: |scene| adopt(scene, "Override", json!({})),
        after: |scene| restore(scene, Copied::All),
        ..CREATE
    },
    Scenario {
        name: "mark a relay of an earlier version",
        before: relay,
        after: |scene| scene.double.remove_annotations(ResourceKind::EventHook, "o"),
        is_done: |_, now| is_marked(now),
        ..CREATE
    },
    Scenario {
        name: "mark an adopted hook of an earlier version",
        foreign: Some(foreign_log),
        before: |scene| adopt(scene, "Override", json!({})),
        after: |scene| scene.double.remove_annotations(ResourceKind::EventHook, "o"),
        is_done: |_, now| is_marked(now),
        ..CREATE
    },
];

pub const SCENARIOS: [Scenario; 23] = [
    Scenario { name: "create", after: relay, ..CREATE },
    Scenario { name: "create at the gateway", after: deliver_by_gateway, ..CREATE },
    Scenario {
        name: "update",
        before: relay,
        after: |scene| hook(scene, json!({"event": "routes"})),
        ..CREATE
    },
    Scenario {
        name: "rotate",
        before: relay,
        after: |scene| hook(scene, json!({"rotation": "2"})),
        ..CREATE
    },
    Scenario {
        name: "another secret",
        before: |scene| signed(scene, "one"),
        after: |scene| signed(scene, "two"),
        ..CREATE
    },
    Scenario { name: "worker to gateway", before: relay, after: deliver_by_gateway, ..CREATE },
    Scenario { name: "gateway to worker", before: deliver_by_gateway, after: relay, ..CREATE },
    Scenario {
        name: "another handler",
        before: deliver_by_gateway,
        after: |scene| hook(scene, json!({"deliverBy": "Gateway", "handler": {"webhook": null, "log": {}}})),
        ..CREATE
    },
    Scenario {
        name: "adopt",
        foreign: Some(foreign_log),
        after: |scene| adopt(scene, "Override", json!({})),
        ..CREATE
    },
    Scenario {
        name: "adopt by an id in capitals",
        foreign: Some(foreign_log),
        after: |scene| {
            hook(scene, json!({"adopt": {"id": scene.foreign().to_uppercase(), "mode": "Override"}}))
        },
        ..CREATE
    },
    Scenario {
        name: "adopt an equal hook",
        foreign: Some(equal_webhook),
        after: |scene| adopt(scene, "Match", json!({"deliverBy": "Gateway"})),
        ..CREATE
    },
    Scenario {
        name: "change an adopted hook",
        foreign: Some(foreign_log),
        before: |scene| adopt(scene, "Override", json!({})),
        after: |scene| adopt(scene, "Override", json!({"event": "routes"})),
        ..CREATE
    },
    Scenario { name: "delete", before: relay, after: delete, remaining: 0, ..CREATE },
    Scenario {
        name: "delete an adopted hook",
        foreign: Some(foreign_log),
        before: |scene| adopt(scene, "Override", json!({})),
        after: delete,
        remaining: 0,
        ..CREATE
    },
    Scenario {
        name: "delete and orphan",
        before: |scene| hook(scene, json!({"deletionPolicy": "Orphan"})),
        after: delete,
        ..CREATE
    },
    // The API server rejects another connectionRef; the Connection itself may change its address.
    Scenario {
        name: "another address",
        before: relay,
        after: |scene| scene.connect(1),
        is_done: has_moved,
        ..CREATE
    },
    Scenario {
        name: "another address with the policy Orphan",
        before: |scene| hook(scene, json!({"deletionPolicy": "Orphan"})),
        after: |scene| scene.connect(1),
        is_done: has_moved,
        remaining: 2,
        ..CREATE
    },
    Scenario {
        name: "another name of the same gateway",
        before: relay,
        after: |scene| scene.connect(2),
        is_done: has_moved,
        ..CREATE
    },
    // The token of the former address is no longer configured, and the new one must not be sent there.
    Scenario {
        name: "another address with another token",
        before: relay,
        after: Scene::connect_with_other_token,
        credentials_deadline: Duration::from_millis(200),
        is_done: has_moved,
        remaining: 2,
        ..CREATE
    },
    Scenario {
        name: "another address and back",
        before: relay,
        after: |scene| scene.connect(1),
        while_stopped: Some(|scene| scene.connect(0)),
        ..CREATE
    },
    Scenario {
        name: "another address, then deleted",
        before: relay,
        after: |scene| scene.connect(1),
        while_stopped: Some(delete),
        remaining: 0,
        ..CREATE
    },
    Scenario {
        name: "create, then another address",
        after: relay,
        while_stopped: Some(|scene| scene.connect(1)),
        ..CREATE
    },
    Scenario {
        name: "delete with the Connection and recreate both elsewhere",
        before: relay,
        after: |scene| {
            delete(scene);
            scene.double.delete(ResourceKind::Connection, "c");
        },
        again: Some(|scene| {
            scene.connect(1);
            relay(scene);
        }),
        ..CREATE
    },
];
