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

/// The metatables that mark a table as a list: always, or if it is empty.
pub struct Markers {
    pub array: Table,
    pub empty_array: Table,
}

/// Settings of an encoder, as cjson has them.
#[derive(Clone, Copy)]
pub struct EncodeOptions {
    /// Whether an empty table without a marker is an object or a list.
    pub empty_table_as_object: bool,
    /// A list is too sparse if its last index is above `sparse_safe` and above `sparse_ratio` times its items. A ratio of 0 allows
    /// every list; then the size of the JSON is the only bound.
    pub sparse_ratio: usize,
    pub sparse_safe: usize,
    /// Whether a list that is too sparse becomes an object instead of an error.
    pub convert_sparse: bool,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        EncodeOptions { empty_table_as_object: true, sparse_ratio: 2, sparse_safe: 10, convert_sparse: false }
    }
}

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
pub fn from_lua(
    value: &Lua5,
    markers: &Markers,
    options: EncodeOptions,
    limit: usize,
) -> Result<Vec<u8>, String> {
    let mut encoder = Encoder { out: Vec::new(), markers, options, limit };
    encoder.write(value, 0)?;
    Ok(encoder.out)
}

struct Encoder<'a> {
    out: Vec<u8>,
    markers: &'a Markers,
    options: EncodeOptions,
    limit: usize,
}

impl Encoder<'_> {
    fn write(&mut self, value: &Lua5, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("cannot serialise, nested more than {MAX_DEPTH} deep"));
        }
        if self.out.len() > self.limit {
            return Err(format!("cannot serialise, the JSON is over {} KiB", self.limit >> 10));
        }
        match value {
            Lua5::Nil => self.out.extend(b"null"),
            Lua5::LightUserData(pointer) if pointer.0.is_null() => self.out.extend(b"null"),
            Lua5::Boolean(true) => self.out.extend(b"true"),
            Lua5::Boolean(false) => self.out.extend(b"false"),
            Lua5::Integer(number) => self.out.extend(json_number(*number as f64).to_string().bytes()),
            Lua5::Number(number) if !number.is_finite() => {
                return Err("cannot serialise number: must not be NaN or Infinity".into());
            }
            Lua5::Number(number) => self.out.extend(json_number(*number).to_string().bytes()),
            Lua5::String(text) => write_string(&mut self.out, &text.as_bytes()),
            Lua5::Table(table) => match self.classify(table)? {
                Items::List(length) => {
                    self.out.push(b'[');
                    for index in 1..=length {
                        if index > 1 {
                            self.out.push(b',');
                        }
                        let item: Lua5 = table.raw_get(index).map_err(|error| error.to_string())?;
                        self.write(&item, depth + 1)?;
                    }
                    self.out.push(b']');
                }
                Items::Members(members) => {
                    self.out.push(b'{');
                    for (index, (name, member)) in members.iter().enumerate() {
                        if index > 0 {
                            self.out.push(b',');
                        }
                        write_string(&mut self.out, name);
                        self.out.push(b':');
                        self.write(member, depth + 1)?;
                    }
                    self.out.push(b'}');
                }
            },
            other => return Err(format!("cannot serialise {}: type not supported", other.type_name())),
        }
        Ok(())
    }

    /// Classifies a table: a list if all its keys are positive integers. The options and the markers decide about an empty
    /// one.
    fn classify(&self, table: &Table) -> Result<Items, String> {
        let metatable = table.metatable();
        let has_marker = |marker: &Table| metatable.as_ref().is_some_and(|metatable| metatable == marker);
        let is_marked = has_marker(&self.markers.array);
        let mut members = BTreeMap::new();
        let (mut last, mut count, mut is_list) = (0_usize, 0_usize, true);
        for pair in table.pairs::<Lua5, Lua5>() {
            let (key, member) = pair.map_err(|error| error.to_string())?;
            let index = match &key {
                Lua5::Integer(number) => usize::try_from(*number).ok().filter(|index| *index > 0),
                _ => None,
            };
            match index {
                Some(index) => (last, count) = (last.max(index), count + 1),
                None => is_list = false,
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
        if members.is_empty() {
            let is_list =
                is_marked || has_marker(&self.markers.empty_array) || !self.options.empty_table_as_object;
            return Ok(if is_list { Items::List(0) } else { Items::Members(members) });
        }
        if !is_marked && !is_list {
            return Ok(Items::Members(members));
        }
        let EncodeOptions { sparse_ratio, sparse_safe, convert_sparse, .. } = self.options;
        if sparse_ratio > 0 && last > sparse_safe && last > count.saturating_mul(sparse_ratio) {
            return match convert_sparse {
                true => Ok(Items::Members(members)),
                false => Err("cannot serialise table: excessively sparse array".into()),
            };
        }
        Ok(Items::List(last))
    }
}

enum Items {
    List(usize),
    Members(BTreeMap<Vec<u8>, Lua5>),
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
