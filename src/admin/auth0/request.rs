//! Sends one request to the Management API, renews a rejected token once, and classifies the response.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::Auth0Access;
use crate::admin::error::ErrorDetail;
use crate::admin::limit::AdminResponse;
use crate::admin::response::{NotFoundOrigin, VendorErrorBody, error_from_response, is_valid_id, log_call};
use crate::admin::{AdminError, MAX_RESPONSE};

/// The recorded message for a stream that does not exist; such an error has no code.
const MISSING_STREAM: &str = "The requested stream does not exist.";
/// The recorded code for a Hook that does not exist.
const MISSING_HOOK: &str = "HookDoesNotExist";

/// Why a call to the Management API failed.
#[derive(Debug)]
pub enum Auth0Error {
    /// The login failed, so the API never saw the call: this says nothing about the object or about the API.
    Login(AdminError),
    /// The call failed.
    Call {
        error: AdminError,
        /// True if the response has the form of the Management API's errors.
        is_from_api: bool,
    },
}

impl From<AdminError> for Auth0Error {
    fn from(error: AdminError) -> Self {
        Auth0Error::Call { error, is_from_api: false }
    }
}

impl From<Auth0Error> for AdminError {
    fn from(error: Auth0Error) -> Self {
        match error {
            Auth0Error::Login(error) | Auth0Error::Call { error, .. } => error,
        }
    }
}

const TIMEOUT: Duration = Duration::from_secs(15);

/// The variable parts of a request.
#[derive(Default)]
pub struct Auth0Request<'a> {
    /// Path segments below `/api/v2`.
    pub path: &'a [&'a str],
    pub query: Option<&'a str>,
    pub body: Option<Value>,
    /// The secrets in the body, besides the token. They are redacted from errors, because a message that quotes the request
    /// would copy them into statuses, events and logs.
    pub secrets: Vec<&'a str>,
}

impl Auth0Access {
    /// Sends a request. If the token is rejected, renews it and repeats the request once.
    ///
    /// The future is boxed: a reconcile awaits many calls, and their inlined futures would overflow a thread's stack.
    pub(super) fn send<'a>(
        &'a self,
        method: Method,
        request: Auth0Request<'a>,
    ) -> BoxFuture<'a, Result<AdminResponse, Auth0Error>> {
        Box::pin(async move {
            let token = self.login.token(&self.http).await.map_err(Auth0Error::Login)?;
            let unauthorized = match self.send_with_token(&method, &request, &token.text).await {
                Err(error @ Auth0Error::Call { error: AdminError::Unauthorized(_), .. }) => error,
                other => return other,
            };
            match self.login.renew(&self.http, &token).await.map_err(Auth0Error::Login)? {
                Some(token) => self.send_with_token(&method, &request, &token.text).await,
                None => Err(unauthorized),
            }
        })
    }

    async fn send_with_token(
        &self,
        method: &Method,
        request: &Auth0Request<'_>,
        token: &SecretString,
    ) -> Result<AdminResponse, Auth0Error> {
        let http_request = self.http_request(method, request, token)?;
        let response = self.http.send(http_request, TIMEOUT, MAX_RESPONSE).await?;
        let mut secrets = request.secrets.clone();
        secrets.push(token.expose_secret());
        log_call(&self.endpoint(), method, request.path, &response, &secrets);
        if response.status.is_success() {
            return Ok(response);
        }
        Err(api_error(&response, &secrets))
    }

    fn http_request(
        &self,
        method: &Method,
        request: &Auth0Request<'_>,
        token: &SecretString,
    ) -> Result<Request<Full<Bytes>>, AdminError> {
        if let Some(segment) = request.path.iter().find(|segment| !is_valid_id(segment)) {
            return Err(rejected(format!("{segment:?} is not a valid id of an Auth0 object: correct it")));
        }
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["api", "v2"]).extend(request.path);
        }
        url.set_query(request.query);
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
            .map_err(|_| rejected("the token contains characters that a header does not allow".into()))?;
        bearer.set_sensitive(true);
        let mut builder = Request::builder()
            .method(method)
            .uri(url.as_str())
            .header("accept", "application/json")
            .header("authorization", bearer);
        if request.body.is_some() {
            builder = builder.header("content-type", "application/json");
        }
        let body = request.body.as_ref().map(ToString::to_string).unwrap_or_default();
        builder.body(Full::from(body)).map_err(|error| rejected(error.to_string()))
    }
}

fn rejected(message: String) -> AdminError {
    AdminError::Rejected(ErrorDetail { message, ..ErrorDetail::default() })
}

/// Returns the error for a response of the Management API without a success status, with `secrets` redacted.
fn api_error(response: &AdminResponse, secrets: &[&str]) -> Auth0Error {
    let body = VendorErrorBody::parse(response);
    let code = body.text("errorCode").or_else(|| body.text("error"));
    let is_from_api = body.number("statusCode") == Some(i64::from(response.status.as_u16()))
        && body.text("message").is_some();
    let is_missing = body.text("errorCode").as_deref() == Some(MISSING_HOOK)
        || body.text("message").as_deref() == Some(MISSING_STREAM);
    let origin = match (is_from_api, is_missing) {
        (true, true) => NotFoundOrigin::Object,
        (true, false) => NotFoundOrigin::Api,
        (false, _) => NotFoundOrigin::Foreign,
    };
    let message = body.text("message").or_else(|| body.text("error_description"));
    Auth0Error::Call { error: error_from_response(response, code, message, secrets, origin), is_from_api }
}

/// Returns the error for a response of the token endpoint without a success status, with `secrets` redacted. No login
/// error has a variant that could mean that an object is missing.
pub fn login_error(response: &AdminResponse, secrets: &[&str]) -> AdminError {
    let body = VendorErrorBody::parse(response);
    let code = body.text("error").or_else(|| body.text("errorCode"));
    let message = body.text("error_description").or_else(|| body.text("message"));
    match error_from_response(response, code, message, secrets, NotFoundOrigin::Api) {
        AdminError::Rejected(detail)
        | AdminError::Forbidden(detail)
        | AdminError::NotFound(detail)
        | AdminError::Conflict(detail) => AdminError::LoginRejected(detail),
        other => other,
    }
}
