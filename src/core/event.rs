//! Events: how they are read from bytes and written to receivers.
//!
//! Foreign bytes end here: whatever arrives, the answer is an event or a reason. JSON that is only passed on is kept as
//! the text that came, so that numbers and order survive.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Number, Value};

use super::time::Millis;

/// The sources that only vendors may emit: an API caller that could would forge a vendor's events.
pub const RESERVED_SOURCES: [&str; 2] = ["auth0", "kong:event_hooks"];
/// The CloudEvents attribute that counts how many hooks an event has been through.
pub const HOPS_ATTRIBUTE: &str = "hookstreamhops";
/// At this many hops an event is refused: two hooks that feed each other stop.
pub const MAX_HOPS: u32 = 8;

const MAX_NAME: usize = 253;
const MAX_ID: usize = 512;
const MAX_ATTRIBUTES: usize = 64;
const MAX_ATTRIBUTE_NAME: usize = 64;
const MAX_ATTRIBUTE: usize = 4096;

/// Where an event came in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Origin {
    /// Published by an API caller.
    Api,
    /// Relayed by Kong for the EventHook of this name.
    Relay(String),
    /// Sent by Auth0 for the EventStream of this name.
    Stream(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Api => f.write_str("api"),
            Origin::Relay(name) => write!(f, "relay/{name}"),
            Origin::Stream(name) => write!(f, "stream/{name}"),
        }
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> String {
        origin.to_string()
    }
}

impl TryFrom<String> for Origin {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once('/') {
            None if text == "api" => Ok(Origin::Api),
            Some(("relay", name)) => Ok(Origin::Relay(name.to_owned())),
            Some(("stream", name)) => Ok(Origin::Stream(name.to_owned())),
            _ => Err(format!("unknown origin {text}")),
        }
    }
}

/// One accepted event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// The sender's id, or one made here (UUIDv7).
    pub id: String,
    pub namespace: String,
    pub origin: Origin,
    pub source: String,
    pub event: String,
    /// When it happened, as the sender wrote it (RFC 3339); else when it was accepted.
    pub time: String,
    /// JSON, as the text that came.
    pub data: Box<RawValue>,
    /// Every other CloudEvents attribute: text, whole number or boolean.
    pub attributes: BTreeMap<String, Value>,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        (
            &self.id,
            &self.namespace,
            &self.origin,
            &self.source,
            &self.event,
            &self.time,
            self.data.get(),
            &self.attributes,
        ) == (
            &other.id,
            &other.namespace,
            &other.origin,
            &other.source,
            &other.event,
            &other.time,
            other.data.get(),
            &other.attributes,
        )
    }
}

/// An event as its sender wrote it.
#[derive(Clone, Debug)]
pub struct Draft {
    pub id: Option<String>,
    pub source: String,
    pub event: String,
    pub time: Option<String>,
    pub data: Box<RawValue>,
    pub attributes: BTreeMap<String, Value>,
}

/// Why bytes are no event. The reason goes to the sender.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
pub enum BadEvent {
    #[error("the body is no JSON object: {0}")]
    NotJson(String),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{field} must be {want}")]
    WrongType { field: String, want: &'static str },
    #[error("{field} is longer than {max} bytes")]
    TooLong { field: String, max: usize },
    #[error("more than {MAX_ATTRIBUTES} attributes")]
    TooManyAttributes,
    #[error("specversion {0} is not known: send CloudEvents 1.0")]
    SpecVersion(String),
    #[error("content type {0} is not taken: send application/json or application/cloudevents+json")]
    ContentType(String),
    #[error("the source {0} is reserved for the vendor's own events: choose another")]
    ReservedSource(String),
    #[error("the event went through {MAX_HOPS} hooks: two of them feed each other")]
    TooManyHops,
}

/// Reads what an API caller published: a structured CloudEvent, or plain `{"source","event","data"}`.
pub fn parse_published(content_type: Option<&str>, body: &[u8]) -> Result<Draft, BadEvent> {
    let essence = content_type.map(|t| t.split(';').next().unwrap_or(t).trim().to_ascii_lowercase());
    let members = match essence.as_deref() {
        None | Some("application/json" | "application/cloudevents+json") => Members::parse(body)?,
        Some(other) => return Err(BadEvent::ContentType(other.chars().take(128).collect())),
    };
    let structured =
        essence.as_deref() == Some("application/cloudevents+json") || members.get("specversion").is_some();
    let draft = if structured { structured_draft(&members)? } else { plain_draft(&members)? };
    // Kong's format takes data apart: where a name stands twice in it, nobody could say which one was meant.
    if draft.data.get().starts_with('{') {
        Members::parse(draft.data.get().as_bytes())?;
    }
    if RESERVED_SOURCES.contains(&draft.source.as_str()) {
        return Err(BadEvent::ReservedSource(draft.source));
    }
    if hops(&draft.attributes) >= MAX_HOPS {
        return Err(BadEvent::TooManyHops);
    }
    Ok(draft)
}

/// Reads what Kong relayed: the members of data with `source` and `event`.
pub fn parse_relayed(body: &[u8]) -> Result<Draft, BadEvent> {
    let members = Members::parse(body)?;
    let source = members.text("source", MAX_NAME)?.ok_or(BadEvent::Missing("source"))?;
    let event = members.text("event", MAX_NAME)?.ok_or(BadEvent::Missing("event"))?;
    let data = members.without(&["source", "event"]).to_raw()?;
    Ok(Draft { id: None, source, event, time: None, data, attributes: BTreeMap::new() })
}

fn plain_draft(members: &Members<'_>) -> Result<Draft, BadEvent> {
    let known = ["id", "source", "event", "time", "data"];
    if let Some((name, _)) = members.0.iter().find(|(name, _)| !known.contains(&name.as_ref())) {
        return Err(BadEvent::WrongType {
            field: name.chars().take(64).collect(),
            want: "left out: a plain event has source, event, data, and perhaps id and time",
        });
    }
    Ok(Draft {
        id: members.text("id", MAX_ID)?,
        source: members.text("source", MAX_NAME)?.ok_or(BadEvent::Missing("source"))?,
        event: members.text("event", MAX_NAME)?.ok_or(BadEvent::Missing("event"))?,
        time: time_of(members)?,
        data: members.get("data").map_or_else(|| RawValue::NULL.to_owned(), ToOwned::to_owned),
        attributes: BTreeMap::new(),
    })
}

fn structured_draft(members: &Members<'_>) -> Result<Draft, BadEvent> {
    match members.text("specversion", 16)?.as_deref() {
        Some("1.0") => {}
        Some(other) => return Err(BadEvent::SpecVersion(other.to_owned())),
        None => return Err(BadEvent::Missing("specversion")),
    }
    if members.get("data_base64").is_some_and(|raw| raw.get() != "null") {
        return Err(BadEvent::WrongType { field: "data_base64".into(), want: "left out: data must be JSON" });
    }
    let mut attributes = BTreeMap::new();
    for (name, raw) in &members.0 {
        let own = matches!(
            name.as_ref(),
            "specversion" | "id" | "source" | "type" | "time" | "data" | "data_base64"
        );
        // CloudEvents: an attribute that is null is one that was left out.
        if own || raw.get() == "null" {
            continue;
        }
        attributes.insert(name.to_string(), attribute(name, raw)?);
    }
    if attributes.len() > MAX_ATTRIBUTES {
        return Err(BadEvent::TooManyAttributes);
    }
    Ok(Draft {
        id: Some(members.text("id", MAX_ID)?.ok_or(BadEvent::Missing("id"))?),
        source: members.text("source", MAX_NAME)?.ok_or(BadEvent::Missing("source"))?,
        event: members.text("type", MAX_NAME)?.ok_or(BadEvent::Missing("type"))?,
        time: time_of(members)?,
        data: members.get("data").map_or_else(|| RawValue::NULL.to_owned(), ToOwned::to_owned),
        attributes,
    })
}

fn time_of(members: &Members<'_>) -> Result<Option<String>, BadEvent> {
    let time = members.text("time", 64)?;
    match time.as_deref().map(Millis::parse) {
        Some(None) => Err(BadEvent::WrongType { field: "time".into(), want: "an RFC 3339 time" }),
        // The parser knows more forms than RFC 3339, and the text goes out again to receivers that do not.
        _ if time.as_deref().is_some_and(|time| !rfc3339_form(time)) => {
            Err(BadEvent::WrongType { field: "time".into(), want: "an RFC 3339 time" })
        }
        _ => Ok(time),
    }
}

/// `yyyy-mm-ddThh:mm:ss`, perhaps a fraction, and `Z` or `+hh:mm`; that the numbers are a time is not looked at.
fn rfc3339_form(time: &str) -> bool {
    let digits = |text: &str, form: &str| {
        text.len() == form.len()
            && text
                .bytes()
                .zip(form.bytes())
                .all(|(b, f)| if f == b'0' { b.is_ascii_digit() } else { b == f })
    };
    let upper = time.to_ascii_uppercase();
    let Some((seconds, rest)) = upper.split_at_checked(19) else { return false };
    let offset = match rest.strip_prefix('.') {
        Some(fraction) => {
            let offset = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            if offset.len() == fraction.len() {
                return false;
            }
            offset
        }
        None => rest,
    };
    digits(seconds, "0000-00-00T00:00:00")
        && (offset == "Z" || digits(offset, "+00:00") || digits(offset, "-00:00"))
}

/// CloudEvents attributes are texts, booleans or whole numbers of 32 bits; their names lower-case letters and digits.
fn attribute(name: &str, raw: &RawValue) -> Result<Value, BadEvent> {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if name.is_empty() || name.len() > MAX_ATTRIBUTE_NAME || !plain {
        return Err(BadEvent::WrongType {
            field: name.chars().take(64).collect(),
            want: "an attribute's name of lower-case letters and digits",
        });
    }
    if raw.get().len() > MAX_ATTRIBUTE {
        return Err(BadEvent::TooLong { field: name.to_owned(), max: MAX_ATTRIBUTE });
    }
    match serde_json::from_str(raw.get()) {
        Ok(value @ (Value::String(_) | Value::Bool(_))) => Ok(value),
        Ok(Value::Number(n)) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => Ok(Value::Number(n)),
        _ => Err(BadEvent::WrongType { field: name.to_owned(), want: "a text, a boolean or a whole number" }),
    }
}

/// How many hooks an event with these attributes has been through.
pub fn hops(attributes: &BTreeMap<String, Value>) -> u32 {
    match attributes.get(HOPS_ATTRIBUTE) {
        Some(Value::Number(n)) => n.as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        // A count too big for a number is not none.
        Some(Value::String(text)) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse().unwrap_or(u32::MAX)
        }
        _ => 0,
    }
}

impl Event {
    /// Kong's body: the members of data plus `source` and `event`, which win; data that is no object under `data`.
    pub fn to_kong(&self) -> Vec<u8> {
        let mut members = match Members::parse(self.data.get().as_bytes()) {
            Ok(members) => members.without(&["source", "event"]),
            Err(_) => Members(vec![(Cow::Borrowed("data"), Cow::Borrowed(&*self.data))]),
        };
        for (name, text) in [("source", &self.source), ("event", &self.event)] {
            if let Ok(raw) = serde_json::value::to_raw_value(text) {
                members.0.push((Cow::Borrowed(name), Cow::Owned(raw)));
            }
        }
        serde_json::to_vec(&members).unwrap_or_default()
    }

    /// A structured CloudEvent, with every attribute that came and one hop more.
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
        let mut text = serde_json::to_string(&out).unwrap_or_default();
        // The data goes in as the text that came: parsing it would change numbers.
        text.pop();
        text.push_str(",\"data\":");
        text.push_str(self.data.get());
        text.push('}');
        text.into_bytes()
    }
}

/// The members of a JSON object, in order, their values as text.
#[derive(Clone, Debug)]
struct Members<'a>(Vec<(Cow<'a, str>, Cow<'a, RawValue>)>);

impl<'a> Members<'a> {
    fn parse(body: &'a [u8]) -> Result<Self, BadEvent> {
        // Bounded, for the parser's words may hold all of what it read.
        serde_json::from_slice(body).map_err(|e| BadEvent::NotJson(e.to_string().chars().take(256).collect()))
    }

    fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, raw)| raw.as_ref())
    }

    /// A text member that is not empty; null counts as missing.
    fn text(&self, name: &'static str, max: usize) -> Result<Option<String>, BadEvent> {
        let Some(raw) = self.get(name).filter(|raw| raw.get() != "null") else { return Ok(None) };
        let text: String = serde_json::from_str(raw.get())
            .map_err(|_| BadEvent::WrongType { field: name.into(), want: "a text" })?;
        if text.is_empty() {
            return Err(BadEvent::WrongType { field: name.into(), want: "a text that is not empty" });
        }
        if text.len() > max {
            return Err(BadEvent::TooLong { field: name.into(), max });
        }
        Ok(Some(text))
    }

    fn without(mut self, names: &[&str]) -> Self {
        self.0.retain(|(name, _)| !names.contains(&name.as_ref()));
        self
    }

    fn to_raw(&self) -> Result<Box<RawValue>, BadEvent> {
        serde_json::value::to_raw_value(self).map_err(|e| BadEvent::NotJson(e.to_string()))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut seen = std::collections::HashSet::new();
                let mut members: Vec<(Cow<'de, str>, Cow<'de, RawValue>)> = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    // Two parsers that pick different ones of a name would see two different events.
                    if !seen.insert(name.clone()) {
                        let short: String = name.chars().take(64).collect();
                        return Err(serde::de::Error::custom(format_args!("{short} stands in it twice")));
                    }
                    members.push((Cow::Owned(name), Cow::Borrowed(map.next_value::<&'de RawValue>()?)));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, raw) in &self.0 {
            map.serialize_entry(name, raw.as_ref())?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests;
