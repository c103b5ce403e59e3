//! JSON objects whose values stay the text that came.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::BadEvent;

/// So many names are compared one by one.
const FEW: usize = 16;

/// A member's name; the text that came, where nothing in it is escaped.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// The members of a JSON object, in order, their values as text.
#[derive(Clone, Debug)]
pub struct Members<'a>(pub Vec<(Cow<'a, str>, Cow<'a, RawValue>)>);

impl<'a> Members<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self, BadEvent> {
        // Bounded, for the parser's words may hold all of what it read.
        serde_json::from_slice(body).map_err(|e| BadEvent::NotJson(e.to_string().chars().take(256).collect()))
    }

    pub fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, raw)| raw.as_ref())
    }

    /// A text member that is not empty; null counts as missing.
    pub fn text(&self, name: &'static str, max: usize) -> Result<Option<String>, BadEvent> {
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

    pub fn without(mut self, names: &[&str]) -> Self {
        self.0.retain(|(name, _)| !names.contains(&name.as_ref()));
        self
    }

    pub fn to_raw(&self) -> Result<Box<RawValue>, BadEvent> {
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
                let mut seen = HashSet::new();
                let mut members: Vec<(Cow<'de, str>, Cow<'de, RawValue>)> = Vec::new();
                while let Some(Name(name)) = map.next_key()? {
                    // Few are compared one by one; with many that would take the square of their number.
                    let twice = match members.len() {
                        0..FEW => members.iter().any(|(other, _)| *other == name),
                        FEW => {
                            seen.extend(members.iter().map(|(other, _)| other.clone()));
                            !seen.insert(name.clone())
                        }
                        _ => !seen.insert(name.clone()),
                    };
                    // Two parsers that pick different ones of a name would see two different events.
                    if twice {
                        let short: String = name.chars().take(64).collect();
                        return Err(serde::de::Error::custom(format_args!("{short} stands in it twice")));
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
