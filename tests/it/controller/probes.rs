//! `/livez` and `/readyz`: a watch that hangs, and missing CRDs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use hookstream::cluster::ResourceKind;
use serde_json::{Value, json};
use strum::IntoEnumIterator;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::http::http;
use crate::harness::world::World;
use crate::harness::{DEADLINE, Process, control_plane, eventually, free_port, watchdog};

/// A proxy between a process and the API server. Once it is silent it forwards no byte of old or new connections, and
/// closes none.
struct Proxy {
    address: String,
    silent: Arc<AtomicBool>,
}

impl Proxy {
    async fn start(to: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let silent = Arc::new(AtomicBool::new(false));
        let flag = silent.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (to, flag) = (to.clone(), flag.clone());
                tokio::spawn(async move {
                    let server = TcpStream::connect(to).await.unwrap();
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::join!(
                        forward(from_client, to_server, &flag),
                        forward(from_server, to_client, &flag)
                    );
                });
            }
        });
        Proxy { address, silent }
    }
}

async fn forward(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, silent: &AtomicBool) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    to.shutdown().await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_watch_fails_liveness() {
    let mut world = World::start("hangs").await;
    world.stop_operator().await;
    let kubeconfig = std::fs::read_to_string(&world.accounts.controller).unwrap();
    let server = control_plane().url.trim_start_matches("https://").to_owned();
    let proxy = Proxy::start(server.clone()).await;
    let proxied_kubeconfig = watchdog::unique_path("kubeconfig");
    std::fs::write(&proxied_kubeconfig, kubeconfig.replace(&server, &proxy.address)).unwrap();
    world.accounts.controller = proxied_kubeconfig;
    let operator = world.another("controller", &["--watch-timeout", "5s"]);
    let is_ready = async || match world.ops(&operator, "/readyz").await {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    eventually(DEADLINE, "readiness", is_ready).await;
    assert_eq!(world.ops(&operator, "/livez").await, (200, "ok\n".to_owned()));

    proxy.silent.store(true, Ordering::SeqCst);
    let text =
        eventually(DEADLINE * 2, "liveness to fail", async || match world.ops(&operator, "/livez").await {
            (503, text) => Ok(text),
            other => Err(format!("{other:?}")),
        })
        .await;
    assert!(text.contains("not alive: the watch of /apis/hookstream.dev/v1alpha1/namespaces/"), "{text}");
    assert!(text.contains("no progress for"), "{text}");
    assert!(operator.ended().is_none(), "restarting the process is the kubelet's job");
}

/// Serves the discovery of the API group, and nothing else. The API server of the other tests always has the CRDs.
async fn discovery(installed: Arc<Mutex<Vec<&'static str>>>) -> String {
    let serve = move || async move {
        let names = installed.lock().unwrap().clone();
        let resources: Vec<Value> = names
            .iter()
            .map(|name| json!({"name": name, "namespaced": true, "kind": "K", "singularName": "", "verbs": ["list"]}))
            .collect();
        match resources.is_empty() {
            true => (
                http::StatusCode::NOT_FOUND,
                axum::Json(json!({"kind": "Status", "status": "Failure", "code": 404,
                "reason": "NotFound", "message": "not found", "apiVersion": "v1", "metadata": {}})),
            ),
            false => (
                http::StatusCode::OK,
                axum::Json(json!({"kind": "APIResourceList", "apiVersion": "v1",
                "groupVersion": "hookstream.dev/v1alpha1", "resources": resources})),
            ),
        }
    };
    let router = axum::Router::new().route("/apis/hookstream.dev/v1alpha1", axum::routing::get(serve));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_names_missing_crds() {
    let installed = Arc::new(Mutex::new(Vec::new()));
    let server = discovery(installed.clone()).await;
    let kubeconfig = watchdog::unique_path("kubeconfig");
    let text = json!({"apiVersion": "v1", "kind": "Config", "current-context": "it", "users": [{"name": "it", "user": {}}],
        "clusters": [{"name": "it", "cluster": {"server": server}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}]});
    std::fs::write(&kubeconfig, text.to_string()).unwrap();
    let ops = format!("127.0.0.1:{}", free_port());
    let args = ["controller", "--ops-listen", &ops];
    let operator = Process::spawn(args, &[("KUBECONFIG", kubeconfig.to_str().unwrap())]);
    let wait_for_answer = async |fits: &dyn Fn(&str) -> bool| {
        eventually(DEADLINE, "an answer of readyz", async || {
            assert!(operator.ended().is_none(), "{}", operator.log());
            let answer =
                http().get(format!("http://{ops}/readyz")).send().await.map_err(|e| e.to_string())?;
            assert_eq!(answer.status(), 503);
            let text = answer.text().await.map_err(|e| e.to_string())?;
            if fits(&text) { Ok(()) } else { Err(text) }
        })
        .await;
    };
    let is_named = |text: &str, name: &str| text.contains(&format!("{name}.hookstream.dev"));
    wait_for_answer(&|text| is_named(text, "eventhooks") && is_named(text, "connections")).await;
    installed.lock().unwrap().push("connections");
    wait_for_answer(&|text| is_named(text, "eventhooks") && !is_named(text, "connections")).await;
    assert!(operator.log().contains("kubectl apply --server-side -f crds"), "{}", operator.log());
    installed.lock().unwrap().extend(ResourceKind::iter().map(plural));
    wait_for_answer(&|text| !text.contains("CRDs") && text.contains("the objects are listed")).await;
}

fn plural(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::EventHook => "eventhooks",
        ResourceKind::Connection => "connections",
        ResourceKind::EventStream => "eventstreams",
        ResourceKind::Hook => "hooks",
    }
}

/// A Pod that is stopped while the API server is away must not wait until it is killed.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_process_without_api_server() {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    let server = format!("http://127.0.0.1:{}", free_port());
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server}}], "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]});
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    for role in ["worker", "run", "controller"] {
        let ops = format!("127.0.0.1:{}", free_port());
        let data = folder.path().join(role);
        std::fs::create_dir(&data).unwrap();
        let mut args = vec![role, "--ops-listen", &ops];
        if role != "controller" {
            args.extend([
                "--data",
                data.to_str().unwrap(),
                "--listen",
                "127.0.0.1:0",
                "--api-listen",
                "127.0.0.1:0",
            ]);
        }
        let process = Process::spawn(args, &[("KUBECONFIG", kubeconfig.to_str().unwrap())]);
        let url = format!("http://{ops}/livez");
        eventually(DEADLINE, "the ops port to be open", async || match http().get(&url).send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        })
        .await;
        let status = process.terminate().await;
        assert!(status.success(), "{role}: {status}: {}", process.log());
    }
}
