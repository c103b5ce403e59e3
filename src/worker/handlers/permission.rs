//! What the receiver of a hook permitted in its last handshake. Concurrent attempts share one handshake.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::HandlerOutcome;
use crate::core::bucket::Rate;

/// How long a grant is valid. Then the handshake is repeated, because the receiver may have another owner by now.
const GRANT_LIFETIME: Duration = Duration::from_secs(3600);

/// The permission of one hook's receiver. Part of the hook's state, so its memory ends with the hook.
#[derive(Debug, Default)]
pub struct ReceiverPermission {
    /// Held during a handshake, so that concurrent attempts wait for its result.
    running: tokio::sync::Mutex<()>,
    last: Mutex<LastHandshake>,
}

#[derive(Debug, Default)]
struct LastHandshake {
    /// The number of handshakes that ended.
    ended: u64,
    result: Option<HandshakeResult>,
    /// The last grant: the version of the hook, and the requests a minute.
    granted: Option<(HookVersion, Option<NonZeroU32>)>,
}

#[derive(Debug)]
struct HandshakeResult {
    scope: PermissionScope,
    at: Instant,
    outcome: Result<(), HandlerOutcome>,
}

/// The version of a hook that a permission belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookVersion {
    pub generation: Option<i64>,
    /// The token of the annotation `resume`.
    pub resume: Option<String>,
}

/// What a permission is valid for. A change of any part requires another handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermissionScope {
    pub version: HookVersion,
    /// A hash of the receiver's address, which may be secret.
    pub target: [u8; 32],
}

impl ReceiverPermission {
    /// Returns the highest rate that obeys both the limit of this version of the hook and the last grant to it. Without a
    /// grant, no delivery is sent, and an earlier receiver's rate must not delay the handshake.
    pub fn limit(&self, own: Option<Rate>, generation: Option<i64>, resume: Option<&str>) -> Option<Rate> {
        match &self.last.lock().granted {
            Some((version, Some(granted)))
                if version.generation == generation && version.resume.as_deref() == resume =>
            {
                Some(Rate::within(own, *granted))
            }
            _ => own,
        }
    }

    /// Returns normally if the receiver permits deliveries of this scope. Performs `handshake` unless an earlier grant is
    /// still valid. `handshake` returns the granted requests a minute, if they are limited. An error is the outcome of the
    /// attempt, also of those that waited for this handshake.
    pub async fn obtain(
        &self,
        scope: PermissionScope,
        now: Instant,
        handshake: impl Future<Output = Result<Option<NonZeroU32>, HandlerOutcome>>,
    ) -> Result<(), HandlerOutcome> {
        let Some(ended) = self.ended_unless_granted(&scope, now) else { return Ok(()) };
        let _running = self.running.lock().await;
        if let Some(outcome) = self.result_after(ended, &scope) {
            return outcome;
        }
        let granted = handshake.await;
        let outcome = granted.as_ref().map(|_| ()).map_err(Clone::clone);
        let mut last = self.last.lock();
        last.ended += 1;
        if let Ok(rate) = granted {
            last.granted = Some((scope.version.clone(), rate));
        }
        last.result = Some(HandshakeResult { scope, at: now, outcome: outcome.clone() });
        outcome
    }

    /// Sets the granted rate, for tests of other modules.
    #[cfg(test)]
    pub fn grant(&self, generation: Option<i64>, requests: u32) {
        let version = HookVersion { generation, resume: None };
        self.last.lock().granted = Some((version, NonZeroU32::new(requests)));
    }

    /// Returns the number of handshakes that ended. `None`: the last one granted this scope, and is still valid.
    fn ended_unless_granted(&self, scope: &PermissionScope, now: Instant) -> Option<u64> {
        let last = self.last.lock();
        let is_granted = last.result.as_ref().is_some_and(|result| {
            result.outcome.is_ok()
                && result.scope == *scope
                && now.saturating_duration_since(result.at) < GRANT_LIFETIME
        });
        (!is_granted).then_some(last.ended)
    }

    /// Returns the result of a handshake of this scope that ended after the first `ended` ones.
    fn result_after(&self, ended: u64, scope: &PermissionScope) -> Option<Result<(), HandlerOutcome>> {
        let last = self.last.lock();
        let result = last.result.as_ref().filter(|result| last.ended > ended && result.scope == *scope)?;
        Some(result.outcome.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::core::delivery_reason::AttemptFailure;

    fn version(generation: i64) -> HookVersion {
        HookVersion { generation: Some(generation), resume: None }
    }

    fn scope(generation: i64) -> PermissionScope {
        PermissionScope { version: version(generation), target: [0; 32] }
    }

    fn refused() -> HandlerOutcome {
        HandlerOutcome::Failed { reason: AttemptFailure::HandshakeRefused, detail: "no".into() }
    }

    /// A permission and the number of handshakes that were performed for it.
    #[derive(Clone, Default)]
    struct Counted {
        permission: Arc<ReceiverPermission>,
        handshakes: Arc<AtomicU32>,
    }

    impl Counted {
        async fn obtain(
            &self,
            scope: PermissionScope,
            now: Instant,
            result: Result<Option<NonZeroU32>, HandlerOutcome>,
        ) -> bool {
            let handshake = async {
                self.handshakes.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                result
            };
            self.permission.obtain(scope, now, handshake).await.is_ok()
        }

        fn handshakes(&self) -> u32 {
            self.handshakes.load(Ordering::SeqCst)
        }
    }

    #[tokio::test]
    async fn a_grant_is_valid_for_its_scope_and_an_hour() {
        let counted = Counted::default();
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let version = HookVersion { resume: Some("now".into()), ..version(2) };
        let resumed = PermissionScope { version, ..scope(2) };
        for (at, scope, handshakes) in [
            (0, scope(1), 1),
            (3599, scope(1), 1),
            (3600, scope(1), 2),
            (7199, scope(1), 2),
            (7199, scope(2), 3),
            (7199, resumed.clone(), 4),
            (7199, PermissionScope { target: [1; 32], ..scope(2) }, 5),
            (7199, scope(2), 6),
        ] {
            assert!(counted.obtain(scope.clone(), later(at), Ok(None)).await);
            assert_eq!(counted.handshakes(), handshakes, "{at} {scope:?}");
        }
    }

    #[tokio::test]
    async fn concurrent_attempts_share_one_handshake_and_its_failure() {
        let counted = Counted::default();
        let now = Instant::now();
        let all = |result: Result<Option<NonZeroU32>, HandlerOutcome>| {
            futures::future::join_all((0..50).map(|_| counted.obtain(scope(1), now, result.clone())))
        };
        assert!(all(Err(refused())).await.into_iter().all(|is_granted| !is_granted));
        assert_eq!(counted.handshakes(), 1);
        assert!(all(Err(refused())).await.into_iter().all(|is_granted| !is_granted));
        assert_eq!(counted.handshakes(), 2, "a refusal is not remembered for later attempts");
        assert!(all(Ok(None)).await.into_iter().all(|is_granted| is_granted));
        assert_eq!(counted.handshakes(), 3);
        assert!(all(Err(refused())).await.into_iter().all(|is_granted| is_granted));
        assert_eq!(counted.handshakes(), 3, "a grant is");
    }

    #[tokio::test]
    async fn an_aborted_handshake_is_performed_by_the_next_attempt() {
        let counted = Counted::default();
        let now = Instant::now();
        let mut aborted = Box::pin(counted.obtain(scope(1), now, Ok(None)));
        assert!(futures::poll!(&mut aborted).is_pending());
        let mut waiting = Box::pin(counted.obtain(scope(1), now, Ok(None)));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(aborted);
        assert!(waiting.await);
        assert_eq!(counted.handshakes(), 2);
    }

    #[tokio::test]
    async fn the_last_granted_rate_applies_until_the_next_grant() {
        let counted = Counted::default();
        let start = Instant::now();
        let rate = |requests| Rate { requests, interval: Duration::from_secs(60), burst: 1 };
        let own = Some(rate(90));
        let limit = |own, generation| counted.permission.limit(own, Some(generation), None);
        assert_eq!(limit(own, 1), own);
        for (hours, result, expected) in [
            (0, Ok(NonZeroU32::new(120)), own),
            (1, Ok(NonZeroU32::new(30)), Some(rate(30))),
            (2, Err(refused()), Some(rate(30))),
            (3, Ok(NonZeroU32::new(60)), Some(rate(60))),
            (4, Ok(None), own),
            (5, Ok(NonZeroU32::new(30)), Some(rate(30))),
        ] {
            counted.obtain(scope(1), start + hours * GRANT_LIFETIME, result).await;
            assert_eq!(limit(own, 1), expected, "{hours}");
        }
        assert_eq!(limit(None, 1), Some(rate(30)));
        assert_eq!(limit(own, 2), own, "another version was granted nothing yet");
        assert_eq!(counted.permission.limit(own, Some(1), Some("now")), own);
    }
}
