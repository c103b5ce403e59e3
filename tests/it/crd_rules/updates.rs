//! What may not change once it is there: added, removed and changed.

use serde_json::Value;

use super::manifests::{AUTH0, Base, FULL_KONG, FULL_RELAY, HOOK, KONG, RELAY};
use super::table::{Expect, changed};

pub struct Update {
    pub name: String,
    pub before: Value,
    pub after: Value,
    pub expect: Expect,
}

pub fn rows() -> Vec<Update> {
    let connection_ref = "connectionRef is immutable: make a new EventHook";
    let adopt = "adopt.id is immutable";
    let workspace = "kong.workspace is immutable: make a new Connection";
    let vendor = "a Connection cannot change from one vendor to another: make a new Connection";
    vec![
        refused(HOOK, "{}", "{connectionRef: {name: kong}}", connection_ref),
        refused(RELAY, "{}", "{connectionRef: null}", connection_ref),
        refused(RELAY, "{}", "{connectionRef: {name: other}}", connection_ref),
        refused(RELAY, "{}", "{adopt: {id: a, mode: Override}}", adopt),
        refused(FULL_RELAY, "{}", "{adopt: null}", adopt),
        refused(FULL_RELAY, "{}", "{adopt: {id: other}}", adopt),
        refused(KONG, "{}", "{kong: {workspace: team-a}}", workspace),
        refused(FULL_KONG, "{}", "{kong: {workspace: null}}", workspace),
        refused(FULL_KONG, "{}", "{kong: {workspace: team-b}}", workspace),
        refused(
            AUTH0,
            "{}",
            "{auth0: {domain: other.eu.auth0.com}}",
            "auth0.domain is immutable: make a new Connection",
        ),
        refused(
            KONG,
            "{}",
            "{kong: null, auth0: {domain: a.eu.auth0.com, tokenSecretRef: {name: a, key: k}}}",
            vendor,
        ),
        refused(AUTH0, "{}", "{auth0: null, kong: {adminUrl: 'https://a'}}", vendor),
        // The default workspace is the same place, said or not.
        accepted(KONG, "{}", "{kong: {workspace: default}}"),
        accepted(KONG, "{kong: {workspace: default}}", "{kong: {workspace: null}}"),
        accepted(KONG, "{}", "{kong: {adminUrl: 'https://moved'}}"),
        accepted(AUTH0, "{}", "{auth0: {audience: 'https://a/'}}"),
        // How an object was taken may change; which one may not.
        accepted(FULL_RELAY, "{deliverBy: Gateway, rotation: null}", "{adopt: {mode: Match}}"),
        accepted(RELAY, "{}", "{deliverBy: Gateway, source: balancer, event: health}"),
        accepted(HOOK, "{}", "{handler: {log: null, webhook: {url: 'https://a'}}, delivery: {paused: true}}"),
    ]
}

fn refused(base: Base, before: &str, after: &str, text: &str) -> Update {
    update(base, before, after, Expect::Refuse { field: "spec".into(), text: text.into() })
}

fn accepted(base: Base, before: &str, after: &str) -> Update {
    update(base, before, after, Expect::Accept)
}

/// `after` is a change to what `before` made of the base.
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
