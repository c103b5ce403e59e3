//! Kong's admin API, as far as event hooks need it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body_util::Full;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;

use super::error::Detail;
use super::limit::{AdminHttp, asked_to_wait};
use super::{AdminError, ExternalClient};
use crate::net::Answer;

const TIMEOUT: Duration = Duration::from_secs(15);
/// A page of a thousand hooks with long configs stays under this.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// The header that carries the token unless the Connection names another.
pub const TOKEN_HEADER: &str = "kong-admin-token";
const PAGE_SIZE: usize = 1000;
/// A gateway that pages forever is not followed forever.
const MAX_PAGES: usize = 1000;

/// How one gateway is reached.
#[derive(Clone, Debug)]
pub struct KongAccess {
    /// The client with the TLS options and the rate of the Connection.
    pub http: AdminHttp,
    pub admin_url: Url,
    /// None: the default workspace, which is addressed without a prefix.
    pub workspace: Option<String>,
    pub token: Option<(String, SecretString)>,
}

/// A gateway's event hooks.
#[derive(Clone, Debug)]
pub struct KongClient {
    access: KongAccess,
}

/// An event hook as it should be. Serialises to what the admin API takes; has no `Debug` for it holds secrets.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct KongHook {
    pub source: String,
    pub event: Option<String>,
    pub handler: String,
    pub snooze: Option<i64>,
    pub on_change: Option<bool>,
    pub config: Value,
}

impl KongHook {
    /// What of it must not be repeated: any value of the config may come from a Secret.
    fn secrets(&self) -> Vec<&str> {
        let config = self.config.as_object();
        let headers = config.and_then(|c| c.get("headers")?.as_object());
        let plain = config.into_iter().flatten().filter(|(name, _)| *name == "secret" || *name == "url");
        plain.chain(headers.into_iter().flatten()).filter_map(|(_, value)| value.as_str()).collect()
    }

    /// What is compared with what is there.
    pub fn to_value(&self) -> Value {
        json!({"source": self.source, "event": self.event, "handler": self.handler, "snooze": self.snooze,
               "on_change": self.on_change, "config": self.config})
    }
}

/// The members of Kong's error bodies that are repeated to users. `fields` is not: it mirrors what was sent.
#[derive(Default, Deserialize)]
struct ErrorBody {
    name: Option<String>,
    message: Option<String>,
}

impl KongClient {
    pub fn new(access: KongAccess) -> Self {
        KongClient { access }
    }

    /// The version that the gateway tells of itself.
    pub async fn version(&self) -> Result<Option<String>, AdminError> {
        let answer = self.call(Method::GET, &[], None, None).await?;
        let body: Value = parse(&answer)?;
        match body.get("version") {
            Some(Value::String(version)) => Ok(Some(version.chars().take(128).collect())),
            _ => Err(unexpected(&answer, "no version in the answer: is this a Kong admin API?")),
        }
    }

    async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: Option<&str>,
        body: Option<Vec<u8>>,
    ) -> Result<Answer, AdminError> {
        self.call_with(method, path, query, body, Vec::new()).await
    }

    /// A call that carries these secrets, besides the token. A message that quotes what it refuses would carry them into
    /// status, events and logs.
    async fn call_with(
        &self,
        method: Method,
        path: &[&str],
        query: Option<&str>,
        body: Option<Vec<u8>>,
        mut secrets: Vec<&str>,
    ) -> Result<Answer, AdminError> {
        let answer =
            self.access.http.send(self.request(method, path, query, body)?, TIMEOUT, MAX_ANSWER).await?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        let text: ErrorBody = serde_json::from_slice(&answer.body).unwrap_or_default();
        let message = text.message.unwrap_or_else(|| "no reason given".into());
        let detail =
            Detail { status: None, code: text.name, message, request_id: request_id(&answer.headers) };
        secrets.extend(self.access.token.as_ref().map(|(_, token)| token.expose_secret()));
        let wait = asked_to_wait(answer.status, &answer.headers);
        Err(AdminError::from_status(answer.status, detail.masked(&secrets), wait))
    }

    fn request(
        &self,
        method: Method,
        path: &[&str],
        query: Option<&str>,
        body: Option<Vec<u8>>,
    ) -> Result<Request<Full<Bytes>>, AdminError> {
        let mut url = self.access.admin_url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty();
            if !path.is_empty() {
                segments.extend(self.access.workspace.iter()).extend(path);
            }
        }
        url.set_query(query);
        let mut request =
            Request::builder().method(method).uri(url.as_str()).header("accept", "application/json");
        if let Some((name, token)) = &self.access.token {
            let mut value = HeaderValue::from_str(token.expose_secret()).map_err(|_| {
                AdminError::Rejected(Detail {
                    message: "the token is no header value".into(),
                    ..Detail::default()
                })
            })?;
            value.set_sensitive(true);
            request = request.header(name.as_str(), value);
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        request
            .body(Full::from(body.unwrap_or_default()))
            .map_err(|e| AdminError::Rejected(Detail { message: e.to_string(), ..Detail::default() }))
    }

    async fn put(&self, id: &str, desired: &KongHook) -> Result<Value, AdminError> {
        let body = serde_json::to_vec(desired).unwrap_or_default();
        let path = ["event-hooks", id];
        parse(&self.call_with(Method::PUT, &path, None, Some(body), desired.secrets()).await?)
    }
}

impl ExternalClient for KongClient {
    type Desired = KongHook;
    type Observed = Value;

    async fn list(&self) -> Result<Vec<Value>, AdminError> {
        let mut all = Vec::new();
        let mut offset: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let mut query = format!("size={PAGE_SIZE}");
            if let Some(offset) = &offset {
                query.push_str("&offset=");
                query.extend(url::form_urlencoded::byte_serialize(offset.as_bytes()));
            }
            let answer = self.call(Method::GET, &["event-hooks"], Some(&query), None).await?;
            let mut page: Value = parse(&answer)?;
            let Some(Value::Array(items)) = page.get_mut("data").map(Value::take) else {
                return Err(unexpected(&answer, "a list without data"));
            };
            all.extend(items);
            match page.get("offset").and_then(Value::as_str) {
                Some(next) => offset = Some(next.to_owned()),
                None => return Ok(all),
            }
        }
        Ok(all)
    }

    async fn observe(&self, id: &str) -> Result<Option<Value>, AdminError> {
        match self.call(Method::GET, &["event-hooks", id], None, None).await {
            Ok(answer) => parse(&answer).map(Some),
            Err(AdminError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn create(&self, id: &str, desired: &KongHook) -> Result<Value, AdminError> {
        self.put(id, desired).await
    }

    /// PUT, not PATCH: what the spec no longer says falls back to the gateway's default.
    async fn update(&self, id: &str, desired: &KongHook) -> Result<Value, AdminError> {
        self.put(id, desired).await
    }

    async fn delete(&self, id: &str) -> Result<(), AdminError> {
        match self.call(Method::DELETE, &["event-hooks", id], None, None).await {
            Ok(_) | Err(AdminError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn parse(answer: &Answer) -> Result<Value, AdminError> {
    // Lists and hooks are objects; a proxy's page, half an answer or a bare text is none.
    match serde_json::from_slice::<Value>(&answer.body) {
        Ok(value @ Value::Object(_)) if answer.complete => Ok(value),
        Ok(Value::Object(_)) => Err(unexpected(answer, "the answer broke off")),
        _ => Err(unexpected(answer, "the answer is no JSON object: is a proxy in between?")),
    }
}

fn unexpected(answer: &Answer, message: &str) -> AdminError {
    AdminError::UnexpectedAnswer(Detail {
        status: Some(answer.status.as_u16()),
        code: None,
        message: message.to_owned(),
        request_id: request_id(&answer.headers),
    })
}

fn request_id(headers: &HeaderMap) -> Option<String> {
    ["x-kong-admin-request-id", "x-kong-request-id", "x-request-id"]
        .iter()
        .find_map(|name| headers.get(*name)?.to_str().ok())
        .map(|id| id.chars().take(256).collect())
}

/// The addresses of an access, for `status.external`: without anything secret.
pub fn endpoint(access: &KongAccess) -> String {
    access.admin_url.as_str().trim_end_matches('/').to_owned()
}
