//! What makes deliveries wait, and what lets them go on; and that one endpoint's trouble is its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{DEADLINE, Receiver, Reply, eventually};
use crate::standalone::{
    ATTEMPTS, DEAD, DELIVERED, FINISHED, Standalone, event, hook, manifest, merge, quick, secret, stays,
};

fn with(more: Value) -> Value {
    let mut spec = quick();
    merge(&mut spec, more);
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_hook_waits_and_goes_on() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let paused = |paused: bool| hook("h", &receiver.url(), with(json!({"delivery": {"paused": paused}})));
    let mut standalone = Standalone::start(&paused(true), &[]).await;
    for number in 0..150 {
        standalone.accepted(&event(&format!("{number}"))).await;
    }
    stays("nothing is sent", async || receiver.requests().is_empty()).await;
    standalone.restart().await;
    stays("nothing is sent after a restart", async || receiver.requests().is_empty()).await;
    standalone.write("all.yaml", &paused(false));
    receiver.wait_for(150, DEADLINE).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 150).await;
    assert_eq!(receiver.requests().len(), 150, "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_url_is_where_waiting_retries_go() {
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
async fn deliveries_of_a_deleted_hook_wait_for_its_return() {
    let receiver = Receiver::start(|_, _| Reply::status(503));
    let standalone = Standalone::start(&hook("h", &receiver.url(), quick()), &[]).await;
    standalone.write("stays.yaml", &hook("other", &receiver.url(), json!({"source": "other"})));
    standalone.accepted(&event("1")).await;
    receiver.wait_for(2, DEADLINE).await;
    std::fs::remove_file(standalone.manifests.join("all.yaml")).unwrap();
    eventually(DEADLINE, "its retries to stop", async || {
        let before = receiver.requests().len();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let more = receiver.requests().len() - before;
        if more == 0 { Ok(()) } else { Err(format!("{more} more")) }
    })
    .await;
    let before = receiver.requests().len();
    receiver.script(|_, _| Reply::status(200));
    standalone.write("all.yaml", &hook("h", &receiver.url(), quick()));
    receiver.wait_for(before + 1, DEADLINE).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    assert_eq!(standalone.count(FINISHED, &[DEAD]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_hook_that_does_not_come_back_is_a_dead_letter() {
    let receiver = Receiver::start(|_, _| Reply::status(503));
    let standalone = Standalone::start(&hook("h", &receiver.url(), quick()), &["--hook-grace", "1s"]).await;
    standalone.write("stays.yaml", &hook("other", &receiver.url(), json!({"source": "other"})));
    for id in ["1", "2", "3"] {
        standalone.accepted(&event(id)).await;
    }
    receiver.wait_for(3, DEADLINE).await;
    std::fs::remove_file(standalone.manifests.join("all.yaml")).unwrap();
    standalone.wait_for_count(FINISHED, &[DEAD, r#"reason="HookDeleted""#], 3).await;
    // A hook of the name gets them by a replay, under their old ids.
    let before = receiver.requests();
    receiver.script(|_, _| Reply::status(200));
    standalone.write("all.yaml", &hook("h", &receiver.url(), quick()));
    let url = format!("http://{}/v1/namespaces/default/deliveries", standalone.api);
    let (_, listed) = crate::standalone::answer(standalone.client.get(format!("{url}?state=dead"))).await;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(3), "{listed}");
    let id = listed["items"][0]["id"].as_str().unwrap();
    let (status, said) =
        crate::standalone::answer(standalone.client.post(format!("{url}/{id}/replay"))).await;
    assert_eq!(status, 202, "{said}");
    let after = receiver.wait_for(before.len() + 1, DEADLINE).await;
    assert_eq!(after[before.len()].header("webhook-id"), id);
}

/// What is under way when the process is asked to stop comes to its end, and is not sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_what_is_under_way_end() {
    let receiver =
        Receiver::start(|_, _| Reply::After(Duration::from_millis(700), Reply::status(200).into()));
    let mut standalone = Standalone::start(&hook("h", &receiver.url(), quick()), &[]).await;
    standalone.accepted(&event("1")).await;
    receiver.wait_for(1, DEADLINE).await;
    let ready = format!("http://{}/readyz", standalone.ops);
    let looking = async {
        // While it stops it says that it is not ready.
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
    let seen = receiver.wait_for(2, DEADLINE).await;
    let ids: Vec<String> = seen.iter().map(|r| r.json()["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_breaks_holds_what_matches_until_it_is_valid_again() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let good = hook("h", &receiver.url(), quick());
    let standalone = Standalone::start(&good, &[]).await;
    standalone.write("all.yaml", &hook("h", &receiver.url(), with(json!({"delivery": {"timeout": "soon"}}))));
    standalone.process().wait_for_line(|line| line.contains("delivery.timeout"), DEADLINE).await;
    standalone.accepted(&event("1")).await;
    stays("nothing is sent by a spec that is not understood", async || receiver.requests().is_empty()).await;
    standalone.write("all.yaml", &good);
    receiver.wait_for(1, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_costs_no_attempt_and_heals() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let url = json!({"handler": {"webhook": {"url": null, "urlSecretRef": {"name": "where", "key": "url"}}}});
    let mut spec = with(json!({"delivery": {"retry": {"maxAttempts": 1}}}));
    merge(&mut spec, url);
    // `merge` takes the null as "remove", which is what is wanted of the URL.
    let standalone = Standalone::start(&hook("h", "http://127.0.0.1:1", spec), &[]).await;
    for number in 0..100 {
        standalone.accepted(&event(&format!("{number}"))).await;
    }
    standalone.process().wait_for_line(|line| line.contains("its deliveries wait"), DEADLINE).await;
    stays("a Secret that is missing kills nothing", async || standalone.count(FINISHED, &[DEAD]).await == 0)
        .await;
    let tries = standalone.count(ATTEMPTS, &[r#"outcome="SecretMissing""#]).await;
    assert!(tries <= 20, "a backlog does not look for it one by one: {tries}");
    let said = standalone.process().log().matches("its deliveries wait").count();
    assert!(said <= 2, "said {said} times");
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
async fn a_hook_has_so_many_requests_at_once_and_no_more() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, highest) = (now.clone(), most.clone());
    // Receivers are single-threaded, so that "at once" is counted by hand: a request is open until its answer is due.
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
    let most = most.load(Ordering::SeqCst);
    assert!((2..=3).contains(&most), "{most} at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_endpoint_delays_no_other_hook() {
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
async fn an_answer_without_end_costs_no_memory() {
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
    // Not so many that the breaker opens before the last attempt.
    for number in 0..5 {
        standalone.accepted(&event(&format!("{number}"))).await;
    }
    standalone.wait_for_count(FINISHED, &[DEAD], 5).await;
    let grown = resident(&standalone).saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more");
    let sent = sent.load(Ordering::Relaxed) >> 20;
    assert!(sent < 10 * 16, "{sent} MiB were read of 10 answers");
}

/// 30 hooks have 12 events of 900 kB each to send to receivers that hang: 320 MB if all of it were read.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_large_events_waits_on_disk() {
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
    let mut most = 0;
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        most = most.max(resident(&standalone).saturating_sub(before) >> 10);
    }
    assert!(receiver.requests().len() == 30, "each hook sends one");
    assert!(most < 230, "{most} MiB more");
}

/// The process's resident memory in KiB.
fn resident(standalone: &Standalone) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", standalone.process().pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_in_no_log() {
    let receiver = Receiver::start(|request, n| {
        // A receiver that repeats what it got.
        let said = format!("{} {:?}", request.path, request.headers);
        Reply::status(if n < 3 { 500 } else { 200 }).body(said)
    });
    let reference = |key: &str| json!({"name": "keys", "key": key});
    let spec = with(json!({"handler": {"webhook": {"url": null, "urlSecretRef": reference("url"),
        "headersFrom": [{"name": "x-key", "secretRef": reference("header")}],
        "signature": {"secretRef": reference("signature")}}}}));
    let hidden = ["hush-path", "hush-query", "hush-header", "hush-signature"];
    let keys = json!({"url": format!("{}/hush-path?token=hush-query", receiver.url()), "header": "hush-header",
        "signature": "hush-signature"});
    // One more that cannot be reached: errors tell of addresses.
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
