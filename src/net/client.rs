//! The HTTP client. Every call has a deadline and a bound on the response body.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Error as ClientError;

use parking_lot::Mutex;

use super::connect::{ConnectError, Egress};
use super::status_recorder::recorded_status;
use super::tls::{TlsError, TlsOptions, describe_tls_error};
use super::tls_client::{TlsClient, causes};
use crate::core::egress::EgressDenial;

/// Maximum cached clients with their own TLS options; the least recently used one is evicted.
const MAX_CLIENTS: usize = 256;

/// Clients by the fingerprint of their TLS options, with the time of their last use.
type ClientCache = HashMap<[u8; 32], (Instant, Arc<TlsClient>)>;

/// The HTTP client of deliveries and admin calls. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct HttpClient {
    client: Arc<TlsClient>,
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
        let (client, tls_identity) = (TlsClient::new(&tls, &egress)?, tls.fingerprint());
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
        let client = TlsClient::new(tls, &self.shared.egress)?;
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
        let response = match tokio::time::timeout_at(deadline, self.client.request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return status_alone(&error).ok_or_else(|| classify(&error)),
            Err(_) => return Err(SendError::Timeout(timeout)),
        };
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

/// Returns the response to a request whose status line was read and whose other headers cannot be parsed. The status
/// decides: a server that answered 200 must not get the request again.
fn status_alone(error: &ClientError) -> Option<HttpResponse> {
    let is_invalid = causes(error)
        .filter_map(|cause| cause.downcast_ref::<hyper::Error>())
        .any(|error| error.is_parse() || error.is_parse_too_large() || error.is_incomplete_message());
    let status = error.connect_info().filter(|_| is_invalid).and_then(recorded_status)?;
    Some(HttpResponse { status, headers: HeaderMap::new(), body: Bytes::new(), complete: false })
}

/// Finds the error of the connector or of TLS in the causes of a client error.
fn classify(error: &ClientError) -> SendError {
    let mut last = error.to_string();
    for error in causes(error) {
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
            return SendError::Tls(describe_tls_error(tls));
        }
        last = error.to_string();
    }
    if error.is_connect() { SendError::Connect(last) } else { SendError::Protocol(last) }
}

/// Describes the innermost cause of an error, which is the most specific.
pub fn describe_cause(error: &(dyn Error + 'static)) -> String {
    let tls = causes(error).find_map(tls_error).map(describe_tls_error);
    tls.unwrap_or_else(|| causes(error).last().map_or_else(String::new, ToString::to_string))
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

    /// More than many parsers accept.
    const MANY_HEADERS: usize = 200;
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
    async fn a_status_line_decides_although_the_head_is_odd() {
        const HEAD: &str = "HTTP/1.1 200 OK\r\n";
        const END: &str = "content-length: 2\r\n\r\nok";
        let many: String = (0..MANY_HEADERS).map(|n| format!("x-{n}: v\r\n")).collect();
        let more: String = (0..10 * MANY_HEADERS).map(|n| format!("x-{n}: v\r\n")).collect();
        let parsed = [
            "x-info: one\r\n two\r\n\tthree\r\n",
            "x-info : one\r\n",
            "Notice: a stray line\r\nnone\r\n",
            &many,
        ];
        for odd in parsed {
            let url = start_server(format!("{HEAD}{odd}{END}").into_bytes().leak(), false).await;
            let response = client(true).send(get(&url), LONG, 64).await.unwrap();
            let shown = odd.get(..20).unwrap_or(odd);
            assert_eq!(
                (response.status.as_u16(), &*response.body, response.complete),
                (200, &b"ok"[..], true),
                "{shown}"
            );
        }
        // No parser accepts these, but the status was read.
        for (odd, status) in [
            (&*more, 200),
            ("content-length: x\r\n", 200),
            ("transfer-encoding: gzip\r\ncontent-length: 3\r\n", 200),
        ] {
            let url = start_server(format!("{HEAD}{odd}{END}").into_bytes().leak(), false).await;
            let response = client(true).send(get(&url), LONG, 64).await.unwrap();
            assert_eq!(response.status.as_u16(), status, "{}", odd.get(..20).unwrap_or(odd));
        }
        let url = start_server(b"HTTP/1.1 503 Busy\r\nretry-af", false).await;
        assert_eq!(client(true).send(get(&url), LONG, 64).await.unwrap().status.as_u16(), 503, "cut off");
    }

    #[tokio::test]
    async fn the_status_of_an_earlier_response_does_not_count() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 1024];
            for response in [&b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"[..], b"garbage\r\n\r\n"] {
                drop(socket.read(&mut buffer).await);
                socket.write_all(response).await.ok();
            }
        });
        let client = client(true);
        assert_eq!(client.send(get(&url), LONG, 64).await.unwrap().status.as_u16(), 200);
        assert!(matches!(client.send(get(&url), LONG, 64).await, Err(SendError::Protocol(_))));
    }

    #[tokio::test]
    async fn an_empty_body_has_a_length() {
        for (method, expected) in
            [("POST", true), ("PUT", true), ("PATCH", true), ("DELETE", false), ("GET", false)]
        {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/", listener.local_addr().unwrap());
            let received = tokio::spawn(async move {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut buffer = vec![0; 1024];
                let length = socket.read(&mut buffer).await.unwrap();
                socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                String::from_utf8_lossy(&buffer[..length]).to_lowercase()
            });
            let request = Request::builder().method(method).uri(&url).body(Full::default()).unwrap();
            client(true).send(request, LONG, 64).await.unwrap();
            let head = received.await.unwrap();
            assert_eq!(head.contains("\r\ncontent-length: 0\r\n"), expected, "{method}: {head}");
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
