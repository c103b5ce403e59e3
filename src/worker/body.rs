//! Reads request bodies with limits on size, time and memory.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;

use crate::memory::{MemoryPool, Reservation, request_cost};

/// How long a body may take. Bounds the number of connections that slow clients occupy.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a request waits for memory that other namespaces use.
pub const MEMORY_TIMEOUT: Duration = Duration::from_secs(10);
/// The memory of a body of unknown length is first reserved for this many bytes, which suffices for most events.
const UNKNOWN_LENGTH: usize = 64 << 10;
/// Unverified senders get memory for a body of this many bytes at once, which suffices for most relays.
const SMALL_BODY: usize = 4 << 10;

/// Why a body could not be read.
#[derive(Debug, PartialEq, Eq, strum::IntoStaticStr)]
pub enum BodyError {
    TooBig,
    /// It broke off or took longer than `BODY_TIMEOUT`.
    #[strum(serialize = "BrokenBody")]
    Broken,
    /// The memory for bodies is used up, or its namespace uses its share.
    Busy,
}

/// A body and the memory that is reserved for it and for the events in it.
#[derive(Debug)]
pub struct ReadBody {
    pub bytes: Bytes,
    pub memory: Reservation,
}

impl ReadBody {
    /// Drops the body after its events were parsed. Returns the memory that stays reserved for the events.
    pub fn into_events_memory(self) -> Reservation {
        let ReadBody { bytes, mut memory } = self;
        // Not worth a lock for a small body.
        if bytes.len() > UNKNOWN_LENGTH {
            memory.shrink_to(memory.bytes().saturating_sub(bytes.len() as u64));
        }
        memory
    }
}

/// How the memory of a body is reserved.
#[derive(Clone, Copy, Debug)]
pub enum BodySender<'a> {
    /// An authorized client. The whole body is reserved before it is read, within the share of its namespace.
    Authorized { memory: &'a Arc<MemoryPool>, namespace: &'a Arc<str> },
    /// A sender that is authenticated by its body. Only received bytes are reserved, so that a sender that stops early
    /// cannot occupy more memory than it has sent.
    Unverified { memory: &'a Arc<MemoryPool>, namespace: &'a Arc<str> },
}

impl BodySender<'_> {
    /// Reserves the first part of the memory.
    async fn reserve(&self, length: Option<usize>, max: usize) -> Result<Reservation, BodyError> {
        let reserved = match self {
            BodySender::Authorized { memory, namespace } => {
                let expected = length.unwrap_or(UNKNOWN_LENGTH.min(max));
                memory.reserve(namespace, request_cost(expected as u64), MEMORY_TIMEOUT).await
            }
            BodySender::Unverified { memory, namespace } => {
                let first = length.unwrap_or(0).min(SMALL_BODY);
                memory.try_reserve(namespace, request_cost(first as u64))
            }
        };
        reserved.map_err(|_| BodyError::Busy)
    }

    /// Extends the memory for a body that has reached `length` bytes.
    async fn grow(&self, memory: &mut Reservation, length: usize, max: usize) -> Result<(), BodyError> {
        if request_cost(length as u64) <= memory.bytes() {
            return Ok(());
        }
        let grown = match self {
            // To the maximum at once: bodies that grow in steps could block each other for good.
            BodySender::Authorized { .. } => memory.grow_to(request_cost(max as u64), MEMORY_TIMEOUT).await,
            BodySender::Unverified { .. } => memory.try_grow_to(request_cost(length as u64)),
        };
        grown.map_err(|_| BodyError::Busy)
    }
}

/// Reads a body of at most `max` bytes. A body whose declared length is larger is not read.
pub async fn read_body(
    body: Body,
    length: Option<u64>,
    max: usize,
    sender: BodySender<'_>,
) -> Result<ReadBody, BodyError> {
    let length = length.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    if length.is_some_and(|length| length > max) {
        return Err(BodyError::TooBig);
    }
    let mut memory = sender.reserve(length, max).await?;
    let all = async {
        let mut stream = body.into_data_stream();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|_| BodyError::Broken)?;
            let length = bytes.len() + chunk.len();
            if length > max {
                return Err(BodyError::TooBig);
            }
            sender.grow(&mut memory, length, max).await?;
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    };
    let bytes = tokio::time::timeout(BODY_TIMEOUT, all).await.unwrap_or(Err(BodyError::Broken))?;
    if length.is_none() {
        memory.shrink_to(request_cost(bytes.len() as u64));
    }
    Ok(ReadBody { bytes, memory })
}

pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::metrics::MemoryShareMetrics;

    const KIB: usize = 1024;

    /// A body of this many bytes, which then ends or stalls forever.
    fn body(bytes: usize, ends: bool) -> Body {
        let chunks =
            futures::stream::iter((0..bytes / KIB).map(|_| Ok::<_, std::io::Error>(vec![b'x'; KIB])));
        match ends {
            true => Body::from_stream(chunks),
            false => Body::from_stream(chunks.chain(futures::stream::pending())),
        }
    }

    fn pool(bytes: usize) -> Arc<MemoryPool> {
        Arc::new(MemoryPool::new(bytes as u64, MemoryShareMetrics::default()))
    }

    fn names() -> [Arc<str>; 2] {
        ["a", "b"].map(Into::into)
    }

    #[tokio::test]
    async fn stalled_unverified_bodies_use_bounded_memory() {
        let (memory, [a, b]) = (pool(1000 * KIB), names());
        let read = |namespace, bytes, ends| {
            read_body(
                body(bytes, ends),
                Some(bytes as u64),
                KIB << 10,
                BodySender::Unverified { memory: &memory, namespace },
            )
        };
        let mut stalled: Vec<_> = (0..100).map(|_| Box::pin(read(&a, 90 * KIB, false))).collect();
        let waiting = stalled.iter_mut().filter_map(|one| one.now_or_never().is_none().then_some(())).count();
        assert_eq!(waiting, 4, "each uses 181 KiB, and the namespace has most of 1000 KiB");
        assert!(read(&b, 60 * KIB, true).await.is_ok(), "another namespace has its own part");
        drop(stalled);
        assert!(read(&a, 300 * KIB, true).await.is_ok(), "an ended read returns its memory");
    }

    #[tokio::test]
    async fn large_bodies_of_a_namespace_leave_memory_for_others() {
        let (memory, [a, b]) = (pool(1000 * KIB), names());
        let read = |namespace, bytes, ends| {
            read_body(
                body(bytes, ends),
                Some(bytes as u64),
                KIB << 10,
                BodySender::Authorized { memory: &memory, namespace },
            )
        };
        let mut slow: Vec<_> = (0..10).map(|_| Box::pin(read(&a, 100 * KIB, false))).collect();
        let results: Vec<_> = slow.iter_mut().map(FutureExt::now_or_never).collect();
        let rejected =
            results.iter().flatten().filter(|result| matches!(result, Err(BodyError::Busy))).count();
        assert_eq!(rejected, 7, "three of 201 KiB are within 800 KiB");
        let other = read(&b, 50 * KIB, true).now_or_never().expect("it does not wait").unwrap();
        let kept = other.into_events_memory();
        assert_eq!(kept.bytes(), request_cost(50 * KIB as u64));
        drop((kept, slow));
        let large = read(&a, 300 * KIB, true).await.unwrap();
        assert_eq!(large.bytes.len(), 300 * KIB);
        assert_eq!(large.into_events_memory().bytes(), 301 * KIB as u64, "the events without the body");
    }

    #[tokio::test]
    async fn body_of_unknown_length_reserves_what_it_needs() {
        let (memory, [a, _]) = (pool(1000 * KIB), names());
        let sender = BodySender::Authorized { memory: &memory, namespace: &a };
        let read = |bytes| read_body(body(bytes, true), None, 300 * KIB, sender);
        assert_eq!(read(10 * KIB).await.unwrap().memory.bytes(), request_cost(10 * KIB as u64));
        assert_eq!(read(200 * KIB).await.unwrap().memory.bytes(), request_cost(200 * KIB as u64));
        assert_eq!(read(301 * KIB).await.unwrap_err(), BodyError::TooBig);
        let declared = read_body(body(0, true), Some(301 << 10), 300 * KIB, sender).await;
        assert_eq!(declared.unwrap_err(), BodyError::TooBig);
    }
}
