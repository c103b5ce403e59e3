//! Templates that only substitute fields, rendered without Lua, to the same bytes.

use std::ops::Range;

use serde_json::Value;

use super::scan::Wrong;
use super::{Part, slice};
use crate::core::lua;

/// What a template of fields is made of.
#[derive(Clone, Debug)]
pub enum Piece {
    Text(Range<usize>),
    Field { at: usize, path: Vec<String>, json: bool, escape: bool },
}

/// The pieces, where nothing else is needed.
pub fn pieces(text: &str, parts: &[Part]) -> Option<Vec<Piece>> {
    parts
        .iter()
        .map(|part| match part {
            Part::Text(range) => Some(Piece::Text(range.clone())),
            Part::Write { code, escape } => {
                let source = slice(text, code);
                let inner = source.strip_prefix("json(").and_then(|rest| rest.strip_suffix(')'));
                let path = path(inner.unwrap_or(source).trim_ascii())?;
                Some(Piece::Field { at: code.start, path, json: inner.is_some(), escape: *escape })
            }
            Part::Code(_) | Part::Block { .. } => None,
        })
        .collect()
}

/// `a.b.c`, where Lua would find nothing but data under these names: neither a global nor a method of strings.
fn path(text: &str) -> Option<Vec<String>> {
    let names: Vec<&str> = text.split('.').collect();
    let good = names.iter().enumerate().all(|(index, name)| {
        let letters = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let start = name.chars().next().is_some_and(|c| !c.is_ascii_digit());
        let taken = if index == 0 { lua::is_global(name) } else { lua::is_string_method(name) };
        letters && start && !taken && !lua::is_keyword(name)
    });
    good.then(|| names.into_iter().map(ToOwned::to_owned).collect())
}

pub fn render(text: &str, pieces: &[Piece], context: &Value) -> Result<String, Wrong> {
    let mut out = String::with_capacity(text.len() * 2);
    for piece in pieces {
        match piece {
            Piece::Text(range) => out.push_str(slice(text, range)),
            Piece::Field { at, path, json, escape } => {
                let value = find(context, path).map_err(|why| (*at, why))?;
                if *json {
                    not_hidden(context).map_err(|why| (*at, why))?;
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

/// A member of the data goes before the helper of its name, as before every global.
fn not_hidden(context: &Value) -> Result<(), String> {
    match member(context, "json").filter(|value| **value != Value::Bool(false)) {
        None => Ok(()),
        other => Err(format!("attempt to call global 'json' (a {} value)", kind(other))),
    }
}

/// What Lua calls a value.
fn kind(value: Option<&Value>) -> &'static str {
    match value {
        None | Some(Value::Null) => "nil",
        Some(Value::Bool(_)) => "boolean",
        Some(Value::Number(_)) => "number",
        Some(Value::String(_)) => "string",
        Some(Value::Array(_) | Value::Object(_)) => "table",
    }
}

/// The value under a path; none where the last name is not there. An error where one before it is not.
fn find<'a>(context: &'a Value, path: &[String]) -> Result<Option<&'a Value>, String> {
    let mut names = path.iter();
    let first = names.next().map_or("", String::as_str);
    // The library looks a plain name up with `or`, so that a false one is as good as none.
    let mut value = match first {
        "context" => Some(context),
        name => member(context, name).filter(|value| **value != Value::Bool(false)),
    };
    let mut at = ("global", first);
    for name in names {
        value = match value {
            Some(inner @ (Value::Object(_) | Value::Array(_))) => member(inner, name),
            // Strings have methods, and no other members.
            Some(Value::String(_)) => None,
            other => {
                return Err(format!("attempt to index {} '{}' (a {} value)", at.0, at.1, kind(other)));
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
        // As Lua shows a table: its address, which says nothing.
        Some(Value::Array(_) | Value::Object(_)) => out.push_str("table: 0x00000000"),
    }
}

/// Escapes for HTML.
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

/// JSON as the sandbox's `json()` writes it: members sorted, those that are null left out.
fn json_text(value: &Value) -> String {
    fn without_null(value: &Value) -> Value {
        match value {
            Value::Object(members) => {
                let kept = members.iter().filter(|(_, value)| !value.is_null());
                Value::Object(kept.map(|(name, value)| (name.clone(), without_null(value))).collect())
            }
            Value::Array(items) => Value::Array(items.iter().map(without_null).collect()),
            // Lua has one kind of number: 2.0 is 2.
            Value::Number(number) => lua::json_number(number.as_f64().unwrap_or_default()),
            other => other.clone(),
        }
    }
    without_null(value).to_string()
}
