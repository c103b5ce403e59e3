//! `hookstream store`: checks, backs up and recovers the embedded store, prepares and checks a database, and copies between
//! both.

mod copy;
mod database;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use secrecy::SecretString;

use super::block_on;
use super::failure::{CommandResult, Failure};
use super::flags::DatabaseArgs;
use super::output::{self, OutputFormat, print_line};
use crate::worker::store::sqlite::{RecoveryReport, STORE_FILE, StoreReport, backup, check, recover};

/// Check the store; back up or recover the embedded one; create the tables of one in PostgreSQL; copy between both.
///
/// Example: hookstream store check --data /var/lib/hookstream
#[derive(clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub enum StoreCommand {
    Check(CheckArgs),
    Backup(BackupArgs),
    Recover(RecoverArgs),
    Migrate(database::MigrateArgs),
    Copy(copy::CopyArgs),
    Unseal(copy::UnsealArgs),
}

/// Check the integrity of the whole store without changing it. Workers may run meanwhile.
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
    /// Check this PostgreSQL database instead of a data folder.
    #[arg(long, value_name = "URL", env = "HOOKSTREAM_STORE_URL", hide_env_values = true)]
    store_url: Option<SecretString>,
    #[command(flatten)]
    database: DatabaseArgs,
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

/// Copy what is readable of a damaged store to a new file, and print what is lost. Stop the worker first.
///
/// The original is not changed. Afterwards, put the new file as hookstream.db into an empty folder and start a worker on
/// it. Events that were delivered before may be delivered again.
///
/// Exit code 1: something is lost.
///
/// Example: hookstream store recover --data /var/lib/hookstream --to /backup/recovered.db
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct RecoverArgs {
    /// The worker's data folder.
    #[arg(long, default_value = "/var/lib/hookstream", value_name = "DIR", env = "HOOKSTREAM_DATA")]
    data: PathBuf,
    /// The file to create; it must not exist.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT", env = "HOOKSTREAM_OUTPUT", help = output::HELP)]
    output: OutputFormat,
}

pub fn run(command: StoreCommand) -> CommandResult {
    match command {
        StoreCommand::Migrate(args) => block_on(database::migrate(args)),
        StoreCommand::Copy(args) => block_on(copy::run_copy(args)),
        StoreCommand::Unseal(args) => block_on(copy::run_unseal(args)),
        StoreCommand::Check(CheckArgs { store_url: Some(url), database, output, .. }) => {
            block_on(database::check(url, database, output))
        }
        StoreCommand::Check(args) => {
            check_store_exists(&args.data)?;
            let report = check(&args.data).map_err(|e| Failure::new(e.to_string()))?;
            match args.output {
                OutputFormat::Table => report_lines(&report).iter().for_each(|line| print_line(line)),
                OutputFormat::Json | OutputFormat::Yaml => output::print_value(args.output, &report)?,
            }
            for problem in &report.problems {
                eprintln!("hookstream: {problem}");
            }
            if !report.problems.is_empty() {
                eprintln!(
                    "hookstream: stop the worker and keep a copy of the folder; then restore a backup, or copy what is readable with `hookstream store recover`"
                );
            }
            Ok(ExitCode::from(u8::from(!report.problems.is_empty())))
        }
        StoreCommand::Backup(args) => {
            check_store_exists(&args.data)?;
            check_is_new(&args.to)?;
            let report = backup(&args.data, &args.to).map_err(|e| Failure::new(e.to_string()))?;
            let deliveries: u64 = report.deliveries.values().sum();
            print_line(&format!(
                "{}: {} events, {deliveries} deliveries, checked",
                args.to.display(),
                report.events
            ));
            Ok(ExitCode::SUCCESS)
        }
        StoreCommand::Recover(args) => {
            check_store_exists(&args.data)?;
            check_is_new(&args.to)?;
            let report = recover(&args.data, &args.to).map_err(|e| Failure::new(e.to_string()))?;
            match args.output {
                OutputFormat::Table => recovery_lines(&report).iter().for_each(|line| print_line(line)),
                OutputFormat::Json | OutputFormat::Yaml => output::print_value(args.output, &report)?,
            }
            Ok(ExitCode::from(u8::from(!report.is_complete())))
        }
    }
}

fn check_store_exists(data: &Path) -> Result<(), Failure> {
    let why = match data.join(STORE_FILE).try_exists() {
        Ok(true) => return Ok(()),
        Ok(false) if data.is_dir() => {
            format!("there is no {STORE_FILE} in it: give the worker's data folder")
        }
        Ok(false) => "the folder does not exist: give the worker's data folder".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Failure::new(format!("--data {}: cannot open the store: {why}", data.display())))
}

fn check_is_new(to: &Path) -> Result<(), Failure> {
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
    match () {
        () if to.exists() => Err(Failure::new(format!("--to {} exists: name a new file", to.display()))),
        () if folder.is_some_and(|folder| !folder.is_dir()) => {
            Err(Failure::new(format!("--to {}: its folder does not exist: create it", to.display())))
        }
        () => Ok(()),
    }
}

fn recovery_lines(report: &RecoveryReport) -> Vec<String> {
    let mut lines = vec![
        format!("Log:          {} frames, {} of them damaged", report.log_frames, report.damaged_frames),
        format!("{:18}{:>12}{:>12}", "TABLE", "COPIED", "LOST"),
    ];
    lines.extend(report.tables.iter().map(|table| {
        let lost = table.lost.map_or_else(|| "unknown".into(), |lost| lost.to_string());
        format!("{:18}{:>12}{lost:>12}", table.table, table.copied)
    }));
    let deliveries: u64 = report.store.deliveries.values().sum();
    lines.push(format!("Recovered:    {} events, {deliveries} deliveries, checked", report.store.events));
    lines
}

fn report_lines(report: &StoreReport) -> Vec<String> {
    let health = if report.problems.is_empty() { "sound" } else { "NOT SOUND" };
    let installation = report.installation.as_deref().unwrap_or("none yet");
    let mut lines = vec![
        format!("Store:        {health}"),
        format!("Format:       {} (readable since format {})", report.version, report.min_reader),
        format!("Installation: {installation}"),
        moved_line(report.moved_to.as_deref()),
        format!("Size:         {} bytes, {} of them pending", report.file_bytes, report.pending_bytes),
        format!("Hooks:        {}", report.hooks),
        format!("Events:       {}", report.events),
    ];
    lines.extend(
        report.deliveries.iter().map(|(state, n)| format!("  {:12}{n} deliveries", format!("{state}:"))),
    );
    lines.retain(|line| !line.is_empty());
    lines
}

/// Returns the line that says where the data of a store was copied; empty if it was not.
fn moved_line(moved_to: Option<&str>) -> String {
    moved_to.map_or_else(String::new, |to| format!("Copied to:    {to}; workers refuse this store"))
}
