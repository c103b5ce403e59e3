//! `hookstream store`: the embedded store's health, and copies of it.

use std::path::PathBuf;
use std::process::ExitCode;

use super::output::{self, Output};
use super::{Failure, Outcome, say};
use crate::worker::store::sqlite::{Report, backup, check};

/// Check the embedded store, or copy it while it is used.
///
/// Example: hookstream store check --data /var/lib/hookstream
#[derive(clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub enum Command {
    Check(Check),
    Backup(Backup),
}

/// Read the whole store and say whether it is sound. Nothing is changed, and a worker may go on beside it.
///
/// Exit code 1: it is not sound.
///
/// Example: hookstream store check --data /var/lib/hookstream --output json
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Check {
    /// The worker's folder.
    #[arg(long, default_value = "/var/lib/hookstream", value_name = "DIR", env = "HOOKSTREAM_DATA")]
    data: PathBuf,
    #[arg(short, long, value_enum, default_value_t = Output::Table, env = "HOOKSTREAM_OUTPUT", help = output::HELP)]
    output: Output,
}

/// Copy the store to a new file and check the copy. A worker may go on beside it.
///
/// To restore, put the copy as hookstream.db into an empty folder and start a worker on it. Standalone keeps its keys and
/// what the vendors were told in the same folder: copy those files too.
///
/// Example: hookstream store backup --data /var/lib/hookstream --to /backup/hookstream-2026-11-22.db
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Backup {
    /// The worker's folder.
    #[arg(long, default_value = "/var/lib/hookstream", value_name = "DIR", env = "HOOKSTREAM_DATA")]
    data: PathBuf,
    /// The file to make; it must not exist.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

pub fn run(command: Command) -> Outcome {
    match command {
        Command::Check(args) => {
            let report = check(&args.data).map_err(|e| Failure::new(e.to_string()))?;
            match args.output {
                Output::Table => table(&report).iter().for_each(|line| say(line)),
                Output::Json | Output::Yaml => output::print(args.output, &report)?,
            }
            for problem in &report.problems {
                eprintln!("hookstream: {problem}");
            }
            if !report.problems.is_empty() {
                eprintln!("hookstream: stop the worker, keep a copy of the folder and restore a backup");
            }
            Ok(ExitCode::from(u8::from(!report.problems.is_empty())))
        }
        Command::Backup(args) => {
            let report = backup(&args.data, &args.to).map_err(|e| Failure::new(e.to_string()))?;
            let kept: u64 = report.deliveries.values().sum();
            say(&format!("{}: {} events, {kept} deliveries, checked", args.to.display(), report.events));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn table(report: &Report) -> Vec<String> {
    let sound = if report.problems.is_empty() { "sound" } else { "NOT SOUND" };
    let installation = report.installation.as_deref().unwrap_or("none yet");
    let mut lines = vec![
        format!("Store:        {sound}"),
        format!("Format:       {} (read by programs of format {} on)", report.version, report.min_reader),
        format!("Installation: {installation}"),
        format!(
            "Size:         {} bytes, {} of them wait for receivers",
            report.file_bytes, report.waiting_bytes
        ),
        format!("Hooks:        {}", report.hooks),
        format!("Events:       {}", report.events),
    ];
    lines.extend(
        report.deliveries.iter().map(|(state, n)| format!("  {:12}{n} deliveries", format!("{state}:"))),
    );
    lines
}
