//! The resources as kubectl shows them.

use crate::harness::control_plane;

#[tokio::test(flavor = "multi_thread")]
async fn explain_shows_defaults() {
    let explain = async |path: &str| {
        let text = control_plane().kubectl(["explain", path], "").await.unwrap();
        // kubectl wraps lines, so whitespace is normalized.
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let retry = explain("eventhooks.spec.delivery.retry").await;
    assert!(retry.contains("When and how often a failed delivery is retried."), "{retry}");
    assert!(retry.contains("The delay after the first failure. Default: 5s."), "{retry}");
    assert!(retry.contains("The longest delay between two attempts. Default: 6h."), "{retry}");
    // The short name works here too, and the comment of the field wins over that of its type.
    let delete = explain("conn.spec.deletionPolicy").await;
    assert!(
        delete.contains("an object without its own deletionPolicy is deleted. Default: Delete."),
        "{delete}"
    );
    let reenable = explain("evs.spec.destination.worker.recovery.reenable").await;
    assert!(
        reenable.contains("at most once an hour. Never: enable it only after the annotation"),
        "{reenable}"
    );
    assert!(explain("evs.spec.enabled").await.contains("Default: true."));
    assert!(
        explain("hooks.spec.enabled")
            .await
            .contains("Auth0 enables only one hook per trigger. Default: true.")
    );
    assert!(explain("hook").await.contains("Auth0 ended Hooks on 18 November 2026"));
    assert!(explain("eventhook").await.contains("An EventHook selects events (by source and event)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn get_prints_columns() {
    let namespace = control_plane().namespace("columns").await;
    let manifests = r#"
apiVersion: hookstream.dev/v1alpha1
kind: EventHook
metadata: {name: seen}
spec: {source: crud, event: consumers, connectionRef: {name: kong}, handler: {log: {}}}
---
apiVersion: hookstream.dev/v1alpha1
kind: Connection
metadata: {name: kong}
spec: {kong: {adminUrl: "https://kong-admin:8444"}}
---
apiVersion: hookstream.dev/v1alpha1
kind: EventStream
metadata: {name: users}
spec: {connectionRef: {name: auth0}, name: shop, subscriptions: [{eventType: user.created}], destination: {worker: {}}}
---
apiVersion: hookstream.dev/v1alpha1
kind: Hook
metadata: {name: claims}
spec: {connectionRef: {name: auth0}, name: add-claims, triggerId: credentials-exchange, script: x}
"#;
    namespace.apply(manifests).await.unwrap();
    let now = "2026-01-01T00:00:00Z";
    let condition = |kind: &str, status: &str, reason: &str| {
        format!(
            r#"{{"type":"{kind}","status":"{status}","reason":"{reason}","message":"","lastTransitionTime":"{now}"}}"#
        )
    };
    let patch = async |object: &str, status: String| {
        let patch = format!(r#"{{"status":{status}}}"#);
        namespace
            .kubectl(&["patch", object, "--subresource=status", "--type=merge", "-p", &patch])
            .await
            .unwrap()
    };
    let hook = [condition("Ready", "True", "Synced"), condition("Delivering", "False", "Gone")].join(",");
    let external = r#"{"id":"id-1","connection":"kong","endpoint":"https://kong-admin:8444"}"#;
    let delivery = r#"{"summary":"Gone for 12m, 3 pending","host":"orders.test"}"#;
    patch("evh/seen", format!(r#"{{"conditions":[{hook}],"external":{external},"delivery":{delivery}}}"#))
        .await;
    let connection = condition("Ready", "True", "Connected");
    patch("conn/kong", format!(r#"{{"conditions":[{connection}],"version":"3.14.0.1"}}"#)).await;

    let synced = condition("Ready", "True", "Synced");
    let external = r#"{"id":"est_1","connection":"auth0","endpoint":"https://acme.eu.auth0.com"}"#;
    let stream = format!(r#"{{"conditions":[{synced}],"external":{external},"serverStatus":"enabled"}}"#);
    patch("evs/users", stream).await;
    patch("hook/claims", format!(r#"{{"conditions":[{synced}]}}"#)).await;

    let wide = lines(&namespace.kubectl(&["get", "evs", "-o", "wide"]).await.unwrap());
    assert_eq!(wide[0], "NAME STREAM READY REASON SERVER CONNECTION EXTERNAL ID AGE");
    assert!(wide[1].starts_with("users shop True Synced enabled auth0 est_1 "), "{wide:?}");
    let wide = lines(&namespace.kubectl(&["get", "hook.hookstream.dev", "-o", "wide"]).await.unwrap());
    assert_eq!(wide[0], "NAME TRIGGER READY REASON HOOK CONNECTION EXTERNAL ID AGE");
    assert!(wide[1].starts_with("claims credentials-exchange True Synced add-claims auth0 "), "{wide:?}");

    let both = namespace.kubectl(&["get", "evh,conn"]).await.unwrap();
    let words = lines(&both);
    assert_eq!(words[0], "NAME SOURCE EVENT READY DELIVERING STATUS AGE", "{both}");
    let row = "eventhook.hookstream.dev/seen crud consumers True False Gone for 12m, 3 pending ";
    assert!(words[1].starts_with(row), "{both}");
    assert_eq!(words[3], "NAME READY REASON VERSION AGE", "{both}");
    assert!(words[4].starts_with("connection.hookstream.dev/kong True Connected 3.14.0.1 "), "{both}");

    let wide = lines(&namespace.kubectl(&["get", "evh", "-o", "wide"]).await.unwrap());
    assert_eq!(
        wide[0],
        "NAME SOURCE EVENT READY DELIVERING STATUS REASON HOST CONNECTION EXTERNAL ID BY AGE"
    );
    let row = "seen crud consumers True False Gone for 12m, 3 pending Synced orders.test kong id-1 ";
    assert!(wide[1].starts_with(row), "{wide:?}");
    let wide = lines(&namespace.kubectl(&["get", "conn", "-o", "wide"]).await.unwrap());
    assert_eq!(wide[0], "NAME READY REASON VERSION ADMIN URL DOMAIN AGE");
    assert!(wide[1].starts_with("kong True Connected 3.14.0.1 https://kong-admin:8444 "), "{wide:?}");

    let all = namespace.kubectl(&["get", "hookstream", "-o", "name"]).await.unwrap();
    let mut names: Vec<&str> = all.lines().collect();
    names.sort_unstable();
    let expected = [
        "connection.hookstream.dev/kong",
        "eventhook.hookstream.dev/seen",
        "eventstream.hookstream.dev/users",
        "hook.hookstream.dev/claims",
    ];
    assert_eq!(names, expected);
}

/// Returns the lines of a table with single spaces between columns.
fn lines(table: &str) -> Vec<String> {
    table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}
