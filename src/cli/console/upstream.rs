//! Requests to the worker: at its URL, or through the API server with the user's kubeconfig.
//!
//! Through the API server, the credentials of the kubeconfig authenticate the proxy to the API server, which removes
//! them. The worker gets the ServiceAccount's token only.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use reqwest::Client;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use super::tokens::TokenSource;
use crate::cli::failure::{Failure, OrFail};
use crate::cli::kubeconfig::ApiServer;
use crate::cli::output::strip_control_chars;
use crate::cli::worker_args::{CallerToken, WorkerRoute};
use crate::cli::worker_client::{TOKEN_HEADER, build_client, connection_failure};
use crate::console::proxied::PROXY_HEADER;

/// How long a response may pause. The worker's event streams send a line more often.
const READ_TIMEOUT: Duration = Duration::from_secs(90);
/// The largest error of the API server that is read, in bytes.
const MAX_STATUS_BYTES: usize = 64 << 10;

/// The worker behind the proxy.
pub struct ConsoleUpstream {
    transport: Transport,
    tokens: TokenSource,
    /// The place of the worker, as messages name it.
    target: String,
    /// The key of the forms that the proxy performs; None if there is no cluster to change.
    form_key: Option<HeaderValue>,
}

enum Transport {
    /// `base`: the worker's URL without a slash at the end.
    Direct { client: Client, base: String },
    /// `base`: the path of the Service at the API server.
    Proxied { client: kube::Client, server: ApiServer, base: String },
}

/// A request to the worker, without a token.
pub struct UpstreamRequest {
    pub method: Method,
    /// The path with its query, as the browser wrote it.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// The members of an error of the API server.
#[derive(Deserialize)]
struct ApiStatus {
    kind: String,
    #[serde(default)]
    message: String,
}

impl ConsoleUpstream {
    /// `form_key`: the key of the forms that the proxy performs, for a worker in a cluster.
    pub fn new(route: WorkerRoute, form_key: Option<HeaderValue>) -> Result<Self, Failure> {
        match route {
            WorkerRoute::Url { url, token_file, ca_file } => {
                if !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base() {
                    return Err(Failure::new(format!("{url} is not an http or https URL (--url)")));
                }
                let client =
                    build_client(Client::builder().read_timeout(READ_TIMEOUT), &url, ca_file.as_ref())?;
                let base = url.as_str().trim_end_matches('/').to_owned();
                Ok(ConsoleUpstream {
                    tokens: token_file.map_or(TokenSource::None, TokenSource::File),
                    target: base.clone(),
                    transport: Transport::Direct { client, base },
                    form_key,
                })
            }
            WorkerRoute::Service { cluster, service, token } => Ok(ConsoleUpstream {
                tokens: match token {
                    CallerToken::None => TokenSource::None,
                    CallerToken::File(path) => TokenSource::File(path),
                    CallerToken::Requested(tokens) => TokenSource::issued(tokens),
                },
                target: format!("Service {service} of {}", cluster.server),
                transport: Transport::Proxied {
                    base: service.proxy_path(),
                    client: cluster.client,
                    server: cluster.server,
                },
                form_key,
            }),
        }
    }

    /// Returns the place of the worker, as messages name it.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Requests a page. Fails with one line if the worker cannot be reached, rejects the token or has no console.
    pub async fn probe(&self, page: &str) -> Result<(), Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::ACCEPT, HeaderValue::from_static("text/html"));
        let target = page.to_owned();
        let response =
            self.send(UpstreamRequest { method: Method::GET, target, headers, body: Bytes::new() }).await?;
        match response.status() {
            StatusCode::UNAUTHORIZED => Err(Failure::new(format!(
                "{} rejects the token (401): give a valid one with --token-file or --service-account, and its --token-audience",
                self.target
            ))),
            StatusCode::NOT_FOUND => Err(Failure::new(format!(
                "{} has no console: update the worker, or start it with --console true (worker.console.enabled)",
                self.target
            ))),
            _ => Ok(()),
        }
    }

    /// Sends a request. If the worker rejects an issued token, sends it once more with a new one.
    ///
    /// The response's body is not read here, so that event streams pass without delay.
    pub async fn send(&self, request: UpstreamRequest) -> Result<Response<Body>, Failure> {
        let token = self.tokens.token().await?;
        let response = self.send_once(&request, token.as_ref()).await?;
        let Some(rejected) = token.filter(|_| response.status() == StatusCode::UNAUTHORIZED) else {
            return Ok(response);
        };
        if !self.tokens.discard(&rejected).await {
            return Ok(response);
        }
        self.send_once(&request, self.tokens.token().await?.as_ref()).await
    }

    async fn send_once(
        &self,
        request: &UpstreamRequest,
        token: Option<&SecretString>,
    ) -> Result<Response<Body>, Failure> {
        let mut headers = request.headers.clone();
        if let Some(key) = &self.form_key {
            headers.insert(PROXY_HEADER, key.clone());
        }
        match &self.transport {
            Transport::Direct { client, base } => {
                if let Some(token) = token {
                    headers
                        .insert(AUTHORIZATION, secret_header(&format!("Bearer {}", token.expose_secret()))?);
                }
                let url =
                    Url::parse(&format!("{base}{}", request.target)).or_fail(|| request.target.clone())?;
                let sent = client.request(request.method.clone(), url.clone()).headers(headers);
                let response = sent.body(request.body.clone()).send().await;
                let response = response.map_err(|error| connection_failure(&url, &error))?;
                Ok(Response::from(response).map(Body::new))
            }
            Transport::Proxied { client, server, base } => {
                if let Some(token) = token {
                    headers.insert(TOKEN_HEADER, secret_header(token.expose_secret())?);
                }
                let mut sent = Request::builder()
                    .method(request.method.clone())
                    .uri(format!("{base}{}", request.target))
                    .body(kube::client::Body::from(request.body.to_vec()))
                    .or_fail(|| request.target.clone())?;
                *sent.headers_mut() = headers;
                let failed = |why: String| Failure::new(format!("{} cannot be reached: {why}", self.target));
                let response = client.send(sent).await.map_err(|error| failed(server.describe(&error)))?;
                if is_json_error(&response) {
                    return self.without_api_status(response).await;
                }
                Ok(response.map(Body::new))
            }
        }
    }

    /// Returns the response of the worker. Fails with the message of the API server if it did not forward the request.
    async fn without_api_status(
        &self,
        response: Response<kube::client::Body>,
    ) -> Result<Response<Body>, Failure> {
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_STATUS_BYTES).collect().await;
        let body = body.map_err(|error| Failure::new(format!("{}: {error}", self.target)))?.to_bytes();
        match serde_json::from_slice::<ApiStatus>(&body) {
            Ok(status) if status.kind == "Status" => Err(Failure::new(format!(
                "{} cannot be reached: {} ({})",
                self.target,
                strip_control_chars(&status.message),
                parts.status.as_u16()
            ))),
            _ => Ok(Response::from_parts(parts, Body::from(body))),
        }
    }
}

fn is_json_error<B>(response: &Response<B>) -> bool {
    let is_json = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    is_json && (response.status().is_client_error() || response.status().is_server_error())
}

/// Returns a header whose value is hidden in Debug output.
fn secret_header(text: &str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_str(text).or_fail(|| "the token".into())?;
    value.set_sensitive(true);
    Ok(value)
}
