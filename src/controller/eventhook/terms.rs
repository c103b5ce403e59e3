//! What Kong was told, apart from secrets: by this the worker judges what comes in.

use std::time::Duration;

use crate::api::{Applied, AppliedTerms, EventHook, EventHookStatus, PreviousTerms};
use crate::cluster::ClusterError;
use crate::controller::problem::Problem;
use crate::core::hook::Hook;
use crate::core::keys::KeyRing;
use crate::core::relay;
use crate::core::time::Millis;

/// So long what Kong had queued before it was told something new is still taken.
const PREVIOUS_FOR: Duration = Duration::from_secs(600);

/// What Kong is told. A hook keeps its key until its rotation text changes: a new key in the ring would otherwise tell
/// every gateway a new secret at once.
pub fn terms(object: &EventHook, hook: &Hook, ring: Option<&KeyRing>) -> Result<AppliedTerms, Problem> {
    let rotation = object.spec.rotation.clone();
    let before = object.status.as_ref().and_then(|s| s.applied.as_ref()).map(|a| &a.terms);
    let kept = before.filter(|b| b.rotation == rotation).and_then(|b| b.key_id.clone());
    let key_id = match ring {
        None => None,
        Some(ring) => {
            let kept = kept.filter(|key| relay::secret(ring, key, object, rotation.as_deref()).is_some());
            let newest = || ring.newest().map(ToOwned::to_owned);
            Some(kept.or_else(newest).ok_or_else(|| ClusterError::KeyRing("it is empty".into()))?)
        }
    };
    Ok(AppliedTerms {
        deliver_by: hook.deliver_by,
        source: hook.source.clone(),
        event: hook.event.clone(),
        rotation: rotation.filter(|_| ring.is_some()),
        key_id,
    })
}

/// What Kong was told, with what it was told before for as long as that is still taken.
pub fn applied(status: Option<&EventHookStatus>, terms: AppliedTerms, now: Millis) -> Applied {
    let before = status.and_then(|s| s.applied.clone());
    let previous = match before {
        Some(before) if before.terms != terms => {
            Some(PreviousTerms { terms: before.terms, until: (now + PREVIOUS_FOR).rfc3339() })
        }
        Some(before) => before.previous.filter(|p| Millis::parse(&p.until).is_some_and(|until| until > now)),
        None => None,
    };
    Applied { terms, previous }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::DeliverBy;

    fn told(event: &str) -> AppliedTerms {
        AppliedTerms {
            deliver_by: DeliverBy::Worker,
            source: "crud".into(),
            event: Some(event.into()),
            rotation: None,
            key_id: Some("k".into()),
        }
    }

    #[test]
    fn what_kong_was_told_before_is_remembered_for_a_while() {
        let now = Millis(1_700_000_000_000);
        let first = applied(None, told("a"), now);
        assert!(first.previous.is_none());
        let status =
            |applied| EventHookStatus { applied: Some(Box::new(applied)), ..EventHookStatus::default() };
        let second = applied(Some(&status(first)), told("b"), now);
        assert_eq!(second.previous.as_ref().unwrap().terms, told("a"));
        let third = applied(Some(&status(second.clone())), told("b"), now + Duration::from_secs(599));
        assert_eq!(third, second, "unchanged until its time is over");
        let fourth = applied(Some(&status(third)), told("b"), now + Duration::from_secs(601));
        assert!(fourth.previous.is_none());
    }
}
