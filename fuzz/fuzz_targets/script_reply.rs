//! What a child of the sandbox says to the worker: a script may have taken it over.
#![no_main]

use hookstream::sandbox::protocol::{Hello, Reply};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    serde_json::from_slice::<Hello>(data).ok();
    serde_json::from_slice::<Reply>(data).ok();
});
