//! What is done with an event, and where requests go.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue, Uri};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use url::Url;

use super::content::Content;
use super::{InvalidSpec, invalid};
use crate::api::{
    self, CaKind, Format, HandlerKind, HeaderFrom, Method, SecretKeyRef, SignatureAlgorithm,
    SignatureEncoding, SignatureScheme, TextFormat, Tls, UrlText,
};
use crate::core::lua;

/// What is done with an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Handler {
    Webhook(Webhook),
    /// On the heap: few hooks have one, and it would make all of them as big.
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

    /// Where its requests go, for the handlers that send any.
    pub fn target(&self) -> Option<&Target> {
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

    pub fn tls(&self) -> Option<&Tls> {
        match self {
            Handler::Webhook(webhook) => webhook.tls.as_deref(),
            Handler::WebhookCustom(custom) => custom.tls.as_deref(),
            Handler::Log | Handler::Lambda(_) => None,
        }
    }

    /// True where it reads the Secret or ConfigMap of this name.
    pub fn refers_to(&self, kind: CaKind, name: &str) -> bool {
        let target = match self.target() {
            Some(Target::Secret(reference)) => Some(reference),
            Some(Target::Url(_)) | None => None,
        };
        let signature = self.signature().map(|s| &s.secret_ref);
        let headers = self.headers_from().iter().map(|from| &from.secret_ref);
        let mut secrets = target.into_iter().chain(signature).chain(headers);
        (kind == CaKind::Secret && secrets.any(|reference| reference.name == name))
            || self.tls().is_some_and(|tls| tls.refers_to(kind, name))
    }
}

/// A JSON POST.
#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    pub target: Target,
    pub headers: Vec<(String, String)>,
    pub headers_from: Vec<HeaderFrom>,
    pub format: Format,
    pub signature: Option<Box<Signature>>,
    pub tls: Option<Box<Tls>>,
}

/// A request of the user's making. At most one of payload and body is there.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookCustom {
    pub target: Target,
    pub method: Method,
    pub headers: Vec<(String, String)>,
    pub headers_from: Vec<HeaderFrom>,
    pub headers_format: TextFormat,
    pub payload: Option<Map<String, Value>>,
    pub payload_format: TextFormat,
    pub body: Option<String>,
    pub body_format: TextFormat,
    /// Headers, payload and body, compiled.
    pub content: Content,
    pub signature: Option<Box<Signature>>,
    pub tls: Option<Box<Tls>>,
}

/// Lua chunks, each of which returns a function; run in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Lambda {
    pub functions: Vec<String>,
    /// What each is remembered by once it delivered; no two are the same.
    pub marks: Vec<Mark>,
}

/// Stands for a function's text.
pub type Mark = [u8; 16];

/// Where a request goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    Url(Address),
    Secret(SecretKeyRef),
}

/// A URL to send to, as requests take it: parsed once, not at each attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Address {
    pub url: Url,
    pub uri: Uri,
}

impl Address {
    /// The message never repeats the text, for it may come from a Secret.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let url = parse_url(text)?;
        let uri = url.as_str().parse().map_err(
            |_| "cannot be used in a request: percent-encode what is no ASCII letter, digit or -._~",
        )?;
        Ok(Address { url, uri })
    }
}

/// How a request is signed.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    pub secret_ref: SecretKeyRef,
    pub scheme: SignatureScheme,
    pub algorithm: SignatureAlgorithm,
    pub encoding: SignatureEncoding,
}

pub(super) fn handler(spec: &api::Handler) -> Result<Handler, InvalidSpec> {
    match (&spec.webhook, &spec.webhook_custom, &spec.log, &spec.lambda) {
        (Some(webhook), None, None, None) => self::webhook(webhook).map(Handler::Webhook),
        (None, Some(custom), None, None) => webhook_custom(custom).map(Box::new).map(Handler::WebhookCustom),
        (None, None, Some(_), None) => Ok(Handler::Log),
        (None, None, None, Some(lambda)) => self::lambda(lambda).map(Handler::Lambda),
        _ => Err(invalid(
            "handler",
            "exactly one of webhook, webhookCustom, log, lambda must be set (log is written log: {})",
        )),
    }
}

fn webhook(webhook: &api::Webhook) -> Result<Webhook, InvalidSpec> {
    Ok(Webhook {
        target: target("handler.webhook", webhook.url.as_ref(), webhook.url_secret_ref.as_deref())?,
        headers: headers("handler.webhook.headers", webhook.headers.as_ref())?,
        headers_from: webhook.headers_from.clone().unwrap_or_default(),
        format: webhook.format.unwrap_or(Format::Kong),
        signature: webhook.signature.as_ref().map(signature).map(Box::new),
        tls: webhook.tls.clone(),
    })
}

fn webhook_custom(custom: &api::WebhookCustom) -> Result<WebhookCustom, InvalidSpec> {
    if custom.payload.is_some() && custom.body.is_some() {
        return Err(invalid("handler.webhookCustom", "payload and body exclude each other"));
    }
    Ok(WebhookCustom {
        target: target("handler.webhookCustom", custom.url.as_ref(), custom.url_secret_ref.as_deref())?,
        method: custom.method.unwrap_or(Method::Post),
        headers: headers("handler.webhookCustom.headers", custom.headers.as_ref())?,
        headers_from: custom.headers_from.clone().unwrap_or_default(),
        headers_format: custom.headers_format.unwrap_or(TextFormat::Raw),
        payload: custom.payload.clone(),
        payload_format: custom.payload_format.unwrap_or(TextFormat::Template),
        body: custom.body.clone(),
        body_format: custom.body_format.unwrap_or(TextFormat::Template),
        content: Content::compile(custom)?,
        signature: custom.signature.as_ref().map(signature).map(Box::new),
        tls: custom.tls.clone(),
    })
}

fn lambda(lambda: &api::Lambda) -> Result<Lambda, InvalidSpec> {
    if lambda.functions.is_empty() {
        return Err(invalid("handler.lambda.functions", "must hold at least one function"));
    }
    let mut marks: Vec<Mark> = Vec::new();
    for (i, function) in lambda.functions.iter().enumerate() {
        let field = || format!("handler.lambda.functions[{i}]");
        lua::check(function).map_err(|at| InvalidSpec::InvalidLambda { field: field(), at })?;
        let mark = mark(function);
        // The second would be taken for done when the first is.
        if let Some(first) = marks.iter().position(|m| *m == mark) {
            let problem = format!("functions[{i}] is the same as functions[{first}]: remove it");
            return Err(invalid("handler.lambda.functions", problem));
        }
        marks.push(mark);
    }
    Ok(Lambda { functions: lambda.functions.clone(), marks })
}

fn mark(function: &str) -> Mark {
    let hash: [u8; 32] = Sha256::digest(function.as_bytes()).into();
    let mut mark = Mark::default();
    mark.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    mark
}

/// Headers that belong to the connection: one of these in a request could end it early or begin another.
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

/// Reads a header that a user asks for.
pub fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "its name is no header name")?;
    if HOP_BY_HOP.contains(&name.as_str()) {
        return Err("it belongs to the connection");
    }
    // Bytes, for letters beyond ASCII are allowed.
    let value = HeaderValue::from_bytes(value.as_bytes()).map_err(
        |_| "its value is not one line of text (a line end or another control character is in it)",
    )?;
    Ok((name, value))
}

fn headers(
    field: &'static str,
    headers: Option<&BTreeMap<String, String>>,
) -> Result<Vec<(String, String)>, InvalidSpec> {
    let headers = headers.into_iter().flatten().map(|(name, value)| {
        header(name, value).map_err(|why| invalid(field, format!("{name:.64} cannot be sent: {why}")))?;
        Ok((name.clone(), value.clone()))
    });
    headers.collect()
}

fn target(
    field: &'static str,
    url: Option<&UrlText>,
    secret: Option<&SecretKeyRef>,
) -> Result<Target, InvalidSpec> {
    match (url, secret) {
        (Some(url), None) => Address::parse(&url.0)
            .map(Target::Url)
            .map_err(|problem| invalid(field, format!("url {problem}"))),
        (None, Some(secret)) => Ok(Target::Secret(secret.clone())),
        _ => Err(invalid(field, "exactly one of url, urlSecretRef must be set")),
    }
}

fn signature(signature: &api::Signature) -> Signature {
    Signature {
        secret_ref: signature.secret_ref.clone(),
        scheme: signature.scheme.unwrap_or(SignatureScheme::Kong),
        algorithm: signature.algorithm.unwrap_or(SignatureAlgorithm::SHA256),
        encoding: signature.encoding.unwrap_or(SignatureEncoding::PrefixedHex),
    }
}

/// Parses a URL to send to. The message never repeats the text, for it may come from a Secret.
pub fn parse_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text.trim()).map_err(|_| "is no URL: write it as https://example.com/hooks")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must be an http or https URL");
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("has no host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not carry user information: put credentials into headersFrom");
    }
    Ok(url)
}
