//! Reads request bodies with limits on size, time and memory.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use tokio::sync::{Semaphore, SemaphorePermit};

/// How long a body may take. Bounds the number of connections that slow clients occupy.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a body could not be read.
#[derive(Debug, PartialEq, Eq, strum::IntoStaticStr)]
pub enum BodyError {
    TooBig,
    /// It broke off or took longer than `BODY_TIMEOUT`.
    #[strum(serialize = "BrokenBody")]
    Broken,
    /// The memory budget is used up by other bodies.
    Busy,
}

/// The memory budget for bodies that are being read, over all clients. Clients may not be authenticated yet. Without
/// the budget, a thousand clients that stop half-way would occupy a thousand times the largest body.
pub struct BodyMemory(Semaphore);

/// The first bytes of each body, which are not counted: the number of connections bounds them.
const UNCOUNTED: usize = 16 << 10;
/// The unit of the budget in bytes.
const UNIT: usize = 1024;

impl BodyMemory {
    pub fn new(bytes: usize) -> Self {
        BodyMemory(Semaphore::new(bytes.div_ceil(UNIT).min(Semaphore::MAX_PERMITS)))
    }

    /// Extends `reserved` to the memory of a body of this length. Returns false if the budget is used up.
    fn reserve<'m>(&'m self, reserved: &mut Option<SemaphorePermit<'m>>, bytes: usize) -> bool {
        let needed = bytes.saturating_sub(UNCOUNTED).div_ceil(UNIT);
        let held = reserved.as_ref().map_or(0, SemaphorePermit::num_permits);
        let Ok(missing) = u32::try_from(needed.saturating_sub(held)) else { return false };
        if missing == 0 {
            return true;
        }
        let Ok(permit) = self.0.try_acquire_many(missing) else { return false };
        match reserved {
            Some(reserved) => reserved.merge(permit),
            None => *reserved = Some(permit),
        }
        true
    }
}

/// Reads a body of at most `max` bytes within the memory budget. A body whose declared length is larger is not read.
pub async fn read_body(
    body: Body,
    length: Option<u64>,
    max: usize,
    memory: &BodyMemory,
) -> Result<Bytes, BodyError> {
    if length.is_some_and(|length| length > max as u64) {
        return Err(BodyError::TooBig);
    }
    let all = async {
        let mut stream = body.into_data_stream();
        let (mut bytes, mut reserved) = (BytesMut::new(), None);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|_| BodyError::Broken)?;
            let length = bytes.len() + chunk.len();
            if length > max {
                return Err(BodyError::TooBig);
            }
            if !memory.reserve(&mut reserved, length) {
                return Err(BodyError::Busy);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    };
    tokio::time::timeout(BODY_TIMEOUT, all).await.unwrap_or(Err(BodyError::Broken))
}

pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body of this many bytes, which then ends or stalls forever.
    fn body(bytes: usize, ends: bool) -> Body {
        let chunks =
            futures::stream::iter((0..bytes / 1024).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 1024])));
        match ends {
            true => Body::from_stream(chunks),
            false => Body::from_stream(chunks.chain(futures::stream::pending())),
        }
    }

    #[tokio::test]
    async fn stalled_bodies_use_bounded_memory() {
        const KIB: usize = 1024;
        let memory = BodyMemory::new(64 * KIB);
        let read = |body| read_body(body, None, 128 * KIB, &memory);
        assert_eq!(
            read(body(80 * KIB, true)).await.map(|all| all.len()),
            Ok(80 * KIB),
            "the first 16 KiB are not counted"
        );
        assert_eq!(read(body(81 * KIB, true)).await, Err(BodyError::Busy));
        let mut stuck = std::pin::pin!(read(body(60 * KIB, false)));
        assert!(futures::poll!(&mut stuck).is_pending());
        assert_eq!(read(body(60 * KIB, true)).await, Err(BodyError::Busy));
        assert!(read(body(16 * KIB, true)).await.is_ok(), "small bodies always fit");
    }

    #[tokio::test]
    async fn memory_is_returned_when_a_read_ends() {
        let memory = BodyMemory::new(64 << 10);
        let read = |bytes, ends| read_body(body(bytes, ends), None, 1 << 20, &memory);
        {
            let mut aborted = std::pin::pin!(read(60 << 10, false));
            assert!(futures::poll!(&mut aborted).is_pending());
        }
        for _ in 0..3 {
            assert!(read(80 << 10, true).await.is_ok());
            assert_eq!(read(200 << 10, true).await, Err(BodyError::Busy));
        }
    }
}
