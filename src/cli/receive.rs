//! `hookstream receive`: a receiver for tests and demos, which verifies signatures and can fail on request.

use std::collections::BTreeMap;
use std::fs;
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

use super::failure::{CommandResult, Failure, OrFail};
use super::flags::ListenAddress;
use super::output::print_line;
use super::signals::stop_signal;
use crate::core::duration;
use crate::core::sign::{self, SecretError, VerifyingKey};

/// The largest accepted body in bytes; larger ones get 413.
const MAX_BODY_BYTES: usize = 16 << 20;
/// The number of characters of a body that a line of text shows.
const MAX_SHOWN_CHARS: usize = 2_000;
/// The maximum difference of webhook-timestamp from now, as in the Standard Webhooks libraries.
const TOLERANCE_SECS: i64 = 300;

/// Receive webhooks and print them.
///
/// Verifies Kong's x-kong-signature and Standard Webhooks signatures. With --output json, it prints all headers
/// unmasked: protect that output.
///
/// Example: hookstream receive --listen 127.0.0.1:9000 --secret-file secret.txt --fail-first 2
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The listen address, such as 127.0.0.1:9000 or :9000; port 0 selects a free port.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9000", env = "HOOKSTREAM_RECEIVE_LISTEN")]
    listen: ListenAddress,
    /// A file with the signing secrets, one on each line. Requests that are not signed with one of them get 401.
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_SECRET_FILE")]
    secret_file: Option<PathBuf>,
    /// Answer the first N requests with 503. Pings and requests that get 401 do not count.
    #[arg(long, value_name = "N", default_value_t = 0, env = "HOOKSTREAM_FAIL_FIRST")]
    fail_first: u64,
    /// Answer the other requests with this status, 200 to 599.
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
    /// The output format: one line for each request, as text or as JSON with all headers.
    #[arg(long, value_enum, default_value_t = LineFormat::Text, value_name = "FORMAT", env = "HOOKSTREAM_RECEIVE_OUTPUT")]
    output: LineFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LineFormat {
    Text,
    Json,
}

/// The result of a signature check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum SignatureStatus {
    #[serde(rename = "valid")]
    Valid,
    #[serde(rename = "INVALID")]
    Invalid,
    #[serde(rename = "absent")]
    Absent,
    /// The request is signed, but there is no secret to check it with.
    #[serde(rename = "unchecked")]
    Unchecked,
}

impl SignatureStatus {
    fn as_str(self) -> &'static str {
        match self {
            SignatureStatus::Valid => "valid",
            SignatureStatus::Invalid => "INVALID",
            SignatureStatus::Absent => "absent",
            SignatureStatus::Unchecked => "unchecked",
        }
    }
}

struct Receiver {
    secrets: Option<Secrets>,
    fail_first: u64,
    /// The number of requests that counted towards `fail_first`.
    received: AtomicU64,
    status: StatusCode,
    delay: Duration,
    output: LineFormat,
}

pub async fn run(args: Args) -> CommandResult {
    let secrets = args.secret_file.as_ref().map(read_secrets).transpose()?;
    let stop = stop_signal()?;
    let listener = args.listen.bind("--listen").await?;
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
    // With JSON on standard output, print this line to standard error, where it does not disturb a parser.
    let line = format!("hookstream: receiver listening on http://{address}");
    match args.output {
        LineFormat::Text => print_line(&line),
        LineFormat::Json => eprintln!("{line}"),
    }
    tokio::select! {
        served = axum::serve(listener, router) => served.or_fail(|| "serving the receiver".into())?,
        () = stop => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// The secrets of a file: texts for Kong's scheme, and keys for Standard Webhooks.
struct Secrets {
    texts: Vec<String>,
    keys: Vec<VerifyingKey>,
}

impl Secrets {
    /// Parses the lines of a file. A text that is no key of Standard Webhooks may be a secret of Kong's scheme; one that
    /// begins like such a key must be valid, because the receiver would report every request as INVALID otherwise.
    fn parse(text: &str) -> Result<Self, SecretError> {
        let mut secrets = Secrets { texts: Vec::new(), keys: Vec::new() };
        for line in sign::secret_lines(text) {
            match VerifyingKey::parse(line) {
                Ok(key) => secrets.keys.push(key),
                Err(error) if ["whsec_", "whsk_", "whpk_"].iter().any(|prefix| line.starts_with(prefix)) => {
                    return Err(error);
                }
                Err(_) => {}
            }
            secrets.texts.push(line.to_owned());
        }
        Ok(secrets)
    }
}

fn read_secrets(path: &PathBuf) -> Result<Secrets, Failure> {
    let text = fs::read_to_string(path).or_fail(|| format!("reading {}", path.display()))?;
    let secrets = Secrets::parse(&text).or_fail(|| format!("{}: a line", path.display()))?;
    match secrets.texts.is_empty() {
        true => Err(Failure::new(format!("{} contains no secret", path.display()))),
        false => Ok(secrets),
    }
}

async fn receive(State(receiver): State<Arc<Receiver>>, request: Request) -> StatusCode {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, MAX_BODY_BYTES).await.ok();
    let now = jiff::Timestamp::now();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let (signature, ping) = match &body {
        Some(body) => (
            check_signatures(receiver.secrets.as_ref(), &parts.headers, body, now.as_second()),
            masked_ping(body),
        ),
        None => (SignatureStatus::Unchecked, None),
    };
    let status = match &body {
        // The body is too large, or the sender disconnected and does not read the response.
        None => StatusCode::PAYLOAD_TOO_LARGE,
        Some(_) => receiver.choose_status(signature, ping.is_some()),
    };
    let shown = ping.map(Bytes::from).or(body).unwrap_or_default();
    let line = RequestLine {
        time: now,
        method: parts.method.as_str(),
        path,
        webhook_id: parts.headers.get("webhook-id").and_then(|id| id.to_str().ok()),
        signature,
        status: status.as_u16(),
        headers: join_headers(&parts.headers),
        body: std::str::from_utf8(&shown).ok(),
        body_base64: std::str::from_utf8(&shown).is_err().then(|| STANDARD.encode(&shown)),
    };
    match receiver.output {
        LineFormat::Text => print_line(&line.text()),
        LineFormat::Json => print_line(&serde_json::to_string(&line).unwrap_or_default()),
    }
    // Print before the delay, because a sender that disconnects cancels this handler.
    tokio::time::sleep(receiver.delay).await;
    status
}

impl Receiver {
    fn choose_status(&self, signature: SignatureStatus, is_ping: bool) -> StatusCode {
        let is_checked = self.secrets.is_some();
        match signature {
            SignatureStatus::Invalid => StatusCode::UNAUTHORIZED,
            // Accept pings without a signature, because Kong does not document whether it signs them.
            _ if is_ping => StatusCode::OK,
            SignatureStatus::Absent if is_checked => StatusCode::UNAUTHORIZED,
            _ if self.received.fetch_add(1, Ordering::Relaxed) < self.fail_first => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => self.status,
        }
    }
}

/// Checks all signature schemes of a request. Each one that is present must be valid for one of the secrets.
fn check_signatures(
    secrets: Option<&Secrets>,
    headers: &HeaderMap,
    body: &[u8],
    now: i64,
) -> SignatureStatus {
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let (kong, standard) = (header(sign::KONG_HEADER), header("webhook-signature"));
    if kong.is_none() && standard.is_none() {
        return SignatureStatus::Absent;
    }
    let Some(secrets) = secrets else { return SignatureStatus::Unchecked };
    let kong_valid = kong.is_none_or(|signature| {
        secrets.texts.iter().any(|secret| sign::verify_kong(secret.as_bytes(), signature, body))
    });
    let standard_valid = standard.is_none_or(|signature| {
        let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
        sign::verify_standard_webhooks(
            &secrets.keys,
            id.unwrap_or_default(),
            timestamp.unwrap_or_default(),
            signature,
            body,
            now,
            TOLERANCE_SECS,
        )
        .is_ok()
    });
    if kong_valid && standard_valid { SignatureStatus::Valid } else { SignatureStatus::Invalid }
}

/// Returns the body of Kong's ping with its secret masked, because a ping contains the whole hook. None for any other body.
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

/// Returns the headers by name. Repeated headers are joined by commas, as HTTP allows.
fn join_headers(headers: &HeaderMap) -> BTreeMap<&str, String> {
    let mut joined: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        joined
            .entry(name.as_str())
            .and_modify(|before| {
                before.push_str(", ");
                before.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    joined
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
/// A received request, as one line of output.
struct RequestLine<'a> {
    time: jiff::Timestamp,
    method: &'a str,
    path: &'a str,
    webhook_id: Option<&'a str>,
    signature: SignatureStatus,
    status: u16,
    headers: BTreeMap<&'a str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

impl RequestLine<'_> {
    fn text(&self) -> String {
        let id = self.webhook_id.unwrap_or("-");
        let body = match (self.body, &self.body_base64) {
            (Some(text), _) => shorten(text),
            (None, Some(text)) => format!("base64:{}", shorten(text)),
            (None, None) => String::new(),
        };
        format!(
            "{:.3} {} {} webhook-id: {id} signature: {} answered: {} body: {body}",
            self.time,
            self.method,
            self.path,
            self.signature.as_str(),
            self.status,
        )
    }
}

/// Returns the beginning of a text without control characters, so that a sender cannot control the terminal.
fn shorten(text: &str) -> String {
    let mut shown: String =
        text.chars().take(MAX_SHOWN_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MAX_SHOWN_CHARS).is_some() {
        shown.push_str(&format!("... ({} bytes)", text.len()));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{SignatureAlgorithm, SignatureEncoding};
    use crate::core::sign::SigningKey;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn requires_every_present_scheme_to_be_valid() {
        const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let secrets = Secrets::parse(&format!("{KEY}\nnew")).unwrap();
        let kong = sign::kong_signature(b"new", SignatureAlgorithm::SHA1, SignatureEncoding::Hex, b"body");
        let standard =
            sign::standard_webhooks_signature(&[SigningKey::parse(KEY).unwrap()], "m1", 1000, b"body");
        let check =
            |pairs: &[(&'static str, &str)]| check_signatures(Some(&secrets), &headers(pairs), b"body", 1010);
        assert_eq!(check(&[]), SignatureStatus::Absent);
        assert_eq!(check(&[("x-kong-signature", &kong)]), SignatureStatus::Valid);
        assert_eq!(check(&[("x-kong-signature", "sha1=00")]), SignatureStatus::Invalid);
        let mut three = vec![
            ("webhook-id", "m1"),
            ("webhook-timestamp", "1000"),
            ("webhook-signature", standard.as_str()),
        ];
        assert_eq!(check(&three), SignatureStatus::Valid);
        three.push(("x-kong-signature", "00"));
        assert_eq!(check(&three), SignatureStatus::Invalid);
        assert_eq!(check(&[("webhook-signature", &standard)]), SignatureStatus::Invalid);
        let unchecked = super::check_signatures(None, &headers(&[("x-kong-signature", "x")]), b"", 0);
        assert_eq!(unchecked, SignatureStatus::Unchecked);
    }

    #[test]
    fn invalid_keys_of_standard_webhooks_are_reported_at_the_start() {
        let secrets = Secrets::parse("a text for Kong\nYWFh").unwrap();
        assert_eq!((secrets.texts.len(), secrets.keys.len()), (2, 1));
        for line in ["whsec_*", "whsk_YWFh", "whpk_"] {
            assert!(Secrets::parse(&format!("YWFh\n{line}")).is_err(), "{line}");
        }
    }

    #[test]
    fn chooses_statuses() {
        let receiver = |secret: bool| Receiver {
            secrets: secret.then(|| Secrets::parse("s").unwrap()),
            fail_first: 1,
            received: AtomicU64::new(0),
            status: StatusCode::ACCEPTED,
            delay: Duration::ZERO,
            output: LineFormat::Text,
        };
        let one = receiver(true);
        assert_eq!(one.choose_status(SignatureStatus::Absent, false), 401);
        assert_eq!(one.choose_status(SignatureStatus::Invalid, true), 401);
        assert_eq!(one.choose_status(SignatureStatus::Absent, true), 200);
        assert_eq!(one.choose_status(SignatureStatus::Valid, false), 503);
        assert_eq!(one.choose_status(SignatureStatus::Valid, false), 202);
        assert_eq!(receiver(false).choose_status(SignatureStatus::Absent, false), 503);
    }

    #[test]
    fn masks_the_secret_of_a_ping() {
        let ping =
            br#"{"source":"kong:event_hooks","event":"ping","event_hooks":{"config":{"secret":"hush"}}}"#;
        let masked = masked_ping(ping).unwrap();
        assert!(masked.contains("***") && !masked.contains("hush"));
        assert!(masked_ping(br#"{"source":"crud","event":"ping"}"#).is_none());
        assert!(masked_ping(b"ping").is_none());
    }

    #[test]
    fn shortens_a_body_to_one_line() {
        assert_eq!(shorten("a\x1b[2J\nb"), "a [2J b");
        assert!(shorten(&"x".repeat(MAX_SHOWN_CHARS + 1)).ends_with("... (2001 bytes)"));
    }
}
