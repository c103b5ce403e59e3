//! Parses the query of a list of events.

use super::query::{
    CONTINUE, LIMIT, Page, Parameter, SINCE, UNTIL, invalid_parameter, parse_flag_value, parse_hook_name,
    parse_page_parameter, parse_parameters,
};
use super::state::MAX_EVENT_ID;
use crate::core::time::{Millis, parse_time_or_age};
use crate::worker::problem::HttpProblem;
use crate::worker::store::EventFilter;

const OUTCOMES: &str = "matched, unmatched, dropped, dead";
/// The longest searched text in bytes.
const MAX_TEXT: usize = 256;

/// The parameters of a list of events.
pub const EVENT_PARAMETERS: [Parameter; 11] = [
    Parameter::text("source", "The event's source"),
    Parameter::text("event", "The event's name"),
    Parameter::text("hook", "The name of a hook that has a delivery of the event"),
    Parameter::text("origin", "api, relay, stream, relay/HOOK or stream/EVENTSTREAM"),
    Parameter::text(
        "outcome",
        "matched (any delivery), unmatched (none), dropped or dead (at least one such delivery)",
    ),
    Parameter::text("text", "A part of the id; with payload also of the data as JSON text"),
    SINCE,
    UNTIL,
    Parameter::flag("payload", "Return the data too (get deliveries/payload)"),
    LIMIT,
    CONTINUE,
];

/// The query of a list of events.
#[derive(Debug, PartialEq)]
pub struct EventQuery {
    pub filter: EventFilter,
    pub page: Page,
    pub with_data: bool,
}

/// Parses the query of a list of events.
pub fn parse_events(namespace: &str, query: Option<&str>, now: Millis) -> Result<EventQuery, HttpProblem> {
    let mut filter = EventFilter { namespace: namespace.to_owned(), ..EventFilter::default() };
    let (mut page, mut with_data) = (Page::default(), false);
    for (name, value) in parse_parameters(query, &EVENT_PARAMETERS)? {
        match name {
            "source" => filter.source = Some(parse_text(name, value, MAX_EVENT_ID)?),
            "event" => filter.event = Some(parse_text(name, value, MAX_EVENT_ID)?),
            "hook" => filter.hook = Some(parse_hook_name(value)?),
            "origin" => filter.origin = Some(parse_origin(value)?),
            "outcome" => {
                let problem = || invalid_parameter(name, &format!("must be one of {OUTCOMES}"));
                filter.outcome = Some(value.parse().map_err(|_| problem())?);
            }
            "text" => filter.text = Some(parse_text(name, value, MAX_TEXT)?),
            "since" | "until" => {
                let at = parse_time_or_age(&value, now).map_err(|why| invalid_parameter(name, why))?;
                let bound = if name == "since" { &mut filter.since } else { &mut filter.until };
                *bound = Some(at);
            }
            "payload" => with_data = parse_flag_value(name, &value)?,
            _ => parse_page_parameter(name, &value, &mut page)?,
        }
    }
    // Only with the right to read it: whether a text is in the data says something about the data.
    filter.searches_data = with_data && filter.text.is_some();
    Ok(EventQuery { filter, page, with_data })
}

fn parse_text(name: &str, text: String, max: usize) -> Result<String, HttpProblem> {
    if (1..=max).contains(&text.len()) {
        Ok(text)
    } else {
        Err(invalid_parameter(name, &format!("must have 1 to {max} bytes")))
    }
}

fn parse_origin(text: String) -> Result<String, HttpProblem> {
    let (kind, name) = text.split_once('/').map_or((&*text, None), |(kind, name)| (kind, Some(name)));
    match (kind, name) {
        ("api", None) | ("relay" | "stream", None) => Ok(text),
        ("relay" | "stream", Some(name)) if !name.is_empty() && name.len() <= MAX_TEXT => Ok(text),
        _ => Err(invalid_parameter("origin", "must be api, relay, stream, relay/HOOK or stream/EVENTSTREAM")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::worker::store::EventOutcome;

    const NOW: Millis = Millis(1_700_000_000_000);

    #[test]
    fn parses_all_parameters() {
        let query =
            "source=s&event=e&hook=h&origin=relay/h&outcome=dead&text=x&since=1h&payload=true&limit=7";
        let parsed = parse_events("n", Some(query), NOW).unwrap();
        let filter = EventFilter {
            namespace: "n".into(),
            source: Some("s".into()),
            event: Some("e".into()),
            hook: Some("h".into()),
            origin: Some("relay/h".into()),
            outcome: Some(EventOutcome::Dead),
            text: Some("x".into()),
            searches_data: true,
            since: Some(Millis(NOW.0 - 3_600_000)),
            until: None,
        };
        assert_eq!(parsed, EventQuery { filter, page: Page { before: None, limit: 7 }, with_data: true });
        assert!(!parse_events("n", Some("text=x"), NOW).unwrap().filter.searches_data);
        for (query, part) in [
            ("outcome=lost", "outcome must be one of matched"),
            ("origin=kong", "origin must be api"),
            ("origin=relay/", "origin must be api"),
            ("origin=api/x", "origin must be api"),
            ("text=", "text must have"),
            ("payload=1", "payload must be true or false"),
            ("continue=1", "continue is not a token"),
            ("state=dead", "unknown parameter"),
        ] {
            let problem = parse_events("n", Some(query), NOW).unwrap_err();
            assert!(problem.status == 400 && problem.detail.contains(part), "{query}: {}", problem.detail);
        }
    }

    proptest! {
        #[test]
        fn every_query_is_parsed_or_rejected_with_a_short_problem(
            query in "((source|event|hook|origin|outcome|text|since|limit|continue|x)=[ -~]{0,30}&?){0,4}|\\PC{0,200}",
        ) {
            if let Err(problem) = parse_events("n", Some(&query), NOW) {
                prop_assert!(problem.status == 400 && problem.detail.len() < 1024, "{}", problem.detail);
            }
        }
    }
}
