//! A Connection that logs in at Auth0 with a private key.

use serde_json::json;

use crate::harness::auth0::CLIENT_ID;
use crate::harness::auth0_objects::stream;
use crate::harness::objects::{message, object, secret};
use crate::harness::world::World;
use crate::harness::{Auth0, watchdog};

const KEY: &str = include_str!("../../../src/admin/auth0/tests/keys/pkcs8.pem");
const SAME_KEY: &str = include_str!("../../../src/admin/auth0/tests/keys/pkcs1.pem");
const PUBLIC: &str = include_str!("../../../src/admin/auth0/tests/keys/public.pem");

#[tokio::test(flavor = "multi_thread")]
async fn connection_logs_in_with_a_private_key() {
    let world = World::start("private-key").await;
    let public = watchdog::unique_path("public.pem");
    std::fs::write(&public, PUBLIC).unwrap();
    let auth0 = Auth0::start_with_key(public.to_str().unwrap(), &["--client-key-algorithm", "PS256"]).await;
    let credentials = json!({"clientId": CLIENT_ID, "privateKeyRef": {"name": "auth0", "key": "key"},
        "signingAlgorithm": "PS256", "keyId": "k1"});
    let spec = json!({"auth0": {"domain": auth0.domain, "clientCredentials": credentials},
        "rateLimit": {"requests": 1000, "burst": 1000}});
    let destination = json!({"eventBridge": {"accountId": "123456789012", "region": "eu-central-1"}});
    // Not a key yet: the condition names the Secret, and nothing of it.
    world
        .apply(&[
            secret("auth0", "key", "n0-private-key"),
            object("Connection", "auth0", spec),
            stream("s", destination),
        ])
        .await;
    for path in ["connections/auth0", "eventstreams/s"] {
        let object = world.not_ready(path, "SecretUnusable").await;
        assert!(message(&object).contains("key key of Secret auth0 is not a private key"), "{object:#}");
    }
    world.apply(&[secret("auth0", "key", KEY)]).await;
    world.ready("connections/auth0").await;
    world.ready("eventstreams/s").await;
    assert_eq!(auth0.stored_streams().await.len(), 1);
    // The same key in its other format.
    world.apply(&[secret("auth0", "key", SAME_KEY)]).await;
    world.kubectl(&["delete", "eventstream/s", "--timeout=60s"]).await;
    assert!(auth0.stored_streams().await.is_empty());
    let part = KEY.lines().nth(3).unwrap();
    world.assert_hides(&["n0-private-key", part]).await;
}
