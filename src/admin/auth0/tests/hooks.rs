//! Extensibility Hooks: requests, their order, and the end of life.

use super::*;
use crate::admin::{AdminErrorClass, ExternalClient};
use crate::core::plan::{Plan, plan};

/// Starts a tenant with these hooks, and these secrets of hook 1.
async fn tenant_with_hooks(existing: Value, secrets: Value) -> FakeTenant {
    FakeTenant::start(move |request| {
        let (method, path) = request.line.split_once(' ').unwrap();
        let hook =
            |id: &str| reply(200, &[], &json!({"id": id, "name": "h", "dependencies": {"lodash": "4"}}));
        Some(match (method, path) {
            ("GET", p) if p.starts_with("/api/v2/hooks?") => {
                let total = existing.as_array().map_or(0, Vec::len);
                reply(200, &[], &json!({"total": total, "start": 0, "limit": 100, "hooks": existing}))
            }
            ("GET", "/api/v2/hooks/1/secrets") => reply(200, &[], &secrets),
            ("DELETE", _) => raw(204, &[], ""),
            (_, p) if p.ends_with("/secrets") => reply(201, &[], &json!({})),
            ("POST", "/api/v2/hooks") => hook("1"),
            ("GET" | "PATCH", p) if p.starts_with("/api/v2/hooks/") => hook(request.last_segment()),
            _ => return None,
        })
    })
    .await
}

#[tokio::test]
async fn enables_a_hook_after_setting_its_secrets() {
    let tenant = tenant_with_hooks(json!([]), json!({})).await;
    tenant.hooks().check_create(&hook_with_secrets(&[("A", "v4lue")])).await.unwrap();
    let created = tenant.hooks().create(None, &hook_with_secrets(&[("A", "v4lue")])).await.unwrap();
    assert_eq!((&created["id"], &created["secretNames"]), (&json!("1"), &json!(["A"])));
    let lines = tenant.lines();
    let want = [
        LOGIN,
        "GET /api/v2/hooks?page=0&per_page=100&include_totals=true",
        "POST /api/v2/hooks",
        "POST /api/v2/hooks/1/secrets",
        "PATCH /api/v2/hooks/1",
    ];
    assert_eq!(lines, want);
    let sent = tenant.last("POST /api/v2/hooks").json();
    let want = json!({"name": "h", "triggerId": "credentials-exchange", "script": "x",
        "dependencies": {"lodash": "4"}, "enabled": false});
    assert_eq!(sent, want);
    assert_eq!(tenant.last("POST /api/v2/hooks/1/secrets").json(), json!({"A": "v4lue"}));
    assert_eq!(tenant.last("PATCH /api/v2/hooks/1").json(), json!({"enabled": true}));

    let tenant = tenant_with_hooks(json!([]), json!({})).await;
    tenant.hooks().create(None, &hook_with_secrets(&[])).await.unwrap();
    assert_eq!(tenant.last("POST /api/v2/hooks").json()["enabled"], true);
}

#[tokio::test]
async fn syncs_secrets_without_writing_placeholders() {
    let placeholders =
        json!({"KEPT": "_VALUE_NOT_SHOWN_", "OTHER": "_VALUE_NOT_SHOWN_", "OLD": "_VALUE_NOT_SHOWN_"});
    let tenant = tenant_with_hooks(json!([]), placeholders).await;
    let desired = hook_with_secrets(&[("KEPT", "k3pt"), ("OTHER", "0ther"), ("NEW", "n3w")]);
    let observed = tenant.hooks().observe("1").await.unwrap().unwrap();
    assert_eq!(observed["secretNames"], json!(["KEPT", "OLD", "OTHER"]));
    assert_eq!(desired.to_value()["secretNames"], json!(["KEPT", "NEW", "OTHER"]));
    assert_eq!(desired.secret_paths(), ["secrets.KEPT", "secrets.NEW", "secrets.OTHER"]);

    let fields = ["secretNames".to_owned(), "secrets.OTHER".to_owned()];
    let updated = tenant.hooks().update("1", &desired, &fields).await.unwrap();
    assert_eq!(updated["secretNames"], json!(["KEPT", "NEW", "OTHER"]));
    assert_eq!(HookClient::comparable_fields(&updated)["dependencies"], json!({"lodash": "4"}));
    let path = "/api/v2/hooks/1/secrets";
    assert_eq!(tenant.last(&format!("DELETE {path}")).json(), json!(["OLD"]));
    assert_eq!(tenant.last(&format!("POST {path}")).json(), json!({"NEW": "n3w"}));
    assert_eq!(tenant.last(&format!("PATCH {path}")).json(), json!({"OTHER": "0ther"}));
    assert!(
        tenant
            .requests
            .lock()
            .iter()
            .all(|s| !s.body.contains("_VALUE_NOT_SHOWN_") && !s.body.contains("k3pt"))
    );
    assert!(!tenant.lines().iter().any(|l| l == "PATCH /api/v2/hooks/1"), "nothing else changed");
}

#[tokio::test]
async fn reports_a_taken_trigger_without_writing() {
    let other = |enabled: bool| {
        json!([{"id": "2", "name": "theirs", "enabled": enabled, "triggerId": "credentials-exchange"},
               {"id": "3", "name": "elsewhere", "enabled": true, "triggerId": "post-change-password"}])
    };
    let tenant = tenant_with_hooks(other(true), json!({})).await;
    for error in [
        tenant.hooks().check_create(&hook_with_secrets(&[])).await.unwrap_err(),
        tenant.hooks().update("1", &hook_with_secrets(&[]), &["enabled".into()]).await.unwrap_err(),
    ] {
        assert_eq!((<&str>::from(&error), error.class()), ("TriggerTaken", AdminErrorClass::Retryable));
        assert!(error.to_string().contains("disable theirs (2)"), "{error}");
    }
    assert!(tenant.lines().iter().all(|l| !l.starts_with("POST /api") && !l.starts_with("PATCH")));
    let mut disabled = hook_with_secrets(&[]);
    disabled.enabled = false;
    tenant.hooks().check_create(&disabled).await.unwrap();
    tenant.hooks().update("2", &hook_with_secrets(&[]), &["enabled".into()]).await.unwrap();
    let tenant = tenant_with_hooks(other(false), json!({})).await;
    tenant.hooks().check_create(&hook_with_secrets(&[])).await.unwrap();
}

#[tokio::test]
async fn rejects_a_trigger_change() {
    let tenant = tenant_with_hooks(json!([]), json!({})).await;
    let error = tenant.hooks().update("1", &hook_with_secrets(&[]), &["triggerId".into()]).await.unwrap_err();
    assert_eq!(error.class(), AdminErrorClass::Terminal);
    assert!(tenant.lines().is_empty());
}

#[tokio::test]
async fn reports_end_of_life_of_a_removed_api() {
    let error = |status: u16, code: Option<&str>, message: &str| {
        reply(status, &[], &json!({"statusCode": status, "errorCode": code, "message": message}))
    };
    let cases = [
        (error(404, None, "Not Found"), "EndOfLife"),
        (error(410, None, "Gone"), "EndOfLife"),
        (error(403, None, "This endpoint is disabled for your tenant."), "EndOfLife"),
        (error(501, None, "Not Implemented"), "EndOfLife"),
        (error(403, Some("insufficient_scope"), "Insufficient scope"), "Forbidden"),
        (error(500, None, "oops"), "ServerError"),
    ];
    for (response, reason) in cases {
        let tenant =
            FakeTenant::start(move |request| request.line.contains("hooks").then(|| response.clone())).await;
        let mut desired = hook_with_secrets(&[]);
        desired.enabled = false;
        let created = tenant.hooks().create(None, &desired).await.unwrap_err();
        let observed = tenant.hooks().observe("1").await.unwrap_err();
        let listed = tenant.hooks().list(ListFilter::all()).await.err().unwrap();
        for error in [created, observed, listed] {
            assert_eq!(<&str>::from(&error), reason, "{error}");
            assert_eq!(error.class() == AdminErrorClass::Terminal, reason == "EndOfLife");
        }
        let deleted = tenant.with_new_client().hooks().delete("1").await.unwrap_err();
        assert_eq!(<&str>::from(&deleted), reason, "the hook may still exist: {deleted}");
    }
}

#[tokio::test]
async fn hook_deleted_during_a_read_does_not_exist() {
    let tenant = FakeTenant::start(|request| {
        let is_hook = request.line == "GET /api/v2/hooks/1";
        Some(if is_hook { requested_object(request) } else { reply(404, &[], &missing_hook()) })
            .filter(|_| request.line != LOGIN)
    })
    .await;
    assert_eq!(tenant.hooks().observe("1").await.unwrap(), None);
}

#[tokio::test]
async fn writes_no_secrets_without_an_id() {
    let tenant =
        FakeTenant::start(|request| (request.line != LOGIN).then(|| reply(201, &[], &json!({"hooks": []}))))
            .await;
    let error = tenant.hooks().create(None, &hook_with_secrets(&[("A", "v4lue")])).await.unwrap_err();
    assert_eq!(<&str>::from(&error), "UnexpectedAnswer");
    assert_eq!(tenant.lines().last().unwrap(), "POST /api/v2/hooks", "no request goes to another path");
}

#[tokio::test]
async fn proxy_responses_do_not_mean_end_of_life() {
    for response in [raw(403, &[], "<html>blocked</html>"), raw(403, &[], ""), raw(404, &[], "no backend")] {
        let tenant =
            FakeTenant::start(move |request| request.line.contains("hooks").then(|| response.clone())).await;
        let error = tenant.hooks().delete("1").await.unwrap_err();
        assert_eq!(
            error.class(),
            AdminErrorClass::Retryable,
            "a proxy's page does not complete a delete: {error}"
        );
    }
}

#[test]
fn absent_dependencies_are_no_difference() {
    let desired = HookBody { dependencies: BTreeMap::new(), ..hook_with_secrets(&[]) };
    let mut observed = desired.to_value();
    for absent in [None, Some(json!(null)), Some(json!([]))] {
        let members = observed.as_object_mut().unwrap();
        match absent {
            None => drop(members.remove("dependencies")),
            Some(value) => drop(members.insert("dependencies".into(), value)),
        }
        assert_eq!(plan(&desired.to_value(), Some(&observed)), Plan::Nothing, "{observed}");
        let comparable = HookClient::comparable_fields;
        assert_eq!(comparable(&desired.to_value()), comparable(&observed), "{observed}");
    }
}
