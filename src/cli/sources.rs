//! `hookstream sources`: lists the events that Kong emits, and their fields.

use std::process::ExitCode;

use serde::Serialize;

use super::failure::{CommandResult, Failure};
use super::output::{self, HELP, ItemList, OutputFormat, print_line, strip_control_chars};
use crate::core::catalogue::{CatalogueSource, SOURCES};
use crate::core::suggest::did_you_mean;

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

/// An event of the list.
#[derive(Serialize)]
struct ListedEvent {
    source: &'static str,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'static str>,
    fields: &'static [&'static str],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    unique: &'static [&'static str],
}

pub fn run(args: Args) -> CommandResult {
    let items = match &args.source {
        None => SOURCES.iter().flat_map(events_of).collect(),
        Some(name) => {
            let source = SOURCES.iter().find(|source| source.name == name);
            let source = source.ok_or_else(|| unknown(name, SOURCES.iter().map(|source| source.name), ""))?;
            let all: Vec<ListedEvent> = events_of(source).collect();
            match &args.event {
                None => all,
                Some(name) => {
                    let one: Vec<ListedEvent> =
                        events_of(source).filter(|listed| listed.event == name).collect();
                    if one.is_empty() {
                        let command = format!(" {}", source.name);
                        return Err(unknown(name, all.iter().map(|listed| listed.event), &command));
                    }
                    one
                }
            }
        }
    };
    match args.output {
        OutputFormat::Table => {
            let header = ["SOURCE", "EVENT", "FIELDS", "UNIQUE"];
            let rows = items.iter().map(|listed| {
                [
                    listed.source.to_owned(),
                    listed.event.to_owned(),
                    listed.fields.join(","),
                    listed.unique.join(","),
                ]
            });
            output::table_lines(header, rows).iter().for_each(|line| print_line(line));
        }
        other => output::print_value(other, &ItemList { items })?,
    }
    Ok(ExitCode::SUCCESS)
}

fn events_of(source: &'static CatalogueSource) -> impl Iterator<Item = ListedEvent> {
    source.events.iter().map(|event| ListedEvent {
        source: source.name,
        event: event.name,
        description: event.description,
        fields: event.fields,
        unique: event.unique,
    })
}

fn unknown<'c>(name: &str, known: impl Iterator<Item = &'c str>, command: &str) -> Failure {
    let suggestion = did_you_mean(name, known);
    let name = strip_control_chars(name);
    Failure::new(format!(
        "{name} is not in the catalogue{suggestion} (`hookstream sources{command}` lists the known names)"
    ))
}
