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
    let kept = auth0.kept_hooks().await.remove(0);
    assert_eq!((&kept["enabled"], &kept["secrets"]["A"]), (&json!(true), &json!("v4lue")));
    // An Event reports a 429 that Auth0 sent, never a call that the controller only postponed. The Events are counted first:
    // a 429 may come between the two counts.
    for name in ["six-calls", "three"] {
        let events = world.events(name).await.iter().filter(|e| e["reason"] == "RateLimited").count();
        let refused = auth0.requests().await.iter().filter(|r| r["status"] == 429).count();
        assert!(events <= refused, "{events} Events of a 429, and Auth0 sent {refused}");
    }
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
    let spread = eventually(DEADLINE, "three logins", async || {
        let requests = auth0.requests().await;
        let logins: Vec<&Value> = requests.iter().filter(|r| r["path"] == "/oauth/token").collect();
        let at = |r: &Value| r["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        match logins.as_slice() {
            [first, .., last] if logins.len() >= 3 => {
                Ok((logins.len(), at(last).duration_since(at(first)).as_secs_f64()))
            }
            _ => Err(format!("{} logins", logins.len())),
        }
    })
    .await;
    let (logins, seconds) = spread;
    // The controller uses a token for nine tenths of its five seconds.
    assert!((logins - 1) as f64 <= seconds / 4.4 + 1.0, "{logins} logins in {seconds} s");
    let refused = auth0.requests().await.iter().filter(|r| r["status"] == 401).count();
    assert_eq!(refused, 0, "each token is renewed before it expires");
    for n in 0..8 {
        world.ready(&format!("eventstreams/s{n}")).await;
    }
}
