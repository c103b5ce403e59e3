//! Parsing of URLs in specs and Secrets.
#![no_main]

use hookstream::core::hook::parse_url;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &str| {
    if let Ok(url) = parse_url(data) {
        assert!(matches!(url.scheme(), "http" | "https") && url.host_str().is_some());
        assert!(url.username().is_empty() && url.password().is_none());
    }
});
