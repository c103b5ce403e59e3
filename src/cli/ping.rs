//! `hookstream ping`: Kong's ping of a webhook, through the worker.

use std::process::ExitCode;

use serde_json::Value;

use super::output::{self, HELP, Output};
use super::reach::Reach;
use super::{Outcome, say};

/// Send Kong's ping to a webhook's address, from the worker, and show it. Exit code 1: it could not be sent.
///
/// Example: hookstream ping -n shop orders
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The hook: its name, its uid, or its id at Kong.
    hook: String,
    #[command(flatten)]
    target: Reach,
    #[arg(short, long, value_enum, default_value_t = Output::Table, env = "HOOKSTREAM_OUTPUT", help = HELP)]
    output: Output,
}

pub async fn run(args: Args) -> Outcome {
    let worker = args.target.worker().await?;
    let url = worker.kong_url(&args.target.caller.namespace, &["event-hooks", &args.hook, "ping"])?;
    let answer = worker.get(url).await?;
    // The worker is there and says that the receiver is not.
    let code = if answer.status.as_u16() == 502 { 1 } else { 2 };
    let told: Value = answer.success_or(code)?.json()?;
    match args.output {
        Output::Table => {
            let to = told.pointer("/event_hooks/config/url").and_then(Value::as_str).unwrap_or_default();
            say(&format!("{} answered the ping at {}", output::clean(&args.hook), output::clean(to)));
        }
        other => output::print(other, &told)?,
    }
    Ok(ExitCode::SUCCESS)
}
