//! `hookstream store`: checks and copies the embedded store.

use std::path::PathBuf;
use std::process::ExitCode;

use super::failure::{CommandResult, Failure};
use super::output::{self, OutputFormat, print_line};
use crate::worker::store::sqlite::{StoreReport, backup, check};

/// Check the embedded store, or copy it while a worker runs.
///
/// Example: hookstream store check --data /var/lib/hookstream
#[derive(clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub enum StoreCommand {
    Check(CheckArgs),
    Backup(BackupArgs),
}

/// Check the integrity of the whole store without changing it. A worker may run meanwhile.
///
/// Exit code 1: the store is damaged.
///
/// Example: hookstream store check --data /var/lib/hookstream --output json
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct CheckArgs {
    /// The worker's data folder.
    #[arg(long, default_value = "/var/lib/hookstream", value_name = "DIR", env = "HOOKSTREAM_DATA")]
    data: PathBuf,
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT", env = "HOOKSTREAM_OUTPUT", help = output::HELP)]
    output: OutputFormat,
}

/// Copy the store to a new file and check the copy. A worker may run meanwhile.
///
/// To restore, put the copy as hookstream.db into an empty folder and start a worker on it. Standalone also keeps its keys
/// and the status of its objects in the data folder: copy those files too.
///
/// Example: hookstream store backup --data /var/lib/hookstream --to /backup/hookstream-2026-11-22.db
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct BackupArgs {
    /// The worker's data folder.
    #[arg(long, default_value = "/var/lib/hookstream", value_name = "DIR", env = "HOOKSTREAM_DATA")]
    data: PathBuf,
    /// The file to create; it must not exist.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

pub fn run(command: StoreCommand) -> CommandResult {
    match command {
        StoreCommand::Check(args) => {
            let report = check(&args.data).map_err(|e| Failure::new(e.to_string()))?;
            match args.output {
                OutputFormat::Table => report_lines(&report).iter().for_each(|line| print_line(line)),
                OutputFormat::Json | OutputFormat::Yaml => output::print_value(args.output, &report)?,
            }
            for problem in &report.problems {
                eprintln!("hookstream: {problem}");
            }
            if !report.problems.is_empty() {
                eprintln!("hookstream: stop the worker, keep a copy of the folder and restore a backup");
            }
            Ok(ExitCode::from(u8::from(!report.problems.is_empty())))
        }
        StoreCommand::Backup(args) => {
            let report = backup(&args.data, &args.to).map_err(|e| Failure::new(e.to_string()))?;
            let deliveries: u64 = report.deliveries.values().sum();
            print_line(&format!(
                "{}: {} events, {deliveries} deliveries, checked",
                args.to.display(),
                report.events
            ));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn report_lines(report: &StoreReport) -> Vec<String> {
    let health = if report.problems.is_empty() { "sound" } else { "NOT SOUND" };
    let installation = report.installation.as_deref().unwrap_or("none yet");
    let mut lines = vec![
        format!("Store:        {health}"),
        format!("Format:       {} (readable since format {})", report.version, report.min_reader),
        format!("Installation: {installation}"),
        format!("Size:         {} bytes, {} of them pending", report.file_bytes, report.pending_bytes),
        format!("Hooks:        {}", report.hooks),
        format!("Events:       {}", report.events),
    ];
    lines.extend(
        report.deliveries.iter().map(|(state, n)| format!("  {:12}{n} deliveries", format!("{state}:"))),
    );
    lines
}
