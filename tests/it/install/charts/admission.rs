//! The chart's ValidatingAdmissionPolicies: who may run code, and which hosts may be used.

use serde_json::{Value, json};

use crate::harness::helm::template;
use crate::harness::objects::{documents, object};
use crate::harness::{DEADLINE, Namespace, control_plane, eventually};

/// Creates a namespace with the policies and a user `dev` who may write hooks.
async fn namespace_with_policies() -> Namespace {
    let shop = control_plane().namespace("governed").await;
    let values = json!({
        "scope": {"namespaces": [shop.name]}, "fullnameOverride": format!("policies-{}", shop.name),
        "ingest": {"publicUrl": "https://hooks.example"},
        "admissionPolicy": {"enabled": true, "allowedHosts": ["a.example", "*.b.example"], "allowedAdminHosts": ["kong.example", "acme.eu.auth0.com"]},
    });
    let mut rendered = template(control_plane(), &shop.name, &values).await;
    rendered.retain(|o| {
        o["kind"].as_str().unwrap().starts_with("Validating")
            || o["metadata"]["name"].as_str().unwrap().ends_with("-scripting")
    });
    assert_eq!(rendered.len(), 7);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "dev", "namespace": shop.name},
        "rules": [{"apiGroups": ["hookstream.dev"], "resources": ["eventhooks", "connections", "eventstreams"], "verbs": ["*"]}]});
    rendered.push(role);
    control_plane()
        .kubectl(["apply", "--server-side", "--validate=strict", "-f", "-"], &documents(&rendered))
        .await
        .unwrap();
    shop.kubectl(&["create", "rolebinding", "dev", "--role=dev", "--user=dev"]).await.unwrap();
    shop
}

async fn create(shop: &Namespace, object: &Value) -> Result<String, String> {
    let args = ["-n", &shop.name, "create", "--dry-run=server", "--as=dev", "-f", "-"];
    control_plane().kubectl(args, &object.to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn code_needs_right_and_hosts_are_restricted() {
    let shop = namespace_with_policies().await;
    let hook = |handler: Value| object("EventHook", "h", json!({"source": "s", "handler": handler}));
    let lambda = hook(json!({"lambda": {"functions": ["return function() return true end"]}}));
    // The API server enforces a policy with a delay.
    eventually(DEADLINE, "the policy to be in force", async || match create(&shop, &lambda).await {
        Err(rejection) if rejection.contains("use lambdas.hookstream.dev") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;

    let custom = |extra: Value| {
        hook(
            json!({"webhookCustom": crate::harness::manifests::merged(json!({"url": "https://a.example/"}), extra)}),
        )
    };
    let webhook = |extra: Value| {
        hook(
            json!({"webhook": crate::harness::manifests::merged(json!({"url": "https://a.example/"}), extra)}),
        )
    };
    let kong = |url: &str, tls: Value| {
        object(
            "Connection",
            "c",
            json!({"kong": crate::harness::manifests::merged(json!({"adminUrl": url}), tls)}),
        )
    };
    let stream = |endpoint: &str| {
        object(
            "EventStream",
            "s",
            json!({"connectionRef": {"name": "c"}, "name": "s", "subscriptions": [{"eventType": "user.created"}],
            "destination": {"webhook": {"endpoint": endpoint, "authorization": {"bearer": {"tokenSecretRef": {"name": "a", "key": "b"}}}}}}),
        )
    };
    let connection_with_ingest = |url: &str| {
        object("Connection", "c", json!({"kong": {"adminUrl": "https://kong.example"}, "ingestUrl": url}))
    };
    let scripts = [
        (lambda, "use lambdas.hookstream.dev"),
        (custom(json!({"body": "{{ x }}"})), "use templates.hookstream.dev"),
        (custom(json!({"payload": {"a": "{{ x }}"}})), "use templates.hookstream.dev"),
        (custom(json!({"headers": {"a": "b"}, "headersFormat": "Template"})), "use templates.hookstream.dev"),
    ];
    let restricted = [
        (webhook(json!({"tls": {"insecureSkipVerify": true}})), "use insecuretls.hookstream.dev"),
        (custom(json!({"tls": {"insecureSkipVerify": true}})), "use insecuretls.hookstream.dev"),
        (webhook(json!({"url": "https://c.example/"})), "webhook.url: the cluster does not allow this host"),
        (webhook(json!({"url": "https://b.example/"})), "webhook.url: the cluster does not allow this host"),
        (
            webhook(json!({"url": "https://evil-a.example/"})),
            "webhook.url: the cluster does not allow this host",
        ),
        (
            custom(json!({"url": "https://c.example/"})),
            "webhookCustom.url: the cluster does not allow this host",
        ),
        (hook(json!({"webhook": {"urlSecretRef": {"name": "a", "key": "b"}}})), "webhook.urlSecretRef"),
        (kong("https://other.example", json!({})), "kong.adminUrl: the cluster does not allow this host"),
        (
            stream("https://c.example/in"),
            "destination.webhook.endpoint: the cluster does not allow this host",
        ),
        (connection_with_ingest("https://c.example/"), "ingestUrl: this host"),
        (
            kong("https://kong.example", json!({"tls": {"insecureSkipVerify": true}})),
            "use insecuretls.hookstream.dev",
        ),
    ];
    let allowed = [
        webhook(json!({})),
        webhook(json!({"url": "https://A.example:8443/x"})),
        webhook(json!({"url": "https://x.b.example/"})),
        custom(json!({"body": "as it is", "bodyFormat": "Raw"})),
        kong("https://kong.example:8444", json!({})),
        stream("https://a.example/in"),
        connection_with_ingest("https://x.b.example/"),
        connection_with_ingest("https://Hooks.example/"),
    ];
    for (object, expected) in scripts.iter().chain(&restricted) {
        let rejection = create(&shop, object).await.unwrap_err();
        assert!(rejection.contains(expected), "{object}: {rejection}");
    }
    for object in &allowed {
        create(&shop, object).await.unwrap_or_else(|rejection| panic!("{object}: {rejection}"));
    }

    // With the role, scripts are allowed; other restrictions stay.
    let role = format!("--clusterrole=policies-{}-scripting", shop.name);
    shop.kubectl(&["create", "rolebinding", "scripting", &role, "--user=dev"]).await.unwrap();
    for (object, _) in &scripts {
        eventually(DEADLINE, "the role to be in force", async || create(&shop, object).await).await;
    }
    create(&shop, &restricted[0].0).await.unwrap_err();

    // An object that was allowed once stays manageable: the policy evaluates the spec when it changes, not a finalizer.
    let args = ["-n", &shop.name, "create", "-f", "-"];
    control_plane().kubectl(args, &restricted[2].0.to_string()).await.unwrap_err();
    control_plane().kubectl(args, &scripts[0].0.to_string()).await.unwrap();
    shop.kubectl(&["delete", "rolebinding", "scripting"]).await.unwrap();
    let annotate = ["annotate", "evh/h", "a=b", "--as=dev"];
    shop.kubectl(&annotate).await.unwrap();
    let patch = ["patch", "evh/h", "--as=dev", "--type=merge", "-p", r#"{"spec": {"source": "other"}}"#];
    eventually(DEADLINE, "the right to be revoked", async || match shop.kubectl(&patch).await {
        Err(rejection) if rejection.contains("use lambdas") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}
