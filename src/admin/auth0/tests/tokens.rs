//! Logins: shared, renewed before expiry, and renewed once after a rejection.

use parking_lot::Mutex;

use super::*;
use crate::admin::{AdminError, ExternalClient};
use crate::api::AssertionAlgorithm;

#[tokio::test]
async fn concurrent_calls_share_one_login() {
    let tenant =
        FakeTenant::start(|request| request.line.starts_with("GET").then(|| requested_object(request))).await;
    let calls = (0..50).map(|i| {
        let tenant = tenant.clone();
        async move {
            let (client, id) = (tenant.streams(), format!("est_{i}"));
            loop {
                match client.observe(&id).await {
                    // No scheduling slot yet.
                    Err(AdminError::Postponed(after)) => tokio::time::sleep(after).await,
                    other => break other.unwrap(),
                }
            }
        }
    });
    futures::future::join_all(calls).await;
    assert_eq!(tenant.login_count(), 1);
    assert_eq!(tenant.last("GET /api/v2/event-streams/est_7").authorization, "Bearer token-1");
    let login = tenant.last(LOGIN);
    let want = "grant_type=client_credentials&client_id=client&client_secret=cl13nt+s3cret&audience=https%3A%2F%2Fx%2Fapi%2Fv2%2F";
    assert_eq!(login.body, want);
    assert!(!format!("{:?}", tenant.access()).contains("s3cret"));
}

#[tokio::test]
async fn renews_a_rejected_token_once() {
    let unauthorized = json!({"statusCode": 401, "error": "Unauthorized", "message": "Invalid token."});
    let body = unauthorized.clone();
    let tenant = FakeTenant::start(move |request| {
        let is_get = request.line.starts_with("GET");
        is_get.then(|| match request.authorization.as_str() {
            "Bearer token-1" => reply(401, &[], &body),
            _ => requested_object(request),
        })
    })
    .await;
    assert!(tenant.streams().observe("a").await.is_ok());
    assert!(tenant.streams().observe("b").await.is_ok());
    assert_eq!(tenant.login_count(), 2);

    let tenant = FakeTenant::start(move |request| {
        request.line.starts_with("GET").then(|| reply(401, &[], &unauthorized))
    })
    .await;
    for _ in 0..5 {
        let error = tenant.streams().observe("a").await.unwrap_err();
        assert!(matches!(error, AdminError::Unauthorized(_)), "{error}");
    }
    assert_eq!(
        tenant.login_count(),
        2,
        "a token that is rejected for another reason than its age does not cause a login per call"
    );
}

#[tokio::test]
async fn uses_a_static_token_unchanged() {
    let unauthorized = json!({"statusCode": 401, "message": "Invalid token: r3ady"});
    let tenant = FakeTenant::start(move |_| Some(reply(401, &[], &unauthorized))).await;
    let access = tenant.access_with(Credentials::StaticToken(SecretString::from("r3ady")));
    let error = StreamClient::new(access).list(ListFilter::all()).await.err().unwrap();
    assert!(error.to_string().contains("Invalid token: ***"), "{error}");
    assert_eq!(tenant.last("GET /api/v2/event-streams?take=100").authorization, "Bearer r3ady");
    assert_eq!(tenant.lines().len(), 1);
}

#[tokio::test]
async fn caches_and_reports_a_failed_login() {
    let cases = [
        (
            reply(401, &[], &json!({"error": "access_denied", "error_description": "no cl13nt s3cret"})),
            "Unauthorized",
        ),
        (
            reply(403, &[], &json!({"error": "access_denied", "error_description": "Service not found"})),
            "LoginRejected",
        ),
        (reply(429, &[("retry-after", "60")], &json!({"error": "too_many_requests"})), "RateLimited"),
        (reply(200, &[], &json!({"token_type": "Bearer"})), "UnexpectedAnswer"),
        (raw(200, &[], "<html>"), "UnexpectedAnswer"),
        (raw(302, &[("location", "https://elsewhere")], ""), "UnexpectedAnswer"),
    ];
    for (response, reason) in cases {
        let tenant = FakeTenant::start(move |_| Some(response.clone())).await;
        for _ in 0..3 {
            let error = tenant.streams().list(ListFilter::all()).await.err().unwrap();
            assert_eq!(<&str>::from(&error), reason, "{error}");
            assert!(!error.to_string().contains("cl13nt s3cret"), "{error}");
        }
        assert_eq!(tenant.login_count(), 1, "{reason}");
    }
}

#[tokio::test]
async fn uses_the_old_token_while_renewal_fails() {
    let logins_fail = Arc::new(Mutex::new(false));
    let fail = logins_fail.clone();
    let tenant = FakeTenant::start(move |request| match request.line.as_str() {
        LOGIN if *fail.lock() => Some(reply(500, &[], &json!({}))),
        LOGIN => None,
        _ => Some(requested_object(request)),
    })
    .await;
    let client = tenant.streams();
    client.observe("a").await.unwrap();
    tenant.access().login.expire_soon_for_tests().await;
    *logins_fail.lock() = true;
    client.observe("b").await.unwrap();
    assert_eq!(
        tenant.last("GET /api/v2/event-streams/b").authorization,
        "Bearer token-1",
        "the old token is used"
    );
    client.observe("c").await.unwrap();
    assert_eq!(tenant.login_count(), 2, "a failed renewal is not repeated by every call");
    *logins_fail.lock() = false;
    tenant.access().login.expire_soon_for_tests().await;
    client.observe("d").await.unwrap();
    assert_eq!(tenant.last("GET /api/v2/event-streams/d").authorization, "Bearer token-3");
}

#[tokio::test]
async fn login_errors_contain_no_secret_and_are_not_repeated() {
    // The secret in plain text and in form encoding.
    let quotes = json!({"error": "invalid_request", "error_description": "cl13nt s3cret cl13nt+s3cret"});
    for (status, reason) in
        [(400, "LoginRejected"), (404, "LoginRejected"), (500, "ServerError"), (410, "LoginRejected")]
    {
        let response = reply(status, &[("x-request-id", "req-1")], &quotes);
        let tenant = FakeTenant::start(move |_| Some(response.clone())).await;
        let error = tenant.streams().list(ListFilter::all()).await.err().unwrap();
        assert_eq!(<&str>::from(&error), reason);
        let last = crate::admin::testing::check_error("login", &error, &["cl13nt s3cret", "cl13nt+s3cret"]);
        assert_eq!(last.request_id.as_deref(), Some("req-1"));
    }
    for (what, response) in crate::admin::testing::malformed_responses() {
        let tenant = FakeTenant::start(move |_| Some(response.clone())).await;
        for _ in 0..3 {
            let error = tenant.streams().list(ListFilter::all()).await.err().unwrap();
            assert_eq!(
                <&str>::from(&error),
                crate::admin::testing::malformed_reason(what),
                "{what}: {error}"
            );
        }
        assert_eq!(tenant.login_count(), 1, "{what}");
    }
}

#[tokio::test]
async fn accepts_invalid_token_lifetimes() {
    for lifetime in [json!(0), json!(-5), json!("3600"), json!(3600.5), json!(1e300), json!(null), json!({})]
    {
        let granted = json!({"access_token": "t", "expires_in": lifetime});
        let tenant = FakeTenant::start(move |request| {
            Some(if request.line == LOGIN { reply(200, &[], &granted) } else { requested_object(request) })
        })
        .await;
        for _ in 0..5 {
            tenant.streams().observe("a").await.unwrap();
        }
        assert!(tenant.login_count() < 5, "{lifetime}: a login per call would exhaust the quota");
    }
    let tenant = FakeTenant::start(|request| {
        (request.line == LOGIN).then(|| reply(200, &[], &json!({"access_token": "a\nb"})))
    })
    .await;
    assert_eq!(
        <&str>::from(&tenant.streams().list(ListFilter::all()).await.err().unwrap()),
        "UnexpectedAnswer"
    );
}

/// Many concurrent calls find that their token was revoked: only one of them logs in.
#[tokio::test]
async fn revoked_token_causes_one_login() {
    let tenant = FakeTenant::start(|request| {
        let unauthorized = || reply(401, &[], &json!({"statusCode": 401, "message": "Invalid token."}));
        (request.line != LOGIN).then(|| {
            if request.authorization == "Bearer token-1" { unauthorized() } else { requested_object(request) }
        })
    })
    .await;
    let calls = (0..20).map(|i| {
        let tenant = tenant.with_new_client();
        async move { tenant.streams().observe(&format!("est_{i}")).await }
    });
    for result in futures::future::join_all(calls).await {
        assert!(result.is_ok(), "{result:?}");
    }
    assert_eq!(tenant.login_count(), 2);
}

#[tokio::test]
async fn private_key_logs_in_once_and_is_in_no_error() {
    let key = |id: &str| {
        let pem = SecretString::from(include_str!("keys/pkcs8.pem"));
        AssertionKey::new(id, &pem, AssertionAlgorithm::RS256, None).unwrap()
    };
    let audience = || "https://a.auth0.com/api/v2/".to_owned();
    let tenant =
        FakeTenant::start(|request| request.line.starts_with("GET").then(|| requested_object(request))).await;
    let access =
        |id: &str| tenant.access_with(Credentials::PrivateKey { key: key(id), audience: audience() });
    for _ in 0..3 {
        StreamClient::new(access("me")).observe("i").await.unwrap();
    }
    assert_eq!(tenant.login_count(), 1, "one token for all calls");
    let form = tenant.last(LOGIN).body;
    let sent: std::collections::HashMap<String, String> =
        url::form_urlencoded::parse(form.as_bytes()).into_owned().collect();
    let expected = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    assert_eq!((sent["client_assertion_type"].as_str(), sent["client_id"].as_str()), (expected, "me"));
    assert!(!sent.contains_key("client_secret") && sent["client_assertion"].split('.').count() == 3);
    StreamClient::new(access("you")).observe("i").await.unwrap();
    assert_eq!(tenant.login_count(), 2, "another client has its own token");

    // A tenant that quotes the request in its error.
    let tenant = FakeTenant::start(|request| {
        let body = json!({"error": "invalid_client", "error_description": request.body});
        (request.line == LOGIN).then(|| reply(401, &[], &body))
    })
    .await;
    let access = tenant.access_with(Credentials::PrivateKey { key: key("me"), audience: audience() });
    let error = StreamClient::new(access.clone()).observe("i").await.unwrap_err();
    let assertion = tenant.last(LOGIN).body.split("client_assertion=").nth(1).unwrap()[..40].to_owned();
    let shown = format!("{error} {error:?} {access:?}");
    assert!(!shown.contains(&assertion) && !shown.contains("PRIVATE"), "{shown}");
}
