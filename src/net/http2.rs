//! HTTP/2, where the server speaks it: one connection for many requests, given up when it went silent.

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
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::tls::TlsOptions;
use super::{Answer, Egress, HttpClient, SendError};
use crate::core::egress::Policy;

struct Server {
    url: String,
    connections: Arc<AtomicUsize>,
    /// Connections that are there then neither read nor write any more, and stay open.
    silence: CancellationToken,
}

/// Answers with the version of HTTP that it was asked by.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!(request.version(), Version::HTTP_2);
    Ok(Response::new(Full::from("HTTP/2")))
}

async fn server() -> Server {
    rustls::crypto::ring::default_provider().install_default().ok();
    let pair = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(pair.signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let mut config = config.with_single_cert(vec![pair.cert.der().clone()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let (connections, silence) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
    let (counted, silent) = (connections.clone(), silence.clone());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            // Those that come later speak.
            let silent = if silent.is_cancelled() { CancellationToken::new() } else { silent.clone() };
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(socket).await else { return };
                let builder = http2::Builder::new(TokioExecutor::new());
                let mut connection =
                    std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service_fn(answer)));
                tokio::select! {
                    _ = connection.as_mut() => {}
                    () = silent.cancelled() => std::future::pending().await,
                }
            });
        }
    });
    Server { url, connections, silence }
}

fn client() -> HttpClient {
    let client = HttpClient::new(Egress::new(Policy { loopback: true, ..Policy::default() })).unwrap();
    client.with(&TlsOptions { insecure: true, ..TlsOptions::default() }).unwrap()
}

async fn get(client: &HttpClient, url: &str, within: Duration) -> Result<Answer, SendError> {
    client.send(Request::get(url).body(Full::default()).unwrap(), within, 1024).await
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn many_requests_share_a_connection() {
    let (server, client) = (server().await, client());
    assert_eq!(&*get(&client, &server.url, LONG).await.unwrap().body, b"HTTP/2");
    let many = (0..50).map(|_| get(&client, &server.url, LONG));
    for answer in futures::future::join_all(many).await {
        assert_eq!(answer.unwrap().status, 200);
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_connection_that_went_silent_is_given_up() {
    let (server, client) = (server().await, client());
    get(&client, &server.url, LONG).await.unwrap();
    server.silence.cancel();
    let begun = Instant::now();
    // Shorter than what it takes to find out: each of them alone would never.
    while get(&client, &server.url, Duration::from_millis(300)).await.is_err() {
        assert!(begun.elapsed() < LONG, "the silent connection is used still");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
}
