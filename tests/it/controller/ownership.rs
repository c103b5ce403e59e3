//! Ownership needs proof: copied, restored and misconfigured objects change and delete nothing that belongs to another
//! object, and a restored object takes over what it had.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::harness::Auth0;
use crate::harness::auth0_objects::{bearer, connect, stream, with_spec};
use crate::harness::manifests::merged;
use crate::harness::objects::{message, object, secret};
use crate::harness::world::{Setup, World};

const ID: &str = "11111111-2222-4333-8444-555555555555";
const MARKER: &str = "hookstream.dev/owned-object";

fn marker(object: &Value) -> Value {
    let text = object["metadata"]["annotations"][MARKER].as_str().unwrap_or("null");
    serde_json::from_str(text).unwrap()
}

/// Returns the object as `kubectl get -o yaml` prints it, under another name, with its finalizer and annotations.
fn printed(mut object: Value, name: &str) -> Value {
    let metadata = object["metadata"].as_object_mut().unwrap();
    for member in ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"] {
        metadata.remove(member);
    }
    metadata.insert("name".into(), json!(name));
    object
}

/// Writes the status of an object as a backup does that restores statuses.
async fn restore_status(world: &World, path: &str, status: &Value) {
    let patch = json!({ "status": status }).to_string();
    world.kubectl(&["patch", path, "--subresource=status", "--type=merge", "-p", &patch]).await;
}

/// Deletes an object without its cleanup, as the loss of a cluster does, and creates it from `from`.
async fn restore(world: &World, path: &str, from: &Value) {
    let patch = json!({"metadata": {"finalizers": null}}).to_string();
    world.kubectl(&["patch", path, "--type=merge", "-p", &patch]).await;
    world.kubectl(&["delete", path, "--timeout=30s"]).await;
    world.apply(std::slice::from_ref(from)).await;
}

fn adopting(world: &World, name: &str, extra: Value) -> Value {
    let spec = json!({"deliverBy": "Gateway", "handler": {"webhook": {"url": "http://receiver.test/"}},
        "adopt": {"id": ID, "mode": "Match"}});
    world.hook_with(name, merged(spec, extra))
}

async fn create_at_kong(world: &World) -> Value {
    let config = json!({"url": "http://receiver.test/"});
    let hook =
        json!({"id": ID, "source": "crud", "event": "consumers", "handler": "webhook", "config": config});
    world.kong.create(hook).await;
    world.kong.only_hook().await
}

#[tokio::test(flavor = "multi_thread")]
async fn observer_that_becomes_manager_takes_no_stream() {
    let world = World::start("own-observer").await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    world.apply(&[secret("receiver", "token", "t0ken"), world.connection()]).await;
    let destination = bearer("https://receiver.test/");
    let observe = json!({"managementPolicy": "ObserveOnly"});
    let configuration = json!({"webhook_endpoint": "https://receiver.test/",
        "webhook_authorization": {"method": "bearer", "token": "theirs"}});
    let foreign = json!({"name": "theirs", "subscriptions": [{"event_type": "user.created"}],
        "destination": {"type": "webhook", "configuration": configuration}});
    auth0.create_stream(foreign).await;
    world.apply(&[stream("users", destination.clone())]).await;
    world.ready("eventstreams/users").await;
    let second = with_spec(stream("users", destination.clone()), observe.clone());
    let theirs = with_spec(stream("theirs", destination), observe);
    world.apply(&[object("EventStream", "second", second["spec"].clone()), theirs]).await;
    for path in ["eventstreams/second", "eventstreams/theirs"] {
        let observed = world.ready(path).await;
        assert!(observed["status"]["external"]["id"].is_string(), "{observed:#}");
        assert!(marker(&observed).is_null(), "{observed:#}");
    }
    let before = auth0.stored_streams().await;
    auth0.forget_requests().await;
    for name in ["second", "theirs"] {
        world.edit(&format!("evs/{name}"), json!({"managementPolicy": "Full"})).await;
    }
    let text = world.stalled("eventstreams/second", "Conflict").await;
    assert!(text.contains("belongs to") && text.contains("/users"), "{text}");
    let text = world.stalled("eventstreams/theirs", "Conflict").await;
    assert!(text.contains("did not create"), "{text}");
    world.kubectl(&["delete", "evs/second", "evs/theirs", "--timeout=30s"]).await;
    assert_eq!(auth0.stored_streams().await, before);
    for (method, path) in [("PATCH", "/api"), ("DELETE", "/api"), ("POST", "/api")] {
        assert_eq!(auth0.count(method, path).await, 0, "{method}");
    }
    world.kubectl(&["delete", "evs/users", "--timeout=30s"]).await;
    auth0.until_streams("only the foreign one", |s| s.len() == 1 && s[0]["name"] == "theirs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copied_manifest_with_finalizer_owns_nothing() {
    let world = World::start("own-copy").await;
    world.apply(&[world.connection()]).await;
    world.ready("connections/kong").await;
    let hook = create_at_kong(&world).await;
    world.apply(&[adopting(&world, "owner", json!({}))]).await;
    let owner = world.ready("eventhooks/owner").await;
    let proof = marker(&owner);
    assert_eq!((&proof["id"], &proof["uid"]), (&json!(ID), &owner["metadata"]["uid"]), "{owner:#}");

    // The copy differs, too: `adopt.mode: Match` is not bypassed.
    let mut copy = printed(owner.clone(), "copy");
    copy["spec"]["adopt"]["mode"] = json!("Override");
    let mut differs = printed(owner.clone(), "differs");
    differs["spec"]["event"] = json!("routes");
    let mut unmarked = printed(owner.clone(), "unmarked");
    unmarked["metadata"]["annotations"] = Value::Null;
    for object in [&mut copy, &mut differs, &mut unmarked] {
        object.as_object_mut().unwrap().remove("status");
    }
    world.apply(&[copy, differs, unmarked]).await;
    for (path, reason) in [("copy", "Held"), ("differs", "Differs"), ("unmarked", "Held")] {
        world.stalled(&format!("eventhooks/{path}"), reason).await;
        let object = world.get(&format!("eventhooks/{path}")).await.unwrap();
        assert_eq!(object["metadata"]["finalizers"].as_array().map(Vec::len), Some(1), "{object:#}");
    }
    // Also with the status of the owner.
    for path in ["evh/copy", "evh/differs", "evh/unmarked"] {
        restore_status(&world, path, &owner["status"]).await;
        world.request(path, "again").await;
    }
    for (path, reason) in [("copy", "Held"), ("differs", "Differs"), ("unmarked", "Held")] {
        world.stalled(&format!("eventhooks/{path}"), reason).await;
    }
    world.kubectl(&["delete", "evh/copy", "evh/differs", "evh/unmarked", "--timeout=30s"]).await;
    assert_eq!(world.kong.only_hook().await, hook);
    for method in ["PUT", "PATCH", "DELETE"] {
        assert_eq!(world.kong.count(method, "/event-hooks").await, 0, "{method}");
    }
    for name in ["copy", "differs", "unmarked"] {
        let events = world.events(name).await;
        assert!(events.iter().all(|e| e["reason"] != "Orphaned"), "it belongs to owner: {events:#?}");
    }
    world.kubectl(&["delete", "evh/owner", "--timeout=30s"]).await;
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new());
}

/// Deletes a copy whose original is gone: nothing proves who owns the hook, so it stays and is reported.
#[tokio::test(flavor = "multi_thread")]
async fn hook_without_proof_of_ownership_is_reported_and_stays() {
    let world = World::start("own-unproven").await;
    world.apply(&[world.connection()]).await;
    world.ready("connections/kong").await;
    let hook = create_at_kong(&world).await;
    world.apply(&[adopting(&world, "owner", json!({"deletionPolicy": "Orphan"}))]).await;
    let owner = world.ready("eventhooks/owner").await;
    world.kubectl(&["delete", "evh/owner", "--timeout=30s"]).await;
    let mut copy = printed(owner.clone(), "copy");
    copy["spec"]["deletionPolicy"] = json!("Delete");
    copy["spec"]["event"] = json!("routes");
    world.apply(&[copy]).await;
    world.stalled("eventhooks/copy", "Differs").await;
    world.kubectl(&["delete", "evh/copy", "--timeout=30s"]).await;
    let event = world.event("copy", "Orphaned").await;
    let note = event["note"].as_str().unwrap();
    assert!(note.contains(ID) && note.contains(MARKER), "{event:#}");
    assert_eq!(world.kong.only_hook().await, hook);
}

#[tokio::test(flavor = "multi_thread")]
async fn copied_status_is_not_ownership() {
    let world = World::with("own-status", Setup { resync: Some("1s"), ..Setup::default() }).await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    world.apply(&[world.connection(), world.hook("relay"), stream("users", json!({"worker": {}}))]).await;
    let relay = world.ready("eventhooks/relay").await;
    world.ready("eventstreams/users").await;
    let is_marked = |o: &Value| !marker(o).is_null();
    let users = world.until("eventstreams/users", "marked", is_marked).await;
    let (hook, streams) = (world.kong.only_hook().await, auth0.stored_streams().await);
    // Both at once, so that the controller sees no object without its status.
    let mut hook_copy = printed(relay.clone(), "relay-copy");
    let mut stream_copy = printed(users.clone(), "users-copy");
    for copy in [&mut hook_copy, &mut stream_copy] {
        copy["spec"]["suspend"] = json!(true);
    }
    world.apply(&[hook_copy, stream_copy]).await;
    restore_status(&world, "evh/relay-copy", &relay["status"]).await;
    restore_status(&world, "evs/users-copy", &users["status"]).await;
    for path in ["evh/relay-copy", "evs/users-copy"] {
        world.edit(path, json!({"suspend": null})).await;
    }
    let copy = world.ready("eventhooks/relay-copy").await;
    assert_ne!(copy["status"]["external"]["id"], relay["status"]["external"]["id"]);
    let hooks = world.kong.wait_for_hooks(2).await;
    assert!(hooks.contains(&hook), "the owner's hook is unchanged: {hooks:#?}");
    let text = world.stalled("eventstreams/users-copy", "Conflict").await;
    assert!(text.contains("/users:"), "{text}");
    world.kubectl(&["delete", "evh/relay-copy", "evs/users-copy", "--timeout=30s"]).await;
    assert_eq!(world.kong.only_hook().await, hook);
    assert_eq!(auth0.stored_streams().await, streams);
}

#[tokio::test(flavor = "multi_thread")]
async fn id_is_held_through_another_name_of_the_gateway() {
    let world = World::start("own-alias").await;
    let alias = json!({"kong": {"adminUrl": world.kong.url.replace("127.0.0.1", "localhost")}});
    world.apply(&[world.connection(), object("Connection", "alias", alias)]).await;
    world.ready("connections/alias").await;
    let hook = create_at_kong(&world).await;
    world.apply(&[adopting(&world, "first", json!({}))]).await;
    world.ready("eventhooks/first").await;
    let through_alias =
        json!({"connectionRef": {"name": "alias"}, "adopt": {"id": ID.to_uppercase(), "mode": "Override"}});
    world.apply(&[adopting(&world, "second", through_alias)]).await;
    let text = world.stalled("eventhooks/second", "Held").await;
    assert!(text.contains("/first"), "{text}");
    world.kubectl(&["delete", "evh/second", "--timeout=30s"]).await;
    assert_eq!(world.kong.only_hook().await, hook);
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_objects_take_over_what_they_had() {
    let mut world = World::start("own-restore").await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    let token = secret("receiver", "token", "t0ken");
    let direct = world.hook_with("direct", json!({"deliverBy": "Gateway", "event": "routes"}));
    let webhook = stream("webhook", bearer("https://receiver.test/"));
    let (relay, users) = (world.hook("relay"), stream("users", json!({"worker": {}})));
    world.apply(&[token, world.connection(), relay.clone(), direct, users.clone(), webhook]).await;
    let is_marked = |o: &Value| !marker(o).is_null();
    let paths = ["eventhooks/relay", "eventhooks/direct", "eventstreams/users", "eventstreams/webhook"];
    for path in paths {
        world.ready(path).await;
        world.until(path, "marked", is_marked).await;
    }
    let ids = |objects: &[Value]| {
        let mut ids: Vec<String> = objects.iter().map(|o| o["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    let (hooks, streams) = (ids(&world.kong.hooks().await), ids(&auth0.stored_streams().await));
    let direct = printed(world.get("eventhooks/direct").await.unwrap(), "direct");
    let webhook = printed(world.get("eventstreams/webhook").await.unwrap(), "webhook");

    world.stop_operator().await;
    // Relays come back from version control; the others need the marker, which a backup has.
    for (path, from) in
        [("evh/relay", &relay), ("evh/direct", &direct), ("evs/users", &users), ("evs/webhook", &webhook)]
    {
        restore(&world, path, from).await;
    }
    world.start_operator();
    for path in paths {
        let restored = world.ready(path).await;
        let name = restored["metadata"]["name"].as_str().unwrap();
        world.event(name, "TakenOver").await;
        let marked = world.until(path, "marked", |o| marker(o)["uid"] == o["metadata"]["uid"]).await;
        assert_eq!(marker(&marked)["id"], marked["status"]["external"]["id"]);
    }
    assert_eq!(ids(&world.kong.hooks().await), hooks);
    assert_eq!(ids(&auth0.stored_streams().await), streams);
    world.kubectl(&["delete", "evh", "--all", "--timeout=60s"]).await;
    world.kubectl(&["delete", "evs", "--all", "--timeout=60s"]).await;
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new());
    assert_eq!(auth0.stored_streams().await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_an_earlier_version_and_of_a_replaced_key_ring_are_marked() {
    let mut world = World::start("own-upgrade").await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    world.apply(&[world.connection(), world.hook("relay"), stream("users", json!({"worker": {}}))]).await;
    let paths = ["eventhooks/relay", "eventstreams/users"];
    let is_marked =
        |o: &Value| marker(o)["id"].is_string() && marker(o)["id"] == o["status"]["external"]["id"];
    for path in paths {
        world.until(path, "marked", is_marked).await;
    }
    world.stop_operator().await;
    for path in ["evh/relay", "evs/users"] {
        world.kubectl(&["annotate", path, &format!("{MARKER}-")]).await;
    }
    world.start_operator();
    for path in paths {
        world.until(path, "marked again", is_marked).await;
    }

    world.stop_operator().await;
    let key_rings: Api<Secret> = Api::namespaced(world.client.clone(), &world.home.name);
    let mut replaced = key_rings.get("hookstream-keys").await.unwrap();
    key_rings.delete("hookstream-keys", &DeleteParams::default()).await.unwrap();
    (replaced.metadata.resource_version, replaced.metadata.uid) = (None, None);
    replaced.data = Some([("k9".to_owned(), ByteString(vec![9; 32]))].into());
    key_rings.create(&PostParams::default(), &replaced).await.unwrap();
    world.start_operator();
    for path in paths {
        let has_new_key = |o: &Value| marker(o)["hash"].as_str().is_some_and(|hash| hash.starts_with("k9:"));
        world.until(path, "marked with the new key", has_new_key).await;
        world.ready(path).await;
    }
    world.kubectl(&["delete", "evh/relay", "evs/users", "--timeout=60s"]).await;
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new());
    assert_eq!(auth0.stored_streams().await, Vec::<Value>::new());
}

/// Without the key ring nothing proves that the stream belongs to the object. Its deletion waits, and then leaves it.
#[tokio::test(flavor = "multi_thread")]
async fn lost_key_ring_deletes_no_stream_and_does_not_block() {
    let flags = ["--credentials-patience", "2s"];
    let mut world = World::with("own-lost-ring", Setup { flags: &flags, ..Setup::default() }).await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    world.apply(&[world.connection(), world.hook("keyed"), stream("users", json!({"worker": {}}))]).await;
    world.ready("eventhooks/keyed").await;
    world.ready("eventstreams/users").await;
    world.until("eventstreams/users", "marked", |o| !marker(o).is_null()).await;
    let streams = auth0.stored_streams().await;
    world.stop_operator().await;
    let key_rings: Api<Secret> = Api::namespaced(world.client.clone(), &world.home.name);
    key_rings.delete("hookstream-keys", &DeleteParams::default()).await.unwrap();
    world.start_operator();
    let object = world.not_ready("eventstreams/users", "KeyRing").await;
    assert!(message(&object).contains("restore it"), "{object:#}");
    world.kubectl(&["delete", "evs/users", "--timeout=60s"]).await;
    world.event("users", "Orphaned").await;
    assert_eq!(auth0.stored_streams().await, streams);
    // The id at Kong derives from the uid, which is proof enough.
    world.kubectl(&["delete", "evh/keyed", "--timeout=60s"]).await;
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new());
}
