//! `hookstream deliveries --service`, `ping` and `send`: they reach the worker through the API server's own proxy.

use serde_json::{Value, json};

use crate::harness::manifests::hook;
use crate::harness::worker::{Service, Worker, create_accounts, own_address};
use crate::harness::{DEADLINE, Process, Receiver, Reply, control_plane, eventually};

async fn deliveries(kubeconfig: &str, args: &[&str]) -> (i32, String) {
    run(kubeconfig, &[&["deliveries"], args].concat()).await
}

async fn run(kubeconfig: &str, args: &[&str]) -> (i32, String) {
    let process = Process::spawn(args, &[("KUBECONFIG", kubeconfig)]);
    let status = process.wait(DEADLINE).await;
    (status.code().expect("an exit code"), process.log())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an address other than loopback: make test runs it where there is one"]
async fn user_reaches_worker_with_kubeconfig_needs_address() {
    let ip = own_address().expect("an address other than loopback");
    let (namespace, kubeconfig) = create_accounts("through").await;
    let name = namespace.name.clone();
    let worker = Worker::start_on(ip, namespace, kubeconfig, &["--egress-allow", "127.0.0.0/8"]).await;
    let port = |url: &str| url.rsplit(':').next().unwrap().parse::<u16>().unwrap();
    let rules = |resources: Value, group: &str, verbs: Value| json!([{"apiGroups": [group], "resources": resources, "verbs": verbs}]);
    // The account whose token the user sends: it may list and may not replay.
    let reader_rules = rules(json!(["deliveries"]), "hookstream.dev", json!(["list", "get"]));
    worker.namespace.service_account("reader", &reader_rules.to_string()).await;
    let tester_rules = rules(json!(["eventhooks/ping", "events"]), "hookstream.dev", json!(["create"]));
    worker.namespace.service_account("tester", &tester_rules.to_string()).await;
    Service { name: "worker-api", ip, api: port(&worker.api), ingest: Some(port(&worker.ingest)) }
        .create(&worker.namespace)
        .await;
    // The user may reach the Service and may create a token of the reader.
    let user_rules = json!([{"apiGroups": [""], "resources": ["services/proxy"], "verbs": ["get", "create"]},
        {"apiGroups": [""], "resources": ["serviceaccounts/token"], "resourceNames": ["reader", "tester"], "verbs": ["create"]}]);
    let user = worker.namespace.service_account("user", &user_rules.to_string()).await;
    let user = user.to_str().unwrap();
    let publisher = worker.namespace.token("publisher", &["hookstream"]).await;
    let (status, output) = worker.publish(&name, Some(&publisher), "e-1").await;
    assert_eq!(status, 202, "{output}");

    let service = format!("--service={name}/worker-api:api");
    let base = ["list", "-n", &name, &service, "--service-account", "reader", "--output", "json"];
    let listed = eventually(DEADLINE, "the API server to use the endpoints", async || {
        match deliveries(user, &base).await {
            (0, listed) => Ok(listed),
            (code, output) => Err(format!("{code}: {output}")),
        }
    })
    .await;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert!(listed["items"].is_array(), "{listed}");
    let explain = ["explain", "-n", &name, &service, "--service-account", "reader", "e-1"];
    let (code, output) = deliveries(user, &explain).await;
    assert!(code == 0 && output.contains("e-1"), "{code}: {output}");

    // The worker evaluates the reader's rights; without a token there are none.
    let replay = ["replay", "-n", &name, &service, "--service-account", "reader", "--state", "dead"];
    let (code, output) = deliveries(user, &replay).await;
    assert!(code == 2 && output.contains("403"), "{code}: {output}");
    let (code, output) = deliveries(user, &["list", "-n", &name, &service]).await;
    assert!(code == 2 && output.contains("401"), "{code}: {output}");

    // The other commands use the same path, to the API port and to the ingest port.
    let receiver = Receiver::start(|_, _| Reply::status(200));
    worker.namespace.apply(&hook("pinged", &receiver.url(), json!({}))).await.expect("the hook");
    let ping = ["ping", "-n", &name, &service, "--service-account", "tester", "pinged"];
    eventually(DEADLINE, "the worker to register the hook", async || match run(user, &ping).await {
        (0, _) => Ok(()),
        (code, output) => Err(format!("{code}: {output}")),
    })
    .await;
    let ping_as_reader = ["ping", "-n", &name, &service, "--service-account", "reader", "pinged"];
    let (code, output) = run(user, &ping_as_reader).await;
    assert!(code == 2 && output.contains("403"), "{code}: {output}");
    let ingest = format!("--service={name}/worker-api:ingest");
    let event = ["--source", "crud", "--event", "consumers", "--data", "{}", "--id", "e-2"];
    let send_as =
        |account| [&["send", "-n", &name, &ingest, "--service-account", account], &event[..]].concat();
    let (code, output) = run(user, &send_as("tester")).await;
    assert!(code == 0 && output.contains("e-2"), "{code}: {output}");
    let (code, output) = run(user, &send_as("reader")).await;
    assert!(code == 1 && output.contains("403"), "{code}: {output}");

    // A token that the user may not create.
    let list_as_publisher = ["list", "-n", &name, &service, "--service-account", "publisher"];
    let (code, output) = deliveries(user, &list_as_publisher).await;
    assert!(
        code == 2
            && output.contains("requesting a token of ServiceAccount")
            && output.contains("publisher: "),
        "{code}: {output}"
    );
    // The message of the API server is shown for a Service that does not exist.
    let missing = format!("--service={name}/nothing:api");
    let admin = control_plane().admin_kubeconfig().to_str().unwrap();
    let (code, output) = deliveries(admin, &["list", "-n", &name, &missing]).await;
    assert!(code == 2 && output.contains("nothing"), "{code}: {output}");
}
