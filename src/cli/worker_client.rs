//! The HTTP client of the worker's ports: sends the caller's token, bounds responses, and reports failures in one line.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::{BodyExt, Limited};
use reqwest::{Certificate, Client, ClientBuilder, Method, RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use super::failure::{Failure, OrFail};
use super::kubeconfig::ApiServer;
use super::service::ServicePort;
use super::worker_hints::{ProblemBody, remedy};
use crate::net::describe_cause;

/// The largest response that is read, in bytes: enough for 500 deliveries with all their attempts.
const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// A client of one worker.
pub struct WorkerClient {
    transport: Transport,
    base: Url,
    /// The place of the worker, as messages name it.
    target: String,
    /// The target was printed.
    announced: Once,
    token: Option<SecretString>,
}

/// The route to the worker.
enum Transport {
    Direct(Client),
    /// Through the API server's proxy; only the path of the base URL is used.
    Proxied(Box<ProxiedRoute>),
}

/// The route through the API server.
pub struct ProxiedRoute {
    pub client: kube::Client,
    pub server: ApiServer,
    /// The namespace of the worker's Service.
    pub namespace: String,
    /// The name of the worker's Service.
    pub service: String,
}

/// The header for a token if a proxy drops Authorization.
pub const TOKEN_HEADER: &str = crate::worker::TOKEN_HEADER;

/// A response of a worker.
#[derive(Debug)]
pub struct WorkerResponse {
    pub url: Url,
    pub status: StatusCode,
    pub body: Vec<u8>,
    /// The user of the token that was sent, as far as the token names one.
    pub caller: Option<String>,
}

impl WorkerClient {
    /// Creates a client of the worker at this URL.
    ///
    /// `ca_file`: the certificate authorities that replace the system's.
    pub fn new(base: &Url, token_file: Option<&PathBuf>, ca_file: Option<&PathBuf>) -> Result<Self, Failure> {
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(Failure::new(format!("{base} is not an http or https URL (--url)")));
        }
        let token = token_file.map(|path| read_token(path)).transpose()?;
        let transport = Transport::Direct(create_client(base, ca_file)?);
        let target = base.as_str().trim_end_matches('/').to_owned();
        Ok(WorkerClient { transport, base: base.clone(), target, announced: Once::new(), token })
    }

    /// Creates a client of a worker behind the API server's proxy.
    pub fn proxied(
        client: kube::Client,
        server: ApiServer,
        service: &ServicePort,
        token: Option<SecretString>,
        token_file: Option<&PathBuf>,
    ) -> Result<Self, Failure> {
        let token = match token {
            Some(token) => Some(token),
            None => token_file.map(|path| read_token(path)).transpose()?,
        };
        let path = service.proxy_path();
        let base = Url::parse(&format!("https://kubernetes{path}")).or_fail(|| path)?;
        let target = format!("Service {service} of {server}");
        let (namespace, service) = (service.namespace.clone(), service.name.clone());
        let transport = Transport::Proxied(Box::new(ProxiedRoute { client, server, namespace, service }));
        Ok(WorkerClient { transport, base, target, announced: Once::new(), token })
    }

    /// Returns the user that the token names, if it is a JWT.
    fn caller(&self) -> Option<String> {
        let token = self.token.as_ref()?.expose_secret();
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
        Some(claims.get("sub")?.as_str()?.to_owned())
    }

    /// Returns a URL of the API in a namespace.
    pub fn url(&self, namespace: &str, path: &[&str]) -> Result<Url, Failure> {
        self.build_url(&["v1", "namespaces"], namespace, path)
    }

    /// Returns a URL of the Kong-compatible API in a namespace.
    pub fn kong_url(&self, namespace: &str, path: &[&str]) -> Result<Url, Failure> {
        self.build_url(&["kong"], namespace, path)
    }

    /// Returns the route through the API server, if the worker is reached through it.
    pub fn proxied_route(&self) -> Option<&ProxiedRoute> {
        match &self.transport {
            Transport::Direct(_) => None,
            Transport::Proxied(route) => Some(route),
        }
    }

    /// Returns the place of the worker, as messages name it.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Returns the URL of the worker's version.
    pub fn version_url(&self) -> Url {
        self.root_url(&["version"])
    }

    /// Returns a URL of the API that belongs to no namespace.
    pub fn root_url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    fn build_url(&self, root: &[&str], namespace: &str, path: &[&str]) -> Result<Url, Failure> {
        // Also rejects `..`, which URL parsing would resolve.
        let is_label =
            |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if namespace.is_empty() || namespace.len() > 63 || !is_label(namespace) {
            return Err(Failure::new(format!(
                "'{}' is not a valid namespace name (--namespace)",
                namespace.escape_default()
            )));
        }
        if let Some(dots) = path.iter().find(|part| matches!(**part, "" | "." | "..")) {
            return Err(Failure::new(format!("'{dots}' is not a valid name")));
        }
        let mut url = self.base.clone();
        // Always succeeds, because the base is an http URL.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(root).push(namespace).extend(path);
        }
        Ok(url)
    }

    pub async fn get(&self, url: Url) -> Result<WorkerResponse, Failure> {
        self.call(Method::GET, url, Vec::new()).await
    }

    /// Posts JSON. Prints the target of a successful change once, on standard error: a default or a profile may have chosen it.
    pub async fn post(&self, url: Url, body: Vec<u8>) -> Result<WorkerResponse, Failure> {
        let response = self.call(Method::POST, url, body).await?;
        if response.status.is_success() {
            self.announced.call_once(|| eprintln!("hookstream: target: {}", self.target));
        }
        Ok(response)
    }

    async fn call(&self, method: Method, url: Url, body: Vec<u8>) -> Result<WorkerResponse, Failure> {
        match &self.transport {
            Transport::Direct(client) => {
                let request = client.request(method, url.clone());
                self.call_direct(request.header("content-type", "application/json").body(body), url).await
            }
            Transport::Proxied(route) => self.call_proxied(route, method, url, body).await,
        }
    }

    async fn call_proxied(
        &self,
        route: &ProxiedRoute,
        method: Method,
        url: Url,
        body: Vec<u8>,
    ) -> Result<WorkerResponse, Failure> {
        let target =
            url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let mut request =
            http::Request::builder().method(method).uri(target).header("content-type", "application/json");
        if let Some(token) = &self.token {
            request = request.header(TOKEN_HEADER, token.expose_secret());
        }
        let request = request.body(kube::client::Body::from(body)).or_fail(|| url.path().to_owned())?;
        let failed =
            |why: String| Failure::new(format!("{} cannot be reached: {why} (--service)", url.path()));
        let response =
            route.client.send(request).await.map_err(|error| failed(route.server.describe(&error)))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_RESPONSE_BYTES);
        let body = body.collect().await.map_err(|error| failed(error.to_string()))?.to_bytes().to_vec();
        Ok(WorkerResponse { url, status, body, caller: self.caller() })
    }

    async fn call_direct(&self, mut request: RequestBuilder, url: Url) -> Result<WorkerResponse, Failure> {
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        let mut response = request.send().await.map_err(|error| connection_failure(&url, &error))?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| connection_failure(&url, &error))? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_RESPONSE_BYTES {
                return Err(Failure::new(format!(
                    "{url} returned {status} with more than {MAX_RESPONSE_BYTES} bytes"
                )));
            }
        }
        Ok(WorkerResponse { url, status, body, caller: self.caller() })
    }
}

impl WorkerResponse {
    /// Returns the response if its status is a success. A client error (4xx) becomes a failure with `rejected_code`, any
    /// other status one with code 2.
    pub fn success(self, rejected_code: u8) -> Result<Self, Failure> {
        // A client error is a definite result; with any other status the result is unknown.
        let code = if self.status.is_client_error() { rejected_code } else { 2 };
        self.success_or(code)
    }

    /// Returns the response if its status is a success, otherwise a failure with this code.
    pub fn success_or(self, code: u8) -> Result<Self, Failure> {
        if self.status.is_success() {
            return Ok(self);
        }
        let problem = ProblemBody::parse(&self.body);
        let remedy = remedy(&self.url, self.status, &problem, self.caller.as_deref());
        let message = format!("{} returned {}{}{remedy}", self.url, self.status, problem.text(self.status));
        Err(Failure { code, message })
    }

    /// Returns the text of a problem body as one line, prefixed by `: `.
    pub fn problem_text(&self) -> String {
        ProblemBody::parse(&self.body).text(self.status)
    }

    /// Deserializes the body.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body)
            .or_fail(|| format!("{} returned {}, but not a worker's response", self.url, self.status))
    }
}

/// Reads a token from a file. Strips the line end that `echo` appends.
pub fn read_token(path: &Path) -> Result<SecretString, Failure> {
    let token = fs::read_to_string(path).or_fail(|| format!("reading {}", path.display()))?;
    match token.trim() {
        "" => Err(Failure::new(format!("{} contains no token", path.display()))),
        token if token.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(SecretString::from(token)),
        _ => {
            let problem =
                "contains no bearer token: it has blanks, line ends or other characters that none has";
            Err(Failure::new(format!("{} {problem}", path.display())))
        }
    }
}

fn create_client(url: &Url, ca_file: Option<&PathBuf>) -> Result<Client, Failure> {
    build_client(Client::builder().timeout(Duration::from_secs(60)), url, ca_file)
}

/// Builds a client for one worker. It follows no redirects, which could lead a token to another host.
///
/// `ca_file`: the certificate authorities that replace the system's.
pub fn build_client(builder: ClientBuilder, url: &Url, ca_file: Option<&PathBuf>) -> Result<Client, Failure> {
    let mut builder = builder
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(10));
    // Without installed certificate authorities (a bare container) the client would fail to build, even for http.
    if url.scheme() == "http" {
        builder = builder.tls_certs_only([]);
    } else if let Some(path) = ca_file {
        builder = builder.tls_certs_only(read_authorities(path)?);
    }
    builder.build().or_fail(|| "creating an HTTP client".into())
}

/// Reads certificate authorities in PEM format.
fn read_authorities(path: &Path) -> Result<Vec<Certificate>, Failure> {
    let action = || format!("--ca-file {}", path.display());
    let pem = fs::read(path).or_fail(action)?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(Failure::new(format!("{} contains no certificate in PEM format", action()))),
    }
}

/// Creates the failure of a failed connection: the URL once, with the innermost cause, which is the most specific.
pub fn connection_failure(url: &Url, error: &reqwest::Error) -> Failure {
    let why =
        if error.is_timeout() { "no response within the timeout".into() } else { describe_cause(error) };
    let hint = match () {
        () if why.contains("UnknownIssuer") => {
            ": give a file with the certificate of its authority (PEM) with --ca-file"
        }
        () if url.scheme() == "http" && is_no_http(error) => ": does the port use TLS? Then write https://",
        () => "",
    };
    Failure::new(format!("{url} cannot be reached: {why}{hint} (--url)"))
}

/// Returns true if the other side answered something else than HTTP.
fn is_no_http(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_urls() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let url = |base: &str, namespace: &str, path: &[&str]| {
            let worker = WorkerClient::new(&base.parse().unwrap(), None, None)?;
            worker.url(namespace, path).map(|url| url.to_string())
        };
        assert_eq!(url("http://a:1", "demo", &["events"]).unwrap(), "http://a:1/v1/namespaces/demo/events");
        assert_eq!(
            url("https://a/b/", "x-y", &["events", "a/b?c"]).unwrap(),
            "https://a/b/v1/namespaces/x-y/events/a%2Fb%3Fc"
        );
        for namespace in ["", "..", "x/y", "X"] {
            assert!(url("http://a", namespace, &["events"]).is_err(), "{namespace}");
        }
        for base in ["ftp://a", "mailto:a@b"] {
            assert!(url(base, "demo", &[]).is_err(), "{base}");
        }
        assert!(url("http://a", "demo", &["events", ".."]).is_err());
    }
}
