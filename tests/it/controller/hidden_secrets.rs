//! A Kong that hides secrets: the controller compares a keyed hash of the secret that it sent last, and does not repeat
//! the write.

use serde_json::{Value, json};

use crate::harness::objects::secret;
use crate::harness::world::{Setup, World};
use crate::harness::{DEADLINE, eventually};

async fn count_puts(world: &World) -> usize {
    world.kong.count("PUT", "/event-hooks").await
}

/// Requests a comparison with Kong and waits until it is acknowledged.
async fn compare_with_kong(world: &World, names: &[&str], token: &str) {
    for name in names {
        world.request(&format!("evh/{name}"), token).await;
    }
    for name in names {
        let is_acknowledged = |o: &Value| o["status"]["handled"]["reconcileRequestedAt"] == token;
        world.until(&format!("eventhooks/{name}"), "acknowledged", is_acknowledged).await;
    }
}

async fn hook(world: &World, name: &str) -> Value {
    world.get(&format!("eventhooks/{name}")).await.unwrap()
}

/// Emits an event at Kong and waits until the worker delivers it, which proves that the signature was right.
async fn assert_relayed(world: &World, n: u64) {
    assert_eq!(world.kong.emit("crud", "consumers", json!({ "n": n })).await, 1);
    eventually(DEADLINE, "the event at the receiver", async || {
        let is_delivered = world.receiver.requests().iter().any(|r| r.json()["n"] == n);
        if is_delivered { Ok(()) } else { Err("no such request".to_owned()) }
    })
    .await;
}

async fn syncs_without_repeated_writes(hint: &str, read_back: &str) {
    let world = World::with(hint, Setup { kong: &["--secrets", read_back], ..Setup::default() }).await;
    let signature = json!({"secretRef": {"name": "signing", "key": "secret"}});
    let by_gateway = json!({"deliverBy": "Gateway", "handler": {"webhook": {"signature": signature}}});
    let names = ["relayed", "signed"];
    world
        .apply(&[
            world.connection(),
            secret("signing", "secret", "s1gned-1"),
            world.hook("relayed"),
            world.hook_with("signed", with_other_event(by_gateway)),
        ])
        .await;
    for name in names {
        let object = world.ready(&format!("eventhooks/{name}")).await;
        let hash = object["status"]["secretHashes"]["config.secret"].as_str().unwrap();
        assert!(!hash.contains("s1gned"), "{object:#}");
    }
    assert!(
        world.kong.hooks().await.iter().all(|h| h["config"]["secret"] != "s1gned-1"),
        "Kong hides secrets"
    );

    // Two comparisons find no difference. Kong has the secret, because the worker accepts Kong's signatures.
    let puts_before = count_puts(&world).await;
    compare_with_kong(&world, &names, "t1").await;
    compare_with_kong(&world, &names, "t2").await;
    assert_eq!(count_puts(&world).await, puts_before);
    assert_relayed(&world, 1).await;

    // A changed secret and a rotation are each written once.
    let hash_of = |o: &Value| o["status"]["secretHashes"]["config.secret"].clone();
    let old_hashes = [hash_of(&hook(&world, "relayed").await), hash_of(&hook(&world, "signed").await)];
    world.kubectl(&["patch", "secret/signing", "-p", r#"{"stringData":{"secret":"s1gned-2"}}"#]).await;
    world.edit("evh/relayed", json!({"rotation": "2"})).await;
    for (name, old_hash) in names.iter().zip(&old_hashes) {
        world.until(&format!("eventhooks/{name}"), "with a new hash", |o| hash_of(o) != *old_hash).await;
    }
    compare_with_kong(&world, &names, "t3").await;
    assert_eq!(count_puts(&world).await, puts_before + 2);
    assert_relayed(&world, 2).await;
    for name in names {
        assert!(
            world.events(name).await.iter().all(|e| e["reason"] != "DriftRepaired"),
            "there was no drift"
        );
    }
    world.assert_hides(&["s1gned-1", "s1gned-2"]).await;
    world.kubectl(&["delete", "evh", "--all", "--timeout=30s"]).await;
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new());
}

/// Sets another event than the relay's, so that an emitted event matches one hook only.
fn with_other_event(spec: Value) -> Value {
    crate::harness::manifests::merged(spec, json!({"event": "routes"}))
}

#[tokio::test(flavor = "multi_thread")]
async fn masked_secrets_cause_no_writes() {
    syncs_without_repeated_writes("masked", "masked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn omitted_secrets_cause_no_writes() {
    syncs_without_repeated_writes("omitted", "omitted").await;
}
