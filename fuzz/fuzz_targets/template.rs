//! Templates: parsing, compilation, and rendering of fields that need no Lua. The first line may be the data of the event.
#![no_main]

use std::time::{Duration, Instant};

use hookstream::core::event::data::Data;
use hookstream::core::template::{Template, context};
use libfuzzer_sys::fuzz_target;

const DATA: &str = r#"{"a": {"b": [1, 2.5, "<x>", null]}, "c": "d"}"#;

fuzz_target!(|text: &str| {
    let started = Instant::now();
    let own_data = text.split_once('\n').and_then(|(first, rest)| Some((Data::parse(first).ok()?, rest)));
    let (data, text) = own_data.or_else(|| Some((Data::parse(DATA).ok()?, text))).expect("DATA is JSON");
    let lines = text.matches('\n').count() + 1;
    match Template::check(text) {
        Ok(template) => {
            let generated = template.generate();
            assert!((1..=lines).contains(&generated.line(generated.lua.matches('\n').count())));
            template.render_fields(&context(data, "s", "e")).ok();
            template.html_escaped_tags();
        }
        Err(found) => assert!((1..=lines).contains(&found.line), "{found}"),
    }
    assert!(started.elapsed() < Duration::from_secs(5), "too slow");
});
