//! Problems of pages, as the API or the console states them.

use serde::Deserialize;

/// Why a page cannot be shown or an action was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub status: u16,
    /// The stable reason.
    pub reason: String,
    pub detail: String,
}

/// The body of a problem of the API (RFC 9457).
#[derive(Deserialize)]
struct ProblemBody {
    reason: String,
    detail: String,
}

impl Problem {
    pub fn new(status: u16, reason: &str, detail: impl Into<String>) -> Self {
        Problem { status, reason: reason.to_owned(), detail: detail.into() }
    }

    /// Reads the problem of a response of the API.
    pub fn parse(status: u16, body: &[u8]) -> Self {
        match serde_json::from_slice(body) {
            Ok(ProblemBody { reason, detail }) => Problem { status, reason, detail },
            Err(_) => Problem::new(status, "Failed", "the API answered with an error without a description"),
        }
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
