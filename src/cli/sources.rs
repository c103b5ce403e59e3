//! `hookstream sources`: lists the events that Kong emits, and their fields.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::failure::{CommandResult, Failure};
use super::output::{self, HELP, OutputFormat, print_line};
use crate::core::catalogue;

/// List the known event sources, the events of one source, or the fields of one event.
///
/// The catalogue is built in. A gateway may have more sources, because custom plugins emit their own.
///
/// Example: hookstream sources rate-limiting-advanced rate-limit-exceeded
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// A source, such as crud.
    source: Option<String>,
    /// An event of the source.
    #[arg(requires = "source")]
    event: Option<String>,
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT", env = "HOOKSTREAM_OUTPUT", help = HELP)]
    output: OutputFormat,
}

pub fn run(args: Args) -> CommandResult {
    let names: Vec<&str> = [&args.source, &args.event].into_iter().flatten().map(String::as_str).collect();
    let found = catalogue::describe(&names).ok_or_else(|| {
        let (name, command) = match names.as_slice() {
            [source, event] => (format!("{source} {event}"), format!("hookstream sources {source}")),
            _ => (names.concat(), "hookstream sources".to_owned()),
        };
        Failure::new(format!("{name} is not in the catalogue: `{command}` lists the known names"))
    })?;
    if args.output != OutputFormat::Table {
        output::print_value(args.output, &json!({ "data": found }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = Vec::new();
    match names.as_slice() {
        [] => members(&found).for_each(|(source, events)| push_rows(source, events, &mut rows)),
        [source] => push_rows(source, &found, &mut rows),
        [source, event, ..] => rows.push(row(source, event, &found)),
    }
    let header = ["SOURCE", "EVENT", "FIELDS", "UNIQUE"];
    output::table_lines(header, rows.into_iter()).iter().for_each(|line| print_line(line));
    Ok(ExitCode::SUCCESS)
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn push_rows(source: &str, events: &Value, rows: &mut Vec<[String; 4]>) {
    rows.extend(members(events).map(|(event, details)| row(source, event, details)));
}

fn row(source: &str, event: &str, details: &Value) -> [String; 4] {
    let list = |name: &str| {
        let names =
            details.get(name).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        names.collect::<Vec<_>>().join(",")
    };
    [source.to_owned(), event.to_owned(), list("fields"), list("unique")]
}
