//! JSON and Lua's values, as cjson has them.

use std::collections::BTreeMap;

use mlua::{Lua, Table, Value as Lua5};
use serde_json::Value;

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

/// A Lua value. `array`: the metatable that lists get, so that an empty one stays a list.
pub fn to_lua(lua: &Lua, value: &Value, nulls: Nulls, array: Option<&Table>) -> mlua::Result<Lua5> {
    Ok(match value {
        Value::Null => Lua5::NULL,
        Value::Bool(value) => Lua5::Boolean(*value),
        Value::Number(number) => Lua5::Number(number.as_f64().unwrap_or_default()),
        Value::String(text) => Lua5::String(lua.create_string(text)?),
        Value::Array(items) => {
            let list = lua.create_table_with_capacity(items.len(), 0)?;
            for (index, item) in items.iter().enumerate() {
                list.raw_set(index + 1, to_lua(lua, item, nulls, array)?)?;
            }
            if let Some(array) = array {
                list.set_metatable(Some(array.clone()))?;
            }
            Lua5::Table(list)
        }
        Value::Object(members) => {
            let table = lua.create_table_with_capacity(0, members.len())?;
            for (name, member) in members {
                if nulls == Nulls::Kept || !member.is_null() {
                    table.raw_set(name.as_str(), to_lua(lua, member, nulls, array)?)?;
                }
            }
            Lua5::Table(table)
        }
    })
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
        return Err(format!("cannot serialise, the JSON is over {} MiB", limit >> 20));
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
