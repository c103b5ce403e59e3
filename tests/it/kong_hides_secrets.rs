//! A Kong that does not show the secrets it was told: what was told last is known by its keyed hash, and nothing is
//! written again and again.

use serde_json::{Value, json};

use crate::harness::{DEADLINE, eventually};
use crate::world::{Setup, World, secret};

async fn puts(world: &World) -> usize {
    world.kong.count("PUT", "/event-hooks").await
}

/// Compared with Kong, and acknowledged.
async fn looked_at(world: &World, names: &[&str], token: &str) {
    for name in names {
        world.request(&format!("evh/{name}"), token).await;
    }
    for name in names {
        let done = |o: &Value| o["status"]["handled"]["reconcileRequestedAt"] == token;
        world.until(&format!("eventhooks/{name}"), "acknowledged", done).await;
    }
}

async fn of(world: &World, name: &str) -> Value {
    world.get(&format!("eventhooks/{name}")).await.unwrap()
}

/// Kong has an event, and the worker delivers it: the signature was right.
async fn relays(world: &World, n: u64) {
    assert_eq!(world.kong.emit("crud", "consumers", json!({ "n": n })).await, 1);
    eventually(DEADLINE, "the event at the receiver", async || {
        let came = world.receiver.requests().iter().any(|r| r.json()["n"] == n);
        if came { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
}

async fn keeps_them(hint: &str, how: &str) {
    let world = World::with(hint, Setup { kong: &["--secrets", how], ..Setup::default() }).await;
    let signature = json!({"secretRef": {"name": "signing", "key": "secret"}});
    let at_the_gateway = json!({"deliverBy": "Gateway", "handler": {"webhook": {"signature": signature}}});
    let names = ["relayed", "signed"];
    world
        .apply(&[
            world.connection(),
            secret("signing", "secret", "s1gned-1"),
            world.hook("relayed"),
            world.hook_with("signed", merged_event(at_the_gateway)),
        ])
        .await;
    for name in names {
        let object = world.ready(&format!("eventhooks/{name}")).await;
        let hash = object["status"]["secretHashes"]["config.secret"].as_str().unwrap();
        assert!(!hash.contains("s1gned"), "{object:#}");
    }
    assert!(world.kong.hooks().await.iter().all(|h| h["config"]["secret"] != "s1gned-1"), "Kong hides them");

    // Looked at twice, nothing differs. Kong has the secret all the same: the worker takes what it signs.
    let before = puts(&world).await;
    looked_at(&world, &names, "t1").await;
    looked_at(&world, &names, "t2").await;
    assert_eq!(puts(&world).await, before);
    relays(&world, 1).await;

    // Another secret goes there once, another rotation too.
    let hash = |o: &Value| o["status"]["secretHashes"]["config.secret"].clone();
    let was = [hash(&of(&world, "relayed").await), hash(&of(&world, "signed").await)];
    world.kubectl(&["patch", "secret/signing", "-p", r#"{"stringData":{"secret":"s1gned-2"}}"#]).await;
    world.edit("evh/relayed", json!({"rotation": "2"})).await;
    for (name, was) in names.iter().zip(&was) {
        world.until(&format!("eventhooks/{name}"), "told of it", |o| hash(o) != *was).await;
    }
    looked_at(&world, &names, "t3").await;
    assert_eq!(puts(&world).await, before + 2);
    relays(&world, 2).await;
    for name in names {
        assert!(world.events(name).await.iter().all(|e| e["reason"] != "DriftRepaired"), "nobody else wrote");
    }
    world.shows_none_of(&["s1gned-1", "s1gned-2"]).await;
    world.kubectl(&["delete", "evh", "--all", "--timeout=30s"]).await;
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new());
}

/// Another event than the relay's, so that what is emitted goes to one of them.
fn merged_event(spec: Value) -> Value {
    crate::world::merged(spec, json!({"event": "routes"}))
}

#[tokio::test(flavor = "multi_thread")]
async fn as_asterisks() {
    keeps_them("masked", "masked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_null() {
    keeps_them("omitted", "omitted").await;
}
