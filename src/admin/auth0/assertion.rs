//! Client assertions: a login with a private key (`private_key_jwt`) instead of a client secret.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::SignatureScheme;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::SigningKey;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::api::AssertionAlgorithm;
use crate::core::id;
use crate::core::time::Millis;

/// The value of `client_assertion_type` in a token request.
pub const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// How long an assertion is valid. Auth0 accepts at most 5 minutes; our clock may differ from Auth0's by as much as this.
const LIFETIME: Duration = Duration::from_secs(120);
/// Auth0's bound of `iss` and `sub`, in characters.
const MAX_CLIENT_ID: usize = 64;

/// Why a private key cannot be used. The messages never contain the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssertionKeyError {
    #[error("is not a private key in PEM format (PKCS#8 or PKCS#1, without a passphrase)")]
    NotAKey,
    #[error("is not an RSA key of 2048 to 4096 bits, which Auth0 requires")]
    NotRsa,
    #[error("belongs to a client id of more than 64 characters, for which Auth0 accepts no assertions")]
    ClientIdTooLong,
}

/// A private key that signs the assertions of one client. `Debug` output contains no key.
#[derive(Clone)]
pub struct AssertionKey {
    client_id: String,
    key: Arc<dyn SigningKey>,
    algorithm: AssertionAlgorithm,
    /// The id of the public key at Auth0.
    key_id: Option<String>,
    fingerprint: [u8; 32],
}

impl fmt::Debug for AssertionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AssertionKey").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

impl AssertionKey {
    /// Reads a private key in PEM format.
    pub fn new(
        client_id: &str,
        pem: &SecretString,
        algorithm: AssertionAlgorithm,
        key_id: Option<String>,
    ) -> Result<Self, AssertionKeyError> {
        if client_id.chars().count() > MAX_CLIENT_ID {
            return Err(AssertionKeyError::ClientIdTooLong);
        }
        let pem = pem.expose_secret();
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| AssertionKeyError::NotAKey)?;
        let key = any_supported_type(&der).map_err(|_| AssertionKeyError::NotRsa)?;
        key.choose_scheme(&[scheme(algorithm)]).ok_or(AssertionKeyError::NotRsa)?;
        let mut hash = Sha256::new();
        for part in [pem, algorithm.into(), key_id.as_deref().unwrap_or_default()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let fingerprint = hash.finalize().into();
        Ok(AssertionKey { client_id: client_id.to_owned(), key, algorithm, key_id, fingerprint })
    }

    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Returns a hash of the key and of how it signs.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// Returns a signed assertion for one login at this tenant. `tenant`: its URL, with the trailing slash. None if signing
    /// fails.
    ///
    /// Leaves out `iat`, which is optional: Auth0 rejects one that is more than 10 s ahead of its clock.
    pub fn sign(&self, tenant: &str, now: Millis) -> Option<SecretString> {
        let algorithm: &str = self.algorithm.into();
        let mut header = json!({"alg": algorithm, "typ": "JWT"});
        if let (Some(key_id), Some(members)) = (&self.key_id, header.as_object_mut()) {
            members.insert("kid".into(), json!(key_id));
        }
        let expires = (now + LIFETIME).0 / 1000;
        let claims = json!({"iss": self.client_id, "sub": self.client_id, "aud": tenant, "exp": expires,
                            "jti": id::generate(now).to_string()});
        let encode = |part: &serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signer = self.key.choose_scheme(&[scheme(self.algorithm)])?;
        let signature = signer.sign(signed.as_bytes()).ok()?;
        Some(SecretString::from(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))))
    }
}

fn scheme(algorithm: AssertionAlgorithm) -> SignatureScheme {
    match algorithm {
        AssertionAlgorithm::RS256 => SignatureScheme::RSA_PKCS1_SHA256,
        AssertionAlgorithm::RS384 => SignatureScheme::RSA_PKCS1_SHA384,
        AssertionAlgorithm::PS256 => SignatureScheme::RSA_PSS_SHA256,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const PKCS8: &str = include_str!("tests/keys/pkcs8.pem");
    const PKCS1: &str = include_str!("tests/keys/pkcs1.pem");

    fn key(pem: &str) -> Result<AssertionKey, AssertionKeyError> {
        AssertionKey::new("me", &SecretString::from(pem), AssertionAlgorithm::RS256, Some("k1".into()))
    }

    fn part(assertion: &str, at: usize) -> Value {
        let text = assertion.split('.').nth(at).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
    }

    #[test]
    fn assertion_has_the_documented_claims() {
        let now = Millis(1_700_000_000_500);
        let sign = |pem: &str| key(pem).unwrap().sign("https://a.auth0.com/", now).unwrap();
        let assertion = sign(PKCS8);
        let assertion = assertion.expose_secret();
        assert!(assertion.len() <= 2048, "Auth0's bound: {}", assertion.len());
        assert_eq!(part(assertion, 0), json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}));
        let mut claims = part(assertion, 1);
        let jti = claims["jti"].take();
        assert!(jti.as_str().is_some_and(|jti| jti.len() == 36));
        let expected = json!({"iss": "me", "sub": "me", "aud": "https://a.auth0.com/", "exp": 1_700_000_120,
            "jti": null});
        assert_eq!(claims, expected);
        assert_ne!(part(sign(PKCS1).expose_secret(), 1)["jti"], jti, "each is used once");
    }

    #[test]
    fn unusable_keys_are_named_without_their_text() {
        let other_kind = include_str!("tests/keys/ec.pem");
        let short = include_str!("tests/keys/short.pem");
        let public = include_str!("tests/keys/public.pem");
        let cut = &PKCS8[..200];
        for (pem, expected) in [
            ("s3cret", AssertionKeyError::NotAKey),
            (public, AssertionKeyError::NotAKey),
            (cut, AssertionKeyError::NotAKey),
            (other_kind, AssertionKeyError::NotRsa),
            (short, AssertionKeyError::NotRsa),
        ] {
            assert_eq!(key(pem).unwrap_err(), expected);
        }
        let shown = format!("{:?}", key(PKCS8).unwrap());
        assert_eq!(shown, r#"AssertionKey { client_id: "me", .. }"#);
        let long = "x".repeat(65);
        let error = AssertionKey::new(&long, &SecretString::from(PKCS8), AssertionAlgorithm::PS256, None);
        assert_eq!(error.unwrap_err(), AssertionKeyError::ClientIdTooLong);
    }

    #[test]
    fn fingerprint_depends_on_key_algorithm_and_id() {
        let of = |pem: &str, algorithm, id: Option<&str>| {
            let pem = SecretString::from(pem);
            *AssertionKey::new("me", &pem, algorithm, id.map(Into::into)).unwrap().fingerprint()
        };
        let all = [
            of(PKCS8, AssertionAlgorithm::RS256, None),
            of(PKCS1, AssertionAlgorithm::RS256, None),
            of(PKCS8, AssertionAlgorithm::RS384, None),
            of(PKCS8, AssertionAlgorithm::RS256, Some("k")),
        ];
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), 4);
    }
}
