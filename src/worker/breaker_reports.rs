//! The circuit breakers that are not closed, as the dispatcher last published them. `explain` reads them.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::core::change_log::ChangeLog;
use crate::core::receiver_breaker::{BreakerReport, BreakerState};

/// Reports by hook uid. The dispatcher publishes each change; readers never block it for longer than a lookup.
#[derive(Default)]
pub struct BreakerReports {
    reports: Mutex<HashMap<Arc<str>, BreakerReport>>,
    /// The uids whose report changed, for the API's table of hooks.
    pub changes: ChangeLog<Arc<str>>,
}

impl BreakerReports {
    /// Publishes the state of a hook's breaker. Forgets a closed one, so memory is bounded by the failing hooks.
    pub fn publish(&self, uid: &Arc<str>, report: BreakerReport) {
        let mut reports = self.reports.lock();
        match report.state {
            BreakerState::Closed => reports.remove(uid),
            BreakerState::Open | BreakerState::Probing => reports.insert(uid.clone(), report),
        };
        drop(reports);
        self.changes.record(uid);
    }

    /// Returns the state of a hook's breaker. None: it is closed.
    pub fn get(&self, uid: &str) -> Option<BreakerReport> {
        self.reports.lock().get(uid).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::receiver_breaker::{ReceiverBreaker, ReceiverEvidence};
    use crate::core::time::Millis;

    #[test]
    fn keeps_only_breakers_that_are_not_closed() {
        let (reports, uid) = (BreakerReports::default(), Arc::from("u"));
        let mut breaker = ReceiverBreaker::default();
        reports.publish(&uid, breaker.report());
        assert_eq!(reports.get("u"), None);
        while !breaker.is_open() {
            let permit = breaker.request_permit(Millis(0)).unwrap();
            breaker.record(permit, ReceiverEvidence::Failing { answered: true }, Millis(0));
        }
        reports.publish(&uid, breaker.report());
        assert_eq!(reports.get("u"), Some(breaker.report()));
        breaker.reset();
        reports.publish(&uid, breaker.report());
        assert!(reports.get("u").is_none() && reports.reports.lock().is_empty());
    }
}
