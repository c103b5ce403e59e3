//! Deletion in any order leaves nothing at Kong, and no object that cannot be deleted.

use serde_json::{Value, json};

use crate::harness::manifests::merged;
use crate::harness::objects::{condition, documents, message, secret};
use crate::harness::world::{Setup, World};
use crate::harness::{DEADLINE, control_plane, eventually};

const TOKEN: &str = "the-admin-token-of-kong";

fn manifests(world: &World) -> Vec<Value> {
    let connection =
        world.connection_with(json!({"kong": {"tokenSecretRef": {"name": "admin", "key": "token"}}}));
    let signature = json!({"secretRef": {"name": "signing", "key": "secret"}});
    let hook = world.hook_with("one", json!({"handler": {"webhook": {"signature": signature}}}));
    let other = merged(hook.clone(), json!({"metadata": {"name": "two"}}));
    vec![secret("admin", "token", TOKEN), secret("signing", "secret", "s1gned"), connection, hook, other]
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_applied_file() {
    let world = World::with("delete-f", Setup { kong: &["--token", TOKEN], ..Setup::default() }).await;
    let objects = manifests(&world);
    world.apply(&objects).await;
    world.ready("eventhooks/one").await;
    world.ready("eventhooks/two").await;
    assert_eq!(world.kong.hooks().await.len(), 2);
    let args = ["-n", &world.namespace.name, "delete", "--timeout=60s", "-f", "-"];
    control_plane().kubectl(args, &documents(&objects)).await.unwrap();
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new());
    world.assert_hides(&[TOKEN]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_in_any_order() {
    let world = World::with("any-order", Setup { kong: &["--token", TOKEN], ..Setup::default() }).await;
    let orders: [&[&str]; 4] = [
        &["secret/admin", "secret/signing", "conn/kong", "evh/one", "evh/two"],
        &["conn/kong", "secret/signing", "evh/two", "secret/admin", "evh/one"],
        &["evh/one", "conn/kong", "secret/admin", "evh/two", "secret/signing"],
        &["evh/two", "evh/one", "conn/kong", "secret/admin", "secret/signing"],
    ];
    for order in orders {
        world.apply(&manifests(&world)).await;
        world.ready("eventhooks/one").await;
        world.ready("eventhooks/two").await;
        world.ready("connections/kong").await;
        for name in order {
            world.kubectl(&["delete", name, "--wait=false"]).await;
        }
        for path in ["eventhooks/one", "eventhooks/two", "connections/kong"] {
            world.wait_until_deleted(path).await;
        }
        assert_eq!(world.kong.hooks().await, Vec::<Value>::new(), "{order:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_in_use_names_users_and_stays() {
    let world = World::with("in-use", Setup { kong: &["--token", TOKEN], ..Setup::default() }).await;
    world.apply(&manifests(&world)).await;
    world.ready("eventhooks/one").await;
    world.ready("eventhooks/two").await;
    world.until("connections/kong", "held", |o| o["metadata"]["finalizers"].is_array()).await;
    world.kubectl(&["delete", "conn/kong", "--wait=false"]).await;
    let is_in_use = |o: &Value| condition(o, "Ready")["reason"] == "InUse";
    let object = world.until("connections/kong", "in use", is_in_use).await;
    assert!(message(&object).contains("EventHook "), "{object:#}");
    // The token's Secret is deleted as well: the controller uses the credentials that last worked.
    world.kubectl(&["delete", "secret/admin"]).await;
    world.kubectl(&["delete", "evh/one", "--timeout=30s"]).await;
    assert_eq!(world.kong.hooks().await.len(), 1);
    world.get("connections/kong").await.expect("the other hook still uses it");
    world.kubectl(&["delete", "evh/two", "--timeout=30s"]).await;
    world.wait_until_deleted("connections/kong").await;
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_failed_delete_and_accepts_404() {
    let world = World::start("delete-again").await;
    world.apply(&[world.connection(), world.hook("one"), world.hook("two")]).await;
    world.ready("eventhooks/one").await;
    world.ready("eventhooks/two").await;
    let two = world.get("eventhooks/two").await.unwrap();
    world.kong.delete(two["status"]["external"]["id"].as_str().unwrap()).await;
    world.kubectl(&["delete", "evh/two", "--timeout=30s"]).await;

    world.kong.fault(json!({"method": "DELETE", "status": 503})).await;
    world.kubectl(&["delete", "evh/one", "--wait=false"]).await;
    eventually(DEADLINE, "a second attempt", async || {
        let attempts = world.kong.count("DELETE", "/").await;
        // One DELETE is the test's own, one is that of the hook that was already deleted.
        if attempts >= 4 { Ok(()) } else { Err(format!("{attempts} attempts")) }
    })
    .await;
    let object = world.not_ready("eventhooks/one", "ServerError").await;
    assert_eq!(object["status"]["lastError"]["httpStatus"], 503, "{object:#}");
    assert_eq!(world.kong.hooks().await.len(), 1);
    world.kong.clear_faults().await;
    world.wait_until_deleted("eventhooks/one").await;
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new());
}
