//! What holds a hook's deliveries without harm to them: a receiver that is gone, a pause, a filter that cannot tell.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::deliveries_api::items;
use crate::harness::{DEADLINE, Receiver, Reply, eventually};
use crate::standalone::{DEAD, DELIVERED, FINISHED, Standalone, event, hook, manifest, merge, quick, stays};

fn with(more: Value) -> Value {
    let mut spec = quick();
    merge(&mut spec, more);
    spec
}

/// A hook whose annotation `resume` has this value.
fn resumed(url: &str, token: &str) -> String {
    let mut spec = quick();
    merge(&mut spec, json!({"source": "s", "handler": {"webhook": {"url": url}}}));
    let content = json!({"spec": spec, "metadata": {"annotations": {"hookstream.dev/resume": token}}});
    manifest("hookstream.dev/v1alpha1", "EventHook", "h", content)
}

/// A hook whose receiver said 410 to the first event, and with two more that wait.
async fn gone(manifest: &str, receiver: &Receiver) -> Standalone {
    let standalone = Standalone::start(manifest, &[]).await;
    standalone.accepted(&event("1")).await;
    standalone.wait_for_count(FINISHED, &[DEAD], 1).await;
    let dead = items(&standalone, "state=dead").await;
    assert_eq!((&dead[0]["event"], &dead[0]["reason"]), (&json!("1"), &json!("Gone")));
    for id in ["2", "3"] {
        standalone.accepted(&event(id)).await;
    }
    is_held(receiver).await;
    standalone
}

async fn is_held(receiver: &Receiver) {
    stays("the receiver sees nothing more", async || receiver.requests().len() == 1).await;
}

/// What waited goes out, and the dead one stays dead.
async fn goes_on(standalone: &Standalone, receiver: &Receiver) {
    receiver.wait_for(3, DEADLINE).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 2).await;
    assert_eq!(receiver.requests().len(), 3);
    assert_eq!(items(standalone, "state=dead").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_410_until_the_spec_changes() {
    let receiver = Receiver::start(|_, n| Reply::status(if n == 1 { 410 } else { 200 }));
    let spec = |more: Value| hook("h", &receiver.url(), with(more));
    let mut standalone = gone(&spec(json!({})), &receiver).await;
    standalone.process().kill9();
    standalone.restart().await;
    is_held(&receiver).await;
    standalone.accepted(&event("2")).await;
    is_held(&receiver).await;
    standalone.write("all.yaml", &spec(json!({"delivery": {"timeout": "3s"}})));
    goes_on(&standalone, &receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_410_until_the_command_resume() {
    let receiver = Receiver::start(|_, n| Reply::status(if n == 1 { 410 } else { 200 }));
    let mut standalone = gone(&hook("h", &receiver.url(), quick()), &receiver).await;
    standalone.restart().await;
    is_held(&receiver).await;
    standalone.write("all.yaml", &resumed(&receiver.url(), "now"));
    goes_on(&standalone, &receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_from_before_the_410_does_not_end_the_hold() {
    let receiver = Receiver::start(|_, n| Reply::status(if n == 1 { 410 } else { 200 }));
    let mut standalone = gone(&resumed(&receiver.url(), "old"), &receiver).await;
    standalone.restart().await;
    is_held(&receiver).await;
    standalone.write("all.yaml", &resumed(&receiver.url(), "new"));
    goes_on(&standalone, &receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_stops_the_age_clock() {
    let receiver = Receiver::start(|request, n| {
        Reply::status(if request.path == "/paused" && n > 1 { 200 } else { 503 })
    });
    let of = |name: &str, paused: bool| {
        let delivery = json!({"source": name, "delivery": {"paused": paused, "retry": {"maxAge": "2s"}}});
        hook(name, &format!("{}/{name}", receiver.url()), with(delivery))
    };
    let mut standalone = Standalone::start(&(of("paused", true) + &of("old", false)), &[]).await;
    let begun = Instant::now();
    for source in ["paused", "old"] {
        let mut event = event(source);
        event["source"] = json!(source);
        standalone.accepted(&event).await;
    }
    standalone.wait_for_count(FINISHED, &[DEAD], 1).await;
    let dead = items(&standalone, "state=dead").await;
    assert_eq!((&dead[0]["hook"], &dead[0]["reason"]), (&json!("old"), &json!("MaxAge")));
    assert!(begun.elapsed() > Duration::from_millis(500), "{:?}", begun.elapsed());
    standalone.restart().await;
    tokio::time::sleep(Duration::from_secs(4).saturating_sub(begun.elapsed())).await;

    // Its first answer is a failure, at which its age is looked at.
    let failed = std::sync::atomic::AtomicBool::new(false);
    let first = move || !failed.swap(true, std::sync::atomic::Ordering::SeqCst);
    receiver.script(move |_, _| Reply::status(if first() { 503 } else { 200 }));
    standalone.write("all.yaml", &(of("paused", false) + &of("old", false)));
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    let delivered = items(&standalone, "state=delivered").await;
    assert_eq!(delivered[0]["hook"], "paused");
    assert_eq!(delivered[0]["attempts"].as_array().unwrap().len(), 2);
}

/// With the breaker open one delivery is tried in a while: the others must not wait for that turn until they may die.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_answers_dies_at_its_age() {
    let receiver = Receiver::start(|_, _| Reply::status(503));
    let delivery = json!({"delivery": {"concurrency": 1, "retry": {"maxAge": "5s"}}});
    let standalone = Standalone::start(&hook("h", &receiver.url(), with(delivery)), &[]).await;
    for number in 0..300 {
        standalone.accepted(&event(&format!("{number}"))).await;
    }
    standalone.wait_for_count(FINISHED, &[DEAD, r#"reason="MaxAge""#], 300).await;
    assert!(receiver.requests().len() < 100, "{} attempts", receiver.requests().len());
    let never_tried = items(&standalone, "state=dead&limit=1").await;
    assert_eq!(never_tried[0]["attempts"], json!([]), "{never_tried:?}");
}

/// A filter that fails on events without `deep`.
const FAILS: &str = "data.deep.n == 1";

fn filtered(receiver: &Receiver, filter: &str) -> String {
    let more = json!({"filter": filter, "delivery": {"retry": {"maxAge": "2s"}}});
    hook("h", &receiver.url(), with(more))
}

/// A hook with an event that its filter fails on, and one on which it does not.
async fn undecided(receiver: &Receiver) -> Standalone {
    let standalone = Standalone::start(&filtered(receiver, FAILS), &[]).await;
    standalone.accepted(&event("held")).await;
    let log = standalone.process().wait_for_line(|line| line.contains("Undecided"), DEADLINE).await;
    assert!(log.contains("filter"), "{log}");
    let mut fine = event("fine");
    fine["data"]["deep"] = json!({"n": 1});
    standalone.accepted(&fine).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    stays("the other is held", async || receiver.requests().len() == 1).await;
    assert_eq!(receiver.requests()[0].json()["id"], "fine");
    let held = items(&standalone, "event=held").await;
    assert_eq!((&held[0]["state"], &held[0]["attempts"]), (&json!("pending"), &json!([])));
    standalone
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_on_which_the_filter_fails_waits_for_another_filter() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let mut standalone = undecided(&receiver).await;
    standalone.restart().await;
    stays("it is held after a restart", async || receiver.requests().len() == 1).await;
    // Older than maxAge by now, which does not count while it is held.
    tokio::time::sleep(Duration::from_secs(2)).await;
    receiver.script(|_, n| Reply::status(if n == 2 { 503 } else { 200 }));
    standalone.write("all.yaml", &filtered(&receiver, "data.id == 'held'"));
    eventually(DEADLINE, "the held one to be delivered", async || {
        let held = items(&standalone, "event=held").await;
        if held[0]["state"] == "delivered" { Ok(()) } else { Err(held[0].to_string()) }
    })
    .await;
    assert_eq!(receiver.requests().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_filter_that_says_no_ends_what_was_held() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let standalone = undecided(&receiver).await;
    standalone.write("all.yaml", &filtered(&receiver, "has(data.deep)"));
    standalone.wait_for_count(FINISHED, &[DEAD], 1).await;
    let dead = items(&standalone, "state=dead").await;
    assert_eq!((&dead[0]["event"], &dead[0]["reason"]), (&json!("held"), &json!("Filtered")));
    stays("without a request", async || receiver.requests().len() == 1).await;
}
