//! Renders templates that only substitute fields. Uses no Lua, but produces the same bytes as Lua would.

use std::ops::Range;

use super::{Part, slice};
use crate::core::event::data::Data;
use crate::core::json_string::write_json_string;
use crate::core::lua;
use crate::core::output::{Output, OutputError};

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

/// Why the pieces could not be rendered.
pub enum FieldError {
    /// The offset of the field, and the message that Lua would give.
    Lua(usize, String),
    Output(OutputError),
}

impl From<OutputError> for FieldError {
    fn from(error: OutputError) -> Self {
        FieldError::Output(error)
    }
}

/// Appends the rendered pieces to `out`.
pub fn render(
    text: &str,
    pieces: &[Piece],
    context: &Data<'_>,
    out: &mut Output<'_, '_>,
) -> Result<(), FieldError> {
    for piece in pieces {
        match piece {
            Piece::Text(range) => out.push(slice(text, range))?,
            Piece::Field { at, path, json, escape } => {
                let lua_error = |problem| FieldError::Lua(*at, problem);
                let value = find(context, path).map_err(lua_error)?;
                if *json {
                    check_json_helper(context).map_err(lua_error)?;
                    write_json(&mut FieldWriter { out, escape: *escape }, value.unwrap_or(&Data::Null))?;
                } else {
                    write_value(&mut FieldWriter { out, escape: *escape }, value)?;
                }
            }
        }
    }
    Ok(())
}

/// Appends the text of one field, escaped for HTML if its tag says so.
struct FieldWriter<'o, 'b, 'a> {
    out: &'o mut Output<'b, 'a>,
    escape: bool,
}

impl FieldWriter<'_, '_, '_> {
    fn push(&mut self, text: &str) -> Result<(), OutputError> {
        if self.escape { self.out.push_html(text) } else { self.out.push(text) }
    }
}

/// Returns Lua's error if a member `json` of the data hides the helper `json()`, as data hides every global.
fn check_json_helper(context: &Data<'_>) -> Result<(), String> {
    match member(context, "json").filter(|value| **value != Data::Bool(false)) {
        None => Ok(()),
        other => Err(format!("attempt to call global 'json' (a {} value)", lua_type(other))),
    }
}

/// Returns the name of a value's type in Lua.
fn lua_type(value: Option<&Data<'_>>) -> &'static str {
    match value {
        None | Some(Data::Null) => "nil",
        Some(Data::Bool(_)) => "boolean",
        Some(Data::Number(_)) => "number",
        Some(Data::Text(_)) => "string",
        Some(Data::List(_) | Data::Object(_)) => "table",
    }
}

/// Returns the value at a path, or `None` if the last member is missing. Returns an error if an earlier one is missing.
fn find<'a>(context: &'a Data<'a>, path: &[String]) -> Result<Option<&'a Data<'a>>, String> {
    let mut names = path.iter();
    let first = names.next().map_or("", String::as_str);
    // lua-resty-template looks up a plain name with `or`, so false counts as missing.
    let mut value = match first {
        "context" => Some(context),
        name => member(context, name).filter(|value| **value != Data::Bool(false)),
    };
    let mut at = ("global", first);
    for name in names {
        value = match value {
            Some(inner @ (Data::Object(_) | Data::List(_))) => member(inner, name),
            // Strings have no members besides methods, which `parse_path` excludes.
            Some(Data::Text(_)) => None,
            other => {
                return Err(format!("attempt to index {} '{}' (a {} value)", at.0, at.1, lua_type(other)));
            }
        };
        at = ("field", name);
    }
    Ok(value)
}

fn member<'a>(value: &'a Data<'a>, name: &str) -> Option<&'a Data<'a>> {
    value.get(name).filter(|value| !value.is_null())
}

fn write_value(out: &mut FieldWriter<'_, '_, '_>, value: Option<&Data<'_>>) -> Result<(), OutputError> {
    match value {
        None | Some(Data::Null) => Ok(()),
        Some(Data::Bool(value)) => out.push(if *value { "true" } else { "false" }),
        Some(Data::Number(number)) => out.push(number.text()),
        Some(Data::Text(text)) => out.push(text),
        // Lua prints a table as its address, which is meaningless.
        Some(Data::List(_) | Data::Object(_)) => out.push("table: 0x00000000"),
    }
}

/// Appends JSON like the sandbox's `json()`: sorted members, without null members.
fn write_json(out: &mut FieldWriter<'_, '_, '_>, value: &Data<'_>) -> Result<(), OutputError> {
    match value {
        Data::Object(members) => {
            out.push("{")?;
            let mut separator = "";
            for (name, member) in members.iter() {
                if member.is_null() {
                    out.out.skip()?;
                    continue;
                }
                out.push(separator)?;
                separator = ",";
                write_json_string(name, |piece| out.push(piece))?;
                out.push(":")?;
                write_json(out, member)?;
            }
            out.push("}")
        }
        Data::List(items) => {
            out.push("[")?;
            let mut separator = "";
            for item in items {
                out.push(separator)?;
                separator = ",";
                write_json(out, item)?;
            }
            out.push("]")
        }
        Data::Number(number) => out.push(number.text()),
        Data::Text(text) => write_json_string(text, |piece| out.push(piece)),
        Data::Bool(true) => out.push("true"),
        Data::Bool(false) => out.push("false"),
        Data::Null => out.push("null"),
    }
}
