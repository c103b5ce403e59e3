//! Rows of updates: immutable fields, each added, removed and changed.

use serde_json::Value;

use super::manifests::{
    ACTION, AUTH0, BEARER, Base, EVENT_BRIDGE, FULL_KONG, FULL_RELAY, FULL_SCRIPT, FULL_STREAM, HOOK, KONG,
    RELAY, SCRIPT, STREAM,
};
use super::table::{Expect, changed};

pub struct Update {
    pub name: String,
    pub before: Value,
    pub after: Value,
    pub expect: Expect,
}

pub fn rows() -> Vec<Update> {
    let mut all = kong();
    all.extend(auth0());
    all
}

fn auth0() -> Vec<Update> {
    let kind =
        "the destination's kind is immutable (webhook and worker are one kind): create a new EventStream";
    let bridge = "eventBridge is immutable, because Auth0 cannot change it: create a new EventStream";
    let action = "action is immutable, because Auth0 cannot change it: create a new EventStream";
    let webhook =
        "webhook: {endpoint: 'https://a', authorization: {bearer: {tokenSecretRef: {name: a, key: k}}}}";
    let to_webhook = format!("{{destination: {{worker: null, {webhook}}}}}");
    let adopt = "adopt.id is immutable";
    let other = "{connectionRef: {name: other}}";
    vec![
        rejected(STREAM, "{}", other, "connectionRef is immutable: create a new EventStream"),
        rejected(STREAM, "{}", "{adopt: {id: a, mode: Override}}", adopt),
        rejected(FULL_STREAM, "{}", "{adopt: null}", adopt),
        rejected(FULL_STREAM, "{}", "{adopt: {id: b}}", adopt),
        rejected(STREAM, "{}", "{destination: {worker: null, action: {actionId: a}}}", kind),
        rejected(ACTION, "{}", "{destination: {action: null, worker: {}}}", kind),
        rejected(EVENT_BRIDGE, "{}", "{destination: {eventBridge: null, action: {actionId: a}}}", kind),
        rejected_at(
            EVENT_BRIDGE,
            "{destination: {eventBridge: {region: us-east-1}}}",
            "spec.destination.eventBridge",
            bridge,
        ),
        rejected_at(
            EVENT_BRIDGE,
            "{destination: {eventBridge: {accountId: '000000000000'}}}",
            "spec.destination.eventBridge",
            bridge,
        ),
        rejected_at(ACTION, "{destination: {action: {actionId: b}}}", "spec.destination.action", action),
        accepted(STREAM, "{}", &to_webhook),
        accepted(BEARER, "{}", "{destination: {webhook: null, worker: {}}}"),
        accepted(BEARER, "{}", "{destination: {webhook: {endpoint: 'https://b'}}}"),
        accepted(
            FULL_STREAM,
            "{}",
            "{name: other, subscriptions: [{eventType: a}], rotation: null, enabled: false}",
        ),
        rejected(SCRIPT, "{}", other, "connectionRef is immutable: create a new Hook"),
        rejected(
            SCRIPT,
            "{}",
            "{triggerId: send-phone-message}",
            "triggerId is immutable: create a new Hook",
        ),
        rejected(SCRIPT, "{}", "{adopt: {id: a, mode: Override}}", adopt),
        rejected(FULL_SCRIPT, "{}", "{adopt: null}", adopt),
        accepted(
            SCRIPT,
            "{}",
            "{script: null, scriptConfigMapRef: {name: a, key: k}, name: other, enabled: false}",
        ),
    ]
}

fn kong() -> Vec<Update> {
    let connection_ref = "connectionRef is immutable: create a new EventHook";
    let adopt = "adopt.id is immutable";
    let workspace = "kong.workspace is immutable: create a new Connection";
    let vendor = "a Connection cannot change from one vendor to another: create a new Connection";
    vec![
        rejected(HOOK, "{}", "{connectionRef: {name: kong}}", connection_ref),
        rejected(RELAY, "{}", "{connectionRef: null}", connection_ref),
        rejected(RELAY, "{}", "{connectionRef: {name: other}}", connection_ref),
        rejected(RELAY, "{}", "{adopt: {id: a, mode: Override}}", adopt),
        rejected(FULL_RELAY, "{}", "{adopt: null}", adopt),
        rejected(FULL_RELAY, "{}", "{adopt: {id: other}}", adopt),
        rejected(KONG, "{}", "{kong: {workspace: team-a}}", workspace),
        rejected(FULL_KONG, "{}", "{kong: {workspace: null}}", workspace),
        rejected(FULL_KONG, "{}", "{kong: {workspace: team-b}}", workspace),
        rejected(
            AUTH0,
            "{}",
            "{auth0: {domain: other.eu.auth0.com}}",
            "auth0.domain is immutable: create a new Connection",
        ),
        rejected(
            KONG,
            "{}",
            "{kong: null, auth0: {domain: a.eu.auth0.com, tokenSecretRef: {name: a, key: k}}}",
            vendor,
        ),
        rejected(AUTH0, "{}", "{auth0: null, kong: {adminUrl: 'https://a'}}", vendor),
        // The default workspace is the same object whether it is named or not.
        accepted(KONG, "{}", "{kong: {workspace: default}}"),
        accepted(KONG, "{kong: {workspace: default}}", "{kong: {workspace: null}}"),
        accepted(KONG, "{}", "{kong: {adminUrl: 'https://moved'}}"),
        accepted(AUTH0, "{}", "{auth0: {audience: 'https://a/'}}"),
        // The mode of an adoption may change; the adopted id may not.
        accepted(FULL_RELAY, "{deliverBy: Gateway, rotation: null}", "{adopt: {mode: Match}}"),
        accepted(RELAY, "{}", "{deliverBy: Gateway, source: balancer, event: health}"),
        accepted(HOOK, "{}", "{handler: {log: null, webhook: {url: 'https://a'}}, delivery: {paused: true}}"),
    ]
}

fn rejected(base: Base, before: &str, after: &str, text: &str) -> Update {
    update(base, before, after, Expect::Refuse { field: "spec".into(), text: text.into() })
}

/// An update that is rejected at a part of the spec.
fn rejected_at(base: Base, after: &str, field: &str, text: &str) -> Update {
    update(base, "{}", after, Expect::Refuse { field: field.into(), text: text.into() })
}

fn accepted(base: Base, before: &str, after: &str) -> Update {
    update(base, before, after, Expect::Accept)
}

/// Returns an update: `before` changes the base, `after` changes the result.
fn update(base: Base, before: &str, after: &str, expect: Expect) -> Update {
    let mut old = changed(base, "", before);
    let new = {
        let merged: Value = serde_saphyr::from_str(after).expect(after);
        let mut new = old.clone();
        super::table::merge_into(&mut new["spec"], merged);
        new
    };
    old["metadata"] = serde_json::json!({});
    Update { name: format!("{} {before}, then {after}", base.name), before: old, after: new, expect }
}
