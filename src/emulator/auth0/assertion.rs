//! Verifies client assertions (`private_key_jwt`) at `/oauth/token`.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use rustls::SignatureScheme;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;

use crate::api::AssertionAlgorithm;
use crate::core::time::Millis;

/// The required value of `client_assertion_type`.
pub(super) const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// The documented bounds: bytes of an assertion, characters of `jti`, and seconds until it expires.
const MAX_ASSERTION: usize = 2048;
const MAX_JTI: usize = 64;
const MAX_LIFETIME: i64 = 300;
/// The documented tolerance for `iat` and `nbf`, in seconds.
const CLOCK_SKEW: i64 = 10;
/// Used assertions that are remembered until they expire.
const MAX_USED: usize = 100_000;

/// The public key of a client.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientKey {
    /// The RSA key as PKCS#1 in DER.
    key: Vec<u8>,
    algorithm: AssertionAlgorithm,
}

impl ClientKey {
    /// Reads a public key in PEM format. None if it is not an RSA key.
    pub fn new(pem: &[u8], algorithm: AssertionAlgorithm) -> Option<Self> {
        let info = SubjectPublicKeyInfoDer::from_pem_slice(pem).ok()?;
        Some(ClientKey { key: rsa_public_key(&info)?.to_vec(), algorithm })
    }

    /// Returns the bytes from which the emulator derives the key of its own tokens.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.key
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let scheme = match self.algorithm {
            AssertionAlgorithm::RS256 => SignatureScheme::RSA_PKCS1_SHA256,
            AssertionAlgorithm::RS384 => SignatureScheme::RSA_PKCS1_SHA384,
            AssertionAlgorithm::PS256 => SignatureScheme::RSA_PSS_SHA256,
        };
        let provider = rustls::crypto::ring::default_provider();
        let known = provider.signature_verification_algorithms.mapping.iter().find(|(s, _)| *s == scheme);
        known.is_some_and(|(_, all)| {
            all.iter().any(|algorithm| algorithm.verify_signature(&self.key, message, signature).is_ok())
        })
    }
}

/// Returns the RSA key in a SubjectPublicKeyInfo: `SEQUENCE { SEQUENCE { OID, NULL }, BIT STRING { key } }`.
fn rsa_public_key(info: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    const BIT_STRING: u8 = 0x03;
    /// rsaEncryption, 1.2.840.113549.1.1.1.
    const RSA: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    let (content, rest) = der_element(info, SEQUENCE)?;
    let (algorithm, key) = der_element(content, SEQUENCE)?;
    let (bits, end) = der_element(key, BIT_STRING)?;
    // The first byte of a bit string is the number of unused bits.
    let (unused, key) = bits.split_first()?;
    (rest.is_empty() && end.is_empty() && *unused == 0 && algorithm.starts_with(&RSA)).then_some(key)
}

/// Splits a DER element with this tag into its content and what follows it.
fn der_element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, der) = der.split_first()?;
    let (first, der) = der.split_first()?;
    let (length, der) = match first {
        0..=0x7f => (usize::from(*first), der),
        0x81 | 0x82 => {
            let (bytes, der) = der.split_at_checked(usize::from(first & 0x0f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), der)
        }
        _ => return None,
    };
    (*found == tag).then(|| der.split_at_checked(length)).flatten()
}

/// The assertions that were used, each until it expires.
#[derive(Default)]
pub(super) struct UsedAssertions(Mutex<HashMap<String, i64>>);

/// Checks an assertion of the client `id`. `host`: the address of the request. The error says what is wrong; the texts are
/// not recorded.
pub(super) fn check_assertion(
    key: &ClientKey,
    id: &str,
    host: &str,
    assertion: &str,
    used: &UsedAssertions,
) -> Result<(), &'static str> {
    if assertion.len() > MAX_ASSERTION {
        return Err("The client assertion is longer than 2048 bytes");
    }
    let (signed, signature) = assertion.rsplit_once('.').ok_or("The client assertion is malformed")?;
    let (header, claims) = signed.split_once('.').ok_or("The client assertion is malformed")?;
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| "The client assertion is malformed");
    let parse = |text: &str| -> Result<Value, &'static str> {
        serde_json::from_slice(&decode(text)?).map_err(|_| "The client assertion is malformed")
    };
    let algorithm: &str = key.algorithm.into();
    if parse(header)?.get("alg").and_then(Value::as_str) != Some(algorithm) {
        return Err("The alg of the client assertion is not the one of the credential");
    }
    if !key.verifies(signed.as_bytes(), &decode(signature)?) {
        return Err("The signature of the client assertion is invalid");
    }
    let claims = parse(claims)?;
    let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
    let seconds = |name: &str| claims.get(name).and_then(Value::as_i64);
    let now = Millis::wall().0 / 1000;
    if text("iss") != id || text("sub") != id {
        return Err("iss and sub of the client assertion must be the client id");
    }
    if ![format!("https://{host}/"), format!("http://{host}/")].iter().any(|url| url == text("aud")) {
        return Err("The aud of the client assertion must be the URL of the tenant, with a trailing slash");
    }
    let expires = seconds("exp").ok_or("The client assertion has no exp")?;
    if expires <= now || expires > now + MAX_LIFETIME + CLOCK_SKEW {
        return Err("The client assertion has expired, or is valid for more than 5 minutes");
    }
    if ["iat", "nbf"].iter().filter_map(|name| seconds(name)).any(|time| time > now + CLOCK_SKEW) {
        return Err("The iat or nbf of the client assertion is in the future");
    }
    let jti = text("jti");
    if jti.is_empty() || jti.chars().count() > MAX_JTI {
        return Err("The jti of the client assertion must have 1 to 64 characters");
    }
    let mut used = used.0.lock();
    used.retain(|_, expires| *expires > now);
    if used.len() >= MAX_USED || used.insert(jti.to_owned(), expires).is_some() {
        return Err("The client assertion was used before");
    }
    Ok(())
}
