//! Extensibility Hooks: what is sent, in which order, and their end of life.

use super::*;
use crate::admin::{Class, ExternalClient};

/// A small world of hooks: what is there, and the secrets of one.
async fn hooks(there: Value, secrets: Value) -> Fake {
    Fake::start(move |seen| {
        let (method, path) = seen.line.split_once(' ').unwrap();
        let shown =
            |id: &str| reply(200, &[], &json!({"id": id, "name": "h", "dependencies": {"lodash": "4"}}));
        Some(match (method, path) {
            ("GET", p) if p.starts_with("/api/v2/hooks?") => {
                let total = there.as_array().map_or(0, Vec::len);
                reply(200, &[], &json!({"total": total, "start": 0, "limit": 100, "hooks": there}))
            }
            ("GET", "/api/v2/hooks/1/secrets") => reply(200, &[], &secrets),
            ("DELETE", _) => raw(204, &[], ""),
            (_, p) if p.ends_with("/secrets") => reply(201, &[], &json!({})),
            ("POST", "/api/v2/hooks") => shown("1"),
            ("GET" | "PATCH", p) if p.starts_with("/api/v2/hooks/") => shown(seen.step()),
            _ => return None,
        })
    })
    .await
}

#[tokio::test]
async fn a_hook_with_secrets_is_enabled_when_it_has_them() {
    let fake = hooks(json!([]), json!({})).await;
    fake.hooks().may_create(&script(&[("A", "v4lue")])).await.unwrap();
    let made = fake.hooks().create(None, &script(&[("A", "v4lue")])).await.unwrap();
    assert_eq!((&made["id"], &made["secretNames"]), (&json!("1"), &json!(["A"])));
    let lines = fake.lines();
    let want = [
        LOGIN,
        "GET /api/v2/hooks?page=0&per_page=100&include_totals=true",
        "POST /api/v2/hooks",
        "POST /api/v2/hooks/1/secrets",
        "PATCH /api/v2/hooks/1",
    ];
    assert_eq!(lines, want);
    let sent = fake.last("POST /api/v2/hooks").json();
    let want = json!({"name": "h", "triggerId": "credentials-exchange", "script": "x",
        "dependencies": {"lodash": "4"}, "enabled": false});
    assert_eq!(sent, want);
    assert_eq!(fake.last("POST /api/v2/hooks/1/secrets").json(), json!({"A": "v4lue"}));
    assert_eq!(fake.last("PATCH /api/v2/hooks/1").json(), json!({"enabled": true}));

    let fake = hooks(json!([]), json!({})).await;
    fake.hooks().create(None, &script(&[])).await.unwrap();
    assert_eq!(fake.last("POST /api/v2/hooks").json()["enabled"], true);
}

#[tokio::test]
async fn secrets_are_added_changed_and_removed_and_no_placeholder_is_written() {
    let shown =
        json!({"KEPT": "_VALUE_NOT_SHOWN_", "OTHER": "_VALUE_NOT_SHOWN_", "OLD": "_VALUE_NOT_SHOWN_"});
    let fake = hooks(json!([]), shown).await;
    let desired = script(&[("KEPT", "k3pt"), ("OTHER", "0ther"), ("NEW", "n3w")]);
    let observed = fake.hooks().observe("1").await.unwrap().unwrap();
    assert_eq!(observed["secretNames"], json!(["KEPT", "OLD", "OTHER"]));
    assert_eq!(desired.whole()["secretNames"], json!(["KEPT", "NEW", "OTHER"]));
    assert_eq!(desired.secret_paths(), ["secrets.KEPT", "secrets.NEW", "secrets.OTHER"]);

    let fields = ["secretNames".to_owned(), "secrets.OTHER".to_owned()];
    let updated = fake.hooks().update("1", &desired, &fields).await.unwrap();
    assert_eq!(updated["secretNames"], json!(["KEPT", "NEW", "OTHER"]));
    assert_eq!(HookClient::readable(&updated)["dependencies"], json!({"lodash": "4"}));
    let path = "/api/v2/hooks/1/secrets";
    assert_eq!(fake.last(&format!("DELETE {path}")).json(), json!(["OLD"]));
    assert_eq!(fake.last(&format!("POST {path}")).json(), json!({"NEW": "n3w"}));
    assert_eq!(fake.last(&format!("PATCH {path}")).json(), json!({"OTHER": "0ther"}));
    assert!(
        fake.seen.lock().iter().all(|s| !s.body.contains("_VALUE_NOT_SHOWN_") && !s.body.contains("k3pt"))
    );
    assert!(!fake.lines().iter().any(|l| l == "PATCH /api/v2/hooks/1"), "nothing else was to change");
}

#[tokio::test]
async fn a_taken_trigger_is_told_and_not_fought_for() {
    let other = |enabled: bool| {
        json!([{"id": "2", "name": "theirs", "enabled": enabled, "triggerId": "credentials-exchange"},
               {"id": "3", "name": "elsewhere", "enabled": true, "triggerId": "post-change-password"}])
    };
    let fake = hooks(other(true), json!({})).await;
    for error in [
        fake.hooks().may_create(&script(&[])).await.unwrap_err(),
        fake.hooks().update("1", &script(&[]), &["enabled".into()]).await.unwrap_err(),
    ] {
        assert_eq!((<&str>::from(&error), error.class()), ("TriggerTaken", Class::Retryable));
        assert!(error.to_string().contains("disable theirs (2)"), "{error}");
    }
    assert!(fake.lines().iter().all(|l| !l.starts_with("POST /api") && !l.starts_with("PATCH")));
    let mut disabled = script(&[]);
    disabled.enabled = false;
    fake.hooks().may_create(&disabled).await.unwrap();
    fake.hooks().update("2", &script(&[]), &["enabled".into()]).await.unwrap();
    let fake = hooks(other(false), json!({})).await;
    fake.hooks().may_create(&script(&[])).await.unwrap();
}

#[tokio::test]
async fn a_trigger_cannot_be_changed() {
    let fake = hooks(json!([]), json!({})).await;
    let error = fake.hooks().update("1", &script(&[]), &["triggerId".into()]).await.unwrap_err();
    assert_eq!(error.class(), Class::Terminal);
    assert!(fake.lines().is_empty());
}

#[tokio::test]
async fn an_api_that_is_gone_is_the_end_of_life() {
    let gone = |status: u16, code: Option<&str>, message: &str| {
        reply(status, &[], &json!({"statusCode": status, "errorCode": code, "message": message}))
    };
    let cases = [
        (gone(404, None, "Not Found"), "EndOfLife"),
        (gone(410, None, "Gone"), "EndOfLife"),
        (gone(403, None, "This endpoint is disabled for your tenant."), "EndOfLife"),
        (gone(501, None, "Not Implemented"), "EndOfLife"),
        (gone(403, Some("insufficient_scope"), "Insufficient scope"), "Forbidden"),
        (gone(500, None, "oops"), "ServerError"),
    ];
    for (answer, reason) in cases {
        let fake = Fake::start(move |seen| seen.line.contains("hooks").then(|| answer.clone())).await;
        let mut desired = script(&[]);
        desired.enabled = false;
        let created = fake.hooks().create(None, &desired).await.unwrap_err();
        let observed = fake.hooks().observe("1").await.unwrap_err();
        let listed = fake.hooks().list().await.err().unwrap();
        for error in [created, observed, listed] {
            assert_eq!(<&str>::from(&error), reason, "{error}");
            assert_eq!(error.class() == Class::Terminal, reason == "EndOfLife");
        }
        assert_eq!(fake.hooks().delete("1").await.is_ok(), reason == "EndOfLife");
    }
}

#[tokio::test]
async fn a_hook_that_goes_while_it_is_read_is_gone() {
    let fake = Fake::start(|seen| {
        let hook = seen.line == "GET /api/v2/hooks/1";
        Some(if hook { asked_for(seen) } else { reply(404, &[], &no_hook()) }).filter(|_| seen.line != LOGIN)
    })
    .await;
    assert_eq!(fake.hooks().observe("1").await.unwrap(), None);
}

#[tokio::test]
async fn a_hook_without_an_id_gets_no_secrets() {
    let fake = Fake::start(|seen| (seen.line != LOGIN).then(|| reply(201, &[], &json!({"hooks": []})))).await;
    let error = fake.hooks().create(None, &script(&[("A", "v4lue")])).await.unwrap_err();
    assert_eq!(<&str>::from(&error), "UnexpectedAnswer");
    assert_eq!(fake.lines().last().unwrap(), "POST /api/v2/hooks", "nothing goes to another address");
}

#[tokio::test]
async fn only_auth0_itself_ends_hooks() {
    for answer in [raw(403, &[], "<html>blocked</html>"), raw(403, &[], ""), raw(404, &[], "no backend")] {
        let fake = Fake::start(move |seen| seen.line.contains("hooks").then(|| answer.clone())).await;
        let error = fake.hooks().delete("1").await.unwrap_err();
        assert_eq!(error.class(), Class::Retryable, "a proxy's page lets nothing go: {error}");
    }
}
