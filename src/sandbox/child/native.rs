//! Native functions of the prelude: JSON, hashes, encodings, time, logging.
//!
//! They raise an error only when memory is exhausted. An error from Rust would reach a script as an mlua object, so the
//! prelude raises plain errors instead.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use md5::Digest;
use mlua::{Lua, LuaString, MultiValue, Table, Value as Lua5};

use super::json::{self, EncodeOptions, Markers, Nulls, ToLuaError};
use super::regex::RegexCache;
use crate::sandbox::protocol::{MAX_LOG, MAX_LOGS, MAX_TEXT, ScriptLogLine};

/// Returns the table of native functions. `logs` receives the lines that scripts log.
pub fn table(lua: &Lua, markers: &Rc<Markers>, logs: Rc<RefCell<Vec<ScriptLogLine>>>) -> mlua::Result<Table> {
    let native = lua.create_table()?;
    native.raw_set("null", Lua5::NULL)?;
    native.raw_set("array", &markers.array)?;
    native.raw_set("empty_array", &markers.empty_array)?;
    add_json(lua, &native, markers)?;
    add_regex(lua, &native)?;
    native.raw_set(
        "log",
        lua.create_function(move |_, (level, text): (u8, LuaString)| {
            push_log_line(&mut logs.borrow_mut(), level, &text.to_string_lossy());
            Ok(())
        })?,
    )?;
    native.raw_set("now", lua.create_function(|_, ()| Ok(now()))?)?;
    native.raw_set(
        "encode_base64",
        lua.create_function(|_, (text, bare): (LuaString, bool)| {
            let engine = if bare { STANDARD_NO_PAD } else { STANDARD };
            Ok(engine.encode(text.as_bytes()))
        })?,
    )?;
    native.raw_set(
        "decode_base64",
        lua.create_function(|lua, text: LuaString| {
            let bytes = text.as_bytes();
            let bare: &[u8] =
                bytes.strip_suffix(b"==").or_else(|| bytes.strip_suffix(b"=")).unwrap_or(&bytes);
            STANDARD_NO_PAD.decode(bare).ok().map(|bytes| lua.create_string(bytes)).transpose()
        })?,
    )?;
    native
        .raw_set("escape_uri", lua.create_function(|_, text: LuaString| Ok(escape_uri(&text.as_bytes())))?)?;
    native.raw_set(
        "unescape_uri",
        lua.create_function(|lua, text: LuaString| lua.create_string(unescape_uri(&text.as_bytes())))?,
    )?;
    native.raw_set(
        "md5",
        lua.create_function(|lua, text: LuaString| lua.create_string(md5::Md5::digest(text.as_bytes())))?,
    )?;
    native.raw_set(
        "sha1",
        lua.create_function(|lua, text: LuaString| lua.create_string(sha1::Sha1::digest(text.as_bytes())))?,
    )?;
    native.raw_set(
        "hmac_sha1",
        lua.create_function(|lua, (key, text): (LuaString, LuaString)| {
            let mac = Hmac::<sha1::Sha1>::new_from_slice(&key.as_bytes());
            let mac = mac.map(|mac| mac.chain_update(text.as_bytes()).finalize().into_bytes());
            mac.ok().map(|mac| lua.create_string(mac)).transpose()
        })?,
    )?;
    Ok(native)
}

/// Adds `encode(value, empty_table_as_object, convert_sparse, sparse_ratio, sparse_safe)` and `decode(text, with_array_mt)`.
fn add_json(lua: &Lua, native: &Table, markers: &Rc<Markers>) -> mlua::Result<()> {
    let encoder = markers.clone();
    native.raw_set(
        "encode",
        lua.create_function(
            move |lua,
                  (value, empty_table_as_object, convert_sparse, ratio, safe): (
                Lua5,
                bool,
                bool,
                u32,
                u32,
            )| {
                let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
                let (sparse_ratio, sparse_safe) = (size(ratio), size(safe));
                let options =
                    EncodeOptions { empty_table_as_object, sparse_ratio, sparse_safe, convert_sparse };
                match json::from_lua(&value, &encoder, options, MAX_TEXT) {
                    Ok(text) => Ok((Some(lua.create_string(text)?), None)),
                    Err(why) => Ok((None, Some(why))),
                }
            },
        )?,
    )?;
    let decoder = markers.clone();
    native.raw_set(
        "decode",
        lua.create_function(move |lua, (text, with_array_mt): (LuaString, bool)| {
            let array = with_array_mt.then_some(&decoder.array);
            match json::to_lua(lua, &text.as_bytes(), Nulls::Keep, array) {
                Ok(value) => Ok((value, None)),
                Err(ToLuaError::Json(error)) => Ok((Lua5::Nil, Some(error.to_string()))),
                Err(ToLuaError::Lua(error)) => Err(error),
            }
        })?,
    )
}

/// Adds `search(subject, pattern, options, start, is_first)`. Returns the bounds of all groups in one list, with false for a group
/// that is not part of the match, and the numbers of named groups, if there are any; nil without a match; nil, nil and a
/// message for an error.
fn add_regex(lua: &Lua, native: &Table) -> mlua::Result<()> {
    let cache = RefCell::new(RegexCache::default());
    native.raw_set(
        "search",
        lua.create_function(
            move |lua,
                  (subject, pattern, options, start, is_first): (
                LuaString,
                LuaString,
                LuaString,
                f64,
                bool,
            )| {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
                let start = (start as usize).saturating_sub(1);
                let found = cache.borrow_mut().search(
                    &subject.as_bytes(),
                    &pattern.as_bytes(),
                    &options.as_bytes(),
                    start,
                    is_first,
                );
                let found = match found {
                    Ok(Some(found)) => found,
                    Ok(None) => return Ok(MultiValue::new()),
                    Err(problem) => {
                        let problem = Lua5::String(lua.create_string(problem)?);
                        return Ok(MultiValue::from_iter([Lua5::Nil, Lua5::Nil, problem]));
                    }
                };
                let bounds = lua.create_table_with_capacity(found.groups.len() * 2, 0)?;
                for group in found.groups {
                    match group {
                        Some((from, to)) => {
                            bounds.raw_push(from + 1)?;
                            bounds.raw_push(to)?;
                        }
                        None => {
                            bounds.raw_push(false)?;
                            bounds.raw_push(false)?;
                        }
                    }
                }
                if found.names.is_empty() {
                    return Ok(MultiValue::from_iter([Lua5::Table(bounds)]));
                }
                let names =
                    lua.create_table_from(found.names.iter().map(|(name, group)| (name.as_str(), *group)))?;
                Ok(MultiValue::from_iter([Lua5::Table(bounds), Lua5::Table(names)]))
            },
        )?,
    )
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Appends a log line within the limits of a reply.
fn push_log_line(logs: &mut Vec<ScriptLogLine>, level: u8, text: &str) {
    if logs.len() >= MAX_LOGS {
        return;
    }
    let text =
        if logs.len() + 1 == MAX_LOGS { "further log lines of this invocation are omitted" } else { text };
    let end = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= MAX_LOG).last();
    logs.push(ScriptLogLine {
        level,
        text: text.get(..end.unwrap_or_default()).unwrap_or_default().to_owned(),
    });
}

/// Percent-encodes all bytes except letters, digits and `-._~`.
fn escape_uri(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(*byte))
            }
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Decodes percent codes; `+` becomes a space. Invalid percent codes stay unchanged.
fn unescape_uri(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or_default());
                rest = after.get(2..).unwrap_or_default();
            }
            (b'+', ..) => out.push(b' '),
            (byte, ..) => out.push(*byte),
        }
    }
    out
}
