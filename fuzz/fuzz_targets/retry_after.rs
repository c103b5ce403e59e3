//! The `Retry-After` header of receivers.
#![no_main]

use hookstream::core::retry::{AttemptOutcome, NextStep, RetryPolicy, RetryState};
use hookstream::core::time::Millis;
use libfuzzer_sys::fuzz_target;

const NOW: Millis = Millis(1_700_000_000_000);
const DAY: i64 = 24 * 3600 * 1000;

fuzz_target!(|data: &str| {
    let outcome = AttemptOutcome::Response { status: 503, retry_after: Some(data) };
    match RetryPolicy::default().decide(&outcome, RetryState { accepted: NOW, attempts: 1 }, NOW, 0.5) {
        NextStep::Retry { due } => assert!(due > NOW && due.0 <= NOW.0 + DAY),
        other => panic!("{other:?}"),
    }
});
