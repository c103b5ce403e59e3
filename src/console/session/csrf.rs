//! CSRF tokens: an HMAC over the session's identity and the time of issue. Another site can neither read one from a page
//! nor compute one, and one of another session is not accepted.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::hmac;
use secrecy::ExposeSecret;

use super::keys::{SessionKey, SessionKeys};
use crate::core::time::Millis;

/// How long a page's forms can be sent.
const MAX_AGE: Duration = Duration::from_secs(12 * 3600);
/// How far the clocks of two replicas may differ.
const MAX_SKEW: Duration = Duration::from_secs(300);

/// Issues a token for the session with this identity.
pub fn issue(keys: &SessionKeys, identity: &[u8], now: Millis) -> Option<String> {
    let key = hmac_key(keys.newest().ok()?);
    let tag = hmac::sign(&key, &message(identity, now));
    Some(format!("{}.{}", now.0, BASE64_URL_SAFE_NO_PAD.encode(tag.as_ref())))
}

/// Returns true if a token was issued for the session with this identity and has not expired.
pub fn is_valid(token: &str, keys: &SessionKeys, identity: &[u8], now: Millis) -> bool {
    let Some((issued, tag)) = token.split_once('.') else { return false };
    let (Ok(issued), Ok(tag)) = (issued.parse().map(Millis), BASE64_URL_SAFE_NO_PAD.decode(tag)) else {
        return false;
    };
    let message = message(identity, issued);
    now.since(issued) <= MAX_AGE
        && issued.since(now) <= MAX_SKEW
        && keys.all().iter().any(|key| hmac::verify(&hmac_key(key), &message, &tag).is_ok())
}

fn hmac_key(key: &SessionKey) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key.csrf.expose_secret())
}

fn message(identity: &[u8], issued: Millis) -> Vec<u8> {
    [&issued.0.to_be_bytes()[..], identity].concat()
}

#[cfg(test)]
mod tests {
    use super::super::keys::testing::keys;
    use super::*;

    const NOW: Millis = Millis(1_700_000_000_000);

    #[test]
    fn belongs_to_one_session_and_expires() {
        let keys = keys(&[1]);
        let token = issue(&keys, b"session a", NOW).unwrap();
        assert!(is_valid(&token, &keys, b"session a", NOW));
        assert!(is_valid(&token, &keys, b"session a", NOW + MAX_AGE));
        assert!(!is_valid(&token, &keys, b"session b", NOW), "another session");
        assert!(!is_valid(&token, &keys, b"session a", NOW + MAX_AGE + Duration::from_millis(1)), "expired");
        assert!(!is_valid(&token, &keys, b"session a", Millis(NOW.0 - 301_000)), "from the future");
        assert!(
            !is_valid(&token, &super::super::keys::testing::keys(&[2]), b"session a", NOW),
            "another key"
        );
    }

    #[test]
    fn changed_token_is_rejected() {
        let keys = keys(&[1]);
        let token = issue(&keys, b"s", NOW).unwrap();
        let later = token.replacen("1700000000000", "1700000000001", 1);
        for changed in [later.as_str(), "", ".", "1.", "x.y", &token[..token.len() - 1], &format!("{token}A")]
        {
            assert!(!is_valid(changed, &keys, b"s", NOW), "{changed}");
        }
    }
}
