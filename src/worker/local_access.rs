//! Protects ports without a token from web pages.
//!
//! Such ports listen on loopback addresses only, but every page in a browser on this machine can send requests there. A page
//! must not read payloads by rebinding its own name to 127.0.0.1, and must not publish or replay by a form or a script.
//! So the ports accept only hosts that no page can have, no requests that a browser sends for another site, and no changes
//! that a form can send.
//!
//! Routes that authenticate their senders themselves (relays, streams) are added outside [`protect`]. So is a route with
//! rules of its own.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, ORIGIN, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Uri};

use super::problem::HttpProblem;

/// What a browser says about the page that caused a request.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// The longest part of a header that a message repeats.
const MAX_QUOTED: usize = 100;

/// The requests that ports without a token accept.
#[derive(Debug, Default)]
pub struct LocalAccess {
    /// Accepted hosts besides the loopback ones, in lower case and without ports.
    hosts: Vec<String>,
}

impl LocalAccess {
    /// Accepts these host names and addresses besides the loopback ones.
    pub fn new(hosts: impl IntoIterator<Item = String>) -> Self {
        let normalize = |host: String| host.trim_matches(['[', ']']).to_ascii_lowercase();
        LocalAccess { hosts: hosts.into_iter().map(normalize).collect() }
    }

    /// Checks where a request was sent to, which page caused it, and whether a form could have sent it.
    fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), HttpProblem> {
        let host = headers.get(HOST);
        for host in host.map(HeaderValue::as_bytes).into_iter().chain(uri.authority().map(authority_bytes)) {
            self.check_host(host)?;
        }
        check_site(host, headers)?;
        if is_change(method) { check_content_type(headers) } else { Ok(()) }
    }

    /// Checks a request to a page of this port: where it was sent to, and which page caused it. Accepts a link of another
    /// site that the user follows: such a request changes nothing, and the other site cannot read the response.
    pub fn check_page(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), (u16, String)> {
        let host = headers.get(HOST);
        let checked = || {
            for host in
                host.map(HeaderValue::as_bytes).into_iter().chain(uri.authority().map(authority_bytes))
            {
                self.check_host(host)?;
            }
            if is_navigation(method, headers) { Ok(()) } else { check_site(host, headers) }
        };
        checked().map_err(|problem: HttpProblem| (problem.status, problem.detail))
    }

    fn check_host(&self, host: &[u8]) -> Result<(), HttpProblem> {
        let text = std::str::from_utf8(host).unwrap_or_default();
        let name = without_port(text).to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        if is_loopback(name) || self.hosts.iter().any(|allowed| allowed == name) {
            return Ok(());
        }
        let quoted = quote(host);
        Err(HttpProblem::new(
            403,
            "HostNotAllowed",
            format!(
                "without --token-file this port accepts requests to localhost only, and this one was sent to '{quoted}': \
                 use http://localhost, or start with --allowed-hosts or --token-file"
            ),
        ))
    }
}

/// Protects all routes and fallbacks of the router, if a policy is given. `on_rejected` gets the reason of each rejection.
pub fn protect(
    router: Router,
    access: Option<&Arc<LocalAccess>>,
    on_rejected: impl Fn(&'static str) + Clone + Send + Sync + 'static,
) -> Router {
    let Some(access) = access.cloned() else { return router };
    router.layer(from_fn(move |request: Request, next: Next| {
        let checked = access.check(request.method(), request.uri(), request.headers());
        if let Err(problem) = &checked {
            on_rejected(problem.reason);
        }
        async move {
            match checked {
                Ok(()) => next.run(request).await,
                Err(problem) => problem.into_response(),
            }
        }
    }))
}

/// Rejects what a browser sends for another site. Programs send neither header.
fn check_site(host: Option<&HeaderValue>, headers: &HeaderMap) -> Result<(), HttpProblem> {
    let is_same_origin = |origin: &HeaderValue| {
        let text = origin.to_str().unwrap_or_default();
        let authority = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        authority
            .zip(host)
            .is_some_and(|(origin, host)| origin.as_bytes().eq_ignore_ascii_case(host.as_bytes()))
    };
    let is_foreign_origin = headers.get_all(ORIGIN).iter().any(|origin| !is_same_origin(origin));
    // `none`: the user typed the address.
    let is_foreign_fetch =
        headers.get_all(FETCH_SITE).iter().any(|site| site != "same-origin" && site != "none");
    if !is_foreign_origin && !is_foreign_fetch {
        return Ok(());
    }
    Err(HttpProblem::new(
        403,
        "CrossSiteRequest",
        "without --token-file this port accepts no requests that a browser sends for another site: use a program such as \
         `hookstream send`, or start with --token-file",
    ))
}

/// True if the user opens a page in a window of its own, by a link, a bookmark or the address bar.
fn is_navigation(method: &Method, headers: &HeaderMap) -> bool {
    let is = |name: &'static str, value: &str| headers.get(name).is_some_and(|found| found == value);
    method == Method::GET
        && !headers.contains_key(ORIGIN)
        && is("sec-fetch-mode", "navigate")
        && is("sec-fetch-dest", "document")
}

/// Rejects bodies that an HTML form can send. A form always has a content type, so that a request without content needs none.
fn check_content_type(headers: &HeaderMap) -> Result<(), HttpProblem> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let is_accepted = match types.next() {
        Some(first) => is_json(first) && types.all(is_json),
        None => !has_body(headers),
    };
    if is_accepted || headers.keys().any(|name| name.as_str().starts_with("ce-")) {
        return Ok(());
    }
    Err(HttpProblem::new(
        415,
        "ContentType",
        "without --token-file this port accepts JSON and CloudEvents only: send the header `content-type: application/json`, \
         or start with --token-file",
    ))
}

fn is_change(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING)
        || headers.get_all(CONTENT_LENGTH).iter().any(|length| length != "0")
}

/// True for JSON and CloudEvents in any form.
fn is_json(content_type: &HeaderValue) -> bool {
    let text = content_type.to_str().unwrap_or_default();
    let media_type = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(media_type.as_str(), "application/json" | "text/json")
        || media_type.ends_with("+json")
        || media_type.starts_with("application/cloudevents")
}

fn authority_bytes(authority: &http::uri::Authority) -> &[u8] {
    authority.as_str().as_bytes()
}

/// Returns the host of `host:port`. Returns an IPv6 address without its brackets.
fn without_port(text: &str) -> &str {
    if let Some(rest) = text.strip_prefix('[') {
        return match rest.split_once(']') {
            Some((address, port)) if port.is_empty() || port.starts_with(':') => address,
            _ => "",
        };
    }
    match text.split_once(':') {
        // Several colons without brackets are no valid host.
        Some((_, port)) if port.contains(':') => "",
        Some((name, _)) => name,
        None => text,
    }
}

/// True for names and addresses that mean this machine to every browser, so that no page can have them as its host.
fn is_loopback(name: &str) -> bool {
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        || name.parse::<Ipv6Addr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

fn quote(text: &[u8]) -> String {
    String::from_utf8_lossy(text)
        .chars()
        .take(MAX_QUOTED)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, headers: &[(&'static str, &str)]) -> Result<(), &'static str> {
        let map = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
        let access = LocalAccess::new(["Kong.example".to_owned(), "192.0.2.1".to_owned()]);
        let checked =
            access.check(&method.parse().unwrap(), &Uri::from_static("/v1"), &HeaderMap::from_iter(map));
        checked.map_err(|problem| problem.reason)
    }

    #[test]
    fn only_loopback_and_allowed_hosts_are_accepted() {
        for host in [
            "localhost",
            "localhost:8080",
            "LOCALHOST:1",
            "localhost.",
            "hooks.localhost:8080",
            "127.0.0.1",
            "127.0.0.1:8080",
            "127.1.2.3:1",
            "[::1]",
            "[::1]:8080",
            "[::ffff:127.0.0.1]:1",
            "kong.example:8080",
            "KONG.example",
            "192.0.2.1:80",
        ] {
            assert_eq!(check("GET", &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil-localhost",
            "0.0.0.0:8080",
            "192.0.2.2",
            "[2001:db8::1]:8080",
            "::1",
            "",
            "[::1",
            "[::1]x",
            "2130706433",
            "x.kong.example",
        ] {
            assert_eq!(check("GET", &[("host", host)]), Err("HostNotAllowed"), "{host}");
        }
        assert_eq!(check("GET", &[]), Ok(()), "HTTP/1.0, which no browser sends");
    }

    #[test]
    fn target_with_another_host_is_rejected() {
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("localhost"))]);
        let uri = Uri::from_static("http://evil.example/v1");
        let problem = LocalAccess::default().check(&Method::GET, &uri, &headers).unwrap_err();
        assert_eq!(problem.reason, "HostNotAllowed");
    }

    #[test]
    fn browsers_of_other_sites_are_rejected() {
        let host = ("host", "localhost:8080");
        for headers in [
            [("origin", "http://localhost:8080"), ("sec-fetch-site", "same-origin")],
            [("origin", "https://LOCALHOST:8080"), ("sec-fetch-site", "none")],
        ] {
            assert_eq!(check("GET", &[host, headers[0], headers[1]]), Ok(()));
        }
        for header in [
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("origin", "http://localhost:3000"),
            ("origin", "localhost:8080"),
            ("origin", ""),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-site", "new-value"),
        ] {
            for method in ["GET", "POST", "OPTIONS"] {
                assert_eq!(check(method, &[host, header]), Err("CrossSiteRequest"), "{method} {header:?}");
            }
        }
    }

    #[test]
    fn form_cannot_change_anything() {
        let host = ("host", "localhost");
        let change = |headers: &[(&'static str, &str)]| check("POST", &[&[host], headers].concat());
        let length = ("content-length", "5");
        for accepted in [
            &[("content-type", "application/json; charset=utf-8"), length][..],
            &[("content-type", "application/cloudevents+json"), length],
            &[("content-type", "application/cloudevents-batch+json"), length],
            &[("content-type", "application/vnd.x+json"), length],
            &[("ce-specversion", "1.0"), length],
            &[("content-length", "0")],
            &[],
        ] {
            assert_eq!(change(accepted), Ok(()), "{accepted:?}");
        }
        for form in ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", ""]
        {
            for method in ["POST", "PUT", "PATCH", "DELETE"] {
                let checked = check(method, &[host, ("content-type", form), ("content-length", "0")]);
                assert_eq!(checked, Err("ContentType"), "{method} {form}");
            }
        }
        assert_eq!(change(&[length]), Err("ContentType"), "a script can send a body without a type");
        assert_eq!(change(&[("transfer-encoding", "chunked")]), Err("ContentType"));
        assert_eq!(check("GET", &[host, ("content-type", "text/plain")]), Ok(()));
    }

    #[test]
    fn message_repeats_the_host_within_bounds() {
        let host = "x".repeat(1000);
        let problem = LocalAccess::default().check_host(host.as_bytes()).unwrap_err();
        assert!(
            problem.detail.len() < 500 && problem.detail.contains("--allowed-hosts"),
            "{}",
            problem.detail
        );
    }
}
