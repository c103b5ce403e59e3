//! The fields of an EventHook that decide which events it receives, also those of an object that cannot be read.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::EventHookSpec;

/// The fields of an EventHook's spec that decide which events it receives, apart from its filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventSelector {
    pub source: String,
    /// None: every event of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// The EventStream to whose events the hook is restricted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The Connection of a hook that receives only the events of its own relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
}

impl EventSelector {
    pub fn of(spec: &EventHookSpec) -> Self {
        EventSelector {
            source: spec.source.clone(),
            event: spec.event.clone(),
            stream: spec.from.as_ref().map(|from| from.event_stream_ref.name.clone()),
            connection: spec.connection_ref.as_ref().map(|connection| connection.name.clone()),
        }
    }

    /// Derives the selector of a spec that cannot be deserialized. None without a source.
    ///
    /// The hook's deliveries are held until the spec is corrected, so selecting too many events loses nothing, unlike
    /// selecting too few: an `event` or `from` of a wrong type restricts nothing.
    pub fn of_unreadable(spec: &Value) -> Option<Self> {
        let name = |pointer: &str| spec.pointer(pointer).and_then(scalar_text);
        Some(EventSelector {
            source: name("/source")?,
            event: name("/event"),
            stream: name("/from/eventStreamRef/name"),
            connection: match spec.get("connectionRef") {
                None | Some(Value::Null) => None,
                Some(_) => Some(name("/connectionRef/name").unwrap_or_default()),
            },
        })
    }
}

/// Returns the text of a string, or of a number, which is usually a text without its quotes: `source: 2026`. A boolean has
/// lost its text: `on`, `yes` and `true` are one value.
fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn derives_the_selector_of_an_unreadable_spec() {
        let of = |spec: Value| EventSelector::of_unreadable(&spec);
        let plain = EventSelector { source: "s".into(), event: None, stream: None, connection: None };
        assert_eq!(of(json!({"source": "s", "delivery": {"timeout": 15}})), Some(plain.clone()));
        let of_event =
            |event: Option<&str>| Some(EventSelector { event: event.map(Into::into), ..plain.clone() });
        assert_eq!(of(json!({"source": "s", "event": "e", "rotation": 2026})), of_event(Some("e")));
        assert_eq!(of(json!({"source": "s", "event": 404})), of_event(Some("404")));
        assert_eq!(of(json!({"source": "s", "event": true})), of_event(None), "on: every event is held");
        let from = json!({"source": "s", "from": {"eventStreamRef": {"name": "t"}}, "groupBy": [1]});
        assert_eq!(of(from), Some(EventSelector { stream: Some("t".into()), ..plain.clone() }));
        for connection in [json!({"name": 7}), json!("kong"), json!([])] {
            let selector = of(json!({"source": "s", "connectionRef": connection})).unwrap();
            assert!(selector.connection.is_some(), "it receives only its own relay's events: {selector:?}");
        }
        for spec in [json!(null), json!([]), json!({}), json!({"source": true}), json!({"source": ["s"]})] {
            assert_eq!(of(spec.clone()), None, "{spec}");
        }
    }

    #[test]
    fn agrees_with_the_selector_of_a_readable_spec() {
        for more in [
            json!({}),
            json!({"event": "e"}),
            json!({"from": {"eventStreamRef": {"name": "t"}}}),
            json!({"connectionRef": {"name": "kong"}}),
        ] {
            let mut spec = json!({"source": "s", "handler": {"log": {}}});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let readable: EventHookSpec = serde_json::from_value(spec.clone()).unwrap();
            assert_eq!(EventSelector::of_unreadable(&spec), Some(EventSelector::of(&readable)), "{spec}");
        }
    }
}
