//! `hookstream status` of a standalone.

use serde_json::{Value, json};

use super::run;
use super::terminal::Terminal;
use crate::harness::manifests::{event, hook};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Receiver, Reply, eventually, free_port};

#[tokio::test(flavor = "multi_thread")]
async fn reports_what_requires_attention() {
    let receiver = Receiver::start(|_, _| Reply::status(503));
    let manifests =
        hook("failing", &receiver.url(), json!({"delivery": {"retry": {"initialBackoff": "1ms"}}}))
            + &hook("paused", &receiver.url(), json!({"source": "other", "delivery": {"paused": true}}));
    let standalone = Standalone::start(&manifests, &[]).await;
    let url = format!("http://{}", standalone.api);

    let (code, out, error) = run(&["status", "--url", &url, "--wait", "60s"]).await;
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "status       well (all namespaces)", "{out}");
    assert!(lines[2].starts_with("worker       ") && lines[2].ends_with(&format!("at {url}")), "{out}");
    assert!(!out.contains("NOT READY"), "{out}");

    let watch = ["status", "--url", &url, "--watch"];
    let mut watched = Terminal::start(&watch, &[("TERM", "xterm")], 100);
    watched.read_until("well (all namespaces)");

    standalone.publish_accepted(&event("e")).await;
    // The worker shares a measurement of the backlog for two seconds.
    let report = eventually(DEADLINE, "the hook to be reported as failing", async || {
        let (code, out, error) = run(&["status", "--url", &url, "-n", "default", "-o", "json"]).await;
        let report: Value = serde_json::from_str(&out).map_err(|e| format!("{e}: {error}"))?;
        let is_failing = code == 1 && report["worker"]["backlog"]["pending"] == 1;
        if is_failing { Ok(report) } else { Err(format!("{code}: {out}{error}")) }
    })
    .await;
    assert_eq!((&report["formatVersion"], &report["healthy"]), (&json!(1), &json!(false)), "{report:#}");
    let worker = &report["worker"];
    let hooks = worker["notDelivering"]["items"].as_array().unwrap();
    let failing = hooks.iter().find(|hook| hook["name"] == "failing").unwrap();
    assert_eq!(
        (&failing["reason"], &failing["pending"]),
        (&json!("ReceiverFailing"), &json!(1)),
        "{report:#}"
    );
    assert_eq!(worker["backlog"]["pending"], 1, "{report:#}");
    assert_eq!(worker["namespace"], "default");
    assert!(worker["memory"]["budgetBytes"].as_u64().unwrap() > 0, "{report:#}");

    let (code, out, _) = run(&["status", "--url", &url]).await;
    assert!(code == 1 && out.starts_with("status       unwell (all namespaces)\n"), "{out}");
    assert!(out.contains("default/failing") && out.contains("ReceiverFailing"), "{out}");
    let screens = watched.read_until("default/failing");
    assert!(
        screens.matches("\u{1b}[2J\u{1b}[H").count() > 1,
        "each screen replaces the one before: {screens:?}"
    );
    // Another namespace is well.
    let (code, out, _) = run(&["status", "--url", &url, "-n", "other"]).await;
    assert_eq!(code, 0, "{out}");

    // A wait without success ends at its time with the state.
    let (code, out, _) = run(&["status", "--url", &url, "--wait", "1ms"]).await;
    assert!(code == 1 && out.contains("default/failing"), "{out}");

    // The ingest port has no such route, as an older worker.
    let (code, _, error) = run(&["status", "--url", &format!("http://{}", standalone.listen)]).await;
    assert!(code == 2 && error.contains("older than this program") && error.lines().count() == 1, "{error}");
    let (code, _, error) = run(&["status", "--url", &format!("http://127.0.0.1:{}", free_port())]).await;
    assert!(code == 2 && error.contains("cannot be reached") && error.lines().count() == 1, "{error}");
}
