//! A vendor that says what it is told, byte by byte, and the tables of answers that all vendors' clients are put to.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use super::limit::{AdminHttp, Pacer};
use super::{AdminError, Class, ExternalClient};
use crate::api::LastError;
use crate::core::bucket::Rate;
use crate::core::egress::Policy;
use crate::core::time::Millis;
use crate::leadership::Leadership;
use crate::net::{Egress, HttpClient};

/// A request as it came: `POST /oauth/token`, the authorization, the body.
#[derive(Clone, Debug)]
pub struct Seen {
    pub line: String,
    pub authorization: String,
    pub body: String,
}

impl Seen {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The last step of the path.
    pub fn step(&self) -> &str {
        self.line.rsplit('/').next().unwrap()
    }
}

/// A server, and a client that has called it never before.
#[derive(Clone)]
pub struct Server {
    pub base: Url,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    http: HttpClient,
}

impl Server {
    pub async fn start(answer: impl Fn(&Seen) -> Vec<u8> + Send + Sync + 'static) -> Server {
        rustls::crypto::ring::default_provider().install_default().ok();
        let http = HttpClient::new(Egress::new(Policy { loopback: true, ..Policy::default() })).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (answer, all) = (Arc::new(answer), seen.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (answer, all) = (answer.clone(), all.clone());
                tokio::spawn(serve(socket, move |seen| {
                    all.lock().push(seen.clone());
                    answer(seen)
                }));
            }
        });
        Server { base, seen, http }
    }

    /// A client that nothing holds up: no rate, no breaker that remembers.
    pub fn client(&self) -> AdminHttp {
        let rate = Rate { requests: 1000, interval: Duration::from_secs(1), burst: 1000 };
        Pacer::new(rate, Leadership::always(), Arc::default()).client(self.http.clone(), "n/c", None)
    }

    pub fn lines(&self) -> Vec<String> {
        self.seen.lock().iter().map(|s| s.line.clone()).collect()
    }

    pub fn count(&self, line: &str) -> usize {
        self.lines().iter().filter(|l| *l == line).count()
    }

    pub fn last(&self, line: &str) -> Seen {
        self.seen.lock().iter().rfind(|s| s.line == line).unwrap_or_else(|| panic!("no {line}")).clone()
    }
}

async fn serve(mut socket: TcpStream, answer: impl FnOnce(&Seen) -> Vec<u8>) {
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
            let of = |name: &str| header(&head, name);
            break (head.clone(), (end + 4, of("content-length").parse().unwrap_or(0)));
        }
    };
    while bytes.len() < length.0 + length.1 {
        let mut buffer = [0; 4096];
        let n = socket.read(&mut buffer).await.unwrap_or(0);
        bytes.extend_from_slice(&buffer[..n]);
    }
    let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
    let body = String::from_utf8_lossy(&bytes[length.0..]).into_owned();
    let seen = Seen { line, authorization: header(&head, "authorization"), body };
    let answer = answer(&seen);
    // Whoever asked may be gone, or have heard enough.
    if socket.write_all(&answer).await.is_ok() && answer.ends_with(ENDLESS) {
        let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
        while socket.write_all(chunk.as_bytes()).await.is_ok() {}
    }
}

const ENDLESS: &[u8] = b"transfer-encoding: chunked\r\n\r\n";

fn header(head: &str, name: &str) -> String {
    let found = head.lines().find_map(|l| l.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)));
    found.map(|(_, value)| value.to_owned()).unwrap_or_default()
}

pub fn raw(status: u16, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    format!("{text}\r\n{body}").into_bytes()
}

pub fn reply(status: u16, headers: &[(&str, &str)], body: &Value) -> Vec<u8> {
    raw(status, headers, &body.to_string())
}

/// What came of one verb: whether there was something.
pub type Came = Result<bool, AdminError>;

/// Every verb of a client, each by a client that `make` makes anew.
pub async fn every_verb<C: ExternalClient>(
    make: impl Fn() -> C,
    id: &str,
    desired: &C::Desired,
    fields: &[String],
) -> Vec<(&'static str, Came)> {
    vec![
        ("list", make().list().await.map(|listed| !listed.items.is_empty())),
        ("get", make().observe(id).await.map(|item| item.is_some())),
        ("create", make().create(None, desired).await.map(|_| true)),
        ("update", make().update(id, desired, fields).await.map(|_| true)),
        ("delete", make().delete(id).await.map(|()| true)),
    ]
}

/// The id that vendors give their requests here.
pub const REQUEST_ID: (&str, &str) = ("x-request-id", "req-1");

/// Answers of success that are not the language of any admin API, by what is wrong with them.
pub fn not_its_language() -> Vec<(&'static str, Vec<u8>)> {
    let with = |headers: &[(&str, &str)], body: &str| raw(200, &[headers, &[REQUEST_ID]].concat(), body);
    let plain = |body: &str| with(&[], body);
    let broken = b"HTTP/1.1 200 X\r\nconnection: close\r\nx-request-id: req-1\r\ncontent-length: 100\r\n\r\n{\"id\": \"i\"".to_vec();
    let cut = b"HTTP/1.1 200 X\r\nx-request-id: req-1\r\ntransfer-encoding: chunked\r\n\r\nb\r\n{\"id\": \"i\"}\r\n".to_vec();
    let endless = [b"HTTP/1.1 200 X\r\nx-request-id: req-1\r\n", ENDLESS].concat();
    let deep = format!("{{\"id\": {}{}}}", "[".repeat(500), "]".repeat(500));
    let long = format!("{{\"id\": \"{}\"}}", "x".repeat(17 * 1024 * 1024));
    vec![
        ("malformed", plain("{\"id\": ")),
        ("two values", plain("{}{}")),
        ("html", with(&[("content-type", "text/html")], "<html>Sign in to the proxy</html>")),
        ("html that says it is JSON", with(&[("content-type", "application/json")], "<html>Sign in</html>")),
        ("a bare text", plain("\"ok\"")),
        ("a number", plain("7")),
        ("null", plain("null")),
        ("nothing", plain("")),
        ("no content", b"HTTP/1.1 204 X\r\nconnection: close\r\nx-request-id: req-1\r\n\r\n".to_vec()),
        ("no UTF-8", [&plain("")[..0], b"HTTP/1.1 200 X\r\nconnection: close\r\nx-request-id: req-1\r\ncontent-length: 10\r\n\r\n{\"id\":\"\xff\"}"].concat()),
        ("gzip", with(&[("content-encoding", "gzip")], "\u{1f}\u{8b}\u{8}")),
        ("too deep", plain(&deep)),
        ("truncated", broken),
        ("a chunk that never comes", cut),
        ("without an end", endless),
        ("too long", plain(&long)),
        ("an empty object", plain("{}")),
        ("an id that is a number", plain("{\"id\": 7, \"data\": [{\"id\": 7}], \"eventStreams\": [{\"id\": 7}], \"hooks\": [{\"id\": 7}]}")),
        ("an id that is a way out", plain("{\"id\": \"..\", \"data\": [{\"id\": \"..\"}], \"eventStreams\": [{\"id\": \"..\"}], \"hooks\": [{\"id\": \"..\"}]}")),
        ("members of other types", plain("{\"id\": {}, \"data\": {}, \"eventStreams\": 1, \"hooks\": \"x\"}")),
    ]
}

/// A reason and its class.
pub type Verdict = (&'static str, Class);

/// Refusals: the status, and what it comes to where the vendor itself says so, and where somebody in between answers by a
/// page.
pub fn refusals() -> Vec<(u16, Verdict, Verdict)> {
    let (terminal, retryable) = (Class::Terminal, Class::Retryable);
    let unexpected = ("UnexpectedAnswer", retryable);
    let refused = |status: u16| (status, ("Rejected", terminal), unexpected);
    let failed = |status: u16| (status, ("ServerError", retryable), ("ServerError", retryable));
    let limited = ("RateLimited", Class::RateLimited(Duration::from_secs(5)));
    let mut all: Vec<_> = [400, 402, 406, 411, 412, 413, 414, 415, 417, 422, 431, 451].map(refused).to_vec();
    all.extend([500, 502, 503, 504, 507, 520, 599].map(failed));
    all.extend([408, 425].map(failed));
    all.extend([300, 301, 302, 303, 304, 307, 308].map(|status| (status, unexpected, unexpected)));
    all.extend([
        (401, ("Unauthorized", retryable), ("Unauthorized", retryable)),
        (403, ("Forbidden", retryable), unexpected),
        (404, ("NotFound", retryable), unexpected),
        (407, unexpected, unexpected),
        (409, ("Conflict", retryable), unexpected),
        (410, ("Rejected", terminal), unexpected),
        (429, limited, limited),
    ]);
    all
}

/// An error says why, keeps the request id, and none of what was sent in secret.
pub fn told(what: &str, error: &AdminError, secrets: &[&str]) -> LastError {
    let last = error.last_error(Millis(0));
    let shown = format!("{error} {error:?} {}", json!(last));
    for secret in secrets {
        assert!(!shown.contains(secret), "{what}: {shown}");
    }
    assert!(!shown.contains("Sign in"), "{what}: a stranger's page is repeated: {shown}");
    assert!(!last.message.is_empty() && last.message.len() <= 1024, "{what}: {shown}");
    assert!(last.code.as_ref().is_none_or(|code| code.len() <= 256), "{what}: {shown}");
    last
}
