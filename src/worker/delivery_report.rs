//! The report of a hook's deliveries in its status: for people who look at `kubectl get`.

use std::time::Duration;

use super::report::DeliveryHealth;
use super::store::StoreStats;
use crate::api::DeliveryReport;
use crate::core::conditions::cut;
use crate::core::duration::short_text;
use crate::core::receiver_breaker::BreakerReport;
use crate::core::time::Millis;

/// The longest detail of an error in the summary, in bytes.
const MAX_DETAIL: usize = 80;

/// What a report is made of.
pub struct ReportFacts<'a> {
    pub health: &'a DeliveryHealth,
    /// The host of the receiver, unless it comes from a Secret.
    pub host: Option<&'a str>,
    pub backlog: StoreStats,
    /// None: the circuit breaker is closed.
    pub breaker: Option<BreakerReport>,
    /// Since when deliveries fail.
    pub failing_since: Option<Millis>,
    pub now: Millis,
}

/// Builds the report. `before` is the last one, which a restart does not forget.
pub fn build_report(facts: &ReportFacts<'_>, before: Option<&DeliveryReport>) -> DeliveryReport {
    let ReportFacts { health, host, backlog, breaker, failing_since, now } = facts;
    let last_success = health.last_success.map(Millis::rfc3339);
    let report = DeliveryReport {
        summary: Some(health.reason.to_owned()),
        host: host.map(ToOwned::to_owned),
        last_success: last_success.or_else(|| before?.last_success.clone()),
        ..DeliveryReport::default()
    };
    if health.healthy {
        return report;
    }
    let since = failing_since.unwrap_or(*now);
    let pending = i64::try_from(backlog.pending).unwrap_or(i64::MAX);
    let detail = health.last_error.as_deref().map(|error| format!(": {}", short_error(error)));
    let summary = format!(
        "{}{} for {}, {pending} pending",
        health.reason,
        detail.unwrap_or_default(),
        short_text(whole_minutes(now.since(since)))
    );
    DeliveryReport {
        summary: Some(summary),
        failing_since: Some(since.rfc3339()),
        pending: Some(pending),
        oldest: backlog.oldest.map(Millis::rfc3339),
        next_probe: breaker.and_then(|breaker| breaker.next_probe).map(Millis::rfc3339),
        ..report
    }
}

/// Returns the status of a response, or the beginning of another error.
fn short_error(error: &str) -> &str {
    match error.strip_prefix("status ") {
        Some(status) => status.split(':').next().unwrap_or(status),
        None => cut(error, MAX_DETAIL),
    }
}

/// Seconds would be outdated when they are read: a report is written once a minute.
fn whole_minutes(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs() / 60 * 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::store::HookId;

    fn health(healthy: bool, last_error: Option<&str>) -> DeliveryHealth {
        DeliveryHealth {
            hook: HookId { uid: "u".into(), namespace: "n".into(), name: "h".into() },
            healthy,
            reason: if healthy { "Delivering" } else { "ReceiverFailing" },
            message: "words".into(),
            last_error: last_error.map(ToOwned::to_owned),
            last_success: healthy.then_some(Millis(1_700_000_000_000)),
            resumed: None,
        }
    }

    fn facts(health: &DeliveryHealth) -> ReportFacts<'_> {
        let accepted = Some(Millis(1_700_000_000_000));
        ReportFacts {
            health,
            host: Some("orders.test"),
            backlog: StoreStats { pending: 214, oldest: accepted, ..StoreStats::default() },
            breaker: None,
            failing_since: accepted,
            now: Millis(1_700_000_720_000),
        }
    }

    #[test]
    fn summary_has_reason_cause_age_and_backlog() {
        let good = build_report(&facts(&health(true, None)), None);
        assert_eq!(good.summary.as_deref(), Some("Delivering"));
        assert_eq!((good.pending, &good.failing_since), (None, &None));
        let failing = build_report(&facts(&health(false, Some("status 503: unavailable"))), Some(&good));
        assert_eq!(failing.summary.as_deref(), Some("ReceiverFailing: 503 for 12m, 214 pending"));
        assert!(failing.failing_since.as_deref().is_some_and(|at| at.starts_with("2023-11-14T22:13:20")));
        assert_eq!((failing.pending, &failing.last_success), (Some(214), &good.last_success));
        let held = build_report(&facts(&health(false, None)), None);
        assert_eq!(held.summary.as_deref(), Some("ReceiverFailing for 12m, 214 pending"));
    }
}
