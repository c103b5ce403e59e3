//! What the vendors' admin APIs hold, as it becomes manifests and as it is compared with what is wanted.
#![no_main]

use hookstream::admin::{auth0, kong};
use hookstream::core::plan::plan;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Ok(object) = serde_json::from_slice::<Value>(data) else { return };
    kong::is_relay(&object);
    if let Some(made) = kong::manifests(&object, "c") {
        plan(&made.hook, Some(&object));
    }
    auth0::stream_manifest(&object, "c");
    auth0::hook_manifest(&object, "c");
    plan(&object, Some(&object));
});
