//! Attempts without an outcome: the hook or the process lacked something, or the attempt's task ended early.

use std::sync::Arc;
use std::time::Duration;

use super::command::{AttemptTicket, Postponement};
use super::effect::{Effect, ExpiredDelivery};
use super::machine::DispatchMachine;
use super::time::Now;
use crate::core::time::Millis;

/// When a postponed delivery is attempted again. For a missing object (a Secret), a change of the object triggers it earlier.
const RECHECK_INTERVAL: Duration = Duration::from_secs(10);

/// When a delivery is read again that did not start because this process may not own its hook. While the lease may have
/// ended and the database still answers, each read would otherwise be followed by the next one at once.
const REREAD_INTERVAL: Duration = Duration::from_millis(500);

impl DispatchMachine {
    /// Handles an attempt without an outcome. Writes nothing to the delivery.
    pub(super) fn on_postponed(
        &mut self,
        uid: &Arc<str>,
        ticket: &AttemptTicket,
        why: Postponement,
        now: Now,
    ) {
        let Some(queue) = self.queues.get_mut(uid) else { return };
        let at = now.steady + RECHECK_INTERVAL;
        let is_own = queue.serial == ticket.queue;
        let missing = match why {
            // None: `evaluate_hold` holds a hook that was deleted or became invalid.
            Postponement::HookChanged => None,
            Postponement::Missing(hold) => Some(hold),
            // Read again soon. The caller dispatches the hook, which gives it up if another worker has it.
            Postponement::NotOwned => {
                if is_own {
                    let at = now.steady + REREAD_INTERVAL;
                    queue.postpone(ticket.seq, at);
                    self.timers.set(at, uid);
                }
                return;
            }
            // Read again at once.
            Postponement::RateChanged => {
                if is_own {
                    queue.release_claim(ticket.seq);
                }
                return queue.mark_more_on_disk();
            }
            Postponement::DeliveryOnly if is_own => return self.postpone_delivery(uid, ticket, at, now),
            Postponement::DeliveryOnly => return,
        };
        // Hold the hook. After the recheck interval, one attempt checks on behalf of all its deliveries. A queue that was
        // created since may have claimed the delivery again.
        if is_own {
            queue.release_claim(ticket.seq);
        }
        queue.mark_more_on_disk();
        queue.recheck_at = Some(at);
        queue.missing = missing;
        self.timers.set(at, uid);
    }

    /// Attempts a delivery again at this time, and others meanwhile. It ages: otherwise one whose attempts never have an
    /// outcome would stay pending forever.
    fn postpone_delivery(&mut self, uid: &Arc<str>, ticket: &AttemptTicket, at: Millis, now: Now) {
        let hook = self.index.get(uid);
        let max_age = hook.as_ref().and_then(|hook| Some(hook.hook.as_ref().ok()?.delivery.retry.max_age));
        if max_age.is_some_and(|max_age| now.age > ticket.accepted + ticket.held + max_age) {
            let expired = vec![ExpiredDelivery { seq: ticket.seq, accepted: ticket.accepted }];
            let series = hook.and_then(|hook| hook.series.clone());
            // It stays claimed until its end is committed.
            self.effects.push(Effect::Expire { uid: uid.clone(), expired, series });
        } else if let Some(queue) = self.queues.get_mut(uid) {
            queue.postpone(ticket.seq, at);
            self.timers.set(at, uid);
        }
    }
}
