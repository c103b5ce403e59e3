//! Problems of pages, as the API or the console states them.

use serde::Deserialize;

/// Why a page cannot be shown or an action was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub status: u16,
    /// The stable reason.
    pub reason: String,
    pub detail: String,
    /// The role that has the permission which the user lacks, without the release's prefix.
    pub role: Option<String>,
}

/// The body of a problem of the API (RFC 9457).
#[derive(Deserialize)]
struct ProblemBody {
    reason: String,
    detail: String,
    #[serde(default)]
    role: Option<String>,
}

impl Problem {
    pub fn new(status: u16, reason: &str, detail: impl Into<String>) -> Self {
        Problem { status, reason: reason.to_owned(), detail: detail.into(), role: None }
    }

    /// Reads the problem of a response of the API.
    pub fn parse(status: u16, body: &[u8]) -> Self {
        match serde_json::from_slice(body) {
            Ok(ProblemBody { reason, detail, role }) => Problem { status, reason, detail, role },
            Err(_) => Problem::new(status, "Failed", "the API answered with an error without a description"),
        }
    }

    /// The problem of a form with a CSRF token that is missing, expired, or of another session.
    pub fn form_expired() -> Self {
        let detail =
            "the form is too old or belongs to another session: go back, reload the page and try again";
        Problem::new(403, "FormExpired", detail)
    }

    pub fn not_found(detail: &str) -> Self {
        Problem::new(404, "NotFound", detail)
    }

    /// True if the user lacks a permission.
    pub fn is_forbidden(&self) -> bool {
        self.status == 403
    }

    /// True if the token is missing, invalid or expired.
    pub fn is_unauthenticated(&self) -> bool {
        self.status == 401
    }
}
