//! Conversion between JSON and Lua values, compatible with cjson.

use std::collections::BTreeMap;

use mlua::{Lua, LuaString, Table, Value as Lua5};

use crate::core::event::data::{
    Build, EscapedText, MAX_READ_DEPTH, ReadProblem, UnreadableData, nearest_double, read,
};
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
    Json(UnreadableData),
    Lua(mlua::Error),
}

impl From<UnreadableData> for ToLuaError {
    fn from(error: UnreadableData) -> Self {
        ToLuaError::Json(error)
    }
}

impl From<mlua::Error> for ToLuaError {
    fn from(error: mlua::Error) -> Self {
        ToLuaError::Lua(error)
    }
}

/// Converts JSON to a Lua value while reading it. `array`: the metatable for lists, so that an empty one stays a list.
pub fn to_lua(lua: &Lua, text: &[u8], nulls: Nulls, array: Option<&Table>) -> Result<Lua5, ToLuaError> {
    let text = std::str::from_utf8(text)
        .map_err(|error| UnreadableData { problem: ReadProblem::Utf8, at: error.valid_up_to() })?;
    read(text, MAX_READ_DEPTH, &mut LuaBuilder { lua, nulls, array })
}

struct LuaBuilder<'a> {
    lua: &'a Lua,
    nulls: Nulls,
    array: Option<&'a Table>,
}

/// A list and the number of its items.
struct LuaList(Table, i64);

impl<'t> Build<'t> for LuaBuilder<'_> {
    type Value = Lua5;
    type List = LuaList;
    type Object = Table;
    type Name = LuaString;
    type Error = ToLuaError;

    fn null(&mut self) -> Result<Lua5, ToLuaError> {
        Ok(Lua5::NULL)
    }

    fn boolean(&mut self, value: bool) -> Result<Lua5, ToLuaError> {
        Ok(Lua5::Boolean(value))
    }

    fn number(&mut self, text: &'t str) -> Result<Lua5, ToLuaError> {
        // Lua has only doubles. As in lua-cjson, a number outside their range is infinite.
        Ok(Lua5::Number(nearest_double(text)))
    }

    fn text(&mut self, text: EscapedText<'t>) -> Result<Lua5, ToLuaError> {
        Ok(Lua5::String(self.lua.create_string(text.decode().as_bytes())?))
    }

    fn start_list(&mut self) -> Result<LuaList, ToLuaError> {
        Ok(LuaList(self.lua.create_table()?, 0))
    }

    fn add_item(&mut self, list: &mut LuaList, item: Lua5) -> Result<(), ToLuaError> {
        list.1 += 1;
        Ok(list.0.raw_set(list.1, item)?)
    }

    fn end_list(&mut self, list: LuaList) -> Result<Lua5, ToLuaError> {
        if let Some(array) = self.array {
            list.0.set_metatable(Some(array.clone()))?;
        }
        Ok(Lua5::Table(list.0))
    }

    fn start_object(&mut self) -> Result<Table, ToLuaError> {
        Ok(self.lua.create_table()?)
    }

    fn name(&mut self, _: &mut Table, name: EscapedText<'t>) -> Result<LuaString, ToLuaError> {
        Ok(self.lua.create_string(name.decode().as_bytes())?)
    }

    fn add_member(&mut self, table: &mut Table, name: LuaString, value: Lua5) -> Result<(), ToLuaError> {
        // If a name occurs twice, the last member counts. A null removes an earlier value.
        let omit = self.nulls == Nulls::Omit && value == Lua5::NULL;
        Ok(table.raw_set(name, if omit { Lua5::Nil } else { value })?)
    }

    fn end_object(&mut self, table: Table) -> Result<Lua5, ToLuaError> {
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
