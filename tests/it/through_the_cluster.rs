//! `hookstream deliveries --service`, and `ping` and `send`: the worker is reached through the API server, whose proxy is the real one.

use std::net::{IpAddr, UdpSocket};

use serde_json::{Value, json};

use crate::callers_are_judged::{Worker, accounts};
use crate::harness::{DEADLINE, Process, Receiver, Reply, control_plane, eventually};
use crate::standalone::hook;

/// An address of this machine that is no loopback: the API server passes nothing on to one.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Sends nothing: it only chooses the address from which it would.
    socket.connect("192.0.2.1:9").ok()?;
    socket
        .local_addr()
        .ok()
        .map(|address| address.ip())
        .filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

async fn deliveries(kubeconfig: &str, args: &[&str]) -> (i32, String) {
    run(kubeconfig, &[&["deliveries"], args].concat()).await
}

async fn run(kubeconfig: &str, args: &[&str]) -> (i32, String) {
    let process = Process::spawn(args, &[("KUBECONFIG", kubeconfig)]);
    let status = process.wait(DEADLINE).await;
    (status.code().expect("an exit code"), process.log())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_lists_deliveries_by_the_kubeconfig_alone() {
    let Some(ip) = own_address() else {
        eprintln!(
            "left out: this machine has no address but loopback, to which the API server passes nothing on"
        );
        return;
    };
    let (namespace, kubeconfig) = accounts("through").await;
    let name = namespace.name.clone();
    let worker = Worker::start_on(ip, namespace, kubeconfig, &["--egress-allow", "127.0.0.0/8"]).await;
    let port = |url: &str| url.rsplit(':').next().unwrap().parse::<u16>().unwrap();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "worker-api"},
        "spec": {"ports": [{"name": "api", "port": 8082}, {"name": "ingest", "port": 8080}]}});
    // As a kubelet and the controllers would write them: the API server passes on to addresses of Pods alone.
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "worker-0"}, "spec": {
        "serviceAccountName": "reader", "automountServiceAccountToken": false,
        "containers": [{"name": "worker", "image": "hookstream"}]}});
    let target = json!({"kind": "Pod", "namespace": name, "name": "worker-0"});
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "worker-api"},
        "subsets": [{"addresses": [{"ip": ip.to_string(), "targetRef": target}],
            "ports": [{"name": "api", "port": port(&worker.api)}, {"name": "ingest", "port": port(&worker.ingest)}]}]});
    let rules = |resources: Value, group: &str, verbs: Value| json!([{"apiGroups": [group], "resources": resources, "verbs": verbs}]);
    // On whose behalf the worker is asked: may list, and may not replay.
    let reads = rules(json!(["deliveries"]), "hookstream.dev", json!(["list", "get"]));
    worker.namespace.service_account("reader", &reads.to_string()).await;
    let tries = rules(json!(["eventhooks/ping", "events"]), "hookstream.dev", json!(["create"]));
    worker.namespace.service_account("tester", &tries.to_string()).await;
    let all = format!("{service}\n---\n{pod}\n---\n{endpoints}\n");
    worker.namespace.apply(&all).await.expect("the service");
    let status = json!({"status": {"podIP": ip.to_string(), "podIPs": [{"ip": ip.to_string()}]}}).to_string();
    let patch = ["patch", "pod", "worker-0", "--subresource=status", "--type=merge", "-p", &status];
    worker.namespace.kubectl(&patch).await.expect("the pod's address");
    // The user: reaches the Service, and may ask for the reader's token.
    let user = json!([{"apiGroups": [""], "resources": ["services/proxy"], "verbs": ["get", "create"]},
        {"apiGroups": [""], "resources": ["serviceaccounts/token"], "resourceNames": ["reader", "tester"], "verbs": ["create"]}]);
    let user = worker.namespace.service_account("user", &user.to_string()).await;
    let user = user.to_str().unwrap();
    let publisher = worker.namespace.token("publisher", &["hookstream"]).await;
    let (status, said) = worker.publish(&name, Some(&publisher), "e-1").await;
    assert_eq!(status, 202, "{said}");

    let service = format!("--service={name}/worker-api:api");
    let base = ["list", "-n", &name, &service, "--service-account", "reader", "--output", "json"];
    let listed = eventually(DEADLINE, "the API server to know the endpoints", async || {
        match deliveries(user, &base).await {
            (0, listed) => Ok(listed),
            (code, said) => Err(format!("{code}: {said}")),
        }
    })
    .await;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert!(listed["items"].is_array(), "{listed}");
    let explain = ["explain", "-n", &name, &service, "--service-account", "reader", "e-1"];
    let (code, said) = deliveries(user, &explain).await;
    assert!(code == 0 && said.contains("e-1"), "{code}: {said}");

    // The reader's rights are what counts, and without a token there are none.
    let replay = ["replay", "-n", &name, &service, "--service-account", "reader", "--state", "dead"];
    let (code, said) = deliveries(user, &replay).await;
    assert!(code == 2 && said.contains("403"), "{code}: {said}");
    let (code, said) = deliveries(user, &["list", "-n", &name, &service]).await;
    assert!(code == 2 && said.contains("401"), "{code}: {said}");

    // The other commands go the same way: to the API port, and to the ingest port.
    let receiver = Receiver::start(|_, _| Reply::status(200));
    worker.namespace.apply(&hook("pinged", &receiver.url(), json!({}))).await.expect("the hook");
    let ping = ["ping", "-n", &name, &service, "--service-account", "tester", "pinged"];
    eventually(DEADLINE, "the worker to know the hook", async || match run(user, &ping).await {
        (0, _) => Ok(()),
        (code, said) => Err(format!("{code}: {said}")),
    })
    .await;
    let refused = ["ping", "-n", &name, &service, "--service-account", "reader", "pinged"];
    let (code, said) = run(user, &refused).await;
    assert!(code == 2 && said.contains("403"), "{code}: {said}");
    let ingest = format!("--service={name}/worker-api:ingest");
    let event = ["--source", "crud", "--event", "consumers", "--data", "{}", "--id", "e-2"];
    let send = |account| [&["send", "-n", &name, &ingest, "--service-account", account], &event[..]].concat();
    let (code, said) = run(user, &send("tester")).await;
    assert!(code == 0 && said.contains("e-2"), "{code}: {said}");
    let (code, said) = run(user, &send("reader")).await;
    assert!(code == 1 && said.contains("403"), "{code}: {said}");

    // A token that the user may not have.
    let other = ["list", "-n", &name, &service, "--service-account", "publisher"];
    let (code, said) = deliveries(user, &other).await;
    assert!(code == 2 && said.contains("token of the ServiceAccount publisher"), "{code}: {said}");
    // No such Service: what the API server says is told.
    let missing = format!("--service={name}/nothing:api");
    let admin = control_plane().admin_kubeconfig().to_str().unwrap();
    let (code, said) = deliveries(admin, &["list", "-n", &name, &missing]).await;
    assert!(code == 2 && said.contains("nothing"), "{code}: {said}");
}
