//! A kernel that denies confinement: a seccomp filter around the process denies it, as a container runtime may.

use std::collections::BTreeMap;
use std::time::Duration;

use hookstream::sandbox::ScriptError;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use serde_json::{Value, json};

use super::Scripts;
use crate::harness::http::answer;
use crate::harness::manifests::{event, hook, manifest, quick};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Process, Receiver, Reply, eventually};

/// Runs `work` on a thread for which, and for whose child processes, the system call `seccomp` fails.
fn with_seccomp_denied<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let build_filter = || {
        let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        let calls = BTreeMap::from([(libc::SYS_seccomp, Vec::new())]);
        let filter =
            SeccompFilter::new(calls, SeccompAction::Allow, denied, std::env::consts::ARCH.try_into()?);
        filter?.try_into()
    };
    let program: BpfProgram = build_filter().expect("a filter");
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            apply_filter(&program).expect("a kernel with seccomp");
            work()
        });
        thread.join().expect("no panic")
    })
}

#[test]
fn no_lua_runs_without_confinement() {
    with_seccomp_denied(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let refused = Scripts::start(40, |_| {}).await;
            let message = refused.sandbox.unavailable().unwrap();
            assert!(
                message.starts_with("the kernel does not confine the sandbox process: seccomp: "),
                "{message}"
            );
            assert!(message.contains("--script-unsandboxed"), "{message}");
            for _ in 0..2 {
                let outcome = refused.run("hook", "return true").await;
                assert_eq!(outcome, Err(ScriptError::SandboxUnavailable(message.clone())));
            }
            assert!(refused.render("{{ 1 + 1 }}", &json!({})).await.is_err());
            // Templates without code need no sandbox.
            assert_eq!(refused.render("{{ a }}", &json!({"a": "b"})).await, Ok("b".into()));
            refused.wait_for_no_child().await;

            let allowed = Scripts::start(41, |options| options.allow_unsandboxed = true).await;
            assert_eq!(allowed.sandbox.unavailable(), None);
            assert_eq!(allowed.run("hook", "return true").await, Ok(json!(true)));
            // The other limits are still in force.
            let status = std::fs::read_to_string(format!("/proc/{}/status", allowed.only_child())).unwrap();
            assert!(status.contains("NoNewPrivs:\t1"), "{status}");
            let limits = std::fs::read_to_string(format!("/proc/{}/limits", allowed.only_child())).unwrap();
            let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
            assert_eq!(files.split_whitespace().nth(3), Some("0"), "{limits}");
        });
    });
}

fn lambda(body: &str) -> String {
    let function = format!("return function (data) {body} end");
    let mut spec = json!({"source": "s", "handler": {"lambda": {"functions": [function]}}});
    crate::harness::manifests::merge(&mut spec, quick());
    manifest("hookstream.dev/v1alpha1", "EventHook", "l", json!({ "spec": spec }))
}

async fn get(standalone: &Standalone, path: &str) -> Value {
    let url = format!("http://{}/v1/namespaces/default/{path}", standalone.api);
    answer(standalone.client.get(url)).await.1
}

/// Starts the process where seccomp is denied.
async fn start_denied(standalone: &Standalone) -> Process {
    let process = with_seccomp_denied(|| standalone.spawn());
    process.wait_for_line(|line| line.contains("ingest listening"), DEADLINE).await;
    process
}

/// The worker reports a denied confinement in the log, in `Delivering` and in explanations, and delivers to other hooks.
/// Where the kernel confines, the pending delivery is delivered.
#[tokio::test(flavor = "multi_thread")]
async fn denied_confinement_is_reported_and_holds_lua_deliveries() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let manifests = hook("w", &receiver.url(), quick()) + &lambda("return data.id ~= nil");
    let mut standalone = Standalone::prepare(&manifests, &[]);
    let process = start_denied(&standalone).await;
    assert!(process.log().contains("lambdas and templates with code cannot run"), "{}", process.log());
    standalone.publish_accepted(&event("1")).await;
    receiver.wait_for(1, DEADLINE).await;
    eventually(DEADLINE, "the lambda's delivery to be explained", async || {
        let explanation = get(&standalone, "events/1/explain").await.to_string();
        if explanation.contains("SandboxUnavailable") && explanation.contains("--script-unsandboxed") {
            Ok(())
        } else {
            Err(explanation)
        }
    })
    .await;
    let status = standalone.data.join("objects/EventHook.default.l.json");
    eventually(DEADLINE, "the condition Delivering", async || {
        let text = std::fs::read_to_string(&status).map_err(|error| error.to_string())?;
        let saved: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let conditions = saved["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let is_reported = conditions.iter().any(|condition| {
            condition["type"] == "Delivering"
                && condition["status"] == "False"
                && condition["reason"] == "SandboxUnavailable"
                && condition["message"].as_str().is_some_and(|text| text.contains("does not confine"))
        });
        if is_reported { Ok(()) } else { Err(text) }
    })
    .await;
    let deliveries = get(&standalone, "deliveries?hook=l").await;
    assert_eq!(deliveries["items"][0]["state"], "pending", "{deliveries:#}");
    assert_eq!(deliveries["items"][0]["attempts"], json!([]), "a hold makes no attempt: {deliveries:#}");
    drop(process);
    standalone.restart().await;
    eventually(Duration::from_secs(60), "the pending delivery to be delivered", async || {
        let list = get(&standalone, "deliveries?hook=l").await;
        if list["items"][0]["state"] == "delivered" { Ok(()) } else { Err(list.to_string()) }
    })
    .await;
}
