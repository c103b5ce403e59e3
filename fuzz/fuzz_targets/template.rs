//! Templates: parsing, compilation, and rendering of fields that need no Lua.
#![no_main]

use std::time::{Duration, Instant};

use hookstream::core::template::Template;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let started = Instant::now();
    let lines = text.matches('\n').count() + 1;
    match Template::check(text) {
        Ok(template) => {
            let generated = template.generate();
            assert!((1..=lines).contains(&generated.line(generated.lua.matches('\n').count())));
            let context = serde_json::json!({"a": {"b": [1, 2.5, "<x>", null]}, "c": "d"});
            template.render_fields(&context).ok();
            template.html_escaped_tags();
        }
        Err(found) => assert!((1..=lines).contains(&found.line), "{found}"),
    }
    assert!(started.elapsed() < Duration::from_secs(5), "too slow");
});
