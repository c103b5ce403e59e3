//! Reads request bodies with limits on size, time and memory. Decodes gzip and deflate; the limits apply to the decoded
//! bytes too.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;

use super::content_coding::{ContentCoding, CorruptBody, Decoder, UnsupportedCoding};
use crate::core::fair_shares::Owner;
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
    /// Its content coding is not supported.
    #[strum(serialize = "ContentEncoding")]
    Coding,
    /// It is not encoded as its headers say.
    #[strum(serialize = "CorruptBody")]
    Corrupt,
}

impl From<UnsupportedCoding> for BodyError {
    fn from(_: UnsupportedCoding) -> Self {
        BodyError::Coding
    }
}

impl From<CorruptBody> for BodyError {
    fn from(_: CorruptBody) -> Self {
        BodyError::Corrupt
    }
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
                let owner = Owner::namespace(namespace);
                memory.reserve(owner, request_cost(expected as u64), MEMORY_TIMEOUT).await
            }
            BodySender::Unverified { memory, namespace } => {
                let first = length.unwrap_or(0).min(SMALL_BODY);
                memory.try_reserve(Owner::namespace(namespace), request_cost(first as u64))
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

/// Decoded pieces after which other tasks of the thread run.
const PIECES_WITHOUT_YIELD: usize = 8;

/// Reads a body and decodes its content coding. It has at most `max` bytes, encoded and decoded. A body whose declared
/// length is larger is not read.
pub async fn read_body(
    body: Body,
    headers: &HeaderMap,
    max: usize,
    sender: BodySender<'_>,
) -> Result<ReadBody, BodyError> {
    let coding = ContentCoding::of(headers)?;
    read(body, content_length(headers), coding, max, sender).await
}

/// Reads a body as it was sent, of at most `max` bytes. For bodies whose signature is verified before they are decoded.
pub async fn read_encoded_body(
    body: Body,
    headers: &HeaderMap,
    max: usize,
    sender: BodySender<'_>,
) -> Result<ReadBody, BodyError> {
    read(body, content_length(headers), ContentCoding::Identity, max, sender).await
}

async fn read(
    body: Body,
    length: Option<u64>,
    coding: ContentCoding,
    max: usize,
    sender: BodySender<'_>,
) -> Result<ReadBody, BodyError> {
    let length = length.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    if length.is_some_and(|length| length > max) {
        return Err(BodyError::TooBig);
    }
    // The length of an encoded body says nothing about its size.
    let expected = length.filter(|_| coding == ContentCoding::Identity);
    let memory = sender.reserve(expected, max).await?;
    let mut growing = GrowingBody { bytes: BytesMut::new(), memory, max, sender };
    let all = async {
        let mut stream = body.into_data_stream();
        let mut decoder = coding.decoder();
        let (mut received, mut whole) = (0_usize, None);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|_| BodyError::Broken)?;
            received = received.saturating_add(chunk.len());
            if received > max {
                return Err(BodyError::TooBig);
            }
            match &mut decoder {
                // A body that arrives in one piece, as most do, is not copied.
                None if expected == Some(chunk.len()) && received == chunk.len() => whole = Some(chunk),
                None => growing.append(&chunk).await?,
                Some(decoder) => growing.append_decoded(decoder, &chunk).await?,
            }
        }
        // No body at all has no coding: some proxies leave the header.
        if let Some(decoder) = decoder.as_mut().filter(|_| received > 0) {
            growing.append(&decoder.finish()?).await?;
        }
        Ok(whole)
    };
    let whole = tokio::time::timeout(BODY_TIMEOUT, all).await.unwrap_or(Err(BodyError::Broken))?;
    let GrowingBody { bytes, mut memory, .. } = growing;
    if expected.is_none() {
        memory.shrink_to(request_cost(bytes.len() as u64));
    }
    Ok(ReadBody { bytes: whole.unwrap_or_else(|| bytes.freeze()), memory })
}

/// A body that is being read, with the memory that is reserved for it.
struct GrowingBody<'a> {
    bytes: BytesMut,
    memory: Reservation,
    max: usize,
    sender: BodySender<'a>,
}

impl GrowingBody<'_> {
    async fn append(&mut self, part: &[u8]) -> Result<(), BodyError> {
        let length = self.bytes.len().saturating_add(part.len());
        if length > self.max {
            return Err(BodyError::TooBig);
        }
        self.sender.grow(&mut self.memory, length, self.max).await?;
        self.bytes.extend_from_slice(part);
        Ok(())
    }

    async fn append_decoded(&mut self, decoder: &mut Decoder, mut encoded: &[u8]) -> Result<(), BodyError> {
        for pieces in 1_usize.. {
            let piece = decoder.decode(&mut encoded)?;
            if piece.is_empty() && encoded.is_empty() {
                break;
            }
            self.append(&piece).await?;
            if pieces.is_multiple_of(PIECES_WITHOUT_YIELD) {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures::FutureExt;
    use http::header::CONTENT_ENCODING;

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

    fn authorized<'a>(memory: &'a Arc<MemoryPool>, namespace: &'a Arc<str>) -> BodySender<'a> {
        BodySender::Authorized { memory, namespace }
    }

    /// Reads a body of a declared length.
    async fn read(sender: BodySender<'_>, bytes: usize, ends: bool) -> Result<ReadBody, BodyError> {
        super::read(body(bytes, ends), Some(bytes as u64), ContentCoding::Identity, KIB << 10, sender).await
    }

    #[tokio::test]
    async fn stalled_unverified_bodies_use_bounded_memory() {
        let (memory, [a, b]) = (pool(1000 * KIB), names());
        let sender = |namespace| BodySender::Unverified { memory: &memory, namespace };
        let mut stalled: Vec<_> = (0..100).map(|_| Box::pin(read(sender(&a), 90 * KIB, false))).collect();
        let waiting = stalled.iter_mut().filter_map(|one| one.now_or_never().is_none().then_some(())).count();
        assert_eq!(waiting, 4, "each uses 181 KiB, and the namespace has most of 1000 KiB");
        assert!(read(sender(&b), 60 * KIB, true).await.is_ok(), "another namespace has its own part");
        drop(stalled);
        assert!(read(sender(&a), 300 * KIB, true).await.is_ok(), "an ended read returns its memory");
    }

    #[tokio::test]
    async fn large_bodies_of_a_namespace_leave_memory_for_others() {
        let (memory, [a, b]) = (pool(1000 * KIB), names());
        let mut slow: Vec<_> =
            (0..10).map(|_| Box::pin(read(authorized(&memory, &a), 100 * KIB, false))).collect();
        let results: Vec<_> = slow.iter_mut().map(FutureExt::now_or_never).collect();
        let rejected =
            results.iter().flatten().filter(|result| matches!(result, Err(BodyError::Busy))).count();
        assert_eq!(rejected, 7, "three of 201 KiB are within 800 KiB");
        let other = read(authorized(&memory, &b), 50 * KIB, true).now_or_never();
        let kept = other.expect("it does not wait").unwrap().into_events_memory();
        assert_eq!(kept.bytes(), request_cost(50 * KIB as u64));
        drop((kept, slow));
        let large = read(authorized(&memory, &a), 300 * KIB, true).await.unwrap();
        assert_eq!(large.bytes.len(), 300 * KIB);
        assert_eq!(large.into_events_memory().bytes(), 301 * KIB as u64, "the events without the body");
    }

    #[tokio::test]
    async fn body_of_unknown_length_reserves_what_it_needs() {
        let (memory, [a, _]) = (pool(1000 * KIB), names());
        let identity = ContentCoding::Identity;
        let read = |bytes| super::read(body(bytes, true), None, identity, 300 * KIB, authorized(&memory, &a));
        assert_eq!(read(10 * KIB).await.unwrap().memory.bytes(), request_cost(10 * KIB as u64));
        assert_eq!(read(200 * KIB).await.unwrap().memory.bytes(), request_cost(200 * KIB as u64));
        assert_eq!(read(301 * KIB).await.unwrap_err(), BodyError::TooBig);
        let sender = authorized(&memory, &a);
        let declared = super::read(body(0, true), Some(301 << 10), identity, 300 * KIB, sender).await;
        assert_eq!(declared.unwrap_err(), BodyError::TooBig);
    }

    fn gzip(bytes: usize) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&vec![b'x'; bytes]).unwrap();
        encoder.finish().unwrap()
    }

    #[tokio::test]
    async fn limits_and_memory_count_decoded_bytes() {
        let (memory, [a, b]) = (pool(1000 * KIB), names());
        let read = |namespace, bytes| {
            let encoded = gzip(bytes);
            let (length, sender) =
                (Some(encoded.len() as u64), BodySender::Authorized { memory: &memory, namespace });
            super::read(Body::from(encoded), length, ContentCoding::Gzip, 300 * KIB, sender)
        };
        let body = read(&a, 300 * KIB).await.unwrap();
        assert_eq!((body.bytes.len(), body.memory.bytes()), (300 * KIB, request_cost(300 * KIB as u64)));
        assert_eq!(
            read(&b, 300 * KIB).now_or_never().map(|read| read.unwrap_err()),
            None,
            "no memory is left"
        );
        drop(body);
        for bytes in [301 * KIB, 64 << 20] {
            assert_eq!(read(&a, bytes).await.unwrap_err(), BodyError::TooBig, "{bytes}");
        }
        // Members without content decode to nothing, but take time.
        let empty = Body::from(gzip(0).repeat(20_000));
        let sender = BodySender::Authorized { memory: &memory, namespace: &a };
        let read = super::read(empty, None, ContentCoding::Gzip, 300 * KIB, sender).await;
        assert_eq!(read.unwrap_err(), BodyError::TooBig);
    }

    #[tokio::test]
    async fn reads_the_coding_that_the_headers_declare() {
        let (memory, [a, _]) = (pool(1000 * KIB), names());
        let sender = BodySender::Authorized { memory: &memory, namespace: &a };
        let read = async |coding: &str, bytes: Vec<u8>| {
            let headers = HeaderMap::from_iter([(CONTENT_ENCODING, coding.parse().unwrap())]);
            read_body(Body::from(bytes), &headers, KIB, sender).await.map(|body| body.bytes)
        };
        assert_eq!(read("gzip", gzip(3)).await.unwrap(), "xxx");
        assert_eq!(read("gzip", Vec::new()).await.unwrap(), "", "no body has no coding");
        assert_eq!(read("gzip", b"{}".to_vec()).await.unwrap_err(), BodyError::Corrupt);
        assert_eq!(read("br", b"{}".to_vec()).await.unwrap_err(), BodyError::Coding);
        let headers = HeaderMap::from_iter([(CONTENT_ENCODING, "gzip".parse().unwrap())]);
        let as_sent = read_encoded_body(Body::from(gzip(3)), &headers, KIB, sender).await.unwrap();
        assert_eq!(as_sent.bytes, gzip(3));
    }
}
