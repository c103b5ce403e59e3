//! What an admin API answered, sorted.

use std::time::Duration;

use http::StatusCode;

use crate::api::LastError;
use crate::core::conditions::cut;
use crate::core::redact::redact;
use crate::core::time::Millis;
use crate::leadership::NotLeading;
use crate::net::SendError;

/// The longest text of a vendor that is repeated, and the longest code: a status takes no longer ones.
const MAX_TEXT: usize = 512;
const MAX_CODE: usize = 128;

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The same call will fail the same way: wait for a change.
    Terminal,
    /// Not before this time has passed.
    RateLimited(Duration),
    /// Try again, later and later.
    Retryable,
}

/// Why a call failed. The variant's name is the stable reason.
#[derive(Clone, Debug, thiserror::Error, strum::IntoStaticStr)]
pub enum AdminError {
    /// The admin API refuses what was asked: it will do so again.
    #[error("the admin API refused it: {}", .0.message)]
    Rejected(Detail),
    #[error("the admin API does not know the credentials (401): check the Connection's Secret: {}", .0.message)]
    Unauthorized(Detail),
    #[error("the admin API forbids it (403): give the token the rights it needs: {}", .0.message)]
    Forbidden(Detail),
    #[error("the admin API has no such address (404): check the Connection's address and workspace, and that a Kong is Enterprise: {}", .0.message)]
    NotFound(Detail),
    #[error("the admin API reports a conflict (409): {}", .0.message)]
    Conflict(Detail),
    #[error("the admin API asks to slow down (429)")]
    RateLimited(Detail, Duration),
    #[error("the admin API failed ({}): {}", .0.status.unwrap_or_default(), .0.message)]
    ServerError(Detail),
    #[error("the admin API answered what is not its language: {}", .0.message)]
    UnexpectedAnswer(Detail),
    /// The vendor no longer serves this API.
    #[error("Auth0 serves Hooks no more (their end of life was 18 November 2026): move the script to an Action: {}", .0.message)]
    EndOfLife(Detail),
    #[error(
        "another hook is enabled at this trigger, and Auth0 enables one: disable {0}, or say enabled: false"
    )]
    TriggerTaken(String),
    #[error("the admin API cannot be reached: {0}")]
    Unreachable(String),
    #[error("the admin API may not be reached: {0}")]
    EgressDenied(String),
    /// Nothing was sent: others are before, within the rate limit.
    #[error("others are before it within the rate limit of the admin API")]
    Postponed(Duration),
    /// Nothing was sent.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
    /// It cannot be done this way there; nothing was changed. The reconciler takes another way.
    #[error("the admin API does not support {0}")]
    Unsupported(&'static str),
}

/// What the vendor said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detail {
    pub status: Option<u16>,
    pub code: Option<String>,
    pub message: String,
    pub request_id: Option<String>,
}

impl Detail {
    /// The detail without these texts, should the vendor have repeated them. Before anything is cut: half a secret would
    /// not be found any more.
    pub fn masked(self, secrets: &[&str]) -> Self {
        let mask = |text: String| redact(&text, secrets.iter().copied());
        Detail {
            status: self.status,
            code: self.code.map(mask),
            message: mask(self.message),
            request_id: self.request_id.map(mask),
        }
    }
}

impl AdminError {
    pub fn class(&self) -> Class {
        match self {
            AdminError::Rejected(_) | AdminError::EndOfLife(_) | AdminError::EgressDenied(_) => {
                Class::Terminal
            }
            AdminError::RateLimited(_, after) | AdminError::Postponed(after) => Class::RateLimited(*after),
            AdminError::Unauthorized(_)
            | AdminError::Forbidden(_)
            | AdminError::NotFound(_)
            | AdminError::Conflict(_)
            | AdminError::ServerError(_)
            | AdminError::UnexpectedAnswer(_)
            | AdminError::TriggerTaken(_)
            | AdminError::Unreachable(_)
            | AdminError::Unsupported(_)
            | AdminError::NotLeading(_) => Class::Retryable,
        }
    }

    fn detail(&self) -> Option<&Detail> {
        match self {
            AdminError::Rejected(d)
            | AdminError::Unauthorized(d)
            | AdminError::Forbidden(d)
            | AdminError::NotFound(d)
            | AdminError::Conflict(d)
            | AdminError::RateLimited(d, _)
            | AdminError::ServerError(d)
            | AdminError::EndOfLife(d)
            | AdminError::UnexpectedAnswer(d) => Some(d),
            AdminError::TriggerTaken(_)
            | AdminError::Unreachable(_)
            | AdminError::EgressDenied(_)
            | AdminError::Unsupported(_)
            | AdminError::Postponed(_)
            | AdminError::NotLeading(_) => None,
        }
    }

    /// True where the object is not there (any more).
    pub fn is_gone(&self) -> bool {
        match self {
            AdminError::NotFound(_) => true,
            AdminError::Rejected(detail) => detail.status == Some(410),
            _ => false,
        }
    }

    /// True where nothing was sent because it was not this object's turn, or not this replica's: that tells nothing
    /// about the object or the vendor, and nobody needs to hear of it.
    pub fn is_own(&self) -> bool {
        matches!(self, AdminError::Postponed(_) | AdminError::NotLeading(_))
    }

    /// The id by which the vendor knows the request.
    pub fn request_id(&self) -> Option<&str> {
        self.detail()?.request_id.as_deref()
    }

    /// The error as an object's status shows it.
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

    /// An answer that is no success.
    pub fn from_status(status: StatusCode, mut detail: Detail, retry_after: Option<Duration>) -> Self {
        detail.status = Some(status.as_u16());
        detail.message = cut(&detail.message, MAX_TEXT).to_owned();
        detail.code = detail.code.map(|code| cut(&code, MAX_CODE).to_owned());
        match status.as_u16() {
            // Too slow, or too early: nothing about what was asked.
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
