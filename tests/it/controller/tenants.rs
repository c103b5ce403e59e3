//! Two namespaces of one operator: what an object of one can reach of the other.

use serde_json::json;

use crate::harness::objects::{documents, message, object, secret};
use crate::harness::world::{Setup, World};
use crate::harness::{DEADLINE, control_plane, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_other_namespaces_are_not_used() {
    let neighbour = control_plane().namespace("neighbour").await;
    let flags = ["--namespace", &neighbour.name];
    let world = World::with("tenant", Setup { flags: &flags, ..Setup::default() }).await;
    // What the neighbour has, under the names that the tenant's objects use.
    let url = secret("receiver", "url", &world.receiver.url());
    let neighbours_hook = object(
        "EventHook",
        "own",
        json!({"source": "crud", "event": "consumers", "connectionRef": {"name": "kong"},
            "handler": {"webhook": {"urlSecretRef": {"name": "receiver", "key": "url"}}}}),
    );
    neighbour.apply(&documents(&[world.connection(), url, neighbours_hook.clone()])).await.unwrap();
    let path = format!("/apis/hookstream.dev/v1alpha1/namespaces/{}/eventhooks/own", neighbour.name);
    eventually(DEADLINE, "the neighbour's hook to be ready", async || {
        let hook = world.read(&path).await?;
        let conditions = hook["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let is_ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        if is_ready { Ok(()) } else { Err(format!("{hook:#}")) }
    })
    .await;

    let without_connection = object(
        "EventHook",
        "local",
        json!({"source": "s", "handler": {"webhook": {"urlSecretRef": {"name": "receiver", "key": "url"}}}}),
    );
    world.apply(&[world.hook("taken"), without_connection]).await;
    let text = message(&world.not_ready("eventhooks/taken", "ConnectionMissing").await);
    assert!(text.contains("kong"), "{text}");
    let text = message(&world.not_ready("eventhooks/local", "SecretMissing").await);
    assert!(text.contains("receiver"), "{text}");

    // With a Connection of its own, but without the Secret, nothing reaches the neighbour's receiver.
    let mut same = neighbours_hook;
    same["metadata"]["name"] = json!("same");
    world.apply(&[world.connection(), same]).await;
    world.not_ready("eventhooks/same", "SecretMissing").await;
    world.ready("eventhooks/taken").await;
}
