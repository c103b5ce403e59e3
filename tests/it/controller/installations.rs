//! Two installations at one vendor detect each other, and never fight over an object.

use serde_json::{Value, json};

use crate::harness::manifests::{hook, merge, quick};
use crate::harness::objects::condition;
use crate::harness::standalone::Standalone;
use crate::harness::world::{Setup, World};
use crate::harness::{DEADLINE, Kong, eventually};

fn relayed() -> String {
    let mut spec = quick();
    merge(&mut spec, json!({"source": "crud", "connectionRef": {"name": "kong"}}));
    hook("relayed", "http://example.com", spec)
}

/// Waits until the status of an object of a standalone fits; returns it.
async fn until_status(
    standalone: &Standalone,
    file: &str,
    what: &str,
    fits: impl Fn(&Value) -> bool,
) -> Value {
    let path = standalone.data.join("objects").join(file);
    eventually(DEADLINE, what, async || {
        let text = std::fs::read_to_string(&path).map_err(|e| e.to_string())?;
        let object: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        if fits(&object) { Ok(object) } else { Err(format!("{object:#}")) }
    })
    .await
}

fn is_conflict(object: &Value) -> bool {
    condition(object, "Stalled")["reason"] == "Conflict"
}

fn is_ready(object: &Value) -> bool {
    condition(object, "Ready")["status"] == "True"
}

const HOOK: &str = "EventHook.default.relayed.json";

#[tokio::test(flavor = "multi_thread")]
async fn second_standalone_with_the_same_manifests_does_not_overwrite_the_first() {
    let kong = Kong::start(&[]).await;
    let manifests = kong.connection() + &relayed();
    let first = Standalone::start(&manifests, &["--resync-interval", "1s", "--prune"]).await;
    until_status(&first, HOOK, "the first to be ready", is_ready).await;
    let id_of = |standalone: &Standalone| {
        std::fs::read_to_string(standalone.data.join("installation-id")).unwrap().trim().to_owned()
    };
    let first_id = id_of(&first);
    let before = kong.only_hook().await;
    assert!(before["config"]["url"].as_str().unwrap().contains(&first_id), "{before:#}");

    let mut second = Standalone::start(&manifests, &["--resync-interval", "1s"]).await;
    let object = until_status(&second, HOOK, "a conflict of the second", is_conflict).await;
    assert!(object.to_string().contains(&first_id), "{object:#}");
    assert_eq!(kong.only_hook().await, before, "nothing was written");
    let sees_other = |connection: &Value| condition(connection, "OtherInstallations")["status"] == "True";
    until_status(&second, "Connection.default.kong.json", "the other installation", sees_other).await;

    // The second replaces the first: it takes over, and the first stops writing.
    second.add_args(&["--former-installation-id", &first_id]);
    second.restart().await;
    until_status(&second, HOOK, "the second to be ready", is_ready).await;
    let taken = kong.only_hook().await;
    assert_eq!(taken["id"], before["id"], "an update, not a new hook");
    assert!(taken["config"]["url"].as_str().unwrap().contains(&id_of(&second)), "{taken:#}");
    let object = until_status(&first, HOOK, "a conflict of the first", is_conflict).await;
    assert!(object.to_string().contains(&id_of(&second)), "{object:#}");
    until_status(&first, "Connection.default.kong.json", "the other installation", sees_other).await;
    // Not even its deletion touches what the second configured.
    first.write("all.yaml", &kong.connection());
    first.process().wait_for_line(|line| line.contains("Orphaned"), DEADLINE).await;
    assert_eq!(kong.only_hook().await, taken);
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_are_marked_by_an_update_and_other_installations_reported() {
    let world = World::with("installations", Setup { resync: Some("1s"), ..Setup::default() }).await;
    world.apply(&[world.connection(), world.hook("relayed")]).await;
    world.ready("eventhooks/relayed").await;
    let hook = world.kong.only_hook().await;
    let url = hook["config"]["url"].as_str().unwrap().to_owned();
    let home = world.read(&format!("/api/v1/namespaces/{}", world.home.name)).await.unwrap();
    assert!(url.contains(home["metadata"]["uid"].as_str().unwrap()), "{url}");

    // A relay of an earlier version has no mark. It gets one by an update, under the same id.
    let unmarked = json!({"config": {"url": url.split('?').next().unwrap()}});
    world.kong.patch(hook["id"].as_str().unwrap(), unmarked).await;
    let is_marked = |hooks: &[Value]| {
        hooks.len() == 1 && hooks[0]["id"] == hook["id"] && hooks[0]["config"] == hook["config"]
    };
    world.kong.until_hooks("the mark", is_marked).await;

    // A relay of another installation is reported, and disappears from the report when it is gone.
    let foreign = url.replace(home["metadata"]["uid"].as_str().unwrap(), "green");
    let foreign = json!({"source": "crud", "handler": "webhook", "config": {"url": foreign}});
    let foreign = world.kong.create(foreign).await;
    let reports = |connection: &Value| condition(connection, "OtherInstallations")["status"] == "True";
    let connection = world.until("connections/kong", "the other installation", reports).await;
    assert!(connection.to_string().contains("green"), "{connection:#}");
    world.event("kong", "OtherInstallation").await;
    world.ready("eventhooks/relayed").await;
    world.kong.delete(foreign["id"].as_str().unwrap()).await;
    world.until("connections/kong", "no other installation", |c| !reports(c)).await;
}
