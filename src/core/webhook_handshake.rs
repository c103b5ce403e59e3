//! The handshake of webhooks (CloudEvents, HTTP 1.1 Web Hooks, section 4): a request states an origin, and the response
//! permits it requests up to a rate.

use std::num::NonZeroU32;

use http::HeaderMap;

use super::bucket::Rate;

pub const REQUEST_ORIGIN: &str = "webhook-request-origin";
pub const REQUEST_RATE: &str = "webhook-request-rate";
pub const ALLOWED_ORIGIN: &str = "webhook-allowed-origin";
pub const ALLOWED_RATE: &str = "webhook-allowed-rate";

/// What the response to a handshake means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeAnswer {
    /// The receiver permits deliveries, up to this number a minute. `None`: any number.
    Granted(Option<NonZeroU32>),
    /// The receiver cannot answer now (429 or 5xx).
    Unavailable,
    Refused(HandshakeRefusal),
}

/// Why a response grants nothing. The messages repeat no text of the response, which is untrusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeRefusal {
    #[error("the receiver answered {0}")]
    Status(u16),
    #[error("the response has no header WebHook-Allowed-Origin")]
    NoOrigin,
    #[error("WebHook-Allowed-Origin of the response is another origin")]
    ForeignOrigin,
    #[error("WebHook-Allowed-Rate of the response is neither * nor a number of requests a minute")]
    InvalidRate,
    /// Which of the values the receiver means is unknown.
    #[error("the response has more than one header {0}")]
    Repeated(&'static str),
}

/// Evaluates the response to a handshake that stated `origin`.
pub fn evaluate(status: u16, headers: &HeaderMap, origin: &str) -> HandshakeAnswer {
    match status {
        200..=299 => match read_grant(headers, origin) {
            Ok(rate) => HandshakeAnswer::Granted(rate),
            Err(refusal) => HandshakeAnswer::Refused(refusal),
        },
        429 | 500..=599 => HandshakeAnswer::Unavailable,
        _ => HandshakeAnswer::Refused(HandshakeRefusal::Status(status)),
    }
}

/// Returns the granted requests a minute. A grant without a rate has no limit: receivers owe a rate only if one was
/// requested, and many never state one.
fn read_grant(headers: &HeaderMap, origin: &str) -> Result<Option<NonZeroU32>, HandshakeRefusal> {
    let allowed = only_value(headers, ALLOWED_ORIGIN)
        .ok_or(HandshakeRefusal::Repeated("WebHook-Allowed-Origin"))?
        .ok_or(HandshakeRefusal::NoOrigin)?;
    if allowed != b"*" && !allowed.eq_ignore_ascii_case(origin.as_bytes()) {
        return Err(HandshakeRefusal::ForeignOrigin);
    }
    match only_value(headers, ALLOWED_RATE).ok_or(HandshakeRefusal::Repeated("WebHook-Allowed-Rate"))? {
        None | Some(b"*") => Ok(None),
        Some(text) => parse_rate(text).map(Some).ok_or(HandshakeRefusal::InvalidRate),
    }
}

/// Returns the value of a header without surrounding white space, or `Some(None)` without the header. `None`: the header
/// occurs more than once.
fn only_value<'a>(headers: &'a HeaderMap, name: &str) -> Option<Option<&'a [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next().map(|value| value.as_bytes().trim_ascii());
    values.next().is_none().then_some(first)
}

/// Parses a positive number. One that is too large counts as the largest.
fn parse_rate(text: &[u8]) -> Option<NonZeroU32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = text.iter().map(|digit| u32::from(digit - b'0'));
    NonZeroU32::new(digits.fold(0, |number: u32, digit| number.saturating_mul(10).saturating_add(digit)))
}

/// Returns the rate that a handshake requests for a hook with this limit, in requests a minute. `None`: no limit.
pub fn requested_rate(limit: Option<Rate>) -> Option<NonZeroU32> {
    // The cast saturates.
    let requests = limit?.per_minute().ceil() as u32;
    Some(NonZeroU32::new(requests).unwrap_or(NonZeroU32::MIN))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::HandshakeAnswer::{Granted, Refused, Unavailable};
    use super::*;

    const ORIGIN: &str = "shop.example";

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        let parse = |(name, value): &(&'static str, &[u8])| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())
        };
        pairs.iter().map(parse).collect()
    }

    fn answer(status: u16, origin: &str, rate: &str) -> HandshakeAnswer {
        let values = [(ALLOWED_ORIGIN, origin.as_bytes()), (ALLOWED_RATE, rate.as_bytes())];
        let given: Vec<_> = values.into_iter().filter(|(_, value)| *value != b"-").collect();
        evaluate(status, &headers(&given), ORIGIN)
    }

    #[test]
    fn grants_the_stated_origin_with_a_rate() {
        for (status, origin, rate, requests) in [
            (200, ORIGIN, "120", 120),
            (204, "SHOP.example", " 1 ", 1),
            (202, "*", "0060", 60),
            (200, " * ", "4294967295", u32::MAX),
            (200, "*", "99999999999999999999999999", u32::MAX),
        ] {
            let granted = Granted(NonZeroU32::new(requests));
            assert_eq!(answer(status, origin, rate), granted, "{origin} {rate}");
        }
        assert_eq!(answer(200, ORIGIN, "*"), Granted(None));
        assert_eq!(answer(200, "*", "-"), Granted(None), "a rate is optional");
    }

    #[test]
    fn anything_else_grants_nothing() {
        use HandshakeRefusal::{ForeignOrigin, InvalidRate, NoOrigin, Repeated, Status};
        for (status, origin, rate, refusal) in [
            (200, "-", "*", NoOrigin),
            (200, "", "*", ForeignOrigin),
            (200, "other.example", "*", ForeignOrigin),
            (200, "shop.example.other.example", "*", ForeignOrigin),
            (200, "shop.example, *", "*", ForeignOrigin),
            (200, "**", "*", ForeignOrigin),
            (200, "*", "", InvalidRate),
            (200, "*", "0", InvalidRate),
            (200, "*", "000", InvalidRate),
            (200, "*", "-1", InvalidRate),
            (200, "*", "+1", InvalidRate),
            (200, "*", "1.5", InvalidRate),
            (200, "*", "120/m", InvalidRate),
            (405, "*", "*", Status(405)),
            (410, "*", "*", Status(410)),
            (302, "*", "*", Status(302)),
            (101, "*", "*", Status(101)),
        ] {
            assert_eq!(answer(status, origin, rate), Refused(refusal), "{status} {origin} {rate}");
        }
        for status in [429, 500, 503, 599] {
            assert_eq!(answer(status, "*", "*"), Unavailable, "{status}");
        }
        let twice = headers(&[(ALLOWED_ORIGIN, b"*"), (ALLOWED_ORIGIN, ORIGIN.as_bytes())]);
        assert_eq!(evaluate(200, &twice, ORIGIN), Refused(Repeated("WebHook-Allowed-Origin")));
        let twice = headers(&[(ALLOWED_ORIGIN, b"*"), (ALLOWED_RATE, b"1"), (ALLOWED_RATE, b"1")]);
        assert_eq!(evaluate(200, &twice, ORIGIN), Refused(Repeated("WebHook-Allowed-Rate")));
        let no_text = headers(&[(ALLOWED_ORIGIN, b"*"), (ALLOWED_RATE, b"\xff")]);
        assert_eq!(evaluate(200, &no_text, ORIGIN), Refused(InvalidRate), "it does not count as absent");
    }

    proptest! {
        #[test]
        fn only_a_matching_origin_is_granted(
            status in 100u16..1000,
            origin in proptest::collection::vec(any::<u8>(), 0..20),
            rate in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let values = [(ALLOWED_ORIGIN, &origin), (ALLOWED_RATE, &rate)];
            let valid = values.into_iter().filter_map(|(name, value)| {
                Some((HeaderName::from_static(name), HeaderValue::from_bytes(value).ok()?))
            });
            if let Granted(_) = evaluate(status, &valid.collect(), ORIGIN) {
                let text = String::from_utf8(origin).unwrap().trim().to_ascii_lowercase();
                prop_assert!((200..300).contains(&status) && (text == "*" || text == ORIGIN));
            }
        }
    }

    #[test]
    fn requests_the_rate_of_the_hook() {
        let rate = |requests, seconds| Rate { requests, interval: Duration::from_secs(seconds), burst: 1 };
        let requested = |limit| requested_rate(limit).map(NonZeroU32::get);
        assert_eq!(requested(None), None);
        assert_eq!(requested(Some(rate(2, 1))), Some(120));
        assert_eq!(requested(Some(rate(1, 3600))), Some(1), "a rate is at least one");
        assert_eq!(requested(Some(rate(u32::MAX, 1))), Some(u32::MAX));
    }
}
