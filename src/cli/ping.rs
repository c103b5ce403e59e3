//! `hookstream ping`: sends Kong's ping to a webhook through the worker.

use std::process::ExitCode;

use serde_json::Value;

use super::failure::CommandResult;
use super::output::{self, HELP, OutputFormat, print_line};
use super::worker_args::WorkerApiArgs;

/// Send Kong's ping from the worker to a webhook's URL. Exit code 1: the receiver did not answer the ping.
///
/// Example: hookstream ping -n shop orders
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The hook: its name, its uid, or its id at Kong.
    hook: String,
    #[command(flatten)]
    api: WorkerApiArgs,
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT", env = "HOOKSTREAM_OUTPUT", help = HELP)]
    output: OutputFormat,
}

pub async fn run(args: Args) -> CommandResult {
    let worker = args.api.connect().await?;
    let url = worker.kong_url(&args.api.caller.namespace, &["event-hooks", &args.hook, "ping"])?;
    let response = worker.get(url).await?;
    // 502 is a finding: the worker reports that the receiver did not answer.
    let code = if response.status.as_u16() == 502 { 1 } else { 2 };
    let ping: Value = response.success_or(code)?.json()?;
    match args.output {
        OutputFormat::Table => {
            let url = ping.pointer("/event_hooks/config/url").and_then(Value::as_str).unwrap_or_default();
            print_line(&format!(
                "{} answered the ping at {}",
                output::strip_control_chars(&args.hook),
                output::strip_control_chars(url)
            ));
        }
        other => output::print_value(other, &ping)?,
    }
    Ok(ExitCode::SUCCESS)
}
