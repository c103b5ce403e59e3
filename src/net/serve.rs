//! A small HTTP/1 server that, unlike axum's, can close a connection without an answer.

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

use super::linger::Lingering;
use super::request_id::RequestId;
use super::serve_tls::ServerTls;

/// More connections than this wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;
/// How long requests under way may take once the server is asked to stop.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// Put into a response's extensions, this closes the connection instead of answering.
#[derive(Clone, Copy)]
pub struct CloseWithoutAnswer;

#[derive(Debug, thiserror::Error)]
#[error("closed without an answer")]
struct Closed;

/// Serves until `shutdown` is ready. Dropping the future ends every connection.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future) {
    serve_tls(listener, router, None, shutdown).await;
}

/// The same, by TLS where there is a certificate.
pub async fn serve_tls(
    listener: TcpListener,
    router: Router,
    tls: Option<Arc<ServerTls>>,
    shutdown: impl Future,
) {
    let stop = CancellationToken::new();
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accept = async {
            let permit = Arc::clone(&free).acquire_owned().await.ok()?;
            match listener.accept().await {
                Ok((stream, _)) => Some((stream, permit)),
                Err(error) => {
                    // For example too many open files: without a pause this loop would spin.
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    None
                }
            }
        };
        tokio::select! {
            _ = &mut shutdown => break,
            // Reaps ended connections, whose results would otherwise gather.
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = accept => if let Some((stream, permit)) = accepted {
                let (router, tls, stop) = (router.clone(), tls.clone(), stop.clone());
                connections.spawn(async move {
                    // Answers are small: waiting to fill a packet would only add 40 ms to each.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "nodelay");
                    }
                    match tls {
                        None => connection(stream, router, stop).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => connection(stream, router, stop).await,
                            Err(error) => tracing::debug!(%error, "no handshake"),
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
    if tokio::time::timeout(STOP_WITHIN, all_ended).await.is_err() {
        tracing::warn!("requests under way were cut off");
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router, stop: CancellationToken) {
    let service = service_fn(|request: Request<Incoming>| {
        let mut router = router.clone();
        async move {
            // Who waits for leave to send its body sends none after a refusal.
            let waits = request.headers().contains_key(EXPECT);
            let (parts, body) = request.into_parts();
            let (body, rest) = Lingering::new(body);
            let id = RequestId::of(&parts.headers);
            let span = id.span();
            let answer: Result<Response, Infallible> =
                router.call(Request::from_parts(parts, body)).instrument(span).await;
            match answer {
                Ok(response) if response.extensions().get::<CloseWithoutAnswer>().is_some() => Err(Closed),
                Ok(mut response) => {
                    id.tell(&mut response);
                    if !waits {
                        rest.forget().await;
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
        tracing::debug!(%error, "connection ended");
    }
}
