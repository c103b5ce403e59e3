//! A refusal that is heard: what a sender still writes is read and forgotten before it is answered.
//!
//! A server that answers without having read the whole request closes the connection, and the sender, who is still
//! writing, finds it broken before it has read why.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use parking_lot::Mutex;

/// More than this is not read for a sender's sake: it finds its connection broken.
const MAX_REST: usize = 16 << 20;
/// Nor is it waited longer than this for the rest.
const WITHIN: Duration = Duration::from_secs(2);

/// The body of a request. Dropped before its end, it leaves the rest to [`Rest`].
pub struct Lingering {
    body: Option<Incoming>,
    rest: Arc<Mutex<Option<Incoming>>>,
}

/// What nobody read of a request's body.
pub struct Rest(Arc<Mutex<Option<Incoming>>>);

impl Lingering {
    pub fn new(body: Incoming) -> (Self, Rest) {
        let rest = Arc::default();
        (Lingering { body: Some(body), rest: Arc::clone(&rest) }, Rest(rest))
    }
}

impl Rest {
    /// Reads what is left of the body, within bounds, and forgets it.
    pub async fn forget(self) {
        let Some(mut body) = self.0.lock().take() else { return };
        let all = async {
            let mut left = MAX_REST;
            while let Some(Ok(frame)) = body.frame().await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if left == 0 {
                    break;
                }
            }
        };
        // A sender that drips is answered all the same.
        tokio::time::timeout(WITHIN, all).await.ok();
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            *self.rest.lock() = Some(body);
        }
    }
}

impl Body for Lingering {
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
