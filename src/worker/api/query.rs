//! Parses query parameters and bodies. Rejects unknown parameters by name: ignoring a mistyped filter would show or
//! replay deliveries that the client did not select.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use schemars::JsonSchema;
use serde::Deserialize;
use url::form_urlencoded;

use super::outcome_filter::{OutcomeFilter, REASON, STATUS};
use super::page::distinct_states;
use super::state::MAX_EVENT_ID;
use crate::core::names::is_object_name;
use crate::core::time::{Millis, parse_time_or_age};
use crate::worker::problem::HttpProblem;
use crate::worker::store::{DeliveryFilter, DeliverySeq, DeliveryState};

/// Deliveries on a page: the default and the maximum.
const DEFAULT_LIMIT: usize = 50;
pub const MAX_LIMIT: usize = 500;
/// Deliveries a second of a bulk replay: the default and the maximum.
const DEFAULT_RATE: u32 = 50;
const MAX_RATE: u32 = 10_000;
const STATES: &str = "pending, delivered, dead, dropped, cancelled";

/// The query of a list.
#[derive(Debug, PartialEq)]
pub struct ListQuery {
    /// Without a state.
    pub filter: DeliveryFilter,
    /// Empty: all.
    pub states: Vec<DeliveryState>,
    pub outcome: OutcomeFilter,
    pub page: Page,
}

/// The part of a list that is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Only what is below this sequence number.
    pub before: Option<DeliverySeq>,
    pub limit: usize,
}

impl Default for Page {
    fn default() -> Self {
        Page { before: None, limit: DEFAULT_LIMIT }
    }
}

/// A parameter of a query: the parser accepts it, and the OpenAPI document describes it.
#[derive(Debug)]
pub struct Parameter {
    pub name: &'static str,
    pub kind: ParameterKind,
    pub description: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterKind {
    Text,
    /// Several texts: separated by commas, or in a parameter each.
    List,
    Number,
    Flag,
}

impl Parameter {
    pub const fn text(name: &'static str, description: &'static str) -> Self {
        Parameter { name, kind: ParameterKind::Text, description }
    }

    pub const fn list(name: &'static str, description: &'static str) -> Self {
        Parameter { name, kind: ParameterKind::List, description }
    }

    pub const fn flag(name: &'static str, description: &'static str) -> Self {
        Parameter { name, kind: ParameterKind::Flag, description }
    }

    pub const fn number(name: &'static str, description: &'static str) -> Self {
        Parameter { name, kind: ParameterKind::Number, description }
    }
}

pub const SINCE: Parameter = Parameter::text(
    "since",
    "Accepted at or after this time (RFC 3339), or within the last duration (1h30m)",
);
pub const UNTIL: Parameter =
    Parameter::text("until", "Accepted before this time, or before this duration ago");
pub const LIMIT: Parameter = Parameter::number("limit", "The most items, 1 to 500; 50 if it is not given");
pub const CONTINUE: Parameter = Parameter::text("continue", "The token of the last page");

/// The parameters of a list of deliveries.
pub const LIST_PARAMETERS: [Parameter; 9] = [
    Parameter::text("hook", "The name of the hook"),
    Parameter::list(
        "state",
        "One or several of pending, delivered, dead, dropped, cancelled, separated by commas",
    ),
    REASON,
    STATUS,
    Parameter::text("event", "The event's id"),
    SINCE,
    UNTIL,
    LIMIT,
    CONTINUE,
];
pub const PAYLOAD: [Parameter; 1] =
    [Parameter::flag("payload", "Return the data too (get deliveries/payload)")];
pub const DELIVERIES_ONLY: [Parameter; 1] =
    [Parameter::flag("deliveriesOnly", "Leave out the hooks that have no delivery of the event")];
pub const DRY_RUN: [Parameter; 1] = [Parameter::flag("dryRun", "Only count, up to 10,000")];

/// Parses a parameter of every list.
pub fn parse_page_parameter(name: &str, value: &str, page: &mut Page) -> Result<(), HttpProblem> {
    match name {
        "limit" => {
            page.limit =
                value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit)).ok_or_else(|| {
                    invalid_parameter(name, &format!("must be a number from 1 to {MAX_LIMIT}"))
                })?;
        }
        _ => page.before = Some(parse_continue(value)?),
    }
    Ok(())
}

/// Parses the query of a list.
pub fn parse_list(namespace: &str, query: Option<&str>, now: Millis) -> Result<ListQuery, HttpProblem> {
    let filter = DeliveryFilter { namespace: namespace.to_owned(), ..DeliveryFilter::default() };
    let mut list =
        ListQuery { filter, states: Vec::new(), outcome: OutcomeFilter::default(), page: Page::default() };
    for (name, value) in parse_parameters(query, &LIST_PARAMETERS)? {
        let filter = &mut list.filter;
        match name {
            "hook" => filter.hook = Some(parse_hook_name(value)?),
            "state" => {
                let states = value.split(',').map(parse_state).collect::<Result<_, _>>()?;
                list.states = distinct_states(states);
            }
            "reason" => list.outcome.set_reasons(&value)?,
            "status" => list.outcome.set_statuses(&value)?,
            "event" => filter.event = Some(parse_event_id(value)?),
            "since" | "until" => {
                let at = parse_time_or_age(&value, now).map_err(|why| invalid_parameter(name, why))?;
                let bound = if name == "since" { &mut filter.since } else { &mut filter.until };
                *bound = Some(at);
            }
            _ => parse_page_parameter(name, &value, &mut list.page)?,
        }
    }
    Ok(list)
}

/// Parses the query of one delivery: whether its payload is requested.
pub fn parse_payload(query: Option<&str>) -> Result<bool, HttpProblem> {
    parse_flag(&PAYLOAD, query)
}

/// Parses the query of an explanation: whether it leaves out the hooks without a delivery.
pub fn parse_deliveries_only(query: Option<&str>) -> Result<bool, HttpProblem> {
    parse_flag(&DELIVERIES_ONLY, query)
}

/// Parses the query of a bulk replay: whether it only counts.
pub fn parse_dry_run(query: Option<&str>) -> Result<bool, HttpProblem> {
    parse_flag(&DRY_RUN, query)
}

/// Parses a query whose only parameter is a flag.
fn parse_flag(allowed: &[Parameter], query: Option<&str>) -> Result<bool, HttpProblem> {
    match parse_parameters(query, allowed)?.first() {
        None => Ok(false),
        Some((name, value)) => parse_flag_value(name, value),
    }
}

pub fn parse_flag_value(name: &str, value: &str) -> Result<bool, HttpProblem> {
    value.parse().map_err(|_| invalid_parameter(name, "must be true or false"))
}

/// Rejects every parameter.
pub fn reject_parameters(query: Option<&str>) -> Result<(), HttpProblem> {
    parse_parameters(query, &[]).map(drop)
}

/// The body of a bulk replay.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayRequest {
    hook: Option<String>,
    state: Option<String>,
    event: Option<String>,
    since: Option<String>,
    until: Option<String>,
    rate: Option<u32>,
}

/// Parses the body of a bulk replay: the filter and the deliveries a second.
pub fn parse_replay(namespace: &str, body: &[u8], now: Millis) -> Result<(DeliveryFilter, u32), HttpProblem> {
    let request: ReplayRequest = parse_body(body, r#"{"hook": "h"}"#)?;
    let filter = DeliveryFilter {
        namespace: namespace.to_owned(),
        hook: request.hook.map(parse_hook_name).transpose()?,
        // Replay delivered deliveries only on explicit request. Without a state, the client means dead letters.
        state: Some(request.state.as_deref().map_or(Ok(DeliveryState::Dead), parse_state)?),
        event: request.event.map(parse_event_id).transpose()?,
        since: parse_time("since", request.since, now)?,
        until: parse_time("until", request.until, now)?,
    };
    if filter.state == Some(DeliveryState::Pending) {
        return Err(invalid_parameter("state", "must not be pending: pending deliveries are sent anyway"));
    }
    let rate = request.rate.unwrap_or(DEFAULT_RATE);
    if !(1..=MAX_RATE).contains(&rate) {
        return Err(invalid_parameter("rate", &format!("must be from 1 to {MAX_RATE} deliveries a second")));
    }
    Ok((filter, rate))
}

/// The query of a cancellation in bulk.
#[derive(Debug, PartialEq)]
pub struct CancelQuery {
    pub filter: DeliveryFilter,
    /// Only deliveries below this sequence number.
    pub before: Option<DeliverySeq>,
}

/// The body of a cancellation in bulk.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CancellationRequest {
    hook: Option<String>,
    /// Only `pending`, which is the default.
    state: Option<String>,
    event: Option<String>,
    since: Option<String>,
    until: Option<String>,
    /// The token of the last response: goes on there.
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// Parses the body of a cancellation in bulk.
pub fn parse_cancel(namespace: &str, body: &[u8], now: Millis) -> Result<CancelQuery, HttpProblem> {
    let request: CancellationRequest = parse_body(body, r#"{"hook": "h"}"#)?;
    if request.state.as_deref().map_or(Ok(DeliveryState::Pending), parse_state)? != DeliveryState::Pending {
        return Err(invalid_parameter("state", "must be pending: only pending deliveries can be cancelled"));
    }
    let filter = DeliveryFilter {
        namespace: namespace.to_owned(),
        hook: request.hook.map(parse_hook_name).transpose()?,
        state: Some(DeliveryState::Pending),
        event: request.event.map(parse_event_id).transpose()?,
        since: parse_time("since", request.since, now)?,
        until: parse_time("until", request.until, now)?,
    };
    let before = request.next.as_deref().map(parse_continue).transpose()?;
    Ok(CancelQuery { filter, before })
}

/// Parses a body. `example` shows users a valid one.
pub fn parse_body<'b, T: Deserialize<'b>>(body: &'b [u8], example: &str) -> Result<T, HttpProblem> {
    serde_json::from_slice(body).map_err(|e| {
        HttpProblem::new(400, "BadBody", format!("the body must be a JSON object such as {example}: {e}"))
    })
}

fn parse_time(name: &str, text: Option<String>, now: Millis) -> Result<Option<Millis>, HttpProblem> {
    let parse = |text: String| parse_time_or_age(&text, now).map_err(|why| invalid_parameter(name, why));
    text.map(parse).transpose()
}

/// Returns the token of the page that starts below this sequence number.
pub fn page_token(before: DeliverySeq) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("1.{before}"))
}

fn parse_continue(text: &str) -> Result<DeliverySeq, HttpProblem> {
    parse_page_token(text).ok_or_else(|| invalid_parameter("continue", "is not a token of this API"))
}

fn parse_page_token(text: &str) -> Option<DeliverySeq> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    std::str::from_utf8(&bytes).ok()?.strip_prefix("1.")?.parse().ok()
}

/// Parses the query's parameters. Rejects parameters that are not in `allowed`, and repeated ones. Joins the values of a
/// repeated list by commas.
pub fn parse_parameters(
    query: Option<&str>,
    allowed: &[Parameter],
) -> Result<Vec<(&'static str, String)>, HttpProblem> {
    let mut found: Vec<(&'static str, String)> = Vec::new();
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        let Some(parameter) = allowed.iter().find(|allowed| allowed.name == name) else {
            let names: Vec<&str> = allowed.iter().map(|allowed| allowed.name).collect();
            let allowed = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let truncated: String = name.chars().take(64).collect();
            let why = format!("unknown parameter {truncated:?} (allowed: {allowed})");
            return Err(HttpProblem::new(400, "BadParameter", why));
        };
        match found.iter_mut().find(|(name, _)| *name == parameter.name) {
            None => found.push((parameter.name, value.into_owned())),
            Some((_, values)) if parameter.kind == ParameterKind::List => {
                values.push(',');
                values.push_str(&value);
            }
            Some(_) => return Err(invalid_parameter(parameter.name, "is given twice")),
        }
    }
    Ok(found)
}

pub fn parse_hook_name(name: String) -> Result<String, HttpProblem> {
    if is_object_name(&name) { Ok(name) } else { Err(invalid_parameter("hook", "is not a valid name")) }
}

fn parse_event_id(id: String) -> Result<String, HttpProblem> {
    let fits = (1..=MAX_EVENT_ID).contains(&id.len());
    if fits {
        Ok(id)
    } else {
        Err(invalid_parameter("event", &format!("must be an id of 1 to {MAX_EVENT_ID} bytes")))
    }
}

fn parse_state(text: &str) -> Result<DeliveryState, HttpProblem> {
    text.parse().map_err(|_| invalid_parameter("state", &format!("must be one of {STATES}")))
}

pub fn invalid_parameter(name: &str, why: &str) -> HttpProblem {
    HttpProblem::new(400, "BadParameter", format!("{name} {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Millis = Millis(1_700_000_000_000);

    #[test]
    fn parses_a_list_query() {
        let default = parse_list("n", None, NOW).unwrap();
        assert_eq!(default.page, Page { before: None, limit: 50 });
        assert_eq!(default.filter, DeliveryFilter { namespace: "n".into(), ..DeliveryFilter::default() });
        let next = page_token(42);
        let query = format!(
            "hook=a.b-c&state=dead&state=pending,dead&status=5xx&event=x%2Fy&since=1h&until=2023-11-14T22:13:20Z&limit=500&continue={next}"
        );
        let all = parse_list("n", Some(&query), NOW).unwrap();
        let filter = DeliveryFilter {
            namespace: "n".into(),
            hook: Some("a.b-c".into()),
            state: None,
            event: Some("x/y".into()),
            since: Some(Millis(NOW.0 - 3_600_000)),
            until: Some(NOW),
        };
        let states = vec![DeliveryState::Pending, DeliveryState::Dead];
        let mut outcome = OutcomeFilter::default();
        outcome.set_statuses("5xx").unwrap();
        assert_eq!(all, ListQuery { filter, states, outcome, page: Page { before: Some(42), limit: 500 } });
    }

    #[test]
    fn rejects_unknown_and_invalid_parameters_by_name() {
        for (query, part) in [
            ("hok=a", "unknown parameter \"hok\""),
            ("hook=A", "hook is not a valid name"),
            ("hook=", "hook is"),
            ("hook=a&hook=b", "hook is given twice"),
            ("state=Dead", "state must be one of pending, delivered"),
            ("state=dead,", "state must be one of"),
            ("reason=-", "reason must be"),
            ("status=6xx", "status must be"),
            ("event=", "event must be"),
            ("since=1d", "since must be a time"),
            ("until=x", "until must be a time"),
            ("limit=0", "limit must be a number from 1 to 500"),
            ("limit=501", "limit must"),
            ("limit=-1", "limit must"),
            ("continue=42", "continue is not a token"),
            ("continue=%F0%9F%A6%80", "continue is not a token"),
        ] {
            let problem = parse_list("n", Some(query), NOW).unwrap_err();
            assert_eq!((problem.status, problem.reason), (400, "BadParameter"), "{query}");
            assert!(problem.detail.contains(part), "{query}: {}", problem.detail);
        }
        assert!(parse_payload(Some("payload=true")).unwrap());
        assert!(!parse_payload(Some("payload=false")).unwrap() && !parse_payload(None).unwrap());
        assert!(parse_payload(Some("payload=yes")).is_err() && parse_payload(Some("payloads=true")).is_err());
        assert!(reject_parameters(Some("")).is_ok() && reject_parameters(Some("a=b")).is_err());
    }

    #[test]
    fn parses_a_bulk_replay() {
        let (filter, rate) = parse_replay("n", b"{}", NOW).unwrap();
        assert_eq!(
            (filter.state, rate),
            (Some(DeliveryState::Dead), 50),
            "delivered ones are not replayed by default"
        );
        let body = br#"{"hook": "h", "state": "delivered", "since": "1h", "until": "1s", "rate": 7}"#;
        let (filter, rate) = parse_replay("n", body, NOW).unwrap();
        assert_eq!(
            (filter.hook.as_deref(), filter.state, rate),
            (Some("h"), Some(DeliveryState::Delivered), 7)
        );
        assert_eq!(filter.since, Some(Millis(NOW.0 - 3_600_000)));
        assert_eq!(filter.until, Some(Millis(NOW.0 - 1000)));
        for (body, part) in [
            ("", "JSON object"),
            ("[]", "JSON object"),
            (r#"{"hok": "h"}"#, "hok"),
            (r#"{"state": "pending"}"#, "state must not be pending"),
            (r#"{"state": "gone"}"#, "state must be one of"),
            (r#"{"rate": 0}"#, "rate must"),
            (r#"{"rate": 10001}"#, "rate must"),
            (r#"{"rate": "1"}"#, "u32"),
            (r#"{"since": "soon"}"#, "since must"),
            (r#"{"hook": "../x"}"#, "hook is"),
        ] {
            let problem = parse_replay("n", body.as_bytes(), NOW).unwrap_err();
            assert_eq!(problem.status, 400);
            assert!(problem.detail.contains(part), "{body}: {}", problem.detail);
        }
    }

    #[test]
    fn parses_a_bulk_cancellation() {
        let parsed = parse_cancel("n", b"{}", NOW).unwrap();
        assert_eq!((parsed.filter.state, parsed.before), (Some(DeliveryState::Pending), None));
        let body =
            format!(r#"{{"hook": "h", "state": "pending", "until": "1s", "continue": "{}"}}"#, page_token(7));
        let parsed = parse_cancel("n", body.as_bytes(), NOW).unwrap();
        assert_eq!((parsed.filter.hook.as_deref(), parsed.before), (Some("h"), Some(7)));
        assert_eq!(parsed.filter.until, Some(Millis(NOW.0 - 1000)));
        for (body, part) in [
            ("", "JSON object"),
            (r#"{"rate": 1}"#, "rate"),
            (r#"{"state": "dead"}"#, "state must be pending"),
            (r#"{"continue": "7"}"#, "continue is not a token"),
        ] {
            let problem = parse_cancel("n", body.as_bytes(), NOW).unwrap_err();
            assert!(problem.status == 400 && problem.detail.contains(part), "{body}: {}", problem.detail);
        }
    }

    proptest! {
        #[test]
        fn every_query_is_parsed_or_rejected_with_a_short_problem(
            query in "((hook|state|event|since|until|limit|continue|payload|x)=[ -~]{0,30}&?){0,4}|\\PC{0,200}",
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let problems = [
                parse_list("n", Some(&query), NOW).err(),
                parse_payload(Some(&query)).err(),
                reject_parameters(Some(&query)).err(),
                parse_replay("n", &body, NOW).err(),
                parse_cancel("n", &body, NOW).err(),
                parse_replay("n", query.as_bytes(), NOW).err(),
            ];
            for problem in problems.into_iter().flatten() {
                prop_assert!(problem.status == 400 && problem.detail.len() < 1024, "{}", problem.detail);
            }
        }

        #[test]
        fn page_tokens_round_trip(seq: DeliverySeq, arbitrary in "[A-Za-z0-9_-]{0,40}") {
            prop_assert_eq!(parse_page_token(&page_token(seq)), Some(seq));
            if let Some(read) = parse_page_token(&arbitrary) {
                prop_assert_eq!(parse_page_token(&page_token(read)), Some(read));
            }
        }
    }
}
