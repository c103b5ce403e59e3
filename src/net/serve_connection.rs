//! Serves the requests of one connection.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CONNECTION, EXPECT, HOST, HeaderValue};
use http::request::Parts;
use http::{Request, Version};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::connection_state::{ConnectionState, Phase};
use super::problem::ProblemBody;
use super::request_body::RequestBody;
use super::request_id::RequestId;
use super::timed_stream::TimedStream;

/// The largest head of a request. Also bounds the read buffer of a connection.
const MAX_HEAD: usize = 32 << 10;

/// The other side of a request's connection, as a request extension.
#[derive(Clone, Copy, Debug)]
pub struct ClientAddress {
    pub address: IpAddr,
    /// True if many clients share the address: a loopback address, or a proxy that a flag names.
    pub is_shared: bool,
}

/// A response extension that closes the connection instead of sending the response.
#[derive(Clone, Copy)]
pub struct CloseWithoutResponse;

#[derive(Debug, thiserror::Error)]
#[error("closed without a response")]
struct ClosedWithoutResponse;

/// Serves requests until the connection ends.
pub async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    client: ClientAddress,
    connection: Arc<ConnectionState>,
    stop: CancellationToken,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let (mut router, connection) = (router.clone(), connection.clone());
        // Not in the future, because hyper reads once more before it polls that.
        let is_open = connection.advance(Phase::Busy);
        async move {
            if !is_open {
                return Err(ClosedWithoutResponse);
            }
            // A client that waits for `100 Continue` sends no body after an early response.
            let is_held_back = request.headers().contains_key(EXPECT);
            let (parts, body) = request.into_parts();
            let (body, unread) = RequestBody::new(body, connection.clone());
            let id = RequestId::from_headers(&parts.headers);
            let mut response = match host_problem(&parts) {
                Some(problem) => {
                    drop(body);
                    problem.into_response()
                }
                None => {
                    let mut request = Request::from_parts(parts, body);
                    request.extensions_mut().insert(client);
                    let result: Result<Response, Infallible> = id.scope(router.call(request)).await;
                    result.unwrap_or_else(|never| match never {})
                }
            };
            // A handler that gave up on the body: its response must not be cut off in favour of another connection.
            if connection.snapshot().phase() == Phase::Body && !connection.advance(Phase::Busy) {
                return Err(ClosedWithoutResponse);
            }
            if response.extensions().get::<CloseWithoutResponse>().is_some() {
                return Err(ClosedWithoutResponse);
            }
            id.apply_to(&mut response);
            if !unread.drain(is_held_back).await {
                // Without the header, the client would send its next request on a connection that is closed.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                connection.linger_at_close();
            }
            Ok(response.map(|body| ResponseBody { body, _sent: SentGuard(connection) }))
        }
    });
    let mut builder = http1::Builder::new();
    // `TimedStream` enforces the deadlines. hyper's own would close idle connections as early as slow ones.
    builder.header_read_timeout(None).max_buf_size(MAX_HEAD).max_header_size(MAX_HEAD);
    let stream = TokioIo::new(TimedStream::new(stream, connection.clone()));
    let mut served = pin!(builder.serve_connection(stream, service));
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection failed");
    }
}

/// Returns the problem with the request's `Host`. RFC 9112, section 3.2: a server must answer 400 to a request of HTTP/1.1
/// that has none or several. A proxy in front of the port could otherwise take another one for the host than this process.
fn host_problem(parts: &Parts) -> Option<ProblemBody> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let detail = match (hosts.next(), hosts.next()) {
        (None, _) if parts.version <= Version::HTTP_10 => return None,
        (None, _) => "the request has no Host header, which HTTP/1.1 requires",
        (Some(_), Some(_)) => "the request has several Host headers",
        (Some(host), None) if is_host(host.as_bytes()) => return None,
        (Some(_), None) => "the Host header is no host and port",
    };
    Some(ProblemBody::new(400, "BadHost", detail))
}

/// True for the characters of a host and a port. A list of hosts, a URL and credentials have others.
fn is_host(host: &[u8]) -> bool {
    host.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+;=:[]%".contains(b))
}

/// A response body that reports its end.
struct ResponseBody {
    body: Body,
    _sent: SentGuard,
}

struct SentGuard(Arc<ConnectionState>);

impl Drop for SentGuard {
    fn drop(&mut self) {
        self.0.advance(Phase::Idle);
    }
}

impl hyper::body::Body for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
