//! Signs and verifies webhook bodies: Kong's header `x-kong-signature`, and Standard Webhooks (`standard_webhooks`).
//!
//! Comparisons take constant time, untrusted input never causes a panic, and no error contains a secret or a computed
//! signature.

mod standard_webhooks;

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

pub use standard_webhooks::{
    SecretError, SigningKey, StandardWebhooksError, VerifyingKey, standard_webhooks_signature,
    verify_standard_webhooks,
};

use crate::api::{SignatureAlgorithm, SignatureEncoding};

/// Name of the header that holds Kong's signature.
pub const KONG_HEADER: &str = "x-kong-signature";

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

/// Splits a Secret's value into secrets: one per line, without line ends and empty lines.
pub fn secret_lines(text: &str) -> Vec<&str> {
    text.split(['\n', '\r']).filter(|line| !line.is_empty()).collect()
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
    }
}
