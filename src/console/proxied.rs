//! Responses to the loopback proxy of `hookstream console`, which reaches the worker through the API server.
//!
//! The API server parses responses of type `text/html` and rewrites their links and redirects: it writes them below its own
//! path and decodes slashes in them. So the console hides both from it, and the proxy restores them.

use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};

/// The header by which the proxy makes itself known. Its value is the key of the forms that the proxy performs.
pub const PROXY_HEADER: HeaderName = HeaderName::from_static("hookstream-console-proxy");
/// The target of a redirect.
const LOCATION_COPY: HeaderName = HeaderName::from_static("hookstream-console-location");
/// The media type of pages.
const PAGE_TYPE: &str = "application/vnd.hookstream.console-page";
const HTML_TYPE: &str = "text/html; charset=utf-8";

/// Hides pages and redirects from the API server.
pub fn hide(headers: &mut HeaderMap) {
    if headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/html")) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PAGE_TYPE));
    }
    if let Some(location) = headers.get(LOCATION).cloned() {
        headers.insert(LOCATION_COPY, location);
    }
}

/// Undoes [`hide`].
pub fn restore(headers: &mut HeaderMap) {
    if headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(PAGE_TYPE.as_bytes())) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(HTML_TYPE));
    }
    if let Some(location) = headers.remove(LOCATION_COPY) {
        headers.insert(LOCATION, location);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_redirects_are_restored() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(HTML_TYPE));
        headers.insert(LOCATION, HeaderValue::from_static("/console/events?id=a%2Fb"));
        let sent = headers.clone();
        hide(&mut headers);
        assert_eq!(headers[CONTENT_TYPE], PAGE_TYPE);
        // As the API server rewrites it.
        headers.insert(LOCATION, HeaderValue::from_static("/api/v1/namespaces/a/services/b/proxy/console/"));
        restore(&mut headers);
        assert_eq!(headers, sent);

        let mut other = HeaderMap::new();
        other.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        let sent = other.clone();
        hide(&mut other);
        assert_eq!(other, sent);
    }
}
