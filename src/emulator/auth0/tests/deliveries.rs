//! Tests of deliveries.

use super::*;

#[tokio::test]
async fn delivers_and_retries_events() {
    let mut receiver = Receiver::with_statuses(&[500, 302, 503]).await;
    let auth0 = start_without_backoff().await;
    let (path, stream) = create_stream(&auth0, webhook_stream("one", &receiver.url)).await;
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
    receiver.assert_no_request().await;
    let log = auth0.wait_until("/__emulator/deliveries", |log| log["total"] == 1).await;
    assert_eq!(log["data"][0]["outcome"], "delivered");
    assert_eq!(log["data"][0]["attempts"].as_array().unwrap().len(), 3);
    assert_eq!(auth0.get(&format!("{path}/deliveries")).await.1, json!({"deliveries": []}));
    assert_eq!(emit(&auth0, "user.deleted").await["matched"], 0);
}

#[tokio::test]
async fn sends_each_authorization() {
    let auth0 = start_without_backoff().await;
    for (given, header, value) in [
        (json!({"method": "basic", "username": "u", "password": "p"}), "authorization", Some("Basic dTpw")),
        (json!({"method": "bearer", "token": "t"}), "authorization", Some("Bearer t")),
        (json!({"method": "custom_header", "header_key": "X-Key", "header_value": "v"}), "x-key", Some("v")),
        (json!({"method": "bearer"}), "authorization", None),
    ] {
        let mut receiver = Receiver::start().await;
        let mut body = webhook_stream("one", &receiver.url);
        body["destination"]["configuration"]["webhook_authorization"] = given.clone();
        let (path, made) = create_stream(&auth0, body.clone()).await;
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
async fn lists_and_redelivers_failures() {
    let mut receiver = Receiver::with_statuses(&[404]).await;
    let auth0 = start_without_backoff().await;
    let (path, stream) = create_stream(&auth0, webhook_stream("one", &receiver.url)).await;
    let id = emit(&auth0, "user.created").await["id"].as_str().unwrap().to_owned();
    receiver.next().await;
    let deliveries = format!("{path}/deliveries");
    let one = format!("{deliveries}/{id}");
    let list = auth0.wait_until(&deliveries, |list| list["deliveries"].as_array().unwrap().len() == 1).await;
    // A 4xx is not retried.
    receiver.assert_no_request().await;
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

    // The first redelivery, by id, fails. The second, of all, succeeds and removes the delivery.
    receiver.statuses.lock().push_back(400);
    let redeliver = format!("{path}/redeliver");
    assert_eq!(auth0.call("POST", &format!("{redeliver}/{id}"), Value::Null).await, (202, json!({})));
    receiver.next().await;
    let again = auth0.wait_until(&one, |one| one["attempts"].as_array().unwrap().len() == 3).await;
    let statuses: Vec<_> = again["attempts"].as_array().unwrap().iter().map(|a| &a["status"]).collect();
    assert_eq!(json!(statuses), json!(["failed", "retrying", "failed"]));
    auth0.wait_until(&one, |one| one["status"] == "failed").await;
    let none = json!({"event_types": ["user.updated"], "statuses": ["failed"]});
    assert_eq!(auth0.call("POST", &redeliver, none).await, (202, json!({})));
    receiver.assert_no_request().await;
    assert_eq!(auth0.call("POST", &redeliver, Value::Null).await, (202, json!({})));
    let (_, event, _) = receiver.next().await;
    assert_eq!(event["id"], id.as_str());
    auth0.wait_until(&one, |one| one["statusCode"] == 404).await;

    let (status, stats) = auth0.get(&format!("{path}/stats")).await;
    assert_eq!((status, &stats["id"], &stats["name"]), (200, &stream["id"], &json!("one")));
    assert_eq!(stats["metrics"][0]["window_total"], 1);
    assert_eq!(stats["metrics"][1]["window_total"], 2);
    let window = "date_from=2025-08-01T12%3A08%3A29%2B05%3A30&date_to=2025-08-01T12%3A28%3A29%2B05%3A30";
    let (_, stats) = auth0.get(&format!("{path}/stats?{window}")).await;
    assert_eq!(stats["buckets"], json!(["2025-08-01T06:00:00.000Z"]));
}

#[tokio::test]
async fn rejects_redelivery_of_pending_delivery() {
    let auth0 = start(Auth0Options { time_scale: 1000.0, ..Auth0Options::default() }).await;
    let mut receiver = Receiver::with_statuses(&[500]).await;
    let (path, _) = create_stream(&auth0, webhook_stream("one", &receiver.url)).await;
    let id = emit(&auth0, "user.created").await["id"].as_str().unwrap().to_owned();
    receiver.next().await;
    let (status, error) = auth0.call("POST", &format!("{path}/redeliver/{id}"), Value::Null).await;
    assert_eq!((status, &error["error"]), (409, &json!("Conflict")));
}

#[tokio::test]
async fn sends_test_events() {
    let mut receiver = Receiver::start().await;
    let auth0 = start_without_backoff().await;
    let (path, stream) = create_stream(&auth0, webhook_stream("one", &receiver.url)).await;
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
async fn disables_failing_stream() {
    let mut receiver = Receiver::with_statuses(&[400; 5]).await;
    let options = Auth0Options { disable_after: 3, disable_after_total: 5, ..Auth0Options::default() };
    let auth0 = start(options).await;
    let (path, _) = create_stream(&auth0, webhook_stream("one", &receiver.url)).await;
    let enable = json!({"status": "enabled"});
    for _ in 0..3 {
        emit(&auth0, "user.created").await;
        receiver.next().await;
    }
    auth0.wait_until(&path, |stream| stream["status"] == "disabled").await;
    assert_eq!(emit(&auth0, "user.created").await["matched"], 0);
    assert_eq!(auth0.call("PATCH", &path, enable.clone()).await.1["status"], "enabled");
    for _ in 0..2 {
        emit(&auth0, "user.created").await;
        receiver.next().await;
    }
    // Five failures in total keep the stream disabled until some are redelivered.
    auth0.wait_until(&path, |stream| stream["status"] == "disabled").await;
    assert_eq!(auth0.call("PATCH", &path, enable.clone()).await.0, 400);
    auth0.call("POST", &format!("{path}/redeliver"), json!({})).await;
    for _ in 0..5 {
        receiver.next().await;
    }
    auth0.wait_until(&format!("{path}/deliveries"), |list| list["deliveries"] == json!([])).await;
    assert_eq!(auth0.call("PATCH", &path, enable).await.1["status"], "enabled");
}
