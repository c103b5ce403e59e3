//! A history belongs to a namespace's uid and to an installation: a recreated namespace does not show the history of the
//! deleted one.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::http::{answer, client};
use crate::harness::manifests::{event, hook, merge, quick};
use crate::harness::{
    Accounts, DEADLINE, Namespace, Process, Receiver, Reply, control_plane, eventually, free_port, watchdog,
};

struct Cluster {
    home: Namespace,
    accounts: Accounts,
    /// A token of a caller with all rights.
    token: String,
    ingest: String,
    api: String,
    client: reqwest::Client,
}

async fn start_cluster(hint: &str) -> Cluster {
    let home = control_plane().namespace(hint).await;
    let name = &home.name;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "caller"}});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "caller", "namespace": name}]});
    home.apply(&format!("{account}\n---\n{binding}\n")).await.expect("a caller");
    let token = home.token("caller", &["hookstream"]).await;
    let [ingest, api] = std::array::from_fn(|_| format!("127.0.0.1:{}", free_port()));
    let accounts = Accounts::create(&home).await;
    Cluster { home, accounts, token, ingest, api, client: client() }
}

impl Cluster {
    fn worker(&self, namespace: &str, data: &Path, flags: &[&str]) -> Process {
        let data = data.to_str().unwrap();
        let mut args = vec!["worker", "--data", data, "--listen", &self.ingest, "--api-listen", &self.api];
        args.extend([
            "--ops-listen",
            "127.0.0.1:0",
            "--namespace",
            namespace,
            "--operator-namespace",
            &self.home.name,
        ]);
        args.extend(["--egress-allow", "127.0.0.0/8"]);
        args.extend(flags);
        Process::spawn(args, &[("KUBECONFIG", self.accounts.worker.to_str().unwrap())])
    }

    async fn publish(&self, namespace: &str, id: &str) -> (u16, Value) {
        let url = format!("http://{}/v1/namespaces/{namespace}/events", self.ingest);
        answer(self.client.post(url).bearer_auth(&self.token).json(&event(id))).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let url = format!("http://{}/v1/namespaces/{path}", self.api);
        answer(self.client.get(url).bearer_auth(&self.token)).await
    }
}

fn create_data_folder() -> std::path::PathBuf {
    let data = watchdog::unique_path("data");
    std::fs::create_dir(&data).unwrap();
    data
}

async fn wait_for_ingest(worker: &Process) {
    worker.wait_for_line(|line| line.contains("ingest listening"), DEADLINE).await;
}

fn hook_with_pause(url: &str, paused: bool) -> String {
    let mut spec = quick();
    merge(&mut spec, json!({"delivery": {"paused": paused}}));
    hook("h", url, spec)
}

#[tokio::test(flavor = "multi_thread")]
async fn recreated_namespace_has_no_old_history() {
    // kube-controller-manager deletes the contents of namespaces.
    control_plane().start_controller_manager();
    let cluster = start_cluster("recreated").await;
    let shop = control_plane().namespace("recreated-shop").await;
    let name = shop.name.as_str();
    let receiver = Receiver::start(|_, _| Reply::status(200));
    shop.apply(&hook_with_pause(&receiver.url(), true)).await.expect("the hook");
    let worker = cluster.worker(name, &create_data_folder(), &[]);
    wait_for_ingest(&worker).await;
    let (status, body) = cluster.publish(name, "order-1").await;
    assert_eq!((status, &body["deliveries"]), (202, &json!(1)), "{body}");
    let (_, old_list) = cluster.get(&format!("{name}/deliveries")).await;
    let id = old_list["items"][0]["id"].as_str().expect("a delivery").to_owned();

    cluster.home.kubectl(&["delete", "namespace", name, "--wait=false"]).await.expect("the deletion");
    eventually(DEADLINE, "the namespace to be deleted", async || {
        match cluster.home.kubectl(&["get", "namespace", name, "-o", "yaml"]).await {
            Err(error) if error.contains("NotFound") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    cluster.home.kubectl(&["create", "namespace", name]).await.expect("the recreated namespace");
    // The hook has the name of the old one, whose deliveries it must not adopt.
    eventually(DEADLINE, "the hook in the new namespace", async || {
        shop.apply(&hook_with_pause(&receiver.url(), false)).await
    })
    .await;
    // A new id for each attempt, because an event that matched no hook is a duplicate the next time.
    let mut attempts = 0;
    let second_event = eventually(DEADLINE, "the worker to register the new hook", async || {
        attempts += 1;
        let id = format!("order-2-{attempts}");
        let (status, body) = cluster.publish(name, &id).await;
        if (status, &body["deliveries"]) == (202, &json!(1)) {
            Ok(id)
        } else {
            Err(format!("{status} {body}"))
        }
    })
    .await;
    let (_, listed) = cluster.get(&format!("{name}/deliveries")).await;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(listed["items"][0]["event"], second_event.as_str(), "{listed}");
    for path in [format!("{name}/deliveries/{id}"), format!("{name}/events/order-1/explain")] {
        assert_eq!(cluster.get(&path).await.0, 404, "{path}");
    }
    // An id of the old namespace is not a duplicate in the new one.
    let (status, body) = cluster.publish(name, "order-1").await;
    assert_eq!((status, &body["deliveries"]), (202, &json!(1)), "{body}");
    eventually(DEADLINE, "two deliveries of the new namespace", async || {
        let ids: Vec<String> = receiver
            .requests()
            .iter()
            .map(|r| r.json()["id"].as_str().unwrap_or_default().to_owned())
            .collect();
        if ids.len() == 2 { Ok(()) } else { Err(format!("{ids:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn store_of_other_installation_is_refused() {
    let cluster = start_cluster("installation").await;
    let data = create_data_folder();
    let worker = cluster.worker(&cluster.home.name, &data, &[]);
    wait_for_ingest(&worker).await;
    worker.terminate().await;
    let restarted = cluster.worker(&cluster.home.name, &data, &[]);
    wait_for_ingest(&restarted).await;
    restarted.terminate().await;

    let other = start_cluster("installation-other").await;
    let refused = other.worker(&other.home.name, &data, &[]);
    assert_eq!(refused.wait(DEADLINE).await.code(), Some(3), "{}", refused.log());
    assert!(refused.log().contains("belongs to another installation"), "{}", refused.log());
    assert!(refused.log().contains("--accept-new-store"), "{}", refused.log());
    let accepting = other.worker(&other.home.name, &data, &["--accept-new-store"]);
    wait_for_ingest(&accepting).await;
    accepting.terminate().await;
    let later = other.worker(&other.home.name, &data, &[]);
    wait_for_ingest(&later).await;
}
