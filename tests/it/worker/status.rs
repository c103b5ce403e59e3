//! `GET /v1/status` and lists of a worker in a cluster: each scope needs its own right.

use serde_json::{Value, json};

use crate::harness::http::answer;
use crate::harness::manifests::hook;
use crate::harness::worker::{Worker, create_accounts};
use crate::harness::{DEADLINE, control_plane, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn status_of_all_namespaces_needs_a_right_in_all() {
    let (namespace, kubeconfig) = create_accounts("status").await;
    let name = namespace.name.clone();
    let worker = Worker::start(namespace, kubeconfig, &[]).await;
    let rules = "[{apiGroups: [hookstream.dev], resources: [deliveries], verbs: [list]}]";
    for account in ["one", "all"] {
        worker.namespace.service_account(account, rules).await;
    }
    let metadata = json!({"name": format!("{name}-deliveries")});
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata,
        "rules": serde_saphyr::from_str::<Value>(rules).unwrap()});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": metadata["name"]},
        "subjects": [{"kind": "ServiceAccount", "name": "all", "namespace": name}]});
    control_plane().kubectl(["apply", "-f", "-"], &format!("{role}\n---\n{binding}\n")).await.unwrap();
    let get = async |account: &str, path: &str| {
        let token = worker.namespace.token(account, &["hookstream"]).await;
        answer(worker.client.get(format!("{}{path}", worker.api)).bearer_auth(token)).await
    };
    let own = format!("/v1/namespaces/{name}/status");
    for (account, path, expected) in [
        ("one", own.as_str(), 200),
        ("all", own.as_str(), 200),
        ("all", "/v1/status", 200),
        ("one", "/v1/status", 403),
        ("all", "/v1/deliveries", 200),
        ("one", "/v1/deliveries", 403),
        ("all", "/v1/events", 200),
        ("one", "/v1/events", 403),
        ("all", "/v1/events?payload=true", 403),
        ("all", "/v1/replays", 403),
        ("one", "/v1/namespaces/default/status", 403),
        ("reader", own.as_str(), 403),
    ] {
        let (status, body) = get(account, path).await;
        assert_eq!(status, expected, "{account} {path}: {body}");
    }
    let (status, body) = answer(worker.client.get(format!("{}/v1/status", worker.api))).await;
    assert_eq!(status, 401, "{body}");
    let (status, body) = get("one", &format!("{own}?x=1")).await;
    assert_eq!((status, &body["reason"]), (400, &json!("BadParameter")), "{body}");

    // No controller runs here, so the hook is not reconciled.
    worker.namespace.apply(&hook("new", "http://127.0.0.1:9/", json!({}))).await.unwrap();
    eventually(DEADLINE, "the hook in the status", async || {
        let (_, body) = get("one", &own).await;
        let item = &body["notReady"]["items"][0];
        let is_new = item["name"] == "new" && item["reason"] == "NotReconciled" && item["ready"] == "Unknown";
        if is_new && body["healthy"] == false { Ok(()) } else { Err(body.to_string()) }
    })
    .await;
}
