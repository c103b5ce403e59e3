//! Event streams: requests and responses.

use super::*;
use crate::admin::{AdminError, AdminErrorClass, ExternalClient};
use crate::core::time::Millis;

#[tokio::test]
async fn lists_all_pages() {
    let stream = |id: &str| json!({"id": id, "subscriptions": [{"event_type": "b"}, {"event_type": "a"}]});
    let tenant = FakeTenant::start(move |request| {
        let body = match request.line.as_str() {
            "GET /api/v2/event-streams?take=100" => json!({"eventStreams": [stream("1")], "next": "a b"}),
            "GET /api/v2/event-streams?take=100&from=a+b" => {
                json!({"eventStreams": [stream("2")], "next": "c"})
            }
            "GET /api/v2/event-streams?take=100&from=c" => json!({"eventStreams": [], "next": "d"}),
            _ => return None,
        };
        Some(reply(200, &[("date", "Sun, 22 Nov 2026 08:00:00 GMT")], &body))
    })
    .await;
    let listing = tenant.streams().list(ListFilter::all()).await.unwrap();
    assert_eq!(listing.items.iter().map(|i| &*i.id).collect::<Vec<_>>(), ["1", "2"]);
    let first = StreamClient::normalize(listing.items[0].parse().unwrap());
    assert_eq!(first["subscriptions"][0]["event_type"], "a", "subscriptions are sorted");
    assert_eq!(listing.vendor_time, Some(Millis(1_795_334_400_000)));
    let tenant =
        FakeTenant::start(|request| request.line.starts_with("GET").then(|| reply(200, &[], &json!({}))))
            .await;
    assert!(matches!(tenant.streams().list(ListFilter::all()).await, Err(AdminError::UnexpectedAnswer(_))));
}

#[tokio::test]
async fn writes_the_secret_and_compares_without_it() {
    let tenant = FakeTenant::start(|request| {
        let is_write = request.line.starts_with("POST /api") || request.line.starts_with("PATCH");
        is_write.then(|| reply(201, &[], &json!({"id": "est_1"})))
    })
    .await;
    let client = tenant.streams();
    client.create(None, &stream_with_token("t0ken")).await.unwrap();
    let sent = tenant.last("POST /api/v2/event-streams").json();
    let types = json!([{"event_type": "user.created"}, {"event_type": "user.updated"}]);
    let destination = json!({"type": "webhook", "configuration": {"webhook_endpoint": "https://e/x",
        "webhook_authorization": {"method": "bearer", "token": "t0ken"}}});
    assert_eq!(
        sent,
        json!({"name": "s", "subscriptions": types, "status": "enabled", "destination": destination})
    );

    let line = "PATCH /api/v2/event-streams/est_1";
    client.update("est_1", &stream_with_token("t0ken"), &["name".into()]).await.unwrap();
    assert_eq!(tenant.last(line).json(), json!({"name": "s"}));
    let secret = "destination.configuration.webhook_authorization.token";
    client.update("est_1", &stream_with_token("n3w"), &[secret.into(), "status".into()]).await.unwrap();
    let sent = tenant.last(line).json();
    assert_eq!(sent["destination"]["configuration"]["webhook_authorization"]["token"], "n3w");
    assert_eq!((sent["status"].as_str(), sent.get("name")), (Some("enabled"), None));

    let desired = stream_with_token("t0ken");
    assert_eq!(desired.secret_path().as_deref(), Some(secret));
    assert_eq!(desired.to_value().pointer(&format!("/{}", secret.replace('.', "/"))), Some(&json!("t0ken")));
    let mut observed = desired.to_value();
    observed["destination"]["configuration"]["webhook_authorization"] = json!({"method": "bearer"});
    observed["id"] = json!("est_1");
    assert_eq!(
        StreamClient::comparable_fields(&desired.to_value()),
        StreamClient::comparable_fields(&observed)
    );
    observed["name"] = json!("other");
    assert_ne!(
        StreamClient::comparable_fields(&desired.to_value()),
        StreamClient::comparable_fields(&observed)
    );
    for (destination, method) in [
        (WebhookAuthorization::Basic { username: "u".into(), password: SecretString::from("p4ss") }, "basic"),
        (
            WebhookAuthorization::CustomHeader { key: "x-k".into(), value: SecretString::from("p4ss") },
            "custom_header",
        ),
    ] {
        let mut body = stream_with_token("");
        body.destination =
            DestinationBody::Webhook { endpoint: "https://e".into(), authorization: destination };
        client.update("est_1", &body, &["destination".into()]).await.unwrap();
        let sent = &tenant.last(line).json()["destination"]["configuration"]["webhook_authorization"];
        let member = if method == "basic" { "password" } else { "header_value" };
        assert_eq!((&sent["method"], &sent[member]), (&json!(method), &json!("p4ss")));
        assert!(body.secret_path().unwrap().ends_with(member));
    }
}

#[tokio::test]
async fn sends_no_change_that_auth0_does_not_support() {
    let tenant = FakeTenant::start(|_| None).await;
    let mut body = stream_with_token("");
    body.destination = DestinationBody::Action { action_id: "a".into() };
    let error =
        tenant.streams().update("est_1", &body, &["destination.configuration.action_id".into()]).await;
    let error = error.unwrap_err();
    assert_eq!(error.class(), AdminErrorClass::Terminal);
    assert!(error.to_string().contains("Auth0 cannot change the destination"), "{error}");
    assert!(tenant.lines().is_empty());
}

#[tokio::test]
async fn reads_the_last_failure_and_requests_redelivery() {
    let failure = json!({"id": "evt_1", "attempts": [{"error_message": "first"}, {"status": "retrying"},
        {"error_message": "Post \"https://e\": EOF"}]});
    for body in [json!({"deliveries": [failure], "next": "x"}), json!([failure])] {
        let tenant = FakeTenant::start(move |request| match request.line.as_str() {
            "GET /api/v2/event-streams/e/deliveries?take=1" => Some(reply(200, &[], &body)),
            "POST /api/v2/event-streams/e/redeliver" => Some(raw(202, &[], "")),
            _ => None,
        })
        .await;
        let message = tenant.streams().last_failure("e").await.unwrap();
        assert_eq!(message.as_deref(), Some("Post \"https://e\": EOF"));
        tenant.streams().redeliver("e").await.unwrap();
        let sent = tenant.last("POST /api/v2/event-streams/e/redeliver").json();
        assert_eq!(sent, json!({"statuses": ["failed"]}));
    }
}

#[tokio::test]
async fn token_without_stream_scope_is_reachable() {
    let tenant = |code: &'static str, status: u16| {
        FakeTenant::start(move |request| {
            request
                .line
                .starts_with("GET")
                .then(|| reply(status, &[], &json!({"errorCode": code, "message": "m"})))
        })
    };
    assert!(tenant("insufficient_scope", 403).await.streams().check_reachable().await.is_ok());
    assert!(tenant("", 200).await.streams().check_reachable().await.is_ok());
    assert!(tenant("other", 403).await.streams().check_reachable().await.is_err());
    assert!(tenant("", 500).await.streams().check_reachable().await.is_err());
}
