//! `hookstream deliveries replay`: replays one delivery; or counts or replays many, and follows their progress.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

use super::selection::SelectionArgs;
use super::{DryRun, print_count, print_new_state};
use crate::cli::failure::{CommandResult, Failure, OrFail};
use crate::cli::output::{print_line, strip_control_chars};
use crate::cli::progress::ProgressDisplay;
use crate::cli::signals::interrupts;
use crate::cli::worker_args::WorkerApiArgs;
use crate::cli::worker_client::{WorkerClient, WorkerResponse};

/// The time between two requests for the progress of a replay.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// The exit code after Ctrl-C, as shells have it: 128 and the number of the signal.
const INTERRUPTED: u8 = 130;

/// Replay deliveries: one by its id, or many by hook, state and time. The webhook-id stays the same, and the request is
/// marked as a replay.
///
/// Example: hookstream deliveries replay -n shop --hook orders --state dead --since 1h --dry-run
/// Example: hookstream deliveries replay -n shop --hook orders --state dead --since 1h --rate 50 --wait
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
#[command(group = clap::ArgGroup::new("what").args(["id", "hook", "state", "event", "since", "until"]).multiple(true).required(true))]
pub struct ReplayArgs {
    #[command(flatten)]
    api: WorkerApiArgs,
    /// The delivery's id. Without an id, the flags select the deliveries; without --state, only dead ones.
    #[arg(value_parser = super::parse_id, conflicts_with_all = ["hook", "state", "event", "since", "until", "rate", "wait", "dry_run"])]
    id: Option<Uuid>,
    #[command(flatten)]
    selection: SelectionArgs,
    /// The maximum number of deliveries per second. Default: 50.
    #[arg(long)]
    rate: Option<u32>,
    /// Wait until all selected deliveries are replayed, and show the progress. Ctrl-C ends the wait, not the replay.
    #[arg(long)]
    wait: bool,
    /// Print how many deliveries would be replayed, and replay none.
    #[arg(long, conflicts_with_all = ["rate", "wait"])]
    dry_run: bool,
}

/// A replay of many deliveries. Older workers do not send `cancelled`.
#[derive(Deserialize)]
struct Progress {
    id: Uuid,
    replayed: u64,
    done: bool,
    #[serde(default)]
    cancelled: bool,
    error: Option<String>,
}

/// The body of a replay of many deliveries.
#[derive(Serialize)]
struct Body {
    #[serde(flatten)]
    selection: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u32>,
}

pub async fn run(args: ReplayArgs) -> CommandResult {
    let worker = args.api.connect().await?;
    let namespace = &args.api.caller.namespace;
    if let Some(id) = args.id {
        let url = worker.url(namespace, &["deliveries", &id.to_string(), "replay"])?;
        return print_new_state(&worker.post(url, Vec::new()).await?.success(2)?, id, "replayed");
    }
    let body = Body { selection: args.selection.query_pairs().collect(), rate: args.rate };
    let body = serde_json::to_vec(&body).or_fail(|| "writing the request".into())?;
    let url = worker.url(namespace, &["deliveries", "replay"])?;
    if args.dry_run {
        return print_count(&count(&worker, url, body).await?, "replayed");
    }
    let total = match args.wait {
        true => {
            count(&worker, url.clone(), body.clone()).await.and_then(|counted| counted.json::<DryRun>()).ok()
        }
        false => None,
    };
    let started: Progress = worker.post(url, body).await?.success(2)?.json()?;
    let id = started.id;
    if !args.wait {
        print_line(&format!("replay {id} started"));
        return Ok(ExitCode::SUCCESS);
    }
    // Not before the response, because a worker that does not answer would make Ctrl-C useless. Before the message, so that
    // Ctrl-C after it never ends the command without the hint.
    let mut interrupts = interrupts()?;
    print_line(&format!("replay {id} started"));
    tokio::select! {
        result = follow(&worker, namespace, started, total) => result,
        _ = interrupts.recv() => {
            eprintln!("hookstream: the replay goes on; stop it with: hookstream replays cancel -n {namespace} {id}");
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

async fn count(worker: &WorkerClient, mut url: Url, body: Vec<u8>) -> Result<WorkerResponse, Failure> {
    url.set_query(Some("dryRun=true"));
    worker.post(url, body).await?.success(2)
}

/// Shows the progress until the replay ends.
async fn follow(
    worker: &WorkerClient,
    namespace: &str,
    mut progress: Progress,
    total: Option<DryRun>,
) -> CommandResult {
    let url = worker.url(namespace, &["replays", &progress.id.to_string()])?;
    let total = total.filter(|total| total.is_exact).map(|total| total.matching);
    let mut display = ProgressDisplay::new("replayed", total);
    loop {
        display.show(progress.replayed);
        if let Some(error) = progress.error.filter(|_| progress.done) {
            let message = format!("the replay ended early: {}", strip_control_chars(&error));
            return Err(Failure { code: 1, message });
        }
        if progress.cancelled {
            let message = format!("the replay was cancelled after {} deliveries", progress.replayed);
            return Err(Failure { code: 1, message });
        }
        if progress.done {
            display.finish();
            print_line("done");
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
        progress = worker.get(url.clone()).await?.success(2)?.json()?;
    }
}
