//! What a hook sends for an event: the whole request, made when the event comes.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use bytes::Bytes;
use serde_json::{Map, Value};

use super::emit::SendError;
use super::store::Hook;
use super::template::render;
use super::validate::Handler;
use crate::api::{SignatureAlgorithm, SignatureEncoding};
use crate::core::sign;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// How bodies are signed.
#[derive(Clone, Copy)]
pub(super) struct Signing {
    pub algorithm: SignatureAlgorithm,
    pub encoding: SignatureEncoding,
}

/// A request. No `Debug`: its headers may hold secrets.
pub(super) struct Outgoing {
    pub method: Method,
    pub url: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub verify: bool,
}

impl Outgoing {
    /// `payload` is the event's data with source and event.
    pub fn new(hook: &Hook, payload: &Value, signing: Signing) -> Result<Outgoing, SendError> {
        let config = &hook.fields.config;
        let text = |name: &str| config.get(name).and_then(Value::as_str);
        let is_on = |name: &str| config.get(name).and_then(Value::as_bool).unwrap_or(false);
        let url = text("url").ok_or_else(|| SendError::Unsendable("it has no url".into()))?;
        let (method, mut headers, body) = match hook.fields.handler {
            Handler::WebhookCustom => {
                let method = text("method").unwrap_or("POST").to_ascii_uppercase();
                let method = Method::from_bytes(method.as_bytes())
                    .map_err(|_| SendError::Unsendable("its method".into()))?;
                let mut headers = headers(config, is_on("headers_format").then_some(payload))?;
                let body = custom_body(config, payload, &mut headers)?;
                (method, headers, body)
            }
            _ => {
                let mut all = HeaderMap::from_iter([(CONTENT_TYPE, JSON)]);
                for (name, value) in headers(config, None)? {
                    all.extend(name.map(|name| (name, value)));
                }
                (Method::POST, all, Bytes::from(payload.to_string()))
            }
        };
        if let Some(secret) = text("secret") {
            let signature =
                sign::kong_signature(secret.as_bytes(), signing.algorithm, signing.encoding, &body);
            let value = HeaderValue::try_from(signature)
                .map_err(|_| SendError::Unsendable("its signature is no header value".into()))?;
            headers.insert(sign::KONG_HEADER, value);
        }
        let verify = is_on("ssl_verify") && url.starts_with("https:");
        Ok(Outgoing { method, url: url.to_owned(), headers, body, verify })
    }
}

/// The configured headers, their values as templates where there is data for them.
fn headers(config: &Map<String, Value>, data: Option<&Value>) -> Result<HeaderMap, SendError> {
    let mut headers = HeaderMap::new();
    for (name, value) in config.get("headers").and_then(Value::as_object).into_iter().flatten() {
        let name = HeaderName::try_from(name).map_err(|_| SendError::Unsendable("a header's name".into()))?;
        let value = formatted(value.as_str().unwrap_or_default(), data)?;
        let value =
            HeaderValue::try_from(value).map_err(|_| SendError::Unsendable("a header's value".into()))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

/// `body` as it is, else `payload` as a form where the content type says so, else as JSON. What Kong does with both is
/// not documented.
fn custom_body(
    config: &Map<String, Value>,
    data: &Value,
    headers: &mut HeaderMap,
) -> Result<Bytes, SendError> {
    let is_on = |name: &str| config.get(name).and_then(Value::as_bool).unwrap_or(true);
    if let Some(body) = config.get("body").and_then(Value::as_str) {
        return formatted(body, is_on("body_format").then_some(data)).map(Bytes::from);
    }
    let Some(payload) = config.get("payload").and_then(Value::as_object) else { return Ok(Bytes::new()) };
    let payload = inside(&payload.clone().into(), is_on("payload_format").then_some(data))?;
    let given = headers.entry(CONTENT_TYPE).or_insert(JSON).to_str().unwrap_or_default();
    if !given.starts_with("application/x-www-form-urlencoded") {
        return Ok(Bytes::from(payload.to_string()));
    }
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in payload.as_object().into_iter().flatten() {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        form.append_pair(name, &text);
    }
    Ok(Bytes::from(form.finish()))
}

/// The texts within a payload as templates.
fn inside(value: &Value, data: Option<&Value>) -> Result<Value, SendError> {
    Ok(match value {
        Value::String(text) => formatted(text, data)?.into(),
        Value::Array(list) => {
            list.iter().map(|item| inside(item, data)).collect::<Result<Vec<_>, _>>()?.into()
        }
        Value::Object(members) => {
            let each = members.iter().map(|(name, value)| Ok((name.clone(), inside(value, data)?)));
            Value::Object(each.collect::<Result<_, SendError>>()?)
        }
        other => other.clone(),
    })
}

fn formatted(text: &str, data: Option<&Value>) -> Result<String, SendError> {
    match data {
        None => Ok(text.to_owned()),
        Some(data) => render(text, data).map_err(SendError::Unsendable),
    }
}
