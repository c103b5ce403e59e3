//! The files in `deploy/`: this version accepts and applies the samples, and the accounts have the rights that they need
//! and no others.

use std::path::{Path, PathBuf};

use hookstream::api::{EventHook, EventStream, Hook};
use hookstream::core::hook::validate;
use hookstream::core::{auth0_hook, stream};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

use crate::harness::objects::{documents, free_lease};
use crate::harness::{DEADLINE, Namespace, Process, Receiver, Reply, control_plane, eventually, free_port};

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

const HOME: &str = "hookstream-system";

async fn apply_base() {
    let base = deploy("base");
    // Server-side, because two tests may apply it at once.
    let apply = ["apply", "--server-side", "--validate=strict", "-k", base.to_str().unwrap()];
    control_plane().kubectl(apply, "").await.unwrap();
}

/// Creates a namespace whose ServiceAccounts have the example roles; the account `shop` may publish.
async fn shop() -> Namespace {
    let shop = control_plane().namespace("shop").await;
    for role in ["publisher", "deliveries-reader", "deliveries-operator", "hooks-tester"] {
        let role = std::fs::read_to_string(deploy(&format!("base/{role}-role.yaml"))).unwrap();
        let role = role.replace("namespace: shop", &format!("namespace: {}", shop.name));
        // Server-side, because its ClusterRole is shared by all tests.
        let apply = ["apply", "--server-side", "--validate=strict", "-f", "-"];
        control_plane().kubectl(apply, &role).await.unwrap();
    }
    shop.kubectl(&["create", "serviceaccount", "shop"]).await.unwrap();
    shop
}

fn manifests(folder: &str) -> Vec<(String, String)> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(deploy(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    assert!(!files.is_empty(), "{folder} is empty");
    files
        .into_iter()
        .map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap()))
        .collect()
}

fn read<K: serde::de::DeserializeOwned>(document: Value) -> K {
    serde_json::from_value(document).unwrap()
}

/// An in-cluster address in a sample or help text is that of a Service of an installation.
#[test]
fn in_cluster_addresses_are_services() {
    let workloads = std::fs::read_to_string(deploy("base/workloads.yaml")).unwrap();
    let objects: Vec<Value> = serde_saphyr::from_multiple(&workloads).unwrap();
    let services: Vec<&str> = objects
        .iter()
        .filter(|object| object["kind"] == "Service")
        .map(|service| service["metadata"]["name"].as_str().unwrap())
        .collect();
    let mut texts = manifests("samples");
    texts.extend(manifests("samples/cluster"));
    texts.push(("src/cli/operator.rs".into(), include_str!("../../../src/cli/operator.rs").into()));
    let mut checked = 0;
    for (file, text) in texts {
        for (before, _) in text.match_indices(&format!(".{HOME}.svc")).map(|(at, _)| text.split_at(at)) {
            let name = before.rsplit('/').next().unwrap();
            assert!(services.contains(&name), "{file}: {name} is none of {services:?}");
            checked += 1;
        }
    }
    assert!(checked >= 3, "{checked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sample_is_accepted_and_applied() {
    for folder in ["samples", "samples/quickstart"] {
        let namespace = control_plane().namespace("samples").await;
        for (path, text) in manifests(folder) {
            namespace.apply(&text).await.unwrap_or_else(|error| panic!("{path}: {error}"));
            for document in serde_saphyr::from_multiple::<Value>(&text).unwrap() {
                let result = match document["kind"].as_str() {
                    Some("EventHook") => validate(&read::<EventHook>(document)).map(drop),
                    Some("EventStream") => stream::validate(&read::<EventStream>(document)).map(drop),
                    Some("Hook") => auth0_hook::validate(&read::<Hook>(document)).map(drop),
                    _ => Ok(()),
                };
                result.unwrap_or_else(|invalid| panic!("{path}: {invalid}"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_have_needed_rights_only() {
    apply_base().await;
    let shop = shop().await;
    let reviews: Api<SubjectAccessReview> = Api::all(shop.client().await);
    let is_allowed = async |account: &str, namespace: &str, request: &str| {
        let (verb, request) = request.split_once(' ').unwrap();
        let (request, name) = request.split_once('#').unwrap_or((request, ""));
        let mut parts = request.split('/');
        let mut part = || parts.next().unwrap_or_default();
        let review = json!({"spec": {
            "user": format!("system:serviceaccount:{account}"),
            "resourceAttributes": {"namespace": namespace, "verb": verb, "name": name,
                "group": part(), "resource": part(), "subresource": part()},
        }});
        let review = serde_json::from_value(review).unwrap();
        reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap().allowed
    };
    // The request (verb, group/resource/subresource#name), the namespace, and whether controller and worker are allowed. `run` may do both.
    let table = [
        ("watch hookstream.dev/eventhooks", "other", true, true),
        ("list hookstream.dev/connections", "other", true, true),
        ("patch hookstream.dev/eventhooks", "other", true, false),
        ("patch hookstream.dev/connections", "other", true, false),
        ("patch hookstream.dev/eventhooks/status", "other", true, true),
        ("patch hookstream.dev/connections/status", "other", true, false),
        ("watch hookstream.dev/eventstreams", "other", true, true),
        ("list hookstream.dev/hooks", "other", true, true),
        ("patch hookstream.dev/eventstreams", "other", true, false),
        ("patch hookstream.dev/hooks", "other", true, false),
        ("patch hookstream.dev/eventstreams/status", "other", true, false),
        ("patch hookstream.dev/hooks/status", "other", true, false),
        ("delete hookstream.dev/eventhooks", "other", false, false),
        ("create hookstream.dev/eventhooks", "other", false, false),
        ("update hookstream.dev/eventhooks", "other", false, false),
        ("get /secrets", "other", true, true),
        ("watch /secrets", "other", true, true),
        ("create /secrets", "other", false, false),
        ("update /secrets#hookstream-keys", HOME, false, false),
        ("get /secrets#hookstream-keys", HOME, true, true),
        ("create /secrets", HOME, true, false),
        ("delete /secrets#hookstream-keys", HOME, false, false),
        ("create events.k8s.io/events", "other", true, true),
        ("create authentication.k8s.io/tokenreviews", "other", false, true),
        ("create authorization.k8s.io/subjectaccessreviews", "other", false, true),
        ("get /pods", "other", false, false),
        ("get /configmaps", "other", true, true),
        ("create hookstream.dev/events", "other", false, false),
    ];
    for (request, namespace, controller, worker) in table {
        for (account, expected) in [
            ("hookstream-controller", controller),
            ("hookstream-worker", worker),
            ("hookstream", controller || worker),
        ] {
            let allowed = is_allowed(&format!("{HOME}:{account}"), namespace, request).await;
            assert_eq!(allowed, expected, "{account}: {request} in {namespace}");
        }
    }
    // The rights that the worker reviews, and the accounts of the example roles that have them.
    let table: [(&str, &[&str]); 9] = [
        ("create hookstream.dev/events", &["shop"]),
        ("list hookstream.dev/deliveries", &["support", "on-call"]),
        ("get hookstream.dev/deliveries", &["support", "on-call"]),
        ("get hookstream.dev/deliveries/payload", &[]),
        ("create hookstream.dev/deliveries/replay", &["on-call"]),
        ("create hookstream.dev/deliveries/cancel", &["on-call"]),
        ("list hookstream.dev/eventhooks", &["developer"]),
        ("create hookstream.dev/eventhooks/test", &["developer"]),
        ("create hookstream.dev/eventhooks/ping", &["developer"]),
    ];
    for (request, accounts) in table {
        for account in ["shop", "support", "on-call", "developer"] {
            let user = format!("{}:{account}", shop.name);
            assert_eq!(
                is_allowed(&user, &shop.name, request).await,
                accounts.contains(&account),
                "{account}: {request}"
            );
            assert!(!is_allowed(&user, "default", request).await, "{account}: {request} elsewhere");
        }
    }
    for request in ["create hookstream.dev/eventhooks", "get hookstream.dev/eventhooks", "get /secrets"] {
        assert!(
            !is_allowed(&format!("{}:developer", shop.name), &shop.name, request).await,
            "developer: {request}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_work_with_their_rights() {
    apply_base().await;
    let shop = shop().await;
    let home = Namespace { name: HOME.into() };
    home.apply(&documents(&[free_lease()])).await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let (kong, ingest) = (free_port(), free_port());
    let address = |port: u16| format!("127.0.0.1:{port}");
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let emulator = Process::spawn(["emulate", "kong", "--listen", &address(kong)], &[]);
    emulator.wait_for_line(|line| line.contains("listening"), DEADLINE).await;
    let receiver = Receiver::start(|_, _| Reply::status(200));

    let common = ["--namespace", &shop.name, "--egress-allow", "127.0.0.0/8", "--ops-listen", "127.0.0.1:0"];
    let role = async |account: &str, args: &[&str]| {
        let kubeconfig = home.kubeconfig_of(account).await;
        let args = args.iter().chain(&common);
        Process::spawn(args, &[("KUBECONFIG", kubeconfig.to_str().unwrap())])
    };
    let folder = data.path().to_str().unwrap();
    let _controller = role("hookstream-controller", &["controller", "--ingest-url", &url(ingest)]).await;
    let listen = ["--listen", &address(ingest), "--api-listen", "127.0.0.1:0"];
    let worker = [&["worker", "--data", folder], &listen[..]].concat();
    let worker = role("hookstream-worker", &worker).await;
    worker.wait_for_line(|line| line.contains("ingest listening"), DEADLINE).await;

    let manifests = format!(
        r#"
apiVersion: v1
kind: Secret
metadata: {{name: signing}}
stringData: {{secret: s3cret}}
---
apiVersion: hookstream.dev/v1alpha1
kind: Connection
metadata: {{name: kong}}
spec: {{kong: {{adminUrl: "{kong}"}}}}
---
apiVersion: hookstream.dev/v1alpha1
kind: EventHook
metadata: {{name: relayed}}
spec:
  source: crud
  event: consumers
  connectionRef: {{name: kong}}
  handler: {{webhook: {{url: "{to}/relayed", signature: {{secretRef: {{name: signing, key: secret}}}}}}}}
---
apiVersion: hookstream.dev/v1alpha1
kind: EventHook
metadata: {{name: published}}
spec: {{source: shop, handler: {{webhook: {{url: "{to}/published"}}}}}}
"#,
        kong = url(kong),
        to = receiver.url(),
    );
    shop.apply(&manifests).await.unwrap();
    let ready =
        ["wait", "--for=condition=Ready", "evh/relayed", "evh/published", "conn/kong", "--timeout=30s"];
    shop.kubectl(&ready).await.unwrap();
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    let event = json!({"source": "crud", "event": "consumers", "data": {"operation": "create"}});
    http.post(format!("{}/__emulator/events", url(kong))).body(event.to_string()).send().await.unwrap();
    receiver.wait_for(1, DEADLINE).await;

    let publish = async |token: &str| {
        let to = format!("{}/v1/namespaces/{}/events", url(ingest), shop.name);
        let event = json!({"source": "shop", "event": "order.created", "data": {}});
        http.post(to).bearer_auth(token).body(event.to_string()).send().await.unwrap().status()
    };
    assert_eq!(publish(&shop.token("shop", &["hookstream"]).await).await, 202);
    assert_eq!(publish(&home.token("hookstream-worker", &["hookstream"]).await).await, 403);
    assert_eq!(publish("missing").await, 401);
    let paths: Vec<String> =
        receiver.wait_for(2, DEADLINE).await.into_iter().map(|request| request.path).collect();
    assert_eq!(paths, ["/relayed", "/published"]);

    // An Event reports the sync, and Kong's hook is deleted with its object.
    eventually(DEADLINE, "a Kubernetes Event about the hook", async || {
        let events = shop.kubectl(&["events", "--for", "eventhook/relayed"]).await?;
        events.contains("Synced").then_some(()).ok_or(events)
    })
    .await;
    shop.kubectl(&["delete", "evh,conn", "--all", "--timeout=30s"]).await.unwrap();
    let remaining =
        http.get(format!("{}/event-hooks", url(kong))).send().await.unwrap().text().await.unwrap();
    assert!(remaining.contains(r#""data":[]"#), "{remaining}");
}
