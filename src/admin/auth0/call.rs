//! One call of the Management API: the request, a token that is renewed once, the answer sorted.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

use super::Auth0Access;
use crate::admin::AdminError;
use crate::admin::answer::{log, request_id, unexpected};
use crate::admin::error::Detail;
use crate::admin::limit::asked_to_wait;
use crate::net::Answer;

const TIMEOUT: Duration = Duration::from_secs(15);
/// A page of a hundred hooks with long scripts stays under this.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// What is sent.
#[derive(Default)]
pub struct Call<'a> {
    /// Below `/api/v2`.
    pub path: &'a [&'a str],
    pub query: Option<&'a str>,
    pub body: Option<Value>,
    /// The secrets that it carries, besides the token. A message that quotes what it refuses would carry them into
    /// status, events and logs.
    pub secrets: Vec<&'a str>,
}

/// The members of error bodies that are repeated to users: the Management API's, and the token endpoint's.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorBody {
    message: Option<String>,
    #[serde(rename = "errorCode")]
    error_code: Option<String>,
    error: Option<String>,
    error_description: Option<String>,
}

impl Auth0Access {
    /// Boxed: a reconcile makes many calls, and each would be a part of its future, which outgrows a thread's stack.
    pub(super) fn call<'a>(
        &'a self,
        method: Method,
        call: Call<'a>,
    ) -> BoxFuture<'a, Result<Answer, AdminError>> {
        Box::pin(async move {
            let token = self.login.token(&self.http).await?;
            let refused = match self.once(&method, &call, &token.text).await {
                Err(refused @ AdminError::Unauthorized(_)) => refused,
                other => return other,
            };
            match self.login.renewed(&self.http, &token).await? {
                Some(token) => self.once(&method, &call, &token.text).await,
                None => Err(refused),
            }
        })
    }

    async fn once(
        &self,
        method: &Method,
        call: &Call<'_>,
        token: &SecretString,
    ) -> Result<Answer, AdminError> {
        let request = self.request(method, call, token)?;
        let answer = self.http.send(request, TIMEOUT, MAX_ANSWER).await?;
        let mut secrets = call.secrets.clone();
        secrets.push(token.expose_secret());
        log(&self.endpoint(), method, call.path, &answer, &secrets);
        if answer.status.is_success() {
            return Ok(answer);
        }
        Err(detail(&answer, &secrets))
    }

    fn request(
        &self,
        method: &Method,
        call: &Call<'_>,
        token: &SecretString,
    ) -> Result<Request<Full<Bytes>>, AdminError> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["api", "v2"]).extend(call.path);
        }
        url.set_query(call.query);
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
            .map_err(|_| rejected("the token is no header value".into()))?;
        bearer.set_sensitive(true);
        let mut request = Request::builder()
            .method(method)
            .uri(url.as_str())
            .header("accept", "application/json")
            .header("authorization", bearer);
        if call.body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = call.body.as_ref().map(ToString::to_string).unwrap_or_default();
        request.body(Full::from(body)).map_err(|e| rejected(e.to_string()))
    }
}

fn rejected(message: String) -> AdminError {
    AdminError::Rejected(Detail { message, ..Detail::default() })
}

/// An answer that is no success, without what was sent in secret.
pub fn detail(answer: &Answer, secrets: &[&str]) -> AdminError {
    let text: ErrorBody = serde_json::from_slice(&answer.body).unwrap_or_default();
    let message = text.message.or(text.error_description).unwrap_or_else(|| "no reason given".into());
    let detail = Detail {
        status: None,
        code: text.error_code.or(text.error),
        message,
        request_id: request_id(&answer.headers),
    };
    let wait = asked_to_wait(answer.status, &answer.headers);
    AdminError::from_status(answer.status, detail.masked(secrets), wait)
}

/// The JSON of an answer.
pub fn parse(answer: &Answer) -> Result<Value, AdminError> {
    // Lists and objects; a proxy's page, half an answer or a bare text is neither.
    match serde_json::from_slice::<Value>(&answer.body) {
        Ok(value @ (Value::Object(_) | Value::Array(_))) if answer.complete => Ok(value),
        _ if !answer.complete => Err(unexpected(answer, "the answer broke off, or is too long")),
        _ => Err(unexpected(answer, "the answer is no JSON object: is a proxy in between?")),
    }
}

/// The JSON object of an answer.
pub fn parse_object(answer: &Answer) -> Result<Value, AdminError> {
    match parse(answer)? {
        value @ Value::Object(_) => Ok(value),
        _ => Err(unexpected(answer, "the answer is a list and not one object")),
    }
}
