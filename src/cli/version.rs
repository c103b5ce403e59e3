//! `hookstream version`: prints the versions of this program and of the worker.

use std::process::ExitCode;

use reqwest::StatusCode;
use serde::Serialize;

use super::failure::{CommandResult, Failure};
use super::output::{self, HELP, OutputFormat, print_line, strip_control_chars};
use super::target::TargetArgs;
use super::worker_args::WorkerLocationArgs;
use crate::core::version::Version;

/// Print the versions of this program and of the worker, if one can be reached.
///
/// A worker that cannot be reached is named on standard error and does not change the exit code.
///
/// Example: hookstream version --client
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Print the version of this program only.
    #[arg(long, env = "HOOKSTREAM_VERSION_CLIENT")]
    client: bool,
    #[command(flatten)]
    location: WorkerLocationArgs,
    #[command(flatten)]
    target: TargetArgs,
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT", env = "HOOKSTREAM_OUTPUT", help = HELP)]
    output: OutputFormat,
}

#[derive(Serialize)]
struct Versions {
    client: Version,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<Version>,
}

pub async fn run(args: Args) -> CommandResult {
    let server = if args.client { None } else { server_version(&args).await.map(Some)? };
    let server = server.and_then(|result| {
        result
            .map_err(|failure| eprintln!("hookstream: the version of the worker is unknown: {failure}"))
            .ok()
    });
    let versions = Versions { client: Version::current(), server };
    match args.output {
        OutputFormat::Table => print(&versions),
        other => output::print_value(other, &versions)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the worker for its version. The outer error is a mistake in the flags.
async fn server_version(args: &Args) -> Result<Result<Version, Failure>, Failure> {
    let worker = args.location.connect_without_token(&args.target).await?;
    Ok(async {
        let response = worker.get(worker.version_url()).await?;
        if response.status == StatusCode::NOT_FOUND {
            let message = format!("{} does not exist: it is older than this program", response.url);
            return Err(Failure::new(message));
        }
        response.success(2)?.json()
    }
    .await)
}

fn print(versions: &Versions) {
    let rows = [("client", Some(&versions.client)), ("worker", versions.server.as_ref())];
    let rows = rows.into_iter().filter_map(|(name, version)| {
        let version = version?;
        let unknown = || "unknown".to_owned();
        let commit = version.commit.as_ref().map_or_else(unknown, ToString::to_string);
        let date = version.date.map_or_else(unknown, |date| date.to_string());
        Some(
            [name.to_owned(), version.version.to_string(), commit, date]
                .map(|text| strip_control_chars(&text)),
        )
    });
    output::table_lines(["", "VERSION", "COMMIT", "DATE"], rows).iter().for_each(|line| print_line(line));
}
