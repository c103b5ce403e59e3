//! Manifest files: YAML parsing, validation against the CRDs, and validation of hooks.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use hookstream::api::EventHook;
use hookstream::cluster::files::read_documents;
use hookstream::core::hook::validate;
use hookstream::core::schema::Schemas;
use libfuzzer_sys::fuzz_target;

static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| Schemas::from_crds(&hookstream::api::crds()));

fuzz_target!(|data: &[u8]| {
    let started = Instant::now();
    let path = std::env::temp_dir().join(format!("hookstream-fuzz-{}.yaml", std::process::id()));
    std::fs::write(&path, data).expect("write the file");
    for document in read_documents(std::slice::from_ref(&path)).into_iter().flatten() {
        let Ok(mut object) = document.content else { continue };
        SCHEMAS.check(&object);
        // Parse the object as a hook regardless of its kind.
        if let Some(members) = object.as_object_mut() {
            members.insert("apiVersion".into(), "hookstream.dev/v1alpha1".into());
            members.insert("kind".into(), "EventHook".into());
            SCHEMAS.check(&object);
        }
        if let Ok(hook) = serde_json::from_value::<EventHook>(object) {
            validate(&hook).ok();
        }
    }
    std::fs::remove_file(&path).expect("remove the file");
    assert!(started.elapsed() < Duration::from_secs(10), "too slow");
});
