//! Durations in the format of the Gateway API (GEP-2257): `15s`, `1h30m`, `500ms`.

use std::time::Duration;

/// Why a text is not a valid duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("must be a duration such as 15s, 10m or 1h30m (units h, m, s, ms; a day is 24h)")]
    Malformed,
    #[error("must be more than zero")]
    Zero,
}

/// Parses `^([0-9]{1,5}(h|m|s|ms)){1,4}$` with a sum above zero. The sum cannot overflow: it is at most four times 99999
/// hours.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        parts += 1;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if parts > 4 || !(1..=5).contains(&digits) {
            return Err(DurationError::Malformed);
        }
        let (number, tail) = rest.split_at_checked(digits).ok_or(DurationError::Malformed)?;
        let number: u64 = number.parse().map_err(|_| DurationError::Malformed)?;
        // Try "ms" before "m"; otherwise 5ms would parse as 5 minutes followed by a stray "s".
        let (unit, tail) = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)]
            .into_iter()
            .find_map(|(name, millis)| tail.strip_prefix(name).map(|tail| (millis, tail)))
            .ok_or(DurationError::Malformed)?;
        total += Duration::from_millis(number * unit);
        rest = tail;
    }
    match parts {
        0 => Err(DurationError::Malformed),
        _ if total.is_zero() => Err(DurationError::Zero),
        _ => Ok(total),
    }
}

/// Returns a duration for people: its largest unit, or the two largest between an hour and a day.
pub fn short_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 if seconds % 3600 < 60 => format!("{}h", seconds / 3600),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parses_gateway_api_durations() {
        for (text, millis) in [
            ("15s", 15_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("1m5ms", 60_005),
            ("1h1m1s1ms", 3_661_001),
            ("0h1s", 1_000),
            ("99999h99999h99999h99999h", 4 * 99_999 * 3_600_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn rejects_other_texts() {
        for text in
            ["", "15", "s", "1.5s", "-1s", "+1s", "1d", "123456s", "1s1s1s1s1s", "1 s", "1S", "1ms2", "1é"]
        {
            assert_eq!(parse(text), Err(DurationError::Malformed), "{text}");
        }
        assert_eq!(parse("0s"), Err(DurationError::Zero));
        assert_eq!(parse("0h00m0ms"), Err(DurationError::Zero));
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*|[0-9hms]{0,30}") {
            let parsed = parse(&text);
            prop_assert!(parsed.is_err() || !parsed.unwrap().is_zero());
        }

        #[test]
        fn sums_all_parts(h in 0u64..=99_999, m in 0u64..=99_999, s in 1u64..=99_999, ms in 0u64..=99_999) {
            let expected = Duration::from_millis(((h * 60 + m) * 60 + s) * 1000 + ms);
            prop_assert_eq!(parse(&format!("{h}h{m}m{s}s{ms}ms")), Ok(expected));
        }
    }

    #[test]
    fn short_texts_have_one_or_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3599, "59m"),
            (3600, "1h"),
            (3661, "1h1m"),
            (86_399, "23h59m"),
            (86_400, "1d"),
            (172_799, "1d"),
        ] {
            assert_eq!(short_text(Duration::from_secs(seconds)), text);
        }
    }
}
