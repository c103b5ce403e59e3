//! Relays from Kong: what is taken, and on whose word.
//!
//! A relay is judged by what the vendor was last told (`status.applied`), by what the spec asks for (the controller may
//! have told the vendor and not yet written the status), and for a while by what it was told before, so that events
//! which Kong queued before a change still come in.

use secrecy::{ExposeSecret, SecretString};

use super::event::Draft;
use super::keys::{KeyRing, Owner, Purpose};
use super::sign;
use super::time::Millis;
use crate::api::{AppliedTerms, DeliverBy, EventHook};

/// The name of the header that Kong signs with.
pub const SIGNATURE_HEADER: &str = "x-kong-signature";
/// The source and event of Kong's ping.
pub const PING: (&str, &str) = ("kong:event_hooks", "ping");

/// One set of terms by which a relay may come in.
#[derive(Debug)]
pub struct Terms {
    source: String,
    event: Option<String>,
    secret: SecretString,
}

/// Why a relay is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
pub enum Refused {
    #[error("the signature is missing or wrong")]
    BadSignature,
    #[error("Kong was not told to relay this source and event to this hook")]
    NotAgreed,
}

/// The secret that Kong signs with for a hook.
pub fn secret(
    ring: &KeyRing,
    key_id: &str,
    hook: &EventHook,
    rotation: Option<&str>,
) -> Option<SecretString> {
    ring.derive(key_id, Purpose::Relay, Owner::of(&hook.metadata, rotation))
}

/// All terms by which relays to this hook are taken now.
pub fn terms(hook: &EventHook, ring: &KeyRing, now: Millis) -> Vec<Terms> {
    let spec = &hook.spec;
    let asked = spec.connection_ref.as_ref().and(ring.newest()).map(|key| AppliedTerms {
        deliver_by: spec.deliver_by.unwrap_or(DeliverBy::Worker),
        source: spec.source.clone(),
        event: spec.event.clone(),
        rotation: spec.rotation.clone(),
        key_id: Some(key.to_owned()),
    });
    let applied = hook.status.as_ref().and_then(|s| s.applied.as_ref());
    let previous = applied
        .and_then(|a| a.previous.as_ref())
        .filter(|p| Millis::parse(&p.until).is_some_and(|until| until > now));
    let all = applied.map(|a| &a.terms).into_iter().chain(asked.as_ref()).chain(previous.map(|p| &p.terms));
    let mut out: Vec<Terms> = Vec::new();
    for told in all.filter(|t| t.deliver_by == DeliverBy::Worker) {
        let Some(secret) =
            told.key_id.as_deref().and_then(|key| secret(ring, key, hook, told.rotation.as_deref()))
        else {
            continue;
        };
        out.push(Terms { source: told.source.clone(), event: told.event.clone(), secret });
    }
    out
}

/// Checks who relayed: the terms whose secret signed the body. Every secret is tried, so that the time taken tells
/// nothing of which one was right.
pub fn authenticate<'a>(
    terms: &'a [Terms],
    signature: Option<&str>,
    body: &[u8],
) -> Result<Vec<&'a Terms>, Refused> {
    let signature = signature.ok_or(Refused::BadSignature)?;
    let signed: Vec<&Terms> = terms
        .iter()
        .filter(|t| sign::verify_kong(t.secret.expose_secret().as_bytes(), signature, body))
        .collect();
    if signed.is_empty() { Err(Refused::BadSignature) } else { Ok(signed) }
}

/// True for Kong's ping, which is answered and never stored: it carries the hook object, secret and all.
pub fn is_ping(draft: &Draft) -> bool {
    (draft.source.as_str(), draft.event.as_str()) == PING
}

/// Checks what was relayed against what Kong was told.
pub fn agreed(signed: &[&Terms], draft: &Draft) -> Result<(), Refused> {
    let fits = |t: &&Terms| t.source == draft.source && t.event.as_ref().is_none_or(|e| *e == draft.event);
    if signed.iter().any(fits) { Ok(()) } else { Err(Refused::NotAgreed) }
}

/// True for an event about event hooks themselves that nobody asked for by name: it carries their secrets.
pub fn carries_secrets(draft: &Draft, asked_by_name: bool) -> bool {
    #[derive(serde::Deserialize)]
    struct Entity {
        schema: Option<String>,
    }
    match draft.source.as_str() {
        "crud" => draft.event == "event_hooks" && !asked_by_name,
        "dao:crud" => serde_json::from_str::<Entity>(draft.data.get())
            .is_ok_and(|entity| entity.schema.as_deref() == Some("event_hooks")),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Applied, EventHookStatus, PreviousTerms, SignatureAlgorithm, SignatureEncoding};
    use crate::core::event::parse_relayed;
    use serde_json::json;

    const NOW: Millis = Millis(1_700_000_000_000);

    fn ring() -> KeyRing {
        KeyRing::from_data([("k1", [1u8; 32].as_slice()), ("k2", [2u8; 32].as_slice())].into_iter()).unwrap()
    }

    fn hook(event: Option<&str>) -> EventHook {
        serde_json::from_value(json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
            "metadata": {"name": "h", "namespace": "n", "uid": "u"},
            "spec": {"source": "crud", "event": event, "connectionRef": {"name": "k"}, "rotation": "new",
                     "handler": {"webhook": {"url": "https://example.com"}}}}))
        .unwrap()
    }

    fn told(event: Option<&str>, key: &str, rotation: Option<&str>) -> AppliedTerms {
        AppliedTerms {
            deliver_by: DeliverBy::Worker,
            source: "crud".into(),
            event: event.map(Into::into),
            rotation: rotation.map(Into::into),
            key_id: Some(key.into()),
        }
    }

    fn signed_by(hook: &EventHook, key: &str, rotation: Option<&str>, body: &[u8]) -> String {
        let secret = secret(&ring(), key, hook, rotation).unwrap();
        let bytes = secret.expose_secret().as_bytes();
        sign::kong_signature(bytes, SignatureAlgorithm::SHA256, SignatureEncoding::PrefixedHex, body)
    }

    /// What the worker does with a relay.
    fn judge(hook: &EventHook, signature: &str, body: &[u8]) -> Result<(), Refused> {
        let terms = terms(hook, &ring(), NOW);
        let signed = authenticate(&terms, Some(signature), body)?;
        agreed(&signed, &parse_relayed(body).unwrap())
    }

    #[test]
    fn takes_what_is_asked_what_was_applied_and_for_a_while_what_was_before() {
        let mut hook = hook(Some("consumers"));
        let status = |until: Millis| EventHookStatus {
            applied: Some(Box::new(Applied {
                terms: told(Some("routes"), "k1", Some("old")),
                previous: Some(PreviousTerms {
                    terms: told(Some("services"), "k1", None),
                    until: until.rfc3339(),
                }),
            })),
            ..EventHookStatus::default()
        };
        let consumers = br#"{"source":"crud","event":"consumers"}"#;
        let routes = br#"{"source":"crud","event":"routes"}"#;
        let services = br#"{"source":"crud","event":"services"}"#;
        let asked =
            |hook: &EventHook, body: &[u8]| judge(hook, &signed_by(hook, "k2", Some("new"), body), body);

        assert_eq!(asked(&hook, consumers), Ok(()), "told, but not yet written to the status");
        assert_eq!(asked(&hook, routes), Err(Refused::NotAgreed));

        hook.status = Some(status(Millis(NOW.0 + 1)));
        assert_eq!(asked(&hook, consumers), Ok(()));
        assert_eq!(judge(&hook, &signed_by(&hook, "k1", Some("old"), routes), routes), Ok(()));
        assert_eq!(judge(&hook, &signed_by(&hook, "k1", None, services), services), Ok(()));
        let mixed = judge(&hook, &signed_by(&hook, "k1", None, routes), routes);
        assert_eq!(mixed, Err(Refused::NotAgreed), "an old secret serves its own event only");

        hook.status = Some(status(NOW));
        let late = judge(&hook, &signed_by(&hook, "k1", None, services), services);
        assert_eq!(late, Err(Refused::BadSignature), "its time is over");
    }

    #[test]
    fn a_gateway_hook_takes_no_relays() {
        let mut hook = hook(None);
        hook.spec.deliver_by = Some(DeliverBy::Gateway);
        assert!(terms(&hook, &ring(), NOW).is_empty());
    }

    #[test]
    fn no_signature_is_a_wrong_one() {
        let terms = terms(&hook(None), &ring(), NOW);
        assert_eq!(authenticate(&terms, None, b"{}").unwrap_err(), Refused::BadSignature);
        assert_eq!(authenticate(&terms, Some("sha256=00"), b"{}").unwrap_err(), Refused::BadSignature);
    }

    #[test]
    fn events_about_event_hooks_match_no_wildcard() {
        let draft = |text: &str| parse_relayed(text.as_bytes()).unwrap();
        assert!(carries_secrets(&draft(r#"{"source":"crud","event":"event_hooks"}"#), false));
        assert!(!carries_secrets(&draft(r#"{"source":"crud","event":"event_hooks"}"#), true));
        assert!(carries_secrets(
            &draft(r#"{"source":"dao:crud","event":"create","schema":"event_hooks"}"#),
            true
        ));
        assert!(!carries_secrets(
            &draft(r#"{"source":"dao:crud","event":"create","schema":"routes"}"#),
            false
        ));
        assert!(is_ping(&draft(r#"{"source":"kong:event_hooks","event":"ping"}"#)));
    }
}
