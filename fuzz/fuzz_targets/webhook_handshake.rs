//! The headers with which receivers answer the webhook handshake.
#![no_main]

use hookstream::core::webhook_handshake::{ALLOWED_ORIGIN, ALLOWED_RATE, HandshakeAnswer, evaluate};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

const ORIGIN: &str = "shop.example";

fuzz_target!(|data: &[u8]| {
    let mut parts = data.split(|byte| *byte == b'\n');
    let status = parts.next().and_then(|text| std::str::from_utf8(text).ok()?.parse().ok()).unwrap_or(200);
    let mut headers = HeaderMap::new();
    for (name, value) in [ALLOWED_ORIGIN, ALLOWED_RATE].into_iter().cycle().zip(parts) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
    if let HandshakeAnswer::Granted(_) = evaluate(status, &headers, ORIGIN) {
        let allowed = headers[ALLOWED_ORIGIN].as_bytes().trim_ascii();
        assert!(
            (200..300).contains(&status)
                && (allowed == b"*" || allowed.eq_ignore_ascii_case(ORIGIN.as_bytes()))
        );
    }
});
