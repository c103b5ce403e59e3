//! What a request asks for. Whatever is not understood is refused by its name: a filter that is silently left out shows
//! what was not asked for, or replays it.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use url::form_urlencoded;

use super::MAX_EVENT_ID;
use crate::core::time::{Millis, point};
use crate::worker::problem::Problem;
use crate::worker::request::is_name;
use crate::worker::store::{Filter, Seq, State};

/// Deliveries on a page: by default, and at most.
const LIMIT: usize = 50;
const MAX_LIMIT: usize = 500;
/// Deliveries a second that a replay of many makes: by default, and at most.
const RATE: u32 = 50;
const MAX_RATE: u32 = 10_000;
const STATES: &str = "pending, delivered, dead, dropped, cancelled";

/// A page that is asked for.
#[derive(Debug, PartialEq)]
pub struct Page {
    pub filter: Filter,
    pub before: Option<Seq>,
    pub limit: usize,
}

/// Reads the query of a list.
pub fn list(namespace: &str, query: Option<&str>, now: Millis) -> Result<Page, Problem> {
    let filter = Filter { namespace: namespace.to_owned(), ..Filter::default() };
    let mut page = Page { filter, before: None, limit: LIMIT };
    let known = ["hook", "state", "event", "since", "until", "limit", "continue"];
    for (name, value) in parameters(query, &known)? {
        let filter = &mut page.filter;
        match name {
            "hook" => filter.hook = Some(hook(value)?),
            "state" => filter.state = Some(state(&value)?),
            "event" => filter.event = Some(event(value)?),
            "since" | "until" => {
                let at = point(&value, now).map_err(|why| bad(name, why))?;
                let place = if name == "since" { &mut filter.since } else { &mut filter.until };
                *place = Some(at);
            }
            "limit" => {
                page.limit = value
                    .parse()
                    .ok()
                    .filter(|limit| (1..=MAX_LIMIT).contains(limit))
                    .ok_or_else(|| bad(name, &format!("must be a number from 1 to {MAX_LIMIT}")))?;
            }
            _ => page.before = Some(read_token(&value).ok_or_else(|| bad(name, "is none of ours"))?),
        }
    }
    Ok(page)
}

/// Reads the query of one delivery: whether its payload is asked for.
pub fn payload(query: Option<&str>) -> Result<bool, Problem> {
    match parameters(query, &["payload"])?.first() {
        None => Ok(false),
        Some((name, value)) => value.parse().map_err(|_| bad(name, "must be true or false")),
    }
}

/// Nothing can be asked.
pub fn none(query: Option<&str>) -> Result<(), Problem> {
    parameters(query, &[]).map(drop)
}

/// The body of a replay of many.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Many {
    hook: Option<String>,
    state: Option<String>,
    event: Option<String>,
    since: Option<String>,
    until: Option<String>,
    rate: Option<u32>,
}

/// Reads the body of a replay of many: which ones, and how many a second.
pub fn replay(namespace: &str, body: &[u8], now: Millis) -> Result<(Filter, u32), Problem> {
    let many: Many = serde_json::from_slice(body).map_err(|e| {
        Problem::new(
            400,
            "BadBody",
            format!("the body must be a JSON object such as {{\"hook\": \"h\"}}: {e}"),
        )
    })?;
    let at = |name, text: Option<String>| {
        text.map(|text| point(&text, now).map_err(|why| bad(name, why))).transpose()
    };
    let filter = Filter {
        namespace: namespace.to_owned(),
        hook: many.hook.map(hook).transpose()?,
        // What was delivered is repeated only where that is said: nobody means it by leaving a word out.
        state: Some(many.state.as_deref().map_or(Ok(State::Dead), state)?),
        event: many.event.map(event).transpose()?,
        since: at("since", many.since)?,
        until: at("until", many.until)?,
    };
    if filter.state == Some(State::Pending) {
        return Err(bad("state", "must not be pending: what waits is sent anyway"));
    }
    let rate = many.rate.unwrap_or(RATE);
    if !(1..=MAX_RATE).contains(&rate) {
        return Err(bad("rate", &format!("must be from 1 to {MAX_RATE} deliveries a second")));
    }
    Ok((filter, rate))
}

/// What the next page is asked by.
pub fn token(before: Seq) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("1.{before}"))
}

fn read_token(text: &str) -> Option<Seq> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    std::str::from_utf8(&bytes).ok()?.strip_prefix("1.")?.parse().ok()
}

fn parameters<'k>(query: Option<&str>, known: &[&'k str]) -> Result<Vec<(&'k str, String)>, Problem> {
    let mut found: Vec<(&'k str, String)> = Vec::new();
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        let Some(known) = known.iter().find(|known| **known == name) else {
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let shown: String = name.chars().take(64).collect();
            let why = format!("the parameter {shown:?} is not known here (known: {known})");
            return Err(Problem::new(400, "BadParameter", why));
        };
        if found.iter().any(|(name, _)| name == known) {
            return Err(bad(known, "was given twice"));
        }
        found.push((known, value.into_owned()));
    }
    Ok(found)
}

fn hook(name: String) -> Result<String, Problem> {
    if is_name(&name, 253) { Ok(name) } else { Err(bad("hook", "is no possible name")) }
}

fn event(id: String) -> Result<String, Problem> {
    let fits = (1..=MAX_EVENT_ID).contains(&id.len());
    if fits { Ok(id) } else { Err(bad("event", &format!("must be an id of 1 to {MAX_EVENT_ID} bytes"))) }
}

fn state(text: &str) -> Result<State, Problem> {
    text.parse().map_err(|_| bad("state", &format!("must be one of {STATES}")))
}

fn bad(name: &str, why: &str) -> Problem {
    Problem::new(400, "BadParameter", format!("{name} {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Millis = Millis(1_700_000_000_000);

    #[test]
    fn a_list_is_asked_for() {
        let none = list("n", None, NOW).unwrap();
        assert_eq!((none.limit, none.before), (50, None));
        assert_eq!(none.filter, Filter { namespace: "n".into(), ..Filter::default() });
        let next = token(42);
        let query = format!(
            "hook=a.b-c&state=dead&event=x%2Fy&since=1h&until=2023-11-14T22:13:20Z&limit=500&continue={next}"
        );
        let all = list("n", Some(&query), NOW).unwrap();
        let filter = Filter {
            namespace: "n".into(),
            hook: Some("a.b-c".into()),
            state: Some(State::Dead),
            event: Some("x/y".into()),
            since: Some(Millis(NOW.0 - 3_600_000)),
            until: Some(NOW),
        };
        assert_eq!(all, Page { filter, before: Some(42), limit: 500 });
    }

    #[test]
    fn what_is_not_understood_is_refused_by_its_name() {
        for (query, part) in [
            ("hok=a", "\"hok\" is not known"),
            ("hook=A", "hook is no possible name"),
            ("hook=", "hook is"),
            ("hook=a&hook=b", "hook was given twice"),
            ("state=Dead", "state must be one of pending, delivered"),
            ("event=", "event must be"),
            ("since=1d", "since must be a time"),
            ("until=x", "until must be a time"),
            ("limit=0", "limit must be a number from 1 to 500"),
            ("limit=501", "limit must"),
            ("limit=-1", "limit must"),
            ("continue=42", "continue is none of ours"),
            ("continue=%F0%9F%A6%80", "continue is none of ours"),
        ] {
            let problem = list("n", Some(query), NOW).unwrap_err();
            assert_eq!((problem.status, problem.reason), (400, "BadParameter"), "{query}");
            assert!(problem.detail.contains(part), "{query}: {}", problem.detail);
        }
        assert!(payload(Some("payload=true")).unwrap());
        assert!(!payload(Some("payload=false")).unwrap() && !payload(None).unwrap());
        assert!(payload(Some("payload=yes")).is_err() && payload(Some("payloads=true")).is_err());
        assert!(none(Some("")).is_ok() && none(Some("a=b")).is_err());
    }

    #[test]
    fn a_replay_of_many_is_asked_for() {
        let (filter, rate) = replay("n", b"{}", NOW).unwrap();
        assert_eq!((filter.state, rate), (Some(State::Dead), 50), "what was delivered is left alone");
        let body = br#"{"hook": "h", "state": "delivered", "since": "1h", "until": "1s", "rate": 7}"#;
        let (filter, rate) = replay("n", body, NOW).unwrap();
        assert_eq!((filter.hook.as_deref(), filter.state, rate), (Some("h"), Some(State::Delivered), 7));
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
            let problem = replay("n", body.as_bytes(), NOW).unwrap_err();
            assert_eq!(problem.status, 400);
            assert!(problem.detail.contains(part), "{body}: {}", problem.detail);
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_is_read_or_refused_in_a_few_words(
            query in "((hook|state|event|since|until|limit|continue|payload|x)=[ -~]{0,30}&?){0,4}|\\PC{0,200}",
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let refused = [
                list("n", Some(&query), NOW).err(),
                payload(Some(&query)).err(),
                none(Some(&query)).err(),
                replay("n", &body, NOW).err(),
                replay("n", query.as_bytes(), NOW).err(),
            ];
            for problem in refused.into_iter().flatten() {
                prop_assert!(problem.status == 400 && problem.detail.len() < 1024, "{}", problem.detail);
            }
        }

        #[test]
        fn a_page_goes_on_where_the_last_one_ended(seq: Seq, strange in "[A-Za-z0-9_-]{0,40}") {
            prop_assert_eq!(read_token(&token(seq)), Some(seq));
            if let Some(read) = read_token(&strange) {
                prop_assert_eq!(read_token(&token(read)), Some(read));
            }
        }
    }
}
