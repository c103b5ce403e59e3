//! Kong's read endpoints on the API port: shapes, test and ping, and the rights that each needs.

use serde_json::{Value, json};

use crate::harness::http::{answer, client};
use crate::harness::manifests::{hook, manifest, secret};
use crate::harness::standalone::Standalone;
use crate::harness::worker::{Worker, create_accounts};
use crate::harness::{Receiver, Reply};

fn url(standalone: &Standalone, path: &str) -> String {
    format!("http://{}/kong/default/event-hooks{path}", standalone.api)
}

async fn get(standalone: &Standalone, path: &str) -> (u16, Value) {
    answer(standalone.client.get(url(standalone, path))).await
}

fn with_handler(name: &str, event: &str, handler: Value) -> String {
    let spec = json!({"source": "crud", "event": event, "handler": handler});
    manifest("hookstream.dev/v1alpha1", "EventHook", name, json!({ "spec": spec }))
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_have_kong_shape_without_secrets() {
    let payload = json!({"text": "{{ entity.username }}"});
    let custom = json!({"webhookCustom": {"url": "https://hooks.slack.com/services/foo/bar/baz",
        "headers": {"content-type": "application/json", "Authorization": "s3cr3t-plain"}, "payload": payload}});
    let function = "return function () return true end";
    let manifests = [
        secret("keys", json!({"url": "https://s3cr3t.example.com/", "signing": "s3cr3t-signing", "token": "s3cr3t-token"})),
        hook("webhook", "https://example.com/a", json!({"source": "crud", "event": "consumers",
            "snooze": {"period": "1m"}, "onChange": {}})),
        hook("hidden", "", json!({"handler": {"webhook": {"url": null, "urlSecretRef": {"name": "keys", "key": "url"},
            "headersFrom": [{"name": "x-a", "secretRef": {"name": "keys", "key": "token"}}],
            "signature": {"secretRef": {"name": "keys", "key": "signing"}}}}})),
        with_handler("custom", "admins", custom),
        with_handler("log", "routes", json!({"log": {}})),
        with_handler("lambda", "consumers", json!({"lambda": {"functions": [function]}})),
    ]
    .concat();
    let standalone = Standalone::start(&manifests, &[]).await;
    let (status, all) = get(&standalone, "").await;
    assert_eq!((status, &all["next"]), (200, &Value::Null));
    assert!(!all.to_string().contains("s3cr3t"), "{all}");
    let hooks = all["data"].as_array().unwrap().clone();
    assert_eq!(hooks.len(), 5);
    let get_hook = async |name: &str| {
        let (status, mut hook) = get(&standalone, &format!("/{name}")).await;
        assert_eq!(status, 200, "{name}");
        assert!(hooks.contains(&hook), "{hook}");
        let members = hook.as_object_mut().unwrap();
        let id = members.remove("id").unwrap();
        // The hook can be read by its id, too.
        let by_id = get(&standalone, &format!("/{}", id.as_str().unwrap())).await.1;
        assert_eq!(by_id["config"], hook["config"]);
        hook
    };
    assert_eq!(
        get_hook("webhook").await,
        json!({"source": "crud", "event": "consumers", "handler": "webhook", "snooze": 60, "on_change": true,
            "created_at": null, "config": {"url": "https://example.com/a", "headers": {}, "secret": null, "ssl_verify": true}})
    );
    assert_eq!(
        get_hook("hidden").await["config"],
        json!({"url": "***", "headers": {"x-a": "***"}, "secret": "***", "ssl_verify": true})
    );
    assert_eq!(
        get_hook("custom").await,
        json!({"source": "crud", "event": "admins", "handler": "webhook-custom", "snooze": null, "on_change": null,
            "created_at": null, "config": {"url": "https://hooks.slack.com/services/foo/bar/baz", "method": "POST",
                "headers": {"content-type": "application/json", "Authorization": "***"}, "headers_format": false,
                "payload": payload, "payload_format": true, "body": null, "body_format": true, "secret": null,
                "ssl_verify": true}})
    );
    assert_eq!(get_hook("log").await["config"], json!({}));
    assert_eq!(get_hook("lambda").await["config"], json!({"functions": [function]}));

    // Paging.
    let (_, first) = get(&standalone, "?size=2").await;
    assert_eq!(first["data"].as_array().unwrap().len(), 2);
    let offset = first["offset"].as_str().unwrap();
    let (_, rest) = get(&standalone, &format!("?size=100&offset={offset}")).await;
    assert_eq!((rest["data"].as_array().unwrap().len(), &rest["next"]), (3, &Value::Null));
    assert_eq!(get(&standalone, "?size=0").await.0, 400);
    assert_eq!(get(&standalone, "/missing").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_test_and_ping_match_kong() {
    let receiver = Receiver::start(|_, _| Reply::status(200).header("content-type", "text/plain"));
    let lambda = json!({"lambda": {"functions": ["return function (d) return d.consumer.username == 'Jane Austen' end"]}});
    let manifests = [
        hook("h", &receiver.url(), json!({"source": "crud", "event": "consumers"})),
        with_handler("log", "routes", json!({"log": {}})),
        with_handler("lambda", "consumers", lambda),
    ]
    .concat();
    let standalone = Standalone::start(&manifests, &[]).await;

    let fields = json!({"fields": ["operation", "entity", "old_entity", "schema"]});
    let (_, all) = get(&standalone, "/sources").await;
    assert_eq!(
        all["data"]["rate-limiting-advanced"]["rate-limit-exceeded"]["unique"],
        json!(["consumer", "ip", "service"])
    );
    let events = json!({"data": {"create": fields, "update": fields, "delete": fields}});
    assert_eq!(get(&standalone, "/sources/dao:crud").await, (200, events.clone()));
    // With a trailing slash, as Kong's documentation writes them.
    assert_eq!(get(&standalone, "/sources/dao:crud/").await, (200, events));
    assert_eq!(get(&standalone, "/sources/").await, (200, all.clone()));
    assert_eq!(get(&standalone, "/").await.0, 200);
    assert_eq!(get(&standalone, "/sources/dao%3Acrud/create").await, (200, json!({ "data": fields })));
    assert_eq!(get(&standalone, "/sources/shop").await.0, 404);

    let test = async |name: &str, body: &str| {
        let request =
            standalone.client.post(url(&standalone, &format!("/{name}/test"))).body(body.to_owned());
        answer(request.header("content-type", "application/json")).await
    };
    let posted = r#"{"consumer":{"username":"Jane Austen"}}"#;
    let (status, body) = test("h", posted).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(
        body["data"],
        json!({"consumer": {"username": "Jane Austen"}, "event": "consumers", "source": "crud"})
    );
    assert_eq!((&body["result"]["status"], &body["result"]["body"]), (&json!(200), &json!("")));
    assert_eq!(body["result"]["headers"]["content-type"], "text/plain");
    assert_eq!(receiver.requests()[0].json(), body["data"]);
    assert_eq!(test("log", posted).await.1["result"], true);
    assert_eq!(
        test("lambda", posted).await.1["result"],
        json!({"functions": [{"ok": true, "result": true}]})
    );
    assert_eq!(test("h", "no").await.0, 400);
    assert_eq!(test("missing", posted).await.0, 404);

    let (status, ping) = get(&standalone, "/h/ping").await;
    assert_eq!(status, 200, "{ping}");
    assert_eq!((&ping["source"], &ping["event"]), (&json!("kong:event_hooks"), &json!("ping")));
    assert_eq!(ping["event_hooks"]["handler"], "webhook");
    assert_eq!(ping["event_hooks"]["config"]["headers"], json!({"content-type": "application/json"}));
    assert_eq!(receiver.requests()[1].json(), ping);
    assert_eq!(get(&standalone, "/log/ping").await.0, 400);
    receiver.script(|_, _| Reply::Close);
    assert_eq!(get(&standalone, "/h/ping").await.0, 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_endpoint_needs_its_right() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let (namespace, kubeconfig) = create_accounts("kong-reads").await;
    namespace.apply(&hook("h", &receiver.url(), json!({}))).await.unwrap();
    let rule = |resource: &str, verb: &str| {
        format!("[{{apiGroups: [hookstream.dev], resources: [{resource}], verbs: [{verb}]}}]")
    };
    namespace.service_account("tests", &rule("eventhooks/test", "create")).await;
    namespace.service_account("pings", &rule("eventhooks/ping", "create")).await;
    let worker = Worker::start(namespace, kubeconfig, &["--egress-allow", "127.0.0.0/8"]).await;
    let base = format!("{}/kong/{}/event-hooks", worker.api, worker.namespace.name);
    let request_status = async |token: Option<&str>, path: &str| {
        let client = client();
        let mut request = match path.ends_with("/test") {
            true => client.post(format!("{base}{path}")).body("{}"),
            false => client.get(format!("{base}{path}")),
        };
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        answer(request).await.0
    };
    let paths = ["", "/h", "/sources", "/sources/crud", "/sources/crud/routes", "/h/test", "/h/ping"];
    for path in paths {
        assert_eq!(request_status(None, path).await, 401, "{path}");
    }
    for (account, statuses) in [
        ("reader", [200, 200, 200, 200, 200, 403, 403]),
        ("tests", [403, 403, 403, 403, 403, 200, 403]),
        ("pings", [403, 403, 403, 403, 403, 403, 200]),
        ("publisher", [403; 7]),
    ] {
        let token = worker.namespace.token(account, &["hookstream"]).await;
        for (path, expected) in paths.iter().zip(statuses) {
            assert_eq!(request_status(Some(&token), path).await, expected, "{account}: {path}");
        }
    }
}
