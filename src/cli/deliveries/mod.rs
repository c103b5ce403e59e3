//! `hookstream deliveries`: lists, shows, explains, replays and cancels deliveries.

mod print;
mod replay;

use std::process::ExitCode;

use clap::ValueEnum;
use serde::Deserialize;
use uuid::Uuid;

use super::failure::CommandResult;
use super::output::{HELP, OutputFormat, print_line, strip_control_chars};
use super::worker_args::WorkerApiArgs;
use super::worker_client::WorkerResponse;
use crate::core::time::{Millis, parse_time_or_age};
use replay::ReplayArgs;

/// List, show, explain, replay and cancel deliveries.
///
/// Example: hookstream deliveries list -n shop --state dead --since 1h
#[derive(clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub enum DeliveriesCommand {
    List(ListArgs),
    Show(ShowArgs),
    Explain(ExplainArgs),
    Replay(ReplayArgs),
    Cancel(CancelArgs),
}

/// Flags that select deliveries.
#[derive(clap::Args)]
struct SelectionArgs {
    /// Only deliveries of this hook.
    #[arg(long)]
    hook: Option<String>,
    /// Only deliveries in this state.
    #[arg(long, value_enum)]
    state: Option<StateFlag>,
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

/// List deliveries, newest first.
///
/// Example: hookstream deliveries list -n shop --hook orders --state dead --since 1h
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ListArgs {
    #[command(flatten)]
    api: WorkerApiArgs,
    #[command(flatten)]
    selection: SelectionArgs,
    /// The maximum number of deliveries, 1 to 500.
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// Continue a list with the token that the previous page printed after --continue.
    #[arg(long = "continue", value_name = "TOKEN")]
    token: Option<String>,
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT", env = "HOOKSTREAM_OUTPUT", help = HELP)]
    output: OutputFormat,
}

/// Show a delivery with its attempts. Exit code 1: the delivery is dead.
///
/// Example: hookstream deliveries show -n shop 01a201d0-e928-7748-a797-9272c188e8bd
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ShowArgs {
    #[command(flatten)]
    api: WorkerApiArgs,
    /// The delivery's id, which is its webhook-id.
    #[arg(value_parser = parse_id)]
    id: Uuid,
    /// Show the event's data too. Requires permission to get deliveries/payload.
    #[arg(long)]
    payload: bool,
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT", env = "HOOKSTREAM_OUTPUT", help = HELP)]
    output: OutputFormat,
}

/// Explain an event: the outcome of each delivery, and why other hooks did not match.
///
/// Example: hookstream deliveries explain -n shop order-1
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ExplainArgs {
    #[command(flatten)]
    api: WorkerApiArgs,
    /// The event's id.
    event: String,
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT", env = "HOOKSTREAM_OUTPUT", help = HELP)]
    output: OutputFormat,
}

/// Cancel a pending delivery. An attempt in flight may still reach the receiver.
///
/// Example: hookstream deliveries cancel -n shop 01a201d0-e928-7748-a797-9272c188e8bd
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct CancelArgs {
    #[command(flatten)]
    api: WorkerApiArgs,
    /// The delivery's id.
    #[arg(value_parser = parse_id)]
    id: Uuid,
}

/// Parses the id of a delivery. Ids of events are chosen by their publishers and rarely look like one.
fn parse_id(text: &str) -> Result<Uuid, String> {
    Uuid::parse_str(text).map_err(|_| {
        format!(
            "is not the id of a delivery; of an event, `hookstream deliveries list --event {text:.64}` shows the deliveries"
        )
    })
}

fn parse_time(text: &str) -> Result<Millis, String> {
    parse_time_or_age(text, Millis::now()).map_err(ToOwned::to_owned)
}

impl SelectionArgs {
    /// Returns the given flags as query parameters.
    fn query_pairs(&self) -> impl Iterator<Item = (&'static str, String)> {
        let state = self.state.and_then(|state| state.to_possible_value());
        [
            ("hook", self.hook.clone()),
            ("state", state.map(|state| state.get_name().to_owned())),
            ("event", self.event.clone()),
            ("since", self.since.map(Millis::rfc3339)),
            ("until", self.until.map(Millis::rfc3339)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }
}

pub async fn run(command: DeliveriesCommand) -> CommandResult {
    match command {
        DeliveriesCommand::List(args) => list(args).await,
        DeliveriesCommand::Show(args) => show(args).await,
        DeliveriesCommand::Explain(args) => explain(args).await,
        DeliveriesCommand::Replay(args) => replay::run(args).await,
        DeliveriesCommand::Cancel(args) => cancel(args).await,
    }
}

async fn list(args: ListArgs) -> CommandResult {
    let worker = args.api.connect().await?;
    let mut url = worker.url(&args.api.caller.namespace, &["deliveries"])?;
    url.query_pairs_mut()
        .extend_pairs(args.selection.query_pairs())
        .append_pair("limit", &args.limit.to_string());
    if let Some(token) = &args.token {
        url.query_pairs_mut().append_pair("continue", token);
    }
    let response = worker.get(url).await?.success(2)?;
    print::print_response(&response, args.output, print::list_table)?;
    if args.output == OutputFormat::Table && print::is_empty_list(&response)? {
        // Name the namespace, because a misspelt namespace looks like an idle one.
        eprintln!("hookstream: no matching delivery in namespace {}", args.api.caller.namespace);
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(args: ShowArgs) -> CommandResult {
    let worker = args.api.connect().await?;
    let mut url = worker.url(&args.api.caller.namespace, &["deliveries", &args.id.to_string()])?;
    if args.payload {
        url.set_query(Some("payload=true"));
    }
    let response = worker.get(url).await?.success(2)?;
    print::print_response(&response, args.output, print::delivery_table)?;
    let delivery: print::DeliveryBody = response.json()?;
    Ok(ExitCode::from(u8::from(delivery.state == "dead")))
}

async fn explain(args: ExplainArgs) -> CommandResult {
    let worker = args.api.connect().await?;
    let url = worker.url(&args.api.caller.namespace, &["events", &args.event, "explain"])?;
    let response = worker.get(url).await?.success(2)?;
    print::print_response(&response, args.output, print::explanation_table)?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Deserialize)]
struct DeliveryStatus {
    state: String,
}

async fn cancel(args: CancelArgs) -> CommandResult {
    let worker = args.api.connect().await?;
    let url = worker.url(&args.api.caller.namespace, &["deliveries", &args.id.to_string(), "cancel"])?;
    // 409 is a finding: a finished delivery cannot be cancelled.
    let response = worker.post(url, Vec::new()).await?;
    let rejected_code = if response.status.as_u16() == 409 { 1 } else { 2 };
    print_new_state(&response.success(rejected_code)?, args.id, "cancelled")
}

fn print_new_state(response: &WorkerResponse, id: Uuid, action: &str) -> CommandResult {
    let status: DeliveryStatus = response.json()?;
    print_line(&format!("{id} {action}, state: {}", strip_control_chars(&status.state)));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        command: DeliveriesCommand,
    }

    #[test]
    fn replay_needs_an_id_or_a_selection() {
        let id = "01a201d0-e928-7748-a797-9272c188e8bd";
        for (args, is_valid) in [
            (&["replay", "-n", "x", id][..], true),
            (&["replay", "-n", "x"], false),
            (&["replay", "-n", "x", "--rate", "5"], false),
            (&["replay", "-n", "x", "--state", "dead", "--rate", "5", "--wait"], true),
            (&["replay", "-n", "x", id, "--hook", "h"], false),
            (&["replay", "-n", "x", id, "--wait"], false),
            (&["replay", "-n", "x", id, "--dry-run"], false),
            (&["replay", "-n", "x", "--hook", "h", "--dry-run"], true),
            (&["replay", "-n", "x", "--hook", "h", "--dry-run", "--wait"], false),
            (&["replay", "-n", "x", "no-id"], false),
            (&["list", "-n", "x", "--since", "1d"], false),
            (&["list", "-n", "x", "--since", "1h", "--state", "dropped"], true),
            (&["list"], true),
        ] {
            let parsed = Cli::try_parse_from(["deliveries"].iter().chain(args));
            assert_eq!(parsed.is_ok(), is_valid, "{args:?}");
        }
    }
}
