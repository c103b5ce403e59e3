//! Extracts names and the token from requests to both ports.

use axum::extract::{FromRequestParts, Path};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::problem::HttpProblem;

/// Extracts the namespace and names from a request's path. Answers 404 if one is not a valid Kubernetes name.
///
/// Without this check, the framework would respond in its own format, and the store and the API server would get
/// invalid names of any length.
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
            _ => Err(HttpProblem::new(
                404,
                "NotFound",
                "the path contains an invalid namespace or object name",
            )),
        }
    }
}

/// The names in a path.
pub trait PathNames {
    /// True if each name is valid in Kubernetes.
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

/// An alternative header for the token, because the API server's proxy removes `Authorization` from forwarded requests.
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
