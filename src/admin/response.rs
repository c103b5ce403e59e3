//! Parses the responses of all vendors: JSON, errors, the vendor's clock and the request id.
//!
//! Distinguishes responses of the vendor from pages of a proxy, truncated responses and other programs: only the vendor's
//! own response may decide about an object.

use http::{HeaderMap, Method, StatusCode};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::error::{AdminError, ErrorDetail};
use super::limit::{AdminResponse, requested_pause};
use super::parsed_size::parsed_size;
use crate::core::conditions::cut;
use crate::core::redact::redact;
use crate::core::time::Millis;

/// Headers in which vendors, and proxies in front of them, return the id of a request.
const REQUEST_IDS: [&str; 5] =
    ["x-auth0-requestid", "x-kong-admin-request-id", "x-kong-request-id", "x-request-id", "cf-ray"];

/// The largest object in bytes, as text and parsed. The largest that an EventHook describes has lambdas of 64 KiB; a text
/// needs as much memory as its length.
pub const MAX_PARSED: usize = 4 * 1024 * 1024;
/// The largest parsed form of an error response.
const MAX_PARSED_ERROR: usize = 512 * 1024;

/// The message of an error response without one.
pub const NO_REASON: &str = "no reason given";

/// Logs a call at debug level, with the request id for the vendor's support. Redacts `secrets`, which the vendor may echo
/// in the id.
pub fn log_call(endpoint: &str, method: &Method, path: &[&str], response: &AdminResponse, secrets: &[&str]) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let request_id = request_id(&response.headers).map(|id| redact(&id, secrets.iter().copied()));
    let (path, status) = (path.join("/"), response.status.as_u16());
    tracing::debug!(endpoint, %method, path, status, vendor_request_id = request_id, "admin API called");
}

/// Returns the error for a response that does not come from the admin API or breaks its format.
pub fn unexpected_response(response: &AdminResponse, message: &str) -> AdminError {
    AdminError::UnexpectedAnswer(ErrorDetail {
        status: Some(response.status.as_u16()),
        code: None,
        message: message.to_owned(),
        request_id: request_id(&response.headers),
        proves_absence: false,
    })
}

/// Returns the error for a response that is larger than its bound, or than the memory that is left.
pub fn oversized_response(response: &AdminResponse, message: &str) -> AdminError {
    AdminError::ResponseTooLarge(ErrorDetail {
        status: Some(response.status.as_u16()),
        code: None,
        message: message.to_owned(),
        request_id: request_id(&response.headers),
        proves_absence: false,
    })
}

/// Fails if a part of the body is missing.
pub fn check_complete(response: &AdminResponse) -> Result<(), AdminError> {
    if response.is_complete {
        return Ok(());
    }
    if response.is_too_long {
        let message = format!("it does not end after {} bytes", response.body.len());
        return Err(oversized_response(response, &message));
    }
    Err(unexpected_response(response, "the response was cut off"))
}

/// Returns the error for a body that is no JSON.
pub fn invalid_json(response: &AdminResponse) -> AdminError {
    if is_encoded(&response.headers) {
        let message = "the response is compressed, which was not requested: is a proxy in between?";
        return unexpected_response(response, message);
    }
    unexpected_response(response, "the response is not a JSON object: is a proxy in between?")
}

/// Parses the body as a JSON object or list. Ignores the content type, which proxies get wrong. Reserves the memory of the
/// parsed form before it parses.
pub fn parse_json(response: &AdminResponse) -> Result<Value, AdminError> {
    check_complete(response)?;
    let size = parsed_size(&response.body).map_err(|_| invalid_json(response))?;
    if size.max(response.body.len()) > MAX_PARSED {
        let message = format!("it needs {size} bytes of memory, and {MAX_PARSED} are the most");
        return Err(oversized_response(response, &message));
    }
    response.hold(size)?;
    match serde_json::from_slice::<Value>(&response.body) {
        Ok(value @ (Value::Object(_) | Value::Array(_))) => Ok(value),
        _ => Err(invalid_json(response)),
    }
}

/// Parses the body as a JSON object.
pub fn parse_object(response: &AdminResponse) -> Result<Value, AdminError> {
    match parse_json(response)? {
        value @ Value::Object(_) => Ok(value),
        _ => Err(unexpected_response(response, "the response is a list instead of an object")),
    }
}

fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get("content-encoding").is_some_and(|coding| coding != "identity")
}

/// Returns the id of an object if it is usable as a path segment.
pub fn object_id(item: &Value) -> Option<&str> {
    item.get("id")?.as_str().filter(|id| is_valid_id(id))
}

/// Returns true for text that is safe as one path segment. `.` and `..` would address another resource.
pub fn is_valid_id(text: &str) -> bool {
    let is_segment = !matches!(text, "" | "." | "..");
    is_segment && text.len() <= 256 && !text.chars().any(|c| c.is_control() || c.is_whitespace())
}

/// Returns the object if it is the requested one. A cache or a wrong address may return another object, and the operator
/// would then change an object that it does not own.
pub fn expect_id(response: &AdminResponse, id: &str, item: Value) -> Result<Value, AdminError> {
    match object_id(&item) {
        // Vendors may return a UUID in another letter case.
        Some(found) if found.eq_ignore_ascii_case(id) => Ok(item),
        _ => Err(unexpected_response(
            response,
            "the response contains another object than the requested one: is a cache in between?",
        )),
    }
}

/// The members of an error response. Each is read on its own: a member of an unexpected type must not hide the others.
pub struct VendorErrorBody(Map<String, Value>);

impl VendorErrorBody {
    /// Parses the body; empty if it is not a JSON object, or too large for an error.
    pub fn parse(response: &AdminResponse) -> Self {
        let is_small = parsed_size(&response.body).is_ok_and(|size| size <= MAX_PARSED_ERROR);
        match is_small.then(|| serde_json::from_slice(&response.body)) {
            Some(Ok(Value::Object(members))) => VendorErrorBody(members),
            _ => VendorErrorBody(Map::new()),
        }
    }

    pub fn text(&self, name: &str) -> Option<String> {
        self.0.get(name)?.as_str().map(ToOwned::to_owned)
    }

    pub fn number(&self, name: &str) -> Option<i64> {
        self.0.get(name)?.as_i64()
    }

    /// Returns true if the body has exactly these members.
    pub fn has_only(&self, names: &[&str]) -> bool {
        self.0.len() == names.len() && names.iter().all(|name| self.0.contains_key(*name))
    }

    pub fn object(&self, name: &str) -> Option<&Map<String, Value>> {
        self.0.get(name)?.as_object()
    }
}

/// The sender of a 404, as far as its body shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotFoundOrigin {
    /// The vendor reports that the object does not exist, in the recorded form of such a report.
    Object,
    /// The vendor's API, which may also lack the path.
    Api,
    /// Another program: a proxy, or another port of the vendor.
    Foreign,
}

/// Returns the error for a response without a success status. `code` and `message` come from its body. `secrets` are
/// redacted from the error. `origin` applies to 404.
pub fn error_from_response(
    response: &AdminResponse,
    code: Option<String>,
    message: Option<String>,
    secrets: &[&str],
    origin: NotFoundOrigin,
) -> AdminError {
    let status = response.status;
    if status.is_redirection() {
        // Omit the target: it may contain a login ticket.
        let message = format!(
            "it redirects ({}), and redirects are not followed: correct the address",
            status.as_u16()
        );
        return unexpected_response(response, &message);
    }
    if status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        return unexpected_response(response, "a proxy in between requires credentials (407)");
    }
    // A rejection by a proxy says nothing about the object; its 404 does not mean that the object is gone.
    let concerns_object = !matches!(status.as_u16(), 401 | 408 | 425 | 429);
    if status.is_client_error() && concerns_object && is_foreign(response) {
        let message =
            format!("{} with a body that is not from the API: is a proxy in between?", status.as_u16());
        return unexpected_response(response, &message);
    }
    let message = message.unwrap_or_else(|| NO_REASON.into());
    let is_not_found = status == StatusCode::NOT_FOUND;
    if is_not_found && origin == NotFoundOrigin::Foreign {
        let message = redact(&message, secrets.iter().copied());
        let message = format!(
            "404 in another form than the admin API's ({}): does the address lead to the admin API?",
            cut(&message, 200)
        );
        return unexpected_response(response, &message);
    }
    let detail = ErrorDetail {
        status: None,
        code,
        message,
        request_id: request_id(&response.headers),
        proves_absence: is_not_found && origin == NotFoundOrigin::Object,
    };
    AdminError::from_status(
        status,
        detail.redacted(secrets),
        requested_pause(status, &response.headers).map(|pause| pause.duration()),
    )
}

/// Returns true for a body that cannot come from the API: neither empty nor a JSON object.
fn is_foreign(response: &AdminResponse) -> bool {
    let body = response.body.trim_ascii();
    let is_object = || body.starts_with(b"{") && serde_json::from_slice::<IgnoredAny>(body).is_ok();
    !body.is_empty() && !is_object()
}

/// Returns the `Date` header, the vendor's clock.
pub fn vendor_date(response: &AdminResponse) -> Option<Millis> {
    let text = response.headers.get("date")?.to_str().ok()?;
    let since_epoch = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since_epoch.as_millis()).ok().map(Millis)
}

/// Returns the vendor's id of the request, at most 256 characters.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let id = REQUEST_IDS.iter().find_map(|name| headers.get(*name)?.to_str().ok());
    id.map(|id| id.chars().take(256).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn accepts_ids_that_are_path_segments() {
        for good in ["est_1", "11111111-2222-4333-8444-555555555555", "01GQN0P01XY4VE0PCK7H20QZ4M", "..."] {
            assert_eq!(object_id(&json!({ "id": good })), Some(good));
        }
        let long = "x".repeat(257);
        for bad in [
            json!(7),
            json!(null),
            json!(["a"]),
            json!(""),
            json!("."),
            json!(".."),
            json!("a b"),
            json!("a\n"),
        ] {
            assert_eq!(object_id(&json!({ "id": bad })), None, "{bad}");
        }
        assert_eq!(object_id(&json!({ "id": long })), None);
        assert_eq!(object_id(&json!([])), None);
    }
}
