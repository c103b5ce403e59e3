//! Renders events as the request bodies that receivers get.

use std::borrow::Cow;
use std::fmt::Write;

use serde_json::Value;
use serde_json::value::RawValue;

use super::hops::{HOPS_ATTRIBUTE, hops};
use super::members::{Duplicates, Members};
use super::{CONTENT_TYPE_ATTRIBUTE, DataForm, Event};
use crate::core::json_string::write_json_string;

/// The content type of JSON data without a declared one.
const JSON: &str = "application/json";
/// The bytes of a structured CloudEvent besides its data, for most events.
const RENDERED_ATTRIBUTES: usize = 320;

/// A CloudEvent in binary mode.
#[derive(Debug, PartialEq)]
pub struct BinaryEvent {
    /// Names and values of the `ce-` headers.
    pub headers: Vec<(String, String)>,
    /// `None`: the sender declared none, and the data is not JSON.
    pub content_type: Option<String>,
    pub body: Vec<u8>,
}

impl Event {
    /// Renders Kong's body: the members of data plus `source` and `event`, which replace members of the same name. Data
    /// that is not an object becomes the member `data`. Text and bytes are a string there, and the member `attributes` has
    /// their content type. If a name occurs twice in data, the last member is sent, which is the one that filters and
    /// templates read.
    pub fn to_kong(&self) -> Vec<u8> {
        let mut members = match Members::parse(self.data.get().as_bytes(), Duplicates::UseLast) {
            Ok(members) => members.without(&["source", "event"]),
            Err(_) if self.data.form() == DataForm::Absent => Members::default(),
            Err(_) => Members::of("data", self.data.view()),
        };
        if !self.has_json_data()
            && let Some(attributes) = to_raw(&Value::Object(self.content_attributes()))
        {
            members.push("attributes", Cow::Owned(attributes));
        }
        for (name, text) in [("source", &self.source), ("event", &self.event)] {
            if let Some(raw) = to_raw(text) {
                members.push(name, Cow::Owned(raw));
            }
        }
        members.to_json().into_bytes()
    }

    /// Returns the attributes that describe text and bytes in Kong's body and in templates.
    pub fn content_attributes(&self) -> serde_json::Map<String, Value> {
        let value = self.attributes.get(CONTENT_TYPE_ATTRIBUTE);
        value.map(|value| (CONTENT_TYPE_ATTRIBUTE.to_owned(), value.clone())).into_iter().collect()
    }

    /// Renders a structured CloudEvent with all attributes of the event and the hop counter increased by one. The data
    /// is sent as it was received: as `data`, as `data_base64`, or not at all.
    pub fn to_cloudevent(&self) -> Vec<u8> {
        let mut members: Vec<(&str, AttributeValue<'_>)> = Vec::with_capacity(8 + self.attributes.len());
        members.extend(self.required_attributes().map(|(name, text)| (name, AttributeValue::Text(text))));
        members.push((HOPS_ATTRIBUTE, AttributeValue::Number(self.next_hops())));
        // Inline data without a type is JSON.
        if self.data.form() == DataForm::Inline && !self.attributes.contains_key(CONTENT_TYPE_ATTRIBUTE) {
            members.push((CONTENT_TYPE_ATTRIBUTE, AttributeValue::Text(JSON)));
        }
        let others = self.attributes.iter().filter(|(name, _)| *name != HOPS_ATTRIBUTE);
        members.extend(others.map(|(name, value)| (name.as_str(), AttributeValue::Json(value))));
        // By name, so that every attempt sends the same bytes.
        members.sort_unstable_by_key(|(name, _)| *name);
        let mut text = String::with_capacity(self.data.get().len() + RENDERED_ATTRIBUTES);
        for (name, value) in members {
            text.push(if text.is_empty() { '{' } else { ',' });
            write_text(&mut text, name);
            text.push(':');
            match value {
                AttributeValue::Text(value) => write_text(&mut text, value),
                // Writing to a String never fails.
                AttributeValue::Number(value) => drop(write!(text, "{value}")),
                AttributeValue::Json(Value::String(value)) => write_text(&mut text, value),
                AttributeValue::Json(value) => drop(write!(text, "{value}")),
            }
        }
        let data = match self.data.base64_json(self.has_json_data()) {
            Some(base64) => Some(("data_base64", base64)),
            None if self.data.form() == DataForm::Absent => None,
            None => Some(("data", Cow::Borrowed(self.data.get()))),
        };
        if let Some((name, json)) = data {
            // The data's original text: parsing it would change numbers.
            for part in [",\"", name, "\":", &json] {
                text.push_str(part);
            }
        }
        text.push('}');
        text.into_bytes()
    }

    /// Renders a CloudEvent in binary mode (HTTP binding, 3.1), with the hop counter increased by one.
    pub fn to_binary_cloudevent(&self) -> BinaryEvent {
        let is_json = self.has_json_data();
        let required = self.required_attributes().into_iter();
        let required = required.map(|(name, text)| (name, Cow::Borrowed(text)));
        let others = self.attributes.iter().filter(|(name, _)| {
            // The content type is a header of its own.
            name.as_str() != CONTENT_TYPE_ATTRIBUTE && name.as_str() != HOPS_ATTRIBUTE
        });
        let others = others.map(|(name, value)| (name.as_str(), attribute_text(value)));
        let hops = (HOPS_ATTRIBUTE, Cow::Owned(self.next_hops().to_string()));
        let headers = required.chain(others).chain([hops]);
        let default_type = (self.data.form() == DataForm::Inline).then_some(JSON);
        BinaryEvent {
            headers: headers.map(|(name, text)| (format!("ce-{name}"), encode_header_value(&text))).collect(),
            content_type: self.content_type().or(default_type).map(ToOwned::to_owned),
            body: self.data.body(is_json).into_owned(),
        }
    }

    fn required_attributes(&self) -> [(&'static str, &str); 5] {
        [
            ("specversion", "1.0"),
            ("id", &self.id),
            ("source", &self.source),
            ("type", &self.event),
            ("time", &self.time),
        ]
    }

    fn next_hops(&self) -> u32 {
        hops(&self.attributes).saturating_add(1)
    }
}

/// The value of a CloudEvents attribute that is rendered.
enum AttributeValue<'a> {
    Text(&'a str),
    Number(u32),
    Json(&'a Value),
}

fn write_text(out: &mut String, text: &str) {
    // Writing to a String never fails.
    write_json_string(text, |piece| out.write_str(piece)).ok();
}

fn to_raw(value: &impl serde::Serialize) -> Option<Box<RawValue>> {
    serde_json::value::to_raw_value(value).ok()
}

/// Returns an attribute's canonical string: strings as they are, `true`, `false` and decimal numbers.
fn attribute_text(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => Cow::Borrowed(text),
        other => Cow::Owned(other.to_string()),
    }
}

/// Percent-encodes what a header's value cannot hold: blanks, quotes, `%` and everything but printable ASCII
/// (HTTP binding, 3.1.3.2).
fn encode_header_value(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'%' => write!(out, "%{byte:02X}"),
            0x21..=0x7e => out.write_char(char::from(byte)),
            _ => write!(out, "%{byte:02X}"),
        }
        // Writing to a String never fails.
        .ok();
    }
    out
}
