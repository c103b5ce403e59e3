//! A cluster with the charts installed, and the processes that its pods would run.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::helm::{
    Container, RELEASE, chart, complete_uninstall_check, find, local_values, objects, token, values_file,
};
use crate::harness::http::http;
use crate::harness::objects::{documents, free_lease, object, secret};
use crate::harness::{ControlPlane, DEADLINE, Kong, Process, Receiver, eventually, free_port, watchdog};

pub const HOME: &str = "hookstream-system";

pub const SHOP: &str = "shop";

/// A cluster with the release, and the processes of its pods.
pub struct Installed {
    pub cluster: ControlPlane,
    pub values: Value,
    /// Local ports: ingest, API, the worker's ops, the controller's ops.
    pub ports: [u16; 4],
    data: String,
    /// Local folders for mounted volumes.
    mounts: Vec<(String, String)>,
    /// The scheme of the ports for events and deliveries.
    scheme: &'static str,
    pub http: reqwest::Client,
}

impl Installed {
    pub async fn start(more: Value) -> Installed {
        let cluster = ControlPlane::bare().await.unwrap();
        for name in [HOME, SHOP] {
            cluster.kubectl(["create", "namespace", name], "").await.unwrap();
        }
        let lease = documents(&[free_lease()]);
        cluster.kubectl(["-n", HOME, "apply", "-f", "-"], &lease).await.unwrap();
        let ports = [free_port(), free_port(), free_port(), free_port()];
        let [ingest, api, ops, _] = ports;
        let scheme = if more["tls"]["secretName"].is_string() { "https" } else { "http" };
        let values = local_values([ingest, api, ops], &format!("{scheme}://localhost:{ingest}"));
        let values = crate::harness::manifests::merged(values, more);
        let data = watchdog::unique_path("data");
        std::fs::create_dir(&data).unwrap();
        let data = data.display().to_string();
        let mounts = Vec::new();
        let installed = Installed { cluster, values, ports, data, mounts, scheme, http: http() };
        installed.helm("install", &installed.values).await.unwrap();
        installed
    }

    /// Mounts this folder as the Secret of the ports' certificate, which `http` trusts.
    pub fn by_tls(self, folder: &str, http: reqwest::Client) -> Installed {
        let mounts = vec![("/etc/hookstream/tls".to_owned(), folder.to_owned())];
        Installed { mounts, http, ..self }
    }

    pub fn url(&self, port: u16) -> String {
        format!("{}://localhost:{port}", self.scheme)
    }

    pub async fn helm(&self, verb: &str, values: &Value) -> Result<String, String> {
        let (chart, file) = (chart("hookstream"), values_file(values));
        self.cluster.helm([verb, RELEASE, chart.to_str().unwrap(), "-n", HOME, "-f", &file]).await
    }

    pub async fn definitions(&self, verb: &str) -> Result<String, String> {
        let chart = chart("hookstream-crds");
        self.cluster.helm([verb, "hookstream-crds", chart.to_str().unwrap(), "-n", HOME]).await
    }

    /// Reads a namespaced object of the release.
    pub async fn live(&self, kind: &str, name: &str) -> Value {
        let text = self.cluster.kubectl(["-n", HOME, "get", kind, name, "-o", "json"], "").await.unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Starts the process of a workload's pods.
    pub async fn run(&self, kind: &str, name: &str, ops: u16) -> Process {
        let [_, _, worker_ops, _] = self.ports;
        let (from, to) = (format!("--ops-listen=:{worker_ops}"), format!("--ops-listen=:{ops}"));
        let mut map = vec![("/var/lib/hookstream", self.data.as_str()), (from.as_str(), to.as_str())];
        map.extend(self.mounts.iter().map(|(from, to)| (from.as_str(), to.as_str())));
        Container::of_workload(&self.live(kind, name).await, &map).start(&self.cluster, HOME).await
    }

    pub async fn readiness(&self, ops: u16) -> Result<(u16, String), String> {
        let answer = self
            .http
            .get(format!("http://127.0.0.1:{ops}/readyz"))
            .send()
            .await
            .map_err(|e| e.to_string())?;
        Ok((answer.status().as_u16(), answer.text().await.map_err(|e| e.to_string())?))
    }

    pub async fn ready(&self, ops: u16) {
        eventually(DEADLINE, "ready", async || match self.readiness(ops).await? {
            (200, _) => Ok(()),
            (_, text) => Err(text),
        })
        .await;
    }

    pub async fn shop(&self, args: &[&str]) -> String {
        let args = ["-n", SHOP].iter().chain(args);
        self.cluster.kubectl(args, "").await.unwrap()
    }

    pub async fn apply(&self, namespace: &str, objects: &[Value]) {
        let args = ["-n", namespace, "apply", "--server-side", "--validate=strict", "-f", "-"];
        self.cluster.kubectl(args, &documents(objects)).await.unwrap();
    }

    /// Applies a Connection, a relayed hook, and a hook for published events.
    pub async fn apply_hooks(&self, kong: &Kong, receiver: &Receiver) {
        let signature = json!({"secretRef": {"name": "signing", "key": "secret"}});
        let label = json!({"metadata": {"labels": {"hookstream.dev/use": "true"}}});
        let labelled = crate::harness::manifests::merged(secret("signing", "secret", "s3cret"), label);
        let webhook =
            |path: &str| json!({"url": format!("{}/{path}", receiver.url()), "signature": signature});
        self.apply(
            SHOP,
            &[
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "shop"}}),
                labelled,
                object("Connection", "kong", json!({"kong": {"adminUrl": kong.url}})),
                object(
                    "EventHook",
                    "relayed",
                    json!({"source": "crud", "event": "consumers", "connectionRef": {"name": "kong"},
                    "handler": {"webhook": webhook("relayed")}}),
                ),
                object(
                    "EventHook",
                    "published",
                    json!({"source": "shop", "handler": {"webhook": webhook("published")}}),
                ),
            ],
        )
        .await;
        let ready =
            ["wait", "--for=condition=Ready", "evh/relayed", "evh/published", "conn/kong", "--timeout=30s"];
        self.shop(&ready).await;
    }

    pub async fn publish(&self, token: &str) -> u16 {
        let to = format!("{}/v1/namespaces/{SHOP}/events", self.url(self.ports[0]));
        let event = json!({"source": "shop", "event": "order.created", "data": {}});
        self.http.post(to).bearer_auth(token).body(event.to_string()).send().await.unwrap().status().as_u16()
    }

    /// Returns the resource versions of all objects of the release.
    pub async fn versions(&self) -> BTreeMap<String, String> {
        let manifest = self.cluster.helm(["get", "manifest", RELEASE, "-n", HOME]).await.unwrap();
        let get = ["get", "-o", "json", "-f", "-"];
        let list: Value = serde_json::from_str(&self.cluster.kubectl(get, &manifest).await.unwrap()).unwrap();
        let version = |object: &Value| {
            let meta = &object["metadata"];
            (
                format!("{} {}/{}", object["kind"], meta["namespace"], meta["name"]),
                meta["resourceVersion"].to_string(),
            )
        };
        list["items"].as_array().unwrap().iter().map(version).collect()
    }

    /// Uninstalls the release, and does the work of a kubelet and the Job controller for its check. Returns helm's result and
    /// the check's log.
    pub async fn uninstall(&self) -> (Result<String, String>, String) {
        let uninstall =
            async { self.cluster.helm(["uninstall", RELEASE, "-n", HOME, "--timeout", "60s"]).await };
        let check = complete_uninstall_check(&self.cluster, HOME);
        tokio::join!(uninstall, check)
    }
}

/// Runs `helm test` as its pod would: it publishes an event and waits for its delivery.
pub async fn helm_test(it: &Installed) {
    let hooks = objects(&it.cluster.helm(["get", "hooks", RELEASE, "-n", HOME]).await.unwrap());
    let job = find(&hooks, "Job", "hookstream-test");
    let rest: Vec<Value> = hooks.iter().filter(|o| o["kind"] != "Job").cloned().collect();
    assert_eq!(rest.len(), 4, "an account, its rights, a hook");
    it.apply(HOME, &rest).await;
    let [ingest, api, ..] = it.ports;
    let secret = watchdog::unique_path("token");
    std::fs::write(&secret, token(&it.cluster, HOME, "hookstream-test", Some("hookstream")).await).unwrap();
    let service = |name: &str| format!("{}://hookstream-{name}.hookstream-system.svc", it.scheme);
    let mut map = vec![
        (format!("{}:8080", service("ingest")), it.url(ingest)),
        (format!("{}:8082", service("api")), it.url(api)),
        ("/var/run/secrets/hookstream/token".to_owned(), secret.display().to_string()),
    ];
    map.extend(it.mounts.clone());
    let map: Vec<(&str, &str)> = map.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
    let container = Container::of_workload(job, &map);
    // Retried, as by the Job controller, because the worker may register the hook after the event.
    eventually(DEADLINE, "helm test", async || {
        let process = container.start(&it.cluster, HOME).await;
        if process.wait(DEADLINE).await.success() { Ok(()) } else { Err(process.log()) }
    })
    .await;
    it.cluster.kubectl(["delete", "-f", "-"], &documents(&rest)).await.unwrap();
}
