//! What a worker's filter and gates would do with an event.

use serde::Serialize;

use crate::core::event::Event;
use crate::core::filter::FilterInput;
use crate::core::hook::CompiledHook;

/// What the worker would decide before it runs the handler.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// `Accepts`, `Rejects`, `Undecided`, or null without a filter.
    pub filter: Option<FilterVerdict>,
    /// Why the filter cannot be evaluated.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// What each gate would do, in words: its state is in the worker.
    gates: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum FilterVerdict {
    Accepts,
    Rejects,
    Undecided,
}

impl Verdict {
    pub fn of(hook: &CompiledHook, event: &Event) -> Self {
        let input = FilterInput::new(event);
        let (filter, problem) = match hook.filter.as_ref().map(|filter| filter.matches_input(&input)) {
            None => (None, None),
            Some(Ok(true)) => (Some(FilterVerdict::Accepts), None),
            Some(Ok(false)) => (Some(FilterVerdict::Rejects), None),
            Some(Err(error)) => (Some(FilterVerdict::Undecided), Some(error.to_string())),
        };
        Verdict { filter, problem, gates: gates(hook) }
    }

    /// Returns why the worker would not run the handler now.
    pub fn refusal(&self) -> Option<String> {
        match self.filter? {
            FilterVerdict::Accepts => None,
            FilterVerdict::Rejects => Some("the filter rejects the event".into()),
            FilterVerdict::Undecided => Some(format!(
                "the filter cannot be evaluated: {}",
                self.problem.as_deref().unwrap_or_default()
            )),
        }
    }

    /// Returns one line for the filter and one for each gate.
    pub fn lines(&self) -> Vec<String> {
        let filter = match self.filter {
            None => None,
            Some(FilterVerdict::Accepts) => Some("filter: accepts the event".to_owned()),
            Some(_) => self.refusal().map(|why| format!("filter: {}", why.trim_start_matches("the filter "))),
        };
        filter.into_iter().chain(self.gates.iter().cloned()).collect()
    }
}

/// Describes what each gate would do with the event.
fn gates(hook: &CompiledHook) -> Vec<String> {
    let gates = &hook.gates;
    let paths = |paths: &Option<Vec<String>>| match paths {
        Some(paths) => paths.iter().map(|path| format!("data.{path}")).collect::<Vec<_>>().join(", "),
        None => "the source's unique fields, or the whole data".to_owned(),
    };
    let change = gates.on_change.as_ref().map(|rule| {
        format!("onChange: drops it if the last event had the same values of {}", paths(&rule.fields))
    });
    let snooze = gates.snooze.map(|rule| {
        let then = if rule.trailing { ", or sends it then unless a newer one replaces it" } else { "" };
        format!(
            "snooze: drops it within {:?} after a delivery with the same values of {}{then}",
            rule.period,
            paths(&gates.group_by)
        )
    });
    change.into_iter().chain(snooze).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::hook::validate;
    use crate::worker::handlers::posted_event;

    fn verdict(spec: serde_json::Value) -> Verdict {
        let value = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
            "metadata": {"name": "h", "namespace": "n", "uid": "u"}, "spec": spec});
        let hook = validate(&serde_json::from_value(value).unwrap()).unwrap();
        let data = serde_json::value::to_raw_value(&json!({"n": 1})).unwrap();
        Verdict::of(&hook, &posted_event(&hook, None, data))
    }

    #[test]
    fn says_what_filter_and_gates_would_do() {
        let spec = |filter: &str| json!({"source": "s", "filter": filter, "handler": {"log": {}}});
        let plain = verdict(json!({"source": "s", "handler": {"log": {}}}));
        assert!(plain.lines().is_empty() && plain.refusal().is_none());
        assert_eq!(verdict(spec("data.n == 1")).lines(), ["filter: accepts the event"]);
        let rejected = verdict(spec("data.n == 2"));
        assert_eq!(rejected.lines(), ["filter: rejects the event"]);
        assert_eq!(rejected.refusal().unwrap(), "the filter rejects the event");
        let undecided = verdict(spec("data.m == 2"));
        assert!(
            undecided.lines()[0].starts_with("filter: cannot be evaluated: the member m"),
            "{undecided:?}"
        );
        let gated = json!({"source": "s", "handler": {"log": {}}, "groupBy": ["n"], "onChange": {"fields": ["a.b"]},
            "snooze": {"period": "5m", "trailing": "Last"}});
        let lines = verdict(gated).lines();
        assert_eq!(lines[0], "onChange: drops it if the last event had the same values of data.a.b");
        assert!(
            lines[1]
                .starts_with("snooze: drops it within 300s after a delivery with the same values of data.n")
        );
    }
}
