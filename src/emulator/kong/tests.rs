//! Tests of the emulator over real loopback sockets.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;
use uuid::Uuid;

use super::options::Version;
use super::*;
use crate::api::SignatureEncoding;
use crate::core::sign;
use crate::emulator::testing::{EmulatorServer, Receiver, client, read};

const ID: &str = "0191c1a5-0000-4000-8000-000000000001";

async fn start(options: KongOptions) -> EmulatorServer {
    EmulatorServer::start(|listener| serve_kong(listener, options, std::future::pending::<()>())).await
}

fn log_hook(source: &str) -> Value {
    json!({"source": source, "handler": "log"})
}

fn webhook(url: &str) -> Value {
    json!({"source": "crud", "event": "consumers", "handler": "webhook", "config": {"url": url, "secret": "hush"}})
}

#[tokio::test]
async fn supports_hook_lifecycle() {
    let kong = start(KongOptions::default()).await;
    let (status, made) = kong.call("POST", "/event-hooks", log_hook("crud")).await;
    assert_eq!(status, 201);
    let id = made["id"].as_str().unwrap().to_owned();
    assert_eq!(id.parse::<Uuid>().unwrap().get_version_num(), 4);
    let expected = json!({"id": id, "created_at": made["created_at"], "updated_at": made["created_at"],
        "source": "crud", "event": null, "handler": "log", "snooze": null, "on_change": null, "config": {}});
    assert_eq!(made, expected);
    let path = format!("/event-hooks/{id}");
    assert_eq!(kong.get(&path).await, (200, expected.clone()));
    assert_eq!(kong.get("/default/event-hooks/").await, (200, json!({"data": [expected], "next": null})));
    let (status, patched) = kong.call("PATCH", &path, json!({"snooze": 5, "on_change": true})).await;
    assert_eq!((status, &patched["snooze"], &patched["on_change"]), (200, &json!(5), &json!(true)));
    let (status, put) = kong.call("PUT", &path, log_hook("balancer")).await;
    assert_eq!((status, &put["source"], &put["snooze"]), (200, &json!("balancer"), &Value::Null));
    assert_eq!(put["created_at"], made["created_at"]);
    assert_eq!(kong.call("DELETE", &path, Value::Null).await.0, 204);
    assert_eq!(kong.call("DELETE", &path, Value::Null).await.0, 204);
    assert_eq!(kong.get(&path).await, (404, json!({"message": "Not found"})));
    assert_eq!(kong.get("/event-hooks").await.1, json!({"data": [], "next": null}));
}

#[tokio::test]
async fn put_creates_with_client_chosen_id() {
    let kong = start(KongOptions::default()).await;
    let path = format!("/event-hooks/{ID}");
    let (status, made) = kong.call("PUT", &path, log_hook("crud")).await;
    assert_eq!((status, &made["id"]), (200, &json!(ID)));
    let mut hook = log_hook("crud");
    hook["id"] = ID.into();
    let (status, error) = kong.call("POST", "/event-hooks", hook.clone()).await;
    assert_eq!((status, &error["code"]), (400, &json!(3)));
    kong.call("DELETE", &path, Value::Null).await;
    let (status, made) = kong.call("POST", "/event-hooks", hook).await;
    assert_eq!((status, &made["id"]), (201, &json!(ID)));
}

#[tokio::test]
async fn returns_errors_in_kongs_format() {
    let kong = start(KongOptions::default()).await;
    let (status, error) = kong.get("/event-hooks/nope").await;
    assert_eq!((status, &error["code"], &error["name"]), (400, &json!(1), &json!("invalid primary key")));
    let (status, error) = kong.call("POST", "/event-hooks", json!({"handler": "log"})).await;
    assert_eq!(status, 400);
    assert_eq!(
        error,
        json!({"code": 2, "name": "schema violation", "message": "schema violation (source: required field missing)",
            "fields": {"source": "required field missing"}})
    );
    let (status, error) = kong.call("PATCH", &format!("/event-hooks/{ID}"), json!({})).await;
    assert_eq!((status, &error["code"]), (404, &json!(6)));
    let bad = kong.request("POST", "/event-hooks").header("content-type", "application/json").body("{");
    let answer = read(bad.send().await.unwrap()).await;
    assert_eq!(answer, (400, json!({"message": "Cannot parse JSON body"})));
    let text = kong.request("POST", "/event-hooks").header("content-type", "text/plain").body("{}");
    assert_eq!(text.send().await.unwrap().status(), 415);
    assert_eq!(kong.get("/services").await, (404, json!({"message": "Not found"})));
    assert_eq!(kong.call("DELETE", "/event-hooks", Value::Null).await.0, 405);
    assert_eq!(kong.get(&format!("/event-hooks/{ID}/test")).await.0, 405);
    assert_eq!(kong.get(&format!("/event-hooks/{ID}/ping")).await.0, 404);
    let mut hook = log_hook("crud");
    hook["id"] = "x".into();
    let (_, error) = kong.call("POST", "/event-hooks", hook).await;
    assert_eq!(error["fields"], json!({"id": "expected a valid UUID"}));
    let (_, error) = kong.call("POST", "/event-hooks", json!({"config.url": "x"})).await;
    assert_eq!(error["fields"]["config.url"], "unknown field");
}

#[tokio::test]
async fn options_disable_operations() {
    let kong = start(KongOptions {
        put: false,
        patch: false,
        client_id: false,
        missing_delete: MissingDelete::NotFound,
        ..KongOptions::default()
    })
    .await;
    let path = format!("/event-hooks/{ID}");
    for method in ["PUT", "PATCH"] {
        let refused = kong.call(method, &path, log_hook("crud")).await;
        assert_eq!(refused, (405, json!({"message": "Method not allowed"})), "{method}");
    }
    let mut hook = log_hook("crud");
    hook["id"] = ID.into();
    let (status, error) = kong.call("POST", "/event-hooks", hook).await;
    assert_eq!((status, &error["fields"]), (400, &json!({"id": "unknown field"})));
    assert_eq!(kong.call("DELETE", &path, Value::Null).await.0, 404);
}

#[tokio::test]
async fn defaults_follow_gateway_version() {
    for (version, reported, updated_at, ssl_verify) in [
        ("3.2", "3.2.0.0-enterprise-edition", false, false),
        ("3.13.0.1", "3.13.0.1", true, false),
        ("3.14", "3.14.0.0-enterprise-edition", true, true),
        ("4.0-rc", "4.0-rc", true, true),
    ] {
        let kong = start(KongOptions { gateway_version: version.into(), ..KongOptions::default() }).await;
        assert_eq!(kong.get("/").await.1["version"], reported);
        let (_, made) = kong.call("POST", "/event-hooks", webhook("http://127.0.0.1:1/")).await;
        assert_eq!(made.get("updated_at").is_some(), updated_at, "{version}");
        assert_eq!(made["config"]["ssl_verify"], ssl_verify, "{version}");
        assert_eq!(made["config"]["secret"], "hush");
    }
    for version in ["", "3", "x.y", "3.14 beta"] {
        assert!(matches!(Version::parse(version), Err(Error::Version(_))), "{version}");
    }
}

#[tokio::test]
async fn pages_through_hooks_by_offset() {
    let kong = start(KongOptions::default()).await;
    for _ in 0..5 {
        kong.call("POST", "/event-hooks", log_hook("crud")).await;
    }
    let (mut ids, mut offset, mut pages) = (BTreeSet::new(), String::new(), 0);
    loop {
        let request = kong.request("GET", &format!("/event-hooks?size=2&unknown=1{offset}"));
        let (_, page) = read(request.send().await.unwrap()).await;
        pages += 1;
        ids.extend(page["data"].as_array().unwrap().iter().map(|hook| hook["id"].to_string()));
        let Some(next) = page["offset"].as_str() else {
            assert_eq!(page["next"], Value::Null);
            break;
        };
        let encoded: String = url::form_urlencoded::byte_serialize(next.as_bytes()).collect();
        offset = format!("&offset={encoded}");
        assert_eq!(page["next"], format!("/event-hooks?offset={encoded}&size=2"));
    }
    assert_eq!((pages, ids.len()), (3, 5));
    for size in ["0", "1001", "1.5", "x"] {
        let (status, error) = kong.get(&format!("/event-hooks?size={size}")).await;
        assert_eq!((status, &error["code"]), (400, &json!(9)), "{size}");
    }
    let (status, error) = kong.get("/event-hooks?offset=!").await;
    assert_eq!((status, &error["code"]), (400, &json!(7)));
}

#[tokio::test]
async fn separates_hooks_by_workspace_prefix() {
    let kong = start(KongOptions { workspaces: vec!["team-a".into()], ..KongOptions::default() }).await;
    let (status, made) = kong.call("POST", "/team-a/event-hooks", log_hook("crud")).await;
    assert_eq!(status, 201);
    let id = made["id"].as_str().unwrap();
    assert_eq!(kong.get(&format!("/team-a/event-hooks/{id}")).await.0, 200);
    assert_eq!(kong.get(&format!("/event-hooks/{id}")).await.0, 404);
    assert_eq!(kong.get("/team-b/event-hooks").await, (404, json!({"message": "Not found"})));
    // Ids are unique over all workspaces.
    let (status, error) = kong.call("PUT", &format!("/event-hooks/{id}"), log_hook("crud")).await;
    assert_eq!((status, &error["code"]), (400, &json!(3)));
    let emitted = json!({"source": "crud", "event": "routes"});
    assert_eq!(kong.call("POST", "/__emulator/events", emitted).await.1["matched"], 1);
}

#[tokio::test]
async fn requires_configured_token() {
    let kong = start(KongOptions { token: Some("t0ken".into()), ..KongOptions::default() }).await;
    assert_eq!(kong.get("/event-hooks").await, (401, json!({"message": "Invalid RBAC credentials"})));
    for (token, status) in [("nope", 401), ("t0ken", 200)] {
        let request = kong.request("GET", "/event-hooks").header("Kong-Admin-Token", token);
        assert_eq!(request.send().await.unwrap().status().as_u16(), status);
    }
    assert_eq!(kong.get("/__emulator/requests").await.1["total"], 3);
}

#[tokio::test]
async fn lists_sources() {
    let kong = start(KongOptions::default()).await;
    let (_, all) = kong.get("/event-hooks/sources/").await;
    assert_eq!(all["data"]["rate-limiting-advanced"]["rate-limit-exceeded"]["unique"][0], "consumer");
    let (_, one) = kong.get("/event-hooks/sources/dao%3Acrud").await;
    assert_eq!(one["data"]["delete"]["fields"][3], "schema");
    let (_, event) = kong.get("/default/event-hooks/sources/balancer/health").await;
    assert_eq!(event["data"]["fields"][0], "upstream_id");
    assert_eq!(kong.get("/event-hooks/sources/nope").await.0, 404);
    assert_eq!(kong.get("/event-hooks/sources/balancer/health/x").await.0, 404);
}

#[tokio::test]
async fn creates_hook_from_form() {
    let kong = start(KongOptions::default()).await;
    let form = "source=crud&handler=webhook&snooze=60&on_change=true&event=&config.url=http%3A%2F%2F127.0.0.1%3A1%2F\
                &config.headers.x-a=b&config.ssl_verify=false";
    let request = kong
        .request("POST", "/event-hooks")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form);
    let (status, made) = read(request.send().await.unwrap()).await;
    assert_eq!((status, &made["snooze"], &made["event"]), (201, &json!(60), &Value::Null), "{made}");
    assert_eq!(
        made["config"],
        json!({"url": "http://127.0.0.1:1/", "headers": {"x-a": "b"}, "secret": null, "ssl_verify": false})
    );
}

#[tokio::test]
async fn pings_webhook_and_signs_events() {
    for (version, encoding, prefix, length) in [
        ("3.14", SignatureEncoding::PrefixedHex, "sha256=", 71),
        ("3.13", SignatureEncoding::PrefixedHex, "sha1=", 45),
        ("3.13", SignatureEncoding::Hex, "", 40),
    ] {
        let mut receiver = Receiver::start().await;
        let options = KongOptions {
            gateway_version: version.into(),
            signature_encoding: encoding,
            ..KongOptions::default()
        };
        let kong = start(options).await;
        let mut hook = webhook(&receiver.url);
        hook["config"]["headers"] = json!({"X-Team": "a"});
        let (_, made) = kong.call("POST", "/event-hooks", hook).await;
        let (_, ping, _) = receiver.next().await;
        assert_eq!((&ping["source"], &ping["event"]), (&json!("kong:event_hooks"), &json!("ping")));
        assert_eq!(ping["event_hooks"]["id"], made["id"]);
        assert_eq!(ping["event_hooks"]["config"]["headers"]["content-type"], "application/json");

        let data = json!({"operation": "create", "source": "liar", "entity": {"username": "ada"}});
        let emitted = json!({"source": "crud", "event": "consumers", "data": data});
        let (status, answer) = kong.call("POST", "/__emulator/events", emitted).await;
        assert_eq!((status, &answer["matched"]), (200, &json!(1)));
        assert_eq!(answer["queued"], json!([made["id"]]));
        let (headers, event, bytes) = receiver.next().await;
        assert_eq!(
            event,
            json!({"operation": "create", "source": "crud", "event": "consumers", "entity": {"username": "ada"}})
        );
        assert!(headers["content-type"] == "application/json" && headers["x-team"] == "a");
        let signature = headers["x-kong-signature"].to_str().unwrap();
        assert!(signature.starts_with(prefix) && signature.len() == length, "{signature}");
        assert!(sign::verify_kong(b"hush", signature, &bytes));

        let other = json!({"source": "crud", "event": "routes"});
        assert_eq!(kong.call("POST", "/__emulator/events", other).await.1["matched"], 0);
        receiver.assert_no_request().await;
    }
}

#[tokio::test]
async fn emits_event_to_every_handler() {
    let kong = start(KongOptions::default()).await;
    let (_, log) = kong.call("POST", "/event-hooks", log_hook("crud")).await;
    let lambda = json!({"source": "crud", "handler": "lambda", "config": {"functions": ["return 1"]}});
    let (_, lambda) = kong.call("POST", "/event-hooks", lambda).await;
    let lua = json!({"source": "crud", "handler": "webhook-custom",
        "config": {"url": "http://127.0.0.1:1/", "method": "POST", "body": "{% x() %}"}});
    let (_, lua) = kong.call("POST", "/event-hooks", lua).await;
    let (_, answer) = kong
        .call("POST", "/__emulator/events", json!({"source": "crud", "event": "any", "data": {"n": 1}}))
        .await;
    assert_eq!((&answer["matched"], &answer["queued"]), (&json!(3), &json!([])));
    assert_eq!((&answer["logged"], &answer["called"]), (&json!([log["id"]]), &json!([lambda["id"]])));
    assert_eq!(answer["skipped"][0]["id"], lua["id"]);
    assert!(answer["skipped"][0]["reason"].as_str().unwrap().contains("does not run Lua"), "{answer}");
    let (_, calls) = kong.get("/__emulator/calls").await;
    let call =
        |id: &Value| calls["data"].as_array().unwrap().iter().find(|call| call["hook"] == *id).unwrap();
    assert_eq!(
        (&call(&lambda["id"])["handler"], &call(&log["id"])["event"]),
        (&json!("lambda"), &json!("any"))
    );
    assert_eq!(call(&lambda["id"])["data"]["n"], 1);
    let test = format!("/event-hooks/{}/test", lambda["id"].as_str().unwrap());
    assert_eq!(kong.call("POST", &test, json!({})).await.1["result"], true);
    assert_eq!(kong.get("/__emulator/calls").await.1["total"], 3);
    assert_eq!(kong.get("/__emulator/state").await.1["hooks"].as_array().unwrap().len(), 3);
    assert_eq!(kong.call("POST", "/__emulator/events", json!({"source": "crud"})).await.0, 400);
    let no_object = json!({"source": "crud", "event": "a", "data": [1]});
    assert_eq!(kong.call("POST", "/__emulator/events", no_object).await.0, 400);
    assert_eq!(kong.get("/__emulator/nope").await.0, 404);
}

#[tokio::test]
async fn renders_templates_of_custom_webhook() {
    let kong = start(KongOptions::default()).await;
    let event = json!({"source": "crud", "event": "admins", "data": {"operation": "create", "entity": {"username": "a&b"}}});
    for (config, content_type, body) in [
        (
            json!({"payload": {"text": "{{ entity.username }} {{ operation }}d", "n": [1]}}),
            "application/json",
            r#"{"n":[1],"text":"a&amp;b created"}"#,
        ),
        (
            json!({"payload": {"text": "{{ x }}"}, "payload_format": false}),
            "application/json",
            r#"{"text":"{{ x }}"}"#,
        ),
        (
            json!({"payload": {"a": "{* entity.username *}"}, "headers": {"Content-Type": "application/x-www-form-urlencoded"}}),
            "application/x-www-form-urlencoded",
            "a=a%26b",
        ),
        (
            json!({"body": "{{ event }}: {* entity.username *}", "headers": {"content-type": "text/plain"}}),
            "text/plain",
            "admins: a&b",
        ),
        (
            json!({"body": "{{ event }}", "body_format": false, "headers": {"content-type": "text/{{ source }}"}, "headers_format": true}),
            "text/crud",
            "{{ event }}",
        ),
    ] {
        let mut receiver = Receiver::start().await;
        let mut hook =
            json!({"source": "crud", "event": "admins", "handler": "webhook-custom", "config": config});
        hook["config"]["url"] = receiver.url.clone().into();
        hook["config"]["method"] = "PUT".into();
        hook["config"]["secret"] = "hush".into();
        let (status, made) = kong.call("POST", "/event-hooks", hook).await;
        assert_eq!(status, 201, "{made}");
        kong.call("POST", "/__emulator/events", event.clone()).await;
        let (headers, _, bytes) = receiver.next().await;
        assert_eq!(String::from_utf8_lossy(&bytes), body);
        assert_eq!(headers["content-type"], content_type);
        assert!(sign::verify_kong(b"hush", headers["x-kong-signature"].to_str().unwrap(), &bytes));
        // A custom webhook gets no ping: only the event was sent.
        receiver.assert_no_request().await;
        let path = format!("/event-hooks/{}", made["id"].as_str().unwrap());
        let (status, answer) = kong.call("POST", &format!("{path}/test"), event["data"].clone()).await;
        assert_eq!((status, &answer["result"]["status"]), (200, &json!(202)));
        assert_eq!(String::from_utf8_lossy(&receiver.next().await.2), body);
        kong.call("DELETE", &path, Value::Null).await;
    }
}

#[tokio::test]
async fn retries_until_receiver_listens() {
    let kong = start(KongOptions::default()).await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    kong.call("POST", "/event-hooks", webhook(&format!("http://{free}/"))).await;
    let event = json!({"source": "crud", "event": "consumers", "data": {"n": 1}});
    kong.call("POST", "/__emulator/events", event).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut receiver = Receiver::start_at(free).await;
    assert_eq!(receiver.next().await.1["event"], "ping");
    assert_eq!(receiver.next().await.1["n"], 1);
    receiver.assert_no_request().await;
}

#[tokio::test]
async fn ping_and_test_return_payload_and_result() {
    let mut receiver = Receiver::start().await;
    let kong = start(KongOptions::default()).await;
    let (_, made) = kong.call("POST", "/event-hooks", webhook(&receiver.url)).await;
    receiver.next().await;
    let path = format!("/event-hooks/{}", made["id"].as_str().unwrap());
    let (status, ping) = kong.get(&format!("{path}/ping")).await;
    assert_eq!((status, &ping["event"]), (200, &json!("ping")));
    assert_eq!(receiver.next().await.1, ping);
    let posted = json!({"consumer": {"username": "Jane Austen"}});
    let (status, answer) = kong.call("POST", &format!("{path}/test"), posted).await;
    assert_eq!(status, 200);
    let data = json!({"consumer": {"username": "Jane Austen"}, "event": "consumers", "source": "crud"});
    assert_eq!((&answer["data"], &answer["result"]["status"]), (&data, &json!(202)));
    assert_eq!(receiver.next().await.1, data);
    let (_, log) = kong.call("POST", "/event-hooks", log_hook("crud")).await;
    let path = format!("/event-hooks/{}", log["id"].as_str().unwrap());
    assert_eq!(kong.get(&format!("{path}/ping")).await.0, 400);
    assert_eq!(kong.call("POST", &format!("{path}/test"), json!({})).await.1["result"], true);
}

#[tokio::test]
async fn applies_faults() {
    let kong = start(KongOptions::default()).await;
    let fault = json!({"method": "POST", "path": "/event-hooks", "status": 429, "headers": {"retry-after": "3"}, "times": 1});
    assert_eq!(kong.call("POST", "/__emulator/faults", fault).await.0, 201);
    let refused = kong.request("POST", "/event-hooks").json(&log_hook("crud")).send().await.unwrap();
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"3".parse().unwrap()));
    assert_eq!(kong.call("POST", "/event-hooks", log_hook("crud")).await.0, 201);
    assert_eq!(kong.get("/__emulator/faults").await.1["data"][0]["fired"], 1);

    // The request is processed, the response is lost: the worst case for a create.
    assert_eq!(kong.call("DELETE", "/__emulator/faults", Value::Null).await.0, 204);
    let drop_response = json!([{"method": "PUT", "dropAnswer": true, "times": 1}]);
    kong.call("POST", "/__emulator/faults", drop_response).await;
    let path = format!("/event-hooks/{ID}");
    let dropped = kong.request("PUT", &path).json(&log_hook("crud")).send().await;
    assert!(dropped.unwrap_err().status().is_none());
    assert_eq!(kong.get(&path).await.0, 200);

    let (_, log) = kong.get("/__emulator/requests").await;
    let logged: Vec<_> =
        log["data"].as_array().unwrap().iter().map(|one| (&one["method"], &one["status"])).collect();
    assert_eq!(json!(logged), json!([["POST", 429], ["POST", 201], ["PUT", 200], ["GET", 200]]),);
    assert_eq!(log["data"][2]["dropped"], true);
}

#[tokio::test]
async fn reads_lag_behind_create() {
    let kong = start(KongOptions::default()).await;
    kong.call("POST", "/__emulator/faults", json!({"lagMs": 300, "times": 1})).await;
    let (_, made) = kong.call("POST", "/event-hooks", log_hook("crud")).await;
    let path = format!("/event-hooks/{}", made["id"].as_str().unwrap());
    assert_eq!(kong.get(&path).await.0, 404);
    assert_eq!(kong.get("/event-hooks").await.1["data"], json!([]));
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert_eq!(kong.get(&path).await.0, 200);
    assert_eq!(kong.get("/event-hooks").await.1["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn state_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let options = KongOptions {
        state: Some(folder.path().join("kong.json")),
        workspaces: vec!["team-a".into()],
        ..KongOptions::default()
    };
    let kong = start(options.clone()).await;
    let (_, made) = kong.call("POST", "/team-a/event-hooks", webhook("http://127.0.0.1:1/")).await;
    drop(kong);
    let kong = start(options.clone()).await;
    let path = format!("/team-a/event-hooks/{}", made["id"].as_str().unwrap());
    assert_eq!(kong.get(&path).await, (200, made));
    assert_eq!(kong.call("DELETE", &path, Value::Null).await.0, 204);
    drop(kong);
    let kong = start(options).await;
    assert_eq!(kong.get(&path).await.0, 404);
    std::fs::write(folder.path().join("bad"), "{").unwrap();
    let bad = KongOptions { state: Some(folder.path().join("bad")), ..KongOptions::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = serve_kong(listener, bad, std::future::pending::<()>()).await;
    assert!(matches!(refused, Err(Error::StateFormat { .. })));
}

#[tokio::test]
async fn stops_on_shutdown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(serve_kong(listener, KongOptions::default(), stopped));
    let client = client();
    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
    stop.send(()).unwrap();
    // An idle client connection must be closed; it must not delay the shutdown.
    timeout(Duration::from_secs(2), task).await.unwrap().unwrap().unwrap();
    assert!(client.get(&url).send().await.is_err());
}
