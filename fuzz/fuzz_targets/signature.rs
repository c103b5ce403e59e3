//! Verification of signatures, Kong's and those of Standard Webhooks. The first line is the header, the second the time,
//! the rest the body.
#![no_main]

use hookstream::core::sign::{VerifyingKey, secret_lines, verify_kong, verify_standard_webhooks};
use libfuzzer_sys::fuzz_target;

const SECRET: &str = "a secret that cannot be guessed";
const STANDARD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// The public key of RFC 8032, section 7.1, test 1.
const PUBLIC_KEY: &str = "whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

fuzz_target!(|data: &str| {
    let (header, rest) = data.split_once('\n').unwrap_or((data, ""));
    let (time, body) = rest.split_once('\n').unwrap_or((rest, ""));
    assert!(!verify_kong(SECRET.as_bytes(), header, body.as_bytes()));
    let keys = [STANDARD_SECRET, PUBLIC_KEY].map(VerifyingKey::parse);
    let keys: Vec<VerifyingKey> = keys.into_iter().flatten().collect();
    assert_eq!(keys.len(), 2);
    let standard =
        verify_standard_webhooks(&keys, header, time, header, body.as_bytes(), 1_700_000_000, i64::MAX);
    assert!(standard.is_err());
    let keys: Vec<VerifyingKey> =
        secret_lines(data).into_iter().filter_map(|line| VerifyingKey::parse(line).ok()).collect();
    verify_standard_webhooks(&keys, "id", time, header, body.as_bytes(), 1_700_000_000, 300).ok();
});
