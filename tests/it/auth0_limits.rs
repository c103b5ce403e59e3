//! A small tenant: two requests at once, tokens that end soon. Everything comes to its end all the same, and no login is
//! wasted.

use serde_json::{Value, json};

use crate::auth0_hooks::hook;
use crate::auth0_streams::{connect, stream};
use crate::harness::{DEADLINE, eventually};
use crate::world::{Auth0, Setup, World, secret};

/// To begin anew whenever the limit is spent would spend it on the same calls again, for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_spent_in_the_middle_is_waited_for() {
    let world = World::start("auth0-spent").await;
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
    // Nobody was refused, so nobody hears of a refusal.
    let refused = auth0.requests().await.iter().filter(|r| r["status"] == 429).count();
    for name in ["six-calls", "three"] {
        let told = world.events(name).await.iter().filter(|e| e["reason"] == "RateLimited").count();
        assert!(told <= refused, "{told} were told of a 429, and there were {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_objects_share_a_login_and_outlive_its_token() {
    let world = World::with("auth0-tokens", Setup { resync: Some("1s"), ..Setup::default() }).await;
    let auth0 = Auth0::start(&["--token-lifetime", "2s"]).await;
    connect(&world, &auth0).await;
    let streams: Vec<Value> = (0..8).map(|n| stream(&format!("s{n}"), json!({"worker": {}}))).collect();
    world.apply(&streams).await;
    for n in 0..8 {
        world.ready(&format!("eventstreams/s{n}")).await;
    }
    let spread = eventually(DEADLINE, "four logins", async || {
        let requests = auth0.requests().await;
        let logins: Vec<&Value> = requests.iter().filter(|r| r["path"] == "/oauth/token").collect();
        let at = |r: &Value| r["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        match logins.as_slice() {
            [first, .., last] if logins.len() >= 4 => {
                Ok((logins.len(), at(last).duration_since(at(first)).as_secs_f64()))
            }
            _ => Err(format!("{} logins", logins.len())),
        }
    })
    .await;
    let (logins, seconds) = spread;
    // Each serves for nine tenths of its two seconds.
    assert!((logins - 1) as f64 <= seconds / 1.7 + 1.0, "{logins} logins in {seconds} s");
    let refused = auth0.requests().await.iter().filter(|r| r["status"] == 401).count();
    assert_eq!(refused, 0, "each was renewed ahead of its end");
    for n in 0..8 {
        world.ready(&format!("eventstreams/s{n}")).await;
    }
}
