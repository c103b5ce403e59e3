//! Answers that are not the vendor's word about an object release nothing, and everything left behind is reported.

use serde_json::{Value, json};

use crate::harness::Auth0;
use crate::harness::auth0_objects::{connect, hook, stream};
use crate::harness::objects::message;
use crate::harness::world::World;

fn note(event: &Value) -> &str {
    event["note"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_a_proxy_port_release_no_hook() {
    let world = World::start("proxy-port").await;
    world.apply(&[world.connection(), world.hook("h")]).await;
    world.ready("eventhooks/h").await;
    let body = json!({"message": "no Route matched with those values"});
    world.kong.fault(json!({"path": "/event-hooks", "status": 404, "body": body})).await;
    world.kubectl(&["delete", "evh/h", "--wait=false"]).await;
    world.not_ready("eventhooks/h", "UnexpectedAnswer").await;
    world.kong.clear_faults().await;
    assert_eq!(world.kong.hooks().await.len(), 1, "nothing was deleted yet");
    world.wait_until_deleted("eventhooks/h").await;
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn login_errors_release_no_stream_and_end_no_hook() {
    let world = World::start("login-errors").await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    world
        .apply(&[
            stream("s", json!({"eventBridge": {"accountId": "123456789012", "region": "eu-central-1"}})),
            hook("h", json!({})),
        ])
        .await;
    world.ready("eventstreams/s").await;
    world.ready("hooks/h").await;
    // The grant is revoked: the API rejects the token, and the login answers 404.
    let body = json!({"error": "access_denied", "error_description": "the grant was revoked"});
    auth0.fault(json!({"path": "/oauth/token", "status": 404, "body": body})).await;
    auth0.fault(json!({"path": "/api/v2", "status": 401})).await;
    world.kubectl(&["delete", "eventstream/s", "hook.hookstream.dev/h", "--wait=false"]).await;
    world.not_ready("eventstreams/s", "LoginRejected").await;
    world.not_ready("hooks/h", "LoginRejected").await;
    auth0.clear_faults().await;
    world.wait_until_deleted("eventstreams/s").await;
    world.wait_until_deleted("hooks/h").await;
    assert_eq!(auth0.stored_streams().await, Vec::<Value>::new());
    assert_eq!(auth0.stored_hooks().await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_what_stays_at_the_vendor() {
    let world = World::start("left-behind").await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    world
        .apply(&[
            world.connection(),
            world.hook_with("kept", json!({"deletionPolicy": "Orphan"})),
            hook("ended", json!({})),
        ])
        .await;
    let kept = world.ready("eventhooks/kept").await;
    let ended = world.ready("hooks/ended").await;
    let message = "This endpoint is disabled for your tenant.";
    let body = json!({"statusCode": 403, "error": "Forbidden", "message": message});
    auth0.fault(json!({"path": "/api/v2/hooks", "status": 403, "body": body})).await;
    world.kubectl(&["delete", "evh/kept", "hook.hookstream.dev/ended", "--timeout=60s"]).await;
    for (name, object, why) in [("kept", kept, "deletionPolicy: Orphan"), ("ended", ended, "end of life")] {
        let event = world.event(name, "Orphaned").await;
        assert_eq!(event["type"], "Warning", "{event:#}");
        let id = object["status"]["external"]["id"].as_str().unwrap();
        assert!(note(&event).contains(id) && note(&event).contains(why), "{event:#}");
    }
    assert_eq!((world.kong.hooks().await.len(), auth0.stored_hooks().await.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_at_auth0_is_confirmed_by_a_read() {
    let world = World::start("confirmed-delete").await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    let destination = json!({"eventBridge": {"accountId": "123456789012", "region": "eu-central-1"}});
    world.apply(&[stream("s", destination)]).await;
    let object = world.ready("eventstreams/s").await;
    let id = object["status"]["external"]["id"].as_str().unwrap();
    // Reads still show the stream after the delete.
    let body = json!({"id": id, "name": "s", "subscriptions": []});
    let path = format!("/api/v2/event-streams/{id}");
    auth0.fault(json!({"method": "GET", "path": path, "status": 200, "body": body})).await;
    world.kubectl(&["delete", "eventstream/s", "--wait=false"]).await;
    let object = world.not_ready("eventstreams/s", "StillVisible").await;
    assert!(message(&object).contains(id), "{object:#}");
    assert_eq!(auth0.stored_streams().await, Vec::<Value>::new());
    auth0.clear_faults().await;
    world.wait_until_deleted("eventstreams/s").await;
}
