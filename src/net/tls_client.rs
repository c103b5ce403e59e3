//! The connections with one set of TLS options: the HTTP versions, the leniency of the parser, and requests that a server
//! did not process.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::connect::Egress;
use super::http1_hosts::Http1Hosts;
use super::status_recorder::RecordingConnector;
use super::tls::{TlsError, TlsOptions};

/// Maximum idle connections to one host. With fewer than a busy hook uses, connections would be reopened constantly.
const IDLE_PER_HOST: usize = 256;
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Interval and timeout of HTTP/2 pings. All requests to a host share one HTTP/2 connection. Without pings, a dead
/// connection would fail them until the kernel gives up after about 15 minutes.
const PING_INTERVAL: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
const PING_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });

/// Maximum header lines of a response that are parsed. A response with more counts by its status line alone.
const MAX_HEADERS: usize = 256;

/// Maximum times that one request is sent because the server did not process it.
const MAX_SENDS: u32 = 5;
/// The delay before the second time, doubled before each further one.
const RESEND_DELAY: Duration = Duration::from_millis(50);

type HyperClient = Client<RecordingConnector<HttpsConnector<Egress>>, Full<Bytes>>;

/// The connections with one set of TLS options.
#[derive(Debug)]
pub(super) struct TlsClient {
    /// Negotiates HTTP/2 or HTTP/1.1.
    any_version: HyperClient,
    /// For the hosts that require HTTP/1.1.
    http1: HyperClient,
    http1_hosts: Http1Hosts,
}

impl TlsClient {
    /// Creates a client without connections. Fails if the TLS options cannot be used.
    pub fn new(tls: &TlsOptions, egress: &Egress) -> Result<Arc<Self>, TlsError> {
        let config = tls.config()?;
        let builder =
            hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config.clone()).https_or_http();
        let any_version = builder.enable_http1().enable_http2().wrap_connector(egress.clone());
        let builder = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config).https_or_http();
        let http1 = builder.enable_http1().wrap_connector(egress.clone());
        Ok(Arc::new(TlsClient {
            any_version: build_client(any_version),
            http1: build_client(http1),
            http1_hosts: Http1Hosts::default(),
        }))
    }

    /// Sends a request and returns the response, whose body is still to be read. Sends it again while the server says that
    /// it has not processed it, so that a restart of the server costs no attempt.
    pub async fn request(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError> {
        let request = with_length(request);
        // Only HTTP/2 servers refuse a request in a way that allows to repeat it, and HTTP/2 needs TLS here.
        let authority = match request.uri().authority() {
            Some(authority) if request.uri().scheme_str() == Some("https") => authority.clone(),
            _ => return self.http1.request(request).await,
        };
        let mut delay = RESEND_DELAY;
        for _ in 1..MAX_SENDS {
            let is_http1 = self.http1_hosts.contains(&authority);
            let client = if is_http1 { &self.http1 } else { &self.any_version };
            let error = match client.request(request.clone()).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            match refusal(&error) {
                Some(Refusal::RequiresHttp1) if !is_http1 => self.http1_hosts.add(authority.clone()),
                Some(Refusal::NotProcessed) => {
                    tokio::time::sleep(delay).await;
                    delay *= 2;
                }
                _ => return Err(error),
            }
        }
        let client = if self.http1_hosts.contains(&authority) { &self.http1 } else { &self.any_version };
        client.request(request).await
    }
}

/// Adds `Content-Length: 0` to a request without a body whose method has a body: many servers answer 411 without it
/// (RFC 9110, section 8.6).
fn with_length(mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    let has_body = [Method::POST, Method::PUT, Method::PATCH].contains(request.method());
    if has_body && request.body().is_end_stream() {
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    request
}

/// Why a server did not process a request.
enum Refusal {
    /// The server requires HTTP/1.1 (RFC 9113, section 7): for example one that asks for a client certificate later.
    RequiresHttp1,
    /// The server reset the stream with REFUSED_STREAM, or closed the connection with a GOAWAY frame that excludes the
    /// stream (RFC 9113, section 8.7).
    NotProcessed,
}

fn refusal(error: &ClientError) -> Option<Refusal> {
    let error: &h2::Error = causes(error).find_map(|cause| cause.downcast_ref())?;
    if !error.is_remote() {
        return None;
    }
    match error.reason() {
        Some(h2::Reason::HTTP_1_1_REQUIRED) => Some(Refusal::RequiresHttp1),
        Some(h2::Reason::REFUSED_STREAM) => Some(Refusal::NotProcessed),
        _ if error.is_go_away() => Some(Refusal::NotProcessed),
        _ => None,
    }
}

fn build_client(connector: HttpsConnector<Egress>) -> HyperClient {
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        // Accept what other clients accept, because a receiver that processed an event must not get it again.
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_ignore_invalid_headers_in_responses(true)
        .http1_max_headers(MAX_HEADERS)
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        // Ping idle connections too. Otherwise a connection whose requests all time out before a ping is due is never
        // checked.
        .http2_keep_alive_while_idle(true)
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .build(RecordingConnector(connector))
}

/// Returns an error and its causes, the outermost first.
pub(super) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}
