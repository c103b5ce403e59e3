//! Manifests from files: read as YAML, held against the CRDs, understood.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use hookstream::api::EventHook;
use hookstream::cluster::files::documents;
use hookstream::core::hook::validate;
use hookstream::core::schema::Schemas;
use libfuzzer_sys::fuzz_target;

static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| Schemas::of(&hookstream::api::crds()));

fuzz_target!(|data: &[u8]| {
    let started = Instant::now();
    let path = std::env::temp_dir().join(format!("hookstream-fuzz-{}.yaml", std::process::id()));
    std::fs::write(&path, data).expect("a file");
    for document in documents(std::slice::from_ref(&path)).into_iter().flatten() {
        let Ok(mut object) = document.content else { continue };
        SCHEMAS.check(&object);
        // Whatever it says it is, it may be read as a hook.
        if let Some(members) = object.as_object_mut() {
            members.insert("apiVersion".into(), "hookstream.dev/v1alpha1".into());
            members.insert("kind".into(), "EventHook".into());
            SCHEMAS.check(&object);
        }
        if let Ok(hook) = serde_json::from_value::<EventHook>(object) {
            validate(&hook).ok();
        }
    }
    std::fs::remove_file(&path).expect("the file");
    assert!(started.elapsed() < Duration::from_secs(10), "too slow");
});
