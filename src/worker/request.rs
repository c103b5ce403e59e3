//! Extracts names and the token from requests to both ports.

use axum::extract::{FromRequestParts, Path};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::problem::HttpProblem;
use crate::core::names::{NAMESPACE_RULE, OBJECT_NAME_RULE, is_namespace, is_object_name};

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
                format!(
                    "a name in the path is not valid: a namespace {NAMESPACE_RULE}; an object name {OBJECT_NAME_RULE}"
                ),
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
        is_namespace(self)
    }
}

impl PathNames for (String, String) {
    fn are_valid(&self) -> bool {
        is_namespace(&self.0) && is_object_name(&self.1)
    }
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
