//! What a YAML scalar means to kubectl, whose parser follows YAML 1.1: `yes` and `on` are true, `010` is 8.

use std::sync::LazyLock;

use base64::Engine;
use regex::Regex;
use serde_json::Value;

use super::data_objects::BASE64;
use super::number::{double_as_name, stored_double};

/// A decimal number with a fraction or an exponent, after underscores are removed.
static DECIMAL: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$").ok());

/// A scalar with its type.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    /// An integer above the range of `Int`.
    UInt(u64),
    Double(f64),
    Text(String),
}

impl Scalar {
    /// Determines the type of a scalar. `tag` is the name after `!!`; an empty one is a tag of another kind.
    pub fn resolve(text: &str, is_plain: bool, tag: Option<&str>) -> Result<Scalar, String> {
        match tag {
            None if is_plain => Ok(Scalar::of_plain(text)),
            Some("binary") => {
                let encoded: String = text.split(['\r', '\n']).collect();
                let bytes = BASE64.decode(encoded).map_err(|_| "!!binary is not base64".to_owned())?;
                Ok(Scalar::Text(String::from_utf8_lossy(&bytes).into_owned()))
            }
            Some(tag @ ("null" | "bool" | "int" | "float")) => match (tag, Scalar::of_plain(text)) {
                ("null", found @ Scalar::Null)
                | ("bool", found @ Scalar::Bool(_))
                | ("int", found @ (Scalar::Int(_) | Scalar::UInt(_)))
                | ("float", found @ Scalar::Double(_)) => Ok(found),
                #[expect(clippy::cast_precision_loss, reason = "the author wants a double")]
                ("float", Scalar::Int(number)) => Ok(Scalar::Double(number as f64)),
                _ => Err(format!("{text:.64} is not a value of the type !!{tag}")),
            },
            _ => Ok(Scalar::Text(text.to_owned())),
        }
    }

    /// Determines the type of a scalar without quotes and tag.
    fn of_plain(text: &str) -> Scalar {
        match text {
            "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
                return Scalar::Bool(true);
            }
            "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
                return Scalar::Bool(false);
            }
            "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
            ".nan" | ".NaN" | ".NAN" => return Scalar::Double(f64::NAN),
            ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Scalar::Double(f64::INFINITY),
            "-.inf" | "-.Inf" | "-.INF" => return Scalar::Double(f64::NEG_INFINITY),
            _ => {}
        }
        let number = match text.bytes().next() {
            Some(b'.') => double(text),
            Some(b'0'..=b'9' | b'+' | b'-') => number(&text.replace('_', "")),
            _ => None,
        };
        number.unwrap_or_else(|| Scalar::Text(text.to_owned()))
    }

    /// Returns the value in JSON.
    pub fn into_value(self) -> Result<Value, String> {
        #[expect(clippy::cast_precision_loss, reason = "the API server stores a double too")]
        let double = match self {
            Scalar::Null => return Ok(Value::Null),
            Scalar::Bool(value) => return Ok(Value::Bool(value)),
            Scalar::Int(number) => return Ok(number.into()),
            Scalar::Text(text) => return Ok(Value::String(text)),
            Scalar::UInt(number) => number as f64,
            Scalar::Double(number) => number,
        };
        stored_double(double)
            .map(Value::Number)
            .ok_or_else(|| "infinity and NaN are not values: quote them to write a text".to_owned())
    }

    /// Returns the name of a member.
    pub fn into_name(self) -> Result<String, String> {
        match self {
            Scalar::Null => Err("null is not the name of a member: quote it to write a text".to_owned()),
            Scalar::Bool(value) => Ok(value.to_string()),
            Scalar::Int(number) => Ok(number.to_string()),
            Scalar::UInt(number) => {
                Err(format!("{number} is too large for the name of a member: quote it to write a text"))
            }
            Scalar::Double(number) => Ok(double_as_name(number)),
            Scalar::Text(text) => Ok(text),
        }
    }
}

/// Reads a number without underscores: an integer in Go's notation, or a decimal number.
fn number(text: &str) -> Option<Scalar> {
    integer(text).or_else(|| double(text)).or_else(|| {
        // A sign after the prefix, which only this notation allows.
        let (sign, digits) = match text.strip_prefix("-0b") {
            Some(digits) => ("-", digits),
            None => ("", text.strip_prefix("0b")?),
        };
        i64::from_str_radix(&format!("{sign}{digits}"), 2).ok().map(Scalar::Int)
    })
}

/// Reads an integer in Go's notation: `0x`, `0o` and `0b` are prefixes, another leading zero means octal.
fn integer(text: &str) -> Option<Scalar> {
    let (sign, unsigned) = match text.split_at_checked(1) {
        Some((sign @ ("-" | "+"), rest)) => (sign, rest),
        _ => ("", text),
    };
    let prefix = unsigned.get(..2).unwrap_or_default().to_ascii_lowercase();
    let (radix, digits) = match (prefix.as_str(), unsigned.strip_prefix('0')) {
        ("0x", _) => (16, unsigned.get(2..)?),
        ("0o", _) => (8, unsigned.get(2..)?),
        ("0b", _) => (2, unsigned.get(2..)?),
        (_, Some("")) => (10, unsigned),
        (_, Some(octal)) => (8, octal),
        (_, None) => (10, unsigned),
    };
    // Rust's parser accepts a second sign.
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let number = i64::from_str_radix(&format!("{sign}{digits}"), radix).map(Scalar::Int);
    let unsigned = || u64::from_str_radix(digits, radix).ok().filter(|_| sign.is_empty()).map(Scalar::UInt);
    number.ok().or_else(unsigned)
}

/// Reads a decimal number. None: it is none, or outside the range of doubles.
fn double(text: &str) -> Option<Scalar> {
    DECIMAL.as_ref()?.is_match(text).then_some(())?;
    text.parse().ok().filter(|number: &f64| number.is_finite()).map(Scalar::Double)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plain(text: &str) -> Value {
        Scalar::resolve(text, true, None).unwrap().into_value().unwrap()
    }

    #[test]
    fn reads_yaml_1_1() {
        for (text, value) in [
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("y", json!(true)),
            ("yEs", json!("yEs")),
            ("~", json!(null)),
            ("", json!(null)),
            ("nil", json!("nil")),
            ("010", json!(8)),
            ("-010", json!(-8)),
            ("08", json!(8)),
            ("0", json!(0)),
            ("00", json!(0)),
            ("0o17", json!(15)),
            ("0xFF", json!(255)),
            ("-0x10", json!(-16)),
            ("0b101", json!(5)),
            ("0b-11", json!(-3)),
            ("0x", json!("0x")),
            ("+5", json!(5)),
            ("+-5", json!("+-5")),
            ("1_000", json!(1000)),
            ("_1", json!("_1")),
            ("1.0", json!(1)),
            ("1e1", json!(10)),
            ("1.", json!(1)),
            (".5", json!(0.5)),
            ("1e999", json!("1e999")),
            ("12:30:45", json!("12:30:45")),
            ("2026-11-29", json!("2026-11-29")),
            ("1.2.3", json!("1.2.3")),
            ("-", json!("-")),
            ("9223372036854775807", json!(9_223_372_036_854_775_807_i64)),
            ("18446744073709551615", json!(18_446_744_073_709_551_615_f64)),
        ] {
            assert_eq!(plain(text), value, "{text}");
        }
        assert!(Scalar::resolve(".inf", true, None).unwrap().into_value().is_err());
        assert_eq!(Scalar::resolve("yes", false, None), Ok(Scalar::Text("yes".into())));
    }

    #[test]
    fn reads_tags() {
        let tagged = |tag: &str, text: &str| Scalar::resolve(text, true, Some(tag));
        assert_eq!(tagged("str", "12"), Ok(Scalar::Text("12".into())));
        assert_eq!(tagged("int", "0x10"), Ok(Scalar::Int(16)));
        assert_eq!(tagged("float", "2"), Ok(Scalar::Double(2.0)));
        assert_eq!(tagged("binary", "aGk="), Ok(Scalar::Text("hi".into())));
        assert_eq!(tagged("", "12"), Ok(Scalar::Text("12".into())));
        assert!(
            tagged("int", "x").is_err() && tagged("bool", "1").is_err() && tagged("binary", "!").is_err()
        );
    }

    #[test]
    fn names_members() {
        let name = |text: &str| Scalar::resolve(text, true, None).unwrap().into_name();
        for (text, wanted) in [("y", "true"), ("010", "8"), ("1.50", "1.5"), ("1e6", "1e+06"), ("a", "a")] {
            assert_eq!(name(text).unwrap(), wanted);
        }
        assert!(name("~").is_err() && name("18446744073709551615").is_err());
    }
}
