//! The request body that a handler gets: enforces a minimum rate, and keeps what the handler did not read.
//!
//! A server that responds before it has read the whole request must not simply close the connection. A client that is
//! still writing would get a connection reset and never read the response. A short rest is read before the response, so
//! that the connection stays open. A longer one is discarded after the response: see `timed_stream`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use super::connection_state::{ConnectionState, Phase};
use super::port_options::Timeouts;
use super::timed_stream::poll_deadline;

/// The longest rest that is read before the response.
const MAX_DRAIN: usize = 64 << 10;
/// How long a response waits for the rest of its request. It usually arrived with the head.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    #[error(transparent)]
    Connection(#[from] hyper::Error),
    #[error("the body arrives too slowly")]
    TooSlow,
    #[error("the connection is closed in favour of another")]
    Evicted,
}

/// A request body. If it is dropped before its end, [`UnreadBody`] receives the rest.
pub struct RequestBody<B: Body = Incoming> {
    body: Option<B>,
    rest: Arc<Mutex<Rest<B>>>,
    connection: Arc<ConnectionState>,
    rate: MinimumRate,
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether the connection is in the phase `Body`.
    is_waiting: bool,
}

/// The unread rest of a request body.
pub struct UnreadBody<B = Incoming>(Arc<Mutex<Rest<B>>>);

/// What follows the part of a body that its handler read.
enum Rest<B> {
    Nothing,
    Unread(B),
    /// It does not arrive in time.
    Missing,
}

impl<B: Body> RequestBody<B> {
    pub fn new(body: B, connection: Arc<ConnectionState>) -> (Self, UnreadBody<B>) {
        let rest = Arc::new(Mutex::new(Rest::Nothing));
        let rate = MinimumRate::default();
        let unread = UnreadBody(Arc::clone(&rest));
        (RequestBody { body: Some(body), rest, connection, rate, timer: None, is_waiting: false }, unread)
    }
}

impl<B: Body<Data = Bytes> + Unpin> UnreadBody<B> {
    /// Reads and discards a short rest of the body. Returns false if the body did not end: the connection cannot be used
    /// for another request. `is_held_back`: the client sends the body only if the server requests it.
    pub async fn drain(self, is_held_back: bool) -> bool {
        let mut body = match std::mem::replace(&mut *self.0.lock(), Rest::Nothing) {
            Rest::Nothing => return true,
            Rest::Unread(body) => body,
            Rest::Missing => return false,
        };
        if is_held_back || body.size_hint().lower() > MAX_DRAIN as u64 {
            return false;
        }
        let drain = async {
            let mut remaining = MAX_DRAIN;
            while let Some(frame) = body.frame().await {
                let length = frame.ok().map(|frame| frame.data_ref().map_or(0, Bytes::len));
                match length.and_then(|length| remaining.checked_sub(length)) {
                    Some(left) => remaining = left,
                    None => return false,
                }
            }
            true
        };
        // A slow client still receives the response.
        tokio::time::timeout(DRAIN_TIMEOUT, drain).await.unwrap_or(false)
    }
}

impl<B: Body> Drop for RequestBody<B> {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            *self.rest.lock() = Rest::Unread(body);
        }
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    RequestBodyError: From<B::Error>,
{
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let timeouts = &this.connection.port.timeouts;
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(context) {
            if this.is_waiting {
                this.is_waiting = false;
                if !this.connection.advance(Phase::Busy) {
                    return Poll::Ready(Some(Err(RequestBodyError::Evicted)));
                }
                if let Some(Ok(frame)) = &frame {
                    this.rate.received(frame.data_ref().map_or(0, Bytes::len), timeouts, Instant::now());
                }
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(RequestBodyError::from)));
        }
        if !this.is_waiting {
            this.is_waiting = true;
            this.connection.advance(Phase::Body);
        }
        let deadline = this.rate.deadline(timeouts, Instant::now());
        ready!(poll_deadline(&mut this.timer, deadline, context));
        this.body = None;
        *this.rest.lock() = Rest::Missing;
        Poll::Ready(Some(Err(RequestBodyError::TooSlow)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

/// The deadline for the next part of a body. Begins when the server first has to wait. Each byte extends it, so that a body
/// that stalls or drips ends early, and one that arrives at the minimum rate never does. Only the time that the server waits
/// for the client counts.
#[derive(Default)]
struct MinimumRate {
    deadline: Option<Instant>,
    /// The end of the last wait. None: the server waits.
    paused_at: Option<Instant>,
}

impl MinimumRate {
    fn deadline(&mut self, timeouts: &Timeouts, now: Instant) -> Instant {
        let deadline = self.deadline.get_or_insert(now + timeouts.body_grace);
        // The handler may have waited for memory meanwhile, which is not the client's fault.
        if let Some(paused_at) = self.paused_at.take() {
            *deadline += now.saturating_duration_since(paused_at);
        }
        *deadline
    }

    fn received(&mut self, bytes: usize, timeouts: &Timeouts, now: Instant) {
        self.paused_at = Some(now);
        if let Some(deadline) = &mut self.deadline {
            let seconds = bytes as f64 / f64::from(timeouts.body_rate.max(1));
            let extended = *deadline + Duration::try_from_secs_f64(seconds).unwrap_or(timeouts.body_grace);
            // A body cannot save up time by a fast start.
            *deadline = extended.min(now + timeouts.body_grace);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::net::connection_state::PortState;

    impl From<Infallible> for RequestBodyError {
        fn from(never: Infallible) -> Self {
            match never {}
        }
    }

    /// A body of parts that a test sends.
    struct Parts(tokio::sync::mpsc::UnboundedReceiver<usize>);

    impl Body for Parts {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let part = self.0.poll_recv(context);
            part.map(|part| part.map(|length| Ok(Frame::data(Bytes::from(vec![b'x'; length])))))
        }
    }

    fn body(
        grace: Duration,
    ) -> (tokio::sync::mpsc::UnboundedSender<usize>, RequestBody<Parts>, UnreadBody<Parts>) {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let timeouts = Timeouts { body_grace: grace, ..Timeouts::default() };
        let connection = ConnectionState::new(PortState::new(timeouts));
        connection.advance(Phase::Busy);
        let (body, unread) = RequestBody::new(Parts(receiver), connection);
        (sender, body, unread)
    }

    #[test]
    fn minimum_rate_is_an_average_without_savings() {
        let timeouts = Timeouts::default();
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut rate = MinimumRate::default();
        assert_eq!(rate.deadline(&timeouts, start), start + 10 * second);
        // One KiB a second keeps the deadline ahead for ever.
        for elapsed in 1..100 {
            rate.received(1024, &timeouts, start + second * elapsed);
            assert_eq!(rate.deadline(&timeouts, start), start + second * (elapsed + 10));
        }
        // A byte a second does not, nor does a megabyte at the start.
        let mut rate = MinimumRate::default();
        rate.deadline(&timeouts, start);
        rate.received(1 << 20, &timeouts, start);
        for elapsed in 1..20 {
            rate.received(1, &timeouts, start + second * elapsed);
        }
        assert!(rate.deadline(&timeouts, start) < start + 11 * second);
    }

    #[test]
    fn minimum_rate_ignores_the_time_that_the_handler_takes() {
        let timeouts = Timeouts::default();
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut rate = MinimumRate::default();
        rate.deadline(&timeouts, start);
        rate.received(0, &timeouts, start + 4 * second);
        assert_eq!(
            rate.deadline(&timeouts, start + 60 * second),
            start + 66 * second,
            "six seconds are left"
        );
        assert_eq!(rate.deadline(&timeouts, start + 61 * second), start + 66 * second, "the same wait");
    }

    #[tokio::test]
    async fn stalled_body_fails() {
        let (sender, mut body, _unread) = body(Duration::from_millis(20));
        sender.send(10).unwrap();
        assert!(body.frame().await.unwrap().is_ok());
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(matches!(error, RequestBodyError::TooSlow), "{error}");
        drop(sender);
    }

    #[tokio::test]
    async fn body_phase_follows_the_wait() {
        let (sender, mut body, _unread) = body(Duration::from_secs(600));
        let connection = body.connection.clone();
        {
            let mut frame = std::pin::pin!(body.frame());
            assert!(futures::poll!(&mut frame).is_pending());
            assert_eq!(connection.snapshot().phase(), Phase::Body);
            sender.send(1).unwrap();
            frame.await.unwrap().unwrap();
        }
        assert_eq!(connection.snapshot().phase(), Phase::Busy);
        let mut frame = std::pin::pin!(body.frame());
        assert!(futures::poll!(&mut frame).is_pending());
        assert!(connection.evict(connection.snapshot()));
        sender.send(1).unwrap();
        let error = frame.await.unwrap().unwrap_err();
        assert!(matches!(error, RequestBodyError::Evicted), "{error}");
    }

    #[tokio::test]
    async fn short_rest_is_drained_and_long_rest_is_left() {
        let whole = Duration::from_secs(600);
        let (sender, read, unread) = body(whole);
        drop(read);
        sender.send(1000).unwrap();
        drop(sender);
        assert!(unread.drain(false).await);

        let (sender, read, unread) = body(whole);
        drop(read);
        sender.send(MAX_DRAIN + 1).unwrap();
        assert!(!unread.drain(false).await);

        let (_sender, read, unread) = body(whole);
        drop(read);
        assert!(!unread.drain(true).await, "the client waits for 100 Continue");
    }
}
