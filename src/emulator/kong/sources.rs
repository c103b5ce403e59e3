//! The catalogue of sources, events and fields, as the admin API tells it.

use serde_json::{Map, Value, json};

use crate::core::catalogue::{Event, SOURCES};

/// `{<source>: {<event>: {"fields": [...], "unique": [...]}}}`.
pub(super) fn catalogue() -> Map<String, Value> {
    let events = |events: &[Event]| -> Value {
        events.iter().map(|event| (event.name.to_owned(), about(event))).collect::<Map<_, _>>().into()
    };
    SOURCES.iter().map(|source| (source.name.to_owned(), events(source.events))).collect()
}

/// `unique` and `description` appear only where there is something to tell.
fn about(event: &Event) -> Value {
    let mut about = Map::from_iter([("fields".to_owned(), json!(event.fields))]);
    about.extend(event.description.map(|text| ("description".to_owned(), text.into())));
    if !event.unique.is_empty() {
        about.insert("unique".to_owned(), json!(event.unique));
    }
    about.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_fields() {
        let catalogue = catalogue();
        assert_eq!(catalogue.len(), 7);
        for (source, events) in &catalogue {
            for (event, about) in events.as_object().unwrap() {
                assert!(about["fields"].is_array(), "{source} {event}");
            }
        }
        assert_eq!(catalogue["crud"].as_object().unwrap().len(), 25);
        let limit = &catalogue["rate-limiting-advanced"]["rate-limit-exceeded"];
        assert_eq!(limit["unique"], json!(["consumer", "ip", "service"]));
        assert!(limit["description"].is_string());
        assert_eq!(catalogue["balancer"]["health"].as_object().unwrap().len(), 1);
    }
}
