//! One call of Kong's admin API: the request, the answer sorted.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::KongAccess;
use crate::admin::AdminError;
use crate::admin::answer::{log, request_id, unexpected};
use crate::admin::error::Detail;
use crate::admin::limit::asked_to_wait;
use crate::net::Answer;

const TIMEOUT: Duration = Duration::from_secs(15);
/// A page of a thousand hooks with long configs stays under this.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// What is sent.
#[derive(Default)]
pub struct Call<'a> {
    pub path: &'a [&'a str],
    pub query: Option<&'a str>,
    pub body: Option<Vec<u8>>,
    /// The secrets that it carries, besides the token. A message that quotes what it refuses would carry them into
    /// status, events and logs.
    pub secrets: Vec<&'a str>,
}

/// An answer that is no success.
pub struct Refusal {
    pub error: AdminError,
    pub status: Option<u16>,
    /// Kong's own number of the mistake.
    pub code: Option<i64>,
    /// It names the field `id`.
    pub names_id: bool,
}

impl From<AdminError> for Refusal {
    fn from(error: AdminError) -> Self {
        Refusal { error, status: None, code: None, names_id: false }
    }
}

/// The members of Kong's error bodies that are looked at. `fields` is not repeated to users: it mirrors what was sent.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorBody {
    name: Option<String>,
    message: Option<String>,
    code: Option<i64>,
    fields: Map<String, Value>,
}

impl KongAccess {
    pub(super) async fn call(&self, method: Method, call: Call<'_>) -> Result<Answer, Refusal> {
        let request = self.request(&method, &call)?;
        let answer = self.http.send(request, TIMEOUT, MAX_ANSWER).await?;
        let mut secrets = call.secrets;
        secrets.extend(self.token.as_ref().map(|(_, token)| token.expose_secret()));
        log(&self.endpoint(), &method, call.path, &answer, &secrets);
        if answer.status.is_success() {
            return Ok(answer);
        }
        let text: ErrorBody = serde_json::from_slice(&answer.body).unwrap_or_default();
        let message = text.message.unwrap_or_else(|| "no reason given".into());
        let detail =
            Detail { status: None, code: text.name, message, request_id: request_id(&answer.headers) };
        let wait = asked_to_wait(answer.status, &answer.headers);
        Err(Refusal {
            error: AdminError::from_status(answer.status, detail.masked(&secrets), wait),
            status: Some(answer.status.as_u16()),
            code: text.code,
            names_id: text.fields.contains_key("id"),
        })
    }

    fn request(&self, method: &Method, call: &Call<'_>) -> Result<Request<Full<Bytes>>, AdminError> {
        let mut url = self.admin_url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty();
            if !call.path.is_empty() {
                segments.extend(self.workspace.iter()).extend(call.path);
            }
        }
        url.set_query(call.query);
        let mut request =
            Request::builder().method(method).uri(url.as_str()).header("accept", "application/json");
        if let Some((name, token)) = &self.token {
            let mut value = HeaderValue::from_str(token.expose_secret())
                .map_err(|_| rejected("the token is no header value".into()))?;
            value.set_sensitive(true);
            request = request.header(name.as_str(), value);
        }
        if call.body.is_some() {
            request = request.header("content-type", "application/json");
        }
        request.body(Full::from(call.body.clone().unwrap_or_default())).map_err(|e| rejected(e.to_string()))
    }
}

fn rejected(message: String) -> AdminError {
    AdminError::Rejected(Detail { message, ..Detail::default() })
}

pub fn parse(answer: &Answer) -> Result<Value, AdminError> {
    // Lists and hooks are objects; a proxy's page, half an answer or a bare text is none.
    match serde_json::from_slice::<Value>(&answer.body) {
        Ok(value @ Value::Object(_)) if answer.complete => Ok(value),
        Ok(Value::Object(_)) => Err(unexpected(answer, "the answer broke off")),
        _ => Err(unexpected(answer, "the answer is no JSON object: is a proxy in between?")),
    }
}
