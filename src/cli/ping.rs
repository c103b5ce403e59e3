//! `hookstream ping`: Kong's ping of a webhook, through the worker.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::Value;
use url::Url;

use super::http::Worker;
use super::output::{self, HELP, Output};
use super::{Outcome, say};

/// Send Kong's ping to a webhook's address, from the worker, and show it. Exit code 1: it could not be sent.
///
/// Example: hookstream ping -n shop orders
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The hook: its name, its uid, or its id at Kong.
    hook: String,
    /// The namespace.
    #[arg(short, long, value_name = "NAMESPACE", env = "HOOKSTREAM_NAMESPACE")]
    namespace: String,
    /// The address of the worker's API port; in a cluster reach it by kubectl port-forward.
    #[arg(long, default_value = "http://127.0.0.1:8082", env = "HOOKSTREAM_API_URL")]
    url: Url,
    /// A file with the bearer token. Default: none is sent.
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t = Output::Table, env = "HOOKSTREAM_OUTPUT", help = HELP)]
    output: Output,
}

pub async fn run(args: Args) -> Outcome {
    let worker = Worker::new(&args.url, args.token_file.as_ref())?;
    let url = worker.kong_url(&args.namespace, &["event-hooks", &args.hook, "ping"])?;
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
