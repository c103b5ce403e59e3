//! Bounds on what an attempt renders from an event.

use serde_json::{Value, json};

use crate::harness::deliveries::list_deliveries;
use crate::harness::manifests::{manifest, merge, quick};
use crate::harness::metrics::{DEAD, DELIVERED, FINISHED};
use crate::harness::standalone::Standalone;
use crate::harness::{Receiver, Reply};

/// Returns a hook of the source `name` with this `webhookCustom`.
fn hook(name: &str, url: &str, custom: Value) -> String {
    let mut handler = json!({"webhookCustom": {"url": format!("{url}/{name}")}});
    merge(&mut handler["webhookCustom"], custom);
    let mut spec = quick();
    merge(&mut spec, json!({"source": name, "handler": handler}));
    manifest("hookstream.dev/v1alpha1", "EventHook", name, json!({"spec": spec}))
}

/// The peak of the process's resident memory in MiB.
fn peak_mib(standalone: &Standalone) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", standalone.process().pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

/// A template may repeat a large event thousands of times. Such a delivery is dead at once, in every form of a request,
/// and costs neither memory nor the deliveries of other hooks.
#[tokio::test(flavor = "multi_thread")]
async fn oversized_output_is_dead_and_costs_little() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let url = receiver.url();
    let (repeated, form) = ("{*t*}".repeat(10_000), "application/x-www-form-urlencoded");
    let oversized = [
        ("body", json!({"body": repeated})),
        ("payload", json!({"payload": {"a": [repeated]}})),
        ("form", json!({"payload": {"a": repeated}, "headers": {"content-type": form}})),
        ("header", json!({"headersFormat": "Template", "headers": {"x-a": "{*t*}".repeat(800)}})),
        // Each of the two texts is within the limit.
        (
            "sum",
            json!({"body": "{*t*}".repeat(30), "headersFormat": "Template", "headers": {"x-a": "{*t*}".repeat(30)}}),
        ),
        ("code", json!({"body": "{% for i = 1, 50 do %}{*t*}{% end %}"})),
        ("code-sum", json!({"payload": {"a": "{% %}{*t:rep(30)*}", "b": "{*t*}".repeat(30)}})),
    ];
    let mut manifests = hook("good", &url, json!({"body": "{*n*}"}));
    manifests.extend(oversized.iter().map(|(name, custom)| hook(name, &url, custom.clone())));
    let standalone = Standalone::start(&manifests, &["--script-timeout", "10s"]).await;
    let peak_before = peak_mib(&standalone);
    let text = "x".repeat(100 << 10);
    for round in 0..3 {
        for (name, _) in &oversized {
            let event = json!({"source": name, "event": "e", "data": {"t": text}});
            standalone.publish_accepted(&event).await;
            standalone.publish_accepted(&json!({"source": "good", "event": "e", "data": {"n": round}})).await;
        }
    }
    let (dead, good) = (3 * oversized.len() as u64, 3 * oversized.len() as u64);
    standalone.wait_for_count(FINISHED, &[DEAD, "OutputTooLarge"], dead).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], good).await;
    let requests = receiver.requests();
    assert!(requests.iter().all(|request| request.path == "/good"), "only the other hook was sent");
    for delivery in list_deliveries(&standalone, "state=dead").await {
        let attempts = delivery["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 1, "{delivery}");
        assert_eq!(attempts[0]["error"], "OutputTooLarge", "{delivery}");
    }
    let growth = peak_mib(&standalone) - peak_before;
    assert!(growth < 192, "rendering raised the peak by {growth} MiB");
}
