//! Pending deliveries: pauses, deleted hooks, invalid hooks, missing Secrets; concurrency limits and isolation of hooks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::harness::http::answer;
use crate::harness::manifests::{event, hook, manifest, merge, quick, secret};
use crate::harness::metrics::{ATTEMPTS, DEAD, DELIVERED, FINISHED};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Receiver, Reply, eventually};

fn quick_with(more: Value) -> Value {
    let mut spec = quick();
    merge(&mut spec, more);
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_keeps_deliveries_until_unpaused() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let paused =
        |paused: bool| hook("h", &receiver.url(), quick_with(json!({"delivery": {"paused": paused}})));
    let mut standalone = Standalone::start(&paused(true), &[]).await;
    for number in 0..150 {
        standalone.publish_accepted(&event(&format!("{number}"))).await;
    }
    standalone.assert_stays("nothing is sent", async || receiver.requests().is_empty()).await;
    standalone.restart().await;
    standalone.assert_stays("nothing is sent after a restart", async || receiver.requests().is_empty()).await;
    standalone.write("all.yaml", &paused(false));
    receiver.wait_for(150, DEADLINE).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 150).await;
    assert_eq!(receiver.requests().len(), 150, "each event is sent once");
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_use_edited_url() {
    let old = Receiver::start(|_, _| Reply::status(503));
    let new = Receiver::start(|_, _| Reply::status(200));
    let spec = quick_with(json!({"delivery": {"retry": {"initialBackoff": "1s", "maxBackoff": "1s"}}}));
    let standalone = Standalone::start(&hook("h", &old.url(), spec.clone()), &[]).await;
    standalone.publish_accepted(&event("1")).await;
    let first = old.wait_for(1, DEADLINE).await;
    standalone.write("all.yaml", &hook("h", &new.url(), spec));
    let second = new.wait_for(1, DEADLINE).await;
    assert_eq!(first[0].header("webhook-id"), second[0].header("webhook-id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_hook_keeps_deliveries_until_recreated() {
    let receiver = Receiver::start(|_, _| Reply::status(503));
    let standalone = Standalone::start(&hook("h", &receiver.url(), quick()), &[]).await;
    standalone.write("other.yaml", &hook("other", &receiver.url(), json!({"source": "other"})));
    standalone.publish_accepted(&event("1")).await;
    receiver.wait_for(2, DEADLINE).await;
    std::fs::remove_file(standalone.manifests.join("all.yaml")).unwrap();
    // A manifest counts as removed when three scans lack it. An attempt may be in flight then; the last marker outlasts it.
    for _ in 0..3 {
        standalone.wait_for_scan().await;
    }
    let earlier_requests = receiver.requests().len();
    standalone
        .assert_stays("there are no more retries", async || receiver.requests().len() == earlier_requests)
        .await;
    receiver.script(|_, _| Reply::status(200));
    standalone.write("all.yaml", &hook("h", &receiver.url(), quick()));
    receiver.wait_for(earlier_requests + 1, DEADLINE).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    assert_eq!(standalone.count(FINISHED, &[DEAD]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn hook_grace_makes_dead_letters() {
    let receiver = Receiver::start(|_, _| Reply::status(503));
    let standalone = Standalone::start(&hook("h", &receiver.url(), quick()), &["--hook-grace", "1s"]).await;
    standalone.write("other.yaml", &hook("other", &receiver.url(), json!({"source": "other"})));
    for id in ["1", "2", "3"] {
        standalone.publish_accepted(&event(id)).await;
    }
    receiver.wait_for(3, DEADLINE).await;
    std::fs::remove_file(standalone.manifests.join("all.yaml")).unwrap();
    standalone.wait_for_count(FINISHED, &[DEAD, r#"reason="HookDeleted""#], 3).await;
    // A replay delivers to the new hook of the name, with the old delivery ids.
    let earlier_requests = receiver.requests().len();
    receiver.script(|_, _| Reply::status(200));
    standalone.write("all.yaml", &hook("h", &receiver.url(), quick()));
    // The grace period of the replay must not pass before the process reads the manifest.
    standalone.wait_for_scan().await;
    let url = format!("http://{}/v1/namespaces/default/deliveries", standalone.api);
    let (_, listed) = answer(standalone.client.get(format!("{url}?state=dead"))).await;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(3), "{listed}");
    let id = listed["items"][0]["id"].as_str().unwrap();
    let (status, body) = answer(standalone.client.post(format!("{url}/{id}/replay"))).await;
    assert_eq!(status, 202, "{body}");
    let requests = receiver.wait_for(earlier_requests + 1, DEADLINE).await;
    assert_eq!(requests[earlier_requests].header("webhook-id"), id);
}

/// An attempt in flight at SIGTERM ends normally, and its event is not sent again.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_attempts_in_flight() {
    let answers = Arc::new(Semaphore::new(0));
    let permits = answers.clone();
    let receiver =
        Receiver::start(move |_, _| Reply::AfterPermit(permits.clone(), Reply::status(200).into()));
    let mut standalone = Standalone::start(&hook("h", &receiver.url(), quick()), &[]).await;
    standalone.publish_accepted(&event("1")).await;
    receiver.wait_for(1, DEADLINE).await;
    let ready = format!("http://{}/readyz", standalone.ops);
    let answer_when_unready = async {
        // Readiness fails while the process stops; the attempt in flight keeps the process running.
        let became_unready = loop {
            match standalone.client.get(&ready).send().await {
                Ok(response) if response.status() == 503 => break true,
                Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(_) => break false,
            }
        };
        answers.add_permits(2);
        became_unready
    };
    let (status, became_unready) = tokio::join!(standalone.process().terminate(), answer_when_unready);
    assert_eq!(status.code(), Some(0), "{}", standalone.process().log());
    assert!(became_unready, "the process ended before readyz failed");
    standalone.restart().await;
    standalone.publish_accepted(&event("2")).await;
    let received = receiver.wait_for(2, DEADLINE).await;
    let ids: Vec<String> = received.iter().map(|r| r.json()["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_hook_holds_deliveries() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let good = hook("h", &receiver.url(), quick());
    let standalone = Standalone::start(&good, &[]).await;
    standalone
        .write("all.yaml", &hook("h", &receiver.url(), quick_with(json!({"delivery": {"timeout": "soon"}}))));
    standalone.process().wait_for_line(|line| line.contains("delivery.timeout"), DEADLINE).await;
    standalone.publish_accepted(&event("1")).await;
    standalone.assert_stays("an invalid hook sends nothing", async || receiver.requests().is_empty()).await;
    standalone.write("all.yaml", &good);
    receiver.wait_for(1, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_secret_uses_no_attempt_and_recovers() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let url = json!({"handler": {"webhook": {"url": null, "urlSecretRef": {"name": "where", "key": "url"}}}});
    let mut spec = quick_with(json!({"delivery": {"retry": {"maxAttempts": 1}}}));
    merge(&mut spec, url);
    // `merge` removes the URL because of the null.
    let standalone = Standalone::start(&hook("h", "http://127.0.0.1:1", spec), &[]).await;
    for number in 0..100 {
        standalone.publish_accepted(&event(&format!("{number}"))).await;
    }
    standalone.process().wait_for_line(|line| line.contains("its deliveries are pending"), DEADLINE).await;
    standalone
        .assert_stays("a missing Secret makes no dead letter", async || {
            standalone.count(FINISHED, &[DEAD]).await == 0
        })
        .await;
    let lookups = standalone.count(ATTEMPTS, &[r#"outcome="SecretMissing""#]).await;
    assert!(lookups <= 20, "the deliveries of a backlog do not each look up the Secret: {lookups}");
    let warnings = standalone.process().log().matches("its deliveries are pending").count();
    assert!(warnings <= 2, "logged {warnings} times");
    let unusable = secret("where", json!({"url": "no address"}));
    standalone.write("secret.yaml", &unusable);
    standalone.process().wait_for_line(|line| line.contains("SecretUnusable"), DEADLINE).await;
    standalone.write("secret.yaml", &secret("where", json!({"url": receiver.url()})));
    // The change of the Secret ends the hold, not the periodic check, which is seconds away.
    standalone.wait_for_scan().await;
    for _ in 0..3 {
        standalone.pass_marker().await;
    }
    assert!(!receiver.requests().is_empty(), "the hold outlasts the change of the Secret");
    receiver.wait_for(100, DEADLINE).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 100).await;
    assert_eq!(standalone.count(FINISHED, &[DEAD]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrency_is_bounded() {
    const CONCURRENCY: usize = 3;
    const EVENTS: usize = 40;
    // The receiver answers one request for each permit, so the requests above the number of permits are in flight.
    let (answers, permitted) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let peak = Arc::new(AtomicUsize::new(0));
    let (permits, answerable, highest) = (answers.clone(), permitted.clone(), peak.clone());
    let receiver = Receiver::start(move |_, n| {
        highest.fetch_max(n.saturating_sub(answerable.load(Ordering::SeqCst)), Ordering::SeqCst);
        Reply::AfterPermit(permits.clone(), Reply::status(200).into())
    });
    let spec = quick_with(json!({"delivery": {"concurrency": CONCURRENCY, "timeout": "120s"}}));
    let standalone = Standalone::start(&hook("h", &receiver.url(), spec), &[]).await;
    for number in 0..EVENTS {
        standalone.publish_accepted(&event(&format!("{number}"))).await;
    }
    receiver.wait_for(CONCURRENCY, DEADLINE).await;
    standalone
        .assert_stays("no more requests are in flight", async || receiver.requests().len() == CONCURRENCY)
        .await;
    for answered in 1..=EVENTS {
        permitted.store(answered, Ordering::SeqCst);
        answers.add_permits(1);
        receiver.wait_for(EVENTS.min(answered + CONCURRENCY), DEADLINE).await;
    }
    standalone.wait_for_count(FINISHED, &[DELIVERED], EVENTS as u64).await;
    assert_eq!(peak.load(Ordering::SeqCst), CONCURRENCY);
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_receiver_delays_no_other_hook() {
    let receiver =
        Receiver::start(|request, _| if request.path == "/hang" { Reply::Hang } else { Reply::status(200) });
    let slow = json!({"delivery": {"timeout": "60s"}});
    let manifests = hook("hang", &format!("{}/hang", receiver.url()), quick_with(slow))
        + &hook("fine", &format!("{}/fine", receiver.url()), quick());
    let standalone = Standalone::start(&manifests, &[]).await;
    for number in 0..100 {
        standalone.publish_accepted(&event(&format!("{number}"))).await;
    }
    standalone.wait_for_count(FINISHED, &[DELIVERED], 100).await;
    let hanging = || receiver.requests().iter().filter(|r| r.path == "/hang").count();
    eventually(DEADLINE, "the default concurrency of 8", async || match hanging() {
        8 => Ok(()),
        requests => Err(requests.to_string()),
    })
    .await;
    standalone.assert_stays("no more requests are in flight", async || hanging() == 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_answer_uses_bounded_memory() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let sent_bytes = sent.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let sent_bytes = sent_bytes.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                if !socket.read(&mut request).await.is_ok_and(|read| read > 0) {
                    return;
                }
                socket.write_all(b"HTTP/1.1 500 No\r\ncontent-length: 1073741824\r\n\r\n").await.ok();
                let chunk = vec![b'x'; 1 << 16];
                while socket.write_all(&chunk).await.is_ok() {
                    sent_bytes.fetch_add(chunk.len(), Ordering::Relaxed);
                }
            });
        }
    });
    let spec = quick_with(json!({"delivery": {"retry": {"maxAttempts": 2}}}));
    let standalone = Standalone::start(&hook("h", &format!("http://{address}/"), spec), &[]).await;
    let memory_before = memory_kib(&standalone, "VmRSS");
    // Few enough that the breaker does not open before the last attempt.
    for number in 0..5 {
        standalone.publish_accepted(&event(&format!("{number}"))).await;
    }
    standalone.wait_for_count(FINISHED, &[DEAD], 5).await;
    let growth = memory_kib(&standalone, "VmRSS").saturating_sub(memory_before);
    assert!(growth < 64 << 10, "{growth} KiB more");
    let sent = sent.load(Ordering::Relaxed) >> 20;
    assert!(sent < 10 * 16, "{sent} MiB were read of 10 answers");
}

/// 30 hooks with 12 pending events of 900 kB each and hanging receivers: 320 MB if all of them were read.
#[tokio::test(flavor = "multi_thread")]
async fn backlog_of_large_events_stays_on_disk() {
    let receiver = Receiver::start(|_, _| Reply::Hang);
    let slow = json!({"delivery": {"timeout": "60s", "concurrency": 1}});
    let manifests: String =
        (0..30).map(|n| hook(&format!("h{n}"), &receiver.url(), quick_with(slow.clone()))).collect();
    let standalone = Standalone::start(&manifests, &[]).await;
    let memory_before = memory_kib(&standalone, "VmRSS");
    let large = "x".repeat(900_000);
    for number in 0..12 {
        let event = json!({"id": format!("{number}"), "source": "s", "event": "e", "data": {"large": large}});
        standalone.publish_accepted(&event).await;
    }
    receiver.wait_for(30, DEADLINE).await;
    standalone.assert_stays("each hook sends one request", async || receiver.requests().len() == 30).await;
    // The kernel records the peak, so that no moment between two measurements is missed.
    let peak = memory_kib(&standalone, "VmHWM").saturating_sub(memory_before) >> 10;
    assert!(peak < 230, "{peak} MiB more");
}

/// Returns a size in KiB from the process's status: `VmRSS` is its resident memory, and `VmHWM` the peak of that.
fn memory_kib(standalone: &Standalone, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", standalone.process().pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).expect(name);
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_not_logged() {
    let receiver = Receiver::start(|request, n| {
        // A receiver that quotes the request.
        let quoted = format!("{} {:?}", request.path, request.headers);
        Reply::status(if n < 3 { 500 } else { 200 }).body(quoted)
    });
    let reference = |key: &str| json!({"name": "keys", "key": key});
    let spec = quick_with(json!({"handler": {"webhook": {"url": null, "urlSecretRef": reference("url"),
        "headersFrom": [{"name": "x-key", "secretRef": reference("header")}],
        "signature": {"secretRef": reference("signature")}}}}));
    let hidden = ["hush-path", "hush-query", "hush-header", "hush-signature"];
    let keys = json!({"url": format!("{}/hush-path?token=hush-query", receiver.url()), "header": "hush-header",
        "signature": "hush-signature", "nowhere": "http://127.0.0.1:1/hush-path"});
    // An unreachable receiver, because such errors quote addresses.
    let nowhere = json!({"handler": {"webhook": {"url": null, "urlSecretRef": reference("nowhere")}},
        "delivery": {"retry": {"maxAttempts": 2}}});
    let manifests = hook("h", "x", spec)
        + &hook("nowhere", "x", quick_with(nowhere))
        + &secret("keys", keys)
        + &manifest("v1", "Secret", "broken", json!({"stringData": {"hush-path": 7}}));
    let standalone = Standalone::start(&manifests, &["--log-level", "debug"]).await;
    standalone.publish_accepted(&event("1")).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    standalone.wait_for_count(FINISHED, &[DEAD], 1).await;
    let log = standalone.process().log();
    assert!(log.contains("attempt"), "the log has no debug messages");
    for text in hidden {
        let line = log.lines().find(|line| line.contains(text));
        assert!(line.is_none(), "{text} is in the log: {line:?}");
        assert!(!standalone.metrics().await.contains(text));
    }
}
