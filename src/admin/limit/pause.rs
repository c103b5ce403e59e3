//! Reads from a response how long the vendor wants no further calls.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::core::time::Millis;

/// Upper bound of a requested pause.
const MAX_PAUSE: Duration = Duration::from_secs(3600);
/// Upper bound of the pause after a successful response that reports an exhausted quota, which may be another quota than
/// ours.
const MAX_QUOTA_PAUSE: Duration = Duration::from_secs(60);
/// Pause if the response does not give a time.
const DEFAULT_PAUSE: Duration = Duration::from_secs(5);
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// A pause that the vendor requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VendorPause {
    /// It rejected the call (429 or 503) for this time.
    Rejected(Duration),
    /// It accepted the call and would reject further ones for this time, because the quota is exhausted.
    QuotaExhausted(Duration),
}

impl VendorPause {
    pub fn duration(self) -> Duration {
        match self {
            VendorPause::Rejected(time) | VendorPause::QuotaExhausted(time) => time,
        }
    }
}

/// Returns the pause that a response requests, or None.
pub fn requested_pause(status: StatusCode, headers: &HeaderMap) -> Option<VendorPause> {
    let requested = retry_after(headers).or_else(|| until_reset(headers));
    match status.as_u16() {
        429 => Some(VendorPause::Rejected(requested.unwrap_or(DEFAULT_PAUSE).clamp(MIN_PAUSE, MAX_PAUSE))),
        503 => retry_after(headers).map(|after| VendorPause::Rejected(after.clamp(MIN_PAUSE, MAX_PAUSE))),
        _ if number(headers, "x-ratelimit-remaining") == Some(0) => until_reset(headers)
            .filter(|after| !after.is_zero())
            .map(|after| VendorPause::QuotaExhausted(after.min(MAX_QUOTA_PAUSE))),
        _ => None,
    }
}

/// Parses `retry-after`, in seconds or as a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    Some(at.duration_since(vendor_now(headers)?).unwrap_or_default())
}

/// Returns the time until `x-ratelimit-reset`, a Unix time in seconds.
fn until_reset(headers: &HeaderMap) -> Option<Duration> {
    let at = std::time::UNIX_EPOCH.checked_add(Duration::from_secs(number(headers, "x-ratelimit-reset")?))?;
    Some(at.duration_since(vendor_now(headers)?).unwrap_or_default())
}

/// Returns the vendor's clock if the response has a `Date`, because ours may be wrong by hours.
fn vendor_now(headers: &HeaderMap) -> Option<std::time::SystemTime> {
    let theirs = headers.get("date").and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    let ours = || u64::try_from(Millis::wall().0).ok().map(Duration::from_millis);
    theirs.or_else(|| std::time::UNIX_EPOCH.checked_add(ours()?))
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(status: u16, headers: &[(&'static str, &str)]) -> Option<u64> {
        let headers = headers.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), http::HeaderValue::from_str(value).unwrap())
        });
        let headers: HeaderMap = headers.collect();
        requested_pause(StatusCode::from_u16(status).unwrap(), &headers)
            .map(|pause| pause.duration().as_secs())
    }

    #[test]
    fn reads_pauses_from_status_and_headers() {
        let date = ("date", "Sun, 22 Nov 2026 08:00:00 GMT");
        let noon: u64 = 1_795_334_400;
        assert_eq!(httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(noon)), date.1);
        let at = |seconds: u64| (noon + seconds).to_string();
        assert_eq!(seconds(200, &[]), None);
        assert_eq!(seconds(429, &[]), Some(5));
        assert_eq!(seconds(429, &[("retry-after", "7")]), Some(7));
        assert_eq!(seconds(429, &[("retry-after", "0")]), Some(1), "has a lower bound");
        assert_eq!(seconds(429, &[("retry-after", "99999999")]), Some(3600), "has an upper bound");
        assert_eq!(seconds(429, &[("retry-after", "soon")]), Some(5));
        assert_eq!(seconds(429, &[date, ("retry-after", "Sun, 22 Nov 2026 08:00:09 GMT")]), Some(9));
        assert_eq!(seconds(429, &[date, ("x-ratelimit-reset", &at(12))]), Some(12));
        assert_eq!(seconds(429, &[date, ("x-ratelimit-reset", &at(12)), ("retry-after", "3")]), Some(3));
        assert_eq!(seconds(429, &[("x-ratelimit-reset", "18446744073709551615")]), Some(5));
        assert_eq!(seconds(503, &[]), None);
        assert_eq!(seconds(503, &[("retry-after", "9")]), Some(9));
        let remaining = |n| ("x-ratelimit-remaining", n);
        assert_eq!(seconds(200, &[date, remaining("0"), ("x-ratelimit-reset", &at(2))]), Some(2));
        assert_eq!(seconds(200, &[date, remaining("0"), ("x-ratelimit-reset", &at(4000))]), Some(60));
        assert_eq!(seconds(200, &[date, remaining("0"), ("x-ratelimit-reset", &at(0))]), None);
        assert_eq!(seconds(200, &[date, remaining("1"), ("x-ratelimit-reset", &at(2))]), None);
    }
}
