//! Numbers of event data: their text, the machine number that equals it, and a canonical decimal form.

use std::borrow::Cow;

/// An exponent beyond this is not added to the position of the point, because the sum could overflow.
const MAX_EXPONENT: i64 = 1_000_000_000_000_000;
/// A whole number with more digits exceeds every double.
const MAX_WHOLE_DIGITS: usize = 310;

/// A number with its text.
#[derive(Clone, Debug, PartialEq)]
pub struct Number<'t> {
    text: Cow<'t, str>,
    machine: Option<MachineNumber>,
}

/// A number as a filter computes with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MachineNumber {
    Int(i64),
    UInt(u64),
    Double(f64),
}

impl<'t> Number<'t> {
    /// Creates a number from its text in JSON's notation.
    pub fn new(text: impl Into<Cow<'t, str>>) -> Self {
        let text = text.into();
        let machine = machine_number(&text);
        Number { text, machine }
    }

    pub fn into_owned(self) -> Number<'static> {
        Number { text: Cow::Owned(self.text.into_owned()), machine: self.machine }
    }

    /// Returns the number as its sender wrote it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the number that a filter uses: an int or a uint for digits only, otherwise the nearest double. Returns
    /// `None` for a number outside the doubles' range, and for a whole number that none of the types holds exactly.
    pub fn machine(&self) -> Option<MachineNumber> {
        self.machine
    }

    /// Returns the nearest double; infinite for a number outside the doubles' range.
    pub fn as_f64(&self) -> f64 {
        match self.machine {
            Some(MachineNumber::Int(n)) => n as f64,
            Some(MachineNumber::UInt(n)) => n as f64,
            Some(MachineNumber::Double(n)) => n,
            None => nearest_double(&self.text),
        }
    }

    /// Returns the canonical form, which is the same text for equal numbers: 1 for `1`, `1.0` and `10e-1`.
    pub fn canonical(&self) -> Cow<'_, str> {
        match self.machine {
            Some(MachineNumber::Int(n)) if n != 0 => Cow::Borrowed(&self.text),
            Some(MachineNumber::UInt(_)) => Cow::Borrowed(&self.text),
            _ => Cow::Owned(canonical(&self.text)),
        }
    }
}

/// Returns the nearest double of a number in JSON's notation; infinite outside the doubles' range.
pub fn nearest_double(text: &str) -> f64 {
    // Rust's notation includes JSON's.
    text.parse().unwrap_or(f64::NAN)
}

fn machine_number(text: &str) -> Option<MachineNumber> {
    if text.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
        return Some(nearest_double(text)).filter(|n| n.is_finite()).map(MachineNumber::Double);
    }
    if let Ok(n) = text.parse() {
        return Some(MachineNumber::Int(n));
    }
    if let Ok(n) = text.parse() {
        return Some(MachineNumber::UInt(n));
    }
    if text.len() > MAX_WHOLE_DIGITS {
        return None;
    }
    // Rounding would make different numbers equal, for example ids of 128 bits.
    let n = Some(nearest_double(text)).filter(|n| n.is_finite())?;
    (format!("{n:.0}") == text).then_some(MachineNumber::Double(n))
}

/// Returns the canonical form of a number in JSON's notation: the shortest digits, as serde_json writes an equal integer
/// or double. Versions that hashed serde_json's text for the gates wrote the same text for integers, and for doubles that
/// are not whole and have up to 15 digits and 22 decimal places.
fn canonical(text: &str) -> String {
    let (sign, unsigned) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text),
    };
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = [whole, fraction].concat();
    let without_leading = all.trim_start_matches('0');
    let digits = without_leading.trim_end_matches('0');
    if digits.is_empty() {
        return "0".to_owned();
    }
    // The value is `digits` times ten to the power of `shift` and of the exponent.
    let zeros = length(without_leading) - length(digits);
    let shift = zeros - length(fraction);
    let (exponent_sign, exponent) = match exponent.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", exponent.trim_start_matches('+')),
    };
    let exponent = exponent.trim_start_matches('0');
    match format!("{exponent_sign}0{exponent}").parse::<i64>() {
        Ok(exponent) if exponent.abs() <= MAX_EXPONENT => layout(sign, digits, shift + exponent),
        // Not added, because the sum may fit no machine number. Different numbers still have different forms.
        _ => format!("{sign}{digits}e{shift}e{exponent_sign}{exponent}"),
    }
}

fn length(text: &str) -> i64 {
    i64::try_from(text.len()).unwrap_or(i64::MAX)
}

/// Writes `digits` times ten to the power of `shift`. The digits neither start nor end with 0.
fn layout(sign: &str, digits: &str, shift: i64) -> String {
    // How many digits precede the point.
    let point = length(digits) + shift;
    if (0..=20).contains(&shift) && point <= 20 {
        let zeros = usize::try_from(shift).unwrap_or_default();
        let whole = format!("{sign}{digits}{:0<zeros$}", "");
        if whole.parse::<i64>().is_ok() || whole.parse::<u64>().is_ok() {
            return whole;
        }
    }
    let split = |at: i64| usize::try_from(at).ok().and_then(|at| digits.split_at_checked(at));
    if let 1..=16 = point
        && let Some((whole, fraction)) = split(point).filter(|(_, fraction)| !fraction.is_empty())
    {
        return format!("{sign}{whole}.{fraction}");
    }
    if let -4..=0 = point {
        let zeros = usize::try_from(-point).unwrap_or_default();
        return format!("{sign}0.{:0<zeros$}{digits}", "");
    }
    let exponent = point - 1;
    match split(1) {
        Some((first, rest)) if !rest.is_empty() => format!("{sign}{first}.{rest}e{exponent:+}"),
        _ => format!("{sign}{digits}e{exponent:+}"),
    }
}
