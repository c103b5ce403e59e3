//! Signs and verifies webhook bodies: Kong's header `x-kong-signature`, and Standard Webhooks.
//!
//! Comparisons take constant time, untrusted input never causes a panic, and no error contains a secret or a computed
//! signature.

use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::api::{SignatureAlgorithm, SignatureEncoding};

/// Name of the header that holds Kong's signature.
pub const KONG_HEADER: &str = "x-kong-signature";

/// Prefix of Standard Webhooks secrets that are encoded as base64.
const WHSEC: &str = "whsec_";

/// Maximum number of signatures in one header that are checked, which bounds the work that an unauthenticated request
/// causes.
const MAX_SIGNATURES: usize = 16;

/// Accepts base64 with and without padding, because both are in use for secrets.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a secret is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error("a secret that begins with whsec_ must continue with base64")]
    NotBase64,
}

/// Why a Standard Webhooks request is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StandardWebhooksError {
    #[error("webhook-timestamp is not a number of seconds")]
    Timestamp,
    #[error("webhook-timestamp is too far from the current time")]
    Stale,
    #[error("no signature in webhook-signature matches")]
    NoMatch,
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// Returns the value of `x-kong-signature` for a body.
pub fn kong_signature(
    secret: &[u8],
    algorithm: SignatureAlgorithm,
    encoding: SignatureEncoding,
    body: &[u8],
) -> String {
    let (prefix, tag) = match algorithm {
        SignatureAlgorithm::SHA1 => ("sha1=", hex::encode(hmac_sha1(secret, &[body]))),
        SignatureAlgorithm::SHA256 => ("sha256=", hex::encode(hmac_sha256(secret, &[body]))),
    };
    match encoding {
        SignatureEncoding::PrefixedHex => format!("{prefix}{tag}"),
        SignatureEncoding::Hex => tag,
    }
}

/// Returns true if a value of `x-kong-signature` signs this body. Accepts SHA-1 and SHA-256, written as `alg=<hex>` or
/// `<hex>` (Kong does not document which), in upper and lower case.
pub fn verify_kong(secret: &[u8], header: &str, body: &[u8]) -> bool {
    let header = header.trim();
    let (algorithm, text) = match header.split_once('=') {
        Some((name, text)) if name.eq_ignore_ascii_case("sha1") => (Some(SignatureAlgorithm::SHA1), text),
        Some((name, text)) if name.eq_ignore_ascii_case("sha256") => (Some(SignatureAlgorithm::SHA256), text),
        Some(_) => return false,
        None => (None, header),
    };
    // Check the length first, so that no long text is decoded.
    match (algorithm, text.len()) {
        (None | Some(SignatureAlgorithm::SHA1), 40) => equals_tag(text, &hmac_sha1(secret, &[body])),
        (None | Some(SignatureAlgorithm::SHA256), 64) => equals_tag(text, &hmac_sha256(secret, &[body])),
        _ => false,
    }
}

/// Returns the value of `webhook-signature`: `v1,<base64>` for each secret, separated by spaces.
pub fn standard_webhooks_signature(
    secrets: &[&str],
    id: &str,
    timestamp: i64,
    body: &[u8],
) -> Result<String, SecretError> {
    let mut signatures = Vec::with_capacity(secrets.len());
    for secret in secrets {
        let tag = standard_webhooks_tag(secret, id, &timestamp.to_string(), body)?;
        signatures.push(format!("v1,{}", STANDARD.encode(tag)));
    }
    Ok(signatures.join(" "))
}

/// Verifies the three headers of Standard Webhooks. One signature by one of the secrets is sufficient. `now` and the
/// tolerance are in seconds.
pub fn verify_standard_webhooks(
    secrets: &[&str],
    id: &str,
    timestamp_header: &str,
    signature_header: &str,
    body: &[u8],
    now: i64,
    tolerance_secs: i64,
) -> Result<(), StandardWebhooksError> {
    let timestamp: i64 = timestamp_header.trim().parse().map_err(|_| StandardWebhooksError::Timestamp)?;
    if now.abs_diff(timestamp) > tolerance_secs.unsigned_abs() {
        return Err(StandardWebhooksError::Stale);
    }
    let mut tags = Vec::with_capacity(secrets.len());
    for secret in secrets {
        tags.push(standard_webhooks_tag(secret, id, timestamp_header.trim(), body)?);
    }
    let given = signature_header
        .split_ascii_whitespace()
        .take(MAX_SIGNATURES)
        .filter_map(|signature| signature.strip_prefix("v1,"))
        .filter_map(|text| STANDARD.decode(text).ok());
    for signature in given {
        if tags.iter().any(|tag| bool::from(signature.ct_eq(tag))) {
            return Ok(());
        }
    }
    Err(StandardWebhooksError::NoMatch)
}

/// Splits a Secret's value into secrets: one per line, without line ends and empty lines.
pub fn secret_lines(text: &str) -> Vec<&str> {
    text.split(['\n', '\r']).filter(|line| !line.is_empty()).collect()
}

fn standard_webhooks_tag(
    secret: &str,
    id: &str,
    timestamp: &str,
    body: &[u8],
) -> Result<[u8; 32], SecretError> {
    let decoded;
    let key = match secret.strip_prefix(WHSEC) {
        Some(text) => {
            decoded = LENIENT.decode(text).map_err(|_| SecretError::NotBase64)?;
            // Reject an empty key, with which anyone could create valid signatures.
            if decoded.is_empty() {
                return Err(SecretError::NotBase64);
            }
            decoded.as_slice()
        }
        None => secret.as_bytes(),
    };
    Ok(hmac_sha256(key, &[id.as_bytes(), b".", timestamp.as_bytes(), b".", body]))
}

fn equals_tag(text: &str, tag: &[u8]) -> bool {
    hex::decode(text).is_ok_and(|given| bool::from(given.as_slice().ct_eq(tag)))
}

fn hmac_sha1(secret: &[u8], parts: &[&[u8]]) -> [u8; 20] {
    let mut mac = Hmac::<Sha1>::new(&key_block::<Sha1>(secret).into());
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn hmac_sha256(secret: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new(&key_block::<Sha256>(secret).into());
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// Converts a key to one block (RFC 2104): hashes a longer key, pads a shorter one with zeros. Implemented here because the
/// library's constructor for keys of any length returns an error that cannot occur.
fn key_block<D: Digest>(secret: &[u8]) -> [u8; 64] {
    let mut block = [0; 64];
    let fill = |block: &mut [u8; 64], bytes: &[u8]| {
        block.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    };
    if secret.len() > block.len() {
        fill(&mut block, &D::digest(secret));
    } else {
        fill(&mut block, secret);
    }
    block
}

#[cfg(test)]
mod tests {
    use SignatureAlgorithm::{SHA1, SHA256};
    use SignatureEncoding::{Hex, PrefixedHex};
    use proptest::prelude::*;

    use super::*;

    const FOX: &[u8] = b"The quick brown fox jumps over the lazy dog";
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIME: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    #[test]
    fn matches_known_hmac_vectors() {
        let sha1 = "de7c9b85b8b78aa6bc8a7a36f70a90701c9db4d9";
        let sha256 = "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8";
        assert_eq!(kong_signature(b"key", SHA1, Hex, FOX), sha1);
        assert_eq!(kong_signature(b"key", SHA256, Hex, FOX), sha256);
        assert_eq!(kong_signature(b"key", SHA1, PrefixedHex, FOX), format!("sha1={sha1}"));
        assert_eq!(kong_signature(b"key", SHA256, PrefixedHex, FOX), format!("sha256={sha256}"));
        // RFC 4231 and RFC 2202, test case 6 each: a key longer than a block.
        let body = b"Test Using Larger Than Block-Size Key - Hash Key First";
        assert_eq!(
            kong_signature(&[0xaa; 131], SHA256, Hex, body),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
        assert_eq!(kong_signature(&[0xaa; 80], SHA1, Hex, body), "aa4ae5e15272d00e95705637ce8a3b55ed402112");
    }

    #[test]
    fn verifies_every_notation_of_kong_signature() {
        for algorithm in [SHA1, SHA256] {
            for encoding in [Hex, PrefixedHex] {
                let header = kong_signature(b"key", algorithm, encoding, FOX);
                assert!(verify_kong(b"key", &header, FOX));
                assert!(verify_kong(b"key", &header.to_uppercase(), FOX));
                assert!(!verify_kong(b"kez", &header, FOX));
                assert!(!verify_kong(b"key", &header, b"other"));
            }
        }
        let sha1 = kong_signature(b"key", SHA1, Hex, FOX);
        for header in
            ["", "=", "sha256=", "sha1", "md5=00", &format!("sha256={sha1}"), &sha1[1..], &"zz".repeat(20)]
        {
            assert!(!verify_kong(b"key", header, FOX), "{header}");
        }
    }

    #[test]
    fn matches_standard_webhooks_vector() {
        assert_eq!(standard_webhooks_signature(&[SECRET], ID, TIME, BODY).unwrap(), SIGNATURE);
        let both = standard_webhooks_signature(&["plain", SECRET], ID, TIME, BODY).unwrap();
        assert!(both.ends_with(&format!(" {SIGNATURE}")));
        let check = |secrets: &[&str], header: &str, now| {
            verify_standard_webhooks(secrets, ID, "1614265330", header, BODY, now, 300)
        };
        assert_eq!(check(&[SECRET], SIGNATURE, TIME), Ok(()));
        assert_eq!(check(&["old", SECRET], &format!("v1a,AAAA v1,AAAA {SIGNATURE}"), TIME + 300), Ok(()));
        assert_eq!(check(&[SECRET], SIGNATURE, TIME + 301), Err(StandardWebhooksError::Stale));
        assert_eq!(check(&[SECRET], SIGNATURE, i64::MIN), Err(StandardWebhooksError::Stale));
        assert_eq!(check(&["other"], SIGNATURE, TIME), Err(StandardWebhooksError::NoMatch));
        assert_eq!(check(&[], SIGNATURE, TIME), Err(StandardWebhooksError::NoMatch));
        assert_eq!(check(&[SECRET], "", TIME), Err(StandardWebhooksError::NoMatch));
        for empty in ["whsec_*", "whsec_", "whsec_="] {
            assert_eq!(check(&[empty], SIGNATURE, TIME), Err(SecretError::NotBase64.into()), "{empty}");
        }
        assert_eq!(
            verify_standard_webhooks(&[SECRET], ID, "soon", SIGNATURE, BODY, TIME, 300),
            Err(StandardWebhooksError::Timestamp)
        );
    }

    #[test]
    fn splits_secret_into_lines() {
        assert_eq!(secret_lines("one\r\n\n two \nthree"), ["one", " two ", "three"]);
        assert!(secret_lines("\n\r\n").is_empty());
    }

    proptest! {
        #[test]
        fn verifying_never_panics(secret: Vec<u8>, header in "\\PC*|(sha1=|sha256=)?[0-9a-fA-F]{0,70}", body: Vec<u8>) {
            prop_assert!(!verify_kong(&secret, &header, &body));
        }

        #[test]
        fn verifies_own_signatures(secret: Vec<u8>, body: Vec<u8>, sha1: bool, bare: bool) {
            let algorithm = if sha1 { SHA1 } else { SHA256 };
            let header = kong_signature(&secret, algorithm, if bare { Hex } else { PrefixedHex }, &body);
            prop_assert!(verify_kong(&secret, &header, &body));
            let mut other = body;
            other.push(0);
            prop_assert!(!verify_kong(&secret, &header, &other));
        }

        #[test]
        fn standard_webhooks_round_trip(secret in "[a-z]{1,80}", id in "[a-z0-9]{1,20}", body: Vec<u8>, time in 0i64..4_000_000_000) {
            let header = standard_webhooks_signature(&["first", &secret], &id, time, &body).unwrap();
            prop_assert_eq!(verify_standard_webhooks(&[&secret], &id, &time.to_string(), &header, &body, time, 0), Ok(()));
        }

        #[test]
        fn standard_webhooks_never_panics(id: String, time: String, header: String, body: Vec<u8>, now: i64, tolerance: i64) {
            prop_assert!(verify_standard_webhooks(&["s"], &id, &time, &header, &body, now, tolerance).is_err());
        }
    }
}
