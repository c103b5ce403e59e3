//! A small Auth0 tenant: a low rate limit and tokens of a short life. All objects become ready, and no login is wasted.

use serde_json::{Value, json};

use crate::harness::auth0_objects::{connect, hook, stream};
use crate::harness::objects::secret;
use crate::harness::world::{Setup, World};
use crate::harness::{Auth0, DEADLINE, eventually};

/// A reconcile must not start from the beginning when the limit is exhausted, or it would spend the limit on the same
/// calls forever.
#[tokio::test(flavor = "multi_thread")]
async fn waits_for_reset_when_rate_limit_is_exhausted_mid_reconcile() {
    // A create that is answered with 429 is repeated after the creation grace; its default of 30 s is the test's deadline.
    let flags = ["--creation-grace", "2s"];
    let world = World::with("auth0-spent", Setup { flags: &flags, ..Setup::default() }).await;
    let auth0 = Auth0::start(&["--rate-limit", "4", "--rate-burst", "2"]).await;
    connect(&world, &auth0).await;
    let secrets = json!({"secrets": [{"name": "A", "secretRef": {"name": "keys", "key": "a"}}]});
    world
        .apply(&[
            secret("keys", "a", "v4lue"),
            hook("six-calls", secrets),
            stream("three", json!({"worker": {}})),
        ])
        .await;
    world.ready("hooks/six-calls").await;
    world.ready("eventstreams/three").await;
    let stored_hook = auth0.stored_hooks().await.remove(0);
    assert_eq!((&stored_hook["enabled"], &stored_hook["secrets"]["A"]), (&json!(true), &json!("v4lue")));
    // An Event reports a 429 that Auth0 sent, never a call that the controller only postponed. The Events are counted first:
    // a 429 may come between the two counts.
    for name in ["six-calls", "three"] {
        let events = world.events(name).await.iter().filter(|e| e["reason"] == "RateLimited").count();
        let rejections = auth0.requests().await.iter().filter(|r| r["status"] == 429).count();
        assert!(events <= rejections, "{events} Events of a 429, and Auth0 sent {rejections}");
    }
}

/// With the record of a create that never happened, the controller would wait the whole grace.
#[tokio::test(flavor = "multi_thread")]
async fn create_answered_with_429_does_not_wait_for_creation_grace() {
    let flags = ["--creation-grace", "1h"];
    let world = World::with("auth0-429", Setup { flags: &flags, ..Setup::default() }).await;
    let auth0 = Auth0::start(&[]).await;
    let headers = json!({"retry-after": "1"});
    for path in ["/api/v2/event-streams", "/api/v2/hooks"] {
        let fault = json!({"method": "POST", "path": path, "status": 429, "headers": headers, "times": 2});
        auth0.fault(fault).await;
    }
    connect(&world, &auth0).await;
    world.apply(&[stream("s", json!({"worker": {}})), hook("h", json!({}))]).await;
    world.ready("eventstreams/s").await;
    world.ready("hooks/h").await;
    assert_eq!((auth0.stored_streams().await.len(), auth0.stored_hooks().await.len()), (1, 1));
    // After a lost response the record still prevents a second object.
    auth0.clear_faults().await;
    auth0
        .fault(json!({"method": "POST", "path": "/api/v2/event-streams", "dropAnswer": true, "times": 1}))
        .await;
    world.apply(&[stream("lost", json!({"worker": {}}))]).await;
    world.ready("eventstreams/lost").await;
    assert_eq!(auth0.stored_streams().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_share_login_and_renew_token_before_expiry() {
    let world = World::with("auth0-tokens", Setup { resync: Some("1s"), ..Setup::default() }).await;
    let auth0 = Auth0::start(&["--token-lifetime", "5s"]).await;
    connect(&world, &auth0).await;
    let streams: Vec<Value> = (0..8).map(|n| stream(&format!("s{n}"), json!({"worker": {}}))).collect();
    world.apply(&streams).await;
    for n in 0..8 {
        world.ready(&format!("eventstreams/s{n}")).await;
    }
    // A controller that renewed a token only when Auth0 rejects it would have a 401 before every renewal. A single 401 proves
    // nothing: a slow machine may deliver a request after its token has expired.
    let requests = eventually(DEADLINE, "three logins, and a renewal without a 401 before it", async || {
        let requests = auth0.requests().await;
        let logins: Vec<usize> =
            (0..requests.len()).filter(|at| requests[*at]["path"] == "/oauth/token").collect();
        let is_accepted = |request: &Value| request["status"] != 401;
        let renews_in_time = logins.windows(2).any(|pair| requests[pair[0]..pair[1]].iter().all(is_accepted));
        if logins.len() >= 3 && renews_in_time { Ok(requests) } else { Err(format!("{requests:#?}")) }
    })
    .await;
    // The controller uses a token for nine tenths of its five seconds, or until Auth0 rejects it.
    let times = |is_counted: &dyn Fn(&Value) -> bool| {
        let counted = requests.iter().filter(|request| is_counted(request));
        counted.map(|r| r["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap()).collect::<Vec<_>>()
    };
    let logins = times(&|request| request["path"] == "/oauth/token");
    let rejections = times(&|request| request["status"] == 401);
    let seconds = logins[logins.len() - 1].duration_since(logins[0]).as_secs_f64();
    assert!(
        (logins.len() - 1) as f64 <= seconds / 4.4 + 1.0 + rejections.len() as f64,
        "{} logins in {seconds} s",
        logins.len()
    );
    for n in 0..8 {
        world.ready(&format!("eventstreams/s{n}")).await;
    }
}
