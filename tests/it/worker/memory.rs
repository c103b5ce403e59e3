//! The memory budget: floods of one kind or one namespace leave memory for the others.

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::manifests::{hook, manifest, quick};
use crate::harness::metrics::INGESTED;
use crate::harness::standalone::{EVENTS, Standalone};
use crate::harness::{DEADLINE, Receiver, Reply, eventually};

const MIB: usize = 1 << 20;
/// Small, so that few connections use it up.
const BUDGET: &[&str] = &["--memory-budget", "128MiB"];

/// Starts a worker with a hook in the namespaces `default` and `loud`.
async fn start() -> (Receiver, Standalone) {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let spec = json!({"source": "s", "handler": {"webhook": {"url": receiver.url()}}});
    let loud = json!({"metadata": {"name": "all", "namespace": "loud"}, "spec": spec});
    let manifests = hook("all", &receiver.url(), quick())
        + &manifest("hookstream.dev/v1alpha1", "EventHook", "all", loud);
    (receiver, Standalone::start(&manifests, BUDGET).await)
}

/// Sends most of a body of 1 MiB and then nothing more. Returns the connection, closed or open.
async fn stall(standalone: &Standalone, path: &str) -> TcpStream {
    let mut socket = TcpStream::connect(&standalone.listen).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {MIB}\r\n\r\n"
    );
    // The worker may close the connection before it has read everything.
    let sent = async {
        socket.write_all(head.as_bytes()).await?;
        socket.write_all(&vec![b' '; MIB - 1024]).await
    };
    tokio::time::timeout(DEADLINE, sent).await.expect("the worker reads or closes").ok();
    socket
}

/// Returns what the worker answers before it closes the connection; empty if it closes without an answer.
async fn read_answer(mut socket: TcpStream) -> String {
    let mut answer = vec![0; 4096];
    let length =
        tokio::time::timeout(DEADLINE, socket.read(&mut answer)).await.expect("an answer").unwrap_or(0);
    String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned()
}

/// Returns an event with about this many bytes.
fn large_event(id: &str, bytes: usize) -> Value {
    json!({"id": id, "source": "s", "event": "e", "data": "x".repeat(bytes)})
}

async fn wait_for_rejection(standalone: &Standalone, share: &str) {
    let label = format!("share=\"{share}\"");
    eventually(DEADLINE, "a share that is used up", async || {
        match standalone.count("hookstream_memory_rejections", &[&label]).await {
            0 => Err("no rejection".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_unsigned_relays_do_not_affect_publishing() {
    let (receiver, standalone) = start().await;
    let mut stalled = Vec::new();
    for _ in 0..80 {
        stalled.push(stall(&standalone, "/v1/namespaces/default/relays/all").await);
    }
    wait_for_rejection(&standalone, "unverified_bodies").await;
    for n in 0..5 {
        let (status, answer) = standalone.publish(&large_event(&format!("e{n}"), 900_000)).await;
        assert_eq!(status, 202, "{answer}");
    }
    receiver.wait_for(5, DEADLINE).await;
    assert_eq!(standalone.count(INGESTED, &[r#"route="events""#, r#"outcome="Busy""#]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_of_one_namespace_do_not_affect_another() {
    let (receiver, standalone) = start().await;
    let loud = EVENTS.replace("/default/", "/loud/");
    let mut stalled = Vec::new();
    for _ in 0..40 {
        stalled.push(stall(&standalone, &loud).await);
    }
    wait_for_rejection(&standalone, "requests").await;
    for n in 0..5 {
        let (status, answer) = standalone.publish(&large_event(&format!("e{n}"), 900_000)).await;
        assert_eq!(status, 202, "{answer}");
    }
    receiver.wait_for(5, DEADLINE).await;
    // The namespace that uses its share gets an answer that makes its clients retry. Which of the bodies gets it
    // depends on the machine: on a busy one the first bodies end by their timeout, and their memory serves the last.
    let answers: Vec<String> = join_all(stalled.into_iter().map(read_answer)).await;
    let is_retryable =
        |answer: &&String| answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 2");
    assert!(answers.iter().any(|answer| is_retryable(&answer)), "{answers:?}");
    // The memory is free again once the connections end.
    eventually(DEADLINE, "the namespace publishes again", async || {
        let url = standalone.url(&loud);
        let sent = standalone.client.post(url).json(&large_event("after", 900_000)).send().await.unwrap();
        if sent.status() == 202 { Ok(()) } else { Err(sent.status().to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_small_budget_is_a_start_error() {
    let standalone = Standalone::prepare("", &["--memory-budget", "16MiB"]);
    let process = standalone.spawn();
    let status = process.wait(DEADLINE).await;
    assert_eq!(status.code(), Some(2), "{}", process.log());
    for part in ["--memory-budget", "16 MiB is too small", "--max-request-bytes"] {
        assert!(process.log().contains(part), "{part}: {}", process.log());
    }
}
