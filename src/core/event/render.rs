//! Renders events as the request bodies that receivers get.

use std::borrow::Cow;

use serde_json::{Number, Value};

use super::Event;
use super::hops::{HOPS_ATTRIBUTE, hops};
use super::members::{Duplicates, Members};

impl Event {
    /// Renders Kong's body: the members of data plus `source` and `event`, which replace members of the same name. Data
    /// that is not an object becomes the member `data`. If a name occurs twice in data, the last member is sent, which is
    /// the one that filters and templates read.
    pub fn to_kong(&self) -> Vec<u8> {
        let mut members = match Members::parse(self.data.get().as_bytes(), Duplicates::UseLast) {
            Ok(members) => members.without(&["source", "event"]),
            Err(_) => Members::of("data", &self.data),
        };
        for (name, text) in [("source", &self.source), ("event", &self.event)] {
            if let Ok(raw) = serde_json::value::to_raw_value(text) {
                members.push(name, Cow::Owned(raw));
            }
        }
        members.to_json().into_bytes()
    }

    /// Renders a structured CloudEvent with all attributes of the event and the hop counter increased by one.
    pub fn to_cloudevent(&self) -> Vec<u8> {
        let mut out = serde_json::Map::new();
        for (name, text) in [
            ("specversion", "1.0"),
            ("id", &self.id),
            ("source", &self.source),
            ("type", &self.event),
            ("time", &self.time),
        ] {
            out.insert(name.into(), Value::String(text.to_owned()));
        }
        out.insert("datacontenttype".into(), Value::String("application/json".into()));
        out.extend(self.attributes.iter().map(|(name, value)| (name.clone(), value.clone())));
        out.insert(
            HOPS_ATTRIBUTE.into(),
            Value::Number(Number::from(hops(&self.attributes).saturating_add(1))),
        );
        let mut text = Value::Object(out).to_string();
        // Append the data as its original text: parsing it would change numbers.
        text.pop();
        text.push_str(",\"data\":");
        text.push_str(self.data.get());
        text.push('}');
        text.into_bytes()
    }
}
