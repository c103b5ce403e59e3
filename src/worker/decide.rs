//! Decides what a hook does with an event: deliver, skip, or leave undecided.

use std::sync::Arc;

use super::hooks::HookState;
use super::store::NewDelivery;
use crate::core::catalogue;
use crate::core::event::Event;
use crate::core::filter::FilterInput;
use crate::core::gate::GateRequest;
use crate::core::hook::CompiledHook;
use crate::core::id;
use crate::core::time::Millis;

/// What a hook does with an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The event matches; carries the request to the hook's gates.
    Deliver(GateRequest),
    /// The filter rejects the event.
    Skip,
    /// The spec or the filter cannot be evaluated; carries the reason. The event counts as matched. Its delivery is held
    /// while the spec is invalid; if the filter fails on the event, it is evaluated again until it is too old. It bypasses
    /// the gates, because their rules are unknown too.
    Undecided(String),
}

/// Evaluates the filter of the hook's current spec and computes the request to its gates. Used when the event is
/// accepted.
pub fn decide(hook: &HookState, event: &Event) -> Decision {
    decide_input(hook, &FilterInput::new(event))
}

/// Evaluates the filter only. Used before an attempt: the store evaluated the gates when it accepted the event.
pub fn decide_again(hook: &HookState, event: &Event) -> Decision {
    match evaluate_filter(hook, &FilterInput::new(event)) {
        Ok(_) => Decision::Deliver(GateRequest::default()),
        Err(decision) => decision,
    }
}

/// Returns the compiled hook if its filter accepts the event, otherwise the decision.
fn evaluate_filter<'h>(hook: &'h HookState, input: &FilterInput<'_>) -> Result<&'h CompiledHook, Decision> {
    let hook = match &hook.hook {
        Ok(hook) => hook,
        Err(invalid) => return Err(Decision::Undecided(invalid.to_string())),
    };
    match hook.filter.as_ref().map(|filter| filter.matches_input(input)) {
        None | Some(Ok(true)) => Ok(&**hook),
        Some(Ok(false)) => Err(Decision::Skip),
        Some(Err(error)) => Err(Decision::Undecided(format!("filter: {error}"))),
    }
}

fn decide_input(hook: &HookState, input: &FilterInput<'_>) -> Decision {
    let hook = match evaluate_filter(hook, input) {
        Ok(hook) => hook,
        Err(decision) => return decision,
    };
    if hook.gates.is_empty() {
        return Decision::Deliver(GateRequest::default());
    }
    let event = input.event();
    let unique = catalogue::unique_fields(event.family(), &event.event);
    match input.data() {
        Ok(data) => Decision::Deliver(hook.gates.request(unique, data)),
        // Not dropped: whether it belongs to a group whose gate is closed is unknown.
        Err(error) => Decision::Undecided(format!("gates: the event's data cannot be read: {error}")),
    }
}

/// Creates the deliveries of an event to these hooks. Skips the hooks whose filter rejects the event.
pub fn create_deliveries(hooks: &[Arc<HookState>], event: &Event, now: Millis) -> Vec<NewDelivery> {
    let input = FilterInput::new(event);
    let create = |hook: &Arc<HookState>| {
        let gate_request = match decide_input(hook, &input) {
            Decision::Deliver(gate_request) => gate_request,
            Decision::Undecided(_) => GateRequest::default(),
            Decision::Skip => return None,
        };
        Some(NewDelivery {
            epoch: None,
            hook: hook.id.clone(),
            id: id::generate(now),
            due: now,
            gate_request,
            dead: None,
        })
    };
    hooks.iter().filter_map(create).collect()
}

/// True if `create_deliveries` evaluates filters. A filter's cost is bounded, but even a few milliseconds are too long
/// for a thread that serves many senders.
pub fn has_filters(hooks: &[Arc<HookState>]) -> bool {
    hooks.iter().any(|hook| hook.hook.as_ref().is_ok_and(|hook| hook.filter.is_some()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::worker::index::HookIndex;
    use crate::worker::index::testing::{event, hook};

    fn state(spec: Value) -> HookState {
        let object = hook("h", "1", spec);
        HookState::new(object.0.as_ref().unwrap(), &crate::cluster::ObjectKey::new("n", "h"), None)
    }

    #[test]
    fn decides_by_filter_and_gates() {
        let decided = |spec: Value, data: Value| decide(&state(spec), &event("s", "e", data));
        let open = Decision::Deliver(GateRequest::default());
        assert_eq!(decided(json!({}), json!(1)), open);
        assert_eq!(decided(json!({"filter": "data.n > 1"}), json!({"n": 2})), open);
        assert_eq!(decided(json!({"filter": "data.n > 1"}), json!({"n": 1})), Decision::Skip);
        for (filter, reason) in
            [("data.n > 1", "filter: the member n does not exist"), ("data.n >", "filter: line 1")]
        {
            match decided(json!({"filter": filter, "snooze": {"period": "1s"}}), json!({"m": 1})) {
                Decision::Undecided(why) => assert!(why.starts_with(reason), "{why}"),
                other => panic!("{filter}: {other:?}"),
            }
        }
        let gated = json!({"snooze": {"period": "1s"}, "onChange": {}, "filter": "true"});
        let Decision::Deliver(asked) = decided(gated, json!({"n": 1})) else { panic!("not delivered") };
        assert!(asked.snooze.is_some() && asked.change.is_some());
    }

    #[test]
    fn gates_group_by_the_unique_fields_of_the_source() {
        let decided = |name: &str, data: Value| {
            let spec = json!({"source": "rate-limiting-advanced", "snooze": {"period": "1s"}});
            decide(&state(spec), &event("rate-limiting-advanced", name, data))
        };
        let exceeded = |rate| decided("rate-limit-exceeded", json!({"ip": "10.0.0.1", "rate": rate}));
        assert_eq!(exceeded(1), exceeded(2), "the rate is not a unique field");
        let other = |rate| decided("other", json!({"ip": "10.0.0.1", "rate": rate}));
        assert_ne!(other(1), other(2), "an event outside the catalogue is grouped by its whole data");
    }

    #[test]
    fn creates_deliveries_for_matching_and_undecided_hooks() {
        let index = HookIndex::default();
        index.upsert(&hook("plain", "1", json!({})));
        index.upsert(&hook("yes", "2", json!({"filter": "data.n == 1"})));
        index.upsert(&hook("no", "3", json!({"filter": "data.n == 2"})));
        index.upsert(&hook("fails", "4", json!({"filter": "data.m == 2"})));
        index.upsert(&hook("invalid", "5", json!({"filter": "m == 2"})));
        let hooks = index.matching(&event("s", "e", json!({"n": 1})));
        assert!(has_filters(&hooks));
        let created = create_deliveries(&hooks, &event("s", "e", json!({"n": 1})), Millis(5));
        let mut names: Vec<_> = created.iter().map(|d| d.hook.name.to_string()).collect();
        names.sort();
        assert_eq!(names, ["fails", "invalid", "plain", "yes"]);
        assert!(created.iter().all(|d| d.due == Millis(5) && d.dead.is_none()));
    }
}
