//! JSON objects whose values keep their original text, so that numbers and member order survive.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::draft::InvalidEvent;

/// Up to this many members, duplicate names are found by linear search; above it, with a hash set.
const LINEAR_SEARCH_MAX: usize = 16;

/// A member's name, borrowed from the input unless it contains an escape.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// The members of a JSON object in their original order, with values as JSON text.
#[derive(Clone, Debug)]
pub struct Members<'a>(pub Vec<(Cow<'a, str>, Cow<'a, RawValue>)>);

impl<'a> Members<'a> {
    /// Parses a JSON object. Rejects duplicate names.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidEvent> {
        // Truncated, because the parser's message may repeat the whole input.
        serde_json::from_slice(body)
            .map_err(|e| InvalidEvent::NotJson(e.to_string().chars().take(256).collect()))
    }

    pub fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, raw)| raw.as_ref())
    }

    /// Returns a string member of 1 to `max` bytes. A null member counts as missing.
    pub fn text(&self, name: &'static str, max: usize) -> Result<Option<String>, InvalidEvent> {
        let Some(raw) = self.get(name).filter(|raw| raw.get() != "null") else { return Ok(None) };
        let text: String = serde_json::from_str(raw.get())
            .map_err(|_| InvalidEvent::WrongType { field: name.into(), want: "a string" })?;
        if text.is_empty() {
            return Err(InvalidEvent::WrongType { field: name.into(), want: "a string that is not empty" });
        }
        if text.len() > max {
            return Err(InvalidEvent::TooLong { field: name.into(), max });
        }
        Ok(Some(text))
    }

    pub fn without(mut self, names: &[&str]) -> Self {
        self.0.retain(|(name, _)| !names.contains(&name.as_ref()));
        self
    }

    pub fn to_raw(&self) -> Result<Box<RawValue>, InvalidEvent> {
        serde_json::value::to_raw_value(self).map_err(|e| InvalidEvent::NotJson(e.to_string()))
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
                let mut names = HashSet::new();
                let mut members: Vec<(Cow<'de, str>, Cow<'de, RawValue>)> = Vec::new();
                while let Some(Name(name)) = map.next_key()? {
                    // The hash set keeps the total cost linear for objects with many members.
                    let is_duplicate = match members.len() {
                        0..LINEAR_SEARCH_MAX => members.iter().any(|(other, _)| *other == name),
                        LINEAR_SEARCH_MAX => {
                            names.extend(members.iter().map(|(other, _)| other.clone()));
                            !names.insert(name.clone())
                        }
                        _ => !names.insert(name.clone()),
                    };
                    // Parsers disagree on which duplicate counts, so a receiver could read a different value than the
                    // worker.
                    if is_duplicate {
                        let short: String = name.chars().take(64).collect();
                        return Err(serde::de::Error::custom(format_args!(
                            "the member {short} occurs twice"
                        )));
                    }
                    members.push((name, Cow::Borrowed(map.next_value::<&'de RawValue>()?)));
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
