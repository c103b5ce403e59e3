//! Event data as a value: what filters, gates and templates read.
//!
//! Strings borrow from the event's text, and numbers keep theirs, so that reading loses nothing: see [`Number`]. If a name
//! occurs twice in an object, the last member counts.

mod names;
mod number;
mod reader;
#[cfg(test)]
pub mod tests;

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::rejection::MAX_DEPTH;
use crate::core::json_string::write_json_string;
pub use names::{NameProblem, check_unique_names};
pub use number::{MachineNumber, Number, nearest_double};
pub use reader::{Build, EscapedText, ReadProblem, UnreadableData, read};

/// Maximum nesting that readers accept. One level more than data has, because data that is not an object becomes a member
/// of a template's variables.
pub const MAX_READ_DEPTH: usize = MAX_DEPTH + 1;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Data<'t> {
    Null,
    Bool(bool),
    Number(Number<'t>),
    Text(Cow<'t, str>),
    List(Vec<Data<'t>>),
    Object(Object<'t>),
}

/// The members of an object, with unique names, sorted by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object<'t>(Vec<(Cow<'t, str>, Data<'t>)>);

/// How values are written as JSON. Members are always sorted by name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum JsonStyle {
    /// Numbers as their original text.
    Original,
    /// As `Original`, without members that are null, which Lua does not have.
    WithoutNulls,
    /// Numbers in canonical form: equal values have the same text.
    Canonical,
}

impl<'t> Data<'t> {
    /// Reads JSON text. An accepted event's data is always readable: the publish API, relays and streams check the nesting.
    pub fn parse(text: &'t str) -> Result<Self, UnreadableData> {
        read(text, MAX_READ_DEPTH, &mut DataBuilder)
    }

    /// Copies what is borrowed from the event's text, so that the value can outlive it.
    pub fn into_owned(self) -> Data<'static> {
        match self {
            Data::Null => Data::Null,
            Data::Bool(value) => Data::Bool(value),
            Data::Number(number) => Data::Number(number.into_owned()),
            Data::Text(text) => Data::Text(Cow::Owned(text.into_owned())),
            Data::List(items) => Data::List(items.into_iter().map(Data::into_owned).collect()),
            Data::Object(Object(members)) => {
                let members = members.into_iter();
                let owned = members.map(|(name, value)| (Cow::Owned(name.into_owned()), value.into_owned()));
                Data::Object(Object(owned.collect()))
            }
        }
    }

    /// Returns the member of this name. Returns `None` for a value that is not an object.
    pub fn get(&self, name: &str) -> Option<&Data<'t>> {
        match self {
            Data::Object(members) => members.get(name),
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Data::Null)
    }

    /// Writes the value as JSON without blanks. Fails only if `out` does.
    pub fn write_json(&self, out: &mut impl fmt::Write, style: JsonStyle) -> fmt::Result {
        match self {
            Data::Null => out.write_str("null"),
            Data::Bool(true) => out.write_str("true"),
            Data::Bool(false) => out.write_str("false"),
            Data::Number(number) if style == JsonStyle::Canonical => out.write_str(&number.canonical()),
            Data::Number(number) => out.write_str(number.text()),
            Data::Text(text) => write_json_string(text, |piece| out.write_str(piece)),
            Data::List(items) => {
                out.write_char('[')?;
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.write_char(',')?;
                    }
                    item.write_json(out, style)?;
                }
                out.write_char(']')
            }
            Data::Object(members) => {
                out.write_char('{')?;
                let written =
                    members.iter().filter(|(_, value)| style != JsonStyle::WithoutNulls || !value.is_null());
                for (index, (name, value)) in written.enumerate() {
                    if index > 0 {
                        out.write_char(',')?;
                    }
                    write_json_string(name, |piece| out.write_str(piece))?;
                    out.write_char(':')?;
                    value.write_json(out, style)?;
                }
                out.write_char('}')
            }
        }
    }

    /// Returns the value as JSON without blanks.
    pub fn to_json(&self, style: JsonStyle) -> String {
        let mut out = String::new();
        // Writing to a String never fails.
        self.write_json(&mut out, style).ok();
        out
    }
}

impl<'t> Object<'t> {
    /// Creates an object. If a name occurs twice, the last member counts.
    pub fn new(mut members: Vec<(Cow<'t, str>, Data<'t>)>) -> Self {
        if !members.is_sorted_by(|(a, _), (b, _)| a < b) {
            // A stable sort: members of the same name keep their order.
            members.sort_by(|(a, _), (b, _)| a.cmp(b));
            members.dedup_by(|later, earlier| {
                let same = later.0 == earlier.0;
                if same {
                    std::mem::swap(later, earlier);
                }
                same
            });
        }
        Object(members)
    }

    pub fn get(&self, name: &str) -> Option<&Data<'t>> {
        let found = self.0.binary_search_by(|(member, _)| member.as_ref().cmp(name)).ok()?;
        self.0.get(found).map(|(_, value)| value)
    }

    /// Sets a member. Replaces an existing one.
    pub fn insert(&mut self, name: impl Into<Cow<'t, str>>, value: Data<'t>) {
        let name = name.into();
        match self.0.binary_search_by(|(member, _)| member.cmp(&name)) {
            Ok(at) => {
                if let Some((_, existing)) = self.0.get_mut(at) {
                    *existing = value;
                }
            }
            Err(at) => self.0.insert(at, (name, value)),
        }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the members in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Data<'t>)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value))
    }
}

/// Serializes a number that no machine number equals as its text: serializers have no other form for it.
impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Data::Null => serializer.serialize_unit(),
            Data::Bool(value) => serializer.serialize_bool(*value),
            Data::Number(number) => match number.machine() {
                Some(MachineNumber::Int(n)) => serializer.serialize_i64(n),
                Some(MachineNumber::UInt(n)) => serializer.serialize_u64(n),
                Some(MachineNumber::Double(n)) => serializer.serialize_f64(n),
                None => serializer.serialize_str(number.text()),
            },
            Data::Text(text) => serializer.serialize_str(text),
            Data::List(items) => serializer.collect_seq(items),
            Data::Object(members) => serializer.collect_map(members.iter()),
        }
    }
}

impl From<Value> for Data<'_> {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Data::Null,
            Value::Bool(value) => Data::Bool(value),
            Value::Number(number) => Data::Number(Number::new(number.to_string())),
            Value::String(text) => Data::Text(Cow::Owned(text)),
            Value::Array(items) => Data::List(items.into_iter().map(Data::from).collect()),
            Value::Object(members) => {
                let members = members.into_iter().map(|(name, value)| (Cow::Owned(name), Data::from(value)));
                Data::Object(Object::new(members.collect()))
            }
        }
    }
}

struct DataBuilder;

impl<'t> Build<'t> for DataBuilder {
    type Value = Data<'t>;
    type List = Vec<Data<'t>>;
    type Object = Vec<(Cow<'t, str>, Data<'t>)>;
    type Name = Cow<'t, str>;
    type Error = UnreadableData;

    fn null(&mut self) -> Result<Data<'t>, UnreadableData> {
        Ok(Data::Null)
    }

    fn boolean(&mut self, value: bool) -> Result<Data<'t>, UnreadableData> {
        Ok(Data::Bool(value))
    }

    fn number(&mut self, text: &'t str) -> Result<Data<'t>, UnreadableData> {
        Ok(Data::Number(Number::new(text)))
    }

    fn text(&mut self, text: EscapedText<'t>) -> Result<Data<'t>, UnreadableData> {
        Ok(Data::Text(text.decode()))
    }

    fn start_list(&mut self) -> Result<Self::List, UnreadableData> {
        Ok(Vec::new())
    }

    fn add_item(&mut self, list: &mut Self::List, item: Data<'t>) -> Result<(), UnreadableData> {
        list.push(item);
        Ok(())
    }

    fn end_list(&mut self, list: Self::List) -> Result<Data<'t>, UnreadableData> {
        Ok(Data::List(list))
    }

    fn start_object(&mut self) -> Result<Self::Object, UnreadableData> {
        Ok(Vec::new())
    }

    fn name(&mut self, _: &mut Self::Object, name: EscapedText<'t>) -> Result<Cow<'t, str>, UnreadableData> {
        Ok(name.decode())
    }

    fn add_member(
        &mut self,
        object: &mut Self::Object,
        name: Cow<'t, str>,
        value: Data<'t>,
    ) -> Result<(), UnreadableData> {
        object.push((name, value));
        Ok(())
    }

    fn end_object(&mut self, object: Self::Object) -> Result<Data<'t>, UnreadableData> {
        Ok(Data::Object(Object::new(object)))
    }
}
