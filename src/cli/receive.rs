//! `hookstream receive`: a receiver to try things with.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use super::emulate::listen;
use super::{Failure, OrFail, Outcome, say, stop_signal};
use crate::core::{duration, sign};

/// The largest body that is taken; a bigger one is answered 413.
const MAX_BODY: usize = 16 << 20;
/// How much of a body a line of text shows.
const SHOWN: usize = 2_000;
/// How far webhook-timestamp may be from now, as the Standard Webhooks libraries have it.
const TOLERANCE_SECS: i64 = 300;

/// Receive webhooks and print what came.
///
/// Verifies Kong's x-kong-signature and Standard Webhooks. Headers are printed as they came with --output json: mind
/// where that output goes.
///
/// Example: hookstream receive --listen 127.0.0.1:9000 --secret-file secret.txt --fail-first 2
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9000", env = "HOOKSTREAM_LISTEN")]
    listen: SocketAddr,
    /// A file with the signing secret, or several, a line each. What is not signed with one of them is answered 401.
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_SECRET_FILE")]
    secret_file: Option<PathBuf>,
    /// Answer the first N requests with 503. Pings, and what is answered 401, are not counted.
    #[arg(long, value_name = "N", default_value_t = 0, env = "HOOKSTREAM_FAIL_FIRST")]
    fail_first: u64,
    /// Answer the others with this status, 200 to 599.
    #[arg(
        long,
        value_name = "CODE",
        default_value_t = 200,
        value_parser = clap::value_parser!(u16).range(200..=599),
        env = "HOOKSTREAM_STATUS"
    )]
    status: u16,
    /// Wait before answering, for example 2s or 500ms.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_DELAY")]
    delay: Option<Duration>,
    /// A line of text a request, or a line of JSON with all of it.
    #[arg(long, value_enum, default_value_t = Output::Text, env = "HOOKSTREAM_OUTPUT")]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// What a request's signature is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Verdict {
    #[serde(rename = "valid")]
    Valid,
    #[serde(rename = "INVALID")]
    Invalid,
    #[serde(rename = "absent")]
    Absent,
    /// There is a signature but no secret to check it with.
    #[serde(rename = "unchecked")]
    Unchecked,
}

impl Verdict {
    fn text(self) -> &'static str {
        match self {
            Verdict::Valid => "valid",
            Verdict::Invalid => "INVALID",
            Verdict::Absent => "absent",
            Verdict::Unchecked => "unchecked",
        }
    }
}

struct Receiver {
    secrets: Option<Vec<String>>,
    fail_first: u64,
    received: AtomicU64,
    status: StatusCode,
    delay: Duration,
    output: Output,
}

pub async fn run(args: Args) -> Outcome {
    let secrets = args.secret_file.as_ref().map(read_secrets).transpose()?;
    let stop = stop_signal()?;
    let listener = listen(args.listen).await?;
    let address = listener.local_addr().or_fail(|| "listening".into())?;
    let receiver = Receiver {
        secrets,
        fail_first: args.fail_first,
        received: AtomicU64::new(0),
        status: StatusCode::from_u16(args.status).or_fail(|| "--status".into())?,
        delay: args.delay.unwrap_or_default(),
        output: args.output,
    };
    let router = Router::new().fallback(receive).with_state(Arc::new(receiver));
    // With JSON on standard output this line goes where it does not disturb the reader.
    let line = format!("hookstream: receiver listening on http://{address}");
    match args.output {
        Output::Text => say(&line),
        Output::Json => eprintln!("{line}"),
    }
    tokio::select! {
        served = axum::serve(listener, router) => served.or_fail(|| "receiver".into())?,
        () = stop => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn read_secrets(path: &PathBuf) -> Result<Vec<String>, Failure> {
    let text = fs::read_to_string(path).or_fail(|| format!("reading {}", path.display()))?;
    let secrets: Vec<String> = sign::secret_lines(&text).into_iter().map(str::to_owned).collect();
    if secrets.is_empty() {
        return Err(Failure::new(format!("{} holds no secret", path.display())));
    }
    // Told now rather than as INVALID at every request.
    let all: Vec<&str> = secrets.iter().map(String::as_str).collect();
    sign::standard_webhooks_signature(&all, "", 0, b"").or_fail(|| path.display().to_string())?;
    Ok(secrets)
}

async fn receive(State(receiver): State<Arc<Receiver>>, request: Request) -> StatusCode {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, MAX_BODY).await.ok();
    let now = jiff::Timestamp::now();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let (verdict, ping) = match &body {
        Some(body) => {
            (judge(receiver.secrets.as_deref(), &parts.headers, body, now.as_second()), masked_ping(body))
        }
        None => (Verdict::Unchecked, None),
    };
    let status = match &body {
        // Too big, or broken off, when nobody reads the answer anyway.
        None => StatusCode::PAYLOAD_TOO_LARGE,
        Some(_) => receiver.decide(verdict, ping.is_some()),
    };
    let shown = ping.map(Bytes::from).or(body).unwrap_or_default();
    let line = Line {
        time: now,
        method: parts.method.as_str(),
        path,
        webhook_id: parts.headers.get("webhook-id").and_then(|id| id.to_str().ok()),
        signature: verdict,
        status: status.as_u16(),
        headers: all(&parts.headers),
        body: std::str::from_utf8(&shown).ok(),
        body_base64: std::str::from_utf8(&shown).is_err().then(|| STANDARD.encode(&shown)),
    };
    match receiver.output {
        Output::Text => say(&line.text()),
        Output::Json => say(&serde_json::to_string(&line).unwrap_or_default()),
    }
    // Printed before the wait: a sender that gives up cancels what comes after.
    tokio::time::sleep(receiver.delay).await;
    status
}

impl Receiver {
    fn decide(&self, verdict: Verdict, ping: bool) -> StatusCode {
        let checked = self.secrets.is_some();
        match verdict {
            Verdict::Invalid => StatusCode::UNAUTHORIZED,
            // Whether Kong signs its pings is not documented: one without a signature does no harm.
            _ if ping => StatusCode::OK,
            Verdict::Absent if checked => StatusCode::UNAUTHORIZED,
            _ if self.received.fetch_add(1, Ordering::Relaxed) < self.fail_first => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => self.status,
        }
    }
}

/// Every scheme that is there must be valid, by one of the secrets.
fn judge(secrets: Option<&[String]>, headers: &HeaderMap, body: &[u8], now: i64) -> Verdict {
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let (kong, standard) = (header(sign::KONG_HEADER), header("webhook-signature"));
    if kong.is_none() && standard.is_none() {
        return Verdict::Absent;
    }
    let Some(secrets) = secrets else { return Verdict::Unchecked };
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
    let kong_valid = kong.is_none_or(|signature| {
        secrets.iter().any(|secret| sign::verify_kong(secret.as_bytes(), signature, body))
    });
    let standard_valid = standard.is_none_or(|signature| {
        let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
        sign::verify_standard_webhooks(
            &secrets,
            id.unwrap_or_default(),
            timestamp.unwrap_or_default(),
            signature,
            body,
            now,
            TOLERANCE_SECS,
        )
        .is_ok()
    });
    if kong_valid && standard_valid { Verdict::Valid } else { Verdict::Invalid }
}

/// Kong's ping carries the whole hook: its body with the secret masked, or none where this is no ping.
fn masked_ping(body: &[u8]) -> Option<String> {
    let mut ping: Value = serde_json::from_slice(body).ok()?;
    if ping.get("source")? != "kong:event_hooks" || ping.get("event")? != "ping" {
        return None;
    }
    if let Some(secret) = ping.pointer_mut("/event_hooks/config/secret").filter(|secret| !secret.is_null()) {
        *secret = "***".into();
    }
    Some(ping.to_string())
}

/// The headers; one that came several times is joined as HTTP allows.
fn all(headers: &HeaderMap) -> BTreeMap<&str, String> {
    let mut all: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        all.entry(name.as_str())
            .and_modify(|before| {
                before.push_str(", ");
                before.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    all
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    time: jiff::Timestamp,
    method: &'a str,
    path: &'a str,
    webhook_id: Option<&'a str>,
    signature: Verdict,
    status: u16,
    headers: BTreeMap<&'a str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

impl Line<'_> {
    fn text(&self) -> String {
        let id = self.webhook_id.unwrap_or("-");
        let body = match (self.body, &self.body_base64) {
            (Some(text), _) => cut(text),
            (None, Some(text)) => format!("base64:{}", cut(text)),
            (None, None) => String::new(),
        };
        format!(
            "{:.3} {} {} webhook-id: {id} signature: {} answered: {} body: {body}",
            self.time,
            self.method,
            self.path,
            self.signature.text(),
            self.status,
        )
    }
}

/// The beginning of a text, on one line: a sender must not be able to write to the terminal's control.
fn cut(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push_str(&format!("... ({} bytes)", text.len()));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{SignatureAlgorithm, SignatureEncoding};

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn every_scheme_that_is_there_must_be_valid() {
        let secrets = ["old".to_owned(), "new".to_owned()];
        let kong = sign::kong_signature(b"new", SignatureAlgorithm::SHA1, SignatureEncoding::Hex, b"body");
        let standard = sign::standard_webhooks_signature(&["old"], "m1", 1000, b"body").unwrap();
        let judge = |pairs: &[(&'static str, &str)]| judge(Some(&secrets), &headers(pairs), b"body", 1010);
        assert_eq!(judge(&[]), Verdict::Absent);
        assert_eq!(judge(&[("x-kong-signature", &kong)]), Verdict::Valid);
        assert_eq!(judge(&[("x-kong-signature", "sha1=00")]), Verdict::Invalid);
        let mut three = vec![
            ("webhook-id", "m1"),
            ("webhook-timestamp", "1000"),
            ("webhook-signature", standard.as_str()),
        ];
        assert_eq!(judge(&three), Verdict::Valid);
        three.push(("x-kong-signature", "00"));
        assert_eq!(judge(&three), Verdict::Invalid);
        assert_eq!(judge(&[("webhook-signature", &standard)]), Verdict::Invalid);
        let unchecked = super::judge(None, &headers(&[("x-kong-signature", "x")]), b"", 0);
        assert_eq!(unchecked, Verdict::Unchecked);
    }

    #[test]
    fn statuses() {
        let receiver = |secret: bool| Receiver {
            secrets: secret.then(|| vec!["s".into()]),
            fail_first: 1,
            received: AtomicU64::new(0),
            status: StatusCode::ACCEPTED,
            delay: Duration::ZERO,
            output: Output::Text,
        };
        let one = receiver(true);
        assert_eq!(one.decide(Verdict::Absent, false), 401);
        assert_eq!(one.decide(Verdict::Invalid, true), 401);
        assert_eq!(one.decide(Verdict::Absent, true), 200);
        assert_eq!(one.decide(Verdict::Valid, false), 503);
        assert_eq!(one.decide(Verdict::Valid, false), 202);
        assert_eq!(receiver(false).decide(Verdict::Absent, false), 503);
    }

    #[test]
    fn a_ping_is_known_and_its_secret_masked() {
        let ping =
            br#"{"source":"kong:event_hooks","event":"ping","event_hooks":{"config":{"secret":"hush"}}}"#;
        let masked = masked_ping(ping).unwrap();
        assert!(masked.contains("***") && !masked.contains("hush"));
        assert!(masked_ping(br#"{"source":"crud","event":"ping"}"#).is_none());
        assert!(masked_ping(b"ping").is_none());
    }

    #[test]
    fn a_line_stays_a_line() {
        assert_eq!(cut("a\x1b[2J\nb"), "a [2J b");
        assert!(cut(&"x".repeat(SHOWN + 1)).ends_with("... (2001 bytes)"));
    }
}
