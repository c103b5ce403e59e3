//! The filter of a change of all deliveries that match.

use serde_json::{Map, Value};

use super::Action;
use crate::console::form::Form;
use crate::console::problem::Problem;
use crate::core::time::{Millis, parse_time_or_age};

/// The states from which a delivery is replayed in bulk. A pending one is attempted anyway.
const REPLAYABLE: [&str; 4] = ["dead", "delivered", "dropped", "cancelled"];
/// The parts of a filter that are passed on as they are.
const TEXTS: [&str; 2] = ["hook", "event"];

/// A filter whose times are points in time, so that it selects the same deliveries at each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BulkFilter {
    action: Action,
    /// `hook` and `event`, if they are given.
    texts: Vec<(&'static str, String)>,
    states: Vec<&'static str>,
    since: Option<Millis>,
    until: Millis,
}

/// Returns the states of a list that a replay in bulk selects. Without a state, it replays dead letters: those of delivered
/// ones only on request.
pub fn replayable(states: &[&str]) -> Vec<&'static str> {
    match states {
        [] => vec!["dead"],
        states => REPLAYABLE.into_iter().filter(|state| states.contains(state)).collect(),
    }
}

impl BulkFilter {
    /// Reads the filter of a list or of a form. Ages become points in time before `now`. Without an end, `now` is its end: what
    /// is accepted after the user has seen the count is not changed.
    pub fn parse(form: &Form, action: Action, now: Millis) -> Result<Self, Problem> {
        let time = |name: &str| match form.get(name) {
            "" => Ok(None),
            text => parse_time_or_age(text, now)
                .map(Some)
                .map_err(|why| Problem::new(400, "InvalidParameter", format!("{name} {why}"))),
        };
        let given: Vec<&str> = form.all("state").flat_map(|value| value.split(',')).collect();
        let states = match action {
            Action::Cancel => vec!["pending"],
            Action::Replay => replayable(&given),
        };
        if states.is_empty() {
            let detail = "no delivery in these states can be replayed: dead, delivered, dropped and cancelled ones can";
            return Err(Problem::new(400, "InvalidParameter", detail));
        }
        let texts = TEXTS.into_iter().map(|name| (name, form.get(name).to_owned()));
        Ok(BulkFilter {
            action,
            texts: texts.filter(|(_, value)| !value.is_empty()).collect(),
            states,
            since: time("since")?,
            until: time("until")?.unwrap_or(now),
        })
    }

    pub fn states(&self) -> &[&'static str] {
        &self.states
    }

    /// Returns the parts that are not states, for people and for forms.
    pub fn parts(&self) -> Vec<(&'static str, String)> {
        let since = self.since.map(|since| ("since", since.rfc3339()));
        self.texts.iter().cloned().chain(since).chain([("until", self.until.rfc3339())]).collect()
    }

    /// Builds the API's filter of the deliveries in one of the states.
    pub fn body(&self, state: &str) -> Map<String, Value> {
        let texts = self.parts().into_iter().map(|(name, value)| (name.to_owned(), Value::from(value)));
        texts.chain([("state".to_owned(), Value::from(state))]).collect()
    }

    /// Describes the filter for the audit log.
    pub fn describe(&self, namespace: &str) -> String {
        let body = Value::Object(self.body(&self.states.join(",")));
        format!("deliveries of {namespace} with {body}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Millis = Millis(1_700_000_000_123);

    fn parse(query: &str, action: Action) -> BulkFilter {
        BulkFilter::parse(&Form::parse(query.as_bytes()), action, NOW).unwrap()
    }

    #[test]
    fn never_replays_delivered_or_pending_ones_unasked() {
        assert_eq!(parse("hook=h", Action::Replay).states(), ["dead"]);
        assert_eq!(parse("state=delivered", Action::Replay).states(), ["delivered"]);
        assert_eq!(parse("state=dropped&state=pending,dead", Action::Replay).states(), ["dead", "dropped"]);
        assert_eq!(parse("state=dead", Action::Cancel).states(), ["pending"]);
        for (query, part) in [("state=pending", "can be replayed"), ("since=yesterday", "since must be")] {
            let error = BulkFilter::parse(&Form::parse(query.as_bytes()), Action::Replay, NOW).unwrap_err();
            assert!(error.status == 400 && error.detail.contains(part), "{error:?}");
        }
    }

    #[test]
    fn form_selects_what_the_count_selected() {
        let counted = parse("hook=h&since=1h&state=dead,dropped", Action::Replay);
        assert_eq!(
            Value::Object(counted.body("dead")),
            json!({"hook": "h", "state": "dead", "since": "2023-11-14T21:13:20.123Z", "until": "2023-11-14T22:13:20.123Z"})
        );
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(counted.parts());
        form.extend_pairs(counted.states().iter().map(|state| ("state", *state)));
        let later = Millis(NOW.0 + 600_000);
        let sent = BulkFilter::parse(&Form::parse(form.finish().as_bytes()), Action::Replay, later);
        assert_eq!(sent.unwrap(), counted);
    }
}
