//! Tests of event streams as objects.

use super::*;

#[tokio::test]
async fn supports_stream_lifecycle() {
    let auth0 = start_without_backoff().await;
    let (path, made) = create_stream(&auth0, webhook_stream("one", "https://example.com/hook")).await;
    let expected = json!({"id": made["id"], "status": "enabled", "name": "one",
        "subscriptions": [{"event_type": "user.created"}],
        "created_at": made["created_at"], "updated_at": made["created_at"],
        "destination": {"type": "webhook", "configuration": {"webhook_endpoint": "https://example.com/hook",
            "webhook_authorization": {"method": "bearer"}}}});
    assert_eq!(made, expected);
    assert_eq!(made["created_at"].as_str().unwrap().len(), "2025-07-29T04:20:20.541Z".len());
    assert_eq!(auth0.get(&path).await, (200, expected.clone()));
    assert_eq!(auth0.get(STREAMS).await, (200, json!({"eventStreams": [expected]})));

    // A PATCH without a destination keeps it; one with another authorization replaces it.
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
async fn rejects_unknown_aws_regions() {
    let auth0 = start_without_backoff().await;
    let create = async |region: &str| {
        let configuration = json!({"aws_account_id": "123456789012", "aws_region": region});
        let body = json!({"name": region, "subscriptions": [{"event_type": "user.created"}],
            "destination": {"type": "eventbridge", "configuration": configuration}});
        auth0.call("POST", STREAMS, body).await
    };
    for region in ["eu-central-3", "us-gov-north-1", "cn-north-1", "EU-central-1", "eu-central"] {
        let (status, error) = create(region).await;
        assert_eq!((status, &error["errorCode"]), (400, &json!("invalid_body")), "{error}");
        let message = error["message"].as_str().unwrap();
        let property = "on property destination.configuration.aws_region";
        assert!(
            message.contains(&format!("No enum match for: {region}")) && message.contains(property),
            "{error}"
        );
    }
    for region in ["eu-central-1", "us-gov-east-1", "ap-southeast-7"] {
        assert_eq!(create(region).await.0, 201, "{region}");
    }
}

#[tokio::test]
async fn rejects_changes_of_other_destinations() {
    let auth0 = start_without_backoff().await;
    let eventbridge = json!({"type": "eventbridge", "configuration": {"aws_account_id": "123456789012", "aws_region": "us-east-2"}});
    let action = json!({"type": "action", "configuration": {"action_id": "any"}});
    let hook = webhook_stream("w", "https://example.com/")["destination"].clone();
    for (name, destination) in [("b", eventbridge), ("a", action)] {
        let body = json!({"name": name, "subscriptions": [{"event_type": "user.created"}], "destination": destination});
        let (path, made) = create_stream(&auth0, body).await;
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
    let (path, _) = create_stream(&auth0, webhook_stream("w", "https://example.com/")).await;
    let action = json!({"destination": {"type": "action", "configuration": {"action_id": "x"}}});
    assert_eq!(auth0.call("PATCH", &path, action).await.0, 400);
    let answer = emit(&auth0, "user.created").await;
    assert_eq!((&answer["matched"], answer["taken"].as_array().unwrap().len()), (&json!(3), 2));
}

#[tokio::test]
async fn reports_invalid_requests() {
    let auth0 = start_without_backoff().await;
    let with = |pointer: &str, value: Value| {
        let mut body = webhook_stream("n", "https://example.com/");
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()[name] = value;
        body
    };
    let endpoint = "/destination/configuration/webhook_endpoint";
    let authorization = "/destination/configuration/webhook_authorization";
    for (body, expected) in [
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
        assert!(
            message.starts_with("Payload validation error: '") && message.contains(expected),
            "{message}"
        );
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
async fn enforces_unique_names_and_stream_limit() {
    let auth0 = start(Auth0Options { max_streams: 2, ..Auth0Options::default() }).await;
    auth0.call("POST", "/__emulator/faults", json!({"method": "POST", "lagMs": 60000, "times": 1})).await;
    create_stream(&auth0, webhook_stream("one", "https://example.com/")).await;
    // Reads do not see it yet, but its name is taken.
    assert_eq!(auth0.get(STREAMS).await.1, json!({"eventStreams": []}));
    let (status, error) = auth0.call("POST", STREAMS, webhook_stream("one", "https://example.com/")).await;
    assert_eq!((status, &error["error"]), (409, &json!("Conflict")));
    let (path, _) = create_stream(&auth0, webhook_stream("two", "https://example.com/")).await;
    assert_eq!(auth0.call("PATCH", &path, json!({"name": "one"})).await.0, 409);
    assert_eq!(auth0.call("PATCH", &path, json!({"name": "two"})).await.0, 200);
    let (status, error) = auth0.call("POST", STREAMS, webhook_stream("three", "https://example.com/")).await;
    assert_eq!(status, 409);
    assert!(error["message"].as_str().unwrap().contains("maximum"), "{error}");
}

#[tokio::test]
async fn lists_streams_by_page() {
    let auth0 = start_without_backoff().await;
    for n in 0..5 {
        create_stream(&auth0, webhook_stream(&n.to_string(), "https://example.com/")).await;
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
async fn accepts_request_of_vendors_example() {
    let auth0 = start_without_backoff().await;
    let body = json!({"destination": {"type": "", "configuration": {"webhook_endpoint": "https://example.com/",
        "webhook_authorization": {"method": "", "username": "username"}}}});
    let (path, made) = create_stream(&auth0, body).await;
    assert_eq!(made["destination"]["type"], "webhook");
    let authorization = &made["destination"]["configuration"]["webhook_authorization"];
    assert_eq!(*authorization, json!({"method": "basic", "username": "username"}));
    assert!(made.get("name").is_none() && made["subscriptions"] == json!([]));
    assert_eq!(auth0.get(&path).await.1, made);
}
