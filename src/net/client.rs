//! A client with a deadline and a bound for every call.

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

/// Idle connections kept to one host: fewer than a busy hook uses would be opened and closed all the time.
const IDLE_PER_HOST: usize = 256;
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection of HTTP/2 is shared by all requests to a host. One that went silent would fail them until the kernel gives
/// up, which takes a quarter of an hour: it is asked so often, and has this long to answer.
const PING_EVERY: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
const PING_WITHIN: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });

/// Clients with TLS options of their own that are kept; then those that nobody used for the longest go.
const MAX_CLIENTS: usize = 256;

type Inner = Client<HttpsConnector<Egress>, Full<Bytes>>;
type Others = HashMap<[u8; 32], (Instant, Arc<Inner>)>;

/// The HTTP client of deliveries and admin calls. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct HttpClient {
    client: Arc<Inner>,
    shared: Arc<Shared>,
}

/// What all clients of the process have in common.
#[derive(Debug)]
struct Shared {
    egress: Egress,
    /// Clients by their TLS options, so that hooks with the same options share connections and handshakes.
    others: Mutex<Others>,
}

/// An answer, read up to a bound.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// What was read of the body before its end, the bound, the deadline or an error.
    pub body: Bytes,
    /// False: the body broke off, or was longer than the bound.
    pub complete: bool,
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr)]
pub enum SendError {
    #[error("{0}")]
    EgressDenied(String),
    #[error("{0}")]
    Resolve(String),
    #[error("{0}")]
    Connect(String),
    /// The proxy made no way there.
    #[error("{0}")]
    Proxy(String),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Tls(String),
    #[error("{0}")]
    Protocol(String),
}

impl HttpClient {
    /// A client that trusts the system's certificate authorities.
    pub fn new(egress: Egress) -> Result<Self, TlsError> {
        let client = build(&TlsOptions::default(), &egress)?;
        Ok(HttpClient { client, shared: Arc::new(Shared { egress, others: Mutex::default() }) })
    }

    /// The client for these TLS options. Other options are another client, so a replaced certificate counts at once.
    pub fn with(&self, tls: &TlsOptions) -> Result<Self, TlsError> {
        if tls.is_default() {
            return Ok(self.clone());
        }
        let (key, now) = (tls.fingerprint(), Instant::now());
        let mut others = self.shared.others.lock();
        if let Some((used, client)) = others.get_mut(&key) {
            *used = now;
            return Ok(HttpClient { client: client.clone(), shared: self.shared.clone() });
        }
        let client = build(tls, &self.shared.egress)?;
        if others.len() >= MAX_CLIENTS {
            let oldest = others.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key);
            oldest.map(|key| others.remove(&key));
        }
        others.insert(key, (now, client.clone()));
        Ok(HttpClient { client, shared: self.shared.clone() })
    }

    /// Sends a request and reads the answer, at most `max_body` bytes of it, all within `timeout`.
    ///
    /// Once the status is there it is the answer, even if the body then breaks or drips: `complete` tells.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
        max_body: usize,
    ) -> Result<Answer, SendError> {
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
                    let room = max_body.saturating_sub(body.len());
                    body.extend_from_slice(data.get(..data.len().min(room)).unwrap_or_default());
                    if data.len() > room {
                        break false;
                    }
                }
                Ok(Some(Err(_))) | Err(_) => break false,
            }
        };
        Ok(Answer { status: parts.status, headers: parts.headers, body: body.freeze(), complete })
    }
}

fn build(tls: &TlsOptions, egress: &Egress) -> Result<Arc<Inner>, TlsError> {
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls.config()?)
        .https_or_http()
        .enable_http1()
        .enable_http2()
        .wrap_connector(egress.clone());
    let client = Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(PING_EVERY)
        .http2_keep_alive_timeout(PING_WITHIN)
        // Requests that end before it is asked would else keep it from being asked.
        .http2_keep_alive_while_idle(true)
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .build(https);
    Ok(Arc::new(client))
}

/// Finds in a client error what the connector or TLS said.
fn classify(error: &hyper_util::client::legacy::Error) -> SendError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut last = error.to_string();
    while let Some(one) = cause {
        if let Some(connect) = one.downcast_ref::<ConnectError>() {
            let text = connect.to_string();
            return match connect {
                ConnectError::Denied { .. } => SendError::EgressDenied(text),
                ConnectError::Resolve { .. } | ConnectError::NoAddress { .. } => SendError::Resolve(text),
                ConnectError::NoHost | ConnectError::Connect { .. } => SendError::Connect(text),
                ConnectError::Proxy { .. } => SendError::Proxy(text),
            };
        }
        if let Some(tls) = tls_error(one) {
            return SendError::Tls(tls.to_string());
        }
        last = one.to_string();
        cause = one.source();
    }
    if error.is_connect() { SendError::Connect(last) } else { SendError::Protocol(last) }
}

/// TLS errors come wrapped into I/O errors, once or twice, whose inner error is no `source`.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    error.downcast_ref().or_else(|| tls_error(error.downcast_ref::<std::io::Error>()?.get_ref()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::egress::Policy;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn client(loopback: bool) -> HttpClient {
        rustls::crypto::ring::default_provider().install_default().ok();
        HttpClient::new(Egress::new(Policy { loopback, ..Policy::default() })).unwrap()
    }

    fn get(url: &str) -> Request<Full<Bytes>> {
        Request::get(url).body(Full::default()).unwrap()
    }

    /// A server that reads a request and then writes these bytes.
    async fn server(answer: &'static [u8], hang: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut buffer = [0; 1024];
                drop(socket.read(&mut buffer).await);
                socket.write_all(answer).await.ok();
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
    async fn the_policy_is_asked_for_every_form_of_an_address() {
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
    async fn reads_no_more_than_asked() {
        let url = server(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789", false).await;
        let answer = client(true).send(get(&url), LONG, 4).await.unwrap();
        assert_eq!((answer.status.as_u16(), &*answer.body, answer.complete), (200, &b"0123"[..], false));
    }

    #[tokio::test]
    async fn a_status_is_an_answer_even_if_the_body_breaks_or_drips() {
        for hang in [false, true] {
            let url = server(b"HTTP/1.1 202 Accepted\r\ncontent-length: 10\r\n\r\n01", hang).await;
            let answer = client(true).send(get(&url), SHORT, 64).await.unwrap();
            assert_eq!((answer.status.as_u16(), &*answer.body, answer.complete), (202, &b"01"[..], false));
        }
    }

    #[tokio::test]
    async fn no_answer_has_a_reason() {
        let hangs = server(b"", true).await;
        let garbage = server(b"this is no HTTP\r\n\r\n", false).await;
        let error = |url: String| async move { client(true).send(get(&url), SHORT, 64).await.unwrap_err() };
        assert!(matches!(error(hangs).await, SendError::Timeout(_)));
        assert!(matches!(error(garbage).await, SendError::Protocol(_)));
        assert!(matches!(error("http://127.0.0.1:1/".into()).await, SendError::Connect(_)));
        assert!(matches!(error("http://no-such-host.invalid/".into()).await, SendError::Resolve(_)));
    }
}
