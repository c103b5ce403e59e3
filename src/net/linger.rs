//! Drains the rest of a request body before an early response is sent.
//!
//! A server that responds before it has read the whole request closes the connection. A client that is still writing then
//! gets a connection reset and never reads the response.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use parking_lot::Mutex;

/// Maximum bytes to drain; a client that sends more gets a connection reset.
const MAX_DRAIN: usize = 16 << 20;
/// Maximum time to drain.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// A request body. If it is dropped before its end, [`UnreadBody`] receives the rest.
pub struct LingeringBody {
    body: Option<Incoming>,
    unread: Arc<Mutex<Option<Incoming>>>,
}

/// The unread rest of a request body.
pub struct UnreadBody(Arc<Mutex<Option<Incoming>>>);

impl LingeringBody {
    pub fn new(body: Incoming) -> (Self, UnreadBody) {
        let unread = Arc::default();
        (LingeringBody { body: Some(body), unread: Arc::clone(&unread) }, UnreadBody(unread))
    }
}

impl UnreadBody {
    /// Reads and discards the rest of the body, at most `MAX_DRAIN` bytes within `DRAIN_TIMEOUT`.
    pub async fn drain(self) {
        let Some(mut body) = self.0.lock().take() else { return };
        let drain = async {
            let mut remaining = MAX_DRAIN;
            while let Some(Ok(frame)) = body.frame().await {
                remaining = remaining.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if remaining == 0 {
                    break;
                }
            }
        };
        // A slow client still receives the response.
        tokio::time::timeout(DRAIN_TIMEOUT, drain).await.ok();
    }
}

impl Drop for LingeringBody {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            *self.unread.lock() = Some(body);
        }
    }
}

impl Body for LingeringBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}
