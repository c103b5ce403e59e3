//! `hookstream events`: lists accepted events.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::ValueEnum;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::deliveries::list::{is_for_people, parse, print_page};
use super::deliveries::selection::parse_time;
use super::failure::{CommandResult, Failure};
use super::output::{ListOutputArgs, short_duration, strip_control_chars, table_lines};
use super::worker_args::WorkerApiArgs;
use super::worker_client::WorkerResponse;
use crate::core::time::Millis;

/// List events. `deliveries explain` says why the hooks did or did not match one.
///
/// Example: hookstream events list -n shop --source crud --since 1h
#[derive(clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub enum EventsCommand {
    List(ListArgs),
}

/// List accepted events, newest first, with those that no hook matched (kept for the worker's --unmatched-age).
///
/// Example: hookstream events list -n shop --source crud --outcome unmatched --since 1h
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ListArgs {
    #[command(flatten)]
    api: WorkerApiArgs,
    /// Only events of this source, such as crud.
    #[arg(long)]
    source: Option<String>,
    /// Only events of this name, such as consumers.
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// Only events of which this hook has a delivery.
    #[arg(long)]
    hook: Option<String>,
    /// Only events that came this way: api, relay or relay/HOOK (Kong), stream or stream/EVENTSTREAM (Auth0).
    #[arg(long)]
    origin: Option<String>,
    /// Only events with this outcome: at least one delivery (matched), none, or at least one that is dropped or dead.
    #[arg(long, value_enum)]
    outcome: Option<OutcomeFlag>,
    /// Only events whose id contains this text; with --payload, also those whose data as JSON text contains it.
    #[arg(long)]
    text: Option<String>,
    /// Only events that were accepted at or after this time (2026-11-21T08:00:00Z), or within the last duration (1h30m).
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Millis>,
    /// Only events that were accepted before this time, or before this duration ago.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Millis>,
    /// Show the events' data too. Requires permission to get deliveries/payload.
    #[arg(long)]
    payload: bool,
    /// The maximum number of events, 1 to 500.
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// Continue a list with the token that the previous page printed after --continue.
    #[arg(long = "continue", value_name = "TOKEN")]
    token: Option<String>,
    #[command(flatten)]
    output: ListOutputArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutcomeFlag {
    Matched,
    Unmatched,
    Dropped,
    Dead,
}

/// An event of the worker's response.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EventRow {
    id: String,
    source: String,
    event: String,
    origin: String,
    accepted_time: String,
    outcome: String,
    deliveries: BTreeMap<String, u64>,
    hooks: Vec<String>,
    data: Option<Box<RawValue>>,
}

pub async fn run(command: EventsCommand) -> CommandResult {
    match command {
        EventsCommand::List(args) => list(args).await,
    }
}

async fn list(args: ListArgs) -> CommandResult {
    let worker = args.api.connect().await?;
    let namespace = &args.api.caller.namespace;
    let outcome = args.outcome.and_then(|outcome| outcome.to_possible_value());
    let parameters = [
        ("source", args.source),
        ("event", args.event),
        ("hook", args.hook),
        ("origin", args.origin),
        ("outcome", outcome.map(|outcome| outcome.get_name().to_owned())),
        ("text", args.text),
        ("since", args.since.map(Millis::rfc3339)),
        ("until", args.until.map(Millis::rfc3339)),
        ("payload", args.payload.then(|| "true".to_owned())),
        ("continue", args.token),
    ];
    let mut url = worker.url(namespace, &["events"])?;
    url.query_pairs_mut()
        .extend_pairs(parameters.into_iter().filter_map(|(name, value)| Some((name, value?))))
        .append_pair("limit", &args.limit.to_string());
    let response: WorkerResponse = worker.get(url).await?.success(2)?;
    let format = args.output.format();
    let with_data = args.payload;
    print_page(&response, format, "events", |items, is_wide| {
        table(items, is_wide, with_data, Millis::now())
    })?;
    let page: super::deliveries::list::ListBody<'_> = response.json()?;
    if page.items.is_empty() && page.next.is_none() && is_for_people(format) {
        eprintln!("hookstream: no matching event in namespace {namespace}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the lines of a table. `with_data`: with a column for the data.
fn table(items: &[&RawValue], is_wide: bool, with_data: bool, now: Millis) -> Result<Vec<String>, Failure> {
    let rows = items.iter().map(|item| parse(item)).collect::<Result<Vec<EventRow>, _>>()?;
    let cells = |row: &EventRow| {
        let age =
            Millis::parse(&row.accepted_time).map(|at| short_duration(now.since(at))).unwrap_or_default();
        let deliveries: Vec<String> =
            row.deliveries.iter().map(|(state, n)| format!("{n} {state}")).collect();
        [&age, &row.source, &row.event, &row.outcome, &deliveries.join(", "), &row.id]
            .map(|cell| strip_control_chars(cell))
    };
    let header = ["AGE", "SOURCE", "EVENT", "OUTCOME", "DELIVERIES", "ID"];
    let data = |row: &EventRow| strip_control_chars(row.data.as_ref().map_or("", |data| data.get()));
    Ok(match (is_wide, with_data) {
        (false, false) => table_lines(header, rows.iter().map(cells)),
        (false, true) => {
            let [age, source, event, outcome, deliveries, id] = header;
            let with = |row: &EventRow| {
                let [age, source, event, outcome, deliveries, id] = cells(row);
                [age, source, event, outcome, deliveries, id, data(row)]
            };
            table_lines([age, source, event, outcome, deliveries, id, "DATA"], rows.iter().map(with))
        }
        (true, _) => {
            let [age, source, event, outcome, deliveries, id] = header;
            let with = |row: &EventRow| {
                let [age, source, event, outcome, deliveries, id] = cells(row);
                let [origin, accepted, hooks] = [&row.origin, &row.accepted_time, &row.hooks.join(",")]
                    .map(|cell| strip_control_chars(cell));
                [age, source, event, outcome, deliveries, id, origin, accepted, hooks, data(row)]
            };
            let header = [age, source, event, outcome, deliveries, id, "ORIGIN", "ACCEPTED", "HOOKS", "DATA"];
            table_lines(header, rows.iter().map(with))
        }
    })
}
