//! A full disk: the worker refuses events so that each kind of sender retries, loses nothing, and recovers.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use hookstream::api::{SignatureAlgorithm, SignatureEncoding};
use hookstream::core::sign::kong_signature;

use crate::harness::manifests::{event, hook, merge, quick};
use crate::harness::metrics::{DELIVERED, FINISHED};
use crate::harness::standalone::{EVENTS, Standalone};
use crate::harness::{DEADLINE, Kong, Receiver, Reply, eventually};

fn filler(id: usize) -> Value {
    json!({"source": "crud", "event": "consumers", "id": id, "data": "x".repeat(60_000)})
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts a file system: make test runs it where user namespaces are allowed"]
async fn full_disk_makes_senders_retry_and_loses_nothing_needs_mount() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let kong = Kong::start(&[]).await;
    let spec = |connected: bool, paused: bool| {
        let mut spec = quick();
        merge(&mut spec, json!({"source": "crud", "delivery": {"paused": paused, "concurrency": 32}}));
        if connected {
            merge(&mut spec, json!({"connectionRef": {"name": "kong"}}));
        }
        spec
    };
    let manifests = |paused: bool| {
        let url = receiver.url();
        kong.connection()
            + &hook("relayed", &url, spec(true, paused))
            + &hook("api", &url, spec(false, paused))
    };
    let mut standalone = Standalone::prepare(
        &manifests(true),
        &[
            "--relay-dedup-window",
            "0",
            "--disk-limit",
            "100%",
            "--hook-share",
            "100%",
            "--namespace-share",
            "100%",
        ],
    );
    // 2 MiB of the disk are filled beforehand.
    standalone.mount_data("6m", r#"head -c 2097152 /dev/zero > "$0/filler""#);
    standalone.restart().await;
    let config = kong.wait_for_hooks(1).await[0]["config"].clone();
    let text = |name: &str| config[name].as_str().expect("the relay's settings").to_owned();
    let (relay_url, secret) = (text("url"), text("secret"));
    let relay = async |id: usize| {
        let body = filler(id).to_string();
        let encoding = SignatureEncoding::PrefixedHex;
        let signature =
            kong_signature(secret.as_bytes(), SignatureAlgorithm::SHA256, encoding, body.as_bytes());
        let request = standalone.client.post(&relay_url).header("x-kong-signature", signature);
        request.body(body).send().await.ok().map(|response| response.status().as_u16())
    };
    let publish = async |id: usize| {
        let body = json!({"id": format!("{id}"), "source": "crud", "event": "e", "data": filler(id)});
        standalone.client.post(standalone.url(EVENTS)).json(&body).send().await.expect("an answer")
    };

    let mut accepted = 0;
    let (mut refused, mut closed) = (0, 0);
    for id in 0..200 {
        if refused > 3 && closed > 3 {
            break;
        }
        let answer = publish(id).await;
        if answer.status() == 202 {
            accepted += 1;
        } else {
            refused += 1;
            assert_eq!(answer.status(), 503);
            assert!(answer.headers().contains_key("retry-after"));
            let body: Value = answer.json().await.expect("a problem");
            assert_eq!(body["reason"], "Full", "{body}");
        }
        match relay(id).await {
            Some(202) => accepted += 1,
            Some(status) => panic!("a relay was answered {status}: Kong would not retry"),
            None => closed += 1,
        }
    }
    assert!(
        refused > 3 && closed > 3,
        "the disk did not fill: {refused} and {closed} refused, {accepted} accepted"
    );
    assert!(standalone.process().ended().is_none(), "a full disk must not end the process");

    // Once there is space, the same process accepts events again.
    std::fs::remove_file(filler_file(&standalone)).expect("the file that fills the disk");
    eventually(DEADLINE, "the worker to accept events again", async || {
        let status = publish(1000).await.status().as_u16();
        if status == 202 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    assert_eq!(relay(1000).await, Some(202));
    standalone.write("all.yaml", &manifests(false));
    standalone.wait_for_count(FINISHED, &[DELIVERED], accepted + 2).await;
    assert_eq!(receiver.requests().len() as u64, accepted + 2, "each event is sent once");
}

/// Waits until `/readyz` is 200 with this text, or without a notice if it is empty.
async fn wait_for_notice(standalone: &Standalone, notice: &str) {
    let url = format!("http://{}/readyz", standalone.ops);
    eventually(DEADLINE, "the notice of /readyz", async || {
        let response = standalone.client.get(&url).send().await.map_err(|e| e.to_string())?;
        assert_eq!(response.status(), 200, "closed ingest must not make the API port unreachable");
        let text = response.text().await.map_err(|e| e.to_string())?;
        let fits = if notice.is_empty() { text == "ok\n" } else { text.contains(notice) };
        if fits { Ok(()) } else { Err(text) }
    })
    .await;
}

/// Returns how many reasons the metric reports for closed ingest.
async fn closed_reasons(standalone: &Standalone) -> usize {
    let metrics = standalone.metrics().await;
    let values: Vec<_> =
        metrics.lines().filter(|line| line.starts_with("hookstream_ingest_closed{")).collect();
    assert_eq!(values.len(), 2, "each reason has a series: {values:?}");
    values.iter().filter(|line| line.ends_with(" 1")).count()
}

/// The file that another process fills the disk with.
fn filler_file(standalone: &Standalone) -> String {
    format!("/proc/{}/root{}/filler", standalone.process().pid(), standalone.data.display())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts a file system: make test runs it where user namespaces are allowed"]
async fn ingest_reopens_after_a_drain_without_restart_needs_mount() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let manifests = |paused: bool| {
        let mut spec = quick();
        merge(&mut spec, json!({"delivery": {"paused": paused, "concurrency": 32}}));
        hook("h", &receiver.url(), spec)
    };
    let args = ["--disk-limit", "70%", "--hook-share", "100%", "--namespace-share", "100%"];
    let retention = ["--history-age", "1s", "--dedup-window", "0"];
    let mut standalone = Standalone::prepare(&manifests(true), &[args.as_slice(), &retention].concat());
    standalone.mount_data("24m", "true");
    standalone.restart().await;
    let publish = async |id: usize| {
        let body = json!({"id": format!("{id}"), "source": "s", "event": "e", "data": "x".repeat(60_000)});
        let (status, answer) = standalone.publish(&body).await;
        if status == 202 { Ok(()) } else { Err(answer["reason"].to_string()) }
    };
    for round in 0..2 {
        let mut accepted = 0;
        // Within the second between two checks of the limit, the disk may become full.
        while publish(round * 10_000 + accepted).await.is_ok() {
            accepted += 1;
        }
        assert!(accepted > 50, "{accepted} accepted in round {round}");
        wait_for_notice(&standalone, "ingest is closed (").await;
        assert_eq!(closed_reasons(&standalone).await, 1);
        standalone.write("all.yaml", &manifests(false));
        // Only the sweep of the delivered events makes space.
        wait_for_notice(&standalone, "").await;
        assert_eq!(closed_reasons(&standalone).await, 0);
        eventually(DEADLINE, "events to be accepted again", async || publish(5_000 + round * 10_000).await)
            .await;
        standalone.write("all.yaml", &manifests(true));
        standalone.wait_for_scan().await;
    }
}

/// Another process fills the disk while attempts are in flight, and takes the space that the reserve releases.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts a file system: make test runs it where user namespaces are allowed"]
async fn outcomes_survive_a_disk_that_another_process_fills_needs_mount() {
    // The log has space for some hundred outcomes.
    const EVENTS: usize = 2000;
    const IN_FLIGHT: usize = 40;
    let permits = Arc::new(Semaphore::new(0));
    let receiver = Receiver::start({
        let permits = permits.clone();
        move |_, _| Reply::AfterPermit(permits.clone(), Reply::status(200).into())
    });
    let mut spec = quick();
    merge(&mut spec, json!({"delivery": {"concurrency": IN_FLIGHT}}));
    let mut standalone = Standalone::prepare(&hook("h", &receiver.url(), spec), &["--disk-limit", "100%"]);
    standalone.mount_data("32m", "true");
    standalone.restart().await;
    let publishing = (0..EVENTS).map(|id| {
        let event = event(&format!("e{id}"));
        let standalone = &standalone;
        async move { standalone.publish_accepted(&event).await }
    });
    futures::stream::iter(publishing).buffer_unordered(32).collect::<Vec<()>>().await;
    receiver.wait_for(IN_FLIGHT, DEADLINE).await;

    let path = filler_file(&standalone);
    let stop = Arc::new(AtomicBool::new(false));
    let filling = std::thread::spawn({
        let (path, stop) = (path.clone(), stop.clone());
        move || {
            let mut file = std::fs::File::create(path).expect("the file that fills the disk");
            while !stop.load(Ordering::Relaxed) {
                // The smallest piece takes the last page.
                let size = [1 << 20, 4096].into_iter().find(|size| file.write_all(&vec![1; *size]).is_ok());
                if size.is_none() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    });
    wait_for_full_disk(&standalone).await;
    permits.add_permits(EVENTS * 2);
    wait_for_notice(&standalone, "ingest is closed (Full)").await;
    assert_eq!(closed_reasons(&standalone).await, 1);
    standalone.process().wait_for_line(|line| line.contains("outcomes cannot be stored"), DEADLINE).await;
    let (status, answer) = standalone.publish(&event("refused")).await;
    assert_eq!((status, answer["reason"].as_str()), (503, Some("Full")));
    assert!(receiver.requests().len() < EVENTS, "attempts go on although their outcomes cannot be stored");
    assert!(standalone.process().ended().is_none(), "a full disk must not end the process");

    stop.store(true, Ordering::Relaxed);
    filling.join().unwrap();
    std::fs::remove_file(path).expect("the file that fills the disk");
    standalone.wait_for_count(FINISHED, &[DELIVERED], EVENTS as u64).await;
    assert_eq!(receiver.requests().len(), EVENTS, "each event is sent once");
    wait_for_notice(&standalone, "").await;
    standalone.publish_accepted(&event("later")).await;
}

async fn wait_for_full_disk(standalone: &Standalone) {
    eventually(DEADLINE, "the disk to be full", async || {
        let path = format!("/proc/{}/root{}", standalone.process().pid(), standalone.data.display());
        let disk = rustix::fs::statvfs(path).map_err(|e| e.to_string())?;
        if disk.f_bavail == 0 { Ok(()) } else { Err(disk.f_bavail.to_string()) }
    })
    .await;
}
