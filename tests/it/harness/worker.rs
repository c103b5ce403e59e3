//! `hookstream worker` as a process in a cluster, under the worker's account.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::http::{answer, client};
use super::manifests::event;
use super::{Accounts, DEADLINE, Namespace, Process, control_plane, free_port, watchdog};

/// A worker for one namespace.
pub struct Worker {
    pub process: Process,
    pub ingest: String,
    pub api: String,
    ops: String,
    pub namespace: Namespace,
    pub client: reqwest::Client,
}

impl Worker {
    pub async fn start(namespace: Namespace, kubeconfig: PathBuf, flags: &[&str]) -> Worker {
        Worker::start_on(IpAddr::from([127, 0, 0, 1]), namespace, kubeconfig, flags).await
    }

    /// Starts a worker with its ports on this address.
    pub async fn start_on(ip: IpAddr, namespace: Namespace, kubeconfig: PathBuf, flags: &[&str]) -> Worker {
        let [listen, api, ops] = std::array::from_fn(|_| SocketAddr::new(ip, free_port()).to_string());
        // The worker does not create its data folder: a volume that is not mounted would look like an empty store.
        let data = watchdog::unique_path("data");
        std::fs::create_dir(&data).expect("a folder");
        let data = data.display().to_string();
        let name = namespace.name.clone();
        let mut args = vec!["worker", "--data", &data, "--listen", &listen, "--ops-listen", &ops];
        args.extend(["--api-listen", &api]);
        args.extend(["--namespace", &name, "--operator-namespace", &name]);
        args.extend(flags);
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
        answer(request).await
    }

    pub async fn metrics(&self) -> String {
        self.client.get(format!("{}/metrics", self.ops)).send().await.unwrap().text().await.unwrap()
    }
}

/// Returns an address of this machine other than loopback, because the API server does not forward to loopback.
pub fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Sends nothing; connecting a UDP socket only selects the source address.
    socket.connect("192.0.2.1:9").ok()?;
    socket
        .local_addr()
        .ok()
        .map(|address| address.ip())
        .filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

/// A Service that leads to ports of this machine.
pub struct Service {
    pub name: &'static str,
    pub ip: IpAddr,
    pub api: u16,
    pub ingest: Option<u16>,
}

impl Service {
    /// Creates it with a Pod and Endpoints, which a kubelet and the controllers would write. The API server forwards to
    /// addresses of Pods only.
    pub async fn create(&self, namespace: &Namespace) {
        let (name, ip) = (self.name, self.ip.to_string());
        let port = |name: &str, port: u16| json!({"name": name, "port": port});
        let ports: Vec<Value> =
            [Some(port("api", self.api)), self.ingest.map(|ingest| port("ingest", ingest))]
                .into_iter()
                .flatten()
                .collect();
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"ports": [port("api", 8082), port("ingest", 8080)]}});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "worker-0"}, "spec": {
            "serviceAccountName": "default", "automountServiceAccountToken": false,
            "containers": [{"name": "worker", "image": "hookstream"}]}});
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        let target = json!({"kind": "Pod", "namespace": namespace.name, "name": "worker-0"});
        let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": name},
            "subsets": [{"addresses": [{"ip": ip, "targetRef": target}], "ports": ports}]});
        let manifests = format!("{account}\n---\n{service}\n---\n{pod}\n---\n{endpoints}\n");
        namespace.apply(&manifests).await.expect("the service");
        let status = json!({"status": {"podIP": ip, "podIPs": [{"ip": ip}]}}).to_string();
        let patch = ["patch", "pod", "worker-0", "--subresource=status", "--type=merge", "-p", &status];
        namespace.kubectl(&patch).await.expect("the pod's address");
    }
}

/// The key of [`key_ring_secret`].
pub const KEY: [u8; 32] = [7; 32];

/// Returns the manifest of the key ring, which the controller would create.
pub fn key_ring_secret() -> String {
    use base64::prelude::*;
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hookstream-keys"},
        "data": {"k1": BASE64_STANDARD.encode(KEY)}})
    .to_string()
}

/// Creates a namespace with the operator's accounts and two callers, of which one may publish. Returns the namespace and
/// the kubeconfig of the worker's account.
pub async fn create_accounts(hint: &str) -> (Namespace, PathBuf) {
    let namespace = control_plane().namespace(hint).await;
    let kubeconfig = Accounts::create(&namespace).await.worker;
    namespace
        .service_account("publisher", "[{apiGroups: [hookstream.dev], resources: [events], verbs: [create]}]")
        .await;
    namespace
        .service_account("reader", "[{apiGroups: [hookstream.dev], resources: [eventhooks], verbs: [list]}]")
        .await;
    (namespace, kubeconfig)
}

/// Copies a kubeconfig file, with the API server behind a proxy as in [`start_api_server_proxy`].
pub async fn proxied_kubeconfig(
    kubeconfig: &Path,
    is_open: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
) -> PathBuf {
    let port = start_api_server_proxy(is_open, connections).await;
    let text = std::fs::read_to_string(kubeconfig).unwrap();
    let proxied = watchdog::unique_path("kubeconfig");
    let url = format!("https://127.0.0.1:{port}");
    std::fs::write(&proxied, text.replace(&control_plane().url, &url)).unwrap();
    proxied
}

/// Starts a proxy to the API server and returns its port. `connections` counts the open ones. While `is_open` is false, the
/// proxy closes all connections.
async fn start_api_server_proxy(is_open: Arc<AtomicBool>, connections: Arc<AtomicUsize>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = control_plane().url.trim_start_matches("https://").to_owned();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (server, is_open, connections) = (server.clone(), is_open.clone(), connections.clone());
            tokio::spawn(async move {
                if !is_open.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(mut upstream) = TcpStream::connect(server).await else { return };
                connections.fetch_add(1, Ordering::SeqCst);
                let closed = async {
                    while is_open.load(Ordering::SeqCst) {
                        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    }
                };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut upstream) => {}
                    () = closed => {}
                }
                connections.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    port
}
