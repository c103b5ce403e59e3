//! Pending deliveries: pauses, deleted hooks, invalid hooks, missing Secrets; concurrency limits and isolation of hooks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::manifests::{event, hook, manifest, merge, quick, secret};
use crate::harness::metrics::{ATTEMPTS, DEAD, DELIVERED, FINISHED};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Receiver, Reply};

fn with(more: Value) -> Value {
    let mut spec = quick();
    merge(&mut spec, more);
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_keeps_deliveries_until_unpaused() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let paused = |paused: bool| hook("h", &receiver.url(), with(json!({"delivery": {"paused": paused}})));
    let mut standalone = Standalone::start(&paused(true), &[]).await;
    for number in 0..150 {
        standalone.accepted(&event(&format!("{number}"))).await;
    }
    standalone.stays("nothing is sent", async || receiver.requests().is_empty()).await;
    standalone.restart().await;
    standalone.stays("nothing is sent after a restart", async || receiver.requests().is_empty()).await;
    standalone.write("all.yaml", &paused(false));
    receiver.wait_for(150, DEADLINE).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 150).await;
    assert_eq!(receiver.requests().len(), 150, "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_use_edited_url() {
    let old = Receiver::start(|_, _| Reply::status(503));
    let new = Receiver::start(|_, _| Reply::status(200));
    let spec = with(json!({"delivery": {"retry": {"initialBackoff": "1s", "maxBackoff": "1s"}}}));
    let standalone = Standalone::start(&hook("h", &old.url(), spec.clone()), &[]).await;
    standalone.accepted(&event("1")).await;
    let first = old.wait_for(1, DEADLINE).await;
    standalone.write("all.yaml", &hook("h", &new.url(), spec));
    let then = new.wait_for(1, DEADLINE).await;
    assert_eq!(first[0].header("webhook-id"), then[0].header("webhook-id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_hook_keeps_deliveries_until_recreated() {
    let receiver = Receiver::start(|_, _| Reply::status(503));
    let standalone = Standalone::start(&hook("h", &receiver.url(), quick()), &[]).await;
    standalone.write("stays.yaml", &hook("other", &receiver.url(), json!({"source": "other"})));
    standalone.accepted(&event("1")).await;
    receiver.wait_for(2, DEADLINE).await;
    std::fs::remove_file(standalone.manifests.join("all.yaml")).unwrap();
    // An attempt may be in flight when the process reads that the manifest is gone; the marker outlasts it.
    standalone.wait_for_scan().await;
    let before = receiver.requests().len();
    standalone.stays("there are no more retries", async || receiver.requests().len() == before).await;
    receiver.script(|_, _| Reply::status(200));
    standalone.write("all.yaml", &hook("h", &receiver.url(), quick()));
    receiver.wait_for(before + 1, DEADLINE).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    assert_eq!(standalone.count(FINISHED, &[DEAD]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn hook_grace_makes_dead_letters() {
    let receiver = Receiver::start(|_, _| Reply::status(503));
    let standalone = Standalone::start(&hook("h", &receiver.url(), quick()), &["--hook-grace", "1s"]).await;
    standalone.write("stays.yaml", &hook("other", &receiver.url(), json!({"source": "other"})));
    for id in ["1", "2", "3"] {
        standalone.accepted(&event(id)).await;
    }
    receiver.wait_for(3, DEADLINE).await;
    std::fs::remove_file(standalone.manifests.join("all.yaml")).unwrap();
    standalone.wait_for_count(FINISHED, &[DEAD, r#"reason="HookDeleted""#], 3).await;
    // A replay delivers to the new hook of the name, with the old delivery ids.
    let before = receiver.requests();
    receiver.script(|_, _| Reply::status(200));
    standalone.write("all.yaml", &hook("h", &receiver.url(), quick()));
    let url = format!("http://{}/v1/namespaces/default/deliveries", standalone.api);
    let (_, listed) = crate::harness::http::answer(standalone.client.get(format!("{url}?state=dead"))).await;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(3), "{listed}");
    let id = listed["items"][0]["id"].as_str().unwrap();
    let (status, body) =
        crate::harness::http::answer(standalone.client.post(format!("{url}/{id}/replay"))).await;
    assert_eq!(status, 202, "{body}");
    let after = receiver.wait_for(before.len() + 1, DEADLINE).await;
    assert_eq!(after[before.len()].header("webhook-id"), id);
}

/// An attempt in flight at SIGTERM ends normally, and its event is not sent again.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_attempts_in_flight() {
    let receiver =
        Receiver::start(|_, _| Reply::After(Duration::from_millis(700), Reply::status(200).into()));
    let mut standalone = Standalone::start(&hook("h", &receiver.url(), quick()), &[]).await;
    standalone.accepted(&event("1")).await;
    receiver.wait_for(1, DEADLINE).await;
    let ready = format!("http://{}/readyz", standalone.ops);
    let looking = async {
        // Readiness fails while the process stops.
        loop {
            match standalone.client.get(&ready).send().await {
                Ok(response) if response.status() == 503 => break true,
                Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(_) => break false,
            }
        }
    };
    let (ended, turned) = tokio::join!(standalone.process().terminate(), looking);
    assert_eq!(ended.code(), Some(0), "{}", standalone.process().log());
    assert!(turned, "readyz did not turn before the process ended");
    standalone.restart().await;
    standalone.accepted(&event("2")).await;
    let received = receiver.wait_for(2, DEADLINE).await;
    let ids: Vec<String> = received.iter().map(|r| r.json()["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_hook_holds_deliveries() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let good = hook("h", &receiver.url(), quick());
    let standalone = Standalone::start(&good, &[]).await;
    standalone.write("all.yaml", &hook("h", &receiver.url(), with(json!({"delivery": {"timeout": "soon"}}))));
    standalone.process().wait_for_line(|line| line.contains("delivery.timeout"), DEADLINE).await;
    standalone.accepted(&event("1")).await;
    standalone.stays("an invalid hook sends nothing", async || receiver.requests().is_empty()).await;
    standalone.write("all.yaml", &good);
    receiver.wait_for(1, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_secret_uses_no_attempt_and_recovers() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let url = json!({"handler": {"webhook": {"url": null, "urlSecretRef": {"name": "where", "key": "url"}}}});
    let mut spec = with(json!({"delivery": {"retry": {"maxAttempts": 1}}}));
    merge(&mut spec, url);
    // `merge` removes the URL because of the null.
    let standalone = Standalone::start(&hook("h", "http://127.0.0.1:1", spec), &[]).await;
    for number in 0..100 {
        standalone.accepted(&event(&format!("{number}"))).await;
    }
    standalone.process().wait_for_line(|line| line.contains("its deliveries are pending"), DEADLINE).await;
    standalone
        .stays("a missing Secret makes no dead letter", async || {
            standalone.count(FINISHED, &[DEAD]).await == 0
        })
        .await;
    let tries = standalone.count(ATTEMPTS, &[r#"outcome="SecretMissing""#]).await;
    assert!(tries <= 20, "the deliveries of a backlog do not each look up the Secret: {tries}");
    let warnings = standalone.process().log().matches("its deliveries are pending").count();
    assert!(warnings <= 2, "logged {warnings} times");
    let unusable = secret("where", json!({"url": "no address"}));
    standalone.write("secret.yaml", &unusable);
    standalone.process().wait_for_line(|line| line.contains("SecretUnusable"), DEADLINE).await;
    let healed = Instant::now();
    standalone.write("secret.yaml", &secret("where", json!({"url": receiver.url()})));
    receiver.wait_for(100, DEADLINE).await;
    assert!(healed.elapsed() < Duration::from_secs(5), "it took {:?}", healed.elapsed());
    standalone.wait_for_count(FINISHED, &[DELIVERED], 100).await;
    assert_eq!(standalone.count(FINISHED, &[DEAD]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrency_is_bounded() {
    let (now, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, highest) = (now.clone(), peak.clone());
    // The receiver counts requests in flight itself: a request is open until shortly before its answer.
    let receiver = Receiver::start(move |_, _| {
        let open = counted.fetch_add(1, Ordering::SeqCst) + 1;
        highest.fetch_max(open, Ordering::SeqCst);
        let counted = counted.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            counted.fetch_sub(1, Ordering::SeqCst);
        });
        Reply::After(Duration::from_millis(60), Reply::status(200).into())
    });
    let spec = with(json!({"delivery": {"concurrency": 3}}));
    let standalone = Standalone::start(&hook("h", &receiver.url(), spec), &[]).await;
    for number in 0..40 {
        standalone.accepted(&event(&format!("{number}"))).await;
    }
    standalone.wait_for_count(FINISHED, &[DELIVERED], 40).await;
    let peak = peak.load(Ordering::SeqCst);
    assert!((2..=3).contains(&peak), "{peak} at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_receiver_delays_no_other_hook() {
    let receiver =
        Receiver::start(|request, _| if request.path == "/hang" { Reply::Hang } else { Reply::status(200) });
    let slow = json!({"delivery": {"timeout": "60s"}});
    let manifests = hook("hang", &format!("{}/hang", receiver.url()), with(slow))
        + &hook("fine", &format!("{}/fine", receiver.url()), quick());
    let standalone = Standalone::start(&manifests, &[]).await;
    for number in 0..100 {
        standalone.accepted(&event(&format!("{number}"))).await;
    }
    standalone.wait_for_count(FINISHED, &[DELIVERED], 100).await;
    let hanging = receiver.requests().iter().filter(|r| r.path == "/hang").count();
    assert_eq!(hanging, 8, "the default concurrency");
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_answer_uses_no_memory() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                if !socket.read(&mut request).await.is_ok_and(|read| read > 0) {
                    return;
                }
                socket.write_all(b"HTTP/1.1 500 No\r\ncontent-length: 1073741824\r\n\r\n").await.ok();
                let chunk = vec![b'x'; 1 << 16];
                while socket.write_all(&chunk).await.is_ok() {
                    counted.fetch_add(chunk.len(), Ordering::Relaxed);
                }
            });
        }
    });
    let spec = with(json!({"delivery": {"retry": {"maxAttempts": 2}}}));
    let standalone = Standalone::start(&hook("h", &format!("http://{address}/"), spec), &[]).await;
    let before = resident(&standalone);
    // Few enough that the breaker does not open before the last attempt.
    for number in 0..5 {
        standalone.accepted(&event(&format!("{number}"))).await;
    }
    standalone.wait_for_count(FINISHED, &[DEAD], 5).await;
    let grown = resident(&standalone).saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more");
    let sent = sent.load(Ordering::Relaxed) >> 20;
    assert!(sent < 10 * 16, "{sent} MiB were read of 10 answers");
}

/// 30 hooks with 12 pending events of 900 kB each and hanging receivers: 320 MB if all of them were read.
#[tokio::test(flavor = "multi_thread")]
async fn backlog_of_large_events_stays_on_disk() {
    let receiver = Receiver::start(|_, _| Reply::Hang);
    let slow = json!({"delivery": {"timeout": "60s", "concurrency": 1}});
    let manifests: String =
        (0..30).map(|n| hook(&format!("h{n}"), &receiver.url(), with(slow.clone()))).collect();
    let standalone = Standalone::start(&manifests, &[]).await;
    let before = resident(&standalone);
    let large = "x".repeat(900_000);
    for number in 0..12 {
        let event = json!({"id": format!("{number}"), "source": "s", "event": "e", "data": {"large": large}});
        standalone.accepted(&event).await;
    }
    receiver.wait_for(30, DEADLINE).await;
    let mut peak = 0;
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        peak = peak.max(resident(&standalone).saturating_sub(before) >> 10);
    }
    assert!(receiver.requests().len() == 30, "each hook sends one request");
    assert!(peak < 230, "{peak} MiB more");
}

/// Returns the process's resident memory in KiB.
fn resident(standalone: &Standalone) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", standalone.process().pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
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
    let spec = with(json!({"handler": {"webhook": {"url": null, "urlSecretRef": reference("url"),
        "headersFrom": [{"name": "x-key", "secretRef": reference("header")}],
        "signature": {"secretRef": reference("signature")}}}}));
    let hidden = ["hush-path", "hush-query", "hush-header", "hush-signature"];
    let keys = json!({"url": format!("{}/hush-path?token=hush-query", receiver.url()), "header": "hush-header",
        "signature": "hush-signature"});
    // A receiver that cannot be reached, because such errors quote addresses.
    let nowhere = json!({"handler": {"webhook": {"url": null, "urlSecretRef": reference("nowhere")}},
        "delivery": {"retry": {"maxAttempts": 2}}});
    let mut keys = keys;
    merge(&mut keys, json!({"nowhere": "http://127.0.0.1:1/hush-path"}));
    let manifests = hook("h", "x", spec)
        + &hook("nowhere", "x", with(nowhere))
        + &secret("keys", keys)
        + &manifest("v1", "Secret", "broken", json!({"stringData": {"hush-path": 7}}));
    let standalone = Standalone::start(&manifests, &["--log-level", "debug"]).await;
    standalone.accepted(&event("1")).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    standalone.wait_for_count(FINISHED, &[DEAD], 1).await;
    let log = standalone.process().log();
    assert!(log.contains("attempt"), "debug is on");
    for text in hidden {
        let line = log.lines().find(|line| line.contains(text));
        assert!(line.is_none(), "{text} is in the log: {line:?}");
        assert!(!standalone.metrics().await.contains(text));
    }
}
