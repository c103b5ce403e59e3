//! Tests of tokens, rate limits, faults and state.

use secrecy::{ExposeSecret, SecretString};

use super::*;
use crate::admin::auth0::AssertionKey;
use crate::api::AssertionAlgorithm;
use crate::core::time::Millis;

const PKCS8: &str = include_str!("../../../admin/auth0/tests/keys/pkcs8.pem");
const PKCS1: &str = include_str!("../../../admin/auth0/tests/keys/pkcs1.pem");
const PUBLIC: &str = include_str!("../../../admin/auth0/tests/keys/public.pem");
const OTHER_PUBLIC: &str = include_str!("../../../admin/auth0/tests/keys/other-public.pem");

/// Starts an emulator whose client `me` has this public key.
async fn start_with_key(public: &str, algorithm: AssertionAlgorithm) -> EmulatorServer {
    let key = ClientKey::new(public.as_bytes(), algorithm).unwrap();
    let mut auth0 =
        start(Auth0Options { client_key: Some(("me".into(), key)), ..Auth0Options::default() }).await;
    auth0.bearer = None;
    auth0
}

/// Logs in with an assertion. Returns the status and the error, or the token.
async fn log_in(auth0: &EmulatorServer, assertion: &SecretString) -> (u16, String) {
    let body = json!({"grant_type": "client_credentials", "audience": "https://a.auth0.com/api/v2/",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": assertion.expose_secret()});
    let (status, answer) = auth0.call("POST", "/oauth/token", body).await;
    let text = answer["error_description"].as_str().or(answer["access_token"].as_str());
    (status, text.unwrap_or_default().to_owned())
}

fn signer(client: &str, pem: &str, algorithm: AssertionAlgorithm) -> AssertionKey {
    AssertionKey::new(client, &SecretString::from(pem), algorithm, None).unwrap()
}

#[tokio::test]
async fn accepts_an_assertion_once() {
    for algorithm in [AssertionAlgorithm::RS256, AssertionAlgorithm::RS384, AssertionAlgorithm::PS256] {
        let mut auth0 = start_with_key(PUBLIC, algorithm).await;
        let tenant = format!("{}/", auth0.url);
        for pem in [PKCS8, PKCS1] {
            let assertion = signer("me", pem, algorithm).sign(&tenant, Millis::wall()).unwrap();
            let (status, token) = log_in(&auth0, &assertion).await;
            assert_eq!(status, 200, "{token}");
            let (status, error) = log_in(&auth0, &assertion).await;
            assert!(status == 401 && error.contains("used before"), "{error}");
            auth0.bearer = Some(token);
            assert_eq!(auth0.get(STREAMS).await.0, 200);
        }
    }
}

#[tokio::test]
async fn rejects_wrong_assertions() {
    let algorithm = AssertionAlgorithm::RS256;
    let auth0 = start_with_key(PUBLIC, algorithm).await;
    let (tenant, now) = (format!("{}/", auth0.url), Millis::wall());
    let hour = Duration::from_secs(3600);
    let me = signer("me", PKCS8, algorithm);
    let sign = |key: &AssertionKey, tenant: &str, at| key.sign(tenant, at).unwrap();
    let signed = sign(&me, &tenant, now);
    let (signed, signature) = signed.expose_secret().rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { "B" } else { "A" };
    let forged = format!("{signed}.{first}{}", &signature[1..]);
    for (assertion, problem) in [
        (sign(&signer("you", PKCS8, algorithm), &tenant, now), "client id"),
        (sign(&signer("me", PKCS8, AssertionAlgorithm::PS256), &tenant, now), "alg"),
        (sign(&me, "https://other.auth0.com/", now), "aud"),
        (sign(&me, auth0.url.trim_end_matches('/'), now), "aud"),
        (sign(&me, &tenant, Millis(0)), "expired"),
        (sign(&me, &tenant, now + hour), "more than 5 minutes"),
        (SecretString::from(forged), "signature"),
        (SecretString::from("a.b"), "malformed"),
        (SecretString::from("x".repeat(2049)), "2048"),
    ] {
        let (status, error) = log_in(&auth0, &assertion).await;
        assert!(status == 401 && error.contains(problem), "{problem}: {status} {error}");
    }
    let other = start_with_key(OTHER_PUBLIC, algorithm).await;
    let (status, error) = log_in(&other, &sign(&me, &format!("{}/", other.url), now)).await;
    assert!(status == 401 && error.contains("signature"), "{error}");
    let secret = json!({"grant_type": "client_credentials", "client_id": "me", "client_secret": "x",
        "audience": "https://a.auth0.com/api/v2/"});
    assert_eq!(auth0.call("POST", "/oauth/token", secret).await.0, 401);
    for not_a_key in [PKCS8, "x", "-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----"] {
        assert!(ClientKey::new(not_a_key.as_bytes(), algorithm).is_none(), "{not_a_key}");
    }
}

#[tokio::test]
async fn issues_and_checks_tokens() {
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
    // A token stays valid over a restart, until it expires.
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
async fn reports_rate_limit_in_headers() {
    let limit = TenantRateLimit { per_second: 0.001, burst: 2 };
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
    let free = start_without_backoff().await.request("GET", STREAMS).send().await;
    assert!(free.is_err() || !free.unwrap().headers().contains_key("x-ratelimit-limit"));
}

#[tokio::test]
async fn applies_faults() {
    let auth0 = start_without_backoff().await;
    auth0.call("POST", "/__emulator/faults", json!({"path": STREAMS, "status": 503, "times": 1})).await;
    let broken =
        json!({"statusCode": 503, "error": "Service Unavailable", "message": "fault of the emulator"});
    assert_eq!(auth0.get(STREAMS).await, (503, broken));
    auth0.call("POST", "/__emulator/faults", json!({"method": "POST", "dropAnswer": true, "times": 1})).await;
    let dropped =
        auth0.request("POST", STREAMS).json(&webhook_stream("one", "https://example.com/")).send().await;
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
    let mut receiver = Receiver::with_statuses(&[400]).await;
    let auth0 = start(options.clone()).await;
    let (path, stream) = create_stream(&auth0, webhook_stream("one", &receiver.url)).await;
    let (_, hook) = auth0.call("POST", HOOKS, hook_body("one", true)).await;
    let secrets = format!("{HOOKS}/{}/secrets", hook["id"].as_str().unwrap());
    auth0.call("POST", &secrets, json!({"A": "b"})).await;
    emit(&auth0, "user.created").await;
    receiver.next().await;
    let deliveries = format!("{path}/deliveries");
    let failed = auth0.wait_until(&deliveries, |list| list["deliveries"] != json!([])).await;
    // Any change of an object also writes the results of deliveries.
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
async fn rejects_invalid_options() {
    for options in [
        Auth0Options { time_scale: f64::NAN, ..Auth0Options::default() },
        Auth0Options {
            rate_limit: Some(TenantRateLimit { per_second: 0.0, burst: 1 }),
            ..Auth0Options::default()
        },
        Auth0Options { ca: Some(b"nothing".to_vec()), ..Auth0Options::default() },
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        assert!(serve_auth0(listener, options, std::future::ready(())).await.is_err());
    }
}
