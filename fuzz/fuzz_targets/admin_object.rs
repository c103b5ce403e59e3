//! Objects of the vendors' admin APIs: conversion to manifests, and comparison with the desired object.
#![no_main]

use hookstream::admin::{auth0, kong, parsed_size};
use hookstream::core::plan::plan;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let parsed = serde_json::from_slice::<Value>(data);
    assert_eq!(parsed_size(data).is_ok(), parsed.is_ok());
    let Ok(object) = parsed else { return };
    kong::is_relay(&object);
    if let Some(manifests) = kong::hook_manifests(&object, "c") {
        plan(&manifests.hook, Some(&object));
    }
    auth0::stream_manifest(&object, "c");
    auth0::hook_manifest(&object, "c");
    plan(&object, Some(&object));
});
