//! What both ports read of a request: names in its path, its token, its body.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Path};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_LENGTH};
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// A sender that drips its body may hold a connection this long.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// The namespace and names in a request's path.
pub struct InPath<T>(pub T);

impl<T, S> FromRequestParts<S> for InPath<T>
where
    T: DeserializeOwned + Names + Send,
    S: Send + Sync,
{
    type Rejection = Problem;

    /// What can be nobody's name is not found, for certain. Without this, the framework would answer in its own words,
    /// and names of any length and letters would go into the store and to the API server.
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(names)) if names.possible() => Ok(InPath(names)),
            _ => Err(Problem::new(404, "NotFound", "the address names no possible namespace or object")),
        }
    }
}

/// Names that Kubernetes could have given.
pub trait Names {
    fn possible(&self) -> bool;
}

impl Names for String {
    fn possible(&self) -> bool {
        is_name(self, 63)
    }
}

impl Names for (String, String) {
    fn possible(&self) -> bool {
        is_name(&self.0, 63) && is_name(&self.1, 253)
    }
}

pub fn is_name(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
}

/// Why a body could not be read.
pub enum BodyError {
    TooBig,
    /// It broke off or took too long.
    Broken,
}

/// Reads a body of at most `max` bytes. One that says it is longer is not read at all.
pub async fn read(body: Body, length: Option<u64>, max: usize) -> Result<Bytes, BodyError> {
    if length.is_some_and(|length| length > max as u64) {
        return Err(BodyError::TooBig);
    }
    let all = async {
        let mut stream = body.into_data_stream();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|_| BodyError::Broken)?;
            if bytes.len() + chunk.len() > max {
                return Err(BodyError::TooBig);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    };
    tokio::time::timeout(BODY_WITHIN, all).await.unwrap_or(Err(BodyError::Broken))
}

pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Where a token may stand besides Authorization: what comes through the API server's proxy has lost that one.
pub const TOKEN_HEADER: &str = "x-hookstream-token";

/// The token that the caller shows.
pub fn token(headers: &HeaderMap) -> Option<&str> {
    bearer(headers).or_else(|| headers.get(TOKEN_HEADER)?.to_str().ok().filter(|token| !token.is_empty()))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}
