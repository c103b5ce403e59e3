//! Tests of the harness: a broken receiver or a leaked process would make other tests pass or fail wrongly.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams};

use crate::harness::{DEADLINE, Process, Receiver, Reply, control_plane, eventually, watchdog};

#[tokio::test(flavor = "multi_thread")]
async fn receiver_answers_by_script_and_records() {
    let receiver = Receiver::start(|request, n| match (request.path.as_str(), n) {
        ("/hang", _) => Reply::Hang,
        ("/close", _) => Reply::Close,
        ("/break", _) => Reply::BreakAfter { status: 200, body: "half".into() },
        (_, 1) => Reply::status(503).header("retry-after", "7").body("later"),
        _ => Reply::After(Duration::from_millis(1), Reply::status(204).into()),
    });
    let client = reqwest_client();
    let url = receiver.url();
    let first =
        client.post(format!("{url}/a?b=c")).header("x-test", "1").body("{\"k\":1}").send().await.unwrap();
    assert_eq!((first.status().as_u16(), first.headers()["retry-after"].to_str().unwrap()), (503, "7"));
    assert_eq!(first.text().await.unwrap(), "later");
    assert_eq!(client.get(&url).send().await.unwrap().status(), 204);
    assert!(client.get(format!("{url}/close")).send().await.is_err(), "Close must close without an answer");
    let broken = client.get(format!("{url}/break")).send().await.expect("the status precedes the break");
    assert_eq!(broken.status(), 200);
    assert!(broken.bytes().await.is_err(), "the body must break");
    let hanging = tokio::spawn(client.get(format!("{url}/hang")).send());
    let recorded = receiver.wait_for(5, DEADLINE).await;
    assert_eq!((recorded[0].method.as_str(), recorded[0].path.as_str()), ("POST", "/a?b=c"));
    assert_eq!((recorded[0].header("x-test"), recorded[0].json()["k"].as_i64()), ("1", Some(1)));
    // The receiver handles requests in order, so an answer to the earlier request would have been sent by now.
    assert_eq!(client.get(&url).send().await.unwrap().status(), 204);
    assert!(!hanging.is_finished(), "Hang must not answer");

    let address = receiver.address();
    drop(receiver);
    assert!(hanging.await.unwrap().is_err(), "Hang must not answer");
    assert!(client.get(&url).send().await.is_err(), "a dropped receiver must be down");
    let restarted = Receiver::start_at(address, |_, _| Reply::status(200));
    assert_eq!(client.get(restarted.url()).send().await.unwrap().status(), 200);
}

fn reqwest_client() -> reqwest::Client {
    // Without a provider reqwest panics, even for plain HTTP.
    rustls::crypto::ring::default_provider().install_default().ok();
    // Without a proxy, requests stay on this machine despite http_proxy. Without a pool, each opens a connection.
    reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a client")
}

#[tokio::test(flavor = "multi_thread")]
async fn process_reports_output_and_exit() {
    let process = Process::spawn(["--version"], &[]);
    let line = process.wait_for_line(|line| line.starts_with("hookstream "), DEADLINE).await;
    assert!(line.ends_with(env!("CARGO_PKG_VERSION")), "{line}");
    assert!(process.wait(DEADLINE).await.success());
    let failed = Process::spawn(["no-such-command"], &[]);
    assert_eq!(failed.wait(DEADLINE).await.code(), Some(2));
    assert!(failed.log().contains("no-such-command"), "{}", failed.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn process_terminates_and_is_killed() {
    let start = |script: &str| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script]);
        Process::start(command)
    };
    let obedient = start("trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 600 & wait; done");
    obedient.wait_for_line(|line| line == "up", DEADLINE).await;
    assert_eq!(obedient.terminate().await.code(), Some(3));
    assert!(obedient.log().ends_with("bye\n"));

    let stubborn = start("trap '' TERM; sleep 600 & echo $!; while :; do wait; done");
    let child = stubborn.wait_for_line(|line| !line.is_empty(), DEADLINE).await;
    stubborn.kill9();
    assert_eq!(stubborn.ended().and_then(|status| status.signal()), Some(9));
    assert!(is_alive(&child), "kill9 simulates a crash, so it must not reach the children");

    // Dropping the handle kills what the process left.
    drop(stubborn);
    eventually(
        DEADLINE,
        "the child to end",
        async || if is_alive(&child) { Err(child.clone()) } else { Ok(()) },
    )
    .await;
}

/// Returns true if the process runs. A zombie that no init has reaped has no command line.
fn is_alive(pid: &str) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn account_has_rights_of_its_role_only() {
    let namespace = control_plane().namespace("rights").await;
    let rules = "[{apiGroups: [''], resources: [configmaps], verbs: [list]}]";
    let kubeconfig = namespace.service_account("reader", rules).await;
    let check_right = |verb: &'static str| {
        let mut command = std::process::Command::new(crate::harness::tool("kubectl"));
        command.arg("--kubeconfig").arg(&kubeconfig).args(["auth", "can-i", verb, "configmaps"]);
        crate::harness::run(command, "")
    };
    assert_eq!(check_right("list").await.unwrap().trim(), "yes");
    assert!(check_right("delete").await.is_err());
    let maps: Api<ConfigMap> = Api::namespaced(namespace.client().await, &namespace.name);
    assert!(maps.list(&ListParams::default()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn controller_manager_deletes_namespaces() {
    control_plane().start_controller_manager();
    let namespace = control_plane().namespace("deleted").await;
    namespace.kubectl(&["create", "configmap", "in-it"]).await.unwrap();
    control_plane().kubectl(["delete", "namespace", &namespace.name, "--wait=false"], "").await.unwrap();
    eventually(DEADLINE, "the namespace to be deleted", async || {
        match control_plane().kubectl(["get", "namespace", &namespace.name], "").await {
            Err(error) if error.contains("NotFound") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// Runs this binary once more as a process, kills it with SIGKILL, and checks that its children end and that its folder is
/// removed.
#[tokio::test(flavor = "multi_thread")]
async fn killed_test_binary_leaves_nothing() {
    let report = watchdog::unique_path("victim");
    let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "harness_tests::victim_of_kill_9", "--ignored"])
        .env("VICTIM_REPORT", &report)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let (pid, dir) = eventually(DEADLINE, "the victim's child and folder", async || {
        let text = std::fs::read_to_string(&report).map_err(|e| e.to_string())?;
        let (pid, dir) = text.split_once(' ').ok_or(&text)?;
        Ok((pid.to_owned(), dir.to_owned()))
    })
    .await;
    assert!(Path::new(&format!("/proc/{pid}")).exists() && Path::new(&dir).exists());
    victim.kill().unwrap();
    victim.wait().unwrap();
    eventually(DEADLINE, "the orphans to end", async || {
        let is_alive = is_alive(&pid);
        if is_alive || Path::new(&dir).exists() {
            Err(format!("alive: {is_alive}, folder {dir}"))
        } else {
            Ok(())
        }
    })
    .await;
}

#[test]
#[ignore = "started and killed by killed_test_binary_leaves_nothing"]
fn victim_of_kill_9() {
    let report = std::env::var_os("VICTIM_REPORT").expect("the variable that the test above sets");
    let mut command = std::process::Command::new("sleep");
    command.arg("600");
    let mut child = watchdog::spawn(command, &watchdog::unique_path("sleep.log")).unwrap();
    // Renamed into place when complete, because the reader polls the file.
    let part = Path::new(&report).with_extension("part");
    std::fs::write(&part, format!("{} {}", child.id(), watchdog::run_dir().display())).unwrap();
    std::fs::rename(part, report).unwrap();
    child.wait().unwrap();
}
