//! Sends one request to Kong's admin API and classifies the response.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use secrecy::ExposeSecret;

use super::KongAccess;
use crate::admin::error::ErrorDetail;
use crate::admin::limit::AdminResponse;
use crate::admin::response::{NotFoundOrigin, VendorErrorBody, error_from_response, is_valid_id, log_call};
use crate::admin::{AdminError, MAX_RESPONSE};

const TIMEOUT: Duration = Duration::from_secs(15);

/// The variable parts of a request.
#[derive(Default)]
pub struct KongRequest<'a> {
    /// Path segments below the workspace. Empty: the root of the API, without the workspace.
    pub path: &'a [&'a str],
    pub query: Option<&'a str>,
    pub body: Option<Vec<u8>>,
    /// The secrets in the body, besides the token. They are redacted from errors, because a message that quotes the request
    /// would copy them into statuses, events and logs.
    pub secrets: Vec<&'a str>,
}

/// A failed call, with the parts of the error response that decide about the next request.
pub struct KongError {
    pub error: AdminError,
    pub status: Option<u16>,
    /// Kong's own error code.
    pub code: Option<i64>,
    /// True if the error response lists the field `id`.
    pub concerns_id: bool,
}

impl From<AdminError> for KongError {
    fn from(error: AdminError) -> Self {
        KongError { error, status: None, code: None, concerns_id: false }
    }
}

impl KongAccess {
    pub(super) async fn send(
        &self,
        method: Method,
        request: KongRequest<'_>,
    ) -> Result<AdminResponse, KongError> {
        let http_request = self.http_request(&method, &request)?;
        let response = self.http.send(http_request, TIMEOUT, MAX_RESPONSE).await?;
        let mut secrets = request.secrets;
        secrets.extend(self.token.as_ref().map(|(_, token)| token.expose_secret()));
        log_call(&self.endpoint(), &method, request.path, &response, &secrets);
        if response.status.is_success() {
            return Ok(response);
        }
        let body = VendorErrorBody::parse(&response);
        Err(KongError {
            // Do not report `fields` to users: it repeats the values of the request.
            error: error_from_response(
                &response,
                body.text("name"),
                body.text("message"),
                &secrets,
                not_found_origin(&body),
            ),
            status: Some(response.status.as_u16()),
            code: body.number("code"),
            concerns_id: body.object("fields").is_some_and(|fields| fields.contains_key("id")),
        })
    }

    fn http_request(
        &self,
        method: &Method,
        request: &KongRequest<'_>,
    ) -> Result<Request<Full<Bytes>>, AdminError> {
        if let Some(segment) = request.path.iter().find(|segment| !is_valid_id(segment)) {
            return Err(rejected(format!("{segment:?} is not a valid id of an event hook: correct it")));
        }
        let mut url = self.admin_url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty();
            if !request.path.is_empty() {
                segments.extend(self.workspace.iter()).extend(request.path);
            }
        }
        url.set_query(request.query);
        let mut builder =
            Request::builder().method(method).uri(url.as_str()).header("accept", "application/json");
        if let Some((name, token)) = &self.token {
            let mut value = HeaderValue::from_str(token.expose_secret())
                .map_err(|_| rejected("the token contains characters that a header does not allow".into()))?;
            value.set_sensitive(true);
            builder = builder.header(name.as_str(), value);
        }
        if request.body.is_some() {
            builder = builder.header("content-type", "application/json");
        }
        builder
            .body(Full::from(request.body.clone().unwrap_or_default()))
            .map_err(|error| rejected(error.to_string()))
    }
}

/// Returns the sender of a 404. Kong's proxy port also answers with a JSON object
/// (`{"message":"no Route matched with those values"}`).
fn not_found_origin(body: &VendorErrorBody) -> NotFoundOrigin {
    /// Kong's error code of an entity that does not exist.
    const NOT_FOUND: i64 = 6;
    if body.number("code") == Some(NOT_FOUND) && body.text("name").as_deref() == Some("not found") {
        return NotFoundOrigin::Object;
    }
    // Kong answers this for a missing object and for an unknown path alike.
    match body.has_only(&["message"]) && body.text("message").as_deref() == Some("Not found") {
        true => NotFoundOrigin::Api,
        false => NotFoundOrigin::Foreign,
    }
}

fn rejected(message: String) -> AdminError {
    AdminError::Rejected(ErrorDetail { message, ..ErrorDetail::default() })
}
