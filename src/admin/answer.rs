//! What every vendor's answer tells besides its body.

use http::{HeaderMap, Method};

use super::error::{AdminError, Detail};
use crate::core::redact::redact;
use crate::core::time::Millis;
use crate::net::Answer;

/// Where vendors, and those who stand before them, put the id of a request.
const REQUEST_IDS: [&str; 5] =
    ["x-auth0-requestid", "x-kong-admin-request-id", "x-kong-request-id", "x-request-id", "cf-ray"];

/// Tells the log of a call. By the vendor's id of the request its support finds it. `secrets`: what was sent in secret,
/// which a vendor might repeat in its id.
pub fn log(endpoint: &str, method: &Method, path: &[&str], answer: &Answer, secrets: &[&str]) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let request_id = request_id(&answer.headers).map(|id| redact(&id, secrets.iter().copied()));
    let (path, status) = (path.join("/"), answer.status.as_u16());
    tracing::debug!(endpoint, %method, path, status, vendor_request_id = request_id, "admin API called");
}

/// An answer that is none of such an API.
pub fn unexpected(answer: &Answer, message: &str) -> AdminError {
    AdminError::UnexpectedAnswer(Detail {
        status: Some(answer.status.as_u16()),
        code: None,
        message: message.to_owned(),
        request_id: request_id(&answer.headers),
    })
}

/// The vendor's clock.
pub fn date(answer: &Answer) -> Option<Millis> {
    let text = answer.headers.get("date")?.to_str().ok()?;
    let since = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok().map(Millis)
}

/// The id by which the vendor knows the request, 256 characters at most.
pub fn request_id(headers: &HeaderMap) -> Option<String> {
    let id = REQUEST_IDS.iter().find_map(|name| headers.get(*name)?.to_str().ok());
    id.map(|id| id.chars().take(256).collect())
}
