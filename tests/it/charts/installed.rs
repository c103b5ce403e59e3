//! Both charts installed, used, upgraded, rolled back and uninstalled, on a cluster that knows nothing of them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Container, RELEASE, chart, find, local_values, objects, token, values_file};
use crate::harness::{ControlPlane, DEADLINE, Process, Receiver, Reply, eventually, free_port, watchdog};
use crate::world::{Kong, documents, http, object, secret};

const HOME: &str = "hookstream-system";
const SHOP: &str = "shop";

/// A cluster with the release in it, and what its pods would run.
pub struct Installed {
    pub cluster: ControlPlane,
    values: Value,
    /// Ports of this machine: ingest, API, the worker's ops, the controller's ops.
    pub ports: [u16; 4],
    data: String,
    /// Where volumes that a pod mounts are here.
    mounts: Vec<(String, String)>,
    /// What the ports for events and deliveries speak.
    scheme: &'static str,
    pub http: reqwest::Client,
}

impl Installed {
    pub async fn start(more: Value) -> Installed {
        let cluster = ControlPlane::bare().await.unwrap();
        for name in [HOME, SHOP] {
            cluster.kubectl(["create", "namespace", name], "").await.unwrap();
        }
        let ports = [free_port(), free_port(), free_port(), free_port()];
        let [ingest, api, ops, _] = ports;
        let scheme = if more["tls"]["secretName"].is_string() { "https" } else { "http" };
        let values = local_values([ingest, api, ops], &format!("{scheme}://localhost:{ingest}"));
        let values = crate::world::merged(values, more);
        let data = watchdog::unique_path("data");
        std::fs::create_dir(&data).unwrap();
        let data = data.display().to_string();
        let mounts = Vec::new();
        let installed = Installed { cluster, values, ports, data, mounts, scheme, http: http() };
        installed.helm("install", &installed.values).await.unwrap();
        installed
    }

    /// The Secret of the ports' certificate is this folder; `http` trusts it.
    pub fn by_tls(self, folder: &str, http: reqwest::Client) -> Installed {
        let mounts = vec![("/etc/hookstream/tls".to_owned(), folder.to_owned())];
        Installed { mounts, http, ..self }
    }

    fn url(&self, port: u16) -> String {
        format!("{}://localhost:{port}", self.scheme)
    }

    async fn helm(&self, verb: &str, values: &Value) -> Result<String, String> {
        let (chart, file) = (chart("hookstream"), values_file(values));
        self.cluster.helm([verb, RELEASE, chart.to_str().unwrap(), "-n", HOME, "-f", &file]).await
    }

    pub async fn definitions(&self, verb: &str) -> Result<String, String> {
        let chart = chart("hookstream-crds");
        self.cluster.helm([verb, "hookstream-crds", chart.to_str().unwrap(), "-n", HOME]).await
    }

    /// What the API server has of the release's namespaced objects.
    async fn live(&self, kind: &str, name: &str) -> Value {
        let text = self.cluster.kubectl(["-n", HOME, "get", kind, name, "-o", "json"], "").await.unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Starts what a workload's pods run.
    pub async fn run(&self, kind: &str, name: &str, ops: u16) -> Process {
        let [_, _, worker_ops, _] = self.ports;
        let (from, to) = (format!("--ops-listen=:{worker_ops}"), format!("--ops-listen=:{ops}"));
        let mut map = vec![("/var/lib/hookstream", self.data.as_str()), (from.as_str(), to.as_str())];
        map.extend(self.mounts.iter().map(|(from, to)| (from.as_str(), to.as_str())));
        Container::of(&self.live(kind, name).await, &map).start(&self.cluster, HOME).await
    }

    async fn readiness(&self, ops: u16) -> Result<(u16, String), String> {
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

    /// A Connection, a hook of Kong's, and one of published events.
    pub async fn apply_hooks(&self, kong: &Kong, receiver: &Receiver) {
        let signature = json!({"secretRef": {"name": "signing", "key": "secret"}});
        let label = json!({"metadata": {"labels": {"hookstream.dev/use": "true"}}});
        let labelled = crate::world::merged(secret("signing", "secret", "s3cret"), label);
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

    /// The versions of all objects of the release.
    async fn versions(&self) -> BTreeMap<String, String> {
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

    /// Uninstalls the release, and does for its check what a kubelet and the Job's controller do. What the check said.
    async fn uninstall(&self) -> (Result<String, String>, String) {
        let uninstall =
            async { self.cluster.helm(["uninstall", RELEASE, "-n", HOME, "--timeout", "60s"]).await };
        let check = async {
            let name = "hookstream-uninstall-check";
            let job = eventually(DEADLINE, "the check's Job", async || {
                let get = ["-n", HOME, "get", "job", name, "-o", "json"];
                let job: Value = serde_json::from_str(&self.cluster.kubectl(get, "").await?).unwrap();
                // One that was left by an earlier uninstall is replaced first.
                if job["status"]["conditions"].is_null() { Ok(job) } else { Err("the old one".into()) }
            })
            .await;
            let process = Container::of(&job, &[]).start(&self.cluster, HOME).await;
            let done = process.wait(DEADLINE).await.success();
            let now = "2026-01-01T00:00:00Z";
            let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "Test", "message": "", "lastTransitionTime": now});
            let status = if done {
                json!({"startTime": now, "completionTime": now, "succeeded": 1, "conditions": [condition("SuccessCriteriaMet"), condition("Complete")]})
            } else {
                json!({"startTime": now, "failed": 1, "conditions": [condition("FailureTarget"), condition("Failed")]})
            };
            let patch = json!({ "status": status }).to_string();
            let args =
                ["-n", HOME, "patch", "job", name, "--subresource=status", "--type=merge", "-p", &patch];
            self.cluster.kubectl(args, "").await.unwrap();
            process.log()
        };
        tokio::join!(uninstall, check)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn installed_used_upgraded_rolled_back_uninstalled() {
    let it = Installed::start(json!({"controller": {"resyncInterval": "1s"}})).await;
    let [_, _, worker_ops, controller_ops] = it.ports;

    // Without the definitions the pods live, are not ready and say what is missing.
    let worker = it.run("statefulset", "hookstream-worker", worker_ops).await;
    let controller = it.run("deployment", "hookstream-controller", controller_ops).await;
    for ops in [worker_ops, controller_ops] {
        eventually(DEADLINE, "what is missing", async || {
            let (status, text) = it.readiness(ops).await?;
            let missing = ["eventhooks.hookstream.dev", "connections.hookstream.dev"];
            let told = status == 503 && missing.iter().all(|name| text.contains(name));
            if told { Ok(()) } else { Err(text) }
        })
        .await;
    }
    it.definitions("install").await.unwrap();
    it.ready(worker_ops).await;
    it.ready(controller_ops).await;
    // The second replica stands by.
    let standby_ops = free_port();
    let standby = it.run("deployment", "hookstream-controller", standby_ops).await;
    it.ready(standby_ops).await;

    // An applied hook becomes ready; events are delivered, Kong's and those of a program with the publisher's role.
    let kong = Kong::start(&[]).await;
    let receiver = Receiver::start(|_, _| Reply::status(200));
    it.apply_hooks(&kong, &receiver).await;
    assert_eq!(kong.emit("crud", "consumers", json!({"operation": "create"})).await, 1);
    receiver.wait_for(1, DEADLINE).await;
    let shop = token(&it.cluster, SHOP, "shop", Some("hookstream")).await;
    assert_eq!(it.publish(&shop).await, 403);
    let bind =
        ["create", "rolebinding", "shop", "--clusterrole=hookstream-publisher", "--serviceaccount=shop:shop"];
    it.shop(&bind).await;
    let shop = token(&it.cluster, SHOP, "shop", Some("hookstream")).await;
    assert_eq!(it.publish(&shop).await, 202);
    let paths: Vec<String> = receiver.wait_for(2, DEADLINE).await.into_iter().map(|r| r.path).collect();
    assert_eq!(paths, ["/relayed", "/published"]);
    helm_test(&it).await;

    // An upgrade without a change writes nothing.
    let before = it.versions().await;
    assert!(before.len() > 10, "{before:#?}");
    it.helm("upgrade", &it.values).await.unwrap();
    it.definitions("upgrade").await.unwrap();
    assert_eq!(it.versions().await, before);

    // One with a change, and its rollback, leave the objects alone.
    let hooks = it.shop(&["get", "evh,conn", "-o", "jsonpath={.items[*].metadata.uid}"]).await;
    let debug = crate::world::merged(it.values.clone(), json!({"log": {"level": "debug"}}));
    it.helm("upgrade", &debug).await.unwrap();
    let args = async || {
        it.live("statefulset", "hookstream-worker").await["spec"]["template"]["spec"]["containers"][0]["args"]
            .to_string()
    };
    assert!(args().await.contains("--log-level=debug"));
    it.cluster.helm(["rollback", RELEASE, "-n", HOME]).await.unwrap();
    assert!(args().await.contains("--log-level=info"));
    assert_eq!(it.shop(&["get", "evh,conn", "-o", "jsonpath={.items[*].metadata.uid}"]).await, hooks);

    // An uninstall is refused while something stands at Kong, with what to do.
    let (refused, said) = it.uninstall().await;
    assert!(refused.is_err(), "{refused:?}");
    assert!(said.contains("eventhook shop/relayed") && said.contains("hookstream release --all"), "{said}");
    assert!(!said.contains("shop/published"), "nothing at a vendor hangs on it: {said}");
    it.shop(&["delete", "evh/relayed", "conn/kong", "--timeout=30s"]).await;
    assert_eq!(kong.hooks().await, Vec::<Value>::new());
    let (done, said) = it.uninstall().await;
    done.unwrap_or_else(|e| panic!("{e}\n{said}"));
    for process in [controller, standby, worker] {
        assert!(process.terminate().await.success());
    }

    // What is left: the definitions and the objects, also when the definitions' release goes.
    it.cluster.helm(["uninstall", "hookstream-crds", "-n", HOME]).await.unwrap();
    assert!(it.shop(&["get", "evh", "-o", "name"]).await.contains("published"));
    let left = it
        .cluster
        .kubectl(
            [
                "get",
                "all,sa,role,rolebinding,clusterrole,clusterrolebinding",
                "-A",
                "-o",
                "name",
                "-l",
                "app.kubernetes.io/managed-by=Helm",
            ],
            "",
        )
        .await
        .unwrap();
    assert_eq!(left, "");
}

/// `helm test` as its pod would run: an event of its own is published, and delivered.
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
    let container = Container::of(job, &map);
    // As the Job's controller does: again, for the worker may see the hook a moment after the event.
    eventually(DEADLINE, "helm test", async || {
        let process = container.start(&it.cluster, HOME).await;
        if process.wait(DEADLINE).await.success() { Ok(()) } else { Err(process.log()) }
    })
    .await;
    it.cluster.kubectl(["delete", "-f", "-"], &documents(&rest)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn combined_and_in_named_namespaces_only() {
    let it = Installed::start(
        json!({"mode": "combined", "scope": {"namespaces": [SHOP]}, "requireSecretLabel": true}),
    )
    .await;
    it.definitions("install").await.unwrap();
    let [_, _, ops, _] = it.ports;
    let both = it.run("statefulset", "hookstream-worker", ops).await;
    it.ready(ops).await;
    let kong = Kong::start(&[]).await;
    let receiver = Receiver::start(|_, _| Reply::status(200));
    it.apply_hooks(&kong, &receiver).await;
    assert_eq!(kong.emit("crud", "consumers", json!({"operation": "create"})).await, 1);
    receiver.wait_for(1, DEADLINE).await;

    // Nothing beyond: the other namespaces' Secrets and hooks, and no write but what it is for.
    let may = async |verb: &str, what: &str, namespace: &str| {
        let who = format!("--as=system:serviceaccount:{HOME}:hookstream");
        // `no` is an exit code of its own.
        it.cluster.kubectl(["auth", "can-i", verb, what, "-n", namespace, &who], "").await.is_ok()
    };
    for (verb, what, namespace, want) in [
        ("get", "secrets", SHOP, true),
        ("get", "secrets", "default", false),
        ("list", "secrets", "default", false),
        ("list", "eventhooks.hookstream.dev", "default", false),
        ("list", "eventhooks.hookstream.dev", SHOP, true),
        ("create", "secrets", SHOP, false),
        ("update", "secrets", SHOP, false),
        ("delete", "eventhooks.hookstream.dev", SHOP, false),
        ("get", "pods", SHOP, false),
        ("get", "secrets/hookstream-keys", HOME, true),
        ("get", "secrets/other", HOME, false),
        ("create", "tokenreviews.authentication.k8s.io", SHOP, true),
        ("get", "namespaces/shop", "default", true),
        ("get", "namespaces/default", "default", false),
    ] {
        assert_eq!(may(verb, what, namespace).await, want, "{verb} {what} in {namespace}");
    }
    assert!(both.terminate().await.success());
}
