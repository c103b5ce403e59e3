//! Kong's signature header: the first line is the header, the rest the body.
#![no_main]

use hookstream::core::sign::{secret_lines, verify_kong};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &str| {
    let (header, body) = data.split_once('\n').unwrap_or((data, ""));
    assert!(!verify_kong(b"a secret that nobody guesses", header, body.as_bytes()));
    secret_lines(data);
});
