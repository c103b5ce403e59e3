//! Who publishes is judged by the API server: TokenReview, then SubjectAccessReview, on a real one, by a worker that
//! has the worker's rights and no more.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{
    Accounts, DEADLINE, Namespace, Process, Receiver, Reply, control_plane, eventually, free_port, watchdog,
};
use crate::standalone::{DEAD, DELIVERED, FINISHED, INGESTED, client, count, event, hook, quick};

/// A worker of the cluster role, for one namespace.
pub struct Worker {
    process: Process,
    pub ingest: String,
    pub api: String,
    ops: String,
    pub namespace: Namespace,
    pub client: reqwest::Client,
}

impl Worker {
    pub async fn start(namespace: Namespace, kubeconfig: PathBuf, more: &[&str]) -> Worker {
        Worker::start_on(IpAddr::from([127, 0, 0, 1]), namespace, kubeconfig, more).await
    }

    /// The same with its ports on this address.
    pub async fn start_on(ip: IpAddr, namespace: Namespace, kubeconfig: PathBuf, more: &[&str]) -> Worker {
        let [listen, api, ops] = std::array::from_fn(|_| SocketAddr::new(ip, free_port()).to_string());
        // The worker of a cluster does not make it: a volume that is not mounted would look like an empty one.
        let data = watchdog::unique_path("data");
        std::fs::create_dir(&data).expect("a folder");
        let data = data.display().to_string();
        let name = namespace.name.clone();
        let mut args = vec!["worker", "--data", &data, "--listen", &listen, "--ops-listen", &ops];
        args.extend(["--api-listen", &api]);
        args.extend(["--namespace", &name, "--operator-namespace", &name]);
        args.extend(more);
        let process = Process::spawn(args, &[("KUBECONFIG", kubeconfig.to_str().expect("a path"))]);
        process.wait_for_line(|line| line.contains("ingest listening"), DEADLINE).await;
        Worker {
            process,
            ingest: format!("http://{listen}"),
            api: format!("http://{api}"),
            ops: format!("http://{ops}"),
            namespace,
            client: client(),
        }
    }

    pub async fn publish(&self, namespace: &str, token: Option<&str>, id: &str) -> (u16, Value) {
        let url = format!("{}/v1/namespaces/{namespace}/events", self.ingest);
        let mut request = self.client.post(url).json(&event(id));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        crate::standalone::answer(request).await
    }

    async fn metrics(&self) -> String {
        self.client.get(format!("{}/metrics", self.ops)).send().await.unwrap().text().await.unwrap()
    }
}

/// A namespace with the operator's accounts, of which the worker's is given, and two callers of which one may
/// publish.
pub async fn accounts(hint: &str) -> (Namespace, PathBuf) {
    let namespace = control_plane().namespace(hint).await;
    let kubeconfig = Accounts::of(&namespace).await.worker;
    namespace
        .service_account("publisher", "[{apiGroups: [hookstream.dev], resources: [events], verbs: [create]}]")
        .await;
    namespace
        .service_account("reader", "[{apiGroups: [hookstream.dev], resources: [eventhooks], verbs: [list]}]")
        .await;
    (namespace, kubeconfig)
}

#[tokio::test(flavor = "multi_thread")]
async fn by_token_and_right() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let (namespace, kubeconfig) = accounts("callers").await;
    let other = control_plane().namespace("others").await;
    namespace.apply(&hook("h", &receiver.url(), quick())).await.unwrap();
    let worker = Worker::start(namespace, kubeconfig, &["--egress-allow", "127.0.0.0/8"]).await;
    let namespace = &worker.namespace;
    let publisher = namespace.token("publisher", &["hookstream"]).await;
    let reader = namespace.token("reader", &["hookstream"]).await;
    let for_the_api_server = namespace.token("publisher", &["https://kubernetes.default.svc"]).await;
    let (name, elsewhere) = (namespace.name.as_str(), other.name.as_str());

    for (token, place, status, reason) in [
        (None, name, 401, "Unauthenticated"),
        (Some("garbage"), name, 401, "Unauthenticated"),
        (Some(&publisher[..publisher.len() - 4]), name, 401, "Unauthenticated"),
        (Some(for_the_api_server.as_str()), name, 401, "Unauthenticated"),
        (Some(reader.as_str()), name, 403, "Forbidden"),
        (Some(publisher.as_str()), elsewhere, 403, "Forbidden"),
    ] {
        // Twice: the second answer is a remembered one.
        for _ in 0..2 {
            let (found, body) = worker.publish(place, token, "refused").await;
            assert_eq!((found, body["reason"].as_str()), (status, Some(reason)), "{place}: {body}");
        }
    }
    for id in ["1", "2"] {
        let (status, body) = worker.publish(name, Some(&publisher), id).await;
        assert_eq!((status, body["deliveries"].as_u64()), (202, Some(1)), "{body}");
    }
    let seen = receiver.wait_for(2, DEADLINE).await;
    assert!(seen.iter().all(|r| r.json()["id"] != "refused"));
    assert_eq!(count(&worker.metrics().await, INGESTED, &[r#"outcome="Accepted""#]), 2);

    // A right that is given is seen soon.
    let role = ["create", "role", "late", "--verb=create", "--resource=events.hookstream.dev"];
    let may = namespace.kubectl(&role).await;
    if may.is_err() {
        // kubectl looks the resource up, and events exist as a right only.
        let rules = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "late"},
            "rules": [{"apiGroups": ["hookstream.dev"], "resources": ["events"], "verbs": ["create"]}]});
        namespace.apply(&rules.to_string()).await.unwrap();
    }
    let account = format!("--serviceaccount={name}:reader");
    namespace.kubectl(&["create", "rolebinding", "late", "--role=late", &account]).await.unwrap();
    eventually(DEADLINE, "the new right to count", async || {
        let (status, body) = worker.publish(name, Some(&reader), "3").await;
        if status == 202 { Ok(()) } else { Err(body.to_string()) }
    })
    .await;
    let log = worker.process.log();
    assert!(!log.contains(&publisher) && !log.contains(&reader), "a token is in the log");
}

/// Forwards connections to the API server, counted in `live`, until it is told to stop: then those that are open break,
/// and new ones too.
pub async fn gate_to_the_api_server(open: Arc<AtomicBool>, live: Arc<AtomicUsize>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = control_plane().url.trim_start_matches("https://").to_owned();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let (server, open, live) = (server.clone(), open.clone(), live.clone());
            tokio::spawn(async move {
                if !open.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(mut to) = TcpStream::connect(server).await else { return };
                live.fetch_add(1, Ordering::SeqCst);
                let closed = async {
                    while open.load(Ordering::SeqCst) {
                        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    }
                };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
                    () = closed => {}
                }
                live.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_api_server_a_stranger_must_come_again_and_deliveries_go_on() {
    let receiver = Receiver::start(|_, n| Reply::status(if n == 1 { 503 } else { 200 }));
    let (namespace, kubeconfig) = accounts("alone").await;
    namespace.apply(&hook("h", &receiver.url(), quick())).await.unwrap();
    let open = Arc::new(AtomicBool::new(true));
    let live = Arc::new(AtomicUsize::new(0));
    let port = gate_to_the_api_server(open.clone(), live.clone()).await;
    let text = std::fs::read_to_string(&kubeconfig).unwrap();
    let through_the_gate = watchdog::unique_path("kubeconfig");
    std::fs::write(
        &through_the_gate,
        text.replace(&control_plane().url, &format!("https://127.0.0.1:{port}")),
    )
    .unwrap();
    let worker = Worker::start(namespace, through_the_gate, &["--egress-allow", "127.0.0.0/8"]).await;
    let name = worker.namespace.name.clone();
    let known = worker.namespace.token("publisher", &["hookstream"]).await;
    let stranger = worker.namespace.token("publisher", &["hookstream"]).await;
    assert_eq!(worker.publish(&name, Some(&known), "1").await.0, 202);

    open.store(false, Ordering::SeqCst);
    eventually(DEADLINE, "the connections to break", async || match live.load(Ordering::SeqCst) {
        0 => Ok(()),
        live => Err(live.to_string()),
    })
    .await;
    let url = format!("{}/v1/namespaces/{name}/events", worker.ingest);
    let response = worker.client.post(url).bearer_auth(&stranger).json(&event("2")).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 503);
    assert!(response.headers().contains_key("retry-after"));
    assert!(response.text().await.unwrap().contains("Unavailable"));
    assert_eq!(worker.publish(&name, Some(&known), "3").await.0, 202, "who was judged a moment ago goes on");
    eventually(DEADLINE, "both to be delivered, one by a retry", async || {
        let delivered = count(&worker.metrics().await, FINISHED, &[DELIVERED]);
        if delivered == 2 { Ok(()) } else { Err(delivered.to_string()) }
    })
    .await;

    open.store(true, Ordering::SeqCst);
    eventually(DEADLINE, "the stranger to be judged", async || {
        let (status, body) = worker.publish(&name, Some(&stranger), "2").await;
        if status == 202 { Ok(()) } else { Err(body.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_loopback_and_the_api_server_are_out_of_reach() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let (namespace, kubeconfig) = accounts("egress").await;
    let mut api_server = quick();
    api_server["source"] = json!("api-server");
    // Also where loopback is allowed: it would carry the worker's trust.
    let hooks = hook("h", &receiver.url(), quick()) + &hook("api", &control_plane().url, api_server);
    namespace.apply(&hooks).await.unwrap();
    let publisher = namespace.token("publisher", &["hookstream"]).await;
    for (allow, source) in [(&[][..], "s"), (&["--egress-allow", "127.0.0.0/8"][..], "api-server")] {
        let same = Namespace { name: namespace.name.clone() };
        let worker = Worker::start(same, kubeconfig.clone(), allow).await;
        let url = format!("{}/v1/namespaces/{}/events", worker.ingest, namespace.name);
        let body = json!({"source": source, "event": "e"});
        let response = worker.client.post(url).bearer_auth(&publisher).json(&body).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 202);
        eventually(DEADLINE, "the delivery to be dead", async || {
            let dead = count(&worker.metrics().await, FINISHED, &[DEAD, r#"reason="EgressDenied""#]);
            if dead == 1 { Ok(()) } else { Err(worker.metrics().await) }
        })
        .await;
    }
    assert!(receiver.requests().is_empty());
}
