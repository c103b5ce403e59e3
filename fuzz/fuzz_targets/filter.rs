//! CEL filters: the first line is the filter, the rest is the data of the event.
#![no_main]

use std::time::{Duration, Instant};

use hookstream::core::event::data::Data;
use hookstream::core::event::{Event, Origin};
use hookstream::core::filter::{Filter, FilterError};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

fuzz_target!(|data: &str| {
    let (text, data) = data.split_once('\n').unwrap_or((data, r#"{"a":[1,2.5,"x",null,{"b":true}]}"#));
    let data = serde_json::from_str::<Box<RawValue>>(data).unwrap_or_else(|_| RawValue::NULL.to_owned());
    let event = Event {
        id: "1".into(),
        namespace: "n".into(),
        origin: Origin::Api,
        source: "s".into(),
        event: "e".into(),
        time: "2023-11-14T22:13:20Z".into(),
        data: data.into(),
        attributes: [("n".to_owned(), 1.into())].into(),
    };
    let started = Instant::now();
    match Filter::compile(text) {
        Ok(filter) => match filter.matches(&event) {
            Err(FilterError::Unreadable(_)) => assert!(Data::parse(event.data.get()).is_err()),
            Err(error) => assert!(error.to_string().len() < 4096),
            Ok(_) => {}
        },
        Err(error) => assert!(error.to_string().len() < 2048),
    }
    assert!(started.elapsed() < Duration::from_secs(5), "too slow");
});
