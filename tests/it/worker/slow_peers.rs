//! Peers without a valid request: silent, slow or endless ones close neither port, and use bounded memory.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::http::{answer, http};
use crate::harness::manifests::{event, hook};
use crate::harness::standalone::{EVENTS, Standalone};
use crate::harness::{DEADLINE, Receiver, Reply, eventually};

/// More than a port has.
const CONNECTIONS: usize = 1100;
/// How long a request may take on a port that hostile peers occupy. Their own deadlines are longer.
const PROMPT: Duration = Duration::from_secs(8);

async fn start() -> (Receiver, Standalone) {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    // Both ends of each connection are in this process and its child.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let standalone = Standalone::start(&hook("h", &receiver.url(), json!({})), &[]).await;
    (receiver, standalone)
}

/// Opens connections that send these bytes and nothing more.
async fn occupy(address: &str, bytes: &[u8], connections: usize) -> Vec<TcpStream> {
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut socket = TcpStream::connect(address).await.unwrap();
        // The worker may close it in favour of another.
        socket.write_all(bytes).await.ok();
        open.push(socket);
    }
    open
}

/// Publishes and lists on new connections.
async fn assert_both_ports_respond(standalone: &Standalone, id: &str) {
    let started = Instant::now();
    let (status, body) = answer(http().post(standalone.url(EVENTS)).json(&event(id))).await;
    assert_eq!(status, 202, "{body}");
    let list = format!("http://{}/v1/namespaces/default/deliveries", standalone.api);
    let (status, body) = answer(http().get(list)).await;
    assert_eq!(status, 200, "{body}");
    assert!(started.elapsed() < PROMPT, "{id}: {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_delay_no_request() {
    let (_receiver, standalone) = start().await;
    let mut open = occupy(&standalone.listen, b"", CONNECTIONS).await;
    open.extend(occupy(&standalone.api, b"", CONNECTIONS).await);
    assert_both_ports_respond(&standalone, "beside silent connections").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_bodies_delay_no_request() {
    let (_receiver, standalone) = start().await;
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
        )
    };
    let publish = head(EVENTS);
    let replay = head("/v1/namespaces/default/deliveries/replay");
    let mut open = occupy(&standalone.listen, publish.as_bytes(), CONNECTIONS).await;
    open.extend(occupy(&standalone.api, replay.as_bytes(), CONNECTIONS).await);
    assert_both_ports_respond(&standalone, "beside stalled bodies").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_that_completed_a_request_stays_beside_silent_ones() {
    let (_receiver, standalone) = start().await;
    let body = event("kept").to_string();
    let request = format!(
        "POST {EVENTS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut kept = TcpStream::connect(&standalone.listen).await.unwrap();
    let mut publish = async || {
        kept.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let read = kept.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..read]).into_owned()
    };
    assert!(publish().await.starts_with("HTTP/1.1 202 "));
    let _open = occupy(&standalone.listen, b"", CONNECTIONS).await;
    assert_both_ports_respond(&standalone, "beside silent connections").await;
    assert!(publish().await.starts_with("HTTP/1.1 202 "));
}

/// Returns a value of the process in bytes: `VmRSS`, the resident memory, or `VmHWM`, its maximum.
fn memory(standalone: &Standalone, name: &str) -> u64 {
    let path = format!("/proc/{}/status", standalone.process().pid());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn unfinished_heads_use_bounded_memory() {
    const BOUND: u64 = 120 << 20;
    let (_receiver, standalone) = start().await;
    assert_both_ports_respond(&standalone, "warm").await;
    let before = memory(&standalone, "VmRSS");
    // One below the largest head, and one far above it.
    let mut open = Vec::new();
    for length in [31 << 10, 400 << 10] {
        let head = format!("POST {EVENTS} HTTP/1.1\r\nhost: localhost\r\nx: {}", "x".repeat(length));
        open.extend(occupy(&standalone.listen, head.as_bytes(), 900).await);
        let grown = memory(&standalone, "VmHWM").saturating_sub(before);
        assert!(grown < BOUND, "900 heads of {length} bytes use {grown} bytes");
        assert_both_ports_respond(&standalone, &format!("beside heads of {length} bytes")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_head_is_answered_431() {
    let (_receiver, standalone) = start().await;
    for address in [&standalone.listen, &standalone.api, &standalone.ops] {
        let head = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "x".repeat(40 << 10));
        let answer = exchange(address, head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn host_is_required_once() {
    let (_receiver, standalone) = start().await;
    for address in [&standalone.listen, &standalone.api, &standalone.ops] {
        for hosts in ["", "host: localhost\r\nhost: localhost\r\n"] {
            let request = format!("GET /livez HTTP/1.1\r\n{hosts}connection: close\r\n\r\n");
            let answer = exchange(address, request.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{hosts}: {answer}");
            let (_, body) = answer.split_once("\r\n\r\n").unwrap();
            let problem: Value = serde_json::from_str(body).unwrap();
            assert_eq!(problem["reason"], "BadHost", "{problem}");
        }
    }
    let answer = exchange(&standalone.ops, b"GET /livez HTTP/1.0\r\n\r\n").await;
    assert!(answer.contains(" 200 "), "{answer}");
}

/// Sends bytes and reads until the worker closes the connection.
async fn exchange(address: &str, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

/// A client that writes its whole body before it reads.
#[tokio::test(flavor = "multi_thread")]
async fn writer_of_a_huge_body_receives_413() {
    const BODY: usize = 64 << 20;
    let (_receiver, standalone) = start().await;
    for (path, address) in
        [(EVENTS, &standalone.listen), ("/kong/default/event-hooks/h/test", &standalone.api)]
    {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {BODY}\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        let part = vec![b' '; 1 << 20];
        for _ in 0..BODY / part.len() {
            socket.write_all(&part).await.unwrap();
        }
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 413 "), "{path}: {answer}");
    }
    eventually(DEADLINE, "the ports to be unaffected", async || {
        let (status, body) = standalone.publish(&event("after")).await;
        if status == 202 { Ok(()) } else { Err(body.to_string()) }
    })
    .await;
}
