//! The same lifecycle with each kind of gateway: with PUT or without, with client-chosen ids or without, with updates or
//! without.

use serde_json::{Value, json};

use crate::harness::world::{Setup, World};
use crate::harness::{DEADLINE, Kong, eventually};

/// Creates, edits, repairs, recreates and deletes hooks. Returns the capabilities that the Connection then reports.
async fn run_lifecycle(hint: &str, flags: &[&str]) -> (World, Value) {
    let grace = ["--creation-grace", "300ms"];
    let world =
        World::with(hint, Setup { kong: flags, flags: &grace, resync: Some("1s"), ..Setup::default() }).await;
    let gateway = json!({"deliverBy": "Gateway", "handler": {"webhook": {"headers": {"a": "1", "b": "2"}}}});
    // Two equal specs: each object has its own hook.
    world
        .apply(&[
            world.connection(),
            world.hook("relayed"),
            world.hook_with("one", gateway.clone()),
            world.hook_with("two", gateway),
        ])
        .await;
    let names = ["relayed", "one", "two"];
    for name in names {
        world.ready(&format!("eventhooks/{name}")).await;
    }
    assert_ids_agree(&world).await;

    // An edit removes fields that are no longer in the spec.
    world.edit("evh/one", json!({"handler": {"webhook": {"headers": {"a": "1", "b": null}}}})).await;
    let is_edited =
        |h: &[Value]| h.len() == 3 && h.iter().any(|h| h["config"]["headers"] == json!({"a": "1"}));
    world.kong.until_hooks("the edit", is_edited).await;
    world.ready("eventhooks/one").await;

    // Drift is repaired; a deleted hook is recreated.
    let id = world.get("eventhooks/two").await.unwrap()["status"]["external"]["id"].clone();
    world.kong.delete(id.as_str().unwrap()).await;
    world.kong.until_hooks("the hook again", |h| h.len() == 3).await;
    world.event("two", "DriftRepaired").await;
    world.edit("evh/relayed", json!({"rotation": "2"})).await;
    world.ready("eventhooks/relayed").await;
    world.edit("evh/relayed", json!({"rotation": null, "deliverBy": "Gateway"})).await;
    world.ready("eventhooks/relayed").await;
    assert_ids_agree(&world).await;
    for name in names {
        // The create record is removed after the status has the id.
        let has_no_record =
            |o: &Value| o["metadata"]["annotations"]["hookstream.dev/pending-create"].is_null();
        world.until(&format!("eventhooks/{name}"), "without a create record", has_no_record).await;
    }

    let has_capabilities = |o: &Value| o["status"]["capabilities"].is_object();
    let connection = world.until("connections/kong", "with capabilities", has_capabilities).await;
    (world, connection["status"]["capabilities"].clone())
}

/// Waits until the statuses name the ids of Kong's hooks: the controller writes a recreated hook's Event before its status.
async fn assert_ids_agree(world: &World) {
    eventually(DEADLINE, "statuses with the ids of Kong's hooks", async || {
        let (reported, existing) = (ids_in_statuses(world).await, ids_at_kong(world).await);
        if reported == existing { Ok(()) } else { Err(format!("{reported:?}, at Kong {existing:?}")) }
    })
    .await;
}

async fn ids_in_statuses(world: &World) -> Vec<String> {
    let mut ids = Vec::new();
    for name in ["relayed", "one", "two"] {
        let object = world.get(&format!("eventhooks/{name}")).await.unwrap();
        ids.push(object["status"]["external"]["id"].as_str().unwrap().to_owned());
    }
    ids.sort();
    ids
}

async fn ids_at_kong(world: &World) -> Vec<String> {
    let mut ids: Vec<String> =
        world.kong.hooks().await.iter().map(|h| h["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

async fn assert_deletes_all(world: World) {
    world.kubectl(&["delete", "evh", "--all", "--timeout=30s"]).await;
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn syncs_with_put() {
    let (world, capabilities) = run_lifecycle("ladder", &[]).await;
    assert_eq!(capabilities, json!({"put": true}));
    assert_deletes_all(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn syncs_without_put_and_detects_upgrade() {
    let (world, capabilities) = run_lifecycle("no-put", &["--no-put"]).await;
    assert_eq!(capabilities, json!({"put": false, "clientId": true, "patch": true}));
    // The gateway is upgraded at the same address.
    let address = world.kong.url.trim_start_matches("http://").to_owned();
    world.kong.stop();
    let newer = Kong::start_at(&address, &["--gateway-version", "3.15"]).await;
    world.request("conn/kong", "upgraded").await;
    let has_newer_version =
        |o: &Value| o["status"]["version"].as_str().is_some_and(|v| v.starts_with("3.15"));
    let connection = world.until("connections/kong", "the newer version", has_newer_version).await;
    assert_ne!(
        connection["status"]["capabilities"]["put"], false,
        "the capabilities of the older version are forgotten"
    );
    newer.until_hooks("all hooks", |h| h.len() == 3).await;
    world.edit("evh/one", json!({"event": "routes"})).await;
    let can_put = |o: &Value| o["status"]["capabilities"]["put"] == true;
    world.until("connections/kong", "with the newer version's capabilities", can_put).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn syncs_without_client_ids() {
    let (world, capabilities) = run_lifecycle("no-id", &["--no-put", "--no-client-id"]).await;
    assert_eq!(capabilities, json!({"put": false, "clientId": false, "patch": true}));
    assert_deletes_all(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn syncs_without_updates() {
    let (world, capabilities) =
        run_lifecycle("no-patch", &["--no-put", "--no-client-id", "--no-patch"]).await;
    assert_eq!(capabilities, json!({"put": false, "clientId": false, "patch": false}));
    assert_deletes_all(world).await;
}
