//! Builds the HTTP request that a hook sends for an event.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use bytes::Bytes;
use serde_json::{Map, Value};

use super::store::Hook;
use super::template::render;
use super::validate::HookHandler;
use crate::api::{SignatureAlgorithm, SignatureEncoding};
use crate::core::sign;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// How request bodies are signed.
#[derive(Clone, Copy)]
pub(super) struct Signing {
    pub algorithm: SignatureAlgorithm,
    pub encoding: SignatureEncoding,
}

/// A hook's settings make no valid request. The text says which setting is invalid, and why.
#[derive(Debug, thiserror::Error)]
#[error("no request can be built for the hook: {0}")]
pub(super) struct UnsendableHook(pub String);

/// A complete request. No `Debug`, because its headers may contain secrets.
pub(super) struct WebhookRequest {
    pub method: Method,
    pub url: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Whether to verify the server certificate.
    pub verify: bool,
}

impl WebhookRequest {
    /// Builds the request of `hook` for `payload`, which is the event's data with `source` and `event`.
    pub fn new(hook: &Hook, payload: &Value, signing: Signing) -> Result<WebhookRequest, UnsendableHook> {
        let config = &hook.fields.config;
        let text = |name: &str| config.get(name).and_then(Value::as_str);
        let is_on = |name: &str| config.get(name).and_then(Value::as_bool).unwrap_or(false);
        let url = text("url").ok_or_else(|| UnsendableHook("config.url is missing".into()))?;
        let (method, mut headers, body) = match hook.fields.handler {
            HookHandler::WebhookCustom => {
                let method = text("method").unwrap_or("POST").to_ascii_uppercase();
                let method = Method::from_bytes(method.as_bytes())
                    .map_err(|_| UnsendableHook("config.method is invalid".into()))?;
                let mut headers = render_headers(config, is_on("headers_format").then_some(payload))?;
                let body = render_body(config, payload, &mut headers)?;
                (method, headers, body)
            }
            _ => {
                let mut merged = HeaderMap::from_iter([(CONTENT_TYPE, JSON)]);
                for (name, value) in render_headers(config, None)? {
                    merged.extend(name.map(|name| (name, value)));
                }
                (Method::POST, merged, Bytes::from(payload.to_string()))
            }
        };
        if let Some(secret) = text("secret") {
            let signature =
                sign::kong_signature(secret.as_bytes(), signing.algorithm, signing.encoding, &body);
            let value = HeaderValue::try_from(signature)
                .map_err(|_| UnsendableHook("the signature is not a valid header value".into()))?;
            headers.insert(sign::KONG_HEADER, value);
        }
        let verify = is_on("ssl_verify") && url.starts_with("https:");
        Ok(WebhookRequest { method, url: url.to_owned(), headers, body, verify })
    }
}

/// Makes the configured headers. Renders their values as templates if `data` is given.
fn render_headers(config: &Map<String, Value>, data: Option<&Value>) -> Result<HeaderMap, UnsendableHook> {
    let mut headers = HeaderMap::new();
    for (name, value) in config.get("headers").and_then(Value::as_object).into_iter().flatten() {
        let name = HeaderName::try_from(name)
            .map_err(|_| UnsendableHook("config.headers has an invalid name".into()))?;
        let value = render_if_enabled(value.as_str().unwrap_or_default(), data)?;
        let value = HeaderValue::try_from(value)
            .map_err(|_| UnsendableHook("config.headers has an invalid value".into()))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

/// Makes the body of a `webhook-custom` request: `body` if it is set, otherwise `payload` in the format of the content
/// type (form or JSON). Kong does not document the case that both are set.
fn render_body(
    config: &Map<String, Value>,
    data: &Value,
    headers: &mut HeaderMap,
) -> Result<Bytes, UnsendableHook> {
    let is_on = |name: &str| config.get(name).and_then(Value::as_bool).unwrap_or(true);
    if let Some(body) = config.get("body").and_then(Value::as_str) {
        return render_if_enabled(body, is_on("body_format").then_some(data)).map(Bytes::from);
    }
    let Some(payload) = config.get("payload").and_then(Value::as_object) else { return Ok(Bytes::new()) };
    let payload = render_strings(&payload.clone().into(), is_on("payload_format").then_some(data))?;
    let content_type = headers.entry(CONTENT_TYPE).or_insert(JSON).to_str().unwrap_or_default();
    if !content_type.starts_with("application/x-www-form-urlencoded") {
        return Ok(Bytes::from(payload.to_string()));
    }
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in payload.as_object().into_iter().flatten() {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        form.append_pair(name, &text);
    }
    Ok(Bytes::from(form.finish()))
}

/// Renders every string inside a value as a template.
fn render_strings(value: &Value, data: Option<&Value>) -> Result<Value, UnsendableHook> {
    Ok(match value {
        Value::String(text) => render_if_enabled(text, data)?.into(),
        Value::Array(list) => {
            list.iter().map(|item| render_strings(item, data)).collect::<Result<Vec<_>, _>>()?.into()
        }
        Value::Object(members) => {
            let rendered =
                members.iter().map(|(name, value)| Ok((name.clone(), render_strings(value, data)?)));
            Value::Object(rendered.collect::<Result<_, UnsendableHook>>()?)
        }
        other => other.clone(),
    })
}

/// Renders a template if `data` is given; otherwise returns the text unchanged.
fn render_if_enabled(text: &str, data: Option<&Value>) -> Result<String, UnsendableHook> {
    match data {
        None => Ok(text.to_owned()),
        Some(data) => render(text, data).map_err(UnsendableHook),
    }
}
