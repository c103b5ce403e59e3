//! The byte stream of a server connection: enforces the deadlines of reading and writing, and closes it so that a client
//! that is still writing receives the response.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::connection_state::{ConnectionState, Phase};

/// The most bytes that are discarded after the response. A client that sends more gets a connection reset.
const MAX_LINGER: u64 = 256 << 20;
/// How long bytes are discarded after the response.
const LINGER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a silent client is given to close the connection after the response.
const LINGER_SILENCE: Duration = Duration::from_secs(2);
/// The answer to a head that takes too long.
const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// A stream with the deadlines of its connection's phase.
pub struct TimedStream<S> {
    stream: S,
    connection: Arc<ConnectionState>,
    read_timer: Option<Pin<Box<Sleep>>>,
    write_timer: Option<Pin<Box<Sleep>>>,
    /// Since when the peer reads nothing of the response.
    blocked_since: Option<Instant>,
    linger: Option<Linger>,
}

/// What remains of the bounds on discarding.
struct Linger {
    bytes: u64,
    deadline: Instant,
    silence: Instant,
}

impl<S> TimedStream<S> {
    pub fn new(stream: S, connection: Arc<ConnectionState>) -> Self {
        TimedStream {
            stream,
            connection,
            read_timer: None,
            write_timer: None,
            blocked_since: None,
            linger: None,
        }
    }

    /// Bounds how long a write waits for the peer to read.
    fn bound_write<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.blocked_since = None;
            return written;
        }
        let since = *self.blocked_since.get_or_insert_with(Instant::now);
        let deadline = since + self.connection.port.timeouts.write;
        ready!(poll_deadline(&mut self.write_timer, deadline, context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read the response")))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TimedStream<S> {
    /// Discards what the peer still sends, until it closes its side or a bound is reached.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut buffer = [0; 16 << 10];
        let Some(linger) = &mut self.linger else { return Poll::Ready(()) };
        loop {
            let mut read = ReadBuf::new(&mut buffer);
            match Pin::new(&mut self.stream).poll_read(context, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {
                    linger.bytes = linger.bytes.saturating_sub(read.filled().len() as u64);
                    let now = Instant::now();
                    linger.silence = now + LINGER_SILENCE;
                    if linger.bytes == 0 || now >= linger.deadline {
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    let deadline = linger.deadline.min(linger.silence);
                    return poll_deadline(&mut self.read_timer, deadline, context);
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let filled = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(context, buffer) {
            if buffer.filled().len() > filled && !this.connection.receive() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            return Poll::Ready(read);
        }
        let Some(deadline) = this.connection.read_deadline() else {
            // hyper does not read again when the response ends and the connection becomes idle. The timer is therefore armed
            // before, for the earliest time at which an idle connection could be closed.
            let earliest = Instant::now() + this.connection.port.timeouts.idle;
            let _early = poll_deadline(&mut this.read_timer, earliest, context);
            return Poll::Pending;
        };
        ready!(poll_deadline(&mut this.read_timer, deadline, context));
        if this.connection.snapshot().phase() == Phase::Head && this.blocked_since.is_none() {
            // Best effort: the connection is closed in any case.
            let _ignored = Pin::new(&mut this.stream).poll_write(context, REQUEST_TIMEOUT);
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client sends no request")))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.bound_write(context, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, bytes);
        this.bound_write(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(context);
        this.bound_write(context, flushed)
    }

    /// Closes the writing side, and then lingers if the peer may still be writing.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            let closed = Pin::new(&mut this.stream).poll_shutdown(context);
            ready!(this.bound_write(context, closed))?;
            if !this.connection.should_linger() || !this.connection.advance(Phase::Lingering) {
                return Poll::Ready(Ok(()));
            }
            let now = Instant::now();
            let (deadline, silence) = (now + LINGER_TIMEOUT, now + LINGER_SILENCE);
            this.linger = Some(Linger { bytes: MAX_LINGER, deadline, silence });
        }
        this.poll_linger(context).map(Ok)
    }
}

/// Completes at the deadline. A timer that is armed for an earlier time stays, so that a deadline that moves with every request
/// costs nothing.
pub fn poll_deadline(
    timer: &mut Option<Pin<Box<Sleep>>>,
    deadline: Instant,
    context: &mut Context<'_>,
) -> Poll<()> {
    let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
    if timer.deadline() > deadline {
        timer.as_mut().reset(deadline);
    }
    loop {
        ready!(timer.as_mut().poll(context));
        if timer.deadline() >= deadline {
            return Poll::Ready(());
        }
        timer.as_mut().reset(deadline);
    }
}
