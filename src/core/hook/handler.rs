//! Handlers: what a hook does with an event, and where its requests go.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue, Uri};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::content::RequestContent;
use super::{InvalidSpec, invalid};
use crate::api::{
    self, CaKind, Format, HandlerKind, HeaderFrom, Method, OAuth2, SecretKeyRef, SignatureAlgorithm,
    SignatureEncoding, SignatureScheme, TextFormat, Tls, UrlText,
};
use crate::core::lua;
use crate::core::urls::parse_url;

/// The action that a hook runs for an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Handler {
    Webhook(Webhook),
    /// Boxed, because it is rare and would otherwise set the size of every hook.
    WebhookCustom(Box<WebhookCustom>),
    Log,
    Lambda(Lambda),
}

impl Handler {
    pub fn kind(&self) -> HandlerKind {
        match self {
            Handler::Webhook(_) => HandlerKind::Webhook,
            Handler::WebhookCustom(_) => HandlerKind::WebhookCustom,
            Handler::Log => HandlerKind::Log,
            Handler::Lambda(_) => HandlerKind::Lambda,
        }
    }

    /// Returns the target of the requests, for handlers that send requests.
    pub fn target(&self) -> Option<&RequestTarget> {
        match self {
            Handler::Webhook(webhook) => Some(&webhook.target),
            Handler::WebhookCustom(custom) => Some(&custom.target),
            Handler::Log | Handler::Lambda(_) => None,
        }
    }

    pub fn headers_from(&self) -> &[HeaderFrom] {
        match self {
            Handler::Webhook(webhook) => &webhook.headers_from,
            Handler::WebhookCustom(custom) => &custom.headers_from,
            Handler::Log | Handler::Lambda(_) => &[],
        }
    }

    pub fn signature(&self) -> Option<&Signature> {
        match self {
            Handler::Webhook(webhook) => webhook.signature.as_deref(),
            Handler::WebhookCustom(custom) => custom.signature.as_deref(),
            Handler::Log | Handler::Lambda(_) => None,
        }
    }

    pub fn oauth2(&self) -> Option<&OAuth2> {
        match self {
            Handler::Webhook(webhook) => webhook.oauth2.as_deref(),
            Handler::WebhookCustom(custom) => custom.oauth2.as_deref(),
            Handler::Log | Handler::Lambda(_) => None,
        }
    }

    /// Returns true if the worker requests the receiver's permission before the first delivery.
    pub fn performs_handshake(&self) -> bool {
        matches!(self, Handler::Webhook(webhook) if webhook.handshake)
    }

    pub fn tls(&self) -> Option<&Tls> {
        match self {
            Handler::Webhook(webhook) => webhook.tls.as_deref(),
            Handler::WebhookCustom(custom) => custom.tls.as_deref(),
            Handler::Log | Handler::Lambda(_) => None,
        }
    }

    /// Returns true if the handler reads the Secret or ConfigMap with this name.
    pub fn refers_to(&self, kind: CaKind, name: &str) -> bool {
        let target = match self.target() {
            Some(RequestTarget::Secret(reference)) => Some(reference),
            Some(RequestTarget::Url(_)) | None => None,
        };
        let signature = self.signature().map(|s| &s.secret_ref);
        let headers = self.headers_from().iter().map(|from| &from.secret_ref);
        let client = self.oauth2().map(|oauth2| &oauth2.client_secret_ref);
        let mut secrets = target.into_iter().chain(signature).chain(headers).chain(client);
        let token_tls = self.oauth2().and_then(|oauth2| oauth2.tls.as_deref());
        (kind == CaKind::Secret && secrets.any(|reference| reference.name == name))
            || self.tls().into_iter().chain(token_tls).any(|tls| tls.refers_to(kind, name))
    }
}

/// Sends the event as JSON by POST.
#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    pub target: RequestTarget,
    pub headers: Box<[(String, String)]>,
    pub headers_from: Box<[HeaderFrom]>,
    pub format: Format,
    /// The receiver's permission is requested before the first delivery.
    pub handshake: bool,
    pub signature: Option<Box<Signature>>,
    pub oauth2: Option<Box<OAuth2>>,
    pub tls: Option<Box<Tls>>,
}

/// Sends a request that the user defines. At most one of `payload` and `body` is set.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookCustom {
    pub target: RequestTarget,
    pub method: Method,
    pub headers: Vec<(String, String)>,
    pub headers_from: Vec<HeaderFrom>,
    pub headers_format: TextFormat,
    pub payload: Option<Map<String, Value>>,
    pub payload_format: TextFormat,
    pub body: Option<String>,
    pub body_format: TextFormat,
    /// The compiled headers, payload and body.
    pub content: RequestContent,
    pub signature: Option<Box<Signature>>,
    pub oauth2: Option<Box<OAuth2>>,
    pub tls: Option<Box<Tls>>,
}

impl WebhookCustom {
    /// Returns true if the body is a text that is meant to be JSON, by its content type or its first character.
    pub fn sends_json_text(&self) -> bool {
        let content_type = self.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        let is_json = content_type.is_some_and(|(_, value)| value.to_ascii_lowercase().contains("json"));
        self.body.as_ref().is_some_and(|body| is_json || body.trim_start().starts_with(['{', '[']))
    }
}

/// Lua chunks, each of which returns a function. The functions run in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Lambda {
    pub functions: Vec<String>,
    /// One hash for each function. Unique, because a retry skips the functions whose hash is stored as delivered.
    pub hashes: Vec<FunctionHash>,
}

/// Identifies a function by a truncated SHA-256 hash of its text.
pub type FunctionHash = [u8; 16];

/// The destination of a request: a literal URL, or a Secret key that holds one.
#[derive(Clone, Debug, PartialEq)]
pub enum RequestTarget {
    Url(Address),
    Secret(SecretKeyRef),
}

/// A destination URL, parsed once for all attempts.
#[derive(Clone, Debug, PartialEq)]
pub struct Address {
    /// The text of the spec or the Secret without surrounding white space. A vendor stores and returns this text, and
    /// comparing it with a normalized URL would report a difference.
    pub text: Box<str>,
    pub uri: Uri,
}

impl Address {
    /// Parses a destination. The error never repeats the text, which may come from a Secret.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let url = parse_url(text)?;
        let uri = url.as_str().parse().map_err(
            |_| "cannot be used in a request: percent-encode all characters except ASCII letters, digits and -._~",
        )?;
        Ok(Address { text: text.trim().into(), uri })
    }
}

/// How requests are signed.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    pub secret_ref: SecretKeyRef,
    pub scheme: SignatureScheme,
    pub algorithm: SignatureAlgorithm,
    pub encoding: SignatureEncoding,
}

/// Validates and compiles the handler of a spec.
pub(super) fn compile_handler(spec: &api::Handler) -> Result<Handler, InvalidSpec> {
    match (&spec.webhook, &spec.webhook_custom, &spec.log, &spec.lambda) {
        (Some(webhook), None, None, None) => compile_webhook(webhook).map(Handler::Webhook),
        (None, Some(custom), None, None) => {
            compile_webhook_custom(custom).map(Box::new).map(Handler::WebhookCustom)
        }
        (None, None, Some(_), None) => Ok(Handler::Log),
        (None, None, None, Some(lambda)) => compile_lambda(lambda).map(Handler::Lambda),
        _ => Err(invalid(
            "handler",
            "exactly one of webhook, webhookCustom, log, lambda must be set (log is written log: {})",
        )),
    }
}

fn compile_webhook(webhook: &api::Webhook) -> Result<Webhook, InvalidSpec> {
    Ok(Webhook {
        target: parse_target("handler.webhook", webhook.url.as_ref(), webhook.url_secret_ref.as_deref())?,
        headers: check_headers("handler.webhook.headers", webhook.headers.as_ref())?.into(),
        headers_from: webhook.headers_from.clone().unwrap_or_default().into(),
        format: webhook.format.unwrap_or(Format::Kong),
        handshake: webhook.handshake.unwrap_or(false),
        signature: webhook.signature.as_ref().map(with_signature_defaults).map(Box::new),
        oauth2: check_oauth2(
            "handler.webhook.oauth2",
            webhook.oauth2.as_deref(),
            webhook.headers.as_ref(),
            webhook.headers_from.as_deref(),
        )?,
        tls: webhook.tls.clone(),
    })
}

fn compile_webhook_custom(custom: &api::WebhookCustom) -> Result<WebhookCustom, InvalidSpec> {
    if custom.payload.is_some() && custom.body.is_some() {
        return Err(invalid(
            "handler.webhookCustom",
            "payload and body are mutually exclusive: remove one of them",
        ));
    }
    Ok(WebhookCustom {
        target: parse_target("handler.webhookCustom", custom.url.as_ref(), custom.url_secret_ref.as_deref())?,
        method: custom.method.unwrap_or(Method::Post),
        headers: check_headers("handler.webhookCustom.headers", custom.headers.as_ref())?,
        headers_from: custom.headers_from.clone().unwrap_or_default(),
        headers_format: custom.headers_format.unwrap_or(TextFormat::Raw),
        payload: custom.payload.clone(),
        payload_format: custom.payload_format.unwrap_or(TextFormat::Template),
        body: custom.body.clone(),
        body_format: custom.body_format.unwrap_or(TextFormat::Template),
        content: RequestContent::compile(custom)?,
        signature: custom.signature.as_ref().map(with_signature_defaults).map(Box::new),
        oauth2: check_oauth2(
            "handler.webhookCustom.oauth2",
            custom.oauth2.as_deref(),
            custom.headers.as_ref(),
            custom.headers_from.as_deref(),
        )?,
        tls: custom.tls.clone(),
    })
}

fn compile_lambda(lambda: &api::Lambda) -> Result<Lambda, InvalidSpec> {
    if lambda.functions.is_empty() {
        return Err(invalid("handler.lambda.functions", "must contain at least one function"));
    }
    let mut hashes: Vec<FunctionHash> = Vec::new();
    for (i, function) in lambda.functions.iter().enumerate() {
        let field = || format!("handler.lambda.functions[{i}]");
        lua::check(function).map_err(|at| InvalidSpec::InvalidLambda { field: field(), at })?;
        let hash = hash_function(function);
        // A retry would skip the second one as soon as the first has delivered.
        if let Some(first) = hashes.iter().position(|h| *h == hash) {
            let problem = format!("functions[{i}] is the same as functions[{first}]: remove it");
            return Err(invalid("handler.lambda.functions", problem));
        }
        hashes.push(hash);
    }
    Ok(Lambda { functions: lambda.functions.clone(), hashes })
}

fn hash_function(function: &str) -> FunctionHash {
    let digest: [u8; 32] = Sha256::digest(function.as_bytes()).into();
    let mut hash = FunctionHash::default();
    hash.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    hash
}

/// Headers that control the connection. A user's value could truncate the request or smuggle a second request.
const HOP_BY_HOP: [&str; 9] = [
    "host",
    "content-length",
    "connection",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "proxy-connection",
];

/// Parses a header that a user defines. Rejects the headers that control the connection.
pub fn parse_header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "its name is not a valid header name")?;
    if HOP_BY_HOP.contains(&name.as_str()) {
        return Err("it belongs to the connection");
    }
    // Parsed as bytes, because header values may contain non-ASCII letters.
    let value = HeaderValue::from_bytes(value.as_bytes()).map_err(
        |_| "its value is not one line of text (it contains a line end or another control character)",
    )?;
    Ok((name, value))
}

fn check_headers(
    field: &'static str,
    headers: Option<&BTreeMap<String, String>>,
) -> Result<Vec<(String, String)>, InvalidSpec> {
    let headers = headers.into_iter().flatten().map(|(name, value)| {
        parse_header(name, value)
            .map_err(|reason| invalid(field, format!("{name:.64} cannot be sent: {reason}")))?;
        Ok((name.clone(), value.clone()))
    });
    headers.collect()
}

fn parse_target(
    field: &'static str,
    url: Option<&UrlText>,
    secret: Option<&SecretKeyRef>,
) -> Result<RequestTarget, InvalidSpec> {
    match (url, secret) {
        (Some(url), None) => Address::parse(&url.0)
            .map(RequestTarget::Url)
            .map_err(|problem| invalid(field, format!("url {problem}"))),
        (None, Some(secret)) => Ok(RequestTarget::Secret(secret.clone())),
        _ => Err(invalid(field, "exactly one of url, urlSecretRef must be set")),
    }
}

/// Rejects a second source of the header `authorization`, and a token endpoint that would receive the client secret in the
/// clear.
fn check_oauth2(
    field: &'static str,
    oauth2: Option<&OAuth2>,
    headers: Option<&BTreeMap<String, String>>,
    headers_from: Option<&[HeaderFrom]>,
) -> Result<Option<Box<OAuth2>>, InvalidSpec> {
    let Some(oauth2) = oauth2 else { return Ok(None) };
    let names = headers.into_iter().flatten().map(|(name, _)| name.as_str());
    let mut names = names.chain(headers_from.into_iter().flatten().map(|from| from.name.as_str()));
    if names.any(|name| name.eq_ignore_ascii_case("authorization")) {
        return Err(invalid(field, "sets the header authorization: remove it from headers and headersFrom"));
    }
    let url =
        parse_url(&oauth2.token_url.0).map_err(|problem| invalid(field, format!("tokenUrl {problem}")))?;
    let is_loopback = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    match url.scheme() == "https" || is_loopback {
        true => Ok(Some(Box::new(oauth2.clone()))),
        false => Err(invalid(field, "tokenUrl must be an https URL (http only to localhost)")),
    }
}

fn with_signature_defaults(signature: &api::Signature) -> Signature {
    Signature {
        secret_ref: signature.secret_ref.clone(),
        scheme: signature.scheme.unwrap_or(SignatureScheme::Kong),
        algorithm: signature.algorithm.unwrap_or(SignatureAlgorithm::SHA256),
        encoding: signature.encoding.unwrap_or(SignatureEncoding::PrefixedHex),
    }
}
