//! Credentials stay with the address for which they were configured, also after a restart.

use serde_json::{Value, json};

use crate::harness::Kong;
use crate::harness::objects::{message, secret};
use crate::harness::world::{Setup, World};

const TOKEN: &str = "token-of-the-first-gateway";
const OTHER: &str = "token-of-the-second-gateway";

fn connection(world: &World) -> Value {
    world.connection_with(json!({"kong": {"tokenSecretRef": {"name": "admin", "key": "token"}}}))
}

/// Starts a world with one hook at a Kong that requires `TOKEN`.
async fn world(hint: &str) -> World {
    let world = World::with(hint, Setup { kong: &["--token", TOKEN], ..Setup::default() }).await;
    world.apply(&[secret("admin", "token", TOKEN), connection(&world), world.hook("h")]).await;
    world.ready("eventhooks/h").await;
    let connection = world.ready("connections/kong").await;
    let address = &connection["status"]["addresses"][0];
    assert_eq!(address["endpoint"], world.kong.url.as_str(), "{connection:#}");
    assert!(address["credentialsHash"].is_string(), "{connection:#}");
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn former_address_never_gets_the_token_of_the_new_one() {
    let mut world = world("other-token").await;
    let new = Kong::start(&["--token", OTHER]).await;
    world.stop_operator().await;
    world.apply(&[secret("admin", "token", OTHER)]).await;
    world.edit("conn/kong", json!({"kong": {"adminUrl": new.url}})).await;
    let before = world.kong.requests().await.len();
    let operator = world.another("run", &["--log-level", "info"]);
    let is_waiting = |o: &Value| message(o).contains("were not configured for");
    let waiting = world.until("eventhooks/h", "waiting for credentials", is_waiting).await;
    let id = waiting["status"]["external"]["id"].as_str().unwrap();
    assert_eq!(new.hooks().await.len(), 1, "the hook works at the new address already");
    operator.terminate().await;

    // The wait is bounded, and ends with a report.
    let _operator = world.another("run", &["--credentials-patience", "1s"]);
    world.ready("eventhooks/h").await;
    let event = world.event("h", "Orphaned").await;
    let note = event["note"].as_str().unwrap();
    assert!(event["type"] == "Warning" && note.contains(id) && note.contains(&world.kong.url), "{event:#}");
    assert_eq!(world.kong.requests().await.len(), before, "the former address received a request");
    assert_eq!(world.kong.hooks().await.len(), 1);
    world.assert_hides(&[TOKEN, OTHER]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn former_address_gets_its_own_token_after_a_restart() {
    let mut world = world("same-token").await;
    let new = Kong::start(&["--token", TOKEN]).await;
    world.stop_operator().await;
    world.edit("conn/kong", json!({"kong": {"adminUrl": new.url}})).await;
    world.start_operator();
    world.kong.wait_for_hooks(0).await;
    world.ready("eventhooks/h").await;
    assert_eq!(new.hooks().await.len(), 1);
    let connection = world.ready("connections/kong").await;
    let addresses = &connection["status"]["addresses"];
    assert_eq!(
        (&addresses[0]["endpoint"], &addresses[1]["endpoint"]),
        (&json!(new.url), &json!(world.kong.url)),
        "{connection:#}"
    );
    assert!(addresses[1]["replacedAt"].is_string(), "{connection:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_hook_leaves_former_address_without_the_new_token() {
    let mut world = world("deleted-moved").await;
    let new = Kong::start(&["--token", OTHER]).await;
    world.stop_operator().await;
    world.apply(&[secret("admin", "token", OTHER)]).await;
    world.edit("conn/kong", json!({"kong": {"adminUrl": new.url}})).await;
    world.kubectl(&["delete", "evh/h", "--wait=false"]).await;
    let before = world.kong.requests().await.len();
    let _operator = world.another("run", &["--credentials-patience", "2s"]);
    world.wait_until_deleted("eventhooks/h").await;
    assert_eq!(world.kong.requests().await.len(), before, "the former address received a request");
    assert_eq!((world.kong.hooks().await.len(), new.hooks().await.len()), (1, 0));
    let event = world.event("h", "Orphaned").await;
    assert!(event["note"].as_str().unwrap().contains(&world.kong.url), "{event:#}");
}
