//! What every vendor's answer tells: its JSON, its errors, its clock, the id of the request.
//!
//! Nothing here trusts who answers: a proxy's page, half an answer or another program's is told apart from the vendor's
//! word, for only that decides about an object.

use http::{HeaderMap, Method, StatusCode};
use serde_json::{Map, Value};

use super::error::{AdminError, Detail};
use super::limit::asked_to_wait;
use crate::core::redact::redact;
use crate::core::time::Millis;
use crate::net::Answer;

/// Where vendors, and those who stand before them, put the id of a request.
const REQUEST_IDS: [&str; 5] =
    ["x-auth0-requestid", "x-kong-admin-request-id", "x-kong-request-id", "x-request-id", "cf-ray"];

/// The message of a refusal that says nothing.
pub const NO_REASON: &str = "no reason given";

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

/// The JSON of an answer: an object or a list.
pub fn parse(answer: &Answer) -> Result<Value, AdminError> {
    // What the header says of its type is not looked at: the bytes decide.
    match serde_json::from_slice::<Value>(&answer.body) {
        Ok(value @ (Value::Object(_) | Value::Array(_))) if answer.complete => Ok(value),
        _ if !answer.complete => Err(unexpected(answer, "the answer broke off, or is too long")),
        _ if is_encoded(&answer.headers) => Err(unexpected(
            answer,
            "the answer is compressed, which was not asked for: is a proxy in between?",
        )),
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

fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get("content-encoding").is_some_and(|coding| coding != "identity")
}

/// The id of an object, where it has one that can stand in a path: `.` and `..` are steps to another address.
pub fn id_of(item: &Value) -> Option<&str> {
    item.get("id")?.as_str().filter(|id| is_id(id))
}

/// True for what can be one step of a path.
pub fn is_id(text: &str) -> bool {
    let step = !matches!(text, "" | "." | "..");
    step && text.len() <= 256 && !text.chars().any(|c| c.is_control() || c.is_whitespace())
}

/// What was answered, where it is the object that was asked for. A cache or a wrong address shows another one, and what
/// is done with that would be done to somebody else's.
pub fn that_one(answer: &Answer, id: &str, item: Value) -> Result<Value, AdminError> {
    match id_of(&item) {
        // A UUID may be written in capitals.
        Some(shown) if shown.eq_ignore_ascii_case(id) => Ok(item),
        _ => Err(unexpected(
            answer,
            "the answer shows another object than was asked for: is a cache in between?",
        )),
    }
}

/// The members of an error's body, one by one: one that is of another type than usual must not hide the others.
pub struct Said(Map<String, Value>);

impl Said {
    pub fn of(answer: &Answer) -> Self {
        match serde_json::from_slice(&answer.body) {
            Ok(Value::Object(members)) => Said(members),
            _ => Said(Map::new()),
        }
    }

    pub fn text(&self, name: &str) -> Option<String> {
        self.0.get(name)?.as_str().map(ToOwned::to_owned)
    }

    pub fn number(&self, name: &str) -> Option<i64> {
        self.0.get(name)?.as_i64()
    }

    pub fn object(&self, name: &str) -> Option<&Map<String, Value>> {
        self.0.get(name)?.as_object()
    }
}

/// An answer that is no success. `code` and `message` are what the vendor says; `secrets` what must not be repeated.
pub fn refused(
    answer: &Answer,
    code: Option<String>,
    message: Option<String>,
    secrets: &[&str],
) -> AdminError {
    let status = answer.status;
    if status.is_redirection() {
        // Where to is not told: it may carry a ticket of somebody's.
        let message =
            format!("it redirects ({}), and no redirect is followed: correct the address", status.as_u16());
        return unexpected(answer, &message);
    }
    if status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        return unexpected(answer, "a proxy in between asks for credentials (407)");
    }
    // What a proxy refuses is no verdict on the object, and its 404 does not say that the object is gone.
    let verdict = !matches!(status.as_u16(), 401 | 408 | 425 | 429);
    if status.is_client_error() && verdict && is_foreign(answer) {
        let message =
            format!("{} with a page that is none of the API's: is a proxy in between?", status.as_u16());
        return unexpected(answer, &message);
    }
    let message = message.unwrap_or_else(|| NO_REASON.into());
    let detail = Detail { status: None, code, message, request_id: request_id(&answer.headers) };
    AdminError::from_status(
        status,
        detail.masked(secrets),
        asked_to_wait(status, &answer.headers).map(|a| a.time()),
    )
}

/// A body that is not the API's. An empty one may be.
fn is_foreign(answer: &Answer) -> bool {
    let empty = answer.body.trim_ascii().is_empty();
    !empty && !matches!(serde_json::from_slice(&answer.body), Ok(Value::Object(_)))
}

/// The vendor's clock.
pub fn date(answer: &Answer) -> Option<Millis> {
    let text = answer.headers.get("date")?.to_str().ok()?;
    let since = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok().map(Millis)
}

/// The id by which the vendor knows the request, 256 characters at most.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let id = REQUEST_IDS.iter().find_map(|name| headers.get(*name)?.to_str().ok());
    id.map(|id| id.chars().take(256).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_can_be_an_id() {
        for good in ["est_1", "11111111-2222-4333-8444-555555555555", "01GQN0P01XY4VE0PCK7H20QZ4M", "..."] {
            assert_eq!(id_of(&json!({ "id": good })), Some(good));
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
            assert_eq!(id_of(&json!({ "id": bad })), None, "{bad}");
        }
        assert_eq!(id_of(&json!({ "id": long })), None);
        assert_eq!(id_of(&json!([])), None);
    }
}
