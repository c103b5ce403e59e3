//! Verification of signatures, Kong's and those of Standard Webhooks. The first line is the header, the second the time,
//! the rest the body.
#![no_main]

use hookstream::core::sign::{secret_lines, verify_kong, verify_standard_webhooks};
use libfuzzer_sys::fuzz_target;

const SECRET: &str = "a secret that cannot be guessed";

fuzz_target!(|data: &str| {
    let (header, rest) = data.split_once('\n').unwrap_or((data, ""));
    let (time, body) = rest.split_once('\n').unwrap_or((rest, ""));
    assert!(!verify_kong(SECRET.as_bytes(), header, body.as_bytes()));
    let standard =
        verify_standard_webhooks(&[SECRET], header, time, header, body.as_bytes(), 1_700_000_000, i64::MAX);
    assert!(standard.is_err());
    let secrets = secret_lines(data);
    verify_standard_webhooks(&secrets, "id", time, header, body.as_bytes(), 1_700_000_000, 300).ok();
});
