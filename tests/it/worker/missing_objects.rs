//! A worker whose objects are missing: hooks that are being deleted, namespaces that do not exist, an API server that is
//! unreachable when the worker starts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use hookstream::api::{SignatureAlgorithm, SignatureEncoding};
use hookstream::core::keys::KeyRing;
use hookstream::core::relay;
use hookstream::core::sign::kong_signature;
use secrecy::ExposeSecret;

use crate::harness::http::{answer, client};
use crate::harness::manifests::{event, hook, quick};
use crate::harness::worker::{KEY, Worker, create_accounts, key_ring_secret, proxied_kubeconfig};
use crate::harness::{
    DEADLINE, Namespace, Process, Receiver, Reply, control_plane, eventually, free_port, watchdog,
};

/// Returns an EventHook that Kong relays for, with a finalizer that keeps it while it is being deleted.
fn relayed_hook(url: &str) -> Value {
    json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
        "metadata": {"name": "relayed", "finalizers": ["example.com/held"]},
        "spec": {"source": "crud", "connectionRef": {"name": "kong"}, "handler": {"webhook": {"url": url}}}})
}

async fn get_hook(namespace: &Namespace, name: &str) -> Value {
    let text = namespace.kubectl(&["get", "eventhook", name, "-o", "json"]).await.expect("the hook");
    serde_json::from_str(&text).expect("JSON")
}

/// Relays as Kong does. Returns the status and the answer; None if the connection was closed.
async fn relay(worker: &Worker, hook: &Value, id: &str) -> Option<(u16, Value)> {
    let ring = KeyRing::from_data([("k1", KEY.as_slice())].into_iter()).unwrap();
    let hook = serde_json::from_value(hook.clone()).unwrap();
    let secret = relay::derive_secret(&ring, "k1", &hook, None).unwrap();
    let body = json!({"source": "crud", "event": "consumers", "entity": {"id": id}}).to_string();
    let (sha256, hex) = (SignatureAlgorithm::SHA256, SignatureEncoding::PrefixedHex);
    let signature = kong_signature(secret.expose_secret().as_bytes(), sha256, hex, body.as_bytes());
    let url = format!("{}/v1/namespaces/{}/relays/relayed", worker.ingest, worker.namespace.name);
    let request = worker.client.post(url).header("x-kong-signature", signature).body(body);
    let response = request.send().await.ok()?;
    Some((response.status().as_u16(), response.json().await.unwrap_or(Value::Null)))
}

/// Kong still relays for a hook that is being deleted. The answer is 202, because Kong would drop the event at any other
/// status, and the dead letter can be replayed to a later hook of the same name.
#[tokio::test(flavor = "multi_thread")]
async fn relay_to_deleted_hook_is_a_dead_letter() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let (namespace, kubeconfig) = create_accounts("deleting").await;
    namespace.service_account("on-call", "[{apiGroups: [hookstream.dev], resources: [deliveries, deliveries/replay], verbs: [get, list, create]}]").await;
    namespace.apply(&format!("{}\n---\n{}", key_ring_secret(), relayed_hook(&receiver.url()))).await.unwrap();
    let worker = Worker::start(namespace, kubeconfig, &["--egress-allow", "127.0.0.0/8"]).await;
    let namespace = &worker.namespace;
    let hook = get_hook(namespace, "relayed").await;
    assert_eq!(relay(&worker, &hook, "before").await.expect("an answer").0, 202);
    receiver.wait_for(1, DEADLINE).await;

    namespace.kubectl(&["delete", "eventhook", "relayed", "--wait=false"]).await.unwrap();
    let token = namespace.token("on-call", &["hookstream"]).await;
    let url = |path: &str| format!("{}/v1/namespaces/{}/deliveries{path}", worker.api, namespace.name);
    let list = async |query: &str| answer(worker.client.get(url(query)).bearer_auth(&token)).await.1;
    let mut relays = 0;
    let dead = eventually(DEADLINE, "the worker to register the deletion", async || {
        relays += 1;
        let (status, body) = relay(&worker, &hook, &relays.to_string()).await.expect("an answer");
        assert_eq!((status, &body["deliveries"]), (202, &json!(1)), "{body}");
        let dead = list("?state=dead").await["items"][0].clone();
        if dead.is_null() { Err("the relay was delivered".to_owned()) } else { Ok(dead) }
    })
    .await;
    assert_eq!((&dead["reason"], &dead["attempts"]), (&json!("HookDeleted"), &json!([])), "{dead}");

    let patch = json!({"metadata": {"finalizers": null}}).to_string();
    namespace.kubectl(&["patch", "eventhook", "relayed", "--type=merge", "-p", &patch]).await.unwrap();
    namespace.apply(&relayed_hook(&receiver.url()).to_string()).await.unwrap();
    let id = dead["id"].as_str().unwrap();
    let (status, body) = answer(worker.client.post(url(&format!("/{id}/replay"))).bearer_auth(&token)).await;
    assert_eq!(status, 202, "{body}");
    eventually(DEADLINE, "the replay to be delivered to the new hook of the name", async || {
        let is_delivered = receiver.requests().iter().any(|request| request.header("webhook-id") == id);
        if is_delivered { Ok(()) } else { Err(list("?state=pending").await.to_string()) }
    })
    .await;
    namespace.kubectl(&["patch", "eventhook", "relayed", "--type=merge", "-p", &patch]).await.unwrap();
}

/// If the event were stored, a later namespace of the same name would have it in its history.
#[tokio::test(flavor = "multi_thread")]
async fn missing_namespace_is_refused() {
    let (namespace, kubeconfig) = create_accounts("nowhere").await;
    let name = namespace.name.clone();
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": format!("{name}-all")},
        "rules": [{"apiGroups": ["hookstream.dev"], "resources": ["events"], "verbs": ["create"]}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": format!("{name}-all")},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": format!("{name}-all")},
        "subjects": [{"kind": "ServiceAccount", "name": "publisher", "namespace": name}]});
    control_plane()
        .kubectl(["apply", "-f", "-"], &format!("{role}\n---\n{binding}"))
        .await
        .expect("the right everywhere");
    let worker = Worker::start(namespace, kubeconfig, &[]).await;
    let token = worker.namespace.token("publisher", &["hookstream"]).await;
    let (status, body) = worker.publish(&format!("{name}-none"), Some(&token), "1").await;
    assert_eq!((status, body["reason"].as_str()), (404, Some("NotFound")), "{body}");
    assert!(body["detail"].as_str().unwrap().contains("namespace"), "{body}");
    assert_eq!(worker.publish(&name, Some(&token), "1").await.0, 202);
}

/// An event that arrives before the hooks are registered would match none of them.
#[tokio::test(flavor = "multi_thread")]
async fn ingest_port_opens_after_hooks_are_listed() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let (namespace, kubeconfig) = create_accounts("opens").await;
    namespace.apply(&hook("h", &receiver.url(), quick())).await.unwrap();
    let token = namespace.token("publisher", &["hookstream"]).await;
    let is_open = Arc::new(AtomicBool::new(false));
    let proxied_kubeconfig = proxied_kubeconfig(&kubeconfig, is_open.clone(), Arc::default()).await;
    let data = watchdog::unique_path("data");
    std::fs::create_dir(&data).unwrap();
    let [listen, api, ops] = std::array::from_fn(|_| format!("127.0.0.1:{}", free_port()));
    let args = BTreeMap::from([
        ("--data", data.to_str().unwrap()),
        ("--listen", &listen),
        ("--api-listen", &api),
        ("--ops-listen", &ops),
        ("--namespace", &namespace.name),
        ("--operator-namespace", &namespace.name),
        ("--egress-allow", "127.0.0.0/8"),
    ]);
    let args = std::iter::once("worker").chain(args.into_iter().flat_map(|(flag, value)| [flag, value]));
    let worker = Process::spawn(args, &[("KUBECONFIG", proxied_kubeconfig.to_str().unwrap())]);
    let client = client();
    eventually(DEADLINE, "the ops port to name the missing condition", async || {
        let answer = client.get(format!("http://{ops}/readyz")).send().await.map_err(|e| e.to_string())?;
        assert_eq!(answer.status(), 503);
        let text = answer.text().await.map_err(|e| e.to_string())?;
        if text.contains("the ingest port is open") { Ok(()) } else { Err(text) }
    })
    .await;
    for port in [&listen, &api] {
        assert!(tokio::net::TcpStream::connect(port).await.is_err(), "{port} is open: {}", worker.log());
    }

    is_open.store(true, Ordering::SeqCst);
    worker.wait_for_line(|line| line.contains("ingest listening"), DEADLINE).await;
    let url = format!("http://{listen}/v1/namespaces/{}/events", namespace.name);
    let (status, body) = answer(client.post(url).bearer_auth(token).json(&event("1"))).await;
    assert_eq!((status, &body["deliveries"]), (202, &json!(1)), "the first event matches its hook: {body}");
    receiver.wait_for(1, DEADLINE).await;
}
