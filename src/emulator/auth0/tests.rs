//! The emulator over real loopback sockets.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::emulator::testing::{Receiver, Server, read};

const STREAMS: &str = "/api/v2/event-streams";
const HOOKS: &str = "/api/v2/hooks";

async fn start(options: Auth0Options) -> Server {
    let serve = |listener| serve_auth0(listener, options, std::future::pending::<()>());
    let mut server = Server::start(serve).await;
    server.bearer = Some("any".into());
    server
}

/// Retries at once.
async fn quick() -> Server {
    start(Auth0Options { time_scale: 0.0, ..Auth0Options::default() }).await
}

fn webhook(name: &str, url: &str) -> Value {
    json!({"name": name, "subscriptions": [{"event_type": "user.created"}], "destination": {"type": "webhook",
        "configuration": {"webhook_endpoint": url, "webhook_authorization": {"method": "bearer", "token": "hush"}}}})
}

async fn made(auth0: &Server, body: Value) -> (String, Value) {
    let (status, made) = auth0.call("POST", STREAMS, body).await;
    assert_eq!(status, 201, "{made}");
    (format!("{STREAMS}/{}", made["id"].as_str().unwrap()), made)
}

async fn emit(auth0: &Server, kind: &str) -> Value {
    auth0.call("POST", "/__emulator/events", json!({"type": kind})).await.1
}

#[tokio::test]
async fn a_stream_lives_and_dies() {
    let auth0 = quick().await;
    let (path, made) = made(&auth0, webhook("one", "https://example.com/hook")).await;
    let expected = json!({"id": made["id"], "status": "enabled", "name": "one",
        "subscriptions": [{"event_type": "user.created"}],
        "created_at": made["created_at"], "updated_at": made["created_at"],
        "destination": {"type": "webhook", "configuration": {"webhook_endpoint": "https://example.com/hook",
            "webhook_authorization": {"method": "bearer"}}}});
    assert_eq!(made, expected);
    assert_eq!(made["created_at"].as_str().unwrap().len(), "2025-07-29T04:20:20.541Z".len());
    assert_eq!(auth0.get(&path).await, (200, expected.clone()));
    assert_eq!(auth0.get(STREAMS).await, (200, json!({"eventStreams": [expected]})));

    // A PATCH without a destination leaves it; one with another authorization replaces it.
    tokio::time::sleep(Duration::from_millis(2)).await;
    let (status, patched) = auth0.call("PATCH", &path, json!({"name": "two", "status": "disabled"})).await;
    assert_eq!((status, &patched["name"], &patched["status"]), (200, &json!("two"), &json!("disabled")));
    assert_eq!(patched["destination"], made["destination"]);
    assert_ne!(patched["updated_at"], made["updated_at"]);
    assert_eq!(patched["created_at"], made["created_at"]);
    let basic = json!({"destination": {"type": "webhook", "configuration": {
        "webhook_endpoint": "https://example.com/2",
        "webhook_authorization": {"method": "basic", "username": "u", "password": "hush"}}}});
    let (_, patched) = auth0.call("PATCH", &path, basic).await;
    let authorization = json!({"method": "basic", "username": "u"});
    assert_eq!(patched["destination"]["configuration"]["webhook_authorization"], authorization);
    assert_eq!(
        auth0.get("/__emulator/state").await.1["streams"][0]["destination"]["webhook"]["authorization"],
        json!({"basic": {"username": "u", "password": "hush"}})
    );

    let answer = auth0.request("DELETE", &path).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (204, &"application/json; charset=utf-8".parse().unwrap())
    );
    assert_eq!(auth0.call("DELETE", &path, Value::Null).await.0, 204);
    let missing =
        json!({"statusCode": 404, "error": "Not Found", "message": "The requested stream does not exist."});
    assert_eq!(auth0.get(&path).await, (404, missing.clone()));
    assert_eq!(auth0.call("PATCH", &path, json!({"name": "x"})).await, (404, missing));
}

#[tokio::test]
async fn other_destinations_cannot_be_changed() {
    let auth0 = quick().await;
    let eventbridge = json!({"type": "eventbridge", "configuration": {"aws_account_id": "123456789012", "aws_region": "us-east-2"}});
    let action = json!({"type": "action", "configuration": {"action_id": "any"}});
    let hook = webhook("w", "https://example.com/")["destination"].clone();
    for (name, destination) in [("b", eventbridge), ("a", action)] {
        let body = json!({"name": name, "subscriptions": [{"event_type": "user.created"}], "destination": destination});
        let (path, made) = made(&auth0, body).await;
        for new in [&destination, &hook] {
            let (status, error) = auth0.call("PATCH", &path, json!({"destination": new})).await;
            assert_eq!((status, &error["errorCode"]), (400, &json!("invalid_body")), "{error}");
        }
        assert_eq!(auth0.call("PATCH", &path, json!({"status": "disabled"})).await.0, 200);
        auth0.call("PATCH", &path, json!({"status": "enabled"})).await;
        if name == "b" {
            let source = made["destination"]["configuration"]["aws_partner_event_source"].as_str().unwrap();
            assert!(source.starts_with("aws.partner/auth0.com/emulator.eu.auth0.com-"), "{source}");
            assert!(source.ends_with("/auth0.events"), "{source}");
        }
    }
    let (path, _) = made(&auth0, webhook("w", "https://example.com/")).await;
    let action = json!({"destination": {"type": "action", "configuration": {"action_id": "x"}}});
    assert_eq!(auth0.call("PATCH", &path, action).await.0, 400);
    let answer = emit(&auth0, "user.created").await;
    assert_eq!((&answer["matched"], answer["taken"].as_array().unwrap().len()), (&json!(3), 2));
}

#[tokio::test]
async fn bad_bodies_are_told() {
    let auth0 = quick().await;
    let with = |pointer: &str, value: Value| {
        let mut body = webhook("n", "https://example.com/");
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()[name] = value;
        body
    };
    let endpoint = "/destination/configuration/webhook_endpoint";
    let authorization = "/destination/configuration/webhook_authorization";
    for (body, says) in [
        (json!([]), "Expected type object but found type array"),
        (json!({"name": "x"}), "Missing required property: destination"),
        (
            with("/name", "".into()),
            "too short (0 chars), minimum 1' on property name (Name of the event stream).",
        ),
        (with("/name", "x".repeat(129).into()), "too long"),
        (with("/status", "paused".into()), "No enum match for: paused"),
        (with("/subscriptions", json!([])), "Array is too short (0), minimum 1"),
        (with("/subscriptions", json!([{"event_type": 1}])), "on property subscriptions[0].event_type"),
        (with("/more", 1.into()), "Additional properties not allowed: more"),
        (with("/destination/type", "kafka".into()), "No enum match for: kafka"),
        (with(endpoint, "http://example.com/".into()), "does not match pattern ^https://.*"),
        (with(endpoint, "webhook_endpoint".into()), "does not match pattern ^https://.*"),
        (with(authorization, json!({"method": "digest"})), "No enum match for: digest"),
        (
            with(authorization, json!({"method": "basic", "username": "a:b"})),
            "does not match pattern ^[^:]+$",
        ),
        (with(authorization, json!({"method": "custom_header", "header_key": "a b"})), "header name"),
        (with(authorization, json!({"method": "bearer", "secret": "x"})), "not allowed: secret"),
    ] {
        let (status, error) = auth0.call("POST", STREAMS, body).await;
        let message = error["message"].as_str().unwrap();
        assert_eq!((status, &error["errorCode"]), (400, &json!("invalid_body")), "{error}");
        assert!(message.starts_with("Payload validation error: '") && message.contains(says), "{message}");
    }
    for (path, status, code) in [
        ("/api/v2/event-streams/nope", 400, json!("invalid_uri")),
        ("/api/v2/event-streams?take=0", 400, json!("invalid_query_string")),
        ("/api/v2/event-streams?take=x", 400, json!("invalid_query_string")),
        ("/api/v2/event-streams?from=!", 400, json!("invalid_query_string")),
        ("/api/v2/users", 404, Value::Null),
        ("/", 404, Value::Null),
    ] {
        let (got, error) = auth0.get(path).await;
        assert_eq!((got, &error["errorCode"]), (status, &code), "{path}");
    }
    let (_, error) = auth0.get("/api/v2/event-streams/nope").await;
    let recorded = "Path validation error: 'Object didn't pass validation for format event-stream-id: nope' \
                    on property id (Unique identifier for the event stream).";
    assert_eq!(error["message"], recorded);
    let broken = auth0.request("POST", STREAMS).header("content-type", "application/json").body("{");
    assert_eq!(broken.send().await.unwrap().status(), 400);
    assert_eq!(auth0.request("POST", STREAMS).body("{}").send().await.unwrap().status(), 415);
}

#[tokio::test]
async fn names_are_unique_and_streams_limited() {
    let auth0 = start(Auth0Options { max_streams: 2, ..Auth0Options::default() }).await;
    auth0.call("POST", "/__emulator/faults", json!({"method": "POST", "lagMs": 60000, "times": 1})).await;
    made(&auth0, webhook("one", "https://example.com/")).await;
    // Reads do not see it yet, but its name is taken.
    assert_eq!(auth0.get(STREAMS).await.1, json!({"eventStreams": []}));
    let (status, error) = auth0.call("POST", STREAMS, webhook("one", "https://example.com/")).await;
    assert_eq!((status, &error["error"]), (409, &json!("Conflict")));
    let (path, _) = made(&auth0, webhook("two", "https://example.com/")).await;
    assert_eq!(auth0.call("PATCH", &path, json!({"name": "one"})).await.0, 409);
    assert_eq!(auth0.call("PATCH", &path, json!({"name": "two"})).await.0, 200);
    let (status, error) = auth0.call("POST", STREAMS, webhook("three", "https://example.com/")).await;
    assert_eq!(status, 409);
    assert!(error["message"].as_str().unwrap().contains("maximum"), "{error}");
}

#[tokio::test]
async fn streams_come_in_pages() {
    let auth0 = quick().await;
    for n in 0..5 {
        made(&auth0, webhook(&n.to_string(), "https://example.com/")).await;
    }
    let (mut names, mut from) = (String::new(), String::new());
    for page in 1.. {
        let (_, answer) = auth0.get(&format!("{STREAMS}?take=2{from}")).await;
        for stream in answer["eventStreams"].as_array().unwrap() {
            names.push_str(stream["name"].as_str().unwrap());
        }
        let Some(next) = answer["next"].as_str() else {
            assert_eq!(page, 3);
            break;
        };
        from = format!("&from={next}");
    }
    assert_eq!(names, "01234");
    assert!(auth0.get(&format!("{STREAMS}?take=5")).await.1.get("next").is_none());
}

#[tokio::test]
async fn what_the_vendors_example_sends() {
    let auth0 = quick().await;
    let body = json!({"destination": {"type": "", "configuration": {"webhook_endpoint": "https://example.com/",
        "webhook_authorization": {"method": "", "username": "username"}}}});
    let (path, made) = made(&auth0, body).await;
    assert_eq!(made["destination"]["type"], "webhook");
    let authorization = &made["destination"]["configuration"]["webhook_authorization"];
    assert_eq!(*authorization, json!({"method": "basic", "username": "username"}));
    assert!(made.get("name").is_none() && made["subscriptions"] == json!([]));
    assert_eq!(auth0.get(&path).await.1, made);
}

#[tokio::test]
async fn events_are_delivered_and_retried() {
    let mut receiver = Receiver::answering(&[500, 302, 503]).await;
    let auth0 = quick().await;
    let (path, stream) = made(&auth0, webhook("one", &receiver.url)).await;
    let answer = emit(&auth0, "user.created").await;
    assert_eq!((&answer["matched"], &answer["queued"]), (&json!(1), &json!([stream["id"]])));
    for _ in 0..4 {
        let (headers, event, _) = receiver.next().await;
        assert!(headers["authorization"] == "Bearer hush" && headers["content-type"] == "application/json");
        assert_eq!((&event["id"], &event["a0stream"]), (&answer["id"], &stream["id"]));
        assert_eq!((&event["specversion"], &event["type"]), (&json!("1.0"), &json!("user.created")));
        assert!(
            event["data"]["object"]["user_id"].is_string() && event.get("a0purpose").is_none(),
            "{event}"
        );
    }
    receiver.nothing().await;
    let log = auth0.until("/__emulator/deliveries", |log| log["total"] == 1).await;
    assert_eq!(log["data"][0]["outcome"], "delivered");
    assert_eq!(log["data"][0]["attempts"].as_array().unwrap().len(), 3);
    assert_eq!(auth0.get(&format!("{path}/deliveries")).await.1, json!({"deliveries": []}));
    assert_eq!(emit(&auth0, "user.deleted").await["matched"], 0);
}

#[tokio::test]
async fn each_authorization_is_sent() {
    let auth0 = quick().await;
    for (given, header, value) in [
        (json!({"method": "basic", "username": "u", "password": "p"}), "authorization", Some("Basic dTpw")),
        (json!({"method": "bearer", "token": "t"}), "authorization", Some("Bearer t")),
        (json!({"method": "custom_header", "header_key": "X-Key", "header_value": "v"}), "x-key", Some("v")),
        (json!({"method": "bearer"}), "authorization", None),
    ] {
        let mut receiver = Receiver::start().await;
        let mut body = webhook("one", &receiver.url);
        body["destination"]["configuration"]["webhook_authorization"] = given.clone();
        let (path, made) = made(&auth0, body.clone()).await;
        let shown = &made["destination"]["configuration"]["webhook_authorization"];
        assert_eq!(shown["method"], given["method"]);
        // A PATCH without the secret keeps it.
        body["destination"]["configuration"]["webhook_authorization"] = shown.clone();
        assert_eq!(auth0.call("PATCH", &path, body).await.0, 200);
        emit(&auth0, "user.created").await;
        let (headers, _, _) = receiver.next().await;
        assert_eq!(headers.get(header).map(|value| value.to_str().unwrap()), value);
        auth0.call("DELETE", &path, Value::Null).await;
    }
}

#[tokio::test]
async fn failures_are_listed_and_delivered_again() {
    let mut receiver = Receiver::answering(&[404]).await;
    let auth0 = quick().await;
    let (path, stream) = made(&auth0, webhook("one", &receiver.url)).await;
    let id = emit(&auth0, "user.created").await["id"].as_str().unwrap().to_owned();
    receiver.next().await;
    let deliveries = format!("{path}/deliveries");
    let one = format!("{deliveries}/{id}");
    let list = auth0.until(&deliveries, |list| list["deliveries"].as_array().unwrap().len() == 1).await;
    // A 4xx is not tried again.
    receiver.nothing().await;
    let delivery = &list["deliveries"][0];
    assert_eq!((&delivery["id"], &delivery["event_stream_id"]), (&json!(id), &stream["id"]));
    assert_eq!((&delivery["status"], &delivery["event_type"]), (&json!("failed"), &json!("user.created")));
    assert_eq!(delivery["attempts"].as_array().unwrap().len(), 1);
    assert_eq!(delivery["attempts"][0]["error_message"], "404 - ");
    assert!(delivery["attempts"][0]["duration"].is_f64() && delivery["event"]["source"] == "urn:auth0:");
    assert_eq!(auth0.get(&one).await, (200, delivery.clone()));
    let next = list["next"].as_str().unwrap();
    assert_eq!(auth0.get(&format!("{deliveries}?from={next}")).await.1, json!({"deliveries": []}));
    for (query, count) in [
        ("statuses=failed", 1),
        ("statuses=pending", 0),
        ("event_types=user.created,user.updated", 1),
        ("event_types=user.updated", 0),
        ("date_from=2020-01-01T00:00:00Z", 1),
        ("date_to=2020-01-01T00:00:00Z", 0),
    ] {
        let (_, list) = auth0.get(&format!("{deliveries}?{query}")).await;
        assert_eq!(list["deliveries"].as_array().unwrap().len(), count, "{query}");
    }
    assert_eq!(auth0.get(&format!("{deliveries}?date_from=2020-01-01T00:00:00.1Z")).await.0, 400);
    assert_eq!(auth0.get(&format!("{deliveries}/{}", event::new_id("evt"))).await.0, 404);
    assert_eq!(auth0.get(&format!("{deliveries}/nope")).await.0, 400);

    // Asked for once by id: it fails again. Then all: it is delivered, and forgotten.
    receiver.answers.lock().push_back(400);
    let redeliver = format!("{path}/redeliver");
    assert_eq!(auth0.call("POST", &format!("{redeliver}/{id}"), Value::Null).await, (202, json!({})));
    receiver.next().await;
    let again = auth0.until(&one, |one| one["attempts"].as_array().unwrap().len() == 3).await;
    let statuses: Vec<_> = again["attempts"].as_array().unwrap().iter().map(|a| &a["status"]).collect();
    assert_eq!(json!(statuses), json!(["failed", "retrying", "failed"]));
    auth0.until(&one, |one| one["status"] == "failed").await;
    let none = json!({"event_types": ["user.updated"], "statuses": ["failed"]});
    assert_eq!(auth0.call("POST", &redeliver, none).await, (202, json!({})));
    receiver.nothing().await;
    assert_eq!(auth0.call("POST", &redeliver, Value::Null).await, (202, json!({})));
    let (_, event, _) = receiver.next().await;
    assert_eq!(event["id"], id.as_str());
    auth0.until(&one, |one| one["statusCode"] == 404).await;

    let (status, stats) = auth0.get(&format!("{path}/stats")).await;
    assert_eq!((status, &stats["id"], &stats["name"]), (200, &stream["id"], &json!("one")));
    assert_eq!(stats["metrics"][0]["window_total"], 1);
    assert_eq!(stats["metrics"][1]["window_total"], 2);
    let window = "date_from=2025-08-01T12%3A08%3A29%2B05%3A30&date_to=2025-08-01T12%3A28%3A29%2B05%3A30";
    let (_, stats) = auth0.get(&format!("{path}/stats?{window}")).await;
    assert_eq!(stats["buckets"], json!(["2025-08-01T06:00:00.000Z"]));
}

#[tokio::test]
async fn a_delivery_under_way_is_not_asked_for_again() {
    let auth0 = start(Auth0Options { time_scale: 1000.0, ..Auth0Options::default() }).await;
    let mut receiver = Receiver::answering(&[500]).await;
    let (path, _) = made(&auth0, webhook("one", &receiver.url)).await;
    let id = emit(&auth0, "user.created").await["id"].as_str().unwrap().to_owned();
    receiver.next().await;
    let (status, error) = auth0.call("POST", &format!("{path}/redeliver/{id}"), Value::Null).await;
    assert_eq!((status, &error["error"]), (409, &json!("Conflict")));
}

#[tokio::test]
async fn test_events() {
    let mut receiver = Receiver::start().await;
    let auth0 = quick().await;
    let (path, stream) = made(&auth0, webhook("one", &receiver.url)).await;
    let test = format!("{path}/test");
    let (status, answer) = auth0.call("POST", &test, json!({"event_type": "user.deleted"})).await;
    assert_eq!((status, &answer["status"], &answer["attempts"]), (202, &json!("pending"), &json!([])));
    assert_eq!((&answer["event_stream_id"], &answer["event"]["a0purpose"]), (&stream["id"], &json!("test")));
    assert_eq!(receiver.next().await.1, answer["event"]);
    let own = json!({"event_type": "user.created", "data": {"object": {"n": 1}}});
    auth0.call("POST", &test, own).await;
    assert_eq!(receiver.next().await.1["data"], json!({"object": {"n": 1}}));
    assert_eq!(auth0.call("POST", &test, json!({})).await.0, 400);
    auth0.call("PATCH", &path, json!({"status": "disabled"})).await;
    let (status, error) = auth0.call("POST", &test, json!({"event_type": "user.created"})).await;
    assert_eq!((status, &error["errorCode"]), (400, &json!("operation_not_supported")));
    assert_eq!(emit(&auth0, "user.created").await["matched"], 0);
}

#[tokio::test]
async fn a_failing_stream_is_disabled() {
    let mut receiver = Receiver::answering(&[400; 5]).await;
    let options = Auth0Options { disable_after: 3, disable_after_total: 5, ..Auth0Options::default() };
    let auth0 = start(options).await;
    let (path, _) = made(&auth0, webhook("one", &receiver.url)).await;
    let enable = json!({"status": "enabled"});
    for _ in 0..3 {
        emit(&auth0, "user.created").await;
        receiver.next().await;
    }
    auth0.until(&path, |stream| stream["status"] == "disabled").await;
    assert_eq!(emit(&auth0, "user.created").await["matched"], 0);
    assert_eq!(auth0.call("PATCH", &path, enable.clone()).await.1["status"], "enabled");
    for _ in 0..2 {
        emit(&auth0, "user.created").await;
        receiver.next().await;
    }
    // Five stand in all, so that it stays disabled until some are delivered after all.
    auth0.until(&path, |stream| stream["status"] == "disabled").await;
    assert_eq!(auth0.call("PATCH", &path, enable.clone()).await.0, 400);
    auth0.call("POST", &format!("{path}/redeliver"), json!({})).await;
    for _ in 0..5 {
        receiver.next().await;
    }
    auth0.until(&format!("{path}/deliveries"), |list| list["deliveries"] == json!([])).await;
    assert_eq!(auth0.call("PATCH", &path, enable).await.1["status"], "enabled");
}

fn hook(name: &str, enabled: bool) -> Value {
    json!({"name": name, "script": "module.exports = 1", "triggerId": "credentials-exchange", "enabled": enabled})
}

#[tokio::test]
async fn a_hook_lives_and_dies() {
    let auth0 = quick().await;
    let (status, made) = auth0.call("POST", HOOKS, hook("my-hook", true)).await;
    let expected = json!({"id": made["id"], "name": "my-hook", "script": "module.exports = 1",
        "dependencies": {}, "triggerId": "credentials-exchange", "enabled": true});
    assert_eq!((status, &made), (201, &expected));
    let path = format!("{HOOKS}/{}", made["id"].as_str().unwrap());
    assert_eq!(auth0.get(&path).await, (200, expected));
    assert_eq!(
        auth0.get(&format!("{path}?fields=id,name")).await.1,
        json!({"id": made["id"], "name": "my-hook"})
    );
    assert_eq!(auth0.call("POST", HOOKS, hook("my-hook", false)).await.0, 409);
    let (status, changed) =
        auth0.call("PATCH", &path, json!({"script": "x", "dependencies": {"a": "1"}})).await;
    assert_eq!(
        (status, &changed["script"], &changed["dependencies"]),
        (200, &json!("x"), &json!({"a": "1"}))
    );
    for bad in [json!({}), json!({"triggerId": "credentials-exchange"}), json!({"name": "a_b"})] {
        let (status, error) = auth0.call("PATCH", &path, bad).await;
        assert_eq!((status, &error["errorCode"]), (400, &json!("invalid_body")));
    }
    assert_eq!(auth0.call("DELETE", &path, Value::Null).await.0, 204);
    let missing = json!({"statusCode": 404, "error": "Not Found", "message": "Error: Hook does not exist",
        "errorCode": "HookDoesNotExist"});
    for method in ["DELETE", "GET"] {
        assert_eq!(auth0.call(method, &path, Value::Null).await, (404, missing.clone()));
    }
    assert_eq!(auth0.call("PATCH", &path, json!({"name": "a"})).await, (404, missing));
}

#[tokio::test]
async fn one_hook_a_trigger_is_enabled() {
    let auth0 = quick().await;
    let (_, first) = auth0.call("POST", HOOKS, hook("one", true)).await;
    let (status, second) = auth0.call("POST", HOOKS, hook("two", true)).await;
    assert_eq!((status, &second["enabled"]), (201, &json!(false)));
    let path = |hook: &Value| format!("{HOOKS}/{}", hook["id"].as_str().unwrap());
    let enable = json!({"enabled": true});
    assert_eq!(auth0.call("PATCH", &path(&second), enable.clone()).await.0, 409);
    assert_eq!(auth0.call("PATCH", &path(&first), enable.clone()).await.0, 200);
    auth0.call("PATCH", &path(&first), json!({"enabled": false})).await;
    assert_eq!(auth0.call("PATCH", &path(&second), enable).await.1["enabled"], true);
}

#[tokio::test]
async fn hooks_come_in_pages() {
    let auth0 = quick().await;
    for name in ["a", "b", "c"] {
        auth0.call("POST", HOOKS, hook(name, name == "b")).await;
    }
    let (_, all) = auth0.get(HOOKS).await;
    assert_eq!(all.as_array().unwrap().len(), 3);
    assert!(all[0].get("script").is_none() && all[0]["name"] == "a", "{all}");
    let (_, page) = auth0.get(&format!("{HOOKS}?page=1&per_page=2&include_totals=true&fields=name")).await;
    assert_eq!(page, json!({"total": 3, "start": 2, "limit": 2, "hooks": [{"name": "c"}]}));
    let (_, enabled) =
        auth0.get(&format!("{HOOKS}?enabled=true&fields=name&triggerId=credentials-exchange")).await;
    assert_eq!(enabled, json!([{"name": "b"}]));
    let (_, none) = auth0.get(&format!("{HOOKS}?triggerId=send-phone-message")).await;
    assert_eq!(none, json!([]));
    for bad in ["per_page=101", "page=-1", "enabled=x", "triggerId=x"] {
        let (status, error) = auth0.get(&format!("{HOOKS}?{bad}")).await;
        assert_eq!((status, &error["errorCode"]), (400, &json!("invalid_query_string")), "{bad}");
    }
}

#[tokio::test]
async fn secrets_of_hooks_are_never_shown() {
    let auth0 = quick().await;
    let (_, made) = auth0.call("POST", HOOKS, hook("one", false)).await;
    let path = format!("{HOOKS}/{}/secrets", made["id"].as_str().unwrap());
    assert_eq!(auth0.get(&path).await, (200, json!({})));
    let add = json!({"ONE": "hush-1", "TWO": "hush-2"});
    assert_eq!(auth0.call("POST", &path, add.clone()).await, (201, json!({})));
    assert_eq!(auth0.call("POST", &path, add).await.0, 409);
    let shown = json!({"ONE": "_VALUE_NOT_SHOWN_", "TWO": "_VALUE_NOT_SHOWN_"});
    assert_eq!(auth0.get(&path).await, (200, shown));
    assert_eq!(auth0.call("PATCH", &path, json!({"ONE": "new", "THREE": "x"})).await.0, 404);
    assert_eq!(auth0.call("PATCH", &path, json!({"ONE": "new"})).await, (201, json!({})));
    assert_eq!(auth0.call("DELETE", &path, json!(["TWO", "THREE"])).await.0, 204);
    assert_eq!(auth0.get("/__emulator/state").await.1["hooks"][0]["secrets"], json!({"ONE": "new"}));
    let many =
        |n: usize| (0..n).map(|n| (format!("S{n}"), "x".into())).collect::<serde_json::Map<_, Value>>();
    assert_eq!(auth0.call("POST", &path, many(21).into()).await.0, 400);
    assert_eq!(auth0.call("POST", &path, many(20).into()).await.0, 400, "one is there already");
    assert_eq!(auth0.call("POST", &path, many(19).into()).await.0, 201);
    for (method, bad) in
        [("POST", json!({})), ("POST", json!({"A": 1})), ("DELETE", json!({})), ("DELETE", json!([]))]
    {
        assert_eq!(auth0.call(method, &path, bad).await.0, 400);
    }
    let nobody = format!("{HOOKS}/01GQN0P01XY4VE0PCK7H20QZ4M/secrets");
    assert_eq!(auth0.get(&nobody).await.1["errorCode"], "HookDoesNotExist");
}

#[tokio::test]
async fn hooks_may_be_gone() {
    for (status, message) in
        [(403, "This endpoint is disabled for your tenant."), (404, "Not Found"), (410, "Gone")]
    {
        let gone = StatusCode::from_u16(status).unwrap();
        let auth0 = start(Auth0Options { hooks_gone: Some(gone), ..Auth0Options::default() }).await;
        let (got, error) = auth0.get(HOOKS).await;
        assert_eq!((got, &error["message"]), (status, &json!(message)));
        assert_eq!(auth0.get(STREAMS).await.0, 200);
    }
}

#[tokio::test]
async fn tokens() {
    let mut auth0 = start(Auth0Options::default()).await;
    auth0.bearer = None;
    let missing = json!({"statusCode": 401, "error": "Unauthorized", "message": "Missing authentication"});
    assert_eq!(auth0.get(STREAMS).await, (401, missing));
    let options = Auth0Options {
        client: Some(("me".into(), "hush&=".into())),
        token: Some("ready".into()),
        token_lifetime: Duration::from_secs(60),
        ..Auth0Options::default()
    };
    let mut auth0 = start(options.clone()).await;
    let (status, error) = auth0.get(STREAMS).await;
    assert_eq!((status, &error["message"]), (401, &json!("Invalid token.")));
    auth0.bearer = Some("ready".into());
    assert_eq!(auth0.get(STREAMS).await.0, 200);

    auth0.bearer = None;
    let grant = |secret: &str| {
        json!({"grant_type": "client_credentials", "client_id": "me", "client_secret": secret,
            "audience": "https://a.auth0.com/api/v2/"})
    };
    let (status, error) = auth0.call("POST", "/oauth/token", grant("wrong")).await;
    assert_eq!(
        (status, &error),
        (401, &json!({"error": "access_denied", "error_description": "Unauthorized"}))
    );
    let (status, granted) = auth0.call("POST", "/oauth/token", grant("hush&=")).await;
    assert_eq!((status, &granted["expires_in"], &granted["token_type"]), (200, &json!(60), &json!("Bearer")));
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", "me"),
        ("client_secret", "hush&="),
        ("audience", "https://a.auth0.com/api/v2/"),
    ];
    let encoded = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let coded = auth0
        .request("POST", "/oauth/token")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(encoded);
    assert_eq!(read(coded.send().await.unwrap()).await.0, 200);
    let coded = auth0
        .request("POST", "/oauth/token")
        .basic_auth("me", Some("hush%26%3D"))
        .json(&json!({"grant_type": "client_credentials", "audience": "https://a/api/v2/"}));
    assert_eq!(read(coded.send().await.unwrap()).await.0, 200);
    for (name, value, status) in
        [("grant_type", "password", 403), ("audience", "x", 403), ("client_id", "", 400)]
    {
        let mut bad = grant("hush&=");
        bad[name] = value.into();
        let (got, error) = auth0.call("POST", "/oauth/token", bad).await;
        assert_eq!(got, status);
        assert!(error["error"].is_string() && error["error_description"].is_string(), "{error}");
    }
    // A token outlives a restart, and ends by itself.
    let token = granted["access_token"].as_str().unwrap().to_owned();
    let mut again = start(options.clone()).await;
    again.bearer = Some(token.clone());
    assert_eq!(again.get(STREAMS).await.0, 200);
    again.bearer = Some(token.replace("emulated.", "emulated.9"));
    assert_eq!(again.get(STREAMS).await.0, 401);
    let mut short = start(Auth0Options { token_lifetime: Duration::ZERO, ..options }).await;
    short.bearer = None;
    let (_, granted) = short.call("POST", "/oauth/token", grant("hush&=")).await;
    short.bearer = granted["access_token"].as_str().map(str::to_owned);
    assert!(short.get(STREAMS).await.1["message"].as_str().unwrap().starts_with("Expired token"));
}

#[tokio::test]
async fn the_rate_limit_is_told() {
    let limit = RateLimit { per_second: 0.001, burst: 2 };
    let auth0 = start(Auth0Options { rate_limit: Some(limit), ..Auth0Options::default() }).await;
    for remaining in ["1", "0"] {
        let answer = auth0.request("GET", STREAMS).send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["x-ratelimit-remaining"]),
            (200, &remaining.parse().unwrap())
        );
        assert!(answer.headers().contains_key("date") && answer.headers().contains_key("x-auth0-requestid"));
    }
    let answer = auth0.request("GET", STREAMS).send().await.unwrap();
    let reset: i64 = answer.headers()["x-ratelimit-reset"].to_str().unwrap().parse().unwrap();
    assert!(reset > jiff::Timestamp::now().as_second());
    assert_eq!(answer.headers()["x-ratelimit-limit"], "2");
    let (status, error) = read(answer).await;
    assert_eq!((status, &error["errorCode"]), (429, &json!("too_many_requests")));
    let free = quick().await.request("GET", STREAMS).send().await;
    assert!(free.is_err() || !free.unwrap().headers().contains_key("x-ratelimit-limit"));
}

#[tokio::test]
async fn faults_strike() {
    let auth0 = quick().await;
    auth0.call("POST", "/__emulator/faults", json!({"path": STREAMS, "status": 503, "times": 1})).await;
    let broken =
        json!({"statusCode": 503, "error": "Service Unavailable", "message": "fault of the emulator"});
    assert_eq!(auth0.get(STREAMS).await, (503, broken));
    auth0.call("POST", "/__emulator/faults", json!({"method": "POST", "dropAnswer": true, "times": 1})).await;
    let dropped = auth0.request("POST", STREAMS).json(&webhook("one", "https://example.com/")).send().await;
    assert!(dropped.is_err());
    assert_eq!(auth0.get(STREAMS).await.1["eventStreams"][0]["name"], "one");
    let (_, log) = auth0.get("/__emulator/requests").await;
    assert_eq!((&log["total"], &log["data"][1]["dropped"]), (&json!(3), &json!(true)));
    assert_eq!(auth0.get("/__emulator/nope").await.0, 404);
    assert_eq!(auth0.call("POST", "/__emulator/events", json!({"source": "crud"})).await.0, 400);
}

#[tokio::test]
async fn state_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let options = Auth0Options {
        state: Some(folder.path().join("auth0.json")),
        time_scale: 0.0,
        ..Auth0Options::default()
    };
    let mut receiver = Receiver::answering(&[400]).await;
    let auth0 = start(options.clone()).await;
    let (path, stream) = made(&auth0, webhook("one", &receiver.url)).await;
    let (_, hook) = auth0.call("POST", HOOKS, hook("one", true)).await;
    let secrets = format!("{HOOKS}/{}/secrets", hook["id"].as_str().unwrap());
    auth0.call("POST", &secrets, json!({"A": "b"})).await;
    emit(&auth0, "user.created").await;
    receiver.next().await;
    let deliveries = format!("{path}/deliveries");
    let failed = auth0.until(&deliveries, |list| list["deliveries"] != json!([])).await;
    // Any change writes what became of deliveries, too.
    auth0.call("PATCH", &path, json!({"name": "two"})).await;
    drop(auth0);

    let auth0 = start(options).await;
    assert_eq!(auth0.get(&path).await.1["id"], stream["id"]);
    assert_eq!(auth0.get(&deliveries).await.1, failed);
    assert_eq!(auth0.get("/__emulator/state").await.1["hooks"][0]["secrets"], json!({"A": "b"}));
    auth0.call("POST", &format!("{path}/redeliver"), json!({})).await;
    let (headers, _, _) = receiver.next().await;
    assert_eq!(headers["authorization"], "Bearer hush");
}

#[tokio::test]
async fn options_that_make_no_sense() {
    for options in [
        Auth0Options { time_scale: f64::NAN, ..Auth0Options::default() },
        Auth0Options { rate_limit: Some(RateLimit { per_second: 0.0, burst: 1 }), ..Auth0Options::default() },
        Auth0Options { ca: Some(b"nothing".to_vec()), ..Auth0Options::default() },
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        assert!(serve_auth0(listener, options, std::future::ready(())).await.is_err());
    }
}
