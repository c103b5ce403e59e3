//! Logins: one for many, renewed ahead of its end, once where a token is refused.

use parking_lot::Mutex;

use super::*;
use crate::admin::{AdminError, ExternalClient};

#[tokio::test]
async fn one_login_serves_many_at_once() {
    let fake = Fake::start(|seen| seen.line.starts_with("GET").then(|| asked_for(seen))).await;
    let calls = (0..50).map(|i| {
        let fake = fake.clone();
        async move {
            let (client, id) = (fake.streams(), format!("est_{i}"));
            loop {
                match client.observe(&id).await {
                    // Not its turn yet.
                    Err(AdminError::Postponed(after)) => tokio::time::sleep(after).await,
                    other => break other.unwrap(),
                }
            }
        }
    });
    futures::future::join_all(calls).await;
    assert_eq!(fake.logins(), 1);
    assert_eq!(fake.last("GET /api/v2/event-streams/est_7").authorization, "Bearer token-1");
    let login = fake.last(LOGIN);
    let want = "grant_type=client_credentials&client_id=client&client_secret=cl13nt+s3cret&audience=https%3A%2F%2Fx%2Fapi%2Fv2%2F";
    assert_eq!(login.body, want);
    assert!(!format!("{:?}", fake.access()).contains("s3cret"));
}

#[tokio::test]
async fn a_refused_token_is_renewed_once() {
    let refused = json!({"statusCode": 401, "error": "Unauthorized", "message": "Invalid token."});
    let good = refused.clone();
    let fake = Fake::start(move |seen| {
        let get = seen.line.starts_with("GET");
        get.then(|| match seen.authorization.as_str() {
            "Bearer token-1" => reply(401, &[], &good),
            _ => asked_for(seen),
        })
    })
    .await;
    assert!(fake.streams().observe("a").await.is_ok());
    assert!(fake.streams().observe("b").await.is_ok());
    assert_eq!(fake.logins(), 2);

    let fake = Fake::start(move |seen| seen.line.starts_with("GET").then(|| reply(401, &[], &refused))).await;
    for _ in 0..5 {
        let error = fake.streams().observe("a").await.unwrap_err();
        assert!(matches!(error, AdminError::Unauthorized(_)), "{error}");
    }
    assert_eq!(
        fake.logins(),
        2,
        "a token that is refused for another reason than its age costs no login a call"
    );
}

#[tokio::test]
async fn a_ready_token_is_used_as_it_is() {
    let refused = json!({"statusCode": 401, "message": "Invalid token: r3ady"});
    let fake = Fake::start(move |_| Some(reply(401, &[], &refused))).await;
    let access = fake.access_with(Credentials::Ready(SecretString::from("r3ady")));
    let error = StreamClient::new(access).list().await.err().unwrap();
    assert!(error.to_string().contains("Invalid token: ***"), "{error}");
    assert_eq!(fake.last("GET /api/v2/event-streams?take=100").authorization, "Bearer r3ady");
    assert_eq!(fake.lines().len(), 1);
}

#[tokio::test]
async fn a_login_that_fails_fails_for_all_and_says_why() {
    let cases = [
        (
            reply(401, &[], &json!({"error": "access_denied", "error_description": "no cl13nt s3cret"})),
            "Unauthorized",
        ),
        (
            reply(403, &[], &json!({"error": "access_denied", "error_description": "Service not found"})),
            "Forbidden",
        ),
        (reply(429, &[("retry-after", "60")], &json!({"error": "too_many_requests"})), "RateLimited"),
        (reply(200, &[], &json!({"token_type": "Bearer"})), "UnexpectedAnswer"),
        (raw(200, &[], "<html>"), "UnexpectedAnswer"),
        (raw(302, &[("location", "https://elsewhere")], ""), "UnexpectedAnswer"),
    ];
    for (answer, reason) in cases {
        let fake = Fake::start(move |_| Some(answer.clone())).await;
        for _ in 0..3 {
            let error = fake.streams().list().await.err().unwrap();
            assert_eq!(<&str>::from(&error), reason, "{error}");
            assert!(!error.to_string().contains("cl13nt s3cret"), "{error}");
        }
        assert_eq!(fake.logins(), 1, "{reason}");
    }
}

#[tokio::test]
async fn a_token_is_renewed_ahead_of_its_end_and_serves_meanwhile() {
    let failing = Arc::new(Mutex::new(false));
    let fails = failing.clone();
    let fake = Fake::start(move |seen| match seen.line.as_str() {
        // Renewed at once, for nine tenths of nothing are over; it lasts until the test ends.
        LOGIN if *fails.lock() => Some(reply(500, &[], &json!({}))),
        LOGIN => None,
        _ => Some(asked_for(seen)),
    })
    .await;
    let client = fake.streams();
    client.observe("a").await.unwrap();
    fake.access().login.age_for_tests().await;
    *failing.lock() = true;
    client.observe("b").await.unwrap();
    assert_eq!(
        fake.last("GET /api/v2/event-streams/b").authorization,
        "Bearer token-1",
        "the old one serves"
    );
    client.observe("c").await.unwrap();
    assert_eq!(fake.logins(), 2, "and a renewal that failed is not tried at every call");
    *failing.lock() = false;
    fake.access().login.age_for_tests().await;
    client.observe("d").await.unwrap();
    assert_eq!(fake.last("GET /api/v2/event-streams/d").authorization, "Bearer token-3");
}

#[tokio::test]
async fn whatever_the_login_answers_no_secret_is_told_and_no_loop_begins() {
    // The secret as it is, and as it stands in the form.
    let quotes = json!({"error": "invalid_request", "error_description": "cl13nt s3cret cl13nt+s3cret"});
    for (status, reason) in [(400, "Rejected"), (404, "NotFound"), (500, "ServerError"), (410, "Rejected")] {
        let answer = reply(status, &[("x-request-id", "req-1")], &quotes);
        let fake = Fake::start(move |_| Some(answer.clone())).await;
        let error = fake.streams().list().await.err().unwrap();
        assert_eq!(<&str>::from(&error), reason);
        let last = crate::admin::testing::told("login", &error, &["cl13nt s3cret", "cl13nt+s3cret"]);
        assert_eq!(last.request_id.as_deref(), Some("req-1"));
    }
    for (what, answer) in crate::admin::testing::not_its_language() {
        let fake = Fake::start(move |_| Some(answer.clone())).await;
        for _ in 0..3 {
            let error = fake.streams().list().await.err().unwrap();
            assert_eq!(<&str>::from(&error), "UnexpectedAnswer", "{what}: {error}");
        }
        assert_eq!(fake.logins(), 1, "{what}");
    }
}

#[tokio::test]
async fn a_token_that_says_odd_things_of_its_end_serves() {
    for lasts in [json!(0), json!(-5), json!("3600"), json!(3600.5), json!(1e300), json!(null), json!({})] {
        let granted = json!({"access_token": "t", "expires_in": lasts});
        let fake = Fake::start(move |seen| {
            Some(if seen.line == LOGIN { reply(200, &[], &granted) } else { asked_for(seen) })
        })
        .await;
        for _ in 0..5 {
            fake.streams().observe("a").await.unwrap();
        }
        assert!(fake.logins() < 5, "{lasts}: a login a call would use up the quota");
    }
    let fake =
        Fake::start(|seen| (seen.line == LOGIN).then(|| reply(200, &[], &json!({"access_token": "a\nb"}))))
            .await;
    assert_eq!(<&str>::from(&fake.streams().list().await.err().unwrap()), "UnexpectedAnswer");
}

/// Many find at the same time that their token was revoked: one of them logs in.
#[tokio::test]
async fn a_revoked_token_costs_one_login_for_all() {
    let fake = Fake::start(|seen| {
        let refused = || reply(401, &[], &json!({"statusCode": 401, "message": "Invalid token."}));
        (seen.line != LOGIN)
            .then(|| if seen.authorization == "Bearer token-1" { refused() } else { asked_for(seen) })
    })
    .await;
    let calls = (0..20).map(|i| {
        let fake = fake.anew();
        async move { fake.streams().observe(&format!("est_{i}")).await }
    });
    for came in futures::future::join_all(calls).await {
        assert!(came.is_ok(), "{came:?}");
    }
    assert_eq!(fake.logins(), 2);
}
