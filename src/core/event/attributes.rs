//! CloudEvents attributes: their names, values and timestamps.

use serde_json::Value;
use serde_json::value::RawValue;

use super::draft::InvalidEvent;
use crate::core::time::Millis;

/// Maximum length in bytes of an attribute's name.
const MAX_ATTRIBUTE_NAME: usize = 64;
/// Maximum length in bytes of an attribute's value.
const MAX_ATTRIBUTE: usize = 4096;

/// Checks a timestamp for the form and the range of RFC 3339.
pub(super) fn check_rfc3339(time: &str) -> Result<(), InvalidEvent> {
    // jiff accepts more forms than RFC 3339, but receivers get the unchanged text and may accept only RFC 3339.
    if Millis::parse(time).is_none() || !has_rfc3339_form(time) {
        return Err(InvalidEvent::WrongType { field: "time".into(), want: "an RFC 3339 time" });
    }
    Ok(())
}

/// Returns true for `yyyy-mm-ddThh:mm:ss`, an optional fraction, and `Z` or `+hh:mm`. Does not check the ranges.
fn has_rfc3339_form(time: &str) -> bool {
    let matches_form = |text: &str, form: &str| {
        text.len() == form.len()
            && text
                .bytes()
                .zip(form.bytes())
                .all(|(b, f)| if f == b'0' { b.is_ascii_digit() } else { b == f })
    };
    let upper = time.to_ascii_uppercase();
    let Some((seconds, rest)) = upper.split_at_checked(19) else { return false };
    let offset = match rest.strip_prefix('.') {
        Some(fraction) => {
            let offset = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            if offset.len() == fraction.len() {
                return false;
            }
            offset
        }
        None => rest,
    };
    matches_form(seconds, "0000-00-00T00:00:00")
        && (offset == "Z" || matches_form(offset, "+00:00") || matches_form(offset, "-00:00"))
}

/// Checks an attribute's name: lower-case ASCII letters and digits, at most 64 bytes.
pub(super) fn check_attribute_name(name: &str) -> Result<&str, InvalidEvent> {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if name.is_empty() || name.len() > MAX_ATTRIBUTE_NAME || !plain {
        return Err(InvalidEvent::WrongType {
            field: name.chars().take(64).collect(),
            want: "an attribute's name of lower-case letters and digits",
        });
    }
    Ok(name)
}

/// Rejects control characters: CloudEvents (2.2) forbids them, and attributes are printed and may become headers.
pub(super) fn check_no_control_characters(field: &str, text: &str) -> Result<(), InvalidEvent> {
    if text.chars().any(char::is_control) {
        return Err(InvalidEvent::WrongType {
            field: field.to_owned(),
            want: "a string without control characters",
        });
    }
    Ok(())
}

/// Converts text to an attribute value, if it is at most `MAX_ATTRIBUTE` bytes long.
pub(super) fn text_attribute(name: &str, text: String) -> Result<Value, InvalidEvent> {
    if text.len() > MAX_ATTRIBUTE {
        return Err(InvalidEvent::TooLong { field: name.to_owned(), max: MAX_ATTRIBUTE });
    }
    Ok(Value::String(text))
}

/// Parses an attribute: a string, a boolean or a whole number of 32 bits.
pub(super) fn parse_attribute(name: &str, raw: &RawValue) -> Result<Value, InvalidEvent> {
    check_attribute_name(name)?;
    if raw.get().len() > MAX_ATTRIBUTE {
        return Err(InvalidEvent::TooLong { field: name.to_owned(), max: MAX_ATTRIBUTE });
    }
    match serde_json::from_str(raw.get()) {
        Ok(value @ (Value::String(_) | Value::Bool(_))) => Ok(value),
        Ok(Value::Number(n)) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => Ok(Value::Number(n)),
        _ => Err(InvalidEvent::WrongType {
            field: name.to_owned(),
            want: "a string, a boolean or a whole number of 32 bits",
        }),
    }
}
