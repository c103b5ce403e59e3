//! Which paths and headers pass the proxy.

use http::header::{
    ACCEPT, ACCEPT_LANGUAGE, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, COOKIE, HeaderName, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::{HeaderMap, HeaderValue};

use super::gate::cookies;
use crate::console::proxied::restore;

/// The prefix of the worker's own cookies.
const WORKER_COOKIE: &str = "hookstream-console";

/// Headers of the browser that the worker gets. Everything else stays here: the browser's credentials, and what the proxy has
/// checked (Origin).
const TO_WORKER: [HeaderName; 7] =
    [ACCEPT, ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_TYPE, IF_MODIFIED_SINCE, IF_NONE_MATCH, USER_AGENT];

/// Headers of one connection, which end at the proxy.
const OF_CONNECTION: [HeaderName; 6] =
    [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, HeaderName::from_static("keep-alive")];

/// Returns true for a path of the console that the worker serves. Dot segments could lead to other paths of the worker, or of
/// the API server.
pub fn is_forwarded(path: &str) -> bool {
    let Some(rest) = path.strip_prefix("/console/") else { return false };
    let is_plain = |segment: &str| {
        let lower = segment.to_ascii_lowercase();
        !matches!(lower.replace("%2e", ".").as_str(), "." | "..")
            && !lower.contains('\\')
            && !lower.contains("%5c")
    };
    // An encoded slash separates segments behind a server that decodes it.
    let lower = rest.to_ascii_lowercase().replace("%2f", "/");
    lower.split('/').all(is_plain) && !rest.starts_with("-/") && rest != "-"
}

/// Returns the headers of a request to the worker, without the token.
pub fn request_headers(browser: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in TO_WORKER {
        for value in browser.get_all(&name) {
            headers.append(&name, value.clone());
        }
    }
    let own: Vec<String> = cookies(browser)
        .filter(|(name, _)| name.starts_with(WORKER_COOKIE))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    if let Some(cookie) = HeaderValue::from_str(&own.join("; ")).ok().filter(|_| !own.is_empty()) {
        headers.insert(COOKIE, cookie);
    }
    headers
}

/// Changes the headers of a worker's response into those of the response to the browser.
pub fn to_browser(headers: &mut HeaderMap) {
    for name in OF_CONNECTION {
        headers.remove(name);
    }
    restore(headers);
    let cookies: Vec<HeaderValue> = headers
        .get_all(SET_COOKIE)
        .iter()
        .filter(|value| value.as_bytes().starts_with(WORKER_COOKIE.as_bytes()))
        .cloned()
        .collect();
    headers.remove(SET_COOKIE);
    for cookie in cookies {
        headers.append(SET_COOKIE, cookie);
    }
    let private: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("hookstream-console-")).cloned().collect();
    for name in private {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(all: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in all {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn forwards_pages_of_the_console_only() {
        for path in
            ["/console/", "/console/hooks/shop/orders", "/console/a..b", "/console/-a", "/console/a/-/b"]
        {
            assert!(is_forwarded(path), "{path}");
        }
        for path in [
            "/",
            "/console",
            "/v1/status",
            "/console/-/pause",
            "/console/../v1/status",
            "/console/%2e%2E/v1/status",
            "/console/a/..",
            "/console/./a",
            "/console/%2E./x",
            "/console/..%2fv1",
            "/console/a%2F%2e%2e%2Fv1",
            "/console/..\\v1",
            "/console/..%5Cv1",
            "/consolex/",
        ] {
            assert!(!is_forwarded(path), "{path}");
        }
    }

    #[test]
    fn worker_gets_no_credentials_of_the_browser() {
        let sent = request_headers(&map(&[
            ("host", "127.0.0.1:8088"),
            ("origin", "http://127.0.0.1:8088"),
            ("authorization", "Bearer browser"),
            ("x-hookstream-token", "browser"),
            ("hookstream-console-proxy", "forged"),
            ("impersonate-user", "admin"),
            ("cookie", "hookstream-proxy-8088=s; other=1; hookstream-console=c"),
            ("cookie", "hookstream-console-zone=z"),
            ("accept", "text/html"),
            ("last-event-id", "7"),
            ("x-csrf-token", "t"),
        ]));
        let expected =
            map(&[("accept", "text/html"), ("cookie", "hookstream-console=c; hookstream-console-zone=z")]);
        assert_eq!(sent, expected);
    }

    #[test]
    fn browser_gets_pages_and_redirects_as_the_worker_sent_them() {
        let mut headers = map(&[
            ("content-type", "application/vnd.hookstream.console-page"),
            ("location", "/api/v1/namespaces/a/services/b:api/proxy/console/hooks"),
            ("hookstream-console-location", "/console/hooks?id=a%2Fb"),
            ("transfer-encoding", "chunked"),
            ("set-cookie", "other=1"),
            ("set-cookie", "hookstream-console=c; Path=/console/"),
            ("x-request-id", "r"),
        ]);
        to_browser(&mut headers);
        let expected = map(&[
            ("content-type", "text/html; charset=utf-8"),
            ("location", "/console/hooks?id=a%2Fb"),
            ("set-cookie", "hookstream-console=c; Path=/console/"),
            ("x-request-id", "r"),
        ]);
        assert_eq!(headers, expected);
    }
}
