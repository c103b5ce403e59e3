//! Parsing of durations and sizes in specs and flags.
#![no_main]

use hookstream::core::{duration, size};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &str| {
    duration::parse(data).ok();
    size::parse(data).ok();
});
