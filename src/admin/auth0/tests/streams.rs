//! Event streams: what is sent, and what is read.

use super::*;
use crate::admin::{AdminError, Class, ExternalClient, Listed};
use crate::core::time::Millis;

#[tokio::test]
async fn streams_are_listed_to_the_end() {
    let stream = |id: &str| json!({"id": id, "subscriptions": [{"event_type": "b"}, {"event_type": "a"}]});
    let fake = Fake::start(move |seen| {
        let body = match seen.line.as_str() {
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
    let Listed { items, at } = fake.streams().list().await.unwrap();
    assert_eq!(items.iter().map(|i| i["id"].as_str().unwrap()).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(items[0]["subscriptions"][0]["event_type"], "a", "the order means nothing");
    assert_eq!(at, Some(Millis(1_795_334_400_000)));
    let fake = Fake::start(|seen| seen.line.starts_with("GET").then(|| reply(200, &[], &json!({})))).await;
    assert!(matches!(fake.streams().list().await, Err(AdminError::UnexpectedAnswer(_))));
}

#[tokio::test]
async fn a_stream_is_written_with_its_secret_and_read_without() {
    let fake = Fake::start(|seen| {
        let writes = seen.line.starts_with("POST /api") || seen.line.starts_with("PATCH");
        writes.then(|| reply(201, &[], &json!({"id": "est_1"})))
    })
    .await;
    let client = fake.streams();
    client.create(None, &bearer("t0ken")).await.unwrap();
    let sent = fake.last("POST /api/v2/event-streams").json();
    let types = json!([{"event_type": "user.created"}, {"event_type": "user.updated"}]);
    let destination = json!({"type": "webhook", "configuration": {"webhook_endpoint": "https://e/x",
        "webhook_authorization": {"method": "bearer", "token": "t0ken"}}});
    assert_eq!(
        sent,
        json!({"name": "s", "subscriptions": types, "status": "enabled", "destination": destination})
    );

    let line = "PATCH /api/v2/event-streams/est_1";
    client.update("est_1", &bearer("t0ken"), &["name".into()]).await.unwrap();
    assert_eq!(fake.last(line).json(), json!({"name": "s"}));
    let secret = "destination.configuration.webhook_authorization.token";
    client.update("est_1", &bearer("n3w"), &[secret.into(), "status".into()]).await.unwrap();
    let sent = fake.last(line).json();
    assert_eq!(sent["destination"]["configuration"]["webhook_authorization"]["token"], "n3w");
    assert_eq!((sent["status"].as_str(), sent.get("name")), (Some("enabled"), None));

    let wanted = bearer("t0ken");
    assert_eq!(wanted.secret_path().as_deref(), Some(secret));
    assert_eq!(wanted.whole().pointer(&format!("/{}", secret.replace('.', "/"))), Some(&json!("t0ken")));
    let mut shown = wanted.whole();
    shown["destination"]["configuration"]["webhook_authorization"] = json!({"method": "bearer"});
    shown["id"] = json!("est_1");
    assert_eq!(StreamClient::readable(&wanted.whole()), StreamClient::readable(&shown));
    shown["name"] = json!("other");
    assert_ne!(StreamClient::readable(&wanted.whole()), StreamClient::readable(&shown));
    for (destination, method) in [
        (WebhookAuthorization::Basic { username: "u".into(), password: SecretString::from("p4ss") }, "basic"),
        (
            WebhookAuthorization::CustomHeader { key: "x-k".into(), value: SecretString::from("p4ss") },
            "custom_header",
        ),
    ] {
        let mut body = bearer("");
        body.destination =
            DestinationBody::Webhook { endpoint: "https://e".into(), authorization: destination };
        client.update("est_1", &body, &["destination".into()]).await.unwrap();
        let sent = &fake.last(line).json()["destination"]["configuration"]["webhook_authorization"];
        let member = if method == "basic" { "password" } else { "header_value" };
        assert_eq!((&sent["method"], &sent[member]), (&json!(method), &json!("p4ss")));
        assert!(body.secret_path().unwrap().ends_with(member));
    }
}

#[tokio::test]
async fn what_auth0_cannot_change_is_not_sent() {
    let fake = Fake::start(|_| None).await;
    let mut body = bearer("");
    body.destination = DestinationBody::Action { action_id: "a".into() };
    let error = fake.streams().update("est_1", &body, &["destination.configuration.action_id".into()]).await;
    let error = error.unwrap_err();
    assert_eq!(error.class(), Class::Terminal);
    assert!(error.to_string().contains("Auth0 cannot change the destination"), "{error}");
    assert!(fake.lines().is_empty());
}

#[tokio::test]
async fn failures_are_read_and_asked_for_again() {
    let failure = json!({"id": "evt_1", "attempts": [{"error_message": "first"}, {"status": "retrying"},
        {"error_message": "Post \"https://e\": EOF"}]});
    for body in [json!({"deliveries": [failure], "next": "x"}), json!([failure])] {
        let fake = Fake::start(move |seen| match seen.line.as_str() {
            "GET /api/v2/event-streams/e/deliveries?take=1" => Some(reply(200, &[], &body)),
            "POST /api/v2/event-streams/e/redeliver" => Some(raw(202, &[], "")),
            _ => None,
        })
        .await;
        let said = fake.streams().last_failure("e").await.unwrap();
        assert_eq!(said.as_deref(), Some("Post \"https://e\": EOF"));
        fake.streams().redeliver("e").await.unwrap();
        let sent = fake.last("POST /api/v2/event-streams/e/redeliver").json();
        assert_eq!(sent, json!({"statuses": ["failed"]}));
    }
}

#[tokio::test]
async fn a_connection_is_reachable_with_a_token_for_something_else() {
    let answer = |code: &'static str, status: u16| {
        Fake::start(move |seen| {
            seen.line
                .starts_with("GET")
                .then(|| reply(status, &[], &json!({"errorCode": code, "message": "m"})))
        })
    };
    assert!(answer("insufficient_scope", 403).await.streams().reach().await.is_ok());
    assert!(answer("", 200).await.streams().reach().await.is_ok());
    assert!(answer("other", 403).await.streams().reach().await.is_err());
    assert!(answer("", 500).await.streams().reach().await.is_err());
}
