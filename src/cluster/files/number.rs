//! Numbers as the API server stores them.

use serde_json::Number;

/// Stores a double as the API server does: a whole number becomes an integer (1.0 is 1, 1e1 is 10). None: it is infinite or no
/// number, which JSON cannot express.
pub fn stored_double(number: f64) -> Option<Number> {
    if number.fract() == 0.0 && number.abs() < 1e21 {
        // Go writes such a double with the digits that identify it, and reads the digits as an integer again.
        let digits = number.to_string();
        let integer =
            digits.parse().map(|n: i64| n.into()).or_else(|_| digits.parse().map(|n: u64| n.into()));
        if let Ok(integer) = integer {
            return Some(integer);
        }
    }
    Number::from_f64(number)
}

/// Stores a number in JSON's notation. None: it is outside the range of doubles.
pub fn stored_number(text: &str) -> Option<Number> {
    match text.parse::<i64>() {
        Ok(integer) => Some(integer.into()),
        // Also a whole number beyond 64 bits, which loses digits.
        Err(_) => stored_double(text.parse().ok()?),
    }
}

/// Writes a double as a member's name: with the digits of a 32-bit float, with an exponent from 1e+06 and below 1e-04.
pub fn double_as_name(number: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "kubectl writes these names with 32 bits")]
    let number = number as f32;
    if number.is_nan() {
        return ".nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { ".inf" } else { "-.inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or_default() {
        -4..6 => number.to_string(),
        exponent => format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_whole_numbers_as_integers() {
        for (text, stored) in [
            ("8.0", "8"),
            ("1e1", "10"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("1.5", "1.5"),
            ("9007199254740993", "9007199254740993"),
            ("9223372036854775808", "9223372036854775808"),
            ("18446744073709551615", "1.8446744073709552e+19"),
            ("123456789012345678901234567890", "1.2345678901234568e+29"),
            ("1e-7", "1e-7"),
        ] {
            let number = stored_number(text).unwrap();
            let wanted: serde_json::Number = serde_json::from_str(stored).unwrap();
            assert!(
                number == wanted || (number.as_f64() == wanted.as_f64() && !number.is_i64()),
                "{text}: {number}, not {wanted}"
            );
        }
        assert_eq!(stored_number("1e999"), None);
        assert_eq!(stored_double(f64::NAN), None);
    }

    #[test]
    fn writes_names_like_kubectl() {
        for (number, name) in [
            (1.5, "1.5"),
            (0.1, "0.1"),
            (1e5, "100000"),
            (1e6, "1e+06"),
            (1_234_567.0, "1.234567e+06"),
            (1e-5, "1e-05"),
            (-0.0, "-0"),
            (f64::INFINITY, ".inf"),
        ] {
            assert_eq!(double_as_name(number), name);
        }
    }
}
