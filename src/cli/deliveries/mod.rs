//! `hookstream deliveries`: lists, shows, explains, replays and cancels deliveries.

mod cancel;
mod follow;
pub(super) mod list;
mod print;
mod replay;
mod row;
pub(super) mod selection;

use std::process::ExitCode;

use serde::Deserialize;
use uuid::Uuid;

use super::failure::CommandResult;
use super::output::{HELP, OutputFormat, print_line, strip_control_chars};
use super::worker_args::WorkerApiArgs;
use super::worker_client::WorkerResponse;
use cancel::CancelArgs;
use list::ListArgs;
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

/// Parses the id of a delivery. Ids of events are chosen by their publishers and rarely look like one.
fn parse_id(text: &str) -> Result<Uuid, String> {
    Uuid::parse_str(text).map_err(|_| {
        format!(
            "is not the id of a delivery; of an event, `hookstream deliveries list --event {text:.64}` shows the deliveries"
        )
    })
}

pub async fn run(command: DeliveriesCommand) -> CommandResult {
    match command {
        DeliveriesCommand::List(args) => list::run(args).await,
        DeliveriesCommand::Show(args) => show(args).await,
        DeliveriesCommand::Explain(args) => explain(args).await,
        DeliveriesCommand::Replay(args) => replay::run(args).await,
        DeliveriesCommand::Cancel(args) => cancel::run(args).await,
    }
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

fn print_new_state(response: &WorkerResponse, id: Uuid, action: &str) -> CommandResult {
    let status: DeliveryStatus = response.json()?;
    print_line(&format!("{id} {action}, state: {}", strip_control_chars(&status.state)));
    Ok(ExitCode::SUCCESS)
}

/// What a replay would put back, or a cancellation cancel.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DryRun {
    matching: u64,
    is_exact: bool,
}

/// Prints the result of a dry run. `action`: what would be done to the deliveries.
fn print_count(response: &WorkerResponse, action: &str) -> CommandResult {
    let DryRun { matching, is_exact } = response.json()?;
    let more_than = if is_exact { "" } else { "more than " };
    let noun = if matching == 1 { "delivery" } else { "deliveries" };
    print_line(&format!("{more_than}{matching} {noun} would be {action}"));
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
    fn replay_and_cancel_need_an_id_or_a_selection() {
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
            (&["cancel", "-n", "x", id], true),
            (&["cancel", "-n", "x"], false),
            (&["cancel", "-n", "x", "--dry-run"], false),
            (&["cancel", "-n", "x", "--hook", "h", "--dry-run"], true),
            (&["cancel", "-n", "x", id, "--dry-run"], false),
            (&["list", "-n", "x", "--state", "dead,pending", "-f"], true),
            (&["list", "-n", "x", "--state", "dead,gone"], false),
            (&["list", "-n", "x", "-f", "--continue", "t"], false),
            (&["list", "-n", "x", "-o", "jsonl"], true),
            (&["show", "-n", "x", id, "-o", "jsonl"], false),
            (&["list", "-n", "x", "--since", "1d"], false),
            (&["list", "-n", "x", "--since", "1h", "--state", "dropped"], true),
            (&["list"], true),
        ] {
            let parsed = Cli::try_parse_from(["deliveries"].iter().chain(args));
            assert_eq!(parsed.is_ok(), is_valid, "{args:?}");
        }
    }
}
