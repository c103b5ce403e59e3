//! `hookstream status`: the state of an installation on one screen.

mod leader;
mod print;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;

use super::failure::{CommandResult, Failure};
use super::output::{HELP, OutputFormat, print_json, print_line};
use super::worker_args::WorkerApiArgs;
use super::worker_client::WorkerClient;
use crate::core::duration;
use crate::core::time::Millis;
use crate::core::version::Version;
use leader::{Leader, find_leader};
use print::{WorkerStatus, status_lines};

/// The time between two requests.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Show on one screen what requires attention: objects that are not Ready, hooks that do not deliver, the backlog, dead
/// letters, disk and memory. Exit code 1: something is unwell.
///
/// What a user requested, a suspended object or a paused hook, is shown and is not unwell. In a cluster, --context shows
/// the leader too. Without a namespace, all namespaces are shown.
///
/// Example: hookstream status -A --wait 2m
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    #[command(flatten)]
    api: WorkerApiArgs,
    /// Show all namespaces. Requires permission to list deliveries in all of them.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Wait up to this time (such as 2m) until nothing is unwell.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, conflicts_with = "watch")]
    wait: Option<Duration>,
    /// Show the state every two seconds, until interrupted.
    #[arg(long)]
    watch: bool,
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT", env = "HOOKSTREAM_OUTPUT", help = HELP)]
    output: OutputFormat,
}

/// The output in JSON and YAML.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    format_version: u32,
    /// False if the exit code is 1.
    healthy: bool,
    client: Version,
    target: &'a str,
    /// Absent if the worker is not reached through a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<&'a Leader>,
    /// The worker's response.
    worker: &'a RawValue,
}

/// The state at one time.
struct Snapshot {
    body: Box<RawValue>,
    worker: WorkerStatus,
    leader: Option<Leader>,
}

impl Snapshot {
    fn is_healthy(&self) -> bool {
        self.worker.healthy && self.leader.as_ref().is_none_or(Leader::is_healthy)
    }
}

pub async fn run(args: Args) -> CommandResult {
    let worker = args.api.connect_without_namespace().await?;
    let deadline = args.wait.map(|wait| Instant::now() + wait);
    loop {
        let is_waiting = deadline.is_some_and(|deadline| Instant::now() < deadline);
        let snapshot = match read(&args, &worker).await {
            Ok(snapshot) if is_waiting && !snapshot.is_healthy() => None,
            // A worker that starts cannot be reached yet.
            Err(failure) if is_waiting && failure.is_temporary => None,
            Err(failure) => return Err(failure.failure),
            Ok(snapshot) => Some(snapshot),
        };
        if let Some(snapshot) = snapshot {
            print(&args, &worker, &snapshot)?;
            if !args.watch {
                return Ok(ExitCode::from(u8::from(!snapshot.is_healthy())));
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// A failed read. `is_temporary`: the next one may succeed.
struct ReadFailure {
    failure: Failure,
    is_temporary: bool,
}

async fn read(args: &Args, worker: &WorkerClient) -> Result<Snapshot, ReadFailure> {
    let temporary = |failure| ReadFailure { failure, is_temporary: true };
    let lasting = |failure| ReadFailure { failure, is_temporary: false };
    let namespace = &args.api.caller.namespace;
    let url = if args.all_namespaces || namespace.is_empty() {
        worker.root_url(&["v1", "status"])
    } else {
        worker.url(namespace, &["status"]).map_err(lasting)?
    };
    let response = worker.get(url).await.map_err(temporary)?;
    let is_temporary = response.status.is_server_error() || response.status == StatusCode::TOO_MANY_REQUESTS;
    let response = response.success(2).map_err(|failure| ReadFailure { failure, is_temporary })?;
    let body: Box<RawValue> = response.json().map_err(lasting)?;
    let status = response.json().map_err(lasting)?;
    let leader = match worker.proxied_route() {
        Some(route) => Some(find_leader(route, Millis::now()).await),
        None => None,
    };
    Ok(Snapshot { body, worker: status, leader })
}

fn print(args: &Args, worker: &WorkerClient, snapshot: &Snapshot) -> Result<(), Failure> {
    let Snapshot { body, worker: status, leader } = snapshot;
    if args.output == OutputFormat::Table {
        if args.watch && std::io::stdout().is_terminal() {
            // Clears the screen and moves to its top.
            print_line("\u{1b}[2J\u{1b}[H");
        }
        let lines =
            status_lines(status, leader.as_ref(), worker.target(), snapshot.is_healthy(), Millis::now());
        lines.iter().for_each(|line| print_line(line));
        return Ok(());
    }
    let report = Report {
        format_version: 1,
        healthy: snapshot.is_healthy(),
        client: Version::current(),
        target: worker.target(),
        leader: leader.as_ref(),
        worker: body,
    };
    let json = serde_json::value::to_raw_value(&report)
        .map_err(|error| Failure::new(format!("writing JSON: {error}")))?;
    print_json(args.output, &json)
}
