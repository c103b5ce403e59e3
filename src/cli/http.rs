//! How commands call a worker: its address, the caller's token, bounded answers, failures in one line.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use super::{Failure, OrFail};

/// How much of an answer is read: 500 deliveries with all their attempts.
const MAX_ANSWER: usize = 64 << 20;

/// A worker to call.
pub struct Worker {
    way: Way,
    base: Url,
    token: Option<SecretString>,
}

/// How it is reached.
enum Way {
    Direct(Client),
    /// Through the API server's proxy; only the path of the address counts.
    Proxied(kube::Client),
}

/// The header in which a worker takes a token where Authorization does not come through.
pub const TOKEN_HEADER: &str = crate::worker::TOKEN_HEADER;

/// What a worker answered.
#[derive(Debug)]
pub struct Answer {
    pub url: Url,
    pub status: StatusCode,
    pub body: Vec<u8>,
}

/// A problem body (RFC 9457), as far as it is shown.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
    /// What the API server says where it does not pass a request on.
    message: Option<String>,
}

impl Worker {
    pub fn new(base: &Url, token_file: Option<&PathBuf>) -> Result<Self, Failure> {
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(Failure::new(format!("{base} is not an http or https address (--url)")));
        }
        let token = token_file.map(|path| read_token(path)).transpose()?;
        Ok(Worker { way: Way::Direct(client(base)?), base: base.clone(), token })
    }

    /// A worker behind the API server's proxy, at this path of it.
    pub fn proxied(
        client: kube::Client,
        path: &str,
        token: Option<SecretString>,
        token_file: Option<&PathBuf>,
    ) -> Result<Self, Failure> {
        let token = match token {
            Some(token) => Some(token),
            None => token_file.map(|path| read_token(path)).transpose()?,
        };
        let base = Url::parse(&format!("https://kubernetes{path}")).or_fail(|| path.to_owned())?;
        Ok(Worker { way: Way::Proxied(client), base, token })
    }

    /// An address in a namespace.
    pub fn url(&self, namespace: &str, path: &[&str]) -> Result<Url, Failure> {
        self.under(&["v1", "namespaces"], namespace, path)
    }

    /// An address in a namespace, of those that have Kong's shape.
    pub fn kong_url(&self, namespace: &str, path: &[&str]) -> Result<Url, Failure> {
        self.under(&["kong"], namespace, path)
    }

    fn under(&self, root: &[&str], namespace: &str, path: &[&str]) -> Result<Url, Failure> {
        // Also keeps out `..`, which a URL's path would swallow.
        let label =
            |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if namespace.is_empty() || namespace.len() > 63 || !label(namespace) {
            return Err(Failure::new(format!("{namespace:?} is no namespace's name (--namespace)")));
        }
        if let Some(dots) = path.iter().find(|part| matches!(**part, "" | "." | "..")) {
            return Err(Failure::new(format!("{dots:?} cannot stand in an address")));
        }
        let mut url = self.base.clone();
        // Never refused: the base is an http address.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(root).push(namespace).extend(path);
        }
        Ok(url)
    }

    pub async fn get(&self, url: Url) -> Result<Answer, Failure> {
        self.call(Method::GET, url, Vec::new()).await
    }

    /// Posts JSON.
    pub async fn post(&self, url: Url, body: Vec<u8>) -> Result<Answer, Failure> {
        self.call(Method::POST, url, body).await
    }

    async fn call(&self, method: Method, url: Url, body: Vec<u8>) -> Result<Answer, Failure> {
        match &self.way {
            Way::Direct(client) => {
                let request = client.request(method, url.clone());
                self.direct(request.header("content-type", "application/json").body(body), url).await
            }
            Way::Proxied(client) => self.through(client, method, url, body).await,
        }
    }

    async fn through(
        &self,
        client: &kube::Client,
        method: Method,
        url: Url,
        body: Vec<u8>,
    ) -> Result<Answer, Failure> {
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
        let response = client.send(request).await.map_err(|error| failed(error.to_string()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER);
        let body = body.collect().await.map_err(|error| failed(error.to_string()))?.to_bytes().to_vec();
        Ok(Answer { url, status, body })
    }

    async fn direct(&self, mut request: RequestBuilder, url: Url) -> Result<Answer, Failure> {
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        let mut response = request.send().await.map_err(|error| not_reached(&url, &error))?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| not_reached(&url, &error))? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ANSWER {
                return Err(Failure::new(format!(
                    "{url} answered {status} with more than {MAX_ANSWER} bytes"
                )));
            }
        }
        Ok(Answer { url, status, body })
    }
}

impl Answer {
    /// The body of a success; a failure with this code otherwise.
    pub fn success(self, refused: u8) -> Result<Self, Failure> {
        // Refused (4xx) is an answer; everything else means that nothing is known.
        let code = if self.status.is_client_error() { refused } else { 2 };
        self.success_or(code)
    }

    /// The body of a success; a failure with this code otherwise, whatever the answer.
    pub fn success_or(self, code: u8) -> Result<Self, Failure> {
        if self.status.is_success() {
            return Ok(self);
        }
        let hint = if self.status == StatusCode::UNAUTHORIZED { " (--token-file)" } else { "" };
        let message = format!("{} answered {}{}{hint}", self.url, self.status, told(&self.body));
        Err(Failure { code, message })
    }

    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body)
            .or_fail(|| format!("{} answered {}, but not as a worker does", self.url, self.status))
    }
}

fn read_token(path: &Path) -> Result<SecretString, Failure> {
    let token = fs::read_to_string(path).or_fail(|| format!("reading {}", path.display()))?;
    match token.trim() {
        "" => Err(Failure::new(format!("{} holds no token", path.display()))),
        token => Ok(SecretString::from(token)),
    }
}

/// What the problem body says, in one line.
fn told(body: &[u8]) -> String {
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    let parts: Vec<String> = [problem.title, problem.detail, problem.message]
        .into_iter()
        .flatten()
        .map(|text| text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect())
        .collect();
    if parts.is_empty() { String::new() } else { format!(": {}", parts.join(": ")) }
}

fn client(url: &Url) -> Result<Client, Failure> {
    let mut builder = Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(10))
        .timeout(Duration::from_secs(60));
    // Without an authority installed (a bare container) the client could not be made, though http needs none.
    if url.scheme() == "http" {
        builder = builder.tls_certs_only([]);
    }
    builder.build().or_fail(|| "making an HTTP client".into())
}

/// The URL is told once, with the innermost cause, which is the one that helps.
fn not_reached(url: &Url, error: &reqwest::Error) -> Failure {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let what = if error.is_timeout() { "did not answer in time".into() } else { cause.to_string() };
    Failure::new(format!("{url} cannot be reached: {what} (--url)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let url = |base: &str, namespace: &str, path: &[&str]| {
            let worker = Worker::new(&base.parse().unwrap(), None)?;
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

    #[test]
    fn problems_take_one_line() {
        assert_eq!(told(br#"{"title":"Too big","detail":"1 MiB\nat most"}"#), ": Too big: 1 MiB at most");
        assert_eq!(told(b"<html>"), "");
    }
}
