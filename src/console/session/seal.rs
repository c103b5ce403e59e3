//! Seals a session into the value of a cookie: AES-256-GCM over the token, its expiry and a random id. The cookie shows
//! nothing of the token, and a changed one is not accepted.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use secrecy::{ExposeSecret, SecretString};

use super::keys::{SessionKey, SessionKeys};
use crate::core::time::Millis;

/// Prefixes the value, so that another version of the program rejects what it cannot read.
const VERSION: &str = "1.";
/// Authenticated with every cookie: a value that another purpose sealed is not accepted.
const CONTEXT: &[u8] = b"hookstream console session 1";
const ID_BYTES: usize = 16;
const EXPIRY_BYTES: usize = 8;
/// The longest value of a cookie that is read. Browsers keep no longer ones.
const MAX_VALUE: usize = 4000;
/// The longest token whose sealed value fits.
pub const MAX_TOKEN: usize = (MAX_VALUE - VERSION.len()) / 4 * 3 - NONCE_LEN - 16 - ID_BYTES - EXPIRY_BYTES;

/// A session of a user who logged in.
#[derive(Clone, Debug)]
pub struct SealedSession {
    pub token: SecretString,
    pub expires: Millis,
    /// Random. CSRF tokens belong to it.
    pub id: [u8; ID_BYTES],
}

/// Why a session cannot be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error(
        "the token has more than {MAX_TOKEN} bytes, which no cookie holds: open the console with `hookstream console`"
    )]
    TooLong,
    #[error("no random numbers are available")]
    Random,
}

impl SealedSession {
    pub fn new(token: SecretString, expires: Millis) -> Result<Self, SealError> {
        let mut id = [0; ID_BYTES];
        getrandom::fill(&mut id).map_err(|_| SealError::Random)?;
        Ok(SealedSession { token, expires, id })
    }

    /// Returns the value of the cookie.
    pub fn seal(&self, keys: &SessionKey) -> Result<String, SealError> {
        let token = self.token.expose_secret();
        if token.len() > MAX_TOKEN {
            return Err(SealError::TooLong);
        }
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|_| SealError::Random)?;
        let mut sealed = Vec::with_capacity(ID_BYTES + EXPIRY_BYTES + token.len());
        sealed.extend_from_slice(&self.expires.0.to_be_bytes());
        sealed.extend_from_slice(&self.id);
        sealed.extend_from_slice(token.as_bytes());
        let aad = Aad::from(CONTEXT);
        let nonce_bytes = nonce;
        cipher(keys)
            .and_then(|key| {
                key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed).ok()
            })
            .ok_or(SealError::TooLong)?;
        let value = [&nonce_bytes[..], &sealed].concat();
        Ok(format!("{VERSION}{}", BASE64_URL_SAFE_NO_PAD.encode(value)))
    }

    /// Opens a cookie. None: it is not valid, or it has expired.
    pub fn open(value: &str, keys: &SessionKeys, now: Millis) -> Option<Self> {
        if value.len() > MAX_VALUE {
            return None;
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(value.strip_prefix(VERSION)?).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        // A key that is not the newest sealed it before a key was added.
        let session = keys.all().iter().find_map(|key| open_with(key, *nonce, sealed))?;
        (session.expires > now).then_some(session)
    }
}

fn open_with(key: &SessionKey, nonce: [u8; NONCE_LEN], sealed: &[u8]) -> Option<SealedSession> {
    let mut sealed = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(nonce);
    let opened = cipher(key)?.open_in_place(nonce, Aad::from(CONTEXT), &mut sealed).ok()?;
    let (expires, rest) = opened.split_first_chunk::<EXPIRY_BYTES>()?;
    let (id, token) = rest.split_first_chunk::<ID_BYTES>()?;
    let token = SecretString::from(std::str::from_utf8(token).ok()?);
    Some(SealedSession { token, expires: Millis(i64::from_be_bytes(*expires)), id: *id })
}

fn cipher(key: &SessionKey) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key.seal.expose_secret()).ok().map(LessSafeKey::new)
}

#[cfg(test)]
mod tests {
    use super::super::keys::testing::keys;
    use super::*;

    const NOW: Millis = Millis(1_700_000_000_000);
    const TOKEN: &str = "eyJ.secret-token.sig";

    fn sealed(keys: &SessionKeys, token: &str) -> Result<String, SealError> {
        SealedSession::new(token.into(), Millis(NOW.0 + 1000)).unwrap().seal(keys.newest().unwrap())
    }

    #[test]
    fn opens_what_another_replica_sealed_until_it_expires() {
        let (one, other) = (keys(&[1]), keys(&[1]));
        let value = sealed(&one, TOKEN).unwrap();
        let session = SealedSession::open(&value, &other, NOW).unwrap();
        assert_eq!(session.token.expose_secret(), TOKEN);
        assert!(SealedSession::open(&value, &other, Millis(NOW.0 + 1000)).is_none(), "expired");
        assert!(SealedSession::open(&value, &keys(&[1, 9]), NOW).is_some(), "a key was added");
        assert!(SealedSession::open(&value, &keys(&[9]), NOW).is_none(), "another installation");
        assert!(!format!("{session:?}").contains("secret-token"));
    }

    #[test]
    fn shows_nothing_of_the_token_and_differs_each_time() {
        let keys = keys(&[1]);
        let (one, other) = (sealed(&keys, TOKEN).unwrap(), sealed(&keys, TOKEN).unwrap());
        assert_ne!(one, other);
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(&one[VERSION.len()..]).unwrap();
        assert!(!bytes.windows(6).any(|part| part == b"secret"));
    }

    #[test]
    fn rejects_every_changed_value() {
        let keys = keys(&[1]);
        let value = sealed(&keys, TOKEN).unwrap();
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(&value[VERSION.len()..]).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let changed = format!("{VERSION}{}", BASE64_URL_SAFE_NO_PAD.encode(changed));
            assert!(SealedSession::open(&changed, &keys, NOW).is_none(), "byte {at}");
        }
        for other in
            ["", "1.", "1.AAAA", TOKEN, &value[2..], &format!("2.{}", &value[2..]), &"1.A".repeat(9999)]
        {
            assert!(SealedSession::open(other, &keys, NOW).is_none(), "{other}");
        }
    }

    #[test]
    fn longest_token_fits_into_a_cookie() {
        let keys = keys(&[1]);
        let value = sealed(&keys, &"t".repeat(MAX_TOKEN)).unwrap();
        assert!(value.len() <= MAX_VALUE, "{}", value.len());
        assert!(SealedSession::open(&value, &keys, NOW).is_some());
        assert_eq!(sealed(&keys, &"t".repeat(MAX_TOKEN + 1)), Err(SealError::TooLong));
    }
}
