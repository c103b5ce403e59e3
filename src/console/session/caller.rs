//! The caller of a request: the bearer token of an authenticating proxy, the session of a cookie, or, on a port without a
//! token, any local client.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::COOKIE;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::keys::SessionKeys;
use super::seal::SealedSession;
use crate::core::time::Millis;
use crate::worker::bearer_token;

/// The name of the cookie.
pub const COOKIE_NAME: &str = "hookstream-console";

/// The user of a request.
#[derive(Clone, Debug)]
pub enum Caller {
    /// A proxy sends the user's token with each request.
    Bearer(SecretString),
    /// The user logged in.
    Session(SealedSession),
    /// The port accepts clients without a token.
    Local,
}

/// The claims of a JWT that name its user and its end. They are not verified here: the API reviews the token.
#[derive(Debug, Default, Deserialize)]
struct Claims {
    #[serde(default)]
    iss: String,
    sub: Option<String>,
    exp: Option<i64>,
}

impl Caller {
    /// Finds the user of a request. None: the user must log in.
    pub fn find(
        headers: &HeaderMap,
        is_local: bool,
        keys: Option<&SessionKeys>,
        now: Millis,
    ) -> Option<Self> {
        if let Some(token) = bearer_token(headers) {
            return Some(Caller::Bearer(SecretString::from(token)));
        }
        if is_local {
            return Some(Caller::Local);
        }
        Caller::find_session(headers, keys, now)
    }

    /// Finds the user who logged in. None: there is no valid session.
    pub fn find_session(headers: &HeaderMap, keys: Option<&SessionKeys>, now: Millis) -> Option<Self> {
        SealedSession::open(cookie(headers)?, keys?, now).map(Caller::Session)
    }

    /// Returns the token for the API.
    pub fn token(&self) -> Option<SecretString> {
        match self {
            Caller::Bearer(token) => Some(token.clone()),
            Caller::Session(session) => Some(session.token.clone()),
            Caller::Local => None,
        }
    }

    /// Returns what CSRF tokens and live streams belong to. A proxy replaces its token from time to time, so that its
    /// user counts and not the token.
    pub fn identity(&self) -> Vec<u8> {
        match self {
            Caller::Local => b"local".to_vec(),
            Caller::Session(session) => [b"session ", &session.id[..]].concat(),
            Caller::Bearer(token) => {
                let claims = claims(token.expose_secret());
                match claims.sub {
                    Some(sub) => format!("user {} {} {sub}", claims.iss.len(), claims.iss).into_bytes(),
                    None => [b"token ", &Sha256::digest(token.expose_secret())[..]].concat(),
                }
            }
        }
    }

    /// Returns the user's name for the audit log: the token's subject, or a hash of a token that has none.
    pub fn name(&self) -> String {
        let Some(token) = self.token() else { return "local".to_owned() };
        claims(token.expose_secret()).sub.filter(|sub| is_printable(sub)).unwrap_or_else(|| {
            let hash = hex::encode(Sha256::digest(token.expose_secret()));
            format!("token-{}", hash.get(..12).unwrap_or_default())
        })
    }

    /// Returns when the session ends. None: with its requests.
    pub fn expires(&self) -> Option<Millis> {
        match self {
            Caller::Session(session) => Some(session.expires),
            Caller::Bearer(token) => expiry(token.expose_secret()),
            Caller::Local => None,
        }
    }
}

/// Returns when a JWT expires.
pub fn expiry(token: &str) -> Option<Millis> {
    claims(token).exp.map(|seconds| Millis(seconds.saturating_mul(1000)))
}

fn claims(token: &str) -> Claims {
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Claims::default();
    };
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap_or_default();
    serde_json::from_slice(&payload).unwrap_or_default()
}

fn is_printable(name: &str) -> bool {
    (1..=256).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// Returns the value of the console's cookie.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies
        .flat_map(|text| text.split(';'))
        .find_map(|pair| pair.trim().split_once('=').filter(|(name, _)| *name == COOKIE_NAME))
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use http::header::AUTHORIZATION;

    use super::super::keys::testing::keys;
    use super::*;

    const NOW: Millis = Millis(1_700_000_000_000);

    fn jwt(claims: &str) -> SecretString {
        format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims)).into()
    }

    #[test]
    fn identity_of_a_proxys_user_outlives_its_token() {
        let identity = |claims: &str| Caller::Bearer(jwt(claims)).identity();
        let user = r#"{"iss": "i", "sub": "u", "exp": 1}"#;
        assert_eq!(identity(user), identity(r#"{"iss": "i", "sub": "u", "exp": 2}"#));
        assert_ne!(identity(user), identity(r#"{"iss": "j", "sub": "u", "exp": 1}"#));
        assert_ne!(identity(user), identity(r#"{"iss": "i", "sub": "v", "exp": 1}"#));
        assert_ne!(Caller::Bearer("a".into()).identity(), Caller::Bearer("b".into()).identity());
    }

    #[test]
    fn names_the_subject_and_never_the_token() {
        assert_eq!(
            Caller::Bearer(jwt(r#"{"sub": "system:serviceaccount:n:a"}"#)).name(),
            "system:serviceaccount:n:a"
        );
        let name = Caller::Bearer("opaque-token".into()).name();
        assert!(name.starts_with("token-") && !name.contains("opaque"), "{name}");
        let forged = Caller::Bearer(jwt("{\"sub\": \"a\\nb\"}")).name();
        assert!(forged.starts_with("token-"), "{forged}");
        assert_eq!(expiry(jwt(r#"{"exp": 7}"#).expose_secret()), Some(Millis(7000)));
        assert_eq!(expiry("opaque"), None);
    }

    #[test]
    fn proxys_token_comes_before_the_cookie() {
        let keys = keys(&[1]);
        let session = SealedSession::new("s".into(), Millis(NOW.0 + 1)).unwrap();
        let value = session.seal(keys.newest().unwrap()).unwrap();
        let mut headers = HeaderMap::new();
        let find = |headers: &HeaderMap, local| Caller::find(headers, local, Some(&keys), NOW);
        assert!(find(&headers, false).is_none());
        assert!(matches!(find(&headers, true), Some(Caller::Local)));
        headers.insert(COOKIE, format!("a=b; {COOKIE_NAME}={value}; c").parse().unwrap());
        assert!(matches!(find(&headers, false), Some(Caller::Session(_))));
        assert!(Caller::find(&headers, false, None, NOW).is_none(), "without keys no cookie is accepted");
        headers.insert(AUTHORIZATION, "Bearer t".parse().unwrap());
        assert!(matches!(find(&headers, false), Some(Caller::Bearer(_))));
    }
}
