//! JSON objects whose values keep their original text, so that numbers and member order survive.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::data::EscapedText;
use super::rejection::InvalidEvent;
use crate::core::json_string::write_json_string;

/// Up to this many members, duplicate names are found by linear search; above it, with a hash set.
const LINEAR_SEARCH_MAX: usize = 16;

/// What happens if a name occurs twice in an object.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Duplicates {
    /// The object is rejected: parsers disagree on which member counts, so a receiver could read another value than the
    /// worker. For senders that can correct their event.
    Reject,
    /// The last member counts, as in most parsers. For vendors, which would drop a rejected event.
    UseLast,
}

/// A member of an object.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    pub name: Cow<'a, str>,
    pub value: Cow<'a, RawValue>,
    /// The name as the sender wrote it, with its quotes, if it has escapes.
    escaped_name: Option<&'a str>,
}

impl<'a> Member<'a> {
    /// Returns the name's JSON if the decoded name may differ from it: half of a surrogate pair reads as U+FFFD.
    fn exact_name(&self) -> Option<&'a str> {
        self.escaped_name.filter(|_| self.name.contains(char::REPLACEMENT_CHARACTER))
    }
}

/// The members of a JSON object in their original order, with values as JSON text. Names are unique.
#[derive(Clone, Debug, Default)]
pub struct Members<'a>(Vec<Member<'a>>);

impl<'a> Members<'a> {
    /// Parses a JSON object.
    pub fn parse(body: &'a [u8], duplicates: Duplicates) -> Result<Self, InvalidEvent> {
        let mut parser = serde_json::Deserializer::from_slice(body);
        let members = ObjectSeed(duplicates).deserialize(&mut parser);
        // Truncated, because the parser's message may repeat the whole input.
        members
            .and_then(|members| parser.end().map(|()| members))
            .map_err(|e| InvalidEvent::NotJson(e.to_string().chars().take(256).collect()))
    }

    /// Creates an object with one member.
    pub fn of(name: &'a str, value: &'a RawValue) -> Self {
        let mut members = Members(Vec::new());
        members.push(name, Cow::Borrowed(value));
        members
    }

    pub fn iter(&self) -> impl Iterator<Item = &Member<'a>> {
        self.0.iter()
    }

    pub fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().find(|member| member.name == name).map(|member| member.value.as_ref())
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
        self.0.retain(|member| !names.contains(&member.name.as_ref()));
        self
    }

    pub fn push(&mut self, name: &'a str, value: Cow<'a, RawValue>) {
        self.0.push(Member { name: Cow::Borrowed(name), value, escaped_name: None });
    }

    /// Returns the object as JSON text that is known to be valid.
    pub fn to_raw(&self) -> Result<Box<RawValue>, InvalidEvent> {
        let raw = match self.0.iter().any(|member| member.exact_name().is_some()) {
            true => RawValue::from_string(self.to_json()),
            // The usual case does not parse its own output.
            false => serde_json::value::to_raw_value(self),
        };
        raw.map_err(|error| InvalidEvent::NotJson(error.to_string()))
    }

    /// Returns the object as JSON. Values keep their text, and so do names that cannot be written otherwise.
    pub fn to_json(&self) -> String {
        let size = |member: &Member<'_>| member.name.len() + member.value.get().len() + 4;
        let mut out = String::with_capacity(2 + self.0.iter().map(size).sum::<usize>());
        out.push('{');
        for (index, member) in self.0.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            match member.exact_name() {
                Some(escaped) => out.push_str(escaped),
                // Writing to a String never fails.
                None => drop(write_json_string(&member.name, |piece| out.write_str(piece))),
            }
            out.push(':');
            out.push_str(member.value.get());
        }
        out.push('}');
        out
    }
}

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|member| (&member.name, &member.value)))
    }
}

struct ObjectSeed(Duplicates);

impl<'de> DeserializeSeed<'de> for ObjectSeed {
    type Value = Members<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Members<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ObjectSeed {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut names = HashSet::new();
        let mut has_duplicates = false;
        let mut members: Vec<Member<'de>> = Vec::new();
        while let Some(json) = map.next_key::<&'de RawValue>()? {
            let name = EscapedText::of_valid(json.get()).decode();
            // The hash set keeps the total cost linear for objects with many members.
            let is_duplicate = match members.len() {
                0..LINEAR_SEARCH_MAX => members.iter().any(|other| other.name == name),
                LINEAR_SEARCH_MAX => {
                    names.extend(members.iter().map(|other| other.name.clone()));
                    !names.insert(name.clone())
                }
                _ => !names.insert(name.clone()),
            };
            if is_duplicate && self.0 == Duplicates::Reject {
                let short: String = name.chars().take(64).collect();
                return Err(serde::de::Error::custom(format_args!("the member {short} occurs twice")));
            }
            has_duplicates |= is_duplicate;
            let escaped_name = matches!(name, Cow::Owned(_)).then(|| json.get());
            let value = Cow::Borrowed(map.next_value::<&'de RawValue>()?);
            members.push(Member { name, value, escaped_name });
        }
        if has_duplicates {
            let last: HashMap<Cow<'de, str>, usize> =
                members.iter().enumerate().map(|(at, member)| (member.name.clone(), at)).collect();
            let mut at = 0..;
            members.retain(|member| last.get(&member.name) == at.next().as_ref());
        }
        Ok(Members(members))
    }
}
