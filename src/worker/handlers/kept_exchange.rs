//! Renders the request and the response of an attempt for users: bounded, and without secrets.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri};
use secrecy::{ExposeSecret, SecretString};

use crate::core::conditions::cut;
use crate::core::redact::{MASK, is_secret_header, mask};
use crate::net::HttpResponse;
use crate::worker::store::{Exchange, KeptBody, KeptHeader, ReceivedResponse, SentRequest};

/// Bytes of a body that are kept.
const MAX_BODY: usize = 4096;
/// Bytes of names and values of headers that are kept.
const MAX_HEADERS: usize = 4096;
/// Bytes of the address that are kept.
const MAX_URL: usize = 2048;
/// Bytes of a body in which secrets are masked before it is cut, so that no secret is cut in two and kept.
const MASKED_BODY: usize = 16 * 1024;
/// Headers that hold no secret by their name. Cookies are a session; a signature could be sent again with its body.
const MASKED_HEADERS: [&str; 3] = ["set-cookie", "webhook-signature", "x-kong-signature"];

/// A request as it is sent, without its access token. Cheap to create: the parts are shared.
pub struct RequestCopy {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl RequestCopy {
    /// Renders the exchange. `secrets`: texts to mask.
    pub fn render(&self, response: Option<&HttpResponse>, secrets: &[SecretString]) -> Exchange {
        let request = SentRequest {
            method: self.method.to_string(),
            url: cut(&masked(&self.uri.to_string(), secrets), MAX_URL).to_owned(),
            headers: kept_headers(&self.headers, secrets),
            body: kept_body(&self.body, true, secrets),
        };
        let response = response.map(|response| ReceivedResponse {
            status: response.status.as_u16(),
            headers: kept_headers(&response.headers, secrets),
            body: kept_body(&response.body, response.complete, secrets),
        });
        Exchange { request, response }
    }
}

fn masked(text: &str, secrets: &[SecretString]) -> String {
    mask(text, secrets.iter().map(ExposeSecret::expose_secret))
}

/// Returns the headers in their order, up to `MAX_HEADERS` bytes.
fn kept_headers(headers: &HeaderMap, secrets: &[SecretString]) -> Vec<KeptHeader> {
    let mut remaining = MAX_HEADERS;
    let mut kept = Vec::new();
    for (name, value) in headers {
        let value = shown_value(name.as_str(), value, secrets);
        let Some(rest) = remaining.checked_sub(name.as_str().len() + value.len()) else { break };
        remaining = rest;
        kept.push(KeptHeader { name: name.to_string(), value });
    }
    kept
}

fn shown_value(name: &str, value: &HeaderValue, secrets: &[SecretString]) -> String {
    if value.is_sensitive() || is_secret_header(name) || MASKED_HEADERS.contains(&name) {
        return MASK.to_owned();
    }
    masked(&String::from_utf8_lossy(value.as_bytes()), secrets)
}

/// `is_complete`: false if the body went on after these bytes.
fn kept_body(body: &[u8], is_complete: bool, secrets: &[SecretString]) -> KeptBody {
    // A secret that crosses the end of this part would stay in part. So a longer text than is kept must be masked.
    let part = body.get(..MASKED_BODY).unwrap_or(body);
    let text = masked(&String::from_utf8_lossy(part), secrets);
    // The beginning of a secret may be at the end of the part, and masked ones may have shortened it.
    let longest = secrets.iter().map(|secret| secret.expose_secret().len()).max().unwrap_or(0);
    let unsafe_end = if part.len() < body.len() { longest } else { 0 };
    let kept = cut(&text, MAX_BODY.min(text.len().saturating_sub(unsafe_end)));
    KeptBody {
        text: kept.to_owned(),
        truncated: !is_complete || kept.len() < text.len() || part.len() < body.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(body: Vec<u8>, headers: &[(&'static str, &'static str)]) -> HttpResponse {
        let headers = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
        HttpResponse {
            status: http::StatusCode::BAD_REQUEST,
            headers: headers.collect(),
            body: body.into(),
            complete: true,
        }
    }

    fn request() -> RequestCopy {
        let mut headers = HeaderMap::new();
        headers.insert("x-plain", HeaderValue::from_static("a s3cr3t b"));
        headers.insert("authorization", HeaderValue::from_static("Basic abc"));
        headers.insert("webhook-signature", HeaderValue::from_static("v1,abc"));
        let mut sensitive = HeaderValue::from_static("key-1");
        sensitive.set_sensitive(true);
        headers.insert("x-key", sensitive);
        let uri = Uri::from_static("https://example.com/s3cr3t");
        RequestCopy { method: Method::POST, uri, headers, body: Bytes::from_static(b"{\"a\": \"s3cr3t\"}") }
    }

    #[test]
    fn keeps_no_secret() {
        let secrets = [SecretString::from("s3cr3t")];
        let received = response(b"s3cr3t is wrong".to_vec(), &[("set-cookie", "sid=1"), ("x-id", "s3cr3t")]);
        let exchange = request().render(Some(&received), &secrets);
        let text = serde_json::to_string(&exchange).unwrap();
        for secret in ["s3cr3t", "Basic abc", "v1,abc", "key-1", "sid=1"] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
        assert_eq!(exchange.request.url, "https://example.com/***");
        assert_eq!(exchange.response.unwrap().body.text, "*** is wrong");
    }

    #[test]
    fn bounds_bodies_and_headers() {
        let secrets = [SecretString::from("s3cr3t")];
        // The secret crosses the end of the kept part.
        let body = [vec![b'x'; MAX_BODY - 3], b"s3cr3t".to_vec(), vec![b'x'; 100_000]].concat();
        let exchange = request().render(Some(&response(body, &[])), &secrets);
        let kept = exchange.response.unwrap().body;
        assert!(
            kept.truncated && kept.text.len() <= MAX_BODY && !kept.text.contains("s3c"),
            "{}",
            kept.text.len()
        );
        let mut many = HeaderMap::new();
        for n in 0..1000 {
            let name = http::HeaderName::from_bytes(format!("x-{n}").as_bytes()).unwrap();
            many.insert(name, HeaderValue::from_static("0123456789"));
        }
        let kept = kept_headers(&many, &[]);
        assert!(
            kept.iter().map(|header| header.name.len() + header.value.len()).sum::<usize>() <= MAX_HEADERS
        );
        let binary = kept_body(&[0xff, b'a'], true, &[]);
        assert_eq!((binary.text.as_str(), binary.truncated), ("\u{fffd}a", false));
    }
}
