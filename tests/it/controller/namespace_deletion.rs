//! Deletion of a namespace ends in any order of its objects, whether Kong answers or not; a gateway that hangs delays no
//! other object.

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::objects::{condition, object, secret};
use crate::harness::world::{Setup, World};
use crate::harness::{DEADLINE, control_plane, eventually};

const TOKEN: &str = "the-admin-token-of-kong";

async fn delete_namespace(world: &World) {
    control_plane().start_controller_manager();
    let namespace = world.namespace.name.clone();
    control_plane().kubectl(["delete", "namespace", &namespace, "--wait=false"], "").await.unwrap();
    eventually(DEADLINE * 2, "the namespace to be deleted", async || {
        match world.read(&format!("/api/v1/namespaces/{namespace}")).await {
            Err(error) if error.contains("not found") => Ok(()),
            other => Err(format!("{other:#?}")),
        }
    })
    .await;
}

fn connection_with_token(world: &World) -> Value {
    world.connection_with(json!({"kong": {"tokenSecretRef": {"name": "admin", "key": "token"}}}))
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_no_hook_at_reachable_kong() {
    let world = World::with("ends", Setup { kong: &["--token", TOKEN], ..Setup::default() }).await;
    let mut objects = vec![secret("admin", "token", TOKEN), connection_with_token(&world)];
    objects.extend((0..10).map(|n| world.hook_with(&format!("hook-{n}"), json!({"event": format!("e{n}")}))));
    world.apply(&objects).await;
    for n in 0..10 {
        world.ready(&format!("eventhooks/hook-{n}")).await;
    }
    // The Secret is deleted first: the controller uses the credentials that last worked.
    world.kubectl(&["delete", "secret/admin"]).await;
    delete_namespace(&world).await;
    assert_eq!(world.kong.hooks().await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_namespace_without_kong() {
    let flags = ["--credentials-patience", "2s", "--vendor-patience", "3s"];
    let mut world = World::with("ends-alone", Setup { flags: &flags, ..Setup::default() }).await;
    world.apply(&[world.connection(), world.hook("one"), world.hook("two")]).await;
    world.ready("eventhooks/one").await;
    world.ready("eventhooks/two").await;
    world.kong.stop();
    delete_namespace(&world).await;
    assert!(world.log().contains("may still exist"), "the log names the hook that may be left");
    // It also ends if no operator ever had the credentials.
    world.stop_operator().await;
}

/// Starts a server that accepts connections and never answers.
async fn hanging_server() -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let mut connections = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            connections.push(connection);
        }
    });
    (url, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_gateway_delays_no_other() {
    let world = World::with("hangs", Setup { resync: Some("1s"), ..Setup::default() }).await;
    let (url, task) = hanging_server().await;
    let mut objects = vec![object("Connection", "hangs", json!({"kong": {"adminUrl": url}}))];
    let stuck = |n: usize| {
        let extra = json!({"connectionRef": {"name": "hangs"}, "event": format!("e{n}")});
        world.hook_with(&format!("stuck-{n}"), extra)
    };
    // More hanging objects than concurrent reconciles.
    objects.extend((0..60).map(stuck));
    world.apply(&objects).await;
    world.apply(&[world.connection(), world.hook("healthy")]).await;
    world.ready("eventhooks/healthy").await;
    for n in 0..5 {
        let event = format!("round-{n}");
        world.edit("evh/healthy", json!({ "event": event })).await;
        world.ready("eventhooks/healthy").await;
        assert_eq!(world.kong.only_hook().await["event"], event);
    }
    // The hanging objects hung all the time; otherwise the test would prove nothing.
    let stuck = world.get("eventhooks/stuck-0").await.unwrap();
    assert_ne!(condition(&stuck, "Ready")["status"], "True", "{stuck:#}");
    task.abort();
}
