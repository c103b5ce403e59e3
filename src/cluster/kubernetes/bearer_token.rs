//! Recognizes bearer tokens that the API server would reject, without asking it.
//!
//! Anyone can send invalid tokens at any rate. Without these checks each would cost a TokenReview.

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};

use crate::core::time::Millis;

/// The longest token in bytes. Tokens of service accounts have about 1,000, those of identity providers a few thousand.
const MAX_LENGTH: usize = 16 << 10;
/// How far the clocks of the issuer and of this machine may differ.
const LEEWAY_MILLIS: i64 = 60_000;

/// As lenient as the API server's decoder.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Returns true if the text has the form of a bearer token (RFC 6750, section 2.1) of at most `MAX_LENGTH` bytes.
pub fn is_well_formed(token: &str) -> bool {
    let unpadded = token.trim_end_matches('=');
    !unpadded.is_empty()
        && token.len() <= MAX_LENGTH
        && unpadded.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b))
}

/// Returns false for a JWT that has expired or was issued for other audiences. Does not verify its signature. Returns true for
/// opaque tokens, which only the API server can check.
pub fn may_be_valid(token: &str, audience: &str, now: Millis) -> bool {
    let Some(payload) = jwt_payload(token) else { return true };
    let Some(claims) = decode_object(payload) else { return false };
    let is_current = match claims.get("exp") {
        None => true,
        Some(expiry) => expiry.as_f64().is_some_and(|seconds| {
            // Exact for every time in question.
            (now.0 - LEEWAY_MILLIS) as f64 <= seconds * 1000.0
        }),
    };
    let is_for_us = match claims.get("aud") {
        // A token without an audience is valid for the API server's own, which may be the one that is required here.
        None => true,
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(several)) => several.iter().any(|one| one == audience),
        Some(_) => false,
    };
    is_current && is_for_us
}

/// Returns the encoded payload if the token is a signed JWT: three parts, of which the first is a JSON object with `alg`.
fn jwt_payload(token: &str) -> Option<&str> {
    let mut parts = token.split('.');
    let (header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    let is_jwt = parts.next().is_none() && decode_object(header)?.get("alg").is_some_and(Value::is_string);
    is_jwt.then_some(payload)
}

fn decode_object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&BASE64.decode(part).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Millis = Millis(1_800_000_000_000);

    fn jwt(claims: &Value) -> String {
        let part = |value: &Value| BASE64.encode(value.to_string()).trim_end_matches('=').to_owned();
        format!("{}.{}.c2ln", part(&json!({"alg": "RS256", "kid": "k"})), part(claims))
    }

    fn accepts(claims: Value) -> bool {
        may_be_valid(&jwt(&claims), "hookstream", NOW)
    }

    #[test]
    fn checks_form() {
        for token in ["a", "abcdef.0123456789abcdef", "a-b_c~d+e/f==", &jwt(&json!({}))] {
            assert!(is_well_formed(token), "{token}");
        }
        for token in ["", "==", "a b", "a=b", "a\"", "\u{e4}", "a,b", &"x".repeat(MAX_LENGTH + 1)] {
            assert!(!is_well_formed(token), "{token}");
        }
    }

    #[test]
    fn checks_audience() {
        assert!(accepts(json!({"aud": "hookstream"})));
        assert!(accepts(json!({"aud": ["other", "hookstream"]})));
        assert!(accepts(json!({"sub": "a"})));
        assert!(!accepts(json!({"aud": "https://kubernetes.default.svc"})));
        assert!(!accepts(json!({"aud": ["hookstream2"]})));
        assert!(!accepts(json!({"aud": []})));
        assert!(!accepts(json!({"aud": 1})));
    }

    #[test]
    fn checks_expiry_with_leeway() {
        let expiring = |seconds: f64| accepts(json!({"aud": "hookstream", "exp": seconds}));
        assert!(expiring(1_800_000_001.0));
        assert!(expiring(1_799_999_941.5));
        assert!(!expiring(1_799_999_939.0));
        assert!(!accepts(json!({"aud": "hookstream", "exp": "never"})));
    }

    #[test]
    fn opaque_tokens_are_left_to_the_api_server() {
        for token in ["garbage", "a.b.c", "abcdef.0123456789abcdef", "e30.e30.c2ln", "a.b.c.d.e"] {
            assert!(may_be_valid(token, "hookstream", NOW), "{token}");
        }
        let (header, _) = jwt(&json!({})).split_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        assert!(!may_be_valid(&format!("{header}.bm8ganNvbg.c2ln"), "hookstream", NOW), "no JSON");
    }
}
