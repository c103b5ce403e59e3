//! Flags that select deliveries.

use clap::ValueEnum;

use crate::core::time::{Millis, parse_time_or_age};

/// Flags that select deliveries.
#[derive(clap::Args)]
pub struct SelectionArgs {
    /// Only deliveries of this hook.
    #[arg(long)]
    hook: Option<String>,
    /// Only deliveries in this state; `list` takes several, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    state: Vec<StateFlag>,
    /// Only deliveries of the event with this id.
    #[arg(long, value_name = "ID")]
    event: Option<String>,
    /// Only deliveries that were accepted at or after this time (2026-11-21T08:00:00Z), or within the last duration
    /// (1h30m).
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Millis>,
    /// Only deliveries that were accepted before this time, or before this duration ago.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Millis>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StateFlag {
    Pending,
    Delivered,
    Dead,
    Dropped,
    Cancelled,
}

/// Parses a point in time or an age.
pub fn parse_time(text: &str) -> Result<Millis, String> {
    parse_time_or_age(text, Millis::now()).map_err(ToOwned::to_owned)
}

impl SelectionArgs {
    /// Returns the given flags as query parameters, or as members of a body.
    pub fn query_pairs(&self) -> impl Iterator<Item = (&'static str, String)> {
        let states: Vec<_> = self.state.iter().filter_map(StateFlag::to_possible_value).collect();
        let states = states.iter().map(clap::builder::PossibleValue::get_name).collect::<Vec<_>>().join(",");
        [
            ("hook", self.hook.clone()),
            ("state", Some(states).filter(|states| !states.is_empty())),
            ("event", self.event.clone()),
            ("since", self.since.map(Millis::rfc3339)),
            ("until", self.until.map(Millis::rfc3339)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }
}
