//! The namespaces that a list covers.

use axum::extract::{FromRequestParts, MatchedPath};
use http::request::Parts;

use crate::worker::problem::HttpProblem;
use crate::worker::request::ValidPath;
use crate::worker::store::ALL_NAMESPACES;

/// Extracts the namespace of a list from the path: `ALL_NAMESPACES` if the route names none. So one handler serves both
/// routes of a list.
pub struct ListScope(pub String);

impl<S: Send + Sync> FromRequestParts<S> for ListScope {
    type Rejection = HttpProblem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpProblem> {
        // Decided by the route and not by the parameters: a namespace that cannot be read must not select all.
        let has_namespace =
            parts.extensions.get::<MatchedPath>().is_none_or(|route| route.as_str().contains("{namespace}"));
        if !has_namespace {
            return Ok(ListScope(ALL_NAMESPACES.to_owned()));
        }
        ValidPath::<String>::from_request_parts(parts, state).await.map(|path| ListScope(path.0))
    }
}

/// Returns true if a list of `scope` shows objects of `namespace`.
pub fn covers(scope: &str, namespace: &str) -> bool {
    scope == ALL_NAMESPACES || scope == namespace
}
