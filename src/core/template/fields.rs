//! Renders templates that only substitute fields. Uses no Lua, but produces the same bytes as Lua would.

use std::ops::Range;

use serde_json::Value;

use super::scan::ScanError;
use super::{Part, slice};
use crate::core::lua;

/// A piece of a template that only substitutes fields.
#[derive(Clone, Debug)]
pub enum Piece {
    Text(Range<usize>),
    Field { at: usize, path: Vec<String>, json: bool, escape: bool },
}

/// Returns the pieces of a template, or `None` if it needs Lua.
pub fn pieces(text: &str, parts: &[Part]) -> Option<Vec<Piece>> {
    parts
        .iter()
        .map(|part| match part {
            Part::Text(range) => Some(Piece::Text(range.clone())),
            Part::Write { code, escape } => {
                let source = slice(text, code);
                let inner = source.strip_prefix("json(").and_then(|rest| rest.strip_suffix(')'));
                let path = parse_path(inner.unwrap_or(source).trim_ascii())?;
                Some(Piece::Field { at: code.start, path, json: inner.is_some(), escape: *escape })
            }
            Part::Code(_) | Part::Block { .. } => None,
        })
        .collect()
}

/// Parses `a.b.c`. Returns `None` if Lua could find something other than data under these names: a global or a string
/// method.
fn parse_path(text: &str) -> Option<Vec<String>> {
    let names: Vec<&str> = text.split('.').collect();
    let is_data_path = names.iter().enumerate().all(|(index, name)| {
        let has_name_chars = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let has_valid_start = name.chars().next().is_some_and(|c| !c.is_ascii_digit());
        let is_predefined = if index == 0 { lua::is_global(name) } else { lua::is_string_method(name) };
        has_name_chars && has_valid_start && !is_predefined && !lua::is_keyword(name)
    });
    is_data_path.then(|| names.into_iter().map(ToOwned::to_owned).collect())
}

/// Renders the pieces. The error holds the offset of the field and the message that Lua would give.
pub fn render(text: &str, pieces: &[Piece], context: &Value) -> Result<String, ScanError> {
    let mut out = String::with_capacity(text.len() * 2);
    for piece in pieces {
        match piece {
            Piece::Text(range) => out.push_str(slice(text, range)),
            Piece::Field { at, path, json, escape } => {
                let value = find(context, path).map_err(|problem| (*at, problem))?;
                if *json {
                    check_json_helper(context).map_err(|problem| (*at, problem))?;
                    let text = value.map_or_else(|| "null".to_owned(), json_text);
                    if *escape { escape_into(&mut out, &text) } else { out.push_str(&text) }
                } else {
                    write_value(&mut out, value, *escape);
                }
            }
        }
    }
    Ok(out)
}

/// Returns Lua's error if a member `json` of the data hides the helper `json()`, as data hides every global.
fn check_json_helper(context: &Value) -> Result<(), String> {
    match member(context, "json").filter(|value| **value != Value::Bool(false)) {
        None => Ok(()),
        other => Err(format!("attempt to call global 'json' (a {} value)", lua_type(other))),
    }
}

/// Returns the name of a value's type in Lua.
fn lua_type(value: Option<&Value>) -> &'static str {
    match value {
        None | Some(Value::Null) => "nil",
        Some(Value::Bool(_)) => "boolean",
        Some(Value::Number(_)) => "number",
        Some(Value::String(_)) => "string",
        Some(Value::Array(_) | Value::Object(_)) => "table",
    }
}

/// Returns the value at a path, or `None` if the last member is missing. Returns an error if an earlier one is missing.
fn find<'a>(context: &'a Value, path: &[String]) -> Result<Option<&'a Value>, String> {
    let mut names = path.iter();
    let first = names.next().map_or("", String::as_str);
    // lua-resty-template looks up a plain name with `or`, so false counts as missing.
    let mut value = match first {
        "context" => Some(context),
        name => member(context, name).filter(|value| **value != Value::Bool(false)),
    };
    let mut at = ("global", first);
    for name in names {
        value = match value {
            Some(inner @ (Value::Object(_) | Value::Array(_))) => member(inner, name),
            // Strings have no members besides methods, which `parse_path` excludes.
            Some(Value::String(_)) => None,
            other => {
                return Err(format!("attempt to index {} '{}' (a {} value)", at.0, at.1, lua_type(other)));
            }
        };
        at = ("field", name);
    }
    Ok(value)
}

fn member<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.get(name).filter(|value| !value.is_null())
}

fn write_value(out: &mut String, value: Option<&Value>, escape: bool) {
    match value {
        None | Some(Value::Null) => {}
        Some(Value::Bool(value)) => out.push_str(if *value { "true" } else { "false" }),
        Some(Value::Number(number)) => out.push_str(&lua::number_text(number.as_f64().unwrap_or_default())),
        Some(Value::String(text)) if escape => escape_into(out, text),
        Some(Value::String(text)) => out.push_str(text),
        // Lua prints a table as its address, which is meaningless.
        Some(Value::Array(_) | Value::Object(_)) => out.push_str("table: 0x00000000"),
    }
}

/// Appends a text, escaped for HTML.
pub fn escape_into(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '/' => out.push_str("&#47;"),
            c => out.push(c),
        }
    }
}

/// Formats JSON like the sandbox's `json()`: sorted members, without null members.
fn json_text(value: &Value) -> String {
    fn without_null(value: &Value) -> Value {
        match value {
            Value::Object(members) => {
                let kept = members.iter().filter(|(_, value)| !value.is_null());
                Value::Object(kept.map(|(name, value)| (name.clone(), without_null(value))).collect())
            }
            Value::Array(items) => Value::Array(items.iter().map(without_null).collect()),
            // Lua has one number type, in which 2.0 equals 2.
            Value::Number(number) => lua::json_number(number.as_f64().unwrap_or_default()),
            other => other.clone(),
        }
    }
    without_null(value).to_string()
}
