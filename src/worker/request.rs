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
use tokio::sync::{Semaphore, SemaphorePermit};

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
#[derive(Debug, PartialEq, Eq, strum::IntoStaticStr)]
pub enum BodyError {
    TooBig,
    /// It broke off or took too long.
    #[strum(serialize = "BrokenBody")]
    Broken,
    /// Too many are being read at once.
    Busy,
}

/// Memory for bodies that are being read, of all senders together: who they are may not be known yet, and a thousand of
/// them that stop half-way would else take a thousand times the largest body.
pub struct Room(Semaphore);

/// The first bytes of a body, which are not counted: the number of connections bounds them.
const FREE: usize = 16 << 10;
/// What is counted, in bytes.
const UNIT: usize = 1024;

impl Room {
    pub fn new(bytes: usize) -> Self {
        Room(Semaphore::new(bytes.div_ceil(UNIT).min(Semaphore::MAX_PERMITS)))
    }

    /// Takes room until a body has as much as so many bytes need. False: there is none.
    fn grow<'r>(&'r self, taken: &mut Option<SemaphorePermit<'r>>, bytes: usize) -> bool {
        let wants = bytes.saturating_sub(FREE).div_ceil(UNIT);
        let has = taken.as_ref().map_or(0, SemaphorePermit::num_permits);
        let Ok(more) = u32::try_from(wants.saturating_sub(has)) else { return false };
        if more == 0 {
            return true;
        }
        let Ok(permit) = self.0.try_acquire_many(more) else { return false };
        match taken {
            Some(taken) => taken.merge(permit),
            None => *taken = Some(permit),
        }
        true
    }
}

/// Reads a body of at most `max` bytes, as long as there is room. One that says it is longer is not read at all.
pub async fn read(body: Body, length: Option<u64>, max: usize, room: &Room) -> Result<Bytes, BodyError> {
    if length.is_some_and(|length| length > max as u64) {
        return Err(BodyError::TooBig);
    }
    let all = async {
        let mut stream = body.into_data_stream();
        let (mut bytes, mut taken) = (BytesMut::new(), None);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|_| BodyError::Broken)?;
            let length = bytes.len() + chunk.len();
            if length > max {
                return Err(BodyError::TooBig);
            }
            if !room.grow(&mut taken, length) {
                return Err(BodyError::Busy);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A body of this many bytes; without an end it goes on for ever.
    fn body(bytes: usize, ends: bool) -> Body {
        let chunks =
            futures::stream::iter((0..bytes / 1024).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 1024])));
        match ends {
            true => Body::from_stream(chunks),
            false => Body::from_stream(chunks.chain(futures::stream::pending())),
        }
    }

    #[tokio::test]
    async fn bodies_that_stop_half_way_take_bounded_memory() {
        const KIB: usize = 1024;
        let room = Room::new(64 * KIB);
        let read = |body| read(body, None, 128 * KIB, &room);
        assert_eq!(
            read(body(80 * KIB, true)).await.map(|all| all.len()),
            Ok(80 * KIB),
            "the first 16 are free"
        );
        assert_eq!(read(body(81 * KIB, true)).await, Err(BodyError::Busy));
        let mut stuck = std::pin::pin!(read(body(60 * KIB, false)));
        assert!(futures::poll!(&mut stuck).is_pending());
        assert_eq!(read(body(60 * KIB, true)).await, Err(BodyError::Busy));
        assert!(read(body(16 * KIB, true)).await.is_ok(), "small ones always fit");
    }

    #[tokio::test]
    async fn room_is_given_back() {
        let room = Room::new(64 << 10);
        let read = |bytes, ends| read(body(bytes, ends), None, 1 << 20, &room);
        {
            let mut gone = std::pin::pin!(read(60 << 10, false));
            assert!(futures::poll!(&mut gone).is_pending());
        }
        for _ in 0..3 {
            assert!(read(80 << 10, true).await.is_ok());
            assert_eq!(read(200 << 10, true).await, Err(BodyError::Busy));
        }
    }
}
