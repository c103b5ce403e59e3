//! Holds that use no attempt and stop the age of a delivery: a receiver that answered 410, a pause, a filter that fails.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::deliveries::list_deliveries;
use crate::harness::manifests::{event, hook, manifest, merge, quick};
use crate::harness::metrics::{DEAD, DELIVERED, FINISHED};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Receiver, Reply, elapse, eventually};

/// The age at which pending deliveries of these hooks die. Long enough for a retry on a slow machine.
const MAX_AGE: Duration = Duration::from_secs(5);

fn quick_with(more: Value) -> Value {
    let mut spec = quick();
    merge(&mut spec, more);
    spec
}

/// Returns a hook with this value of the annotation `resume`.
fn hook_with_resume(url: &str, token: &str) -> String {
    let mut spec = quick();
    merge(&mut spec, json!({"source": "s", "handler": {"webhook": {"url": url}}}));
    let content = json!({"spec": spec, "metadata": {"annotations": {"hookstream.dev/resume": token}}});
    manifest("hookstream.dev/v1alpha1", "EventHook", "h", content)
}

/// Starts a worker with a hook whose receiver answered 410 to the first event, and with two pending deliveries.
async fn start_after_410(manifest: &str, receiver: &Receiver) -> Standalone {
    let standalone = Standalone::start(manifest, &[]).await;
    standalone.publish_accepted(&event("1")).await;
    standalone.wait_for_count(FINISHED, &[DEAD], 1).await;
    let dead = list_deliveries(&standalone, "state=dead").await;
    assert_eq!((&dead[0]["event"], &dead[0]["reason"]), (&json!("1"), &json!("Gone")));
    for id in ["2", "3"] {
        standalone.publish_accepted(&event(id)).await;
    }
    assert_held(&standalone, receiver).await;
    standalone
}

async fn assert_held(standalone: &Standalone, receiver: &Receiver) {
    standalone
        .assert_stays("the receiver gets no more requests", async || receiver.requests().len() == 1)
        .await;
}

/// Waits until the pending deliveries are delivered, and asserts that the dead one stays dead.
async fn assert_delivers_pending(standalone: &Standalone, receiver: &Receiver) {
    receiver.wait_for(3, DEADLINE).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 2).await;
    assert_eq!(receiver.requests().len(), 3);
    assert_eq!(list_deliveries(standalone, "state=dead").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_after_410_until_spec_changes() {
    let receiver = Receiver::start(|_, n| Reply::status(if n == 1 { 410 } else { 200 }));
    let spec = |more: Value| hook("h", &receiver.url(), quick_with(more));
    let mut standalone = start_after_410(&spec(json!({})), &receiver).await;
    standalone.process().kill9();
    standalone.restart().await;
    assert_held(&standalone, &receiver).await;
    standalone.publish_accepted(&event("2")).await;
    assert_held(&standalone, &receiver).await;
    standalone.write("all.yaml", &spec(json!({"delivery": {"timeout": "3s"}})));
    assert_delivers_pending(&standalone, &receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_after_410_until_resume() {
    let receiver = Receiver::start(|_, n| Reply::status(if n == 1 { 410 } else { 200 }));
    let mut standalone = start_after_410(&hook("h", &receiver.url(), quick()), &receiver).await;
    standalone.restart().await;
    assert_held(&standalone, &receiver).await;
    standalone.write("all.yaml", &hook_with_resume(&receiver.url(), "now"));
    assert_delivers_pending(&standalone, &receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resume_before_410_does_not_end_hold() {
    let receiver = Receiver::start(|_, n| Reply::status(if n == 1 { 410 } else { 200 }));
    let mut standalone = start_after_410(&hook_with_resume(&receiver.url(), "old"), &receiver).await;
    standalone.restart().await;
    assert_held(&standalone, &receiver).await;
    standalone.write("all.yaml", &hook_with_resume(&receiver.url(), "new"));
    assert_delivers_pending(&standalone, &receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_stops_age() {
    let receiver = Receiver::start(|request, n| {
        Reply::status(if request.path == "/paused" && n > 1 { 200 } else { 503 })
    });
    let aging_hook = |name: &str, paused: bool| {
        let retry = json!({"maxAge": format!("{}s", MAX_AGE.as_secs())});
        let delivery = json!({"source": name, "delivery": {"paused": paused, "retry": retry}});
        hook(name, &format!("{}/{name}", receiver.url()), quick_with(delivery))
    };
    let mut standalone =
        Standalone::start(&(aging_hook("paused", true) + &aging_hook("old", false)), &[]).await;
    let before_publish = Instant::now();
    for source in ["paused", "old"] {
        let mut event = event(source);
        event["source"] = json!(source);
        standalone.publish_accepted(&event).await;
    }
    let accepted_at = Instant::now();
    standalone.wait_for_count(FINISHED, &[DEAD], 1).await;
    let dead = list_deliveries(&standalone, "state=dead").await;
    assert_eq!((&dead[0]["hook"], &dead[0]["reason"]), (&json!("old"), &json!("MaxAge")));
    assert!(before_publish.elapsed() > MAX_AGE / 4, "{:?}", before_publish.elapsed());
    standalone.restart().await;
    // By now the paused delivery is older than maxAge.
    elapse(accepted_at, MAX_AGE).await;

    // The first attempt fails, and the worker evaluates the age after a failure.
    let failed = std::sync::atomic::AtomicBool::new(false);
    let is_first = move || !failed.swap(true, std::sync::atomic::Ordering::SeqCst);
    receiver.script(move |_, _| Reply::status(if is_first() { 503 } else { 200 }));
    standalone.write("all.yaml", &(aging_hook("paused", false) + &aging_hook("old", false)));
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    let delivered = list_deliveries(&standalone, "state=delivered").await;
    assert_eq!(delivered[0]["hook"], "paused");
    assert_eq!(delivered[0]["attempts"].as_array().unwrap().len(), 2);
}

/// While the breaker is open, one delivery is attempted at a time; the others must still die at their age.
#[tokio::test(flavor = "multi_thread")]
async fn unattempted_deliveries_die_at_max_age() {
    let receiver = Receiver::start(|_, _| Reply::status(503));
    let delivery = json!({"delivery": {"concurrency": 1, "retry": {"maxAge": "5s"}}});
    let standalone = Standalone::start(&hook("h", &receiver.url(), quick_with(delivery)), &[]).await;
    for number in 0..300 {
        standalone.publish_accepted(&event(&format!("{number}"))).await;
    }
    standalone.wait_for_count(FINISHED, &[DEAD, r#"reason="MaxAge""#], 300).await;
    assert!(receiver.requests().len() < 100, "{} attempts", receiver.requests().len());
    let dead = list_deliveries(&standalone, "state=dead&limit=500").await;
    let unattempted = dead.iter().filter(|delivery| delivery["attempts"] == json!([])).count();
    assert!(unattempted > 200, "{unattempted} of 300 without an attempt");
}

/// A filter that fails on events without `deep`.
const FAILING_FILTER: &str = "data.deep.n == 1";

fn filtered(receiver: &Receiver, filter: &str) -> String {
    hook("h", &receiver.url(), quick_with(json!({"filter": filter})))
}

fn filtered_with_max_age(receiver: &Receiver, filter: &str) -> String {
    let retry = json!({"maxAge": format!("{}s", MAX_AGE.as_secs())});
    let more = json!({"filter": filter, "delivery": {"retry": retry}});
    hook("h", &receiver.url(), quick_with(more))
}

/// Starts a worker with an event on which the filter fails, and one on which it does not.
async fn start_with_held_event(receiver: &Receiver) -> Standalone {
    let standalone = Standalone::start(&filtered(receiver, FAILING_FILTER), &[]).await;
    standalone.publish_accepted(&event("held")).await;
    let line = standalone.process().wait_for_line(|line| line.contains("Undecided"), DEADLINE).await;
    assert!(line.contains("filter"), "{line}");
    let mut matching = event("fine");
    matching["data"]["deep"] = json!({"n": 1});
    standalone.publish_accepted(&matching).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    standalone.assert_stays("the other delivery is held", async || receiver.requests().len() == 1).await;
    assert_eq!(receiver.requests()[0].json()["id"], "fine");
    let held = list_deliveries(&standalone, "event=held").await;
    assert_eq!((&held[0]["state"], &held[0]["attempts"]), (&json!("pending"), &json!([])));
    standalone
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_filter_holds_until_edited() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let mut standalone = start_with_held_event(&receiver).await;
    standalone.restart().await;
    standalone.assert_stays("the hold survives a restart", async || receiver.requests().len() == 1).await;
    receiver.script(|_, n| Reply::status(if n == 2 { 503 } else { 200 }));
    standalone.write("all.yaml", &filtered(&receiver, "data.id == 'held'"));
    eventually(DEADLINE, "the held delivery to be delivered", async || {
        let held = list_deliveries(&standalone, "event=held").await;
        if held[0]["state"] == "delivered" { Ok(()) } else { Err(held[0].to_string()) }
    })
    .await;
    assert_eq!(receiver.requests().len(), 3);
}

/// An evaluation is no attempt, but the delivery ages: otherwise an event on which the filter always fails would stay
/// pending forever.
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_whose_filter_fails_dies_at_max_age() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let standalone = Standalone::start(&filtered_with_max_age(&receiver, FAILING_FILTER), &[]).await;
    standalone.publish_accepted(&event("held")).await;
    standalone.wait_for_count(FINISHED, &[DEAD, r#"reason="MaxAge""#], 1).await;
    let dead = list_deliveries(&standalone, "state=dead").await;
    assert_eq!((&dead[0]["event"], &dead[0]["attempts"]), (&json!("held"), &json!([])));
    assert!(receiver.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn edited_filter_drops_held_delivery() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let standalone = start_with_held_event(&receiver).await;
    standalone.write("all.yaml", &filtered(&receiver, "has(data.deep)"));
    standalone.wait_for_count(FINISHED, &[DEAD], 1).await;
    let dead = list_deliveries(&standalone, "state=dead").await;
    assert_eq!((&dead[0]["event"], &dead[0]["reason"]), (&json!("held"), &json!("Filtered")));
    standalone.assert_stays("no attempt is made", async || receiver.requests().len() == 1).await;
}
