//! Tests of HTTP/2: requests share one connection, and a silent connection is replaced.

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

async fn start_server() -> Server {
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
