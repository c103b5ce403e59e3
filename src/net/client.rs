//! The HTTP client. Every call has a deadline and a bound on the response body.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use parking_lot::Mutex;

use super::connect::{ConnectError, Egress};
use super::tls::{TlsError, TlsOptions};
use crate::core::egress::EgressDenial;

/// Maximum idle connections to one host. With fewer than a busy hook uses, connections would be reopened constantly.
const IDLE_PER_HOST: usize = 256;
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Interval and timeout of HTTP/2 pings. All requests to a host share one HTTP/2 connection. Without pings, a dead
/// connection would fail them until the kernel gives up after about 15 minutes.
const PING_INTERVAL: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
const PING_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });

/// Maximum cached clients with their own TLS options; the least recently used one is evicted.
const MAX_CLIENTS: usize = 256;

type HyperClient = Client<HttpsConnector<Egress>, Full<Bytes>>;
/// Clients by the fingerprint of their TLS options, with the time of their last use.
type ClientCache = HashMap<[u8; 32], (Instant, Arc<HyperClient>)>;

/// The HTTP client of deliveries and admin calls. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct HttpClient {
    client: Arc<HyperClient>,
    /// The fingerprint of the TLS options.
    tls_identity: [u8; 32],
    shared: Arc<Shared>,
}

/// The state that all clients of the process share.
#[derive(Debug)]
struct Shared {
    egress: Egress,
    /// Hooks with the same TLS options share a client, and with it connections and handshakes.
    cache: Mutex<ClientCache>,
}

/// A response whose body was read up to a bound.
#[derive(Debug)]
pub struct HttpResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The part of the body before its end, the bound, the deadline or an error.
    pub body: Bytes,
    /// False if the body was cut off or exceeded the bound.
    pub complete: bool,
}

/// Why a request got no response. The names of the variants are delivery reasons.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr)]
pub enum SendError {
    #[error("{0}")]
    EgressDenied(String),
    #[error("{0}")]
    Resolve(String),
    #[error("{0}")]
    Connect(String),
    /// The proxy did not open a tunnel.
    #[error("{0}")]
    Proxy(String),
    #[error("no response within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Tls(String),
    #[error("{0}")]
    Protocol(String),
}

impl HttpClient {
    /// Returns a client that trusts the certificate authorities of the system.
    pub fn new(egress: Egress) -> Result<Self, TlsError> {
        let tls = TlsOptions::default();
        let (client, tls_identity) = (build(&tls, &egress)?, tls.fingerprint());
        Ok(HttpClient { client, tls_identity, shared: Arc::new(Shared { egress, cache: Mutex::default() }) })
    }

    /// Returns the client for these TLS options. Other options have another client, so that a replaced certificate takes
    /// effect immediately.
    pub fn with_tls(&self, tls: &TlsOptions) -> Result<Self, TlsError> {
        if tls.is_default() {
            return Ok(self.clone());
        }
        let (key, now) = (tls.fingerprint(), Instant::now());
        let mut cache = self.shared.cache.lock();
        if let Some((last_used, client)) = cache.get_mut(&key) {
            *last_used = now;
            return Ok(HttpClient { client: client.clone(), tls_identity: key, shared: self.shared.clone() });
        }
        let client = build(tls, &self.shared.egress)?;
        if cache.len() >= MAX_CLIENTS {
            let oldest = cache.iter().min_by_key(|(_, (last_used, _))| *last_used).map(|(key, _)| *key);
            oldest.map(|key| cache.remove(&key));
        }
        cache.insert(key, (now, client.clone()));
        Ok(HttpClient { client, tls_identity: key, shared: self.shared.clone() })
    }

    /// Returns a hash of the TLS options: the trusted authorities and the client certificate.
    pub fn tls_identity(&self) -> [u8; 32] {
        self.tls_identity
    }

    /// Sends a request and reads the response, up to `max_body` bytes of the body, within `timeout`.
    ///
    /// Once the status has arrived, a failure while reading the body is not an error: it only sets `complete` to false.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
        max_body: usize,
    ) -> Result<HttpResponse, SendError> {
        self.send_bounded(request, timeout, max_body, &mut |_| true).await
    }

    /// Like `send`. Asks `may_hold` before the body reaches a length in bytes; false cuts the body off.
    pub async fn send_bounded(
        &self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
        max_body: usize,
        may_hold: &mut (dyn FnMut(usize) -> bool + Send),
    ) -> Result<HttpResponse, SendError> {
        let deadline = tokio::time::Instant::now() + timeout;
        let response = tokio::time::timeout_at(deadline, self.client.request(request))
            .await
            .map_err(|_| SendError::Timeout(timeout))?
            .map_err(|error| classify(&error))?;
        let (parts, mut incoming) = response.into_parts();
        let mut body = BytesMut::new();
        let complete = loop {
            match tokio::time::timeout_at(deadline, incoming.frame()).await {
                Ok(None) => break true,
                Ok(Some(Ok(frame))) => {
                    let data = frame.into_data().unwrap_or_default();
                    let remaining = max_body.saturating_sub(body.len());
                    if !may_hold(body.len() + data.len().min(remaining)) {
                        break false;
                    }
                    body.extend_from_slice(data.get(..data.len().min(remaining)).unwrap_or_default());
                    if data.len() > remaining {
                        break false;
                    }
                }
                Ok(Some(Err(_))) | Err(_) => break false,
            }
        };
        Ok(HttpResponse { status: parts.status, headers: parts.headers, body: body.freeze(), complete })
    }
}

fn build(tls: &TlsOptions, egress: &Egress) -> Result<Arc<HyperClient>, TlsError> {
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls.config()?)
        .https_or_http()
        .enable_http1()
        .enable_http2()
        .wrap_connector(egress.clone());
    let client = Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        // Ping idle connections too. Otherwise a connection whose requests all time out before a ping is due is never
        // checked.
        .http2_keep_alive_while_idle(true)
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .build(https);
    Ok(Arc::new(client))
}

/// Finds the error of the connector or of TLS in the causes of a client error.
fn classify(error: &hyper_util::client::legacy::Error) -> SendError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut last = error.to_string();
    while let Some(error) = cause {
        if let Some(connect) = error.downcast_ref::<ConnectError>() {
            let text = connect.to_string();
            return match connect {
                // Temporary, unlike a denial, which ends the delivery.
                ConnectError::Denied { denied: EgressDenial::ApiServerUnknown, .. } => {
                    SendError::Resolve(text)
                }
                ConnectError::Denied { .. } => SendError::EgressDenied(text),
                ConnectError::Resolve { .. } | ConnectError::NoAddress { .. } => SendError::Resolve(text),
                ConnectError::NoHost | ConnectError::Connect { .. } => SendError::Connect(text),
                ConnectError::Proxy { .. } => SendError::Proxy(text),
            };
        }
        if let Some(tls) = tls_error(error) {
            return SendError::Tls(tls.to_string());
        }
        last = error.to_string();
        cause = error.source();
    }
    if error.is_connect() { SendError::Connect(last) } else { SendError::Protocol(last) }
}

/// Unwraps a TLS error from nested I/O errors, which do not return their inner error as `source`.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    error.downcast_ref().or_else(|| tls_error(error.downcast_ref::<std::io::Error>()?.get_ref()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::egress::EgressRules;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn client(loopback: bool) -> HttpClient {
        rustls::crypto::ring::default_provider().install_default().ok();
        HttpClient::new(Egress::new(EgressRules { loopback, ..EgressRules::default() })).unwrap()
    }

    fn get(url: &str) -> Request<Full<Bytes>> {
        Request::get(url).body(Full::default()).unwrap()
    }

    /// Starts a server that reads a request and writes these bytes, and then keeps the connection open if `hang`.
    async fn start_server(response: &'static [u8], hang: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut buffer = [0; 1024];
                drop(socket.read(&mut buffer).await);
                socket.write_all(response).await.ok();
                if hang {
                    std::future::pending::<()>().await;
                }
            }
        });
        url
    }

    const SHORT: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn checks_the_policy_for_every_form_of_an_address() {
        for url in [
            "http://127.0.0.1:1/",
            "http://localhost:1/",
            "http://[::1]:1/",
            "http://[::ffff:127.0.0.1]:1/",
            "http://0.0.0.0:1/",
        ] {
            let error = client(false).send(get(url), LONG, 1).await.unwrap_err();
            assert!(matches!(error, SendError::EgressDenied(_)), "{url}: {error:?}");
        }
    }

    #[tokio::test]
    async fn reads_no_more_than_the_bound() {
        let url = start_server(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789", false).await;
        let response = client(true).send(get(&url), LONG, 4).await.unwrap();
        assert_eq!(
            (response.status.as_u16(), &*response.body, response.complete),
            (200, &b"0123"[..], false)
        );
    }

    #[tokio::test]
    async fn returns_the_status_if_the_body_is_cut_off_or_stalls() {
        for hang in [false, true] {
            let url = start_server(b"HTTP/1.1 202 Accepted\r\ncontent-length: 10\r\n\r\n01", hang).await;
            let response = client(true).send(get(&url), SHORT, 64).await.unwrap();
            assert_eq!(
                (response.status.as_u16(), &*response.body, response.complete),
                (202, &b"01"[..], false)
            );
        }
    }

    #[tokio::test]
    async fn classifies_errors_without_a_response() {
        let hangs = start_server(b"", true).await;
        let garbage = start_server(b"this is no HTTP\r\n\r\n", false).await;
        let error = |url: String| async move { client(true).send(get(&url), SHORT, 64).await.unwrap_err() };
        assert!(matches!(error(hangs).await, SendError::Timeout(_)));
        assert!(matches!(error(garbage).await, SendError::Protocol(_)));
        assert!(matches!(error("http://127.0.0.1:1/".into()).await, SendError::Connect(_)));
        assert!(matches!(error("http://no-such-host.invalid/".into()).await, SendError::Resolve(_)));
    }
}
