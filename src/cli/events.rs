//! `hookstream events`: lists accepted events.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::ValueEnum;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::deliveries::list::{is_for_people, parse, print_page};
use super::deliveries::selection::parse_time;
use super::failure::{CommandResult, Failure};
use super::output::{ListFormat, ListOutputArgs, short_duration, strip_control_chars, table_lines};
use super::worker_args::WorkerListArgs;
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
/// Example: hookstream events list -A --text order-1
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ListArgs {
    #[command(flatten)]
    scope: WorkerListArgs,
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
    /// Absent in responses of older workers.
    #[serde(default)]
    namespace: String,
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
    let worker = args.scope.connect().await?;
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
    let mut url = args.scope.url(&worker, "events")?;
    url.query_pairs_mut()
        .extend_pairs(parameters.into_iter().filter_map(|(name, value)| Some((name, value?))))
        .append_pair("limit", &args.limit.to_string());
    let response: WorkerResponse = worker.get(url).await?.success(2)?;
    let format = args.output.format();
    let shown = ShownColumns {
        namespace: args.scope.all_namespaces,
        wide: format == ListFormat::Wide,
        data: format == ListFormat::Wide || args.payload,
    };
    print_page(&response, format, "events", |items| table(items, shown, Millis::now()))?;
    let page: super::deliveries::list::ListBody<'_> = response.json()?;
    if page.items.is_empty() && page.next.is_none() && is_for_people(format) {
        args.scope.report_none("event");
    }
    Ok(ExitCode::SUCCESS)
}

/// The columns of a table besides the usual ones.
#[derive(Clone, Copy)]
struct ShownColumns {
    namespace: bool,
    wide: bool,
    data: bool,
}

impl ShownColumns {
    /// Returns the header and the cells of these columns.
    fn select<T, const N: usize>(self, namespace: T, usual: [T; N], wide: [T; 3], data: T) -> Vec<T> {
        let wide = wide.into_iter().filter(|_| self.wide);
        let namespace = Some(namespace).filter(|_| self.namespace);
        namespace.into_iter().chain(usual).chain(wide).chain(Some(data).filter(|_| self.data)).collect()
    }
}

/// Returns the lines of a table.
fn table(items: &[&RawValue], shown: ShownColumns, now: Millis) -> Result<Vec<String>, Failure> {
    let rows = items.iter().map(|item| parse(item)).collect::<Result<Vec<EventRow>, _>>()?;
    let cells = |row: &EventRow| {
        let age =
            Millis::parse(&row.accepted_time).map(|at| short_duration(now.since(at))).unwrap_or_default();
        let deliveries: Vec<String> =
            row.deliveries.iter().map(|(state, n)| format!("{n} {state}")).collect();
        let (deliveries, hooks) = (deliveries.join(", "), row.hooks.join(","));
        let usual = [age.as_str(), &row.source, &row.event, &row.outcome, &deliveries, &row.id];
        let wide = [row.origin.as_str(), &row.accepted_time, &hooks];
        let data = row.data.as_ref().map_or("", |data| data.get());
        let cells = shown.select(row.namespace.as_str(), usual, wide, data);
        cells.into_iter().map(strip_control_chars).collect::<Vec<_>>()
    };
    let usual = ["AGE", "SOURCE", "EVENT", "OUTCOME", "DELIVERIES", "ID"];
    let header = shown.select("NAMESPACE", usual, ["ORIGIN", "ACCEPTED", "HOOKS"], "DATA");
    Ok(table_lines(header, rows.iter().map(cells)))
}
