//! `hookstream sources`: the events that Kong emits, and their fields.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::output::{self, HELP, Output};
use super::{Failure, Outcome, say};
use crate::core::catalogue;

/// List the known sources of events, the events of one, or the fields of one event.
///
/// The catalogue is built in. A gateway may have more: custom plugins emit their own.
///
/// Example: hookstream sources rate-limiting-advanced rate-limit-exceeded
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// A source, such as crud.
    source: Option<String>,
    /// One of its events.
    #[arg(requires = "source")]
    event: Option<String>,
    #[arg(short, long, value_enum, default_value_t = Output::Table, env = "HOOKSTREAM_OUTPUT", help = HELP)]
    output: Output,
}

pub fn run(args: Args) -> Outcome {
    let names: Vec<&str> = [&args.source, &args.event].into_iter().flatten().map(String::as_str).collect();
    let found = catalogue::told(&names).ok_or_else(|| {
        let (what, list) = match names.as_slice() {
            [source, event] => (format!("{source} {event}"), format!("hookstream sources {source}")),
            _ => (names.concat(), "hookstream sources".to_owned()),
        };
        Failure::new(format!("{what} is not in the catalogue: {list} lists what is"))
    })?;
    if args.output != Output::Table {
        output::print(args.output, &json!({ "data": found }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = Vec::new();
    match names.as_slice() {
        [] => members(&found).for_each(|(source, events)| rows_of(source, events, &mut rows)),
        [source] => rows_of(source, &found, &mut rows),
        [source, event, ..] => rows.push(row(source, event, &found)),
    }
    let head = ["SOURCE", "EVENT", "FIELDS", "UNIQUE"];
    output::table(head, rows.into_iter()).iter().for_each(|line| say(line));
    Ok(ExitCode::SUCCESS)
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn rows_of(source: &str, events: &Value, rows: &mut Vec<[String; 4]>) {
    rows.extend(members(events).map(|(event, about)| row(source, event, about)));
}

fn row(source: &str, event: &str, about: &Value) -> [String; 4] {
    let list = |name: &str| {
        let names = about.get(name).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        names.collect::<Vec<_>>().join(",")
    };
    [source.to_owned(), event.to_owned(), list("fields"), list("unique")]
}
