//! What a user may do. The API decides about each request; this is only for what pages offer.

use super::client::ApiClient;
use super::path::Path;
use super::problem::Problem;

/// A permission that a part of a page needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    Payload,
    Replay,
    Cancel,
    Test,
    Publish,
}

impl Right {
    /// Returns the ClusterRole of the chart that grants it.
    pub fn role(self) -> &'static str {
        match self {
            Right::Payload => "hookstream-deliveries-payload",
            Right::Replay | Right::Cancel => "hookstream-deliveries-operator",
            Right::Test => "hookstream-hooks-tester",
            Right::Publish => "hookstream-publisher",
        }
    }
}

/// Checks that the API accepts the client's token, whatever it may do.
pub async fn check_token(api: &ApiClient) -> Result<(), Problem> {
    match api.get_bytes(&Path::new("/v1/status")).await {
        Err(problem) if problem.is_unauthenticated() => Err(Problem {
            detail: "the worker does not accept this token: it is wrong, has expired, or was issued for another audience"
                .to_owned(),
            ..problem
        }),
        Err(problem) if !problem.is_forbidden() => Err(problem),
        _ => Ok(()),
    }
}
