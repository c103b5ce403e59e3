//! Conversion between JSON and Lua values, compatible with cjson.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use mlua::{Lua, Table, Value as Lua5};
use serde::Deserializer;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};

use crate::core::lua::json_number;

/// The nesting limit of a script's value. Lower than the limits of JSON readers, because the value is embedded in other
/// JSON.
const MAX_DEPTH: usize = 120;
/// The index above which a list with more holes than items is rejected. Otherwise one item at index 1,000,000,000 would
/// fill the memory.
const MAX_SPARSE_INDEX: usize = 10;

/// How to convert a null member: omit it (an event's data), or keep it as `cjson.null` (JSON that a script decodes).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Nulls {
    Omit,
    Keep,
}

/// Why a text could not be converted.
#[derive(Debug)]
pub enum ToLuaError {
    Json(serde_json::Error),
    Lua(mlua::Error),
}

/// Converts JSON to a Lua value while parsing it. `array`: the metatable for lists, so that an empty one stays a list.
pub fn to_lua(lua: &Lua, text: &[u8], nulls: Nulls, array: Option<&Table>) -> Result<Lua5, ToLuaError> {
    let builder = LuaBuilder { lua, nulls, array, failed: Cell::new(None) };
    let mut reader = serde_json::Deserializer::from_slice(text);
    let read = (&builder).deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    match builder.failed.take() {
        Some(error) => Err(ToLuaError::Lua(error)),
        None => read.map_err(ToLuaError::Json),
    }
}

struct LuaBuilder<'a> {
    lua: &'a Lua,
    nulls: Nulls,
    array: Option<&'a Table>,
    /// The Lua error, because the error type of the JSON reader cannot contain it.
    failed: Cell<Option<mlua::Error>>,
}

impl LuaBuilder<'_> {
    fn record_error<T, E: serde::de::Error>(&self, result: mlua::Result<T>) -> Result<T, E> {
        result.map_err(|error| {
            self.failed.set(Some(error));
            E::custom("out of memory")
        })
    }
}

impl<'de> DeserializeSeed<'de> for &LuaBuilder<'_> {
    type Value = Lua5;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Lua5, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &LuaBuilder<'_> {
    type Value = Lua5;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Lua5, E> {
        Ok(Lua5::NULL)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Lua5, E> {
        Ok(Lua5::Boolean(value))
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Lua5, E> {
        Ok(Lua5::Number(number as f64))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Lua5, E> {
        Ok(Lua5::Number(number as f64))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Lua5, E> {
        Ok(Lua5::Number(number))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Lua5, E> {
        self.record_error(self.lua.create_string(text)).map(Lua5::String)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Lua5, A::Error> {
        let list = self.record_error(self.lua.create_table())?;
        let mut index = 0;
        while let Some(item) = items.next_element_seed(self)? {
            index += 1;
            self.record_error(list.raw_set(index, item))?;
        }
        if let Some(array) = self.array {
            self.record_error(list.set_metatable(Some(array.clone())))?;
        }
        Ok(Lua5::Table(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Lua5, A::Error> {
        let table = self.record_error(self.lua.create_table())?;
        // If a name occurs twice, the last member counts, as in other JSON readers. A null removes an earlier value.
        while let Some(name) = members.next_key_seed(self)? {
            let value = members.next_value_seed(self)?;
            let omit = self.nulls == Nulls::Omit && value == Lua5::NULL;
            self.record_error(table.raw_set(name, if omit { Lua5::Nil } else { value }))?;
        }
        Ok(Lua5::Table(table))
    }
}

/// Converts a Lua value to JSON of at most about `limit` bytes. Sorts members, so that a value has the same bytes at
/// every attempt.
pub fn from_lua(value: &Lua5, array: &Table, limit: usize) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    write(&mut out, value, array, limit, 0)?;
    Ok(out)
}

fn write(out: &mut Vec<u8>, value: &Lua5, array: &Table, limit: usize, depth: usize) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("cannot serialise, nested more than {MAX_DEPTH} deep"));
    }
    if out.len() > limit {
        return Err(format!("cannot serialise, the JSON is over {} KiB", limit >> 10));
    }
    match value {
        Lua5::Nil => out.extend(b"null"),
        Lua5::LightUserData(pointer) if pointer.0.is_null() => out.extend(b"null"),
        Lua5::Boolean(true) => out.extend(b"true"),
        Lua5::Boolean(false) => out.extend(b"false"),
        Lua5::Integer(number) => out.extend(json_number(*number as f64).to_string().bytes()),
        Lua5::Number(number) if !number.is_finite() => {
            return Err("cannot serialise number: must not be NaN or Infinity".into());
        }
        Lua5::Number(number) => out.extend(json_number(*number).to_string().bytes()),
        Lua5::String(text) => write_string(out, &text.as_bytes()),
        Lua5::Table(table) => match classify(table, array)? {
            Items::List(length) => {
                out.push(b'[');
                for index in 1..=length {
                    if index > 1 {
                        out.push(b',');
                    }
                    let item: Lua5 = table.raw_get(index).map_err(|error| error.to_string())?;
                    write(out, &item, array, limit, depth + 1)?;
                }
                out.push(b']');
            }
            Items::Members(members) => {
                out.push(b'{');
                for (index, (name, member)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    write_string(out, name);
                    out.push(b':');
                    write(out, member, array, limit, depth + 1)?;
                }
                out.push(b'}');
            }
        },
        other => return Err(format!("cannot serialise {}: type not supported", other.type_name())),
    }
    Ok(())
}

enum Items {
    List(usize),
    Members(BTreeMap<Vec<u8>, Lua5>),
}

/// Classifies a table: a list if all its keys are positive integers. An empty table is an object unless it is marked.
fn classify(table: &Table, array: &Table) -> Result<Items, String> {
    let marked = table.metatable().is_some_and(|metatable| metatable == *array);
    let mut members = BTreeMap::new();
    let (mut last, mut count, mut list) = (0, 0, true);
    for pair in table.pairs::<Lua5, Lua5>() {
        let (key, member) = pair.map_err(|error| error.to_string())?;
        let index = match &key {
            Lua5::Integer(number) => usize::try_from(*number).ok().filter(|index| *index > 0),
            _ => None,
        };
        match index {
            Some(index) => (last, count) = (last.max(index), count + 1),
            None => list = false,
        }
        let name = match &key {
            Lua5::String(text) => text.as_bytes().to_vec(),
            Lua5::Integer(number) => number.to_string().into_bytes(),
            Lua5::Number(number) => crate::core::lua::number_text(*number).into_bytes(),
            other => {
                return Err(format!(
                    "cannot serialise table: key must be a number or string, not {}",
                    other.type_name()
                ));
            }
        };
        members.insert(name, member);
    }
    if marked || (list && count > 0) {
        if last > MAX_SPARSE_INDEX && last > 2 * count {
            return Err("cannot serialise table: excessively sparse array".into());
        }
        return Ok(Items::List(last));
    }
    Ok(Items::Members(members))
}

fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    for byte in text {
        match byte {
            b'"' => out.extend(b"\\\""),
            b'\\' => out.extend(b"\\\\"),
            b'\n' => out.extend(b"\\n"),
            b'\r' => out.extend(b"\\r"),
            b'\t' => out.extend(b"\\t"),
            0x08 => out.extend(b"\\b"),
            0x0c => out.extend(b"\\f"),
            0x00..=0x1f => out.extend(format!("\\u{byte:04x}").bytes()),
            _ => out.push(*byte),
        }
    }
    out.push(b'"');
}
