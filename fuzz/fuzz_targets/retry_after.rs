//! What receivers answer in `Retry-After`.
#![no_main]

use hookstream::core::retry::{Next, Outcome, Past, Policy};
use hookstream::core::time::Millis;
use libfuzzer_sys::fuzz_target;

const NOW: Millis = Millis(1_700_000_000_000);
const DAY: i64 = 24 * 3600 * 1000;

fuzz_target!(|data: &str| {
    let outcome = Outcome::Answer { status: 503, retry_after: Some(data) };
    match Policy::default().decide(&outcome, Past { accepted: NOW, attempts: 1 }, NOW, 0.5) {
        Next::Retry { due } => assert!(due > NOW && due.0 <= NOW.0 + DAY),
        other => panic!("{other:?}"),
    }
});
