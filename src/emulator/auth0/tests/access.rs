//! Tests of tokens, rate limits, faults and state.

use super::*;

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
