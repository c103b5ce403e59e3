//! Invalid events: each is refused with its reason and stores nothing, and other senders are not affected.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::manifests::{event, hook, quick};
use crate::harness::metrics::INGESTED;
use crate::harness::standalone::{EVENTS, Standalone};
use crate::harness::{DEADLINE, Receiver, Reply, seed};

const MAX: usize = 4096;

/// Starts a worker with a small size limit and a hook that matches every event of the source `s`.
async fn start() -> (Receiver, Standalone) {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let catch_all = ["s", "auth0", "kong:event_hooks"]
        .map(|source| {
            let mut spec = quick();
            spec["source"] = json!(source);
            hook(&format!("all-{}", source.replace([':', '_'], "-")), &receiver.url(), spec)
        })
        .concat();
    let max = MAX.to_string();
    (receiver, Standalone::start(&catch_all, &["--max-event-bytes", &max]).await)
}

struct Case {
    name: &'static str,
    content_type: &'static str,
    body: String,
    status: u16,
    reason: &'static str,
}

fn bad(name: &'static str, body: impl ToString, status: u16, reason: &'static str) -> Case {
    Case { name, content_type: "application/json", body: body.to_string(), status, reason }
}

fn cloud(name: &'static str, body: Value, status: u16, reason: &'static str) -> Case {
    Case { content_type: "application/cloudevents+json", ..bad(name, body, status, reason) }
}

fn table() -> Vec<Case> {
    let plain = |member: &str, value: Value| {
        let mut event = json!({"source": "s", "event": "e", "data": {}});
        event[member] = value;
        event
    };
    let ce = |member: &str, value: Value| {
        let mut event = json!({"specversion": "1.0", "id": "1", "source": "s", "type": "e", "data": {}});
        event[member] = value;
        event
    };
    let long = "x".repeat(600);
    let mut table = vec![
        bad("nothing", "", 400, "NotJson"),
        bad("half an object", r#"{"source":"s","#, 400, "NotJson"),
        bad("two objects", r#"{"source":"s","event":"e"}{"source":"s","event":"e"}"#, 400, "NotJson"),
        bad("an array", json!([event("1")]), 400, "NotJson"),
        bad("a number", "7", 400, "NotJson"),
        bad("null", "null", 400, "NotJson"),
        bad("deep nesting", "[".repeat(4000), 400, "NotJson"),
        bad("a member twice", r#"{"source":"s","source":"t","event":"e"}"#, 400, "NotJson"),
        bad("a member of data twice", r#"{"source":"s","event":"e","data":{"a":1,"a":2}}"#, 400, "NotJson"),
        bad("no source", json!({"event": "e"}), 400, "Missing"),
        bad("no event", json!({"source": "s"}), 400, "Missing"),
        bad("an unknown member", plain("subject", json!("x")), 400, "WrongType"),
        bad("an invalid time", plain("time", json!("yesterday")), 400, "WrongType"),
        bad("the vendor's source", plain("source", json!("auth0")), 403, "ReservedSource"),
        bad("Kong's source", plain("source", json!("kong:event_hooks")), 403, "ReservedSource"),
        bad("too long", plain("data", json!("x".repeat(MAX))), 413, "TooBig"),
        bad(
            "too deep",
            format!(r#"{{"source":"s","event":"e","data":{}{}}}"#, "[".repeat(128), "]".repeat(128)),
            400,
            "TooDeep",
        ),
        cloud("another specversion", ce("specversion", json!("0.3")), 400, "SpecVersion"),
        cloud("a specversion that is no text", ce("specversion", json!(1)), 400, "WrongType"),
        cloud("a CloudEvent without id", ce("id", Value::Null), 400, "Missing"),
        cloud("a CloudEvent without type", ce("type", Value::Null), 400, "Missing"),
        cloud("an attribute in capitals", ce("Subject", json!("x")), 400, "WrongType"),
        cloud("an attribute that is an object", ce("subject", json!({})), 400, "WrongType"),
        cloud("base64", ce("data_base64", json!("eA==")), 400, "Base64"),
        cloud("eight hops", ce("hookstreamhops", json!(8)), 508, "TooManyHops"),
        cloud("eight hops as text", ce("hookstreamhops", json!("8")), 508, "TooManyHops"),
        cloud("the vendor's source", ce("source", json!("auth0")), 403, "ReservedSource"),
    ];
    for member in ["source", "event", "id"] {
        table.push(bad("an empty text", plain(member, json!("")), 400, "WrongType"));
        table.push(bad("a number for a text", plain(member, json!(7)), 400, "WrongType"));
        table.push(bad("a text that is too long", plain(member, json!(long)), 400, "TooLong"));
    }
    for content_type in ["text/plain", "application/xml", "application/cloudevents+avro", "", "\t"] {
        table.push(Case { content_type, ..bad("a content type", event("1"), 415, "ContentType") });
    }
    table
}

/// Asserts that the answer is a complete RFC 9457 problem.
async fn assert_problem(response: reqwest::Response, status: u16, reason: &str, what: &str) {
    assert_eq!(response.status().as_u16(), status, "{what}");
    assert_eq!(response.headers()["content-type"], "application/problem+json", "{what}");
    let body: Value = response.json().await.expect(what);
    assert_eq!(body["status"], status, "{what}: {body}");
    assert_eq!(body["reason"], reason, "{what}: {body}");
    for member in ["type", "title", "detail"] {
        assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{what}: {member} in {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_event_is_refused_with_reason_and_not_stored() {
    let (receiver, standalone) = start().await;
    let post = |path: &str| standalone.client.post(standalone.url(path));
    let table = table();
    let refused = table.len() as u64;
    for Case { name, content_type, body, status, reason } in table {
        let request = post(EVENTS).header("content-type", content_type).body(body.clone());
        let shown: String = body.chars().take(100).collect();
        assert_problem(request.send().await.unwrap(), status, reason, &format!("{name}: {shown}")).await;
    }
    let request = post(EVENTS).header("x-hookstream-hops", "8").json(&event("hops"));
    assert_problem(request.send().await.unwrap(), 508, "TooManyHops", "eight hops by a header").await;
    let not_utf8 =
        post(EVENTS).header("content-type", "application/json").body(b"{\"source\":\"\xff\"}".to_vec());
    assert_problem(not_utf8.send().await.unwrap(), 400, "NotJson", "no UTF-8").await;
    // With chunked encoding the size is not known beforehand.
    let chunks = futures::stream::iter((0..64).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1024])));
    let body =
        reqwest::Body::wrap(http_body_util::StreamBody::new(futures::StreamExt::map(chunks, |chunk| {
            chunk.map(|bytes| hyper::body::Frame::data(bytes::Bytes::from(bytes)))
        })));
    let chunked = post(EVENTS).header("content-type", "application/json").body(body);
    assert_problem(chunked.send().await.unwrap(), 413, "TooBig", "too long in chunks").await;

    for path in [
        "/",
        "/v1",
        "/v1/namespaces/default",
        "/v1/namespaces/default/event",
        "/v2/namespaces/default/events",
    ] {
        assert_problem(post(path).json(&event("p")).send().await.unwrap(), 404, "NotFound", path).await;
    }
    let no_text = post("/v1/namespaces/%ff/events").json(&event("p")).send().await.unwrap();
    assert_problem(no_text, 404, "NotFound", "a namespace that is no UTF-8").await;
    for path in [EVENTS, "/v1/namespaces/default/relays/x"] {
        let get = standalone.client.get(standalone.url(path)).send().await.unwrap();
        assert_problem(get, 405, "MethodNotAllowed", path).await;
    }

    // One more valid event: a refused event that was stored would be delivered before it.
    standalone.publish_accepted(&event("last")).await;
    receiver.wait_for(1, DEADLINE).await;
    let received = receiver.requests();
    assert_eq!((received.len(), received[0].json()["id"].as_str()), (1, Some("last")), "{received:?}");
    let metrics = standalone.metrics().await;
    let count = |labels: &[&str]| crate::harness::metrics::count(&metrics, INGESTED, labels);
    assert_eq!(count(&[r#"outcome="Accepted""#]), 1);
    assert_eq!(
        count(&[r#"route="events""#]),
        refused + 4,
        "each request is counted by its outcome:\n{metrics}"
    );
}

/// Sends bytes and nothing after them. Returns the whole answer, which may be empty, when the worker closes the connection.
async fn send_bytes(standalone: &Standalone, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(&standalone.listen).await.unwrap();
    // The worker may answer and close the connection before it has read everything.
    socket.write_all(bytes).await.ok();
    socket.shutdown().await.ok();
    let mut answer = Vec::new();
    let end = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut answer)).await;
    // A reset is an end, too: the worker closed the connection with unread bytes.
    end.expect("the end of the connection").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

/// A sender that writes its whole body before it reads must still receive the refusal.
#[tokio::test(flavor = "multi_thread")]
async fn refusal_reaches_sender_that_still_writes() {
    let (_receiver, standalone) = start().await;
    let body = " ".repeat(8 << 20);
    for (path, length, refused) in [
        (EVENTS, format!("content-length: {}", body.len()), "HTTP/1.1 413"),
        (EVENTS, format!("transfer-encoding: chunked\r\n\r\n{:x}", body.len()), "HTTP/1.1 413"),
        ("/nowhere", format!("content-length: {}", body.len()), "HTTP/1.1 404"),
    ] {
        let end = if length.starts_with('t') { "\r\n0\r\n\r\n" } else { "" };
        let first = if end.is_empty() { "\r\n\r\n" } else { "\r\n" };
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n{length}{first}{body}{end}"
        );
        let mut socket = TcpStream::connect(&standalone.listen).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(refused), "{path} {length}: {answer:.200}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn socket_abuse_affects_no_other_sender() {
    const UNFINISHED: u64 = 200;
    let (receiver, standalone) = start().await;
    let mut random = fastrand::Rng::with_seed(seed());
    let garbage: Vec<u8> = (0..65536).map(|_| random.u8(..)).collect();
    let tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let huge = format!("POST {EVENTS} HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("POST {EVENTS} HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "a: b\r\n".repeat(5000));
    let long_path = format!("POST /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "a".repeat(1 << 17));
    let both = format!(
        "POST {EVENTS} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n"
    );
    let lengths = format!(
        "POST {EVENTS} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!"
    );
    for (name, bytes) in [
        ("garbage", garbage.as_slice()),
        ("a TLS hello", tls.as_slice()),
        ("a huge header", huge.as_bytes()),
        ("many headers", many.as_bytes()),
        ("a long path", long_path.as_bytes()),
        ("a length and chunks", both.as_bytes()),
        ("two lengths", lengths.as_bytes()),
    ] {
        let answer = send_bytes(&standalone, bytes).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{name}: {answer:.200}");
    }

    // Many connections that never finish: half a header, or an endless body.
    let mut unfinished = Vec::new();
    for number in 0..UNFINISHED {
        let mut socket = TcpStream::connect(&standalone.listen).await.unwrap();
        let half = match number % 3 {
            0 => String::new(),
            1 => format!("POST {EVENTS} HTTP/1.1\r\nhost: localhost\r\nx-"),
            _ => format!(
                "POST {EVENTS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{{"
            ),
        };
        socket.write_all(half.as_bytes()).await.unwrap();
        unfinished.push(socket);
    }
    for number in 0..20 {
        standalone.publish_accepted(&event(&format!("beside-{number}"))).await;
    }
    receiver.wait_for(20, DEADLINE).await;
    // A body that ends early is no event.
    drop(unfinished);
    standalone.wait_for_count(INGESTED, &[r#"outcome="BrokenBody""#], UNFINISHED / 3).await;
    assert_eq!(standalone.count(INGESTED, &[r#"outcome="Accepted""#]).await, 20);
    standalone.publish_accepted(&event("after")).await;
    assert!(standalone.process().ended().is_none());
}
