//! What an answer asks of those who call: how long to stay away.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::core::time::Millis;

/// A vendor cannot make a Connection wait longer than this.
const LONGEST: Duration = Duration::from_secs(3600);
/// One whose answers say that no request is left is given this long at most: it may mean another limit than ours.
const LONGEST_AHEAD: Duration = Duration::from_secs(60);
/// Where it does not say how long.
const UNSAID: Duration = Duration::from_secs(5);
const SHORTEST: Duration = Duration::from_secs(1);

/// A vendor's wish to be left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Away {
    /// It refused, and says for how long.
    Refused(Duration),
    /// It did what was asked, and would refuse the next: nobody failed.
    Spent(Duration),
}

impl Away {
    pub fn time(self) -> Duration {
        match self {
            Away::Refused(time) | Away::Spent(time) => time,
        }
    }
}

/// How long the vendor wants to be left alone; None: it does not.
pub fn asked_to_wait(status: StatusCode, headers: &HeaderMap) -> Option<Away> {
    let said = retry_after(headers).or_else(|| until_reset(headers));
    match status.as_u16() {
        429 => Some(Away::Refused(said.unwrap_or(UNSAID).clamp(SHORTEST, LONGEST))),
        503 => retry_after(headers).map(|after| Away::Refused(after.clamp(SHORTEST, LONGEST))),
        _ if number(headers, "x-ratelimit-remaining") == Some(0) => until_reset(headers)
            .filter(|after| !after.is_zero())
            .map(|after| Away::Spent(after.min(LONGEST_AHEAD))),
        _ => None,
    }
}

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    Some(at.duration_since(vendors_now(headers)?).unwrap_or_default())
}

/// `x-ratelimit-reset` is a Unix time, in seconds.
fn until_reset(headers: &HeaderMap) -> Option<Duration> {
    let at = std::time::UNIX_EPOCH.checked_add(Duration::from_secs(number(headers, "x-ratelimit-reset")?))?;
    Some(at.duration_since(vendors_now(headers)?).unwrap_or_default())
}

/// The vendor's clock, where it tells: ours may be wrong by hours.
fn vendors_now(headers: &HeaderMap) -> Option<std::time::SystemTime> {
    let told = headers.get("date").and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    let ours = || u64::try_from(Millis::now().0).ok().map(Duration::from_millis);
    told.or_else(|| std::time::UNIX_EPOCH.checked_add(ours()?))
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(status: u16, headers: &[(&'static str, &str)]) -> Option<u64> {
        let headers = headers.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), http::HeaderValue::from_str(value).unwrap())
        });
        let headers: HeaderMap = headers.collect();
        asked_to_wait(StatusCode::from_u16(status).unwrap(), &headers).map(|away| away.time().as_secs())
    }

    #[test]
    fn every_way_to_ask() {
        let date = ("date", "Sun, 22 Nov 2026 08:00:00 GMT");
        let noon: u64 = 1_795_334_400;
        assert_eq!(httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(noon)), date.1);
        let at = |seconds: u64| (noon + seconds).to_string();
        assert_eq!(asked(200, &[]), None);
        assert_eq!(asked(429, &[]), Some(5));
        assert_eq!(asked(429, &[("retry-after", "7")]), Some(7));
        assert_eq!(asked(429, &[("retry-after", "0")]), Some(1), "never at once");
        assert_eq!(asked(429, &[("retry-after", "99999999")]), Some(3600), "nor for days");
        assert_eq!(asked(429, &[("retry-after", "soon")]), Some(5));
        assert_eq!(asked(429, &[date, ("retry-after", "Sun, 22 Nov 2026 08:00:09 GMT")]), Some(9));
        assert_eq!(asked(429, &[date, ("x-ratelimit-reset", &at(12))]), Some(12));
        assert_eq!(asked(429, &[date, ("x-ratelimit-reset", &at(12)), ("retry-after", "3")]), Some(3));
        assert_eq!(asked(429, &[("x-ratelimit-reset", "18446744073709551615")]), Some(5));
        assert_eq!(asked(503, &[]), None);
        assert_eq!(asked(503, &[("retry-after", "9")]), Some(9));
        let left = |n| ("x-ratelimit-remaining", n);
        assert_eq!(asked(200, &[date, left("0"), ("x-ratelimit-reset", &at(2))]), Some(2));
        assert_eq!(asked(200, &[date, left("0"), ("x-ratelimit-reset", &at(4000))]), Some(60));
        assert_eq!(asked(200, &[date, left("0"), ("x-ratelimit-reset", &at(0))]), None);
        assert_eq!(asked(200, &[date, left("1"), ("x-ratelimit-reset", &at(2))]), None);
    }
}
