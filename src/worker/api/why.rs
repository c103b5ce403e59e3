//! Explanations for users: the state of a delivery, and why a hook has no delivery of an event.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;

use crate::api::EventHook;
use crate::cluster::DeserializeGuard;
use crate::core::delivery_reason::DeliveryReason;
use crate::core::event::{Event, Origin};
use crate::core::hook::{CompiledHook, InvalidSpec};
use crate::core::receiver_breaker::BreakerReport;
use crate::core::time::Millis;
use crate::worker::decide::Decision;
use crate::worker::store::{DeliveryRecord, DeliveryState};

/// The current health of a delivery's hook.
#[derive(Clone, Debug, PartialEq)]
pub enum HookHealth {
    Healthy,
    Paused,
    /// The spec is invalid; carries the error.
    Invalid(String),
    /// The condition `Delivering` is false; carries its reason and message.
    Unhealthy(String),
    Deleted,
}

impl HookHealth {
    /// Derives the health from the compiled hook (None: it does not exist) and its condition `Delivering`.
    pub fn of(hook: Option<Result<&CompiledHook, &InvalidSpec>>, condition: Option<&Condition>) -> Self {
        match hook {
            None => HookHealth::Deleted,
            Some(Err(invalid)) => HookHealth::Invalid(invalid.to_string()),
            // Check the spec before the condition, which may be older.
            Some(Ok(hook)) if hook.delivery.paused => HookHealth::Paused,
            Some(Ok(_)) => match condition.filter(|c| c.status == "False" && c.reason != "Paused") {
                Some(c) => HookHealth::Unhealthy(format!("{}: {}", c.reason, c.message)),
                None => HookHealth::Healthy,
            },
        }
    }
}

impl HookHealth {
    /// Adds the state of the hook's circuit breaker. None: it is closed.
    pub fn with_breaker(self, breaker: Option<BreakerReport>) -> Self {
        let Some(breaker) = breaker else { return self };
        let breaker = explain_breaker(&breaker);
        match self {
            HookHealth::Healthy => HookHealth::Unhealthy(breaker),
            HookHealth::Unhealthy(why) => HookHealth::Unhealthy(format!("{why}; {breaker}")),
            held @ (HookHealth::Paused | HookHealth::Invalid(_) | HookHealth::Deleted) => held,
        }
    }
}

/// Describes a breaker that is not closed.
fn explain_breaker(breaker: &BreakerReport) -> String {
    let BreakerReport { failures, attempts, pause, next_probe, .. } = breaker;
    let next = match next_probe {
        Some(at) => {
            format!("the next probes start at {}, after a pause of {} s", at.rfc3339(), pause.as_secs())
        }
        None => format!("probes are sent after a pause of {} s", pause.as_secs()),
    };
    format!("the circuit breaker is open, because {failures} of {attempts} attempts failed: {next}")
}

/// Returns true for a pending delivery whose filter could not be evaluated.
pub fn is_undecided(record: &DeliveryRecord) -> bool {
    record.state == DeliveryState::Pending && parse_reason(record) == Some(DeliveryReason::Undecided)
}

fn parse_reason(record: &DeliveryRecord) -> Option<DeliveryReason> {
    record.reason.as_deref().and_then(|reason| reason.parse().ok())
}

/// Explains the state of a delivery in one line. `undecided`: why its filter cannot be evaluated now.
pub fn explain_delivery(
    record: &DeliveryRecord,
    health: &HookHealth,
    undecided: Option<&str>,
    now: Millis,
) -> String {
    let reason = record.reason.as_deref();
    match record.state {
        DeliveryState::Delivered => format!("delivered on attempt {}", record.attempts.len().max(1)),
        DeliveryState::Dead => format!("dead{}{}", explain_reason(reason), last_failure(record)),
        DeliveryState::Dropped => format!("dropped{}", explain_reason(reason)),
        DeliveryState::Cancelled => format!("cancelled{}", last_failure(record)),
        DeliveryState::Pending => explain_pending(record, health, undecided, now),
    }
}

/// Explains a reason. Returns a reason that only a newer version knows unchanged.
fn explain_reason(reason: Option<&str>) -> String {
    let Some(text) = reason else { return String::new() };
    let Ok(reason) = text.parse() else { return format!(": {text}") };
    let explanation = match reason {
        DeliveryReason::TerminalStatus => "the receiver refused it for good (retry.terminalStatuses)",
        DeliveryReason::Filtered => "its hook's filter rejected it before it was sent",
        DeliveryReason::Gone => "the receiver answered 410 and accepts no further events",
        DeliveryReason::MaxAge => "no attempt succeeded before it was too old (retry.maxAge)",
        DeliveryReason::MaxAttempts => "none of the allowed attempts succeeded (retry.maxAttempts)",
        DeliveryReason::EgressDenied => "the egress policy denies its address (--egress-policy)",
        DeliveryReason::HeaderRefused => {
            "a header that was rendered from its event cannot be sent (headersFormat: Template)"
        }
        DeliveryReason::OutputTooLarge => {
            "headers and body that were rendered from its event exceed 4 MiB (shorten the templates)"
        }
        DeliveryReason::NoTarget => "its hook's handler has no address to send to",
        DeliveryReason::HookDeleted => "its hook was deleted and not recreated in time (--hook-grace)",
        DeliveryReason::BacklogFull => "its hook's backlog used its whole share of the disk (--hook-share)",
        DeliveryReason::Snoozed => {
            "snoozed, because another delivery of its group was sent within the period (snooze.period)"
        }
        DeliveryReason::Unchanged => {
            "unchanged, because the compared fields have the values of the last event (onChange)"
        }
        DeliveryReason::Superseded => {
            "superseded, because a newer event of its group replaced it (snooze.trailing)"
        }
        DeliveryReason::Undecided => "its hook's filter could not be evaluated",
    };
    format!(": {explanation}")
}

fn explain_pending(
    record: &DeliveryRecord,
    health: &HookHealth,
    undecided: Option<&str>,
    now: Millis,
) -> String {
    let attempt = record.attempts.len() + 1;
    let last = last_failure(record);
    match (health, record.due) {
        (HookHealth::Paused, _) => format!("held: its hook is paused (delivery.paused){last}"),
        (HookHealth::Invalid(why), _) => format!("held: its hook's spec is invalid: {why}{last}"),
        (HookHealth::Deleted, _) => {
            format!(
                "held: its hook was deleted; a hook of the same name adopts it, otherwise it is dead after --hook-grace{last}"
            )
        }
        _ if is_undecided(record) => {
            let why = undecided.map(|why| format!(" ({why})")).unwrap_or_default();
            format!(
                "undecided: its hook's filter could not be evaluated{why}; correct the filter, otherwise it is dead \
                 when it is too old (retry.maxAge){last}"
            )
        }
        (HookHealth::Healthy | HookHealth::Unhealthy(_), Some(due)) if due > now => {
            format!("pending: attempt {attempt} is scheduled for {}{last}", due.rfc3339())
        }
        (HookHealth::Unhealthy(why), _) => format!("due, but blocked: {why}{last}"),
        (HookHealth::Healthy, _) => format!("due: attempt {attempt} starts when its hook may send{last}"),
    }
}

/// Describes the last attempt, if it failed. Its error and detail were masked when they were stored.
fn last_failure(record: &DeliveryRecord) -> String {
    let Some(attempt) = record.attempts.last() else { return String::new() };
    let failure = match (attempt.status, &attempt.error) {
        (_, None) => return String::new(),
        (Some(status), _) => format!("was answered {status}"),
        (None, Some(error)) => format!("failed: {error}"),
    };
    let detail = attempt.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
    format!("; attempt {} {failure}{detail}", record.attempts.len())
}

/// Why a hook has no delivery of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
pub enum UnmatchedReason {
    Unreadable,
    Deleting,
    OtherRelay,
    OwnRelayOnly,
    OtherSource,
    OtherStream,
    OtherEvent,
    Filtered,
    Newer,
    /// The hook's current spec matches.
    MatchesNow,
}

/// Explains why a hook has no delivery of an event, by the hook's current spec. `decide` evaluates the filter and is
/// called only if the result depends on it; it returns None if the filter could not be evaluated in time.
pub fn explain_unmatched(
    event: &Event,
    accepted: Millis,
    guarded: &DeserializeGuard<EventHook>,
    decide: impl FnOnce() -> Option<Decision>,
) -> (UnmatchedReason, String) {
    let hook = match &guarded.0 {
        Ok(hook) => hook,
        Err(invalid) => {
            return (UnmatchedReason::Unreadable, format!("the object cannot be read: {}", invalid.error));
        }
    };
    let spec = &hook.spec;
    if hook.meta().deletion_timestamp.is_some() {
        return (UnmatchedReason::Deleting, "it is being deleted".into());
    }
    match (&event.origin, &spec.connection_ref) {
        (Origin::Relay(own), _) if hook.meta().name.as_ref() != Some(own) => {
            return (
                UnmatchedReason::OtherRelay,
                format!("the event was received through the relay of {own}, and only that hook receives it"),
            );
        }
        (Origin::Api | Origin::Stream(_), Some(connection)) => {
            let text = format!(
                "it has a connectionRef ({}), so it receives only the events of its own relay",
                connection.name
            );
            return (UnmatchedReason::OwnRelayOnly, text);
        }
        _ => {}
    }
    if spec.source != event.family() {
        let text = format!("its source is {}, not {}", spec.source, event.family());
        return (UnmatchedReason::OtherSource, text);
    }
    if let Some(wanted) = spec.from.as_ref().map(|from| &from.event_stream_ref.name)
        && event.origin != Origin::Stream(wanted.clone())
    {
        return (
            UnmatchedReason::OtherStream,
            format!("it receives only the events of the stream {wanted} (from.eventStreamRef)"),
        );
    }
    if let Some(wanted) = spec.event.as_ref().filter(|wanted| **wanted != event.event) {
        return (UnmatchedReason::OtherEvent, format!("its event is {wanted}, not {}", event.event));
    }
    let created = hook.meta().creation_timestamp.as_ref().map(|t| Millis(t.0.as_millisecond()));
    // Kubernetes truncates creation times to whole seconds.
    if created.is_some_and(|created| Millis(created.0 + 999) > accepted) {
        return (UnmatchedReason::Newer, "it was created after the event was accepted".into());
    }
    let caveat = match decide() {
        Some(Decision::Skip) => return (UnmatchedReason::Filtered, "its filter rejects the event".into()),
        Some(Decision::Undecided(why)) => format!("; it cannot be decided: {why}"),
        Some(Decision::Deliver(_)) => String::new(),
        None => "; its filter was not evaluated".into(),
    };
    let text = format!(
        "it matches now: it was created or edited since, or its delivery has expired from the history{caveat}"
    );
    (UnmatchedReason::MatchesNow, text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::cluster::ObjectKey;
    use crate::core::hook::validate;
    use crate::core::receiver_breaker::BreakerState;
    use crate::worker::decide::decide;
    use crate::worker::hooks::HookState;
    use crate::worker::store::{AttemptRecord, HookId};

    const NOW: Millis = Millis(1_700_000_000_000);

    fn record(state: DeliveryState, reason: Option<&str>, attempts: &[Option<u16>]) -> DeliveryRecord {
        let attempt = |status: &Option<u16>| {
            let fine = *status == Some(200);
            AttemptRecord {
                at: NOW,
                duration: Duration::from_millis(5),
                status: *status,
                error: (!fine).then(|| if status.is_some() { "Status" } else { "Timeout" }.to_owned()),
                detail: (*status == Some(422)).then(|| "no such field".to_owned()),
            }
        };
        DeliveryRecord {
            seq: 1,
            id: Uuid::nil(),
            hook: HookId { uid: "u".into(), namespace: "n".into(), name: "h".into() },
            event_id: "e".into(),
            state,
            reason: reason.map(ToOwned::to_owned),
            accepted: NOW,
            due: (state == DeliveryState::Pending).then_some(Millis(NOW.0 + 60_000)),
            attempts: attempts.iter().map(attempt).collect(),
        }
    }

    #[test]
    fn explains_each_state_and_reason() {
        use DeliveryState::{Cancelled, Dead, Delivered, Dropped, Pending};
        for (state, reason, attempts, want) in [
            (Delivered, None, &[Some(200)][..], "delivered on attempt 1"),
            (Delivered, None, &[None, Some(503), Some(200)], "delivered on attempt 3"),
            (
                Dead,
                Some("TerminalStatus"),
                &[Some(422)],
                "dead: the receiver refused it for good (retry.terminalStatuses); attempt 1 was answered 422 (no such field)",
            ),
            (
                Dead,
                Some("Gone"),
                &[Some(410)],
                "dead: the receiver answered 410 and accepts no further events; attempt 1 was answered 410",
            ),
            (
                Dead,
                Some("MaxAge"),
                &[Some(503), None],
                "dead: no attempt succeeded before it was too old (retry.maxAge); attempt 2 failed: Timeout",
            ),
            (
                Dead,
                Some("BacklogFull"),
                &[],
                "dead: its hook's backlog used its whole share of the disk (--hook-share)",
            ),
            (Dead, Some("FromANewerVersion"), &[], "dead: FromANewerVersion"),
            (
                Dropped,
                Some("Snoozed"),
                &[],
                "dropped: snoozed, because another delivery of its group was sent within the period (snooze.period)",
            ),
            (
                Dropped,
                Some("Unchanged"),
                &[],
                "dropped: unchanged, because the compared fields have the values of the last event (onChange)",
            ),
            (
                Dropped,
                Some("Superseded"),
                &[],
                "dropped: superseded, because a newer event of its group replaced it (snooze.trailing)",
            ),
            (Cancelled, Some("Cancelled"), &[None], "cancelled; attempt 1 failed: Timeout"),
            (
                Pending,
                None,
                &[Some(503)],
                "pending: attempt 2 is scheduled for 2023-11-14T22:14:20.000Z; attempt 1 was answered 503",
            ),
        ] {
            let found = explain_delivery(&record(state, reason, attempts), &HookHealth::Healthy, None, NOW);
            assert_eq!(found, want);
        }
    }

    #[test]
    fn explains_why_a_delivery_is_pending() {
        let pending = record(DeliveryState::Pending, None, &[]);
        let later = Millis(NOW.0 + 60_000);
        for (health, now, want) in [
            (HookHealth::Healthy, later, "due: attempt 1 starts when its hook may send"),
            (HookHealth::Unhealthy("x".into()), later, "due, but blocked: x"),
            (
                HookHealth::Unhealthy("x".into()),
                NOW,
                "pending: attempt 1 is scheduled for 2023-11-14T22:14:20.000Z",
            ),
            (HookHealth::Paused, NOW, "held: its hook is paused (delivery.paused)"),
            (HookHealth::Invalid("x".into()), NOW, "held: its hook's spec is invalid: x"),
            (HookHealth::Deleted, NOW, "held: its hook was deleted"),
        ] {
            let found = explain_delivery(&pending, &health, None, now);
            assert!(found.starts_with(want), "{found}");
        }
        let undecided = record(DeliveryState::Pending, Some("Undecided"), &[]);
        let why = Some("filter: the member n does not exist, in data.n");
        assert_eq!(
            explain_delivery(&undecided, &HookHealth::Healthy, why, NOW),
            "undecided: its hook's filter could not be evaluated (filter: the member n does not exist, in data.n); \
             correct the filter, otherwise it is dead when it is too old (retry.maxAge)"
        );
        let breaker = BreakerReport {
            state: BreakerState::Open,
            failures: 48,
            attempts: 64,
            pause: Duration::from_secs(32),
            next_probe: Some(later),
        };
        let open = "the circuit breaker is open, because 48 of 64 attempts failed: the next probes start at \
                    2023-11-14T22:14:20.000Z, after a pause of 32 s";
        let explained =
            |health: HookHealth| explain_delivery(&pending, &health.with_breaker(Some(breaker)), None, later);
        assert_eq!(explained(HookHealth::Healthy), format!("due, but blocked: {open}"));
        assert_eq!(explained(HookHealth::Unhealthy("x".into())), format!("due, but blocked: x; {open}"));
        assert!(explained(HookHealth::Paused).starts_with("held: its hook is paused"));
        let hook = |delivery: Value| {
            let spec = json!({"source": "s", "delivery": delivery, "handler": {"webhook": {"url": "https://e.com"}}});
            validate(guarded("h", spec, json!({})).0.as_ref().unwrap())
        };
        let condition = |status: &str| -> Condition {
            serde_json::from_value(json!({"type": "Delivering", "status": status, "reason": "Gone",
                "message": "the receiver answered 410", "lastTransitionTime": "2023-11-14T22:13:20Z"}))
            .unwrap()
        };
        let (valid, paused) = (hook(json!({})), hook(json!({"paused": true})));
        let (good, bad) = (condition("True"), condition("False"));
        assert_eq!(HookHealth::of(Some(valid.as_ref()), None), HookHealth::Healthy);
        assert_eq!(HookHealth::of(Some(valid.as_ref()), Some(&good)), HookHealth::Healthy);
        assert_eq!(
            HookHealth::of(Some(valid.as_ref()), Some(&bad)),
            HookHealth::Unhealthy(format!("{}: {}", bad.reason, bad.message))
        );
        assert_eq!(HookHealth::of(Some(paused.as_ref()), Some(&bad)), HookHealth::Paused);
        assert_eq!(HookHealth::of(None, Some(&bad)), HookHealth::Deleted);
        assert!(matches!(
            HookHealth::of(Some(hook(json!({"concurrency": 0})).as_ref()), None),
            HookHealth::Invalid(_)
        ));
    }

    fn guarded(name: &str, spec: Value, meta: Value) -> DeserializeGuard<EventHook> {
        let mut metadata = json!({"name": name, "namespace": "n", "uid": "u"});
        metadata.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        serde_json::from_value(json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
            "metadata": metadata, "spec": spec}))
        .unwrap()
    }

    fn state(hook: &DeserializeGuard<EventHook>) -> HookState {
        HookState::new(hook.0.as_ref().unwrap(), &ObjectKey::of(hook), None)
    }

    fn event(origin: Origin) -> Event {
        Event {
            id: "1".into(),
            namespace: "n".into(),
            origin,
            source: "s".into(),
            event: "e".into(),
            time: String::new(),
            data: serde_json::value::RawValue::from_string(r#"{"n": 1}"#.to_owned()).unwrap().into(),
            attributes: BTreeMap::default(),
        }
    }

    #[test]
    fn explains_why_a_hook_did_not_match() {
        let api = event(Origin::Api);
        let relayed = event(Origin::Relay("own".into()));
        let spec = |more: Value| {
            let mut spec = json!({"source": "s", "handler": {"webhook": {"url": "https://e.com"}}});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        let kong = json!({"connectionRef": {"name": "kong"}});
        let at = |offset: i64| json!({"creationTimestamp": Millis(NOW.0 + offset).rfc3339()});
        let deleting = json!({"deletionTimestamp": NOW.rfc3339(), "finalizers": ["x"]});
        for (event, spec, meta, want, part) in [
            (
                &api,
                spec(json!({"source": "t"})),
                json!({}),
                UnmatchedReason::OtherSource,
                "its source is t, not s",
            ),
            (
                &api,
                spec(json!({"event": "f"})),
                json!({}),
                UnmatchedReason::OtherEvent,
                "its event is f, not e",
            ),
            (&api, spec(kong.clone()), json!({}), UnmatchedReason::OwnRelayOnly, "connectionRef (kong)"),
            (
                &relayed,
                spec(kong.clone()),
                json!({}),
                UnmatchedReason::OtherRelay,
                "through the relay of own",
            ),
            (&relayed, spec(json!({})), json!({}), UnmatchedReason::OtherRelay, "only that hook"),
            (&api, spec(json!({})), deleting, UnmatchedReason::Deleting, "being deleted"),
            (&api, spec(json!({})), at(5_000), UnmatchedReason::Newer, "created after"),
            (&api, spec(json!({})), at(-5_000), UnmatchedReason::MatchesNow, "it matches now"),
            (&api, spec(json!({})), json!({}), UnmatchedReason::MatchesNow, "it matches now"),
            (
                &api,
                spec(json!({"filter": "data.n == 2"})),
                json!({}),
                UnmatchedReason::Filtered,
                "filter rejects",
            ),
            (&api, spec(json!({"filter": "data.n == 1"})), json!({}), UnmatchedReason::MatchesNow, "matches"),
            (
                &api,
                spec(json!({"filter": "data.m == 1"})),
                json!({}),
                UnmatchedReason::MatchesNow,
                "cannot be decided: filter",
            ),
            (
                &api,
                spec(json!({"delivery": {"concurrency": 0}})),
                json!({}),
                UnmatchedReason::MatchesNow,
                "cannot be decided",
            ),
            (&api, json!({"source": 5}), json!({}), UnmatchedReason::Unreadable, "cannot be read"),
        ] {
            let hook = guarded("h", spec, meta);
            let evaluate = || Some(decide(&state(&hook), event));
            let (found, text) = explain_unmatched(event, NOW, &hook, evaluate);
            assert_eq!(found, want, "{text}");
            assert!(text.contains(part), "{text}");
        }
        let own = guarded("own", spec(kong), json!({}));
        let (found, text) = explain_unmatched(&relayed, NOW, &own, || None);
        assert_eq!(found, UnmatchedReason::MatchesNow, "{text}");
        assert!(text.ends_with("its filter was not evaluated"), "{text}");
    }
}
