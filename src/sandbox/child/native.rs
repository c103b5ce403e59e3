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
use mlua::{Lua, LuaString, Table, Value as Lua5};

use super::json::{self, Nulls, ToLuaError};
use crate::sandbox::protocol::{MAX_LOG, MAX_LOGS, MAX_TEXT, ScriptLogLine};

/// Returns the table of native functions. `logs` receives the lines that scripts log.
pub fn table(lua: &Lua, array: &Table, logs: Rc<RefCell<Vec<ScriptLogLine>>>) -> mlua::Result<Table> {
    let native = lua.create_table()?;
    native.raw_set("null", Lua5::NULL)?;
    native.raw_set("array", array)?;
    let marker = array.clone();
    native.raw_set(
        "encode",
        lua.create_function(move |lua, value: Lua5| match json::from_lua(&value, &marker, MAX_TEXT) {
            Ok(text) => Ok((Some(lua.create_string(text)?), None)),
            Err(why) => Ok((None, Some(why))),
        })?,
    )?;
    native.raw_set(
        "decode",
        lua.create_function(|lua, text: LuaString| {
            match json::to_lua(lua, &text.as_bytes(), Nulls::Keep, None) {
                Ok(value) => Ok((value, None)),
                Err(ToLuaError::Json(error)) => Ok((Lua5::Nil, Some(error.to_string()))),
                Err(ToLuaError::Lua(error)) => Err(error),
            }
        })?,
    )?;
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
