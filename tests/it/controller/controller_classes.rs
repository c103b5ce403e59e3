//! Several operators in one cluster, each with the objects of its class and labels.

use serde_json::{Value, json};

use crate::harness::manifests::merged;
use crate::harness::objects::documents;
use crate::harness::world::World;
use crate::harness::{DEADLINE, Process};

const CLASS: &str = "hookstream.dev/controller-class";

/// Permits the account of the controller to use the Lease of the class `blue`.
async fn permit_lease(world: &World) {
    let metadata = json!({"name": "blue-lease"});
    let rules = json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
        "resourceNames": ["hookstream-controller-blue"], "verbs": ["get", "update"]}]);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": rules});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "blue-lease"},
        "subjects": [{"kind": "ServiceAccount", "name": "hookstream-controller", "namespace": world.home.name}]});
    world.home.apply(&documents(&[role, binding])).await.unwrap();
}

async fn label(world: &World, label: &str) {
    world.kubectl(&["label", "--overwrite", "evh/a", "conn/kong", label]).await;
}

async fn leads(process: &Process) {
    process.wait_for_line(|line| line.contains("this replica leads"), DEADLINE).await;
}

fn is_untouched(object: &Value) -> bool {
    object["status"].is_null() && object["metadata"]["finalizers"].is_null()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_operator_manages_only_its_class() {
    let world = World::start("classes").await;
    permit_lease(&world).await;
    let blue = world
        .another("controller", &["--controller-class", "blue", "--watch-label-selector", "team=payments"]);
    leads(&blue).await;
    let labels = |class: &str, team: &str| json!({"metadata": {"labels": {CLASS: class, "team": team}}});
    let objects = [world.connection(), world.hook("a")];
    world.apply(&objects.clone().map(|object| merged(object, labels("blue", "orders")))).await;
    // Objects that the default operator manages, so that it has certainly seen the others.
    let mut other = world.connection();
    other["metadata"]["name"] = json!("other");
    world.apply(&[other, world.hook_with("b", json!({"connectionRef": {"name": "other"}}))]).await;
    world.ready("eventhooks/b").await;
    for path in ["eventhooks/a", "connections/kong"] {
        assert!(is_untouched(&world.get(path).await.unwrap()), "{path}: another class, and another label");
    }

    // Now the labels select it for the operator of its class.
    label(&world, "team=payments").await;
    let object = world.ready("eventhooks/a").await;
    let id = object["status"]["external"]["id"].clone();
    assert!(!id.is_null(), "{object:#}");
    // A change of the class hands the object over: nothing is deleted or created at the vendor.
    let count = async |method: &str| world.kong.count(method, "/event-hooks").await;
    let deletes = count("DELETE").await;
    label(&world, &format!("{CLASS}-")).await;
    world.request("evh/a", "handed-over").await;
    let is_handled = |o: &Value| o["status"]["handled"]["reconcileRequestedAt"] == "handed-over";
    let object = world.until("eventhooks/a", "handled by the default operator", is_handled).await;
    assert_eq!(object["status"]["external"]["id"], id);
    world.ready("eventhooks/a").await;
    assert_eq!(count("DELETE").await, deletes);
    world.kong.wait_for_hooks(2).await;

    // The worker of the default operator delivers its events, and its controller deletes it.
    assert!(world.kong.emit("crud", "consumers", json!({"operation": "create"})).await >= 1);
    world.receiver.wait_for(2, DEADLINE).await;
    drop(blue);
    world.kubectl(&["delete", "evh/a", "--timeout=30s"]).await;
    world.kong.wait_for_hooks(1).await;
}

/// No operator deletes anything while none has the object's class.
#[tokio::test(flavor = "multi_thread")]
async fn object_without_operator_keeps_its_external_object() {
    let world = World::start("no-operator").await;
    world.apply(&[world.connection(), world.hook("a"), world.hook("b")]).await;
    world.ready("eventhooks/a").await;
    world.ready("eventhooks/b").await;
    world.kubectl(&["label", "evh/a", &format!("{CLASS}=unused")]).await;
    world.kubectl(&["delete", "evh/a", "--wait=false"]).await;
    // The default operator works on, and leaves it alone.
    world.edit("evh/b", json!({"event": "routes"})).await;
    world.ready("eventhooks/b").await;
    world.kong.wait_for_hooks(2).await;
    let object = world.get("eventhooks/a").await.unwrap();
    assert!(object["metadata"]["finalizers"].is_array(), "{object:#}");
    // Back in the default class, the deletion is completed.
    world.kubectl(&["label", "evh/a", &format!("{CLASS}-")]).await;
    world.wait_until_deleted("eventhooks/a").await;
    world.kong.wait_for_hooks(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_malformed_selectors() {
    for (flag, value) in [("--controller-class", "a b"), ("--watch-label-selector", "a in b")] {
        let process = Process::spawn(["worker", flag, value], &[("KUBECONFIG", "/dev/null")]);
        let status = process.wait(DEADLINE).await;
        assert_eq!(status.code(), Some(2), "{}", process.log());
        assert!(process.log().contains(flag), "{}", process.log());
    }
}
