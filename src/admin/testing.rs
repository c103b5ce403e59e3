//! A scripted vendor server, and tables of responses that the tests of all vendors' clients share.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use super::limit::{AdminHttp, Pacer};
use super::{AdminError, AdminErrorClass, ExternalClient, ListFilter};
use crate::api::LastError;
use crate::core::bucket::Rate;
use crate::core::egress::EgressRules;
use crate::core::time::Millis;
use crate::leadership::Leadership;
use crate::net::{Egress, HttpClient, TlsOptions};

/// A received request. `line` has the form `POST /oauth/token`.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    pub line: String,
    pub authorization: String,
    pub body: String,
}

impl ReceivedRequest {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Returns the last segment of the path.
    pub fn last_segment(&self) -> &str {
        self.line.rsplit('/').next().unwrap()
    }
}

/// A server with scripted responses that records the requests.
#[derive(Clone)]
pub struct ScriptedServer {
    pub base: Url,
    pub requests: Arc<Mutex<Vec<ReceivedRequest>>>,
    http: HttpClient,
}

impl ScriptedServer {
    /// Starts a server that responds with the bytes that `respond` returns.
    pub async fn start(
        respond: impl Fn(&ReceivedRequest) -> Vec<u8> + Send + Sync + 'static,
    ) -> ScriptedServer {
        rustls::crypto::ring::default_provider().install_default().ok();
        let http =
            HttpClient::new(Egress::new(EgressRules { loopback: true, ..EgressRules::default() })).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let requests: Arc<Mutex<Vec<ReceivedRequest>>> = Arc::default();
        let (respond, log) = (Arc::new(respond), requests.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (respond, log) = (respond.clone(), log.clone());
                tokio::spawn(serve(socket, move |request| {
                    log.lock().push(request.clone());
                    respond(request)
                }));
            }
        });
        ScriptedServer { base, requests, http }
    }

    /// Returns a client with a high rate limit and closed breakers.
    pub fn client(&self) -> AdminHttp {
        self.client_with_tls(&TlsOptions::default())
    }

    pub fn client_with_tls(&self, tls: &TlsOptions) -> AdminHttp {
        let rate = Rate { requests: 1000, interval: Duration::from_secs(1), burst: 1000 };
        let http = self.http.with_tls(tls).unwrap();
        Pacer::new(rate, Leadership::always(), Arc::default(), 64 << 20).client(http, "n/c", None)
    }

    /// The lines of all requests.
    pub fn lines(&self) -> Vec<String> {
        self.requests.lock().iter().map(|s| s.line.clone()).collect()
    }

    pub fn count(&self, line: &str) -> usize {
        self.lines().iter().filter(|l| *l == line).count()
    }

    /// The last request with this line.
    pub fn last(&self, line: &str) -> ReceivedRequest {
        self.requests.lock().iter().rfind(|s| s.line == line).unwrap_or_else(|| panic!("no {line}")).clone()
    }
}

async fn serve(mut socket: TcpStream, respond: impl FnOnce(&ReceivedRequest) -> Vec<u8>) {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        let mut buffer = [0; 4096];
        let n = socket.read(&mut buffer).await.unwrap_or(0);
        if n == 0 {
            return;
        }
        bytes.extend_from_slice(&buffer[..n]);
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length = header(&head, "content-length").parse().unwrap_or(0);
            break (head, (end + 4, length));
        }
    };
    while bytes.len() < length.0 + length.1 {
        let mut buffer = [0; 4096];
        let n = socket.read(&mut buffer).await.unwrap_or(0);
        bytes.extend_from_slice(&buffer[..n]);
    }
    let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
    let body = String::from_utf8_lossy(&bytes[length.0..]).into_owned();
    let response = respond(&ReceivedRequest { line, authorization: header(&head, "authorization"), body });
    // The client may close the connection early.
    if socket.write_all(&response).await.is_ok() && response.ends_with(ENDLESS) {
        let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
        while socket.write_all(chunk.as_bytes()).await.is_ok() {}
    }
}

/// A response that ends with this is followed by chunks until the client closes the connection.
const ENDLESS: &[u8] = b"transfer-encoding: chunked\r\n\r\n";

fn header(head: &str, name: &str) -> String {
    let found = head.lines().find_map(|l| l.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)));
    found.map(|(_, value)| value.to_owned()).unwrap_or_default()
}

/// Returns the bytes of a response with this body.
pub fn raw(status: u16, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    format!("{text}\r\n{body}").into_bytes()
}

/// Returns the bytes of a response with a JSON body.
pub fn reply(status: u16, headers: &[(&str, &str)], body: &Value) -> Vec<u8> {
    raw(status, headers, &body.to_string())
}

/// The result of one verb: whether it returned an object.
pub type VerbResult = Result<bool, AdminError>;

/// Calls every verb of a client, each on a new client from `make`.
pub async fn call_every_verb<C: ExternalClient>(
    make: impl Fn() -> C,
    id: &str,
    desired: &C::Desired,
    fields: &[String],
) -> Vec<(&'static str, VerbResult)> {
    vec![
        ("list", make().list(ListFilter::all()).await.map(|listing| !listing.items.is_empty())),
        ("get", make().observe(id).await.map(|item| item.is_some())),
        ("create", make().create(None, desired).await.map(|_| true)),
        ("update", make().update(id, desired, fields).await.map(|_| true)),
        ("delete", make().delete(id).await.map(|()| true)),
    ]
}

/// The header with the vendor's request id.
pub const REQUEST_ID: (&str, &str) = ("x-request-id", "req-1");

/// Returns responses with a success status that no admin API sends, each with a description of the defect.
pub fn malformed_responses() -> Vec<(&'static str, Vec<u8>)> {
    let with_headers =
        |headers: &[(&str, &str)], body: &str| raw(200, &[headers, &[REQUEST_ID]].concat(), body);
    let plain = |body: &str| with_headers(&[], body);
    let truncated = b"HTTP/1.1 200 X\r\nconnection: close\r\nx-request-id: req-1\r\ncontent-length: 100\r\n\r\n{\"id\": \"i\"".to_vec();
    let missing_chunk = b"HTTP/1.1 200 X\r\nx-request-id: req-1\r\ntransfer-encoding: chunked\r\n\r\nb\r\n{\"id\": \"i\"}\r\n".to_vec();
    let endless = [b"HTTP/1.1 200 X\r\nx-request-id: req-1\r\n", ENDLESS].concat();
    let deep = format!("{{\"id\": {}{}}}", "[".repeat(500), "]".repeat(500));
    let long = format!("{{\"id\": \"{}\"}}", "x".repeat(17 * 1024 * 1024));
    vec![
        ("malformed", plain("{\"id\": ")),
        ("two values", plain("{}{}")),
        ("html", with_headers(&[("content-type", "text/html")], "<html>Sign in to the proxy</html>")),
        ("html with a JSON content type", with_headers(&[("content-type", "application/json")], "<html>Sign in</html>")),
        ("a bare string", plain("\"ok\"")),
        ("a number", plain("7")),
        ("null", plain("null")),
        ("an empty body", plain("")),
        ("no content", b"HTTP/1.1 204 X\r\nconnection: close\r\nx-request-id: req-1\r\n\r\n".to_vec()),
        ("invalid UTF-8", [&plain("")[..0], b"HTTP/1.1 200 X\r\nconnection: close\r\nx-request-id: req-1\r\ncontent-length: 10\r\n\r\n{\"id\":\"\xff\"}"].concat()),
        ("gzip", with_headers(&[("content-encoding", "gzip")], "\u{1f}\u{8b}\u{8}")),
        ("too deep", plain(&deep)),
        ("truncated", truncated),
        ("a missing chunk", missing_chunk),
        ("endless", endless),
        ("too long", plain(&long)),
        ("an empty object", plain("{}")),
        ("an id that is a number", plain("{\"id\": 7, \"data\": [{\"id\": 7}], \"eventStreams\": [{\"id\": 7}], \"hooks\": [{\"id\": 7}]}")),
        ("an id that is a parent path", plain("{\"id\": \"..\", \"data\": [{\"id\": \"..\"}], \"eventStreams\": [{\"id\": \"..\"}], \"hooks\": [{\"id\": \"..\"}]}")),
        ("members of other types", plain("{\"id\": {}, \"data\": {\"a\": 1}, \"eventStreams\": 1, \"hooks\": \"x\"}")),
    ]
}

/// Returns the reason of the error for a malformed response.
pub fn malformed_reason(what: &str) -> &'static str {
    if what.starts_with("endless") || what.starts_with("too long") {
        "ResponseTooLarge"
    } else {
        "UnexpectedAnswer"
    }
}

/// The reason of an error and its class.
pub type ExpectedError = (&'static str, AdminErrorClass);

/// Returns error statuses, each with the expected error if the vendor responds, and if a proxy responds with an HTML page.
pub fn error_statuses() -> Vec<(u16, ExpectedError, ExpectedError)> {
    let (terminal, retryable) = (AdminErrorClass::Terminal, AdminErrorClass::Retryable);
    let unexpected = ("UnexpectedAnswer", retryable);
    let rejected = |status: u16| (status, ("Rejected", terminal), unexpected);
    let failed = |status: u16| (status, ("ServerError", retryable), ("ServerError", retryable));
    let limited = ("RateLimited", AdminErrorClass::RateLimited(Duration::from_secs(5)));
    let mut all: Vec<_> = [400, 402, 406, 411, 412, 413, 414, 415, 417, 422, 431, 451].map(rejected).to_vec();
    all.extend([500, 502, 503, 504, 507, 520, 599].map(failed));
    all.extend([408, 425].map(failed));
    all.extend([300, 301, 302, 303, 304, 307, 308].map(|status| (status, unexpected, unexpected)));
    all.extend([
        (401, ("Unauthorized", retryable), ("Unauthorized", retryable)),
        (403, ("Forbidden", retryable), unexpected),
        // The body of these tests has no vendor's form of a 404.
        (404, unexpected, unexpected),
        (407, unexpected, unexpected),
        (409, ("Conflict", retryable), unexpected),
        (410, ("Rejected", terminal), unexpected),
        (429, limited, limited),
    ]);
    all
}

/// Asserts that an error has a message within its bounds and contains none of the secrets. Returns it in the form of a
/// status.
pub fn check_error(what: &str, error: &AdminError, secrets: &[&str]) -> LastError {
    let last = error.last_error(Millis(0));
    let shown = format!("{error} {error:?} {}", json!(last));
    for secret in secrets {
        assert!(!shown.contains(secret), "{what}: {shown}");
    }
    assert!(!shown.contains("Sign in"), "{what}: the error repeats the page of a proxy: {shown}");
    assert!(!last.message.is_empty() && last.message.len() <= 1024, "{what}: {shown}");
    assert!(last.code.as_ref().is_none_or(|code| code.len() <= 256), "{what}: {shown}");
    last
}
