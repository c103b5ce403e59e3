//! What both ports read from a request's head: names in the path, and the token.

use axum::extract::{FromRequestParts, Path};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::problem::HttpProblem;

/// Extracts the namespace and names of a request's path. Answers 404 to names that Kubernetes cannot have given.
///
/// Without this check, the framework would answer in its own format, and names of any length and characters would reach
/// the store and the API server.
pub struct ValidPath<T>(pub T);

impl<T, S> FromRequestParts<S> for ValidPath<T>
where
    T: DeserializeOwned + PathNames + Send,
    S: Send + Sync,
{
    type Rejection = HttpProblem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpProblem> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(names)) if names.are_valid() => Ok(ValidPath(names)),
            _ => Err(HttpProblem::new(404, "NotFound", "the path has no valid namespace or object name")),
        }
    }
}

/// The names in a path.
pub trait PathNames {
    /// True if Kubernetes could have given each of the names.
    fn are_valid(&self) -> bool;
}

impl PathNames for String {
    fn are_valid(&self) -> bool {
        is_name(self, 63)
    }
}

impl PathNames for (String, String) {
    fn are_valid(&self) -> bool {
        is_name(&self.0, 63) && is_name(&self.1, 253)
    }
}

/// True for a DNS name of 1 to `max` bytes, as Kubernetes requires.
pub fn is_name(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
}

/// An alternative header for the token: the API server's proxy removes `Authorization` from the requests that it forwards.
pub const TOKEN_HEADER: &str = "x-hookstream-token";

/// Returns the client's token.
pub fn token(headers: &HeaderMap) -> Option<&str> {
    bearer(headers).or_else(|| headers.get(TOKEN_HEADER)?.to_str().ok().filter(|token| !token.is_empty()))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}
