//! Runs docs/quickstart.md as written, on a cluster of its own.

use std::net::{Ipv4Addr, TcpListener};

use serde_json::{Value, json};

use super::pages::{RunBy, commands};
use super::shell::Shell;
use crate::harness::helm::{Container, complete_uninstall_check, local_values, values_file};
use crate::harness::manifests::merged;
use crate::harness::{ControlPlane, DEADLINE, Process, eventually, free_port, watchdog};

pub const HOME: &str = "hookstream-system";

/// The documents with commands that run in the quickstart's cluster. Keys are rotated and charts upgraded last.
pub const DOCUMENTS: [&str; 6] = [
    "docs/auth0.md",
    "docs/command-line.md",
    "docs/troubleshooting.md",
    "docs/deliveries.md",
    "docs/sync.md",
    "docs/metrics.md",
];

#[tokio::test(flavor = "multi_thread")]
async fn quickstart_works_as_written() {
    let cluster = ControlPlane::bare().await.unwrap();
    let receiver_port = documented_port();
    let receiver_url = format!("http://127.0.0.1:{receiver_port}");
    let [ingest, api, ops] = [free_port(), free_port(), free_port()];
    let values = values_file(&merged(
        local_values([ingest, api, ops], &format!("http://127.0.0.1:{ingest}")),
        json!({"mode": "combined"}),
    ));
    // The local addresses that port-forwards would lead to.
    let [ingest_url, api_url] = [ingest, api].map(|port| format!("http://127.0.0.1:{port}"));
    let shell = Shell::new("quickstart", cluster.admin_kubeconfig())
        .env("HOOKSTREAM_URL", &ingest_url)
        .env("HOOKSTREAM_API_URL", &api_url);

    let (mut processes, mut receiver) = (Vec::new(), None);
    for command in &commands("docs/quickstart.md", RunBy::Document) {
        if command.contains("delete eventhooks --all") {
            run_other_documents(&shell).await;
        }
        // Local ports in place of names that only a cluster's DNS resolves.
        let command = command.replace("charts/hookstream ", &format!("charts/hookstream -f {values} "));
        let command = command.replace("http://receiver.shop.svc:8090", &receiver_url);
        let command = command.replace(":8090", &format!(":{receiver_port}"));
        let output = if command.contains("helm uninstall") {
            tokio::join!(shell.expect(&command), complete_uninstall_check(&cluster, HOME)).0
        } else {
            shell.expect(&command).await
        };
        if command.contains("apply -f deploy/samples/cluster") {
            // The receiver is local; the misspelled one stays unknown.
            let patch = json!({"spec": {"handler": {"webhook": {"url": format!("{receiver_url}/orders")}}}});
            shell.run(&format!("kubectl -n shop patch evh/orders --type=merge -p '{patch}'")).await.unwrap();
        }
        if command.contains("--install hookstream charts") {
            processes.push(pods(&cluster, ops).await);
        }
        if command.contains("create deployment receiver") {
            receiver = Some(start_receiver(&cluster).await);
        }
        if command.contains("explain") {
            assert!(output.contains("refunds") && output.contains("REASON NOT MATCHED"), "{output}");
        }
        if command.contains("patch evh/refunds") {
            // The next command would delete the hook of the pending delivery.
            wait_for_requests(receiver.as_ref().unwrap(), 2).await;
        }
        if command.contains("deliveries list") {
            assert!(output.contains("orders") && output.contains("refunds"), "{output}");
        }
    }
    assert_eq!(wait_for_requests(receiver.as_ref().unwrap(), 2).await, ["/orders", "/refunds"]);
}

/// Runs the commands of other documents that need this cluster.
async fn run_other_documents(shell: &Shell) {
    // For `status -A`.
    let role = "kubectl create clusterrolebinding shop-looks --clusterrole=hookstream-deliveries-operator \
                --serviceaccount=shop:shop";
    shell.run(role).await.unwrap();
    for document in DOCUMENTS {
        let commands = commands(document, RunBy::Quickstart);
        assert!(!commands.is_empty(), "{document} has no such command: remove it from the list");
        for command in commands {
            let local = with_local_values(&command);
            let output = shell.run(&local).await.unwrap_or_else(|e| panic!("{document}: {local}: {e}"));
            let expected = match command.as_str() {
                c if c.contains("status -A") => "status  ",
                c if c.contains("get hookstream") => "eventhook.hookstream.dev/refunds",
                c if c.contains("describe") => "Conditions:",
                c if c.contains("explain") => "REASON NOT MATCHED",
                c if c.contains("reconcile evh") || c.contains("resume evh/orders -n shop --wait") => {
                    "Ready is True"
                }
                c if c.contains("suspend evh") => "suspended",
                c if c.contains("annotate") => "annotated",
                c if c.contains("helm upgrade") => "STATUS: deployed",
                _ => "",
            };
            assert!(output.contains(expected), "{document}: {local}: {output}");
        }
    }
}

/// Replaces values that exist only in the documents. No kubelet runs here, so the worker is called at its address.
fn with_local_values(command: &str) -> String {
    let mut command = [
        (" --context prod", " --token-file token"),
        (" --service-account support", ""),
        ("token support", "token shop"),
        ("EVENT-ID", "refund-1 --token-file token"),
        (
            "kubectl hookstream status",
            "kubectl hookstream status --url $HOOKSTREAM_API_URL --token-file token",
        ),
        ("evh/NAME", "-n shop evh/orders"),
        ("annotate eventhook orders", "annotate -n shop eventhook orders"),
    ]
    .iter()
    .fold(command.to_owned(), |command, (from, to)| command.replace(from, to));
    if command.contains("deliveries list") && !command.contains(" -n ") {
        command.push_str(" -n shop");
    }
    if command.contains("status -A") {
        // 1: something requires attention, which the message of the test shows.
        command.push_str(" || [ $? = 1 ]");
    }
    command
}

/// Returns the receiver's port in the document, or a free one if another process has it.
fn documented_port() -> u16 {
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8090)) {
        Ok(_) => 8090,
        Err(_) => free_port(),
    }
}

/// Starts the command of the receiver's Deployment as a kubelet would.
async fn start_receiver(cluster: &ControlPlane) -> Process {
    let get = ["-n", "shop", "get", "deployment", "receiver", "-o", "json"];
    let object: Value = serde_json::from_str(&cluster.kubectl(get, "").await.unwrap()).unwrap();
    let command = &object["spec"]["template"]["spec"]["containers"][0]["command"];
    let words: Vec<&str> = command.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    let (program, args) = words.split_first().unwrap();
    // The program's path in the image.
    assert_eq!(*program, "/usr/bin/hookstream");
    let process = Process::spawn(args, &[]);
    process.wait_for_line(|line| line.contains("receiver listening on "), DEADLINE).await;
    process
}

/// Waits until the receiver has printed this number of accepted requests. Returns their paths.
async fn wait_for_requests(receiver: &Process, count: usize) -> Vec<String> {
    eventually(DEADLINE, "requests at the receiver", async || {
        let log = receiver.log();
        let accepted = log.lines().filter(|line| line.contains(" answered: 200 "));
        let paths: Vec<String> = accepted.map(|line| line.split(' ').nth(2).unwrap().to_owned()).collect();
        if paths.len() >= count { Ok(paths) } else { Err(log) }
    })
    .await
}

/// Starts the process of the release's pod and waits until it is ready.
pub async fn pods(cluster: &ControlPlane, ops: u16) -> Process {
    let get = ["-n", HOME, "get", "statefulset", "hookstream-worker", "-o", "json"];
    let object: Value = serde_json::from_str(&cluster.kubectl(get, "").await.unwrap()).unwrap();
    let data = watchdog::unique_path("data");
    std::fs::create_dir(&data).unwrap();
    let process = Container::of_workload(&object, &[("/var/lib/hookstream", data.to_str().unwrap())])
        .start(cluster, HOME)
        .await;
    let http = crate::harness::http::http();
    eventually(DEADLINE, "ready", async || {
        let answer =
            http.get(format!("http://127.0.0.1:{ops}/readyz")).send().await.map_err(|e| e.to_string())?;
        if answer.status() == 200 { Ok(()) } else { Err(answer.text().await.unwrap_or_default()) }
    })
    .await;
    process
}
