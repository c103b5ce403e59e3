//! Rows of EventStream.

use super::manifests::{
    ACTION, BASIC, BEARER, Base, CUSTOM_HEADER, EVENT_BRIDGE, FULL_STREAM, OBSERVED_STREAM, STREAM,
};
use super::table::Table;

pub fn rows(t: &mut Table) {
    for base in [STREAM, FULL_STREAM, BASIC, BEARER, CUSTOM_HEADER, EVENT_BRIDGE, ACTION, OBSERVED_STREAM] {
        t.accept(base, "", "{}");
    }
    for member in ["connectionRef", "name", "subscriptions", "destination"] {
        t.required(STREAM, member);
    }
    t.length(STREAM, "name", 1, 128);
    t.length(STREAM, "rotation", 1, 63);
    t.one_of(STREAM, "deletionPolicy", &["Delete", "Orphan"]);
    t.accept(STREAM, "managementPolicy", "Full");
    t.refuse(STREAM, "managementPolicy", "Other", r#"supported values: "Full", "ObserveOnly""#);
    t.required(FULL_STREAM, "adopt.id");
    t.required(FULL_STREAM, "adopt.mode");
    t.length(FULL_STREAM, "adopt.id", 1, 64);
    t.one_of(OBSERVED_STREAM, "adopt.mode", &["Match", "Override"]);
    subscriptions(t);
    destinations(t);
    worker(t);
}

fn subscriptions(t: &mut Table) {
    let item = |name: &str| format!("{{eventType: '{name}'}}");
    let many = |n| format!("[{}]", (0..n).map(|i| item(&format!("a.{i}"))).collect::<Vec<_>>().join(", "));
    t.bound(STREAM, "subscriptions", many(1), many(0), "should have at least 1 items");
    t.bound(STREAM, "subscriptions", many(64), many(65), "must have at most 64 items");
    let twice = format!("[{}, {}]", item("a"), item("a"));
    t.refuse_at(STREAM, "subscriptions", twice, "spec.subscriptions[1]", "Duplicate value");
    // An event type that Auth0 adds later is accepted.
    t.accept(STREAM, "subscriptions[0].eventType", "passkey.enrolled-v2");
    t.refuse_at(STREAM, "subscriptions[0]", "{}", "spec.subscriptions[0].eventType", "Required value");
    t.length(STREAM, "subscriptions[0].eventType", 1, 128);
    t.refuse(STREAM, "subscriptions[0].eventType", "'a b'", "should match '^[a-zA-Z0-9._-]+$'");
}

fn destinations(t: &mut Table) {
    t.exactly_one(
        STREAM,
        "destination",
        &[
            "worker: {}",
            "webhook: {endpoint: 'https://a', authorization: {bearer: {tokenSecretRef: {name: a, key: k}}}}",
            "eventBridge: {accountId: '123456789012', region: us-east-1}",
            "action: {actionId: a}",
        ],
        "exactly one of worker, webhook, eventBridge, action must be set (worker is written worker: {})",
    );
    t.required(BEARER, "destination.webhook.endpoint");
    t.required(BEARER, "destination.webhook.authorization");
    let endpoint = "destination.webhook.endpoint";
    for loopback in ["http://127.0.0.1:8080/a", "http://localhost", "'http://[::1]:80/'"] {
        t.accept(BEARER, endpoint, loopback);
    }
    for plain in ["http://example.com", "http://localhost.example.com", "http://127.example.com"] {
        t.refuse(BEARER, endpoint, plain, "must be an https URL: Auth0 accepts no other");
    }
    t.exactly_one(
        BEARER,
        "destination.webhook.authorization",
        &[
            "basic: {username: a, passwordSecretRef: {name: a, key: k}}",
            "bearer: {tokenSecretRef: {name: a, key: k}}",
            "customHeader: {name: x-a, valueSecretRef: {name: a, key: k}}",
        ],
        "exactly one of basic, bearer, customHeader must be set",
    );
    let basic = "destination.webhook.authorization.basic";
    t.required(BASIC, &format!("{basic}.username"));
    t.required(BASIC, &format!("{basic}.passwordSecretRef"));
    t.length(BASIC, &format!("{basic}.username"), 1, 128);
    t.refuse(BASIC, &format!("{basic}.username"), "'a:b'", "should match '^[^:]+$'");
    t.required(BEARER, "destination.webhook.authorization.bearer.tokenSecretRef");
    let header = "destination.webhook.authorization.customHeader";
    t.required(CUSTOM_HEADER, &format!("{header}.name"));
    t.required(CUSTOM_HEADER, &format!("{header}.valueSecretRef"));
    t.length(CUSTOM_HEADER, &format!("{header}.name"), 1, 128);
    t.refuse(CUSTOM_HEADER, &format!("{header}.name"), "'a b'", "should match");

    let (account, region) = ("destination.eventBridge.accountId", "destination.eventBridge.region");
    t.required(EVENT_BRIDGE, account);
    t.required(EVENT_BRIDGE, region);
    t.refuse(EVENT_BRIDGE, account, "'12345678901'", "should be at least 12 chars long");
    t.refuse(EVENT_BRIDGE, account, "'1234567890123'", "Too long: may not be more than 12 bytes");
    t.refuse(EVENT_BRIDGE, account, "'12345678901a'", "should match '^[0-9]{12}$'");
    t.accept(EVENT_BRIDGE, region, "us-gov-east-1");
    let longest = |n: usize| format!("eu-{}-1", "a".repeat(n - 5));
    t.bound(EVENT_BRIDGE, region, longest(32), longest(33), "Too long: may not be more than 32 bytes");
    t.refuse(EVENT_BRIDGE, region, "''", "should be at least 1 chars long");
    for wrong in ["eu", "EU-central-1", "eu-central"] {
        t.refuse(EVENT_BRIDGE, region, wrong, "should match '^[a-z]{2}(-[a-z]+)+-[0-9]+$'");
    }
    t.required(ACTION, "destination.action.actionId");
    t.length(ACTION, "destination.action.actionId", 1, 64);
    t.refuse(ACTION, "destination.action.actionId", "'a b'", "should match '^[A-Za-z0-9_-]+$'");
}

/// Rows of fields that require or exclude destination.worker.
fn worker(t: &mut Table) {
    t.one_of(STREAM, "destination.worker.recovery.reenable", &["WhenHealthy", "Never"]);
    t.one_of(STREAM, "destination.worker.recovery.redeliver", &["Failed", "None"]);
    for base in [BASIC, EVENT_BRIDGE, ACTION] {
        t.refuse_at(base, "", "{rotation: a}", "spec", "rotation needs destination.worker");
    }
    let mut excluded = |base: Base, patch: &str, text: &str| t.refuse_at(base, "", patch, "spec", text);
    excluded(
        STREAM,
        "{managementPolicy: ObserveOnly}",
        "managementPolicy: ObserveOnly cannot be combined with destination.worker",
    );
    excluded(
        STREAM,
        "{adopt: {id: a, mode: Match}}",
        "adopt.mode: Match cannot be combined with destination.worker",
    );
    for base in [BASIC, EVENT_BRIDGE, ACTION] {
        t.accept(base, "", "{managementPolicy: ObserveOnly}");
        t.accept(base, "", "{adopt: {id: a, mode: Match}}");
    }
    t.accept(STREAM, "", "{adopt: {id: a, mode: Override}}");
}
