//! `kubectl apply -k` of `deploy/base` and its overlays installs the same as the chart.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::helm::{Container, objects, token};
use crate::harness::http::http;
use crate::harness::objects::{documents, free_lease, object};
use crate::harness::{
    ControlPlane, DEADLINE, Kong, Process, Receiver, Reply, control_plane, eventually, free_port, watchdog,
};

const HOME: &str = "hookstream-system";
const SHOP: &str = "shop";

fn folder(of: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(of).display().to_string()
}

async fn apply(cluster: &ControlPlane, args: &[&str], input: &str) -> Result<String, String> {
    let apply = ["apply", "--server-side", "--validate=strict"];
    cluster.kubectl(apply.iter().chain(args), input).await
}

/// Local replacements for a container's ports and receivers.
struct Local {
    ingest: u16,
    data: String,
}

impl Local {
    fn new() -> Local {
        let data = watchdog::unique_path("data");
        std::fs::create_dir(&data).unwrap();
        Local { ingest: free_port(), data: data.display().to_string() }
    }

    fn container(&self, object: &Value, more: &[(&str, &str)]) -> Container {
        let ingest = format!("--listen=:{}", self.ingest);
        let url = format!("http://127.0.0.1:{}", self.ingest);
        let mut map = vec![
            ("--listen=:8080", ingest.as_str()),
            ("--api-listen=:8082", "--api-listen=127.0.0.1:0"),
            ("--ops-listen=:8081", "--ops-listen=127.0.0.1:0"),
            ("http://hookstream-ingest.hookstream-system.svc:8080", url.as_str()),
            ("/var/lib/hookstream", self.data.as_str()),
        ];
        map.extend_from_slice(more);
        let mut container = Container::of_workload(object, &map);
        if container.args.first().is_some_and(|role| role != "standalone") {
            // In a cluster, receivers run on other machines.
            container.args.push("--egress-allow=127.0.0.0/8".into());
        }
        container
    }

    async fn publish(&self, token: &str, namespace: &str) -> u16 {
        let to = format!("http://127.0.0.1:{}/v1/namespaces/{namespace}/events", self.ingest);
        let event = json!({"source": "shop", "event": "order.created", "data": {}}).to_string();
        http().post(to).bearer_auth(token).body(event).send().await.unwrap().status().as_u16()
    }
}

async fn get_object(cluster: &ControlPlane, kind: &str, name: &str) -> Value {
    let get = ["-n", HOME, "get", kind, name, "-o", "json"];
    serde_json::from_str(&cluster.kubectl(get, "").await.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaced_overlay_works_in_its_namespace_only() {
    let cluster = ControlPlane::bare().await.unwrap();
    cluster.kubectl(["create", "namespace", SHOP], "").await.unwrap();
    apply(&cluster, &["-f", &folder("crds")], "").await.unwrap();
    apply(&cluster, &["-k", &folder("deploy/overlays/namespaced")], "").await.unwrap();

    apply(&cluster, &["-n", HOME, "-f", "-"], &documents(&[free_lease()])).await.unwrap();

    let local = Local::new();
    let (worker, controller) = (
        get_object(&cluster, "statefulset", "hookstream-worker").await,
        get_object(&cluster, "deployment", "hookstream-controller").await,
    );
    let worker: Process = local.container(&worker, &[]).start(&cluster, HOME).await;
    let _controller = local.container(&controller, &[]).start(&cluster, HOME).await;
    worker.wait_for_line(|line| line.contains("ingest listening"), DEADLINE).await;
    let kong = Kong::start(&[]).await;
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let handler = json!({"webhook": {"url": receiver.url()}});
    let objects = [
        object("Connection", "kong", json!({"kong": {"adminUrl": kong.url}})),
        object(
            "EventHook",
            "relayed",
            json!({"source": "crud", "event": "consumers", "connectionRef": {"name": "kong"}, "handler": handler}),
        ),
        object("EventHook", "published", json!({"source": "shop", "handler": handler})),
    ];
    apply(&cluster, &["-n", SHOP, "-f", "-"], &documents(&objects)).await.unwrap();
    let wait = [
        "-n",
        SHOP,
        "wait",
        "--for=condition=Ready",
        "--timeout=30s",
        "conn/kong",
        "evh/relayed",
        "evh/published",
    ];
    cluster.kubectl(wait, "").await.unwrap();
    kong.emit("crud", "consumers", json!({"operation": "create"})).await;
    receiver.wait_for(1, DEADLINE).await;

    // A client with the publisher's role in this namespace.
    let publisher = std::fs::read_to_string(folder("deploy/base/publisher-role.yaml")).unwrap();
    apply(&cluster, &["-f", "-"], &publisher).await.unwrap();
    cluster.kubectl(["-n", SHOP, "create", "serviceaccount", "shop"], "").await.unwrap();
    let shop = token(&cluster, SHOP, "shop", Some("hookstream")).await;
    assert_eq!(local.publish(&shop, SHOP).await, 202);
    receiver.wait_for(2, DEADLINE).await;

    for account in ["hookstream-controller", "hookstream-worker"] {
        for resource in ["secrets", "eventhooks.hookstream.dev"] {
            let is_allowed = async |namespace: &str| {
                let account_flag = format!("--as=system:serviceaccount:{HOME}:{account}");
                cluster
                    .kubectl(["auth", "can-i", "list", resource, "-n", namespace, &account_flag], "")
                    .await
                    .is_ok()
            };
            assert!(is_allowed(SHOP).await && !is_allowed("default").await, "{account} {resource}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_overlay_needs_no_rights() {
    let cluster = control_plane();
    apply(cluster, &["-k", &folder("deploy/overlays/standalone")], "").await.unwrap();
    let all =
        objects(&cluster.kubectl(["kustomize", &folder("deploy/overlays/standalone")], "").await.unwrap());
    let kinds: Vec<&str> = all.iter().map(|o| o["kind"].as_str().unwrap()).collect();
    assert!(!kinds.iter().any(|kind| kind.contains("Role")), "{kinds:?}");
    let workload = crate::harness::helm::find(&all, "StatefulSet", "hookstream");
    let mut pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", "namespace": "hookstream"}});
    pod["spec"] = workload["spec"]["template"]["spec"].clone();
    pod["spec"]["volumes"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "data", "persistentVolumeClaim": {"claimName": "data"}}));
    // The namespace enforces the Pod Security Standard `restricted`.
    cluster.kubectl(["create", "--dry-run=server", "-f", "-"], &pod.to_string()).await.unwrap();

    // ConfigMap and Secret as the kubelet mounts them; the receiver is local.
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let (manifests, token) = (watchdog::unique_path("manifests"), watchdog::unique_path("token"));
    std::fs::create_dir(&manifests).unwrap();
    let config = all.iter().find(|o| o["kind"] == "ConfigMap").unwrap();
    for (name, text) in config["data"].as_object().unwrap() {
        let text = text.as_str().unwrap().replace("http://receiver.shop.svc", &receiver.url());
        std::fs::write(manifests.join(name), text).unwrap();
    }
    std::fs::write(&token, "t0ken").unwrap();
    let local = Local::new();
    let map = [
        ("/etc/hookstream/manifests", manifests.to_str().unwrap()),
        ("/etc/hookstream/token/token", token.to_str().unwrap()),
    ];
    let mut workload = workload.clone();
    workload["spec"]["template"]["spec"]["serviceAccountName"] = json!("none");
    let process = Process::spawn(&local.container(&workload, &map).args, &[]);
    process.wait_for_line(|line| line.contains("ingest listening"), DEADLINE).await;
    assert_eq!(local.publish("other", "default").await, 401);
    eventually(DEADLINE, "an accepted event", async || match local.publish("t0ken", "default").await {
        202 => Ok(()),
        other => Err(other.to_string()),
    })
    .await;
    assert_eq!(receiver.wait_for(1, DEADLINE).await[0].path, "/orders");
}
