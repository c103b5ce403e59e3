//! Events relayed by Kong and sent by Auth0.
#![no_main]

use hookstream::core::event::{parse_relayed, parse_streamed};
use hookstream::core::relay::{carries_secrets, is_ping};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(draft) = parse_streamed(data) {
        assert!(draft.id.is_some());
    }
    if let Ok(draft) = parse_relayed(data) {
        is_ping(&draft);
        carries_secrets(&draft, false);
        assert!(draft.data.get().starts_with('{'));
    }
});
