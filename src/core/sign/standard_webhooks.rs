//! Signatures of Standard Webhooks: HMAC (`v1`) and Ed25519 (`v1a`) over `id.timestamp.body`.
//!
//! Secrets are read as the reference libraries read them, because a receiver verifies with one of those: base64, never the
//! text itself.

use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use secrecy::{ExposeSecret, SecretSlice};
use subtle::ConstantTimeEq;

use super::hmac_sha256;

/// Prefixes of secrets: an HMAC key, an Ed25519 private key, an Ed25519 public key.
const HMAC_PREFIX: &str = "whsec_";
const PRIVATE_PREFIX: &str = "whsk_";
const PUBLIC_PREFIX: &str = "whpk_";
/// A prefix that some products put before a secret.
const VERSION_PREFIX: &str = "v1,";

/// The fewest bytes of an HMAC key that Standard Webhooks recommends.
const RECOMMENDED_KEY_LEN: usize = 24;
const ED25519_KEY_LEN: usize = 32;

/// Maximum number of signatures in one header that are checked, which bounds the work that an unauthenticated request
/// causes.
const MAX_SIGNATURES: usize = 16;

/// Accepts base64 with and without padding, because both are in use for secrets.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a secret cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error(
        "is no secret of Standard Webhooks, which is whsec_ and base64: make one with: echo \"whsec_$(openssl rand -base64 32)\""
    )]
    NotBase64,
    #[error("must continue after whsk_ with base64 of an Ed25519 key: 32 bytes, or 64 with its public key")]
    NotEd25519,
    #[error("is a public key (whpk_), which cannot sign: use the private key (whsk_)")]
    PublicKey,
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
}

/// A key that signs. No `Debug`: it is a secret.
pub enum SigningKey {
    Hmac(SecretSlice<u8>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl SigningKey {
    /// Reads a key: `whsec_` and base64, base64 alone, `v1,whsec_` and base64, or `whsk_` and base64.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let text = text.trim();
        if text.starts_with(PUBLIC_PREFIX) {
            return Err(SecretError::PublicKey);
        }
        if let Some(key) = text.strip_prefix(PRIVATE_PREFIX) {
            return parse_key_pair(key).map(Box::new).map(SigningKey::Ed25519);
        }
        let text = text.strip_prefix(VERSION_PREFIX).unwrap_or(text);
        let text = text.strip_prefix(HMAC_PREFIX).unwrap_or(text);
        let key = LENIENT.decode(text).map_err(|_| SecretError::NotBase64)?;
        // Reject an empty key, with which anyone could create valid signatures.
        match key.is_empty() {
            true => Err(SecretError::NotBase64),
            false => Ok(SigningKey::Hmac(SecretSlice::from(key))),
        }
    }

    /// Returns true if the key is shorter than recommended, so that it might be guessed.
    pub fn is_short(&self) -> bool {
        match self {
            SigningKey::Hmac(key) => key.expose_secret().len() < RECOMMENDED_KEY_LEN,
            SigningKey::Ed25519(_) => false,
        }
    }

    /// Returns one signature with its version.
    fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        match self {
            SigningKey::Hmac(key) => format!("v1,{}", STANDARD.encode(tag(key, id, timestamp, body))),
            SigningKey::Ed25519(pair) => {
                format!("v1a,{}", STANDARD.encode(pair.sign(&signed_text(id, timestamp, body))))
            }
        }
    }
}

/// A key that verifies. No `Debug`: it may be a secret.
pub enum VerifyingKey {
    Hmac(SecretSlice<u8>),
    Ed25519([u8; ED25519_KEY_LEN]),
}

impl VerifyingKey {
    /// Reads a key: any that signs, or `whpk_` and base64.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        if let Some(key) = text.trim().strip_prefix(PUBLIC_PREFIX) {
            let key = LENIENT.decode(key).map_err(|_| SecretError::NotEd25519)?;
            return key.try_into().map(VerifyingKey::Ed25519).map_err(|_| SecretError::NotEd25519);
        }
        Ok(match SigningKey::parse(text)? {
            SigningKey::Hmac(key) => VerifyingKey::Hmac(key),
            SigningKey::Ed25519(pair) => {
                let public = pair.public_key().as_ref().try_into();
                VerifyingKey::Ed25519(public.map_err(|_| SecretError::NotEd25519)?)
            }
        })
    }

    fn verifies(&self, signature: &str, id: &str, timestamp: &str, body: &[u8]) -> bool {
        let Some((version, signature)) = signature.split_once(',') else { return false };
        let Ok(signature) = STANDARD.decode(signature) else { return false };
        match (self, version) {
            (VerifyingKey::Hmac(key), "v1") => {
                tag(key, id, timestamp, body).ct_eq(signature.as_slice()).into()
            }
            (VerifyingKey::Ed25519(key), "v1a") => UnparsedPublicKey::new(&ED25519, key)
                .verify(&signed_text(id, timestamp, body), &signature)
                .is_ok(),
            _ => false,
        }
    }
}

/// Returns the value of `webhook-signature`: one signature for each key, separated by spaces. `timestamp` is in seconds.
pub fn standard_webhooks_signature(keys: &[SigningKey], id: &str, timestamp: i64, body: &[u8]) -> String {
    let timestamp = timestamp.to_string();
    let signatures: Vec<String> = keys.iter().map(|key| key.sign(id, &timestamp, body)).collect();
    signatures.join(" ")
}

/// Verifies the three headers of Standard Webhooks. One signature by one of the keys is sufficient. `now` and the
/// tolerance are in seconds.
pub fn verify_standard_webhooks(
    keys: &[VerifyingKey],
    id: &str,
    timestamp_header: &str,
    signature_header: &str,
    body: &[u8],
    now: i64,
    tolerance_secs: i64,
) -> Result<(), StandardWebhooksError> {
    let text = timestamp_header.trim();
    let timestamp: i64 = text.parse().map_err(|_| StandardWebhooksError::Timestamp)?;
    if now.abs_diff(timestamp) > tolerance_secs.unsigned_abs() {
        return Err(StandardWebhooksError::Stale);
    }
    let mut signatures = signature_header.split_ascii_whitespace().take(MAX_SIGNATURES);
    let is_valid = signatures.any(|signature| keys.iter().any(|key| key.verifies(signature, id, text, body)));
    if is_valid { Ok(()) } else { Err(StandardWebhooksError::NoMatch) }
}

/// Reads a private key: the seed, or the seed and the public key.
fn parse_key_pair(text: &str) -> Result<Ed25519KeyPair, SecretError> {
    let key = LENIENT.decode(text).map_err(|_| SecretError::NotEd25519)?;
    let pair = match key.split_at_checked(ED25519_KEY_LEN) {
        Some((seed, [])) => Ed25519KeyPair::from_seed_unchecked(seed),
        Some((seed, public)) => Ed25519KeyPair::from_seed_and_public_key(seed, public),
        None => return Err(SecretError::NotEd25519),
    };
    pair.map_err(|_| SecretError::NotEd25519)
}

fn tag(key: &SecretSlice<u8>, id: &str, timestamp: &str, body: &[u8]) -> [u8; 32] {
    hmac_sha256(key.expose_secret(), &[id.as_bytes(), b".", timestamp.as_bytes(), b".", body])
}

fn signed_text(id: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
    [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIME: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn keys(texts: &[&str]) -> Vec<SigningKey> {
        texts.iter().map(|text| SigningKey::parse(text).unwrap()).collect()
    }

    fn check(secrets: &[&str], header: &str, now: i64) -> Result<(), StandardWebhooksError> {
        let keys: Vec<_> = secrets.iter().map(|text| VerifyingKey::parse(text).unwrap()).collect();
        verify_standard_webhooks(&keys, ID, "1614265330", header, BODY, now, 300)
    }

    #[test]
    fn matches_the_published_vector() {
        assert_eq!(standard_webhooks_signature(&keys(&[SECRET]), ID, TIME, BODY), SIGNATURE);
        let both = standard_webhooks_signature(&keys(&[OTHER, SECRET]), ID, TIME, BODY);
        assert!(both.ends_with(&format!(" {SIGNATURE}")));
        assert_eq!(check(&[SECRET], SIGNATURE, TIME), Ok(()));
        let several = format!("v1a,AAAA v1,AAAA v1 nothing {SIGNATURE}");
        assert_eq!(check(&[OTHER, SECRET], &several, TIME + 300), Ok(()));
        assert_eq!(check(&[SECRET], SIGNATURE, TIME + 301), Err(StandardWebhooksError::Stale));
        assert_eq!(check(&[SECRET], SIGNATURE, i64::MIN), Err(StandardWebhooksError::Stale));
        assert_eq!(check(&[OTHER], SIGNATURE, TIME), Err(StandardWebhooksError::NoMatch));
        assert_eq!(check(&[], SIGNATURE, TIME), Err(StandardWebhooksError::NoMatch));
        assert_eq!(check(&[SECRET], "", TIME), Err(StandardWebhooksError::NoMatch));
        let keys = [VerifyingKey::parse(SECRET).unwrap()];
        let soon = verify_standard_webhooks(&keys, ID, "soon", SIGNATURE, BODY, TIME, 300);
        assert_eq!(soon, Err(StandardWebhooksError::Timestamp));
    }

    #[test]
    fn reads_secrets_as_the_reference_libraries_do() {
        let key = SECRET.strip_prefix("whsec_").unwrap();
        for text in [SECRET, key, &format!("v1,{SECRET}"), &format!(" {SECRET} ")] {
            assert_eq!(standard_webhooks_signature(&keys(&[text]), ID, TIME, BODY), SIGNATURE, "{text}");
        }
        assert_eq!(
            standard_webhooks_signature(&keys(&["whsec_YQ=="]), ID, TIME, BODY),
            standard_webhooks_signature(&keys(&["YQ"]), ID, TIME, BODY),
            "padding does not matter"
        );
        for refused in
            ["whsec_*", "whsec_", "whsec_=", "", "a plain text", "p4ssw0rd!", "v1,whsec_", "v2,whsec_YWFh"]
        {
            let error = SigningKey::parse(refused).err().unwrap();
            assert_eq!(error, SecretError::NotBase64, "{refused}");
        }
        let is_short = |len| SigningKey::parse(&STANDARD.encode(vec![7; len])).unwrap().is_short();
        assert!(is_short(23) && !is_short(24));
    }

    #[test]
    fn signs_with_ed25519() {
        // RFC 8032, section 7.1, test 1.
        let seed = hex::decode("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let public = hex::decode("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a").unwrap();
        let (short, whole) = (STANDARD.encode(&seed), STANDARD.encode([&seed[..], &public].concat()));
        let header = standard_webhooks_signature(&keys(&[&format!("whsk_{whole}")]), ID, TIME, BODY);
        assert!(header.starts_with("v1a,"));
        assert_eq!(standard_webhooks_signature(&keys(&[&format!("whsk_{short}")]), ID, TIME, BODY), header);
        let public_key = format!("whpk_{}", STANDARD.encode(&public));
        for key in [&public_key, &format!("whsk_{whole}"), &format!("whsk_{short}")] {
            assert_eq!(check(&[key], &header, TIME), Ok(()));
        }
        assert_eq!(check(&[SECRET], &header, TIME), Err(StandardWebhooksError::NoMatch));
        let as_hmac = header.replace("v1a,", "v1,");
        assert_eq!(check(&[&public_key], &as_hmac, TIME), Err(StandardWebhooksError::NoMatch));
        let both = standard_webhooks_signature(&keys(&[SECRET, &format!("whsk_{short}")]), ID, TIME, BODY);
        assert_eq!(both, format!("{SIGNATURE} {header}"));

        let error = |text: &str| SigningKey::parse(text).err().unwrap();
        assert_eq!(error(&public_key), SecretError::PublicKey);
        let mismatch = STANDARD.encode([&seed[..], &seed].concat());
        for key in ["", "*", "YQ==", &mismatch, &STANDARD.encode([1; 40])] {
            assert_eq!(error(&format!("whsk_{key}")), SecretError::NotEd25519, "{key}");
        }
        assert!(VerifyingKey::parse("whpk_YQ==").is_err());
    }

    proptest! {
        #[test]
        fn round_trips(secret in prop::collection::vec(any::<u8>(), 1..80), id in "[a-z0-9]{1,20}", body: Vec<u8>, time in 0i64..4_000_000_000) {
            let secret = STANDARD.encode(secret);
            let header = standard_webhooks_signature(&keys(&[OTHER, &secret]), &id, time, &body);
            let key = [VerifyingKey::parse(&secret).unwrap()];
            prop_assert_eq!(verify_standard_webhooks(&key, &id, &time.to_string(), &header, &body, time, 0), Ok(()));
        }

        #[test]
        fn verifying_never_panics(id: String, time: String, header: String, body: Vec<u8>, now: i64, tolerance: i64) {
            let keys = [VerifyingKey::parse(SECRET).unwrap()];
            prop_assert!(verify_standard_webhooks(&keys, &id, &time, &header, &body, now, tolerance).is_err());
        }

        #[test]
        fn parsing_never_panics(text: String, tail in "[A-Za-z0-9+/=]{0,100}") {
            for text in [text, format!("whsk_{tail}"), format!("whpk_{tail}"), tail] {
                SigningKey::parse(&text).ok();
                VerifyingKey::parse(&text).ok();
            }
        }
    }
}
