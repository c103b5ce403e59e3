//! `hookstream release --all`: before an uninstall, while a controller still runs.

use serde_json::{Value, json};

use crate::harness::auth0_objects::{bearer, connect, hook, stream, with_spec};
use crate::harness::objects::secret;
use crate::harness::world::{Setup, World};
use crate::harness::{Auth0, DEADLINE, Process};

async fn count_finalizers(world: &World, path: &str) -> usize {
    let object = world.get(path).await.unwrap();
    object["metadata"]["finalizers"].as_array().map_or(0, Vec::len)
}

fn release(world: &World, flags: &[&str]) -> Process {
    // The rights that docs/operations.md names, which are the controller's.
    let kubeconfig = world.accounts.controller.to_str().unwrap();
    let mut args = vec!["release", "--all", "--namespace", &world.namespace.name];
    args.extend(["--operator-namespace", &world.home.name, "--lease-duration", "5s"]);
    args.extend(["--lease-renew-deadline", "4s", "--lease-retry-period", "500ms"]);
    args.extend(flags);
    Process::spawn(args, &[("KUBECONFIG", kubeconfig)])
}

async fn world_with_hooks(hint: &str) -> World {
    let world = World::with(hint, Setup { resync: Some("1s"), ..Setup::default() }).await;
    let orphan = world.hook_with("orphan", json!({"deletionPolicy": "Orphan"}));
    world.apply(&[world.connection(), world.hook("a"), world.hook("b"), orphan]).await;
    for path in ["eventhooks/a", "eventhooks/b", "eventhooks/orphan"] {
        world.ready(path).await;
        assert_eq!(count_finalizers(&world, path).await, 1);
    }
    world.until("connections/kong", "with a finalizer", |o| o["metadata"]["finalizers"].is_array()).await;
    assert_eq!(world.kong.hooks().await.len(), 3);
    world
}

async fn assert_released(world: &World) {
    for path in ["eventhooks/a", "eventhooks/b", "eventhooks/orphan", "connections/kong"] {
        assert_eq!(count_finalizers(world, path).await, 0, "{path}");
    }
    assert!(world.log().contains("another replica leads, standing by"), "{}", world.log());
    let path =
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/hookstream-controller", world.home.name);
    let lease: Value = world.read(&path).await.unwrap();
    assert_eq!(
        lease["spec"]["leaseDurationSeconds"], 600,
        "the lease stays taken for the uninstall: {lease:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn removes_finalizers_and_keeps_kong_hooks() {
    let world = world_with_hooks("release").await;
    let release = release(&world, &[]);
    assert_eq!(release.wait(DEADLINE).await.code(), Some(0), "{}", release.log());
    assert!(release.log().contains("4 objects released"), "{}", release.log());
    assert_released(&world).await;
    // The controller still runs and does not add finalizers again, so a deletion is not blocked.
    world.kubectl(&["delete", "evh/a", "evh/b", "evh/orphan", "conn/kong", "--timeout=30s"]).await;
    assert_eq!(world.kong.hooks().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_removes_kong_hooks_first() {
    let world = world_with_hooks("release-delete").await;
    let release = release(&world, &["--delete"]);
    assert_eq!(release.wait(DEADLINE).await.code(), Some(0), "{}", release.log());
    assert_released(&world).await;
    assert_eq!(world.kong.hooks().await.len(), 1, "the hook with the policy Orphan stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_removes_auth0_objects_first() {
    let world = World::start("release-auth0").await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    let orphan = json!({"deletionPolicy": "Orphan"});
    let destination = bearer("https://example.com/in");
    let disabled = json!({"deletionPolicy": "Orphan", "enabled": false});
    let objects = [
        secret("receiver", "token", "t0ken"),
        stream("users", destination.clone()),
        with_spec(stream("kept", destination), orphan),
        hook("claims", json!({})),
        hook("kept", disabled),
    ];
    world.apply(&objects).await;
    let all = ["eventstreams/users", "eventstreams/kept", "hooks/claims", "hooks/kept"];
    for path in all {
        world.ready(path).await;
        assert_eq!(count_finalizers(&world, path).await, 1, "{path}");
    }
    let release = release(&world, &["--delete"]);
    assert_eq!(release.wait(DEADLINE).await.code(), Some(0), "{}", release.log());
    for path in all.into_iter().chain(["connections/auth0"]) {
        assert_eq!(count_finalizers(&world, path).await, 0, "{path}");
    }
    for remaining in [auth0.stored_streams().await, auth0.stored_hooks().await] {
        let names: Vec<&Value> = remaining.iter().map(|one| &one["name"]).collect();
        assert_eq!(names, ["kept"], "the hook with the policy Orphan stays");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_deletion_keeps_finalizer() {
    let world = world_with_hooks("release-fails").await;
    world.kong.fault(json!({"method": "DELETE", "status": 403})).await;
    let release = release(&world, &["--delete"]);
    assert_eq!(release.wait(DEADLINE).await.code(), Some(1), "{}", release.log());
    assert!(release.log().contains(&format!("EventHook {}/a: ", world.namespace.name)), "{}", release.log());
    assert_eq!(count_finalizers(&world, "eventhooks/a").await, 1);
    assert_eq!(count_finalizers(&world, "connections/kong").await, 1, "a hook still uses it");
    assert_eq!(count_finalizers(&world, "eventhooks/orphan").await, 0);
}
