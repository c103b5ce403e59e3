//! Authenticates and authorizes relays from Kong.
//!
//! A relay must match one of three sets of relay settings:
//! - the settings that were last configured in Kong (`status.applied`);
//! - the settings of the spec, because the controller may have configured Kong but not yet written the status;
//! - for a limited time the previous settings, so that the worker accepts events that Kong queued before a change.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use secrecy::{ExposeSecret, SecretString};

use super::event::EventDraft;
use super::event::data::Data;
use super::keys::{KeyRing, Owner, Purpose};
use super::sign;
use super::time::Millis;
use crate::api::{Applied, AppliedSettings, DeliverBy, EventHook};

/// Name of the header that holds Kong's signature.
pub const SIGNATURE_HEADER: &str = "x-kong-signature";
/// The source and event of Kong's ping.
pub const PING: (&str, &str) = ("kong:event_hooks", "ping");

/// Relay settings that are accepted: a source, optionally an event, and the secret that signs the relays.
#[derive(Debug)]
pub struct RelaySettings {
    source: String,
    event: Option<String>,
    secret: SecretString,
}

/// Why a relay is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
pub enum RelayRejection {
    #[error("the signature is missing or wrong")]
    BadSignature,
    #[error("Kong is not configured to relay this source and event to this hook")]
    NotAgreed,
}

/// Derives the secret with which Kong signs the relays of a hook. Returns `None` if the key ring has no such key.
pub fn derive_secret(
    key_ring: &KeyRing,
    key_id: &str,
    hook: &EventHook,
    rotation: Option<&str>,
) -> Option<SecretString> {
    key_ring.derive(key_id, Purpose::Relay, Owner::of(&hook.metadata, rotation))
}

/// Returns all relay settings that are accepted for a hook at `now`.
pub fn accepted_settings(hook: &EventHook, key_ring: &KeyRing, now: Millis) -> Vec<RelaySettings> {
    let spec = &hook.spec;
    let requested = spec.connection_ref.as_ref().and(key_ring.newest_key_id()).map(|key| AppliedSettings {
        deliver_by: spec.deliver_by.unwrap_or(DeliverBy::Worker),
        source: spec.source.clone(),
        event: spec.event.clone(),
        rotation: spec.rotation.clone(),
        key_id: Some(key.to_owned()),
    });
    let applied = hook.status.as_ref().and_then(|s| s.applied.as_deref());
    derive_settings(&hook.metadata, requested.as_ref(), applied, key_ring, now)
}

/// Returns the relay settings that are accepted at `now` for a hook whose object cannot be read: those that Kong still has,
/// by its status.
pub fn settings_of_unreadable(
    metadata: &ObjectMeta,
    applied: &Applied,
    key_ring: &KeyRing,
    now: Millis,
) -> Vec<RelaySettings> {
    derive_settings(metadata, None, Some(applied), key_ring, now)
}

fn derive_settings(
    metadata: &ObjectMeta,
    requested: Option<&AppliedSettings>,
    applied: Option<&Applied>,
    key_ring: &KeyRing,
    now: Millis,
) -> Vec<RelaySettings> {
    let previous = applied
        .and_then(|a| a.previous.as_ref())
        .filter(|p| Millis::parse(&p.until).is_some_and(|until| until > now));
    let all = applied.map(|a| &a.settings).into_iter().chain(requested).chain(previous.map(|p| &p.settings));
    let derive = |settings: &AppliedSettings| {
        let key_id = settings.key_id.as_deref()?;
        let owner = Owner::of(metadata, settings.rotation.as_deref());
        let secret = key_ring.derive(key_id, Purpose::Relay, owner)?;
        Some(RelaySettings { source: settings.source.clone(), event: settings.event.clone(), secret })
    };
    all.filter(|settings| settings.deliver_by == DeliverBy::Worker).filter_map(derive).collect()
}

/// Returns the settings whose secret signed the body. Tries every secret, so that the response time does not reveal which
/// one matched.
pub fn authenticate<'a>(
    settings: &'a [RelaySettings],
    signature: Option<&str>,
    body: &[u8],
) -> Result<Vec<&'a RelaySettings>, RelayRejection> {
    let signature = signature.ok_or(RelayRejection::BadSignature)?;
    let signed: Vec<&RelaySettings> = settings
        .iter()
        .filter(|t| sign::verify_kong(t.secret.expose_secret().as_bytes(), signature, body))
        .collect();
    if signed.is_empty() { Err(RelayRejection::BadSignature) } else { Ok(signed) }
}

/// Returns true if a URL leads to a route of a worker's ingest port: `.../v1/namespaces/NAMESPACE/COLLECTION/NAME`, with
/// any query.
pub fn is_worker_path(url: &str, collection: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let mut segments = path.rsplit('/').skip(1);
    segments.next() == Some(collection)
        && segments.nth(1) == Some("namespaces")
        && segments.next() == Some("v1")
}

/// Returns true for Kong's ping. The worker answers it and never stores it, because it contains the hook with its secret.
pub fn is_ping(draft: &EventDraft) -> bool {
    (draft.source.as_str(), draft.event.as_str()) == PING
}

/// Checks that one of the settings covers the source and event of a relay.
pub fn check_agreed(signed: &[&RelaySettings], draft: &EventDraft) -> Result<(), RelayRejection> {
    let covers = |settings: &&RelaySettings| {
        settings.source == draft.source && settings.event.as_ref().is_none_or(|e| *e == draft.event)
    };
    if signed.iter().any(covers) { Ok(()) } else { Err(RelayRejection::NotAgreed) }
}

/// Returns true for an event about Kong's event hooks, which contains their secrets. An event of source `crud` is
/// exempt if the hook selects `event_hooks` by name.
pub fn carries_secrets(draft: &EventDraft, selected_by_name: bool) -> bool {
    match draft.source.as_str() {
        "crud" => draft.event == "event_hooks" && !selected_by_name,
        // Data that cannot be read may contain them too.
        "dao:crud" => Data::parse(draft.data.get()).map_or(
            true,
            |data| matches!(data.get("schema"), Some(Data::Text(schema)) if schema == "event_hooks"),
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Applied, EventHookStatus, PreviousSettings, SignatureAlgorithm, SignatureEncoding};
    use crate::core::event::parse_relayed;
    use serde_json::json;

    const NOW: Millis = Millis(1_700_000_000_000);

    fn key_ring() -> KeyRing {
        KeyRing::from_data([("k1", [1u8; 32].as_slice()), ("k2", [2u8; 32].as_slice())].into_iter()).unwrap()
    }

    fn hook(event: Option<&str>) -> EventHook {
        serde_json::from_value(json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
            "metadata": {"name": "h", "namespace": "n", "uid": "u"},
            "spec": {"source": "crud", "event": event, "connectionRef": {"name": "k"}, "rotation": "new",
                     "handler": {"webhook": {"url": "https://example.com"}}}}))
        .unwrap()
    }

    fn applied_settings(event: Option<&str>, key: &str, rotation: Option<&str>) -> AppliedSettings {
        AppliedSettings {
            deliver_by: DeliverBy::Worker,
            source: "crud".into(),
            event: event.map(Into::into),
            rotation: rotation.map(Into::into),
            key_id: Some(key.into()),
        }
    }

    fn signed_by(hook: &EventHook, key: &str, rotation: Option<&str>, body: &[u8]) -> String {
        let secret = derive_secret(&key_ring(), key, hook, rotation).unwrap();
        let bytes = secret.expose_secret().as_bytes();
        sign::kong_signature(bytes, SignatureAlgorithm::SHA256, SignatureEncoding::PrefixedHex, body)
    }

    /// Checks a relay as the worker does.
    fn check_relay(hook: &EventHook, signature: &str, body: &[u8]) -> Result<(), RelayRejection> {
        let settings = accepted_settings(hook, &key_ring(), NOW);
        let signed = authenticate(&settings, Some(signature), body)?;
        check_agreed(&signed, &parse_relayed(body).unwrap())
    }

    #[test]
    fn accepts_requested_applied_and_recent_previous_settings() {
        let mut hook = hook(Some("consumers"));
        let status = |until: Millis| EventHookStatus {
            applied: Some(Box::new(Applied {
                settings: applied_settings(Some("routes"), "k1", Some("old")),
                previous: Some(PreviousSettings {
                    settings: applied_settings(Some("services"), "k1", None),
                    until: until.rfc3339(),
                }),
            })),
            ..EventHookStatus::default()
        };
        let consumers = br#"{"source":"crud","event":"consumers"}"#;
        let routes = br#"{"source":"crud","event":"routes"}"#;
        let services = br#"{"source":"crud","event":"services"}"#;
        let requested = |hook: &EventHook, body: &[u8]| {
            check_relay(hook, &signed_by(hook, "k2", Some("new"), body), body)
        };

        assert_eq!(requested(&hook, consumers), Ok(()), "configured, but not yet in the status");
        assert_eq!(requested(&hook, routes), Err(RelayRejection::NotAgreed));

        hook.status = Some(status(Millis(NOW.0 + 1)));
        assert_eq!(requested(&hook, consumers), Ok(()));
        assert_eq!(check_relay(&hook, &signed_by(&hook, "k1", Some("old"), routes), routes), Ok(()));
        assert_eq!(check_relay(&hook, &signed_by(&hook, "k1", None, services), services), Ok(()));
        let mixed = check_relay(&hook, &signed_by(&hook, "k1", None, routes), routes);
        assert_eq!(mixed, Err(RelayRejection::NotAgreed), "an old secret is valid for its own event only");

        hook.status = Some(status(NOW));
        let late = check_relay(&hook, &signed_by(&hook, "k1", None, services), services);
        assert_eq!(late, Err(RelayRejection::BadSignature), "the transition period has ended");
    }

    #[test]
    fn unreadable_hook_accepts_what_kong_still_has() {
        let hook = hook(Some("consumers"));
        let applied =
            Applied { settings: applied_settings(Some("routes"), "k1", Some("old")), previous: None };
        let body = br#"{"source":"crud","event":"routes"}"#;
        let settings = settings_of_unreadable(&hook.metadata, &applied, &key_ring(), NOW);
        let check = |key: &str, rotation: Option<&str>| {
            authenticate(&settings, Some(&signed_by(&hook, key, rotation, body)), body)
                .and_then(|signed| check_agreed(&signed, &parse_relayed(body).unwrap()))
        };
        assert_eq!(check("k1", Some("old")), Ok(()));
        assert_eq!(check("k2", Some("new")), Err(RelayRejection::BadSignature), "the spec is unknown");
    }

    #[test]
    fn gateway_hook_accepts_no_relays() {
        let mut hook = hook(None);
        hook.spec.deliver_by = Some(DeliverBy::Gateway);
        assert!(accepted_settings(&hook, &key_ring(), NOW).is_empty());
    }

    #[test]
    fn rejects_missing_signature() {
        let settings = accepted_settings(&hook(None), &key_ring(), NOW);
        assert_eq!(authenticate(&settings, None, b"{}").unwrap_err(), RelayRejection::BadSignature);
        assert_eq!(
            authenticate(&settings, Some("sha256=00"), b"{}").unwrap_err(),
            RelayRejection::BadSignature
        );
    }

    #[test]
    fn events_about_event_hooks_do_not_match_wildcards() {
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
        // Whatever else the event contains, the secrets are found.
        for more in [r#","n":1e999"#, r#","\ud83d":"\ud83d""#, r#","schema":"event_hooks""#] {
            let body = format!(r#"{{"source":"dao:crud","event":"create","schema":"event_hooks"{more}}}"#);
            assert!(carries_secrets(&draft(&body), true), "{body}");
        }
        assert!(is_ping(&draft(r#"{"source":"kong:event_hooks","event":"ping"}"#)));
    }
}
