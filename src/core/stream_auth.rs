//! Authenticates deliveries from Auth0.
//!
//! A stream into the worker accepts the tokens of three sets of stream settings:
//! - the settings that were last configured at Auth0 (`status.applied`);
//! - the settings of the spec, because the controller may have configured Auth0 but not yet written the status;
//! - for a limited time the previous settings, so that a rotation loses no events.
//!
//! If a stream has a webhook destination that points to this worker, Auth0 authenticates with the user's own secret.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::keys::{KeyRing, Owner, Purpose};
use super::stream::Authorization;
use super::time::Millis;
use crate::api::{DestinationKind, EventStream, PreviousStreamSettings, StreamApplied, StreamSettings};

/// How long the previous settings stay valid, so that deliveries in flight during a change are accepted.
const PREVIOUS_FOR: Duration = Duration::from_secs(600);

/// A credential that a request must present. `Debug` output contains no secret.
#[derive(Clone, Debug)]
pub enum Credential {
    Bearer(SecretString),
    Basic {
        username: String,
        password: SecretString,
    },
    Header {
        /// Case-insensitive, as all HTTP header names.
        name: String,
        value: SecretString,
    },
}

/// Why a delivery is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
pub enum StreamRejection {
    #[error("the authorization is missing or wrong")]
    BadAuthorization,
}

/// Derives the token that Auth0 presents for a stream into the worker. Returns `None` if the key ring has no such key.
pub fn derive_token(
    key_ring: &KeyRing,
    key_id: &str,
    stream: &EventStream,
    rotation: Option<&str>,
) -> Option<SecretString> {
    key_ring.derive(key_id, Purpose::Stream, Owner::of(&stream.metadata, rotation))
}

/// Returns the desired settings of a stream at Auth0, or `None` if they need a key and there is none.
///
/// A stream into the worker keeps its key until its rotation text changes. Otherwise a new key in the key ring would
/// rotate the tokens of all tenants at once.
pub fn desired_settings(
    stream: &EventStream,
    kind: DestinationKind,
    key_ring: Option<&KeyRing>,
) -> Option<StreamSettings> {
    if kind != DestinationKind::Worker {
        return Some(StreamSettings { destination: kind, rotation: None, key_id: None });
    }
    let key_ring = key_ring?;
    let rotation = stream.spec.rotation.clone();
    let applied = stream.status.as_ref().and_then(|s| s.applied.as_ref()).map(|a| &a.settings);
    let kept = applied
        .filter(|a| a.destination == kind && a.rotation == rotation)
        .and_then(|a| a.key_id.clone())
        .filter(|key| derive_token(key_ring, key, stream, rotation.as_deref()).is_some());
    let key_id = kept.or_else(|| key_ring.newest_key_id().map(ToOwned::to_owned))?;
    Some(StreamSettings { destination: kind, rotation, key_id: Some(key_id) })
}

/// Returns the `status.applied` that follows `before` after `settings` were configured. Keeps the previous settings for
/// as long as they are valid.
pub fn next_applied(
    before: Option<&StreamApplied>,
    settings: StreamSettings,
    enabled: bool,
    now: Millis,
) -> StreamApplied {
    let previous = match before {
        Some(before) if before.settings != settings => Some(PreviousStreamSettings {
            settings: before.settings.clone(),
            until: (now + PREVIOUS_FOR).rfc3339(),
        }),
        Some(before) => before.previous.clone().filter(|p| is_valid(p, now)),
        None => None,
    };
    StreamApplied { settings, enabled: Some(enabled), previous }
}

fn is_valid(previous: &PreviousStreamSettings, now: Millis) -> bool {
    Millis::parse(&previous.until).is_some_and(|until| until > now)
}

/// Returns the tokens that are accepted at `now` for a stream into the worker. Empty if the stream has had another
/// destination for longer than the transition period.
pub fn worker_credentials(stream: &EventStream, key_ring: &KeyRing, now: Millis) -> Vec<Credential> {
    let requested =
        stream.spec.destination.worker.as_ref().and(key_ring.newest_key_id()).map(|key| StreamSettings {
            destination: DestinationKind::Worker,
            rotation: stream.spec.rotation.clone(),
            key_id: Some(key.to_owned()),
        });
    let applied = stream.status.as_ref().and_then(|s| s.applied.as_ref());
    let previous =
        applied.and_then(|a| a.previous.as_ref()).filter(|p| is_valid(p, now)).map(|p| &p.settings);
    let all = applied.map(|a| &a.settings).into_iter().chain(requested.as_ref()).chain(previous);
    all.filter(|settings| settings.destination == DestinationKind::Worker)
        .filter_map(|settings| {
            derive_token(key_ring, settings.key_id.as_deref()?, stream, settings.rotation.as_deref())
        })
        .map(Credential::Bearer)
        .collect()
}

/// Returns the credential that a request must present, with the user's own secret.
pub fn credential(authorization: &Authorization, secret: SecretString) -> Credential {
    match authorization {
        Authorization::Basic { username, .. } => {
            Credential::Basic { username: username.clone(), password: secret }
        }
        Authorization::Bearer { .. } => Credential::Bearer(secret),
        Authorization::Header { name, .. } => Credential::Header { name: name.clone(), value: secret },
    }
}

/// Authenticates a request by its headers. Compares every credential in constant time, so that the response time does not
/// reveal how close a guess was.
pub fn authenticate<'a>(
    credentials: &[Credential],
    header: impl Fn(&str) -> Option<&'a [u8]>,
) -> Result<(), StreamRejection> {
    let authorization = header("authorization").and_then(split_authorization);
    let mut matches = Choice::from(0);
    for credential in credentials {
        matches |= match credential {
            Credential::Bearer(token) => {
                matches_scheme(authorization, "bearer", token.expose_secret().as_bytes())
            }
            Credential::Basic { username, password } => {
                let expected = STANDARD.encode(format!("{username}:{}", password.expose_secret()));
                matches_scheme(authorization, "basic", expected.as_bytes())
            }
            Credential::Header { name, value } => {
                equals(header(name).unwrap_or_default(), value.expose_secret().as_bytes())
            }
        };
    }
    if bool::from(matches) { Ok(()) } else { Err(StreamRejection::BadAuthorization) }
}

/// Splits an Authorization header into scheme and credentials.
fn split_authorization(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = value.iter().position(|b| *b == b' ')?;
    let (scheme, rest) = value.split_at_checked(space)?;
    Some((scheme, rest.trim_ascii()))
}

fn matches_scheme(presented: Option<(&[u8], &[u8])>, scheme: &str, expected: &[u8]) -> Choice {
    let (name, value) = presented.unwrap_or_default();
    Choice::from(u8::from(name.eq_ignore_ascii_case(scheme.as_bytes()))) & equals(value, expected)
}

/// Compares two secrets in constant time. Compares hashes, because comparing texts of different lengths would reveal the
/// length. An empty secret matches nothing.
fn equals(presented: &[u8], expected: &[u8]) -> Choice {
    let equal = Sha256::digest(presented).ct_eq(&Sha256::digest(expected));
    equal & Choice::from(u8::from(!expected.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const NOW: Millis = Millis(1_700_000_000_000);

    fn key_ring() -> KeyRing {
        KeyRing::from_data([("k1", [1u8; 32].as_slice()), ("k2", [2u8; 32].as_slice())].into_iter()).unwrap()
    }

    fn stream(destination: Value, status: Value) -> EventStream {
        serde_json::from_value(json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventStream",
            "metadata": {"name": "s", "namespace": "n", "uid": "u"},
            "spec": {"connectionRef": {"name": "a"}, "name": "x", "subscriptions": [{"eventType": "e"}],
                     "destination": destination},
            "status": status}))
        .unwrap()
    }

    fn rotated(rotation: &str, status: Value) -> EventStream {
        let mut stream = stream(json!({"worker": {}}), status);
        stream.spec.rotation = Some(rotation.into());
        stream
    }

    fn is_accepted(stream: &EventStream, key: &str, rotation: Option<&str>, now: Millis) -> bool {
        let token = derive_token(&key_ring(), key, stream, rotation).unwrap();
        let header = format!("Bearer {}", token.expose_secret());
        let credentials = worker_credentials(stream, &key_ring(), now);
        authenticate(&credentials, |name| (name == "authorization").then_some(header.as_bytes())).is_ok()
    }

    #[test]
    fn accepts_requested_applied_and_recent_previous_tokens() {
        let fresh = rotated("new", json!(null));
        assert!(is_accepted(&fresh, "k2", Some("new"), NOW), "configured, but not yet in the status");
        assert!(!is_accepted(&fresh, "k1", Some("new"), NOW));

        let until = Millis(NOW.0 + 1).rfc3339();
        let status = json!({"applied": {"destination": "Worker", "rotation": "old", "keyId": "k1",
            "previous": {"destination": "Worker", "keyId": "k1", "until": until}}});
        let stream = rotated("new", status);
        assert!(is_accepted(&stream, "k2", Some("new"), NOW));
        assert!(is_accepted(&stream, "k1", Some("old"), NOW));
        assert!(is_accepted(&stream, "k1", None, NOW));
        assert!(!is_accepted(&stream, "k1", None, Millis(NOW.0 + 1)), "the transition period has ended");
        assert!(!is_accepted(&stream, "k2", Some("old"), NOW));
    }

    #[test]
    fn other_destination_accepts_recent_previous_token_only() {
        let until = Millis(NOW.0 + 1).rfc3339();
        let bridge = json!({"eventBridge": {"accountId": "123456789012", "region": "eu-west-1"}});
        assert!(worker_credentials(&stream(bridge.clone(), json!(null)), &key_ring(), NOW).is_empty());
        let status = json!({"applied": {"destination": "Webhook",
            "previous": {"destination": "Worker", "keyId": "k1", "until": until}}});
        assert!(is_accepted(&stream(bridge, status), "k1", None, NOW));
        assert!(authenticate(&[], |_| Some(b"Bearer ")).is_err());
    }

    #[test]
    fn tokens_differ_by_stream() {
        let one = stream(json!({"worker": {}}), json!(null));
        let mut other = one.clone();
        other.metadata.uid = Some("other".into());
        let of =
            |s: &EventStream| derive_token(&key_ring(), "k1", s, None).unwrap().expose_secret().to_owned();
        assert_ne!(of(&one), of(&other));
        assert_eq!(of(&one), of(&one.clone()));
    }

    #[test]
    fn checks_every_kind_of_credential() {
        let secret = || SecretString::from("s3cret");
        let reference = || crate::api::SecretKeyRef { name: "s".into(), key: "k".into() };
        let bearer = credential(&Authorization::Bearer { token: reference() }, secret());
        let basic =
            credential(&Authorization::Basic { username: "u".into(), password: reference() }, secret());
        let header =
            credential(&Authorization::Header { name: "x-api-key".into(), value: reference() }, secret());
        let encoded = format!("Basic {}", STANDARD.encode("u:s3cret"));
        let cases: [(&Credential, &str, &str, bool); 12] = [
            (&bearer, "authorization", "Bearer s3cret", true),
            (&bearer, "authorization", "bearer  s3cret", true),
            (&bearer, "authorization", "Bearer s3cre", false),
            (&bearer, "authorization", "Basic s3cret", false),
            (&bearer, "authorization", "s3cret", false),
            (&bearer, "x-api-key", "s3cret", false),
            (&basic, "authorization", &encoded, true),
            (&basic, "authorization", "Basic dTpvdGhlcg==", false),
            (&basic, "authorization", "Bearer s3cret", false),
            (&header, "x-api-key", "s3cret", true),
            (&header, "x-api-key", "S3cret", false),
            (&header, "authorization", "Bearer s3cret", false),
        ];
        for (credential, name, value, want) in cases {
            let all = [credential.clone()];
            let got = authenticate(&all, |header| (header == name).then_some(value.as_bytes())).is_ok();
            assert_eq!(got, want, "{credential:?} {name}: {value}");
        }
        let empty = [Credential::Bearer(SecretString::from(""))];
        assert!(authenticate(&empty, |_| Some(b"Bearer ")).is_err(), "an empty secret matches nothing");
        assert!(!format!("{bearer:?}{basic:?}{header:?}").contains("s3cret"));
    }

    #[test]
    fn keeps_key_until_rotation_changes() {
        let status = json!({"applied": {"destination": "Worker", "rotation": "a", "keyId": "k1"}});
        let settings = |stream: &EventStream| {
            desired_settings(stream, DestinationKind::Worker, Some(&key_ring())).unwrap()
        };
        let kept = settings(&rotated("a", status.clone()));
        assert_eq!(kept.key_id.as_deref(), Some("k1"));
        assert_eq!(settings(&rotated("b", status)).key_id.as_deref(), Some("k2"));
        let lost = json!({"applied": {"destination": "Worker", "rotation": "a", "keyId": "gone"}});
        assert_eq!(settings(&rotated("a", lost)).key_id.as_deref(), Some("k2"));

        let first = next_applied(None, kept.clone(), true, NOW);
        assert_eq!(first.previous, None);
        let second = next_applied(Some(&first), settings(&rotated("b", json!(null))), true, NOW);
        assert_eq!(second.previous.as_ref().unwrap().settings, kept);
        let third = next_applied(Some(&second), second.settings.clone(), true, NOW);
        assert_eq!(third, second, "applying the same settings keeps the time");
        let later = Millis(NOW.0 + 600_001);
        assert_eq!(next_applied(Some(&second), second.settings.clone(), true, later).previous, None);
    }

    proptest! {
        #[test]
        fn rejects_unknown_credentials(
            authorization in "(bearer|basic|Basic|BEARER|x)? {0,2}[ -~]{0,40}", own in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
        ) {
            let secret = || SecretString::from("a secret that is never guessed");
            let all = [
                Credential::Bearer(secret()),
                Credential::Basic { username: "u".into(), password: secret() },
                Credential::Header { name: "x-own".into(), value: secret() },
                Credential::Bearer(SecretString::from("")),
            ];
            let header = |name: &str| match name {
                "authorization" => Some(authorization.as_bytes()),
                _ => own.as_deref(),
            };
            prop_assert!(authenticate(&all, header).is_err());
        }
    }
}
