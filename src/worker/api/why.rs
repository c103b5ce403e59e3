//! In words: what became of a delivery, and why a hook got none.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;

use crate::api::EventHook;
use crate::cluster::Guarded;
use crate::core::event::{Event, Origin};
use crate::core::hook::{Hook, InvalidSpec};
use crate::core::time::Millis;
use crate::worker::route::Decision;
use crate::worker::store::{Record, State};

/// How the hook of a delivery stands today.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    Works,
    Paused,
    /// Its spec cannot be carried out, and why.
    Invalid(String),
    /// Its condition `Delivering` is false, for this reason and in these words.
    Troubled(String),
    Deleted,
}

impl Standing {
    /// `known`: what the worker understands of it. `told`: the condition `Delivering`, as it was last written.
    pub fn of(known: Option<Result<&Hook, &InvalidSpec>>, told: Option<&Condition>) -> Self {
        match known {
            None => Standing::Deleted,
            Some(Err(invalid)) => Standing::Invalid(invalid.to_string()),
            // Before the condition, which may be older than the spec.
            Some(Ok(hook)) if hook.delivery.paused => Standing::Paused,
            Some(Ok(_)) => match told.filter(|told| told.status == "False" && told.reason != "Paused") {
                Some(told) => Standing::Troubled(format!("{}: {}", told.reason, told.message)),
                None => Standing::Works,
            },
        }
    }
}

/// What became of a delivery.
pub fn became(record: &Record, standing: &Standing, now: Millis) -> String {
    let reason = record.reason.as_deref();
    match record.state {
        State::Delivered => format!("delivered on attempt {}", record.attempts.len().max(1)),
        State::Dead => format!("dead{}{}", died(reason), last(record)),
        State::Dropped => format!("dropped{}", dropped(reason)),
        State::Cancelled => format!("cancelled{}", last(record)),
        State::Pending => waits(record, standing, now),
    }
}

fn died(reason: Option<&str>) -> String {
    let why = match reason {
        Some("TerminalStatus") => "the receiver refused it for good (retry.terminalStatuses)",
        Some("Filtered") => "its hook's filter said no before it was sent",
        Some("Gone") => "the receiver answered 410 and takes no more",
        Some("MaxAge") => "no attempt succeeded before it was too old (retry.maxAge)",
        Some("MaxAttempts") => "none of the attempts allowed succeeded (retry.maxAttempts)",
        Some("EgressDenied") => "its address may not be reached (--egress-policy)",
        Some("HeaderRefused") => "its event made a header that cannot be sent (headersFormat: Template)",
        Some("HookDeleted") => "its hook was deleted and did not come back",
        Some("BacklogFull") => "its hook's backlog had its whole share of the disk (--hook-share)",
        Some(other) => return format!(": {other}"),
        None => return String::new(),
    };
    format!(": {why}")
}

fn dropped(reason: Option<&str>) -> String {
    let why = match reason {
        Some("Snoozed") => "snoozed, for another of its group went within the period (snooze.period)",
        Some("Unchanged") => "unchanged, for the fields that are compared were as in the last one (onChange)",
        Some("Superseded") => "superseded, for a newer one of its group took its place (snooze.trailing)",
        Some(other) => return format!(": {other}"),
        None => return String::new(),
    };
    format!(": {why}")
}

fn waits(record: &Record, standing: &Standing, now: Millis) -> String {
    let attempt = record.attempts.len() + 1;
    let last = last(record);
    match (standing, record.due) {
        (Standing::Paused, _) => format!("held: its hook is paused (delivery.paused){last}"),
        (Standing::Invalid(why), _) => format!("held: its hook's spec cannot be carried out: {why}{last}"),
        (Standing::Deleted, _) => {
            format!(
                "held: its hook was deleted; a hook of its name takes it up for a while (--hook-grace), then it dies{last}"
            )
        }
        _ if record.reason.as_deref() == Some("Undecided") => {
            format!("held: its hook's filter failed on it; another filter decides{last}")
        }
        (Standing::Works | Standing::Troubled(_), Some(due)) if due > now => {
            format!("waits until {} for attempt {attempt}{last}", due.rfc3339())
        }
        (Standing::Troubled(why), _) => format!("is due, but waits: {why}{last}"),
        (Standing::Works, _) => format!("is due: attempt {attempt} follows when its hook may send{last}"),
    }
}

/// How the last attempt ended, if it failed. Its words were masked when they were kept.
fn last(record: &Record) -> String {
    let Some(attempt) = record.attempts.last() else { return String::new() };
    let what = match (attempt.status, &attempt.error) {
        (_, None) => return String::new(),
        (Some(status), _) => format!("was answered {status}"),
        (None, Some(error)) => format!("failed: {error}"),
    };
    let detail = attempt.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
    format!("; attempt {} {what}{detail}", record.attempts.len())
}

/// Why a hook got no delivery of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
pub enum Not {
    Unreadable,
    Deleting,
    OtherRelay,
    OwnRelayOnly,
    OtherSource,
    OtherStream,
    OtherEvent,
    Filtered,
    Newer,
    /// It matches as it is today.
    MatchesNow,
}

/// Why a hook, as it is today, got no delivery of an event. `decide`: what it makes of the event, asked only where that
/// matters; None: it was not to be found out.
pub fn not(
    event: &Event,
    accepted: Millis,
    guarded: &Guarded<EventHook>,
    decide: impl FnOnce() -> Option<Decision>,
) -> (Not, String) {
    let hook = match &guarded.0 {
        Ok(hook) => hook,
        Err(invalid) => return (Not::Unreadable, format!("the object cannot be read: {}", invalid.error)),
    };
    let spec = &hook.spec;
    if hook.meta().deletion_timestamp.is_some() {
        return (Not::Deleting, "it is being deleted".into());
    }
    match (&event.origin, &spec.connection_ref) {
        (Origin::Relay(own), _) if hook.meta().name.as_ref() != Some(own) => {
            return (
                Not::OtherRelay,
                format!("the event is of the relay of {own}, and reaches that hook alone"),
            );
        }
        (Origin::Api | Origin::Stream(_), Some(connection)) => {
            let text = format!(
                "it has a connectionRef ({}), and gets the events of its own relay and no others",
                connection.name
            );
            return (Not::OwnRelayOnly, text);
        }
        _ => {}
    }
    if spec.source != event.family() {
        return (Not::OtherSource, format!("its source is {}, not {}", spec.source, event.family()));
    }
    if let Some(wanted) = spec.from.as_ref().map(|from| &from.event_stream_ref.name)
        && event.origin != Origin::Stream(wanted.clone())
    {
        return (
            Not::OtherStream,
            format!("it gets the events of the stream {wanted} alone (from.eventStreamRef)"),
        );
    }
    if let Some(wanted) = spec.event.as_ref().filter(|wanted| **wanted != event.event) {
        return (Not::OtherEvent, format!("its event is {wanted}, not {}", event.event));
    }
    let created = hook.meta().creation_timestamp.as_ref().map(|t| Millis(t.0.as_millisecond()));
    // Kubernetes tells whole seconds.
    if created.is_some_and(|created| Millis(created.0 + 999) > accepted) {
        return (Not::Newer, "it was made after the event was accepted".into());
    }
    let undecided = match decide() {
        Some(Decision::Skip) => return (Not::Filtered, "its filter says no".into()),
        Some(Decision::Undecided(why)) => format!("; it cannot be decided: {why}"),
        Some(Decision::Deliver(_)) => String::new(),
        None => "; its filter was not asked".into(),
    };
    let text = format!(
        "as it is today it matches: it was made or changed since, or its delivery is no longer kept{undecided}"
    );
    (Not::MatchesNow, text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::cluster::Key;
    use crate::core::hook::validate;
    use crate::worker::route::{self, Known};
    use crate::worker::store::{Attempt, HookId};

    const NOW: Millis = Millis(1_700_000_000_000);

    fn record(state: State, reason: Option<&str>, attempts: &[Option<u16>]) -> Record {
        let attempt = |status: &Option<u16>| {
            let fine = *status == Some(200);
            Attempt {
                at: NOW,
                duration: Duration::from_millis(5),
                status: *status,
                error: (!fine).then(|| if status.is_some() { "Status" } else { "Timeout" }.to_owned()),
                detail: (*status == Some(422)).then(|| "no such field".to_owned()),
            }
        };
        Record {
            seq: 1,
            id: Uuid::nil(),
            hook: HookId { uid: "u".into(), namespace: "n".into(), name: "h".into() },
            event_id: "e".into(),
            state,
            reason: reason.map(ToOwned::to_owned),
            accepted: NOW,
            due: (state == State::Pending).then_some(Millis(NOW.0 + 60_000)),
            attempts: attempts.iter().map(attempt).collect(),
        }
    }

    #[test]
    fn what_became_of_a_delivery() {
        use State::{Cancelled, Dead, Delivered, Dropped, Pending};
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
                "dead: the receiver answered 410 and takes no more; attempt 1 was answered 410",
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
                "dead: its hook's backlog had its whole share of the disk (--hook-share)",
            ),
            (Dead, Some("New"), &[], "dead: New"),
            (
                Dropped,
                Some("Snoozed"),
                &[],
                "dropped: snoozed, for another of its group went within the period (snooze.period)",
            ),
            (
                Dropped,
                Some("Unchanged"),
                &[],
                "dropped: unchanged, for the fields that are compared were as in the last one (onChange)",
            ),
            (
                Dropped,
                Some("Superseded"),
                &[],
                "dropped: superseded, for a newer one of its group took its place (snooze.trailing)",
            ),
            (Cancelled, Some("Cancelled"), &[None], "cancelled; attempt 1 failed: Timeout"),
            (
                Pending,
                None,
                &[Some(503)],
                "waits until 2023-11-14T22:14:20.000Z for attempt 2; attempt 1 was answered 503",
            ),
        ] {
            assert_eq!(became(&record(state, reason, attempts), &Standing::Works, NOW), want);
        }
    }

    #[test]
    fn what_a_delivery_waits_for() {
        let waiting = record(State::Pending, None, &[]);
        let later = Millis(NOW.0 + 60_000);
        for (standing, now, want) in [
            (Standing::Works, later, "is due: attempt 1 follows when its hook may send"),
            (Standing::Troubled("x".into()), later, "is due, but waits: x"),
            (Standing::Troubled("x".into()), NOW, "waits until 2023-11-14T22:14:20.000Z for attempt 1"),
            (Standing::Paused, NOW, "held: its hook is paused (delivery.paused)"),
            (Standing::Invalid("x".into()), NOW, "held: its hook's spec cannot be carried out: x"),
            (Standing::Deleted, NOW, "held: its hook was deleted"),
        ] {
            let found = became(&waiting, &standing, now);
            assert!(found.starts_with(want), "{found}");
        }
        let hook = |delivery: Value| {
            let spec = json!({"source": "s", "delivery": delivery, "handler": {"webhook": {"url": "https://e.com"}}});
            validate(guarded("h", spec, json!({})).0.as_ref().unwrap())
        };
        let told = |status: &str| -> Condition {
            serde_json::from_value(json!({"type": "Delivering", "status": status, "reason": "Gone",
                "message": "the receiver answered 410", "lastTransitionTime": "2023-11-14T22:13:20Z"}))
            .unwrap()
        };
        let (works, paused) = (hook(json!({})), hook(json!({"paused": true})));
        let (good, bad) = (told("True"), told("False"));
        assert_eq!(Standing::of(Some(works.as_ref()), None), Standing::Works);
        assert_eq!(Standing::of(Some(works.as_ref()), Some(&good)), Standing::Works);
        assert_eq!(
            Standing::of(Some(works.as_ref()), Some(&bad)),
            Standing::Troubled(format!("{}: {}", bad.reason, bad.message))
        );
        assert_eq!(Standing::of(Some(paused.as_ref()), Some(&bad)), Standing::Paused);
        assert_eq!(Standing::of(None, Some(&bad)), Standing::Deleted);
        assert!(matches!(
            Standing::of(Some(hook(json!({"concurrency": 0})).as_ref()), None),
            Standing::Invalid(_)
        ));
    }

    fn guarded(name: &str, spec: Value, meta: Value) -> Guarded<EventHook> {
        let mut metadata = json!({"name": name, "namespace": "n", "uid": "u"});
        metadata.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        serde_json::from_value(json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
            "metadata": metadata, "spec": spec}))
        .unwrap()
    }

    /// One that cannot be read is not asked.
    fn known(hook: &Guarded<EventHook>) -> Known {
        route::known(hook.0.as_ref().unwrap(), Key::of(hook))
    }

    fn event(origin: Origin) -> Event {
        Event {
            id: "1".into(),
            namespace: "n".into(),
            origin,
            source: "s".into(),
            event: "e".into(),
            time: String::new(),
            data: serde_json::from_str(r#"{"n": 1}"#).unwrap(),
            attributes: BTreeMap::default(),
        }
    }

    #[test]
    fn why_a_hook_got_none() {
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
            (&api, spec(json!({"source": "t"})), json!({}), Not::OtherSource, "its source is t, not s"),
            (&api, spec(json!({"event": "f"})), json!({}), Not::OtherEvent, "its event is f, not e"),
            (&api, spec(kong.clone()), json!({}), Not::OwnRelayOnly, "connectionRef (kong)"),
            (&relayed, spec(kong.clone()), json!({}), Not::OtherRelay, "the relay of own"),
            (&relayed, spec(json!({})), json!({}), Not::OtherRelay, "that hook alone"),
            (&api, spec(json!({})), deleting, Not::Deleting, "being deleted"),
            (&api, spec(json!({})), at(5_000), Not::Newer, "made after"),
            (&api, spec(json!({})), at(-5_000), Not::MatchesNow, "as it is today it matches"),
            (&api, spec(json!({})), json!({}), Not::MatchesNow, "as it is today it matches"),
            (&api, spec(json!({"filter": "data.n == 2"})), json!({}), Not::Filtered, "filter says no"),
            (&api, spec(json!({"filter": "data.n == 1"})), json!({}), Not::MatchesNow, "matches"),
            (
                &api,
                spec(json!({"filter": "data.m == 1"})),
                json!({}),
                Not::MatchesNow,
                "cannot be decided: filter",
            ),
            (
                &api,
                spec(json!({"delivery": {"concurrency": 0}})),
                json!({}),
                Not::MatchesNow,
                "cannot be decided",
            ),
            (&api, json!({"source": 5}), json!({}), Not::Unreadable, "cannot be read"),
        ] {
            let hook = guarded("h", spec, meta);
            let decide = || Some(route::decide(&known(&hook), event));
            let (found, text) = not(event, NOW, &hook, decide);
            assert_eq!(found, want, "{text}");
            assert!(text.contains(part), "{text}");
        }
        let own = guarded("own", spec(kong), json!({}));
        let (found, text) = not(&relayed, NOW, &own, || None);
        assert_eq!(found, Not::MatchesNow, "{text}");
        assert!(text.ends_with("its filter was not asked"), "{text}");
    }
}
