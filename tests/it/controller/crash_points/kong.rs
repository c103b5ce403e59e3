//! Scenarios of EventHooks.

use hookstream::cluster::ResourceKind;
use serde_json::{Value, json};

use super::scene::Scene;
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

fn at_the_gateway(scene: &Scene) {
    hook(scene, json!({"deliverBy": "Gateway", "snooze": {"period": "60s"}}));
}

fn signed(scene: &Scene, secret: &str) {
    scene.double.put_secret("signing", secret);
    let signature = json!({"secretRef": {"name": "signing", "key": "secret"}});
    hook(scene, json!({"deliverBy": "Gateway", "handler": {"webhook": {"signature": signature}}}));
}

fn adopts(scene: &Scene, mode: &str, extra: Value) {
    let adopt = json!({"adopt": {"id": scene.foreign(), "mode": mode}});
    hook(scene, merged(adopt, extra));
}

/// A hook that another client created, and one that equals `hook` at the gateway.
fn log() -> (&'static str, Value) {
    ("/event-hooks", json!({"source": "crud", "handler": "log", "config": {}}))
}

fn the_same() -> (&'static str, Value) {
    let config = json!({"url": "http://receiver.test/"});
    ("/event-hooks", json!({"source": "crud", "event": "consumers", "handler": "webhook", "config": config}))
}

fn moved(before: &Value, now: &Value) -> bool {
    let endpoint = |object: &Value| object["status"]["external"]["endpoint"].clone();
    endpoint(before) != endpoint(now)
}

fn deleted(scene: &Scene) {
    scene.double.delete(ResourceKind::EventHook, "o");
}

pub const SCENARIOS: [Scenario; 18] = [
    Scenario { name: "create", after: relay, ..CREATE },
    Scenario { name: "create at the gateway", after: at_the_gateway, ..CREATE },
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
    Scenario { name: "worker to gateway", before: relay, after: at_the_gateway, ..CREATE },
    Scenario { name: "gateway to worker", before: at_the_gateway, after: relay, ..CREATE },
    Scenario {
        name: "another handler",
        before: at_the_gateway,
        after: |scene| hook(scene, json!({"deliverBy": "Gateway", "handler": {"webhook": null, "log": {}}})),
        ..CREATE
    },
    Scenario {
        name: "adopt",
        foreign: Some(log),
        after: |scene| adopts(scene, "Override", json!({})),
        ..CREATE
    },
    Scenario {
        name: "adopt by an id in capitals",
        foreign: Some(log),
        after: |scene| {
            hook(scene, json!({"adopt": {"id": scene.foreign().to_uppercase(), "mode": "Override"}}))
        },
        ..CREATE
    },
    Scenario {
        name: "adopt what agrees",
        foreign: Some(the_same),
        after: |scene| adopts(scene, "Match", json!({"deliverBy": "Gateway"})),
        ..CREATE
    },
    Scenario {
        name: "change what was adopted",
        foreign: Some(log),
        before: |scene| adopts(scene, "Override", json!({})),
        after: |scene| adopts(scene, "Override", json!({"event": "routes"})),
        ..CREATE
    },
    Scenario { name: "delete", before: relay, after: deleted, remaining: 0, ..CREATE },
    Scenario {
        name: "delete what was adopted",
        foreign: Some(log),
        before: |scene| adopts(scene, "Override", json!({})),
        after: deleted,
        remaining: 0,
        ..CREATE
    },
    Scenario {
        name: "delete and leave it there",
        before: |scene| hook(scene, json!({"deletionPolicy": "Orphan"})),
        after: deleted,
        ..CREATE
    },
    // The API server rejects another connectionRef; the Connection itself may change its address.
    Scenario {
        name: "another address",
        before: relay,
        after: |scene| scene.connect(1),
        is_done: moved,
        ..CREATE
    },
    Scenario {
        name: "another address, and what is at the old one stays",
        before: |scene| hook(scene, json!({"deletionPolicy": "Orphan"})),
        after: |scene| scene.connect(1),
        is_done: moved,
        remaining: 2,
        ..CREATE
    },
    Scenario {
        name: "deleted with its Connection, and both made again elsewhere",
        before: relay,
        after: |scene| {
            deleted(scene);
            scene.double.delete(ResourceKind::Connection, "c");
        },
        again: Some(|scene| {
            scene.connect(1);
            relay(scene);
        }),
        ..CREATE
    },
];
