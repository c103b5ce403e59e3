//! Tests of HTTP/2: requests share one connection, a silent connection is replaced, and a request that the server did not
//! process is sent again.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::tls::TlsOptions;
use super::{Egress, HttpClient, HttpResponse, SendError};
use crate::core::egress::EgressRules;

struct Server {
    url: String,
    connections: Arc<AtomicUsize>,
    /// Cancel it to make the existing connections stay open without reading or writing.
    silence: CancellationToken,
}

async fn respond(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!(request.version(), Version::HTTP_2);
    Ok(Response::new(Full::from("HTTP/2")))
}

/// Returns an acceptor that offers HTTP/2 and HTTP/1.1.
fn tls_acceptor() -> TlsAcceptor {
    rustls::crypto::ring::default_provider().install_default().ok();
    let pair = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(pair.signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let mut config = config.with_single_cert(vec![pair.cert.der().clone()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn start_server() -> Server {
    let acceptor = tls_acceptor();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let (connections, silence) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
    let (counted, silent) = (connections.clone(), silence.clone());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            // Later connections respond normally.
            let silent = if silent.is_cancelled() { CancellationToken::new() } else { silent.clone() };
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(socket).await else { return };
                let builder = http2::Builder::new(TokioExecutor::new());
                let mut connection =
                    std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service_fn(respond)));
                tokio::select! {
                    _ = connection.as_mut() => {}
                    () = silent.cancelled() => std::future::pending().await,
                }
            });
        }
    });
    Server { url, connections, silence }
}

/// Starts a server that handles its connections with `serve`, one after the other; the number counts them from zero.
async fn start_custom_server<F>(serve: impl Fn(TlsStream<TcpStream>, usize) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let acceptor = tls_acceptor();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(socket).await else { continue };
            tokio::spawn(serve(stream, number));
            number += 1;
        }
    });
    url
}

/// Resets the first `resets` streams of all connections with `reason`, and answers the others with 200. Answers every
/// HTTP/1.1 request with 201.
async fn reset_streams(
    mut stream: TlsStream<TcpStream>,
    received: Arc<AtomicUsize>,
    resets: usize,
    reason: h2::Reason,
) {
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        while stream.read(&mut [0; 4096]).await.is_ok_and(|length| length > 0) {
            received.fetch_add(1, Ordering::SeqCst);
            stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
        return;
    }
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        if received.fetch_add(1, Ordering::SeqCst) < resets {
            respond.send_reset(reason);
        } else {
            respond.send_response(Response::new(()), true).unwrap();
        }
    }
}

fn client() -> HttpClient {
    let client =
        HttpClient::new(Egress::new(EgressRules { loopback: true, ..EgressRules::default() })).unwrap();
    client.with_tls(&TlsOptions { insecure: true, ..TlsOptions::default() }).unwrap()
}

async fn get(client: &HttpClient, url: &str, timeout: Duration) -> Result<HttpResponse, SendError> {
    client.send(Request::get(url).body(Full::default()).unwrap(), timeout, 1024).await
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn many_requests_share_a_connection() {
    let (server, client) = (start_server().await, client());
    assert_eq!(&*get(&client, &server.url, LONG).await.unwrap().body, b"HTTP/2");
    let many = (0..50).map(|_| get(&client, &server.url, LONG));
    for response in futures::future::join_all(many).await {
        assert_eq!(response.unwrap().status, 200);
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn replaces_a_silent_connection() {
    let (server, client) = (start_server().await, client());
    get(&client, &server.url, LONG).await.unwrap();
    server.silence.cancel();
    let started = Instant::now();
    // Each request times out before the ping does, so that only pings of the idle connection detect the failure.
    while get(&client, &server.url, Duration::from_millis(300)).await.is_err() {
        assert!(started.elapsed() < LONG, "the silent connection is still used");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn uses_http1_where_the_server_requires_it() {
    let received = Arc::new(AtomicUsize::new(0));
    let counter = received.clone();
    let url = start_custom_server(move |stream, _| {
        reset_streams(stream, counter.clone(), usize::MAX, h2::Reason::HTTP_1_1_REQUIRED)
    })
    .await;
    let client = client();
    for _ in 0..3 {
        assert_eq!(get(&client, &url, LONG).await.unwrap().status, 201);
    }
    assert_eq!(received.load(Ordering::SeqCst), 4, "only the first request is tried with HTTP/2");
}

#[tokio::test]
async fn sends_again_what_the_server_refused() {
    let start = async |resets, reason| {
        let received = Arc::new(AtomicUsize::new(0));
        let counter = received.clone();
        let url =
            start_custom_server(move |stream, _| reset_streams(stream, counter.clone(), resets, reason))
                .await;
        (url, received)
    };
    let (url, received) = start(2, h2::Reason::REFUSED_STREAM).await;
    assert_eq!(get(&client(), &url, LONG).await.unwrap().status, 200);
    assert_eq!(received.load(Ordering::SeqCst), 3);
    let (url, received) = start(usize::MAX, h2::Reason::REFUSED_STREAM).await;
    assert!(matches!(get(&client(), &url, LONG).await, Err(SendError::Protocol(_))));
    assert_eq!(received.load(Ordering::SeqCst), 5, "the number of requests is bounded");
    // The server may have processed these.
    for reason in [h2::Reason::INTERNAL_ERROR, h2::Reason::CANCEL] {
        let (url, received) = start(usize::MAX, reason).await;
        assert!(get(&client(), &url, LONG).await.is_err());
        assert_eq!(received.load(Ordering::SeqCst), 1, "{reason:?}");
    }
}

#[tokio::test]
async fn sends_again_what_a_closed_connection_did_not_process() {
    // GOAWAY with NO_ERROR and the last processed stream 0: the server processed nothing.
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const HEADERS_FRAME: u8 = 1;
    let url = start_custom_server(async |mut stream, number| {
        if number > 0 {
            reset_streams(stream, Arc::default(), 0, h2::Reason::NO_ERROR).await;
            return;
        }
        stream.write_all(SETTINGS).await.unwrap();
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            stream.read_exact(&mut vec![0; length]).await.unwrap();
            if head[3] == HEADERS_FRAME {
                break;
            }
        }
        stream.write_all(GOAWAY).await.unwrap();
        stream.shutdown().await.ok();
    })
    .await;
    assert_eq!(get(&client(), &url, LONG).await.unwrap().status, 200);
}
