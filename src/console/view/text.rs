//! Numbers and durations as text.

use crate::console::model::Attempt;
use crate::core::time::Millis;

/// Formats a number with separators: `12,345`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a number and its noun: `1 hook`, `2 hooks`.
pub fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// Formats a duration in milliseconds with its two largest units: `350 ms`, `5.2 s`, `3 min 20 s`, `2 d 4 h`.
pub fn duration(millis: u64) -> String {
    let seconds = millis / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |large: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {small_unit}"),
    };
    match () {
        () if millis < 1000 => format!("{millis} ms"),
        () if millis < 10_000 => format!("{}.{} s", seconds, millis % 1000 / 100),
        () if minutes == 0 => format!("{seconds} s"),
        () if hours == 0 => pair(minutes, "min", seconds % 60, "s"),
        () if days == 0 => pair(hours, "h", minutes % 60, "min"),
        () => pair(days, "d", hours % 24, "h"),
    }
}

/// Returns the time between two points as text. None: one is not readable, or the second comes first.
pub fn elapsed(from: &str, to: &str) -> Option<String> {
    let (from, to) = (Millis::parse(from)?, Millis::parse(to)?);
    u64::try_from(to.0.checked_sub(from.0)?).ok().map(duration)
}

/// Shortens a text to this number of characters.
pub fn shorten(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    text.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

/// Describes the result of an attempt: `503`, `Timeout`, `200`.
pub fn attempt_result(attempt: &Attempt) -> String {
    match (attempt.status, &attempt.error) {
        (Some(status), _) => status.to_string(),
        (None, Some(error)) => error.clone(),
        (None, None) => "sent".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_numbers_and_durations() {
        for (number, want) in [(0, "0"), (999, "999"), (1000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(count(number), want);
        }
        for (millis, want) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (5_250, "5.2 s"),
            (59_999, "59 s"),
            (200_000, "3 min 20 s"),
            (3_600_000, "1 h"),
            (100_000_000, "1 d 3 h"),
        ] {
            assert_eq!(duration(millis), want);
        }
        assert_eq!(elapsed("2026-01-01T00:00:00Z", "2026-01-01T00:00:05.200Z").unwrap(), "5.2 s");
        assert_eq!(elapsed("2026-01-01T00:00:05Z", "2026-01-01T00:00:00Z"), None);
        assert_eq!((shorten("äöü", 3), shorten("äöüß", 3)), ("äöü".to_owned(), "äö…".to_owned()));
    }
}
