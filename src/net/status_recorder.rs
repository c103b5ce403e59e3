//! Records the status line of HTTP/1 responses beside the parser, so that a response whose headers cannot be parsed still
//! counts by its status. Without it, a receiver that processed a request and answered 200 with a stray line in the head
//! would get the request at every retry.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::task::{Context, Poll, ready};

use http::{Extensions, StatusCode, Uri};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_service::Service;

/// `HTTP/1.1 200`: the part of a status line with the status.
const STATUS_LINE: usize = 12;
const NO_STATUS: u16 = 0;

/// The status of the response that a connection has received last, from its beginning on. Clones share it.
#[derive(Clone, Debug)]
struct LastStatus(Arc<AtomicU16>);

/// Returns the status of the response that the connection has received for its last request, if the status line was read.
pub(super) fn recorded_status(connected: &Connected) -> Option<StatusCode> {
    let mut extras = Extensions::new();
    connected.get_extras(&mut extras);
    StatusCode::from_u16(extras.get::<LastStatus>()?.0.load(Ordering::Acquire)).ok()
}

/// A connector whose connections record the status line.
#[derive(Clone, Debug)]
pub(super) struct RecordingConnector<C>(pub C);

/// A connection that records the status line of each response.
pub(super) struct RecordingStream<S> {
    stream: S,
    status: LastStatus,
    /// The first bytes since the last write. A response begins with the first read after its request was written.
    line: [u8; STATUS_LINE],
    len: usize,
}

impl<S> RecordingStream<S> {
    fn new(stream: S) -> Self {
        RecordingStream {
            stream,
            status: LastStatus(Arc::new(AtomicU16::new(NO_STATUS))),
            line: [0; STATUS_LINE],
            len: 0,
        }
    }

    fn start_request(&mut self) {
        if self.len > 0 {
            self.len = 0;
            self.status.0.store(NO_STATUS, Ordering::Release);
        }
    }

    fn record(&mut self, read: &[u8]) {
        let Some(free) = self.line.get_mut(self.len..).filter(|free| !free.is_empty()) else { return };
        for (to, from) in free.iter_mut().zip(read) {
            *to = *from;
        }
        self.len += free.len().min(read.len());
        if self.len == STATUS_LINE {
            self.status.0.store(parse_status(&self.line).unwrap_or(NO_STATUS), Ordering::Release);
        }
    }
}

/// Returns the status of a final response. An interim response (1xx) says nothing about the final one.
fn parse_status(line: &[u8; STATUS_LINE]) -> Option<u16> {
    let code = line.strip_prefix(b"HTTP/1.1 ").or_else(|| line.strip_prefix(b"HTTP/1.0 "))?;
    let code: u16 = std::str::from_utf8(code).ok()?.parse().ok()?;
    (200..600).contains(&code).then_some(code)
}

impl<S: AsyncRead + Unpin> AsyncRead for RecordingStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.record(buffer.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for RecordingStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.start_request();
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.start_request();
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: Connection> Connection for RecordingStream<TokioIo<S>> {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(self.status.clone());
        match self.stream.inner().connected().is_negotiated_h2() {
            true => connected.negotiated_h2(),
            false => connected,
        }
    }
}

impl<C> Service<Uri> for RecordingConnector<C>
where
    C: Service<Uri, Future: Send + 'static>,
{
    type Response = TokioIo<RecordingStream<TokioIo<C::Response>>>;
    type Error = C::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async move { Ok(TokioIo::new(RecordingStream::new(TokioIo::new(connecting.await?)))) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_the_status_of_the_last_request_only() {
        let mut stream = RecordingStream::new(());
        let status = |stream: &RecordingStream<()>| stream.status.0.load(Ordering::Acquire);
        stream.start_request();
        for part in [&b"HTT"[..], b"P/1.1 20", b"4 No Content\r\n"] {
            assert_eq!(status(&stream), NO_STATUS);
            stream.record(part);
        }
        assert_eq!(status(&stream), 204);
        stream.record(b"HTTP/1.1 500");
        assert_eq!(status(&stream), 204, "a body that looks like a response is none");
        stream.start_request();
        assert_eq!(status(&stream), NO_STATUS);
        stream.record(b"HTTP/1.0 500\r\n");
        assert_eq!(status(&stream), 500);
        for line in [
            &b"HTTP/1.1 100 Continue"[..],
            b"HTTP/1.1 999 x",
            b"HTTP/1.1 +20 x",
            b"HTTP/2.0 200",
            b"garbage line",
        ] {
            stream.start_request();
            stream.record(line);
            assert_eq!(status(&stream), NO_STATUS, "{}", String::from_utf8_lossy(line));
        }
    }
}
