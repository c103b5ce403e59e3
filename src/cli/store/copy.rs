//! `hookstream store copy` and `hookstream store unseal`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use secrecy::SecretString;

use crate::cli::failure::{CommandResult, Failure};
use crate::cli::flags::DatabaseArgs;
use crate::cli::output::{self, OutputFormat, print_line};
use crate::cli::progress::ProgressDisplay;
use crate::core::time::Millis;
use crate::worker::store::copy::{CopyError, CopyProgress, CopyReport, Location, copy, unseal};

/// How often the progress is shown.
const SHOW: Duration = Duration::from_secs(1);

/// Copy the store of a data folder to an empty database, or back: everything, under the same ids. Stop the workers first.
///
/// Afterwards workers refuse the source, so that two installations do not deliver the same events. An interrupted copy is
/// repeated by the same command. The flags --store-* are those of the database.
///
/// Example: hookstream store copy --from /var/lib/hookstream --to postgres://hookstream@db.example/hookstream
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct CopyArgs {
    /// The data folder or the database to copy.
    #[arg(long, value_name = "DIR|URL")]
    from: SecretString,
    /// An empty database, or a folder without a store.
    #[arg(long, value_name = "DIR|URL")]
    to: SecretString,
    /// Check both sides and count what would be copied, and change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    database: DatabaseArgs,
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT", env = "HOOKSTREAM_OUTPUT", help = output::HELP)]
    output: OutputFormat,
}

/// Make a store usable again after a copy from it, or remove an unfinished copy to it. Stop the workers of the other store.
///
/// What happened in the other store since then is not in this one: events that were delivered there are delivered again.
///
/// Example: hookstream store unseal --data /var/lib/hookstream
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct UnsealArgs {
    /// The worker's data folder.
    #[arg(long, value_name = "DIR", required_unless_present = "store_url", conflicts_with = "store_url")]
    data: Option<PathBuf>,
    /// The PostgreSQL database.
    #[arg(long, value_name = "URL")]
    store_url: Option<SecretString>,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub async fn run_copy(args: CopyArgs) -> CommandResult {
    let from = location("--from", &args.from, &args.database)?;
    let to = location("--to", &args.to, &args.database)?;
    let (progress, is_dry_run) = (CopyProgress::default(), args.dry_run);
    // Only the table has lines of progress: they would be no JSON.
    let shows_lines = args.output == OutputFormat::Table;
    let report = tokio::select! {
        report = copy(&from, &to, Millis::wall(), is_dry_run, &progress) => report,
        never = show(&progress, shows_lines) => match never {},
    };
    let report = report.map_err(|error| failure(&error, (&from, &to)))?;
    match args.output {
        OutputFormat::Table => lines(&report).iter().for_each(|line| print_line(line)),
        OutputFormat::Json | OutputFormat::Yaml => output::print_value(args.output, &report)?,
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn run_unseal(args: UnsealArgs) -> CommandResult {
    let (flag, location) = match (args.data, args.store_url) {
        (_, Some(url)) => ("--store-url", Location::Database(args.database.options("--store-url", &url)?)),
        (data, None) => ("--data", Location::Folder(data.unwrap_or_default())),
    };
    let done = unseal(&location).await;
    let done = done.map_err(|error| Failure::new(format!("{flag} {}: {error}", name(&location))))?;
    print_line(&format!("{}: {done}", name(&location)));
    Ok(ExitCode::SUCCESS)
}

/// Returns the folder or the database that a flag names.
fn location(flag: &str, value: &SecretString, database: &DatabaseArgs) -> Result<Location, Failure> {
    use secrecy::ExposeSecret;
    let text = value.expose_secret();
    match text.contains("://") {
        true => Ok(Location::Database(database.options(flag, value)?)),
        false => Ok(Location::Folder(text.into())),
    }
}

/// Returns the name of a location for people, without secrets.
fn name(location: &Location) -> String {
    match location {
        Location::Folder(dir) => dir.display().to_string(),
        Location::Database(options) => options.description(),
    }
}

fn failure(error: &CopyError, (from, to): (&Location, &Location)) -> Failure {
    let place = match error {
        CopyError::Source(_) => format!("--from {}: ", name(from)),
        CopyError::Target(_) | CopyError::Foreign { .. } => format!("--to {}: ", name(to)),
        CopyError::SameEngine | CopyError::Differs(_) | CopyError::Unfinished(_) | CopyError::Stopped => {
            String::new()
        }
    };
    Failure::new(format!("{place}{error}"))
}

/// Shows the progress until the copy ends.
async fn show(progress: &CopyProgress, shows_lines: bool) -> std::convert::Infallible {
    let mut display: Option<ProgressDisplay> = None;
    loop {
        tokio::time::sleep(SHOW).await;
        let (copied, total) = progress.rows();
        if total == 0 || copied == 0 {
            continue;
        }
        let display = display.get_or_insert_with(|| match shows_lines {
            true => ProgressDisplay::new("rows copied", Some(total)),
            false => ProgressDisplay::bar_only("rows copied", Some(total)),
        });
        display.show(copied);
    }
}

fn lines(report: &CopyReport) -> Vec<String> {
    let is_planned = report.rows.iter().all(|rows| rows.copy.is_none());
    let mut lines =
        vec![format!("{:24}{:>14}{:>14}", "KIND", "SOURCE", if is_planned { "" } else { "COPY" })];
    lines.extend(report.rows.iter().map(|rows| {
        let kind: &str = rows.kind.into();
        let copy = rows.copy.map_or_else(String::new, |copy| copy.to_string());
        format!("{kind:24}{:>14}{copy:>14}", rows.source)
    }));
    let (from, to) = (&report.from, &report.to);
    lines.push(match is_planned {
        true => format!("{from} can be copied to {to}; nothing was changed"),
        false => {
            format!("{from} was copied to {to}, all counts are equal; workers refuse {from} from now on")
        }
    });
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
}
