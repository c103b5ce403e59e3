//! `hookstream store migrate`, and `hookstream store check` of a database.

use std::process::ExitCode;

use secrecy::SecretString;

use crate::cli::failure::{CommandResult, Failure};
use crate::cli::flags::DatabaseArgs;
use crate::cli::output::{self, OutputFormat, print_line};
use crate::worker::store::StoreError;
use crate::worker::store::postgres::administration::{self, DatabaseReport};

/// Create the tables in a PostgreSQL database, or change them to the format of this version. Workers may run meanwhile.
///
/// A worker does this at its start, unless --no-migrate is given: for databases in which its role may not change tables.
///
/// Example: hookstream store migrate --store-url postgres://owner@db.example/hookstream --store-password-file password
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct MigrateArgs {
    /// The PostgreSQL database.
    #[arg(long, value_name = "URL", env = "HOOKSTREAM_STORE_URL", hide_env_values = true)]
    store_url: SecretString,
    #[command(flatten)]
    database: DatabaseArgs,
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT", env = "HOOKSTREAM_OUTPUT", help = output::HELP)]
    output: OutputFormat,
}

pub async fn migrate(args: MigrateArgs) -> CommandResult {
    let options = args.database.options("--store-url", &args.store_url)?;
    let report = administration::migrate(&options).await.map_err(failure)?;
    match args.output {
        OutputFormat::Table => print_line(&match report.applied {
            0 => format!("format {}: nothing to do", report.version),
            1 => format!("format {}: 1 migration applied", report.version),
            n => format!("format {}: {n} migrations applied", report.version),
        }),
        OutputFormat::Json | OutputFormat::Yaml => output::print_value(args.output, &report)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks a database. Exit code 1: it is damaged.
pub async fn check(url: SecretString, database: DatabaseArgs, output: OutputFormat) -> CommandResult {
    let options = database.options("--store-url", &url)?;
    let report = administration::check(&options).await.map_err(failure)?;
    match output {
        OutputFormat::Table => report_lines(&report).iter().for_each(|line| print_line(line)),
        OutputFormat::Json | OutputFormat::Yaml => output::print_value(output, &report)?,
    }
    for problem in &report.problems {
        eprintln!("hookstream: {problem}");
    }
    if report.needs_restore {
        eprintln!(
            "hookstream: stop the workers and restore a backup of the database, see docs/postgresql.md"
        );
    }
    Ok(ExitCode::from(u8::from(!report.problems.is_empty())))
}

fn failure(error: StoreError) -> Failure {
    Failure::new(format!("--store-url: {error}"))
}

fn report_lines(report: &DatabaseReport) -> Vec<String> {
    let health = if report.problems.is_empty() { "sound" } else { "NOT SOUND" };
    let installation = report.installation.as_deref().unwrap_or("none yet");
    let mut lines = vec![
        format!("Store:        {health}"),
        format!("Server:       PostgreSQL {}", report.server),
        format!("Format:       {} (readable since format {})", report.version, report.min_reader),
        format!("Installation: {installation}"),
        super::moved_line(report.moved_to.as_deref()),
        format!("Workers:      {}, which own {} of 256 shards", report.workers, report.owned_shards),
        format!("Size:         {} bytes", report.bytes),
        format!("Hooks:        {}", report.hooks),
        format!("Events:       {}", report.events),
    ];
    let count = |(state, n): (&&str, &u64)| format!("  {:12}{n} deliveries", format!("{state}:"));
    lines.extend(report.deliveries.iter().map(count));
    lines.retain(|line| !line.is_empty());
    lines
}
