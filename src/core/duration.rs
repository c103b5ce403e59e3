//! Durations as the Gateway API writes them: `15s`, `1h30m`, `500ms`.

use std::time::Duration;

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("{0:?} is no duration: write one to four numbers with a unit (h, m, s, ms), for example 15s or 1h30m")]
    Syntax(String),
    #[error("{0:?} is no time at all: a duration is more than zero")]
    Zero(String),
}

/// Parses a Gateway API duration (GEP-2257): one to four numbers of at most five digits, each with a unit.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let syntax = || DurationError::Syntax(text.chars().take(64).collect());
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        if !(1..=5).contains(&digits) || parts == 4 {
            return Err(syntax());
        }
        let number: u64 = number.parse().map_err(|_| syntax())?;
        // `ms` before `m`: else `5ms` would be five minutes and a stray s.
        let (unit, after) = if let Some(after) = after.strip_prefix("ms") {
            (Duration::from_millis(1), after)
        } else if let Some(after) = after.strip_prefix('s') {
            (Duration::from_secs(1), after)
        } else if let Some(after) = after.strip_prefix('m') {
            (Duration::from_secs(60), after)
        } else if let Some(after) = after.strip_prefix('h') {
            (Duration::from_secs(3600), after)
        } else {
            return Err(syntax());
        };
        total += unit * u32::try_from(number).map_err(|_| syntax())?;
        rest = after;
        parts += 1;
    }
    match parts {
        0 => Err(syntax()),
        _ if total.is_zero() => Err(DurationError::Zero(text.to_owned())),
        _ => Ok(total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn table() {
        let ok = [("15s", 15_000), ("1h30m", 5_400_000), ("500ms", 500), ("1m5ms", 60_005), ("99999h", 359_996_400_000)];
        for (text, millis) in ok {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "15", "15 s", "1.5s", "-1s", "1d", "123456s", "1s1s1s1s1s", "1S", "٣s"] {
            assert!(matches!(parse(text), Err(DurationError::Syntax(_))), "{text}");
        }
        for text in ["0s", "0h0m"] {
            assert!(matches!(parse(text), Err(DurationError::Zero(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,40}") {
            let _ = parse(&text).is_ok();
        }

        #[test]
        fn what_the_crd_takes_is_taken(text in "([0-9]{1,5}(h|m|s|ms)){1,4}") {
            prop_assert!(!matches!(parse(&text), Err(DurationError::Syntax(_))));
        }
    }
}
