//! Every answer that the Management API and its token endpoint can give, from a server that says what it is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use super::*;
use crate::admin::limit::Pacer;
use crate::admin::{AdminError, Class, ExternalClient, Listed};
use crate::core::bucket::Rate;
use crate::core::egress::Policy;
use crate::core::time::Millis;
use crate::leadership::Leadership;
use crate::net::{Egress, HttpClient};

/// A request as it came: `POST /oauth/token`, the authorization, the body.
#[derive(Clone, Debug)]
struct Seen {
    line: String,
    authorization: String,
    body: String,
}

impl Seen {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

#[derive(Clone)]
struct Fake {
    base: Url,
    seen: Arc<Mutex<Vec<Seen>>>,
    http: AdminHttp,
    tokens: Arc<Tokens>,
}

impl Fake {
    /// A server that gives these answers; logins get `token-N`, unless the answers say otherwise.
    async fn start(answer: impl Fn(&Seen) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = address(&listener.local_addr().unwrap().to_string()).unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (answer, all) = (Arc::new(answer), seen.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (answer, all) = (answer.clone(), all.clone());
                tokio::spawn(async move {
                    serve(socket, |seen| {
                        all.lock().push(seen.clone());
                        let logins = all.lock().iter().filter(|s| s.line == "POST /oauth/token").count();
                        let granted =
                            || json!({"access_token": format!("token-{logins}"), "expires_in": 86400});
                        let login =
                            || (seen.line == "POST /oauth/token").then(|| reply(200, &[], &granted()));
                        answer(seen).or_else(login).unwrap_or_else(|| reply(404, &[], &missing()))
                    })
                    .await;
                });
            }
        });
        let http = HttpClient::new(Egress::new(Policy { loopback: true, ..Policy::default() })).unwrap();
        let rate = Rate { requests: 1000, interval: Duration::from_secs(1), burst: 1000 };
        let pacer = Pacer::new(rate, Leadership::always(), Arc::default());
        let http = pacer.client(http, "n/auth0", None);
        Fake { base, seen, http, tokens: Arc::default() }
    }

    fn access(&self) -> Auth0Access {
        let credentials = Credentials::Client {
            id: "client".into(),
            secret: SecretString::from("cl13nt-s3cret"),
            audience: "https://x/api/v2/".into(),
        };
        self.access_with(credentials)
    }

    fn access_with(&self, credentials: Credentials) -> Auth0Access {
        let login = self.tokens.login(&self.base, credentials);
        Auth0Access { http: self.http.clone(), base: self.base.clone(), login }
    }

    fn streams(&self) -> StreamClient {
        StreamClient::new(self.access())
    }

    fn hooks(&self) -> HookClient {
        HookClient::new(self.access())
    }

    fn lines(&self) -> Vec<String> {
        self.seen.lock().iter().map(|s| s.line.clone()).collect()
    }

    fn logins(&self) -> usize {
        self.lines().iter().filter(|l| *l == "POST /oauth/token").count()
    }

    fn last(&self, line: &str) -> Seen {
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
    // Whoever asked may be gone.
    socket.write_all(&answer(&seen)).await.ok();
}

fn header(head: &str, name: &str) -> String {
    let found = head.lines().find_map(|l| l.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)));
    found.map(|(_, value)| value.to_owned()).unwrap_or_default()
}

fn raw(status: u16, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    format!("{text}\r\n{body}").into_bytes()
}

fn reply(status: u16, headers: &[(&str, &str)], body: &Value) -> Vec<u8> {
    raw(status, headers, &body.to_string())
}

fn missing() -> Value {
    json!({"statusCode": 404, "error": "Not Found", "message": "The requested stream does not exist."})
}

fn no_hook() -> Value {
    json!({"statusCode": 404, "error": "Not Found", "message": "Error: Hook does not exist",
           "errorCode": "HookDoesNotExist"})
}

fn bearer(token: &str) -> StreamBody {
    let authorization = WebhookAuthorization::Bearer { token: SecretString::from(token) };
    StreamBody {
        name: "s".into(),
        subscriptions: vec!["user.updated".into(), "user.created".into()],
        enabled: true,
        destination: DestinationBody::Webhook { endpoint: "https://e/x".into(), authorization },
    }
}

fn script(secrets: &[(&str, &str)]) -> HookBody {
    let secrets = secrets.iter().map(|(n, v)| ((*n).to_owned(), SecretString::from(*v)));
    HookBody {
        name: "h".into(),
        trigger: "credentials-exchange".into(),
        script: "x".into(),
        dependencies: BTreeMap::from([("lodash".into(), "4".into())]),
        enabled: true,
        secrets: secrets.collect(),
    }
}

/// What one call makes of an answer: the reason, the class, the message.
async fn told(answer: Vec<u8>) -> (&'static str, Class, String, crate::api::LastError) {
    let fake = Fake::start(move |seen| (seen.line != "POST /oauth/token").then(|| answer.clone())).await;
    let error = fake.streams().create(None, &bearer("r3ceiver-t0ken")).await.unwrap_err();
    let last = error.last_error(Millis(0));
    ((&error).into(), error.class(), error.to_string(), last)
}

#[tokio::test]
async fn every_answer_has_a_class_a_reason_and_the_request_id() {
    let body = |status: u16| {
        // The token that was refused was renewed once.
        let token = if status == 401 { "token-2" } else { "token-1" };
        json!({"statusCode": status, "error": "Some Error", "message": format!("why not: r3ceiver-t0ken {token}"),
               "errorCode": "some_code"})
    };
    let id = [("x-auth0-requestid", "req-1")];
    let cases = [
        (400, "Rejected", Class::Terminal),
        (401, "Unauthorized", Class::Retryable),
        (403, "Forbidden", Class::Retryable),
        (404, "NotFound", Class::Retryable),
        (409, "Conflict", Class::Retryable),
        (410, "Rejected", Class::Terminal),
        (413, "Rejected", Class::Terminal),
        (500, "ServerError", Class::Retryable),
        (503, "ServerError", Class::Retryable),
        (302, "UnexpectedAnswer", Class::Retryable),
    ];
    for (status, reason, class) in cases {
        let (told_reason, told_class, message, last) = told(reply(status, &id, &body(status))).await;
        assert_eq!((told_reason, told_class), (reason, class), "{status}: {message}");
        assert!(message.contains("why not: *** ***"), "{status}: {message}");
        assert_eq!(last.request_id.as_deref(), Some("req-1"));
        assert_eq!(last.code.as_deref(), Some("some_code"));
        assert_eq!(last.http_status, Some(i32::from(status)));
    }
}

#[tokio::test]
async fn what_is_not_the_apis_language_is_told() {
    let long = format!("{{\"a\": \"{}\"}}", "x".repeat(17 * 1024 * 1024));
    let broken = b"HTTP/1.1 201 X\r\nconnection: close\r\ncontent-length: 100\r\n\r\n{\"id\":\"est".to_vec();
    for (what, answer) in [
        ("malformed", raw(201, &[], "{\"id\": ")),
        ("html", raw(201, &[("content-type", "text/html")], "<html>Sign in to the proxy</html>")),
        ("a bare text", raw(201, &[], "\"ok\"")),
        ("a list", raw(201, &[], "[]")),
        ("nothing", raw(201, &[], "")),
        ("truncated", broken),
        ("huge", raw(201, &[], &long)),
    ] {
        let (reason, class, message, _) = told(answer).await;
        assert_eq!((reason, class), ("UnexpectedAnswer", Class::Retryable), "{what}: {message}");
        assert!(message.len() < 300 && !message.contains("Sign in"), "{what}: {message}");
    }
    let (reason, _, message, _) = told(raw(502, &[], "<html>bad gateway</html>")).await;
    assert_eq!(reason, "ServerError");
    assert!(message.contains("no reason given"), "{message}");
    let (reason, _, message, _) = told(Vec::new()).await;
    assert_eq!(reason, "Unreachable", "{message}");
}

#[tokio::test]
async fn a_limit_is_honoured_and_clamped() {
    let date = "Sun, 22 Nov 2026 08:00:00 GMT";
    let noon: u64 = 1_795_334_400;
    let reset = (noon + 7).to_string();
    let cases: [(&[(&str, &str)], u64); 5] = [
        (&[], 5),
        (&[("retry-after", "9")], 9),
        (&[("retry-after", "0")], 1),
        (&[("retry-after", "99999999")], 3600),
        (&[("date", date), ("x-ratelimit-reset", &reset)], 7),
    ];
    for (headers, seconds) in cases {
        let (_, class, _, _) = told(reply(429, headers, &json!({"errorCode": "too_many_requests"}))).await;
        assert_eq!(class, Class::RateLimited(Duration::from_secs(seconds)), "{headers:?}");
    }
}

#[tokio::test]
async fn one_login_serves_many_at_once() {
    let fake =
        Fake::start(|seen| seen.line.starts_with("GET").then(|| reply(200, &[], &json!({"id": "e"})))).await;
    let calls = (0..50).map(|i| {
        let fake = fake.clone();
        async move {
            let (client, id) = (fake.streams(), format!("est_{i}"));
            loop {
                match client.observe(&id).await {
                    // Not its turn yet.
                    Err(AdminError::Postponed(after)) => tokio::time::sleep(after).await,
                    other => break other.unwrap(),
                }
            }
        }
    });
    futures::future::join_all(calls).await;
    assert_eq!(fake.logins(), 1);
    assert_eq!(fake.last("GET /api/v2/event-streams/est_7").authorization, "Bearer token-1");
    let login = fake.last("POST /oauth/token");
    let want = "grant_type=client_credentials&client_id=client&client_secret=cl13nt-s3cret&audience=https%3A%2F%2Fx%2Fapi%2Fv2%2F";
    assert_eq!(login.body, want);
    assert!(!format!("{:?}", fake.access()).contains("s3cret"));
}

#[tokio::test]
async fn a_refused_token_is_renewed_once() {
    let refused = json!({"statusCode": 401, "error": "Unauthorized", "message": "Invalid token."});
    let good = refused.clone();
    let fake = Fake::start(move |seen| {
        let get = seen.line.starts_with("GET");
        get.then(|| match seen.authorization.as_str() {
            "Bearer token-1" => reply(401, &[], &good),
            _ => reply(200, &[], &json!({"id": "e"})),
        })
    })
    .await;
    assert!(fake.streams().observe("a").await.is_ok());
    assert!(fake.streams().observe("b").await.is_ok());
    assert_eq!(fake.logins(), 2);

    let fake = Fake::start(move |seen| seen.line.starts_with("GET").then(|| reply(401, &[], &refused))).await;
    for _ in 0..5 {
        let error = fake.streams().observe("a").await.unwrap_err();
        assert!(matches!(error, AdminError::Unauthorized(_)), "{error}");
    }
    assert_eq!(
        fake.logins(),
        2,
        "a token that is refused for another reason than its age costs no login a call"
    );
}

#[tokio::test]
async fn a_ready_token_is_used_as_it_is() {
    let refused = json!({"statusCode": 401, "message": "Invalid token: r3ady"});
    let fake = Fake::start(move |_| Some(reply(401, &[], &refused))).await;
    let access = fake.access_with(Credentials::Ready(SecretString::from("r3ady")));
    let error = StreamClient::new(access).list().await.err().unwrap();
    assert!(error.to_string().contains("Invalid token: ***"), "{error}");
    assert_eq!(fake.last("GET /api/v2/event-streams?take=100").authorization, "Bearer r3ady");
    assert_eq!(fake.lines().len(), 1);
}

#[tokio::test]
async fn a_login_that_fails_fails_for_all_and_says_why() {
    let cases = [
        (
            reply(401, &[], &json!({"error": "access_denied", "error_description": "no cl13nt-s3cret"})),
            "Unauthorized",
        ),
        (
            reply(403, &[], &json!({"error": "access_denied", "error_description": "Service not found"})),
            "Forbidden",
        ),
        (reply(429, &[("retry-after", "60")], &json!({"error": "too_many_requests"})), "RateLimited"),
        (reply(200, &[], &json!({"token_type": "Bearer"})), "UnexpectedAnswer"),
        (raw(200, &[], "<html>"), "UnexpectedAnswer"),
        (raw(302, &[("location", "https://elsewhere")], ""), "UnexpectedAnswer"),
    ];
    for (answer, reason) in cases {
        let fake = Fake::start(move |_| Some(answer.clone())).await;
        for _ in 0..3 {
            let error = fake.streams().list().await.err().unwrap();
            assert_eq!(<&str>::from(&error), reason, "{error}");
            assert!(!error.to_string().contains("cl13nt-s3cret"), "{error}");
        }
        assert_eq!(fake.logins(), 1, "{reason}");
    }
}

#[tokio::test]
async fn a_token_is_renewed_ahead_of_its_end_and_serves_meanwhile() {
    let failing = Arc::new(Mutex::new(false));
    let fails = failing.clone();
    let fake = Fake::start(move |seen| match seen.line.as_str() {
        // Renewed at once, for nine tenths of nothing are over; it lasts until the test ends.
        "POST /oauth/token" if *fails.lock() => Some(reply(500, &[], &json!({}))),
        "POST /oauth/token" => None,
        _ => Some(reply(200, &[], &json!({"id": "e"}))),
    })
    .await;
    let client = fake.streams();
    client.observe("a").await.unwrap();
    fake.access().login.age_for_tests().await;
    *failing.lock() = true;
    client.observe("b").await.unwrap();
    assert_eq!(
        fake.last("GET /api/v2/event-streams/b").authorization,
        "Bearer token-1",
        "the old one serves"
    );
    client.observe("c").await.unwrap();
    assert_eq!(fake.logins(), 2, "and a renewal that failed is not tried at every call");
    *failing.lock() = false;
    fake.access().login.age_for_tests().await;
    client.observe("d").await.unwrap();
    assert_eq!(fake.last("GET /api/v2/event-streams/d").authorization, "Bearer token-3");
}

#[tokio::test]
async fn streams_are_listed_to_the_end() {
    let stream = |id: &str| json!({"id": id, "subscriptions": [{"event_type": "b"}, {"event_type": "a"}]});
    let fake = Fake::start(move |seen| {
        let body = match seen.line.as_str() {
            "GET /api/v2/event-streams?take=100" => json!({"eventStreams": [stream("1")], "next": "a b"}),
            "GET /api/v2/event-streams?take=100&from=a+b" => {
                json!({"eventStreams": [stream("2")], "next": "c"})
            }
            "GET /api/v2/event-streams?take=100&from=c" => json!({"eventStreams": [], "next": "d"}),
            _ => return None,
        };
        Some(reply(200, &[("date", "Sun, 22 Nov 2026 08:00:00 GMT")], &body))
    })
    .await;
    let Listed { items, at } = fake.streams().list().await.unwrap();
    assert_eq!(items.iter().map(|i| i["id"].as_str().unwrap()).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(items[0]["subscriptions"][0]["event_type"], "a", "the order means nothing");
    assert_eq!(at, Some(Millis(1_795_334_400_000)));
    let fake = Fake::start(|seen| seen.line.starts_with("GET").then(|| reply(200, &[], &json!({})))).await;
    assert!(matches!(fake.streams().list().await, Err(AdminError::UnexpectedAnswer(_))));
}

#[tokio::test]
async fn a_stream_is_written_with_its_secret_and_read_without() {
    let fake = Fake::start(|seen| {
        let writes = seen.line.starts_with("POST /api") || seen.line.starts_with("PATCH");
        writes.then(|| reply(201, &[], &json!({"id": "est_1"})))
    })
    .await;
    let client = fake.streams();
    client.create(None, &bearer("t0ken")).await.unwrap();
    let sent = fake.last("POST /api/v2/event-streams").json();
    let types = json!([{"event_type": "user.created"}, {"event_type": "user.updated"}]);
    let destination = json!({"type": "webhook", "configuration": {"webhook_endpoint": "https://e/x",
        "webhook_authorization": {"method": "bearer", "token": "t0ken"}}});
    assert_eq!(
        sent,
        json!({"name": "s", "subscriptions": types, "status": "enabled", "destination": destination})
    );

    let line = "PATCH /api/v2/event-streams/est_1";
    client.update("est_1", &bearer("t0ken"), &["name".into()]).await.unwrap();
    assert_eq!(fake.last(line).json(), json!({"name": "s"}));
    let secret = "destination.configuration.webhook_authorization.token";
    client.update("est_1", &bearer("n3w"), &[secret.into(), "status".into()]).await.unwrap();
    let sent = fake.last(line).json();
    assert_eq!(sent["destination"]["configuration"]["webhook_authorization"]["token"], "n3w");
    assert_eq!((sent["status"].as_str(), sent.get("name")), (Some("enabled"), None));

    let wanted = bearer("t0ken");
    assert_eq!(wanted.secret_path().as_deref(), Some(secret));
    assert_eq!(wanted.whole().pointer(&format!("/{}", secret.replace('.', "/"))), Some(&json!("t0ken")));
    let mut shown = wanted.whole();
    shown["destination"]["configuration"]["webhook_authorization"] = json!({"method": "bearer"});
    shown["id"] = json!("est_1");
    assert_eq!(StreamClient::readable(&wanted.whole()), StreamClient::readable(&shown));
    shown["name"] = json!("other");
    assert_ne!(StreamClient::readable(&wanted.whole()), StreamClient::readable(&shown));
    for (destination, method) in [
        (WebhookAuthorization::Basic { username: "u".into(), password: SecretString::from("p4ss") }, "basic"),
        (
            WebhookAuthorization::CustomHeader { key: "x-k".into(), value: SecretString::from("p4ss") },
            "custom_header",
        ),
    ] {
        let mut body = bearer("");
        body.destination =
            DestinationBody::Webhook { endpoint: "https://e".into(), authorization: destination };
        client.update("est_1", &body, &["destination".into()]).await.unwrap();
        let sent = &fake.last(line).json()["destination"]["configuration"]["webhook_authorization"];
        let member = if method == "basic" { "password" } else { "header_value" };
        assert_eq!((&sent["method"], &sent[member]), (&json!(method), &json!("p4ss")));
        assert!(body.secret_path().unwrap().ends_with(member));
    }
}

#[tokio::test]
async fn what_auth0_cannot_change_is_not_sent() {
    let fake = Fake::start(|_| None).await;
    let mut body = bearer("");
    body.destination = DestinationBody::Action { action_id: "a".into() };
    let error = fake.streams().update("est_1", &body, &["destination.configuration.action_id".into()]).await;
    let error = error.unwrap_err();
    assert_eq!(error.class(), Class::Terminal);
    assert!(error.to_string().contains("Auth0 cannot change the destination"), "{error}");
    assert!(fake.lines().is_empty());
}

#[tokio::test]
async fn failures_are_read_and_asked_for_again() {
    let failure = json!({"id": "evt_1", "attempts": [{"error_message": "first"}, {"status": "retrying"},
        {"error_message": "Post \"https://e\": EOF"}]});
    for body in [json!({"deliveries": [failure], "next": "x"}), json!([failure])] {
        let fake = Fake::start(move |seen| match seen.line.as_str() {
            "GET /api/v2/event-streams/e/deliveries?take=1" => Some(reply(200, &[], &body)),
            "POST /api/v2/event-streams/e/redeliver" => Some(raw(202, &[], "")),
            _ => None,
        })
        .await;
        let said = fake.streams().last_failure("e").await.unwrap();
        assert_eq!(said.as_deref(), Some("Post \"https://e\": EOF"));
        fake.streams().redeliver("e").await.unwrap();
        let sent = fake.last("POST /api/v2/event-streams/e/redeliver").json();
        assert_eq!(sent, json!({"statuses": ["failed"]}));
    }
}

#[tokio::test]
async fn deleting_what_is_not_there_is_done() {
    let fake = Fake::start(|_| None).await;
    fake.streams().delete("est_1").await.unwrap();
    assert_eq!(fake.streams().observe("est_1").await.unwrap(), None);
    let fake = Fake::start(|seen| seen.line.contains("hooks").then(|| reply(404, &[], &no_hook()))).await;
    fake.hooks().delete("1").await.unwrap();
    assert_eq!(fake.hooks().observe("1").await.unwrap(), None);
}

/// A small world of hooks: what is there, and the secrets of one.
async fn hooks(there: Value, secrets: Value) -> Fake {
    Fake::start(move |seen| {
        let (method, path) = seen.line.split_once(' ').unwrap();
        Some(match (method, path) {
            ("GET", p) if p.starts_with("/api/v2/hooks?") => {
                let total = there.as_array().map_or(0, Vec::len);
                reply(200, &[], &json!({"total": total, "start": 0, "limit": 100, "hooks": there}))
            }
            ("GET", "/api/v2/hooks/1/secrets") => reply(200, &[], &secrets),
            ("DELETE", _) => raw(204, &[], ""),
            (_, p) if p.ends_with("/secrets") => reply(201, &[], &json!({})),
            ("GET" | "POST" | "PATCH", p) if p.starts_with("/api/v2/hooks") => {
                reply(200, &[], &json!({"id": "1", "name": "h", "dependencies": {"lodash": "4"}}))
            }
            _ => return None,
        })
    })
    .await
}

#[tokio::test]
async fn a_hook_with_secrets_is_enabled_when_it_has_them() {
    let fake = hooks(json!([]), json!({})).await;
    let made = fake.hooks().create(None, &script(&[("A", "v4lue")])).await.unwrap();
    assert_eq!((&made["id"], &made["secretNames"]), (&json!("1"), &json!(["A"])));
    let lines = fake.lines();
    let want = [
        "POST /oauth/token",
        "GET /api/v2/hooks?page=0&per_page=100&include_totals=true",
        "POST /api/v2/hooks",
        "POST /api/v2/hooks/1/secrets",
        "PATCH /api/v2/hooks/1",
    ];
    assert_eq!(lines, want);
    let sent = fake.last("POST /api/v2/hooks").json();
    let want = json!({"name": "h", "triggerId": "credentials-exchange", "script": "x",
        "dependencies": {"lodash": "4"}, "enabled": false});
    assert_eq!(sent, want);
    assert_eq!(fake.last("POST /api/v2/hooks/1/secrets").json(), json!({"A": "v4lue"}));
    assert_eq!(fake.last("PATCH /api/v2/hooks/1").json(), json!({"enabled": true}));

    let fake = hooks(json!([]), json!({})).await;
    fake.hooks().create(None, &script(&[])).await.unwrap();
    assert_eq!(fake.last("POST /api/v2/hooks").json()["enabled"], true);
}

#[tokio::test]
async fn secrets_are_added_changed_and_removed_and_no_placeholder_is_written() {
    let shown =
        json!({"KEPT": "_VALUE_NOT_SHOWN_", "OTHER": "_VALUE_NOT_SHOWN_", "OLD": "_VALUE_NOT_SHOWN_"});
    let fake = hooks(json!([]), shown).await;
    let desired = script(&[("KEPT", "k3pt"), ("OTHER", "0ther"), ("NEW", "n3w")]);
    let observed = fake.hooks().observe("1").await.unwrap().unwrap();
    assert_eq!(observed["secretNames"], json!(["KEPT", "OLD", "OTHER"]));
    assert_eq!(desired.whole()["secretNames"], json!(["KEPT", "NEW", "OTHER"]));
    assert_eq!(desired.secret_paths(), ["secrets.KEPT", "secrets.NEW", "secrets.OTHER"]);

    let fields = ["secretNames".to_owned(), "secrets.OTHER".to_owned()];
    let updated = fake.hooks().update("1", &desired, &fields).await.unwrap();
    assert_eq!(updated["secretNames"], json!(["KEPT", "NEW", "OTHER"]));
    assert_eq!(HookClient::readable(&updated)["dependencies"], json!({"lodash": "4"}));
    let path = "/api/v2/hooks/1/secrets";
    assert_eq!(fake.last(&format!("DELETE {path}")).json(), json!(["OLD"]));
    assert_eq!(fake.last(&format!("POST {path}")).json(), json!({"NEW": "n3w"}));
    assert_eq!(fake.last(&format!("PATCH {path}")).json(), json!({"OTHER": "0ther"}));
    assert!(
        fake.seen.lock().iter().all(|s| !s.body.contains("_VALUE_NOT_SHOWN_") && !s.body.contains("k3pt"))
    );
    assert!(!fake.lines().iter().any(|l| l == "PATCH /api/v2/hooks/1"), "nothing else was to change");
}

#[tokio::test]
async fn a_taken_trigger_is_told_and_not_fought_for() {
    let other = |enabled: bool| {
        json!([{"id": "2", "name": "theirs", "enabled": enabled, "triggerId": "credentials-exchange"},
               {"id": "3", "name": "elsewhere", "enabled": true, "triggerId": "post-change-password"}])
    };
    let fake = hooks(other(true), json!({})).await;
    for error in [
        fake.hooks().create(None, &script(&[])).await.unwrap_err(),
        fake.hooks().update("1", &script(&[]), &["enabled".into()]).await.unwrap_err(),
    ] {
        assert_eq!((<&str>::from(&error), error.class()), ("TriggerTaken", Class::Retryable));
        assert!(error.to_string().contains("disable theirs (2)"), "{error}");
    }
    assert!(fake.lines().iter().all(|l| !l.starts_with("POST /api") && !l.starts_with("PATCH")));
    let mut disabled = script(&[]);
    disabled.enabled = false;
    fake.hooks().create(None, &disabled).await.unwrap();
    fake.hooks().update("2", &script(&[]), &["enabled".into()]).await.unwrap();
    let fake = hooks(other(false), json!({})).await;
    fake.hooks().create(None, &script(&[])).await.unwrap();
}

#[tokio::test]
async fn a_trigger_cannot_be_changed() {
    let fake = hooks(json!([]), json!({})).await;
    let error = fake.hooks().update("1", &script(&[]), &["triggerId".into()]).await.unwrap_err();
    assert_eq!(error.class(), Class::Terminal);
    assert!(fake.lines().is_empty());
}

#[tokio::test]
async fn a_connection_is_reachable_with_a_token_for_something_else() {
    let answer = |code: &'static str, status: u16| {
        Fake::start(move |seen| {
            seen.line
                .starts_with("GET")
                .then(|| reply(status, &[], &json!({"errorCode": code, "message": "m"})))
        })
    };
    assert!(answer("insufficient_scope", 403).await.streams().reach().await.is_ok());
    assert!(answer("", 200).await.streams().reach().await.is_ok());
    assert!(answer("other", 403).await.streams().reach().await.is_err());
    assert!(answer("", 500).await.streams().reach().await.is_err());
}

#[tokio::test]
async fn an_api_that_is_gone_is_the_end_of_life() {
    let gone = |status: u16, code: Option<&str>, message: &str| {
        reply(status, &[], &json!({"statusCode": status, "errorCode": code, "message": message}))
    };
    let cases = [
        (gone(404, None, "Not Found"), "EndOfLife"),
        (gone(410, None, "Gone"), "EndOfLife"),
        (gone(403, None, "This endpoint is disabled for your tenant."), "EndOfLife"),
        (gone(501, None, "Not Implemented"), "EndOfLife"),
        (gone(403, Some("insufficient_scope"), "Insufficient scope"), "Forbidden"),
        (gone(500, None, "oops"), "ServerError"),
    ];
    for (answer, reason) in cases {
        let fake = Fake::start(move |seen| seen.line.contains("hooks").then(|| answer.clone())).await;
        let mut desired = script(&[]);
        desired.enabled = false;
        let created = fake.hooks().create(None, &desired).await.unwrap_err();
        let observed = fake.hooks().observe("1").await.unwrap_err();
        let listed = fake.hooks().list().await.err().unwrap();
        for error in [created, observed, listed] {
            assert_eq!(<&str>::from(&error), reason, "{error}");
            assert_eq!(error.class() == Class::Terminal, reason == "EndOfLife");
        }
        assert_eq!(fake.hooks().delete("1").await.is_ok(), reason == "EndOfLife");
    }
}

#[test]
fn addresses() {
    let text = |domain: &str| address(domain).map(String::from);
    assert_eq!(text("acme.eu.auth0.com").as_deref(), Some("https://acme.eu.auth0.com/"));
    assert_eq!(text("127.0.0.1:8002").as_deref(), Some("http://127.0.0.1:8002/"));
    assert_eq!(text("localhost:8002").as_deref(), Some("http://localhost:8002/"));
    for wrong in ["acme.eu.auth0.com/x", "u@acme.eu.auth0.com", "a?b", "", ":1"] {
        assert_eq!(text(wrong), None, "{wrong}");
    }
}
