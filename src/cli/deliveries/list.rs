//! `hookstream deliveries list`: prints a page of deliveries, or follows them.

use std::process::ExitCode;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::follow;
use super::row::{Columns, DeliveryRow};
use super::selection::SelectionArgs;
use crate::cli::failure::{CommandResult, Failure, OrFail};
use crate::cli::output::{
    ListFormat, ListOutputArgs, OutputFormat, print_json, print_line, strip_control_chars, table_lines,
};
use crate::cli::worker_args::WorkerListArgs;
use crate::cli::worker_client::WorkerResponse;
use crate::core::time::Millis;

/// List deliveries, newest first.
///
/// Example: hookstream deliveries list -n shop --hook orders --state pending,dead --since 1h
/// Example: hookstream deliveries list -A --state dead --since 24h
/// Example: hookstream deliveries list -n shop --follow
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ListArgs {
    #[command(flatten)]
    pub scope: WorkerListArgs,
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// The maximum number of deliveries, 1 to 500.
    #[arg(long, default_value_t = 50)]
    pub limit: u32,
    /// Continue a list with the token that the previous page printed after --continue.
    #[arg(long = "continue", value_name = "TOKEN", conflicts_with = "follow")]
    token: Option<String>,
    /// Print the list, oldest first, and then each change as it happens, until Ctrl-C. Not with the formats json and yaml.
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    pub output: ListOutputArgs,
}

/// A page. Its items are unchanged, for the formats of programs.
#[derive(Deserialize)]
pub struct ListBody<'a> {
    #[serde(borrow)]
    pub items: Vec<&'a RawValue>,
    #[serde(rename = "continue")]
    pub next: Option<String>,
}

pub async fn run(args: ListArgs) -> CommandResult {
    let format = args.output.format();
    if args.follow {
        return follow::run(args, format).await;
    }
    let worker = args.scope.connect().await?;
    let mut url = args.scope.url(&worker, "deliveries")?;
    url.query_pairs_mut()
        .extend_pairs(args.selection.query_pairs())
        .append_pair("limit", &args.limit.to_string());
    if let Some(token) = &args.token {
        url.query_pairs_mut().append_pair("continue", token);
    }
    let response = worker.get(url).await?.success(2)?;
    let columns = Columns::of(args.scope.all_namespaces, format == ListFormat::Wide);
    print_page(&response, format, "deliveries", |items| table(items, columns, Millis::now()))?;
    let page: ListBody<'_> = response.json()?;
    if page.items.is_empty() && page.next.is_none() && is_for_people(format) {
        args.scope.report_none("delivery");
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns true for tables.
pub fn is_for_people(format: ListFormat) -> bool {
    matches!(format, ListFormat::Table | ListFormat::Wide)
}

/// Prints a page of a list. `table` gets the items.
pub fn print_page(
    response: &WorkerResponse,
    format: ListFormat,
    what: &str,
    table: impl FnOnce(&[&RawValue]) -> Result<Vec<String>, Failure>,
) -> Result<(), Failure> {
    let page: ListBody<'_> = response.json()?;
    match format {
        ListFormat::Json => print_json(OutputFormat::Json, response.json()?)?,
        ListFormat::Yaml => print_json(OutputFormat::Yaml, response.json()?)?,
        ListFormat::Jsonl => page.items.iter().for_each(|item| print_line(item.get())),
        ListFormat::Name => {
            for item in &page.items {
                print_line(&strip_control_chars(&parse::<NamedItem>(item)?.id));
            }
        }
        ListFormat::Table | ListFormat::Wide => {
            table(&page.items)?.iter().for_each(|line| print_line(line));
            // In a pipe too: a program that reads the table must not take a page for the whole.
            if let Some(next) = &page.next {
                print_line(&format!("More {what}: --continue {}", strip_control_chars(next)));
            }
        }
    }
    // The other formats have the token in the list.
    if let (ListFormat::Jsonl | ListFormat::Name, Some(next)) = (format, &page.next) {
        eprintln!("hookstream: more {what}: --continue {}", strip_control_chars(next));
    }
    Ok(())
}

#[derive(Deserialize)]
struct NamedItem {
    id: String,
}

/// Parses an item of a list.
pub fn parse<'a, T: Deserialize<'a>>(item: &'a RawValue) -> Result<T, Failure> {
    serde_json::from_str(item.get()).or_fail(|| "reading the worker's response".into())
}

fn table(items: &[&RawValue], columns: Columns, now: Millis) -> Result<Vec<String>, Failure> {
    let rows = items.iter().map(|item| parse(item)).collect::<Result<Vec<DeliveryRow>, _>>()?;
    Ok(table_lines(columns.header(), rows.iter().map(|row| columns.cells(row, now))))
}
