//! The leader of the controllers, as the API and the overview show it.

use serde_json::{Value, json};

use super::http::browser;
use crate::harness::http::answer;
use crate::harness::worker::{Worker, create_accounts, key_ring_secret};
use crate::harness::{DEADLINE, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn overview_shows_the_leader_or_the_role_that_may_read_it() {
    let (namespace, kubeconfig) = create_accounts("console-leader").await;
    let rights = "[{apiGroups: [hookstream.dev], resources: [deliveries], verbs: [get, list]}]";
    namespace.service_account("viewer", rights).await;
    namespace.apply(&key_ring_secret()).await.unwrap();
    let worker = Worker::start(namespace, kubeconfig, &[]).await;
    let name = worker.namespace.name.clone();
    let viewer = worker.namespace.token("viewer", &["hookstream"]).await;
    // The responses of some seconds share one read.
    let leader = async |what: &str, is_expected: &dyn Fn(&Value) -> bool| {
        eventually(DEADLINE, what, async || {
            let url = format!("{}/v1/namespaces/{name}/status", worker.api);
            let (status, body) = answer(worker.client.get(url).bearer_auth(&viewer)).await;
            let leader = body["leader"].clone();
            if status == 200 && is_expected(&leader) { Ok(()) } else { Err(body.to_string()) }
        })
        .await;
        let url = format!("{}/console/namespaces/{name}", worker.api);
        browser().get(url).bearer_auth(&viewer).send().await.unwrap().text().await.unwrap()
    };
    let page = leader("no leader", &|leader| leader["state"] == "none").await;
    assert!(page.contains("No controller leads"), "{page}");

    let now = jiff::Timestamp::now();
    let lease = json!({"spec": {"holderIdentity": format!("controller-0_{}", "0f".repeat(16)), "leaseDurationSeconds": 3600,
        "acquireTime": format!("{now:.6}"), "renewTime": format!("{now:.6}")}})
    .to_string();
    let patch = ["patch", "lease", "hookstream-controller", "--type=merge", "-p", &lease];
    worker.namespace.kubectl(&patch).await.unwrap();
    // The Lease of a former release.
    let former = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "hookstream-former"},
        "spec": {"holderIdentity": "gone", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"}});
    worker.namespace.apply(&former.to_string()).await.unwrap();
    let page = leader("the leader", &|leader| leader["state"] == "leads").await;
    assert!(page.contains(">controller-0</span> since <time"), "{page}");

    worker.namespace.kubectl(&["delete", "rolebinding", "hookstream-lease-read"]).await.unwrap();
    let page = leader("the role", &|leader| leader["role"] == "lease-read").await;
    assert!(page.contains("the worker may not read the Lease: that needs the role"), "{page}");
}
