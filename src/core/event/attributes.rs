//! CloudEvents attributes: their names, values and timestamps.

use serde_json::Value;
use serde_json::value::RawValue;

use super::rejection::InvalidEvent;

/// Maximum length in bytes of an attribute's name.
const MAX_ATTRIBUTE_NAME: usize = 64;
/// Maximum length in bytes of an attribute's value.
const MAX_ATTRIBUTE: usize = 4096;

/// Checks a timestamp for the form and the range of RFC 3339.
pub(super) fn check_rfc3339(time: &str) -> Result<(), InvalidEvent> {
    if !has_rfc3339_form(time) || !is_in_range(time) {
        return Err(InvalidEvent::WrongType { field: "time".into(), want: "an RFC 3339 time" });
    }
    Ok(())
}

/// Checks the ranges of a time that has the form of RFC 3339. A timestamp type would reject some of the years and
/// fractions that RFC 3339 allows, and receivers get the text unchanged anyway.
fn is_in_range(time: &str) -> bool {
    let number = |at: std::ops::Range<usize>| time.get(at).and_then(|digits| digits.parse::<i16>().ok());
    let small = |at| number(at).and_then(|n| i8::try_from(n).ok());
    let date = number(0..4).zip(small(5..7)).zip(small(8..10));
    let is_date = date.is_some_and(|((year, month), day)| jiff::civil::Date::new(year, month, day).is_ok());
    let is_at_most = |at, max| number(at).is_some_and(|n| n <= max);
    let is_offset = match time.len().checked_sub(6) {
        Some(at) if !time.ends_with(['Z', 'z']) => {
            is_at_most(at + 1..at + 3, 23) && is_at_most(at + 4..at + 6, 59)
        }
        _ => true,
    };
    // 60 is a leap second.
    is_date && is_at_most(11..13, 23) && is_at_most(14..16, 59) && is_at_most(17..19, 60) && is_offset
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_every_time_of_rfc_3339() {
        for time in [
            "2024-02-29T12:00:00Z",
            "2024-02-29t12:00:00z",
            "2024-02-29T12:00:00.1234567890Z",
            "2024-02-29T12:00:00.12345678912345678901234567890+23:59",
            "9999-12-31T23:59:59Z",
            "9999-12-31T23:59:59.999999999999-23:59",
            "0000-01-01T00:00:00Z",
            "2016-12-31T23:59:60Z",
            "2024-02-29T12:00:00-00:00",
        ] {
            check_rfc3339(time).unwrap_or_else(|error| panic!("{time}: {error}"));
        }
        for time in [
            "2023-02-29T12:00:00Z",
            "2023-00-01T12:00:00Z",
            "2023-13-01T12:00:00Z",
            "2023-01-32T12:00:00Z",
            "2023-01-01T24:00:00Z",
            "2023-01-01T12:60:00Z",
            "2023-01-01T12:00:61Z",
            "2023-01-01T12:00:00+24:00",
            "2023-01-01T12:00:00+00:60",
            "2023-01-01T12:00:00",
            "2023-01-01T12:00:00.",
            "2023-01-01T12:00:00.5",
            "2023-01-01T12:00:00.\u{0661}Z",
            "2023-01-01T12:00:00Z ",
            "10000-01-01T00:00:00Z",
            "+999-01-01T00:00:00Z",
        ] {
            assert!(check_rfc3339(time).is_err(), "{time}");
        }
    }
}
