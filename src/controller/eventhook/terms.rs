//! The relay settings that Kong has, without secrets. The worker accepts relayed events by these.

use std::time::Duration;

use crate::api::{Applied, AppliedSettings, EventHook, EventHookStatus, PreviousSettings};
use crate::cluster::ClusterError;
use crate::controller::error::SyncError;
use crate::core::hook::CompiledHook;
use crate::core::keys::KeyRing;
use crate::core::relay;
use crate::core::time::Millis;

/// How long the worker still accepts the previous settings, for events that Kong queued before the change.
const PREVIOUS_TIME_TO_LIVE: Duration = Duration::from_secs(600);

/// Returns the settings that Kong should have. A hook keeps its key until its `rotation` changes. Otherwise a new key in
/// the key ring would change the secret of every hook at once.
pub fn relay_terms(
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
        source: hook.source.clone(),
        event: hook.event.clone(),
        rotation: rotation.filter(|_| key_ring.is_some()),
        key_id,
    })
}

/// Returns the applied settings for the status, with the previous ones as long as the worker accepts them.
pub fn applied(status: Option<&EventHookStatus>, terms: AppliedSettings, now: Millis) -> Applied {
    let before = status.and_then(|s| s.applied.clone());
    let previous = match before {
        Some(before) if before.settings != terms => Some(PreviousSettings {
            settings: before.settings,
            until: (now + PREVIOUS_TIME_TO_LIVE).rfc3339(),
        }),
        Some(before) => before.previous.filter(|p| Millis::parse(&p.until).is_some_and(|until| until > now)),
        None => None,
    };
    Applied { settings: terms, previous }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::DeliverBy;

    fn terms(event: &str) -> AppliedSettings {
        AppliedSettings {
            deliver_by: DeliverBy::Worker,
            source: "crud".into(),
            event: Some(event.into()),
            rotation: None,
            key_id: Some("k".into()),
        }
    }

    #[test]
    fn previous_terms_are_kept_for_ten_minutes() {
        let now = Millis(1_700_000_000_000);
        let first = applied(None, terms("a"), now);
        assert!(first.previous.is_none());
        let status =
            |applied| EventHookStatus { applied: Some(Box::new(applied)), ..EventHookStatus::default() };
        let second = applied(Some(&status(first)), terms("b"), now);
        assert_eq!(second.previous.as_ref().unwrap().settings, terms("a"));
        let third = applied(Some(&status(second.clone())), terms("b"), now + Duration::from_secs(599));
        assert_eq!(third, second, "unchanged until the time is over");
        let fourth = applied(Some(&status(third)), terms("b"), now + Duration::from_secs(601));
        assert!(fourth.previous.is_none());
    }
}
