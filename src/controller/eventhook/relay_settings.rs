//! The relay settings that Kong was last configured with, without secrets. The worker accepts only relayed events that
//! match them.

use std::time::Duration;

use crate::api::{Applied, AppliedSettings, EventHook, EventHookStatus, PreviousSettings};
use crate::cluster::ClusterError;
use crate::controller::error::SyncError;
use crate::core::hook::CompiledHook;
use crate::core::keys::KeyRing;
use crate::core::relay;
use crate::core::time::Millis;

/// Returns the settings that Kong should have. A hook keeps its key until its `rotation` changes. Otherwise a new key in
/// the key ring would change the secret of every hook at once.
pub fn desired_settings(
    object: &EventHook,
    hook: &CompiledHook,
    key_ring: Option<&KeyRing>,
) -> Result<AppliedSettings, SyncError> {
    let rotation = object.spec.rotation.clone();
    let before = object.status.as_ref().and_then(|s| s.applied.as_ref()).map(|a| &a.settings);
    let kept = before.filter(|b| b.rotation == rotation).and_then(|b| b.key_id.clone());
    let key_id = match key_ring {
        None => None,
        Some(key_ring) => {
            let kept =
                kept.filter(|key| relay::derive_secret(key_ring, key, object, rotation.as_deref()).is_some());
            let newest = || key_ring.newest_key_id().map(ToOwned::to_owned);
            Some(kept.or_else(newest).ok_or_else(|| ClusterError::KeyRing("it is empty".into()))?)
        }
    };
    Ok(AppliedSettings {
        deliver_by: hook.deliver_by,
        source: hook.source.to_string(),
        event: hook.event.as_deref().map(ToOwned::to_owned),
        rotation: rotation.filter(|_| key_ring.is_some()),
        key_id,
    })
}

/// Returns the applied settings for the status, with the previous ones as long as the worker accepts them. `overlap`: how
/// long that is, for events that Kong queued before the change, and for nodes that apply it late.
pub fn next_applied(
    status: Option<&EventHookStatus>,
    settings: AppliedSettings,
    overlap: Duration,
    now: Millis,
) -> Applied {
    let before = status.and_then(|s| s.applied.clone());
    let previous = match before {
        Some(before) if before.settings != settings => {
            Some(PreviousSettings { settings: before.settings, until: (now + overlap).rfc3339() })
        }
        Some(before) => before.previous.filter(|p| Millis::parse(&p.until).is_some_and(|until| until > now)),
        None => None,
    };
    Applied { settings, previous }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::DeliverBy;

    fn settings(event: &str) -> AppliedSettings {
        AppliedSettings {
            deliver_by: DeliverBy::Worker,
            source: "crud".into(),
            event: Some(event.into()),
            rotation: None,
            key_id: Some("k".into()),
        }
    }

    #[test]
    fn keeps_previous_settings_for_the_overlap() {
        let now = Millis(1_700_000_000_000);
        let next_applied = |status: Option<&EventHookStatus>, settings, now| {
            super::next_applied(status, settings, Duration::from_secs(600), now)
        };
        let first = next_applied(None, settings("a"), now);
        assert!(first.previous.is_none());
        let status =
            |applied| EventHookStatus { applied: Some(Box::new(applied)), ..EventHookStatus::default() };
        let second = next_applied(Some(&status(first)), settings("b"), now);
        assert_eq!(second.previous.as_ref().unwrap().settings, settings("a"));
        let third =
            next_applied(Some(&status(second.clone())), settings("b"), now + Duration::from_secs(599));
        assert_eq!(third, second, "unchanged while the worker still accepts the previous settings");
        let fourth = next_applied(Some(&status(third)), settings("b"), now + Duration::from_secs(601));
        assert!(fourth.previous.is_none());
    }
}
