//! Headers and query parameters of untrusted clients (trace context, hops, times), and redaction of secrets.
#![no_main]

use std::collections::BTreeMap;

use hookstream::core::event::hops_of;
use hookstream::core::redact::redact;
use hookstream::core::time::{Millis, parse_time_or_age};
use hookstream::core::trace;
use libfuzzer_sys::fuzz_target;

const NOW: Millis = Millis(1_700_000_000_000);

fuzz_target!(|data: &str| {
    let (first, rest) = data.split_once('\n').unwrap_or((data, ""));
    let mut attributes = BTreeMap::new();
    trace::inherit_headers(&mut attributes, |name| Some(if name == "traceparent" { first } else { rest }));
    for (_, value) in trace::headers(&attributes) {
        assert!(value.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
    }
    hops_of(first);
    Millis::parse(first);
    if let Ok(at) = parse_time_or_age(first, NOW) {
        at.rfc3339();
    }
    // A secret that contains a star could occur in the mask itself.
    if first.len() >= 8 && !first.contains('*') {
        assert!(!redact(rest, [first]).contains(first));
    }
});
