//! Parses the query of a list of hooks.

use super::shown_state::ShownState;
use crate::worker::api::keyset::Position;
use crate::worker::api::query::{
    CONTINUE, LIMIT, Page, Parameter, invalid_parameter, parse_page_parameter, parse_parameters,
};
use crate::worker::problem::HttpProblem;

const STATES: &str = "failing, held, notReady, deleting, paused, suspended, idle, delivering";
const ORDERS: &str = "name, state, pending, oldest, lastSuccess, p95";
/// The longest searched text in bytes: that of a name.
const MAX_TEXT: usize = 253;

/// The parameters of a list of hooks.
pub const HOOK_PARAMETERS: [Parameter; 7] = [
    Parameter::list(
        "state",
        "One or several of failing, held, notReady, deleting, paused, suspended, idle, delivering",
    ),
    Parameter::text("source", "The source that the hook names"),
    Parameter::text("event", "The event that the hook names"),
    Parameter::text("name", "A part of the name"),
    Parameter::text(
        "sort",
        "name (default), state (worst first), pending (most first), oldest (oldest pending delivery first), lastSuccess (longest ago first), p95 (slowest first)",
    ),
    LIMIT,
    CONTINUE,
];

/// The order of a list of hooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr)]
#[strum(serialize_all = "camelCase")]
pub enum HookOrder {
    #[default]
    Name,
    State,
    Pending,
    Oldest,
    LastSuccess,
    P95,
}

/// The query of a list of hooks.
#[derive(Debug, PartialEq)]
pub struct HookQuery {
    /// Empty: all.
    pub states: Vec<ShownState>,
    pub source: Option<String>,
    pub event: Option<String>,
    /// A part of the name.
    pub name: Option<String>,
    pub order: HookOrder,
    pub limit: usize,
    /// The page begins after it.
    pub after: Option<Position>,
}

impl HookQuery {
    pub fn selects_state(&self, state: ShownState) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }

    /// Returns whether the query selects hooks of this source and event.
    pub fn selects_event(&self, source: Option<&str>, event: Option<&str>) -> bool {
        let selects = |wanted: &Option<String>, own| wanted.is_none() || wanted.as_deref() == own;
        selects(&self.source, source) && selects(&self.event, event)
    }
}

/// Parses the query of a list of hooks.
pub fn parse_hooks(query: Option<&str>) -> Result<HookQuery, HttpProblem> {
    let mut page = Page::default();
    let mut parsed = HookQuery {
        states: Vec::new(),
        source: None,
        event: None,
        name: None,
        order: HookOrder::default(),
        limit: 0,
        after: None,
    };
    let mut token = None;
    for (name, value) in parse_parameters(query, &HOOK_PARAMETERS)? {
        match name {
            "state" => parsed.states = value.split(',').map(parse_state).collect::<Result<_, _>>()?,
            "source" => parsed.source = Some(parse_text(name, value)?),
            "event" => parsed.event = Some(parse_text(name, value)?),
            "name" => parsed.name = Some(parse_text(name, value)?),
            "sort" => {
                parsed.order = value
                    .parse()
                    .map_err(|_| invalid_parameter(name, &format!("must be one of {ORDERS}")))?;
            }
            "continue" => token = Some(value),
            _ => parse_page_parameter(name, &value, &mut page)?,
        }
    }
    parsed.limit = page.limit;
    parsed.after = token.map(|token| Position::parse(&token, parsed.order.into())).transpose()?;
    Ok(parsed)
}

fn parse_state(text: &str) -> Result<ShownState, HttpProblem> {
    text.parse().map_err(|_| invalid_parameter("state", &format!("must be one of {STATES}")))
}

fn parse_text(name: &str, text: String) -> Result<String, HttpProblem> {
    if (1..=MAX_TEXT).contains(&text.len()) {
        Ok(text)
    } else {
        Err(invalid_parameter(name, &format!("must have 1 to {MAX_TEXT} bytes")))
    }
}

#[cfg(test)]
mod tests {
    use strum::IntoEnumIterator;

    use super::*;

    #[test]
    fn parses_states_in_one_or_several_parameters() {
        let parsed =
            parse_hooks(Some("state=failing&state=held,idle&sort=p95&limit=7&name=a&source=s")).unwrap();
        assert_eq!(parsed.states, [ShownState::Failing, ShownState::Held, ShownState::Idle]);
        assert_eq!((parsed.order, parsed.limit, parsed.name.as_deref()), (HookOrder::P95, 7, Some("a")));
        let all: Vec<&str> = ShownState::iter().map(Into::into).collect();
        assert_eq!(all.join(", "), STATES);
        for (query, part) in [
            ("state=broken", "state must be one of failing"),
            ("sort=age", "sort must be one of name"),
            ("source=", "source must have"),
            ("limit=501", "limit must"),
            ("continue=x", "continue is not a token"),
            ("hook=a", "unknown parameter"),
        ] {
            let problem = parse_hooks(Some(query)).unwrap_err();
            assert!(problem.status == 400 && problem.detail.contains(part), "{query}: {}", problem.detail);
        }
    }

    #[test]
    fn token_belongs_to_its_order() {
        let token = Position { rank: 3, namespace: "n".into(), name: "h".into() }.token("state");
        assert_eq!(
            parse_hooks(Some(&format!("sort=state&continue={token}"))).unwrap().after.unwrap().rank,
            3
        );
        assert_eq!(
            parse_hooks(Some(&format!("continue={token}&sort=state"))).unwrap().after.unwrap().rank,
            3
        );
        assert!(parse_hooks(Some(&format!("continue={token}"))).is_err());
    }
}
