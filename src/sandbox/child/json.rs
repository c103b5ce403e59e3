//! JSON and Lua's values, as cjson has them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use mlua::{Lua, Table, Value as Lua5};
use serde::Deserializer;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};

use crate::core::lua::json_number;

/// How deep a script's value may nest: less than what readers of JSON take, for it goes out within something else.
const MAX_DEPTH: usize = 120;
/// A list may have this many holes before it is taken for a mistake: one index of a billion would fill the memory.
const SPARSE: usize = 10;

/// What becomes of null as a member: nothing in an event's data, `cjson.null` in what a script decodes itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Nulls {
    Left,
    Kept,
}

/// Why a text gave no value.
#[derive(Debug)]
pub enum NoValue {
    Json(serde_json::Error),
    Lua(mlua::Error),
}

/// JSON as a Lua value, made as it is read. `array`: the metatable that lists get, so that an empty one stays a list.
pub fn to_lua(lua: &Lua, text: &[u8], nulls: Nulls, array: Option<&Table>) -> Result<Lua5, NoValue> {
    let maker = Maker { lua, nulls, array, failed: Cell::new(None) };
    let mut reader = serde_json::Deserializer::from_slice(text);
    let read = (&maker).deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    match maker.failed.take() {
        Some(error) => Err(NoValue::Lua(error)),
        None => read.map_err(NoValue::Json),
    }
}

struct Maker<'a> {
    lua: &'a Lua,
    nulls: Nulls,
    array: Option<&'a Table>,
    /// What Lua refused, for the reader has no words for it.
    failed: Cell<Option<mlua::Error>>,
}

impl Maker<'_> {
    fn made<T, E: serde::de::Error>(&self, made: mlua::Result<T>) -> Result<T, E> {
        made.map_err(|error| {
            self.failed.set(Some(error));
            E::custom("Lua has no room for it")
        })
    }
}

impl<'de> DeserializeSeed<'de> for &Maker<'_> {
    type Value = Lua5;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Lua5, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &Maker<'_> {
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
        self.made(self.lua.create_string(text)).map(Lua5::String)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Lua5, A::Error> {
        let list = self.made(self.lua.create_table())?;
        let mut index = 0;
        while let Some(item) = items.next_element_seed(self)? {
            index += 1;
            self.made(list.raw_set(index, item))?;
        }
        if let Some(array) = self.array {
            self.made(list.set_metatable(Some(array.clone())))?;
        }
        Ok(Lua5::Table(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Lua5, A::Error> {
        let table = self.made(self.lua.create_table())?;
        // Of a name that comes twice the last counts, as everywhere: a null takes the one before away.
        while let Some(name) = members.next_key_seed(self)? {
            let value = members.next_value_seed(self)?;
            let left = self.nulls == Nulls::Left && value == Lua5::NULL;
            self.made(table.raw_set(name, if left { Lua5::Nil } else { value }))?;
        }
        Ok(Lua5::Table(table))
    }
}

/// JSON. Members are sorted, so that the same value gives the same bytes at every attempt. `limit`: the most bytes.
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
        Lua5::Table(table) => match items(table, array)? {
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

/// A table is a list where all its keys are 1, 2, ...; an empty one is an object unless it is marked.
fn items(table: &Table, array: &Table) -> Result<Items, String> {
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
        if last > SPARSE && last > 2 * count {
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
