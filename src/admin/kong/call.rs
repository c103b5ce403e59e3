//! One call of Kong's admin API: the request, the answer sorted.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use secrecy::ExposeSecret;

use super::KongAccess;
use crate::admin::AdminError;
use crate::admin::answer::{Said, is_id, log, refused};
use crate::admin::error::Detail;
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
        let said = Said::of(&answer);
        Err(Refusal {
            // `fields` is not repeated to users: it mirrors what was sent.
            error: refused(&answer, said.text("name"), said.text("message"), &secrets),
            status: Some(answer.status.as_u16()),
            code: said.number("code"),
            names_id: said.object("fields").is_some_and(|fields| fields.contains_key("id")),
        })
    }

    fn request(&self, method: &Method, call: &Call<'_>) -> Result<Request<Full<Bytes>>, AdminError> {
        if let Some(step) = call.path.iter().find(|step| !is_id(step)) {
            return Err(rejected(format!("{step:?} cannot be the id of an event hook: correct it")));
        }
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
