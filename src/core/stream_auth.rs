//! Events from Auth0: the tokens that the worker gives it, and on whose word an event is taken.
//!
//! A stream into the worker is judged by what Auth0 was last told (`status.applied`), by what the spec asks for (the
//! controller may have told Auth0 and not yet written the status), and for a while by what it was told before, so that
//! a rotation loses nothing. A stream with a webhook destination that names this worker is judged by the user's own
//! secret.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::keys::{KeyRing, Owner, Purpose};
use super::stream::Authorization;
use super::time::Millis;
use crate::api::{DestinationKind, EventStream, PreviousStreamTerms, StreamApplied, StreamTerms};

/// So long what Auth0 had under way before it was told something new is still taken.
const PREVIOUS_FOR: Duration = Duration::from_secs(600);

/// What a request must show. Its `Debug` shows no secret.
#[derive(Clone, Debug)]
pub enum Credential {
    Bearer(SecretString),
    Basic {
        username: String,
        password: SecretString,
    },
    Header {
        /// Compared without regard to case, as HTTP does.
        name: String,
        value: SecretString,
    },
}

/// The request shows nothing that was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
pub enum Refused {
    #[error("the authorization is missing or wrong")]
    BadAuthorization,
}

/// The token that Auth0 shows for a stream into the worker.
pub fn token(
    ring: &KeyRing,
    key_id: &str,
    stream: &EventStream,
    rotation: Option<&str>,
) -> Option<SecretString> {
    ring.derive(key_id, Purpose::Stream, Owner::of(&stream.metadata, rotation))
}

/// What Auth0 is to be told of a stream. One into the worker keeps its key until its rotation text changes: a new key in
/// the ring would otherwise tell every tenant a new token at once. None where that takes a ring and there is no key.
pub fn wanted_terms(
    stream: &EventStream,
    kind: DestinationKind,
    ring: Option<&KeyRing>,
) -> Option<StreamTerms> {
    if kind != DestinationKind::Worker {
        return Some(StreamTerms { destination: kind, rotation: None, key_id: None });
    }
    let ring = ring?;
    let rotation = stream.spec.rotation.clone();
    let applied = stream.status.as_ref().and_then(|s| s.applied.as_ref()).map(|a| &a.terms);
    let kept = applied
        .filter(|a| a.destination == kind && a.rotation == rotation)
        .and_then(|a| a.key_id.clone())
        .filter(|key| token(ring, key, stream, rotation.as_deref()).is_some());
    let key_id = kept.or_else(|| ring.newest().map(ToOwned::to_owned))?;
    Some(StreamTerms { destination: kind, rotation, key_id: Some(key_id) })
}

/// What Auth0 was told, with what it was told before for as long as that is still taken.
pub fn applied(
    before: Option<&StreamApplied>,
    terms: StreamTerms,
    enabled: bool,
    now: Millis,
) -> StreamApplied {
    let previous = match before {
        Some(before) if before.terms != terms => {
            Some(PreviousStreamTerms { terms: before.terms.clone(), until: (now + PREVIOUS_FOR).rfc3339() })
        }
        Some(before) => before.previous.clone().filter(|p| lasts(p, now)),
        None => None,
    };
    StreamApplied { terms, enabled: Some(enabled), previous }
}

fn lasts(previous: &PreviousStreamTerms, now: Millis) -> bool {
    Millis::parse(&previous.until).is_some_and(|until| until > now)
}

/// The tokens by which events of a stream into the worker are taken now; none where it has another destination and had
/// one for long enough.
pub fn worker_credentials(stream: &EventStream, ring: &KeyRing, now: Millis) -> Vec<Credential> {
    let asked = stream.spec.destination.worker.as_ref().and(ring.newest()).map(|key| StreamTerms {
        destination: DestinationKind::Worker,
        rotation: stream.spec.rotation.clone(),
        key_id: Some(key.to_owned()),
    });
    let applied = stream.status.as_ref().and_then(|s| s.applied.as_ref());
    let previous = applied.and_then(|a| a.previous.as_ref()).filter(|p| lasts(p, now)).map(|p| &p.terms);
    let all = applied.map(|a| &a.terms).into_iter().chain(asked.as_ref()).chain(previous);
    all.filter(|terms| terms.destination == DestinationKind::Worker)
        .filter_map(|terms| token(ring, terms.key_id.as_deref()?, stream, terms.rotation.as_deref()))
        .map(Credential::Bearer)
        .collect()
}

/// What a request shows by the user's own secret.
pub fn credential(authorization: &Authorization, secret: SecretString) -> Credential {
    match authorization {
        Authorization::Basic { username, .. } => {
            Credential::Basic { username: username.clone(), password: secret }
        }
        Authorization::Bearer { .. } => Credential::Bearer(secret),
        Authorization::Header { name, .. } => Credential::Header { name: name.clone(), value: secret },
    }
}

/// Judges a request by its headers. Every credential is looked at, and in constant time, so that the time taken tells
/// nothing of how near a guess was.
pub fn authenticate<'a>(
    credentials: &[Credential],
    header: impl Fn(&str) -> Option<&'a [u8]>,
) -> Result<(), Refused> {
    let authorization = header("authorization").and_then(split);
    let mut fits = Choice::from(0);
    for credential in credentials {
        fits |= match credential {
            Credential::Bearer(token) => scheme(authorization, "bearer", token.expose_secret().as_bytes()),
            Credential::Basic { username, password } => {
                let wanted = STANDARD.encode(format!("{username}:{}", password.expose_secret()));
                scheme(authorization, "basic", wanted.as_bytes())
            }
            Credential::Header { name, value } => {
                same(header(name).unwrap_or_default(), value.expose_secret().as_bytes())
            }
        };
    }
    if bool::from(fits) { Ok(()) } else { Err(Refused::BadAuthorization) }
}

/// Scheme and credentials of an Authorization header.
fn split(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = value.iter().position(|b| *b == b' ')?;
    let (scheme, rest) = value.split_at_checked(space)?;
    Some((scheme, rest.trim_ascii()))
}

fn scheme(shown: Option<(&[u8], &[u8])>, scheme: &str, wanted: &[u8]) -> Choice {
    let (named, value) = shown.unwrap_or_default();
    Choice::from(u8::from(named.eq_ignore_ascii_case(scheme.as_bytes()))) & same(value, wanted)
}

/// By their hashes: the comparison of texts of different length would tell the length. What is empty is never right.
fn same(shown: &[u8], wanted: &[u8]) -> Choice {
    let equal = Sha256::digest(shown).ct_eq(&Sha256::digest(wanted));
    equal & Choice::from(u8::from(!wanted.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const NOW: Millis = Millis(1_700_000_000_000);

    fn ring() -> KeyRing {
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

    fn shows(stream: &EventStream, key: &str, rotation: Option<&str>, now: Millis) -> bool {
        let token = token(&ring(), key, stream, rotation).unwrap();
        let header = format!("Bearer {}", token.expose_secret());
        let credentials = worker_credentials(stream, &ring(), now);
        authenticate(&credentials, |name| (name == "authorization").then_some(header.as_bytes())).is_ok()
    }

    #[test]
    fn takes_what_is_asked_what_was_applied_and_for_a_while_what_was_before() {
        let fresh = rotated("new", json!(null));
        assert!(shows(&fresh, "k2", Some("new"), NOW), "told, but not yet written to the status");
        assert!(!shows(&fresh, "k1", Some("new"), NOW));

        let until = Millis(NOW.0 + 1).rfc3339();
        let status = json!({"applied": {"destination": "Worker", "rotation": "old", "keyId": "k1",
            "previous": {"destination": "Worker", "keyId": "k1", "until": until}}});
        let stream = rotated("new", status);
        assert!(shows(&stream, "k2", Some("new"), NOW));
        assert!(shows(&stream, "k1", Some("old"), NOW));
        assert!(shows(&stream, "k1", None, NOW));
        assert!(!shows(&stream, "k1", None, Millis(NOW.0 + 1)), "its time is over");
        assert!(!shows(&stream, "k2", Some("old"), NOW));
    }

    #[test]
    fn another_destination_takes_nothing_but_what_was_before() {
        let until = Millis(NOW.0 + 1).rfc3339();
        let bridge = json!({"eventBridge": {"accountId": "123456789012", "region": "eu-west-1"}});
        assert!(worker_credentials(&stream(bridge.clone(), json!(null)), &ring(), NOW).is_empty());
        let status = json!({"applied": {"destination": "Webhook",
            "previous": {"destination": "Worker", "keyId": "k1", "until": until}}});
        assert!(shows(&stream(bridge, status), "k1", None, NOW));
        assert!(authenticate(&[], |_| Some(b"Bearer ")).is_err());
    }

    #[test]
    fn a_token_is_of_one_stream_only() {
        let one = stream(json!({"worker": {}}), json!(null));
        let mut other = one.clone();
        other.metadata.uid = Some("other".into());
        let of = |s: &EventStream| token(&ring(), "k1", s, None).unwrap().expose_secret().to_owned();
        assert_ne!(of(&one), of(&other));
        assert_eq!(of(&one), of(&one.clone()));
    }

    #[test]
    fn every_way_to_show_it() {
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
            let got = authenticate(&all, |asked| (asked == name).then_some(value.as_bytes())).is_ok();
            assert_eq!(got, want, "{credential:?} {name}: {value}");
        }
        let empty = [Credential::Bearer(SecretString::from(""))];
        assert!(authenticate(&empty, |_| Some(b"Bearer ")).is_err(), "an empty secret opens nothing");
        assert!(!format!("{bearer:?}{basic:?}{header:?}").contains("s3cret"));
    }

    #[test]
    fn a_stream_keeps_its_key_until_its_rotation_changes() {
        let told = json!({"applied": {"destination": "Worker", "rotation": "a", "keyId": "k1"}});
        let terms =
            |stream: &EventStream| wanted_terms(stream, DestinationKind::Worker, Some(&ring())).unwrap();
        let kept = terms(&rotated("a", told.clone()));
        assert_eq!(kept.key_id.as_deref(), Some("k1"));
        assert_eq!(terms(&rotated("b", told)).key_id.as_deref(), Some("k2"));
        let lost = json!({"applied": {"destination": "Worker", "rotation": "a", "keyId": "gone"}});
        assert_eq!(terms(&rotated("a", lost)).key_id.as_deref(), Some("k2"));

        let first = applied(None, kept.clone(), true, NOW);
        assert_eq!(first.previous, None);
        let second = applied(Some(&first), terms(&rotated("b", json!(null))), true, NOW);
        assert_eq!(second.previous.as_ref().unwrap().terms, kept);
        let third = applied(Some(&second), second.terms.clone(), true, NOW);
        assert_eq!(third, second, "writing the same again keeps the time");
        let later = Millis(NOW.0 + 600_001);
        assert_eq!(applied(Some(&second), second.terms.clone(), true, later).previous, None);
    }

    proptest! {
        #[test]
        fn what_nobody_was_told_is_refused(
            authorization in "(bearer|basic|Basic|BEARER|x)? {0,2}[ -~]{0,40}", own in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
        ) {
            let secret = || SecretString::from("a secret that nobody guesses");
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
