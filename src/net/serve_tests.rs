//! Tests of the server with hostile peers. Timeouts are injected: one that must expire is short, the others are longer than any
//! test.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::routing::{get, post};
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::connection_state::{ConnectionState, PortState};
use super::port_options::{PortOptions, Timeouts};
use super::serve::serve_port;
use super::serve_connection::{ClientAddress, serve_connection};

const SHORT: Duration = Duration::from_millis(30);
const LONG: Duration = Duration::from_secs(600);
const NONE: Timeouts =
    Timeouts { silent: LONG, head: LONG, idle: LONG, write: LONG, body_grace: LONG, body_rate: 1024 };
const REQUEST: &str = "GET / HTTP/1.1\r\nhost: h\r\n\r\n";

fn router() -> Router {
    Router::new()
        .route("/", get(|| async { "ok" }))
        .route("/large", get(|| async { vec![b'x'; 8 << 20] }))
        .route("/read", post(|body: Bytes| async move { body.len().to_string() }))
        .route("/refuse", post(|| async { (StatusCode::PAYLOAD_TOO_LARGE, "too big") }))
}

/// Serves one connection. Returns the client's side.
fn connect(timeouts: Timeouts) -> (DuplexStream, JoinHandle<()>) {
    let (client, server) = tokio::io::duplex(64 << 10);
    let connection = ConnectionState::new(PortState::new(timeouts));
    let address = ClientAddress { address: std::net::Ipv4Addr::LOCALHOST.into(), is_shared: true };
    let stop = CancellationToken::new();
    (client, tokio::spawn(serve_connection(server, router(), address, connection, stop)))
}

/// Writes, and reads until the server closes the connection.
async fn exchange(timeouts: Timeouts, request: &str) -> String {
    let (mut client, _served) = connect(timeouts);
    client.write_all(request.as_bytes()).await.unwrap();
    read_to_end(&mut client).await
}

async fn read_to_end(client: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Sends a request on an open connection and reads the response.
async fn request(client: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) -> std::io::Result<()> {
    client.write_all(REQUEST.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nok") {
        if client.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

#[tokio::test]
async fn silent_connection_is_closed() {
    assert_eq!(exchange(Timeouts { silent: SHORT, ..NONE }, "").await, "");
}

#[tokio::test]
async fn unfinished_head_is_answered_408() {
    let answer = exchange(Timeouts { head: SHORT, ..NONE }, "GET / HTTP/1.1\r\nhost").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn idle_connection_outlives_the_deadlines_of_requests() {
    let timeouts = Timeouts { silent: SHORT, head: SHORT, ..NONE };
    let (mut idle, _served) = connect(timeouts);
    request(&mut idle).await.unwrap();
    // The end of a younger silent connection proves that the time has passed.
    exchange(timeouts, "").await;
    request(&mut idle).await.unwrap();
}

#[tokio::test]
async fn idle_connection_is_closed_in_the_end() {
    let (mut client, _served) = connect(Timeouts { idle: SHORT, ..NONE });
    request(&mut client).await.unwrap();
    assert_eq!(read_to_end(&mut client).await, "");
}

#[tokio::test]
async fn large_head_is_answered_431() {
    let head = |bytes: usize| {
        format!("GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\nx: {}\r\n\r\n", "x".repeat(bytes))
    };
    let answer = exchange(NONE, &head(31 << 10)).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // The client still receives the answer if it sends much more.
    for bytes in [32 << 10, 1 << 20] {
        let answer = exchange(NONE, &head(bytes)).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{bytes}: {answer}");
    }
}

#[tokio::test]
async fn host_is_required_once() {
    for (head, status) in [
        ("GET / HTTP/1.1\r\nhost: h:80", 200),
        ("GET / HTTP/1.1\r\nhost: [::1]:80", 200),
        ("GET / HTTP/1.0", 200),
        ("GET / HTTP/1.1", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: a", 400),
        ("GET / HTTP/1.1\r\nhost: a, b", 400),
        ("GET / HTTP/1.1\r\nhost: user@a", 400),
        ("GET / HTTP/1.1\r\nhost: a/b", 400),
    ] {
        let answer = exchange(NONE, &format!("{head}\r\nconnection: close\r\n\r\n")).await;
        let line = answer.lines().next().unwrap_or_default();
        assert!(line.contains(&format!(" {status} ")), "{head}: {answer}");
        assert_eq!(answer.contains(r#""reason":"BadHost""#), status == 400, "{head}: {answer}");
    }
}

#[tokio::test]
async fn writer_of_a_refused_body_receives_the_response() {
    const BODY: usize = 40 << 20;
    let length = format!("content-length: {BODY}\r\n\r\n");
    let chunked = format!("transfer-encoding: chunked\r\n\r\n{BODY:x}\r\n");
    for framing in [length, chunked] {
        let (mut client, served) = connect(NONE);
        let head = format!("POST /refuse HTTP/1.1\r\nhost: h\r\n{framing}");
        client.write_all(head.as_bytes()).await.unwrap();
        let part = vec![b'x'; 1 << 20];
        for _ in 0..BODY / part.len() {
            client.write_all(&part).await.unwrap();
        }
        let answer = read_to_end(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("connection: close"), "{answer}");
        drop(client);
        served.await.unwrap();
    }
}

#[tokio::test]
async fn short_refused_body_keeps_the_connection_open() {
    let (mut client, _served) = connect(NONE);
    let refused = "POST /refuse HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nhello";
    client.write_all(refused.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"too big") {
        assert!(client.read_buf(&mut answer).await.unwrap() > 0);
    }
    request(&mut client).await.unwrap();
}

#[tokio::test]
async fn stalled_body_ends_its_request() {
    let request = "POST /read HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\nhello";
    let answer = exchange(Timeouts { body_grace: SHORT, ..NONE }, request).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn connection_of_a_client_that_reads_nothing_is_closed() {
    let (mut client, served) = connect(Timeouts { write: SHORT, ..NONE });
    client.write_all(b"GET /large HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    served.await.unwrap();
}

/// Serves a port with this many connections. Returns its address.
async fn open_port(max_connections: usize, router: Router) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = PortOptions { max_connections, timeouts: NONE, ..PortOptions::default() };
    tokio::spawn(serve_port(listener, router, options, std::future::pending::<()>()));
    address
}

#[tokio::test]
async fn silent_connections_give_way_on_a_full_port() {
    let address = open_port(4, router()).await;
    let mut used = TcpStream::connect(address).await.unwrap();
    request(&mut used).await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    for _ in 0..3 {
        request(&mut TcpStream::connect(address).await.unwrap()).await.unwrap();
    }
    assert_eq!(read_to_end(&mut silent[0]).await, "", "the oldest was closed");
    request(&mut used).await.expect("a connection that completed a request stays while silent ones can go");
}

#[tokio::test]
async fn requests_in_progress_are_never_evicted() {
    let release = Arc::new(Notify::new());
    let entered = Arc::new(Notify::new());
    let handler = {
        let (release, entered) = (release.clone(), entered.clone());
        move || async move {
            entered.notify_one();
            release.notified().await;
            "ok"
        }
    };
    let address = open_port(1, Router::new().route("/", get(handler))).await;
    let first = tokio::spawn(async move { request(&mut TcpStream::connect(address).await.unwrap()).await });
    entered.notified().await;
    let second = tokio::spawn(async move { request(&mut TcpStream::connect(address).await.unwrap()).await });
    release.notify_one();
    first.await.unwrap().unwrap();
    entered.notified().await;
    release.notify_one();
    second.await.unwrap().unwrap();
}
