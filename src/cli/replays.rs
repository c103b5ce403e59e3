//! `hookstream replays`: lists, shows and cancels replays of many deliveries.

use std::process::ExitCode;

use serde::Deserialize;
use uuid::Uuid;

use super::failure::{CommandResult, Failure};
use super::output::{HELP, OutputFormat, print_json, print_line, strip_control_chars, table_lines};
use super::worker_args::{WorkerApiArgs, WorkerListArgs};
use super::worker_client::WorkerResponse;

/// List, show and cancel replays of many deliveries. `deliveries replay` starts one.
///
/// Example: hookstream replays list -n shop
#[derive(clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub enum ReplaysCommand {
    List(ListArgs),
    Show(ReplayArgs),
    Cancel(CancelArgs),
}

/// List the replays of a namespace or of all, newest first. Finished ones are shown for a day.
///
/// Example: hookstream replays list -n shop -o json
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ListArgs {
    #[command(flatten)]
    scope: WorkerListArgs,
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT", env = "HOOKSTREAM_OUTPUT", help = HELP)]
    output: OutputFormat,
}

/// Show a replay and its progress. Exit code 1: it could not go on.
///
/// Example: hookstream replays show -n shop 01a201d0-e928-7748-a797-9272c188e8bd
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ReplayArgs {
    #[command(flatten)]
    api: WorkerApiArgs,
    /// The replay's id.
    id: Uuid,
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT", env = "HOOKSTREAM_OUTPUT", help = HELP)]
    output: OutputFormat,
}

/// Cancel a replay: it puts no further delivery back. Those that it has put back stay pending. Exit code 1: it has ended.
///
/// Example: hookstream replays cancel -n shop 01a201d0-e928-7748-a797-9272c188e8bd
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct CancelArgs {
    #[command(flatten)]
    api: WorkerApiArgs,
    /// The replay's id.
    id: Uuid,
}

#[derive(Deserialize)]
struct ListBody {
    items: Vec<ReplayBody>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReplayBody {
    id: String,
    /// Absent in responses of older workers.
    #[serde(default)]
    namespace: String,
    hook: Option<String>,
    state: Option<String>,
    event: Option<String>,
    since: Option<String>,
    until: Option<String>,
    rate: u32,
    started_time: String,
    replayed: u64,
    done: bool,
    cancelled: bool,
    error: Option<String>,
}

impl ReplayBody {
    fn progress(&self) -> &'static str {
        match self {
            ReplayBody { cancelled: true, .. } => "cancelled",
            ReplayBody { error: Some(_), .. } => "failed",
            ReplayBody { done: true, .. } => "done",
            _ => "running",
        }
    }

    /// Describes which deliveries were selected.
    fn selection(&self) -> String {
        let parts = [
            ("hook", &self.hook),
            ("state", &self.state),
            ("event", &self.event),
            ("since", &self.since),
            ("until", &self.until),
        ];
        let parts = parts.iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)));
        strip_control_chars(&parts.collect::<Vec<_>>().join(" "))
    }
}

pub async fn run(command: ReplaysCommand) -> CommandResult {
    match command {
        ReplaysCommand::List(args) => list(args).await,
        ReplaysCommand::Show(args) => show(args).await,
        ReplaysCommand::Cancel(args) => cancel(args).await,
    }
}

async fn list(args: ListArgs) -> CommandResult {
    let worker = args.scope.connect().await?;
    let url = args.scope.url(&worker, "replays")?;
    let response = worker.get(url).await?.success(2)?;
    match args.output {
        OutputFormat::Table => {
            print_table(&response.json::<ListBody>()?.items, args.scope.all_namespaces);
        }
        other => print_json(other, response.json()?)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(args: ReplayArgs) -> CommandResult {
    let worker = args.api.connect().await?;
    let url = worker.url(&args.api.caller.namespace, &["replays", &args.id.to_string()])?;
    let response = worker.get(url).await?.success(2)?;
    let replay: ReplayBody = response.json()?;
    match args.output {
        OutputFormat::Table => print_table(std::slice::from_ref(&replay), false),
        other => print_json(other, response.json()?)?,
    }
    match &replay.error {
        None => Ok(ExitCode::SUCCESS),
        Some(error) => Err(Failure { code: 1, message: strip_control_chars(error) }),
    }
}

async fn cancel(args: CancelArgs) -> CommandResult {
    let worker = args.api.connect().await?;
    let url = worker.url(&args.api.caller.namespace, &["replays", &args.id.to_string(), "cancel"])?;
    // 409 is a finding: a replay that has ended cannot be cancelled.
    let response: WorkerResponse = worker.post(url, Vec::new()).await?;
    let rejected_code = if response.status.as_u16() == 409 { 1 } else { 2 };
    let replay: ReplayBody = response.success(rejected_code)?.json()?;
    print_line(&format!("{} cancelled after {} deliveries", args.id, replay.replayed));
    Ok(ExitCode::SUCCESS)
}

fn print_table(replays: &[ReplayBody], with_namespace: bool) {
    let skipped = usize::from(!with_namespace);
    let rows = replays.iter().map(|replay| {
        let cells = [
            strip_control_chars(&replay.namespace),
            strip_control_chars(&replay.id),
            replay.progress().to_owned(),
            replay.replayed.to_string(),
            format!("{}/s", replay.rate),
            strip_control_chars(&replay.started_time),
            replay.selection(),
        ];
        cells.into_iter().skip(skipped)
    });
    let header = ["NAMESPACE", "ID", "PROGRESS", "REPLAYED", "RATE", "STARTED", "SELECTION"];
    table_lines(header.into_iter().skip(skipped), rows).iter().for_each(|line| print_line(line));
}
