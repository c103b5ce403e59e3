//! `hookstream deliveries cancel`: cancels one pending delivery; or counts or cancels many.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::selection::SelectionArgs;
use super::{print_count, print_new_state};
use crate::cli::failure::{CommandResult, Failure, OrFail};
use crate::cli::output::print_line;
use crate::cli::progress::ProgressDisplay;
use crate::cli::worker_args::WorkerApiArgs;
use crate::cli::worker_client::WorkerClient;

/// Cancel pending deliveries: one by its id, or many by hook, event and time. An attempt in flight may still reach the
/// receiver.
///
/// Example: hookstream deliveries cancel -n shop 01a201d0-e928-7748-a797-9272c188e8bd
/// Example: hookstream deliveries cancel -n shop --hook orders --state pending --dry-run
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
#[command(group = clap::ArgGroup::new("what").args(["id", "hook", "state", "event", "since", "until"]).multiple(true).required(true))]
pub struct CancelArgs {
    #[command(flatten)]
    api: WorkerApiArgs,
    /// The delivery's id. Without an id, the flags select the deliveries.
    #[arg(value_parser = super::parse_id, conflicts_with_all = ["hook", "state", "event", "since", "until", "dry_run"])]
    id: Option<Uuid>,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Print how many deliveries would be cancelled, and cancel none.
    #[arg(long)]
    dry_run: bool,
}

/// The body of a cancellation of many deliveries.
#[derive(Serialize)]
struct Body {
    #[serde(flatten)]
    selection: BTreeMap<&'static str, String>,
    #[serde(rename = "continue", skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Cancelled {
    cancelled: u64,
    #[serde(rename = "continue")]
    next: Option<String>,
}

pub async fn run(args: CancelArgs) -> CommandResult {
    let worker = args.api.connect().await?;
    let namespace = &args.api.caller.namespace;
    let Some(id) = args.id else {
        return cancel_many(&worker, namespace, &args).await;
    };
    let url = worker.url(namespace, &["deliveries", &id.to_string(), "cancel"])?;
    // 409 is a finding: a finished delivery cannot be cancelled.
    let response = worker.post(url, Vec::new()).await?;
    let rejected_code = if response.status.as_u16() == 409 { 1 } else { 2 };
    print_new_state(&response.success(rejected_code)?, id, "cancelled")
}

async fn cancel_many(worker: &WorkerClient, namespace: &str, args: &CancelArgs) -> CommandResult {
    let mut body = Body { selection: args.selection.query_pairs().collect(), next: None };
    let mut url = worker.url(namespace, &["deliveries", "cancel"])?;
    let text = |body: &Body| serde_json::to_vec(body).or_fail(|| "writing the request".into());
    if args.dry_run {
        url.set_query(Some("dryRun=true"));
        return print_count(&worker.post(url, text(&body)?).await?.success(2)?, "cancelled");
    }
    let (mut display, mut total) = (ProgressDisplay::bar_only("cancelled", None), 0);
    loop {
        let response = worker.post(url.clone(), text(&body)?).await.and_then(|response| response.success(2));
        let with_total = |failure: Failure| {
            let message = format!("{} ({total} deliveries were cancelled before)", failure.message);
            Failure { message, ..failure }
        };
        let response = response.map_err(|failure| if total > 0 { with_total(failure) } else { failure })?;
        let step: Cancelled = response.json()?;
        total += step.cancelled;
        display.show(total);
        body.next = step.next;
        if body.next.is_none() {
            break;
        }
    }
    display.clear();
    print_line(&format!("{total} {} cancelled", if total == 1 { "delivery" } else { "deliveries" }));
    Ok(ExitCode::SUCCESS)
}
