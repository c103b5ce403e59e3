//! Classifies failures of admin API calls.

use std::time::Duration;

use http::StatusCode;

use crate::api::LastError;
use crate::core::conditions::cut;
use crate::core::redact::redact;
use crate::core::time::Millis;
use crate::leadership::NotLeading;
use crate::net::SendError;

/// Maximum bytes of a vendor's message and of its error code: the CRD status limits their length.
const MAX_TEXT: usize = 512;
const MAX_CODE: usize = 128;

/// How to react to an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminErrorClass {
    /// The same call would fail again: wait for a change of the spec.
    Terminal,
    /// Retry after this time, not earlier.
    RateLimited(Duration),
    /// Retry with exponential backoff.
    Retryable,
}

/// Why a call failed. The name of the variant is a stable reason in conditions.
#[derive(Clone, Debug, thiserror::Error, strum::IntoStaticStr)]
pub enum AdminError {
    /// The admin API rejected the request and would reject it again.
    #[error("the admin API rejected the request: {}", .0.message)]
    Rejected(ErrorDetail),
    #[error("the admin API rejected the credentials (401): check the Connection's Secret: {}", .0.message)]
    Unauthorized(ErrorDetail),
    #[error("the admin API denied access (403): grant the token the required permissions: {}", .0.message)]
    Forbidden(ErrorDetail),
    /// The login for an access token was rejected. Says nothing about the object that the call concerned.
    #[error("the login at Auth0 was rejected ({}): check the application's client id, its audience and its grant: {}", .0.status.unwrap_or_default(), .0.message)]
    LoginRejected(ErrorDetail),
    #[error("the admin API does not have this path (404): check the Connection's address and workspace, and that Kong is Enterprise: {}", .0.message)]
    NotFound(ErrorDetail),
    #[error("the admin API reports a conflict (409): {}", .0.message)]
    Conflict(ErrorDetail),
    #[error("the admin API limits the request rate (429)")]
    RateLimited(ErrorDetail, Duration),
    #[error("the admin API failed ({}): {}", .0.status.unwrap_or_default(), .0.message)]
    ServerError(ErrorDetail),
    #[error("the response is not one of the admin API: {}", .0.message)]
    UnexpectedAnswer(ErrorDetail),
    /// A list or an object is larger than its bound, or than the memory that is left for it.
    #[error("the response of the admin API is too large: {}", .0.message)]
    ResponseTooLarge(ErrorDetail),
    /// The vendor no longer serves this API.
    #[error("Auth0 no longer serves Hooks (end of life: 18 November 2026): move the script to an Action: {}", .0.message)]
    EndOfLife(ErrorDetail),
    #[error(
        "another hook is enabled at this trigger, and Auth0 allows only one: disable {0}, or set enabled: false"
    )]
    TriggerTaken(String),
    #[error("the admin API cannot be reached: {0}")]
    Unreachable(String),
    #[error("the egress policy denies access to the admin API: {0}")]
    EgressDenied(String),
    /// Nothing was sent: the call has no scheduling slot within the rate limit before this time.
    #[error("postponed: the rate limit of the admin API is used up by other objects")]
    Postponed(Duration),
    /// Nothing was sent, because this replica does not lead.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
    /// The vendor lacks this operation; nothing was changed. The reconciler chooses another operation.
    #[error("the admin API does not support {0}")]
    Unsupported(&'static str),
}

/// The vendor's error response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorDetail {
    pub status: Option<u16>,
    pub code: Option<String>,
    pub message: String,
    pub request_id: Option<String>,
    /// True if the vendor reports, in the recorded form of such a report, that the object does not exist. False for every
    /// other 404: of a proxy, of another program, or for a path that the API does not have.
    pub proves_absence: bool,
}

impl ErrorDetail {
    /// Redacts these secrets, which the vendor may have echoed. Call it before truncating: a truncated secret would not be
    /// recognized.
    pub fn redacted(self, secrets: &[&str]) -> Self {
        let hide = |text: String| redact(&text, secrets.iter().copied());
        ErrorDetail {
            status: self.status,
            code: self.code.map(hide),
            message: hide(self.message),
            request_id: self.request_id.map(hide),
            proves_absence: self.proves_absence,
        }
    }
}

impl AdminError {
    /// Returns how to react to the error.
    pub fn class(&self) -> AdminErrorClass {
        match self {
            AdminError::Rejected(_) | AdminError::EndOfLife(_) | AdminError::EgressDenied(_) => {
                AdminErrorClass::Terminal
            }
            AdminError::RateLimited(_, after) | AdminError::Postponed(after) => {
                AdminErrorClass::RateLimited(*after)
            }
            AdminError::Unauthorized(_)
            | AdminError::Forbidden(_)
            | AdminError::LoginRejected(_)
            | AdminError::NotFound(_)
            | AdminError::Conflict(_)
            | AdminError::ServerError(_)
            | AdminError::UnexpectedAnswer(_)
            | AdminError::ResponseTooLarge(_)
            | AdminError::TriggerTaken(_)
            | AdminError::Unreachable(_)
            | AdminError::Unsupported(_)
            | AdminError::NotLeading(_) => AdminErrorClass::Retryable,
        }
    }

    fn detail(&self) -> Option<&ErrorDetail> {
        match self {
            AdminError::Rejected(d)
            | AdminError::Unauthorized(d)
            | AdminError::Forbidden(d)
            | AdminError::LoginRejected(d)
            | AdminError::NotFound(d)
            | AdminError::Conflict(d)
            | AdminError::RateLimited(d, _)
            | AdminError::ServerError(d)
            | AdminError::EndOfLife(d)
            | AdminError::UnexpectedAnswer(d)
            | AdminError::ResponseTooLarge(d) => Some(d),
            AdminError::TriggerTaken(_)
            | AdminError::Unreachable(_)
            | AdminError::EgressDenied(_)
            | AdminError::Unsupported(_)
            | AdminError::Postponed(_)
            | AdminError::NotLeading(_) => None,
        }
    }

    /// Returns true if the vendor reports that the object does not exist.
    pub fn is_gone(&self) -> bool {
        matches!(self, AdminError::NotFound(detail) if detail.proves_absence)
    }

    /// Returns true for a 404 that does not prove that the object is missing.
    pub fn is_ambiguous_absence(&self) -> bool {
        match self {
            AdminError::NotFound(detail) => !detail.proves_absence,
            AdminError::UnexpectedAnswer(detail) => detail.status == Some(404),
            _ => false,
        }
    }

    /// Returns true if the call was not sent, because of our own rate limiter or because this replica does not lead. Such an
    /// error says nothing about the object or the vendor and should not be reported.
    pub fn is_deferred(&self) -> bool {
        matches!(self, AdminError::Postponed(_) | AdminError::NotLeading(_))
    }

    /// The vendor's id of the request.
    pub fn request_id(&self) -> Option<&str> {
        self.detail()?.request_id.as_deref()
    }

    /// Returns the error in the form of an object's status.
    pub fn last_error(&self, now: Millis) -> LastError {
        let detail = self.detail().cloned().unwrap_or_default();
        LastError {
            http_status: detail.status.map(i32::from),
            code: detail.code,
            message: cut(&self.to_string(), 1024).to_owned(),
            request_id: detail.request_id,
            time: Some(now.rfc3339()),
        }
    }

    /// Classifies an error status. `retry_after` applies to 429; its default is 5 s.
    pub fn from_status(status: StatusCode, mut detail: ErrorDetail, retry_after: Option<Duration>) -> Self {
        detail.status = Some(status.as_u16());
        detail.message = cut(&detail.message, MAX_TEXT).to_owned();
        detail.code = detail.code.map(|code| cut(&code, MAX_CODE).to_owned());
        match status.as_u16() {
            // Request timeout and too early: a temporary failure, not a rejection of the request.
            408 | 425 => AdminError::ServerError(detail),
            401 => AdminError::Unauthorized(detail),
            403 => AdminError::Forbidden(detail),
            404 => AdminError::NotFound(detail),
            409 => AdminError::Conflict(detail),
            429 => AdminError::RateLimited(detail, retry_after.unwrap_or(Duration::from_secs(5))),
            400..=499 => AdminError::Rejected(detail),
            500..=599 => AdminError::ServerError(detail),
            _ => AdminError::UnexpectedAnswer(detail),
        }
    }
}

impl From<SendError> for AdminError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::EgressDenied(why) => AdminError::EgressDenied(why),
            other => AdminError::Unreachable(other.to_string()),
        }
    }
}
