//! Selects deliveries by their reason and by the last response. The store has no index for either, so pages are filtered
//! after they were read.

use super::query::{Parameter, invalid_parameter};
use crate::worker::problem::HttpProblem;
use crate::worker::store::{DeliveryRecord, DeliveryState};

/// The longest reason in bytes.
const MAX_REASON: usize = 64;
/// The status of an attempt without a response.
const NONE: &str = "none";

pub const REASON: Parameter = Parameter::list(
    "reason",
    "One or several reasons, such as MaxAge; of a pending delivery, the error of its last attempt, such as Timeout",
);
pub const STATUS: Parameter = Parameter::list(
    "status",
    "One or several statuses of the last attempt: 503, 5xx, or none for an attempt without a response",
);

/// The reasons and statuses that a list selects. Empty: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutcomeFilter {
    reasons: Vec<String>,
    statuses: Vec<SelectedStatus>,
}

/// The status of a last attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SelectedStatus {
    Code(u16),
    /// The first digit.
    Class(u16),
    None,
}

impl OutcomeFilter {
    pub fn is_empty(&self) -> bool {
        self.reasons.is_empty() && self.statuses.is_empty()
    }

    /// Parses the parameter `reason`.
    pub fn set_reasons(&mut self, value: &str) -> Result<(), HttpProblem> {
        let is_reason = |text: &str| {
            (1..=MAX_REASON).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        self.reasons = value.split(',').map(ToOwned::to_owned).collect();
        match self.reasons.iter().all(|reason| is_reason(reason)) {
            true => Ok(()),
            false => Err(invalid_parameter("reason", "must be reasons such as MaxAge, separated by commas")),
        }
    }

    /// Parses the parameter `status`.
    pub fn set_statuses(&mut self, value: &str) -> Result<(), HttpProblem> {
        let statuses: Option<_> = value.split(',').map(SelectedStatus::parse).collect();
        self.statuses = statuses
            .ok_or_else(|| invalid_parameter("status", "must be statuses such as 503, 5xx or none"))?;
        Ok(())
    }

    pub fn selects(&self, record: &DeliveryRecord) -> bool {
        let last = record.attempts.last();
        let reason = match record.state {
            DeliveryState::Pending => last.and_then(|attempt| attempt.error.as_deref()),
            _ => record.reason.as_deref(),
        };
        let has_reason = self.reasons.is_empty()
            || reason.is_some_and(|reason| self.reasons.iter().any(|wanted| wanted == reason));
        let has_status = self.statuses.is_empty()
            || last.is_some_and(|last| self.statuses.iter().any(|wanted| wanted.selects(last.status)));
        has_reason && has_status
    }
}

impl SelectedStatus {
    fn parse(text: &str) -> Option<Self> {
        if text == NONE {
            return Some(SelectedStatus::None);
        }
        let in_range = |number: &u16, range: std::ops::RangeInclusive<u16>| range.contains(number);
        match text.strip_suffix("xx") {
            Some(class) => {
                class.parse().ok().filter(|class| in_range(class, 1..=5)).map(SelectedStatus::Class)
            }
            None => text.parse().ok().filter(|code| in_range(code, 100..=599)).map(SelectedStatus::Code),
        }
    }

    fn selects(self, status: Option<u16>) -> bool {
        match self {
            SelectedStatus::Code(code) => status == Some(code),
            SelectedStatus::Class(class) => status.is_some_and(|status| status / 100 == class),
            SelectedStatus::None => status.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::core::time::Millis;
    use crate::worker::store::{AttemptRecord, HookId};

    fn record(state: DeliveryState, reason: Option<&str>, status: Option<u16>) -> DeliveryRecord {
        let attempt = AttemptRecord {
            at: Millis(0),
            duration: Duration::ZERO,
            status,
            error: Some(if status.is_some() { "Status" } else { "Timeout" }.into()),
            detail: None,
        };
        DeliveryRecord {
            seq: 1,
            id: Uuid::nil(),
            hook: HookId { uid: "u".into(), namespace: "n".into(), name: "h".into() },
            event_id: "e".into(),
            state,
            reason: reason.map(ToOwned::to_owned),
            accepted: Millis(0),
            due: None,
            attempts: vec![attempt],
        }
    }

    #[test]
    fn selects_by_reason_and_last_status() {
        let dead = record(DeliveryState::Dead, Some("MaxAge"), Some(503));
        let pending = record(DeliveryState::Pending, None, None);
        let selects = |reasons: &str, statuses: &str| {
            let mut filter = OutcomeFilter::default();
            if !reasons.is_empty() {
                filter.set_reasons(reasons).unwrap();
            }
            if !statuses.is_empty() {
                filter.set_statuses(statuses).unwrap();
            }
            (filter.selects(&dead), filter.selects(&pending))
        };
        assert_eq!(selects("", ""), (true, true));
        assert_eq!(selects("MaxAge", ""), (true, false));
        assert_eq!(selects("Gone,Timeout", ""), (false, true));
        assert_eq!(selects("", "503,none"), (true, true));
        assert_eq!(selects("", "5xx"), (true, false));
        assert_eq!(selects("", "4xx,500"), (false, false));
        assert_eq!(selects("MaxAge", "none"), (false, false));
    }

    #[test]
    fn rejects_what_is_no_reason_or_status() {
        let mut filter = OutcomeFilter::default();
        for reason in ["", "a,", "<script>", &"x".repeat(65)] {
            assert!(filter.set_reasons(reason).is_err(), "{reason}");
        }
        for status in ["", "99", "600", "6xx", "xx", "503,"] {
            assert!(filter.set_statuses(status).is_err(), "{status}");
        }
    }
}
