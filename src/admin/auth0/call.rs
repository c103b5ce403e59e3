//! One call of the Management API: the request, a token that is renewed once, the answer sorted.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::Auth0Access;
use crate::admin::AdminError;
use crate::admin::answer::{Said, is_id, log, refused};
use crate::admin::error::Detail;
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
        Err(refusal(&answer, &secrets))
    }

    fn request(
        &self,
        method: &Method,
        call: &Call<'_>,
        token: &SecretString,
    ) -> Result<Request<Full<Bytes>>, AdminError> {
        if let Some(step) = call.path.iter().find(|step| !is_id(step)) {
            return Err(rejected(format!("{step:?} cannot be the id of an object at Auth0: correct it")));
        }
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

/// An answer that is no success, without what was sent in secret. The Management API's errors and the token endpoint's
/// have other members.
pub fn refusal(answer: &Answer, secrets: &[&str]) -> AdminError {
    let said = Said::of(answer);
    let message = said.text("message").or_else(|| said.text("error_description"));
    refused(answer, said.text("errorCode").or_else(|| said.text("error")), message, secrets)
}
