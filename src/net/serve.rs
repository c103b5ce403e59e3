//! A small HTTP/1 server. Unlike axum's, it can close a connection without a response.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use http::Request;
use http::header::EXPECT;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower_service::Service;
use tracing::Instrument;

use super::linger::LingeringBody;
use super::request_id::RequestId;
use super::serve_tls::ServerTls;

/// Further connections wait in the kernel's accept queue.
const MAX_CONNECTIONS: usize = 1024;
/// Time for in-flight requests to complete after the shutdown began.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// A response extension that closes the connection instead of sending the response.
#[derive(Clone, Copy)]
pub struct CloseWithoutResponse;

#[derive(Debug, thiserror::Error)]
#[error("closed without a response")]
struct ClosedWithoutResponse;

/// Serves until `shutdown` completes. Dropping the future closes every connection.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future) {
    serve_tls(listener, router, None, shutdown).await;
}

/// Serves with TLS if a certificate is given. See [`serve`].
pub async fn serve_tls(
    listener: TcpListener,
    router: Router,
    tls: Option<Arc<ServerTls>>,
    shutdown: impl Future,
) {
    let stop = CancellationToken::new();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accept = async {
            let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
            match listener.accept().await {
                Ok((stream, _)) => Some((stream, permit)),
                Err(error) => {
                    // For example, too many open files. Without a pause this loop would spin.
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    None
                }
            }
        };
        tokio::select! {
            _ = &mut shutdown => break,
            // Remove the results of closed connections, which would otherwise accumulate.
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = accept => if let Some((stream, permit)) = accepted {
                let (router, tls, stop) = (router.clone(), tls.clone(), stop.clone());
                connections.spawn(async move {
                    // Responses are small: Nagle's algorithm would only delay each by 40 ms.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "setting nodelay failed");
                    }
                    match tls {
                        None => serve_connection(stream, router, stop).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve_connection(stream, router, stop).await,
                            Err(error) => tracing::debug!(%error, "TLS handshake failed"),
                        },
                    }
                    drop(permit);
                });
            },
        }
    }
    drop(listener);
    stop.cancel();
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, all_ended).await.is_err() {
        tracing::warn!("shutdown timed out, closed connections with requests in flight");
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    stop: CancellationToken,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let mut router = router.clone();
        async move {
            // A client that waits for `100 Continue` sends no body after an early response.
            let expects_continue = request.headers().contains_key(EXPECT);
            let (parts, body) = request.into_parts();
            let (body, unread) = LingeringBody::new(body);
            let id = RequestId::from_headers(&parts.headers);
            let span = id.span();
            let result: Result<Response, Infallible> =
                router.call(Request::from_parts(parts, body)).instrument(span).await;
            match result {
                Ok(response) if response.extensions().get::<CloseWithoutResponse>().is_some() => {
                    Err(ClosedWithoutResponse)
                }
                Ok(mut response) => {
                    id.apply_to(&mut response);
                    if !expects_continue {
                        unread.drain().await;
                    }
                    Ok(response)
                }
                Err(never) => match never {},
            }
        }
    });
    let connection =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection failed");
    }
}
