//! The worker's metrics: every documented one exists, and their labels have few values.

use serde_json::json;

use crate::harness::manifests::{event, hook, merge, quick};
use crate::harness::metrics::{DELIVERED, FINISHED};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Receiver, Reply, eventually};

const DOCS: &str = include_str!("../../../docs/metrics.md");

/// Returns the documented names of series of single hooks.
fn hook_series_names() -> Vec<&'static str> {
    let (_, after) = DOCS.split_once("## Series of single hooks").expect("their section");
    let (table, _) = after.split_once("\n## ").expect("the next section");
    let names = table.split('`').skip(1).step_by(2).filter(|code| code.starts_with("hookstream_hook_"));
    names.map(|code| code.split('{').next().unwrap_or(code)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn hook_series_are_opt_in_and_bounded() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let hook_with_series = |name: &str| {
        let plain = hook(name, &receiver.url(), quick());
        let annotated = format!(r#"{{"annotations":{{"hookstream.dev/metrics":"true"}},"name":"{name}""#);
        let opted_in = plain.replacen(&format!(r#"{{"name":"{name}""#), &annotated, 1);
        assert_ne!(plain, opted_in, "{plain}");
        opted_in
    };
    let manifests =
        hook_with_series("first") + &hook_with_series("second") + &hook("silent", &receiver.url(), quick());
    let standalone = Standalone::start(&manifests, &["--hook-metrics", "1"]).await;
    standalone.publish_accepted(&event("1")).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 3).await;
    let text = standalone.metrics().await;
    let named: Vec<&str> = ["first", "second", "silent"]
        .into_iter()
        .filter(|name| text.contains(&format!(r#"hook="{name}""#)))
        .collect();
    assert!(matches!(named[..], ["first" | "second"]), "one of the hooks that request series: {named:?}");
    let label = format!(r#"namespace="default",hook="{}""#, named[0]);
    for name in hook_series_names() {
        let line = text
            .lines()
            .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', '_', ' '])));
        let line = line.unwrap_or_else(|| panic!("{name} is documented and missing:\n{text}"));
        assert!(line.contains(&label) || name.ends_with("refused_total"), "{line}");
    }
    assert_eq!(standalone.count("hookstream_hook_deliveries_finished", &[DELIVERED]).await, 1);
    assert_eq!(standalone.count("hookstream_hook_delivery_attempts", &[r#"status="2xx""#]).await, 1);
    assert!(standalone.count("hookstream_hook_series_refused", &[]).await >= 1);
}

/// Returns the metrics of the documentation's table of the worker, with their labels.
fn documented_metrics() -> Vec<(String, Vec<String>)> {
    let (_, after) = DOCS.split_once("## The worker\n").expect("the worker's table");
    let (table, _) = after.split_once("\n## ").expect("the next section");
    let codes = table.split('`').skip(1).step_by(2).filter(|code| code.starts_with("hookstream_"));
    codes
        .map(|code| {
            let (name, labels) = code.split_once('{').unwrap_or((code, ""));
            let labels =
                labels.trim_end_matches('}').split(',').filter(|l| !l.is_empty()).map(ToOwned::to_owned);
            (name.to_owned(), labels.collect())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_metrics_exist_without_secrets_or_names() {
    let receiver =
        Receiver::start(|request, _| Reply::status(if request.path == "/down" { 503 } else { 200 }));
    let mut snoozed = quick();
    merge(&mut snoozed, json!({"snooze": {"period": "1h"}, "groupBy": ["kind"]}));
    let mut dies = quick();
    merge(&mut dies, json!({"delivery": {"retry": {"maxAttempts": 1}}}));
    let manifests = hook("fine-hook", &receiver.url(), quick())
        + &hook("snoozed", &receiver.url(), snoozed)
        + &hook("down", &format!("{}/down", receiver.url()), quick())
        + &hook("dies", &format!("{}/down", receiver.url()), dies);
    let standalone = Standalone::start(&manifests, &[]).await;
    for id in ["my-id-1", "my-id-2"] {
        standalone.publish_accepted(&event(id)).await;
    }
    standalone.publish_accepted(&event("my-id-1")).await;
    assert_eq!(standalone.publish(&json!({"source": "s"})).await.0, 400);
    standalone.wait_for_count(FINISHED, &[DELIVERED], 3).await;
    let listed = standalone.client.get(format!("http://{}/v1/namespaces/default/deliveries", standalone.api));
    assert_eq!(listed.send().await.unwrap().status(), 200);
    let count = async |name: &str, labels: &[&str]| standalone.count(name, labels).await;
    assert_eq!(count("hookstream_events_accepted", &[r#"origin="api""#]).await, 2, "a repeat does not count");
    assert_eq!(count("hookstream_ingest_requests", &[r#"outcome="Duplicate""#]).await, 1);
    assert_eq!(count("hookstream_ingest_requests", &[r#"outcome="Missing""#]).await, 1);
    assert_eq!(count(FINISHED, &[r#"state="dropped""#]).await, 1);
    standalone.wait_for_count("hookstream_api_requests", &[r#"method="GET""#, r#"code="2xx""#], 1).await;
    // Ten failures in a row open a breaker; the backlog is measured periodically.
    let text = eventually(DEADLINE, "an open breaker", async || {
        let text = standalone.metrics().await;
        match text.lines().any(|line| line == "hookstream_breakers_open 1") {
            true => Ok(text),
            false => Err("none".to_owned()),
        }
    })
    .await;
    assert!(count("hookstream_delivery_attempts", &[r#"outcome="Status""#, r#"status="5xx""#]).await > 0);
    for (name, labels) in documented_metrics() {
        let line = text
            .lines()
            .find(|line| line.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['{', ' ', '_'])))
            .unwrap_or_else(|| panic!("{name} is documented and missing:\n{text}"));
        for label in labels {
            assert!(line.contains(&format!("{label}=\"")), "{name} has no {label}: {line}");
        }
    }
    for private in [receiver.url().as_str(), "my-id", "fine-hook", "snoozed\"", "127.0.0.1"] {
        let shown: Vec<&str> =
            text.lines().filter(|line| !line.starts_with('#') && line.contains(private)).collect();
        assert!(shown.is_empty(), "{private}: {shown:?}");
    }
}
