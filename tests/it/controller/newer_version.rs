//! Objects of a newer minor version: the definitions have members that this version does not know.

use serde_json::{Value, json};

use crate::harness::eventually;
use crate::harness::own_cluster::{OwnCluster, SHOP};
use crate::harness::{DEADLINE, manifests::merged};

/// Adds a member to the spec and to the status of every kind.
fn newer(mut crd: Value) -> Value {
    for part in ["spec", "status"] {
        let path = format!("/spec/versions/0/schema/openAPIV3Schema/properties/{part}/properties");
        let members = crd.pointer_mut(&path).unwrap_or_else(|| panic!("{path}"));
        members["ofNewerVersion"] = json!({"type": "string", "maxLength": 10});
    }
    crd
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_keep_unknown_members() {
    let cluster = OwnCluster::start(hookstream::api::crds().into_iter().map(newer).collect()).await;
    let hook = merged(cluster.hook("a", "consumers"), json!({"spec": {"ofNewerVersion": "kept"}}));
    cluster.apply(&hook).await;
    // The status of a newer controller, under another field manager.
    let status = json!({"status": {"ofNewerVersion": "kept"}}).to_string();
    let patch = ["-n", SHOP, "patch", "evh/a", "--subresource=status", "--type=merge", "-p", &status];
    cluster.control_plane.kubectl(patch, "").await.unwrap();

    // It writes the finalizer and the status.
    let controller = cluster.controller(&[]).await;
    let ready = cluster.ready("eventhooks/a").await;
    assert_eq!(ready["metadata"]["finalizers"], json!(["hookstream.dev/cleanup"]));
    assert_eq!(ready["spec"]["ofNewerVersion"], "kept", "{ready:#}");
    assert_eq!(ready["status"]["ofNewerVersion"], "kept", "{ready:#}");

    // A later write of the status, and the removal of the finalizer.
    let suspended =
        merged(hook, json!({"spec": {"suspend": true}, "metadata": {"finalizers": ["example.com/kept"]}}));
    cluster.apply(&suspended).await;
    let is_suspended =
        |object: &Value| object["status"]["observedGeneration"] == object["metadata"]["generation"];
    let object = eventually(DEADLINE, "the status of the suspended hook", async || {
        let object = cluster.get("eventhooks/a").await?;
        if is_suspended(&object) { Ok(object) } else { Err(format!("{object:#}")) }
    })
    .await;
    assert_eq!(object["spec"]["ofNewerVersion"], "kept", "{object:#}");
    assert_eq!(object["status"]["ofNewerVersion"], "kept", "{object:#}");
    cluster.control_plane.kubectl(["-n", SHOP, "delete", "evh/a", "--wait=false"], "").await.unwrap();
    let resume = json!({"metadata": {"annotations": {"example.com/deleted": "true"}}}).to_string();
    cluster
        .control_plane
        .kubectl(["-n", SHOP, "patch", "evh/a", "--type=merge", "-p", &resume], "")
        .await
        .unwrap();
    assert_eq!(cluster.get("eventhooks/a").await.unwrap()["spec"]["ofNewerVersion"], "kept");
    drop(controller);
}
