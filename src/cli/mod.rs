//! The command line: a file a subcommand.
//!
//! Purpose: read flags and `HOOKSTREAM_*` variables, wire the parts together, turn outcomes into exit codes.
//!
//! Invariants: exit codes are 0 done, 1 found something, 2 and above could not do it; what goes wrong is one line on
//! standard error that says what to do; no subcommand holds logic that another part could need.
//!
//! Left to others: everything else.

pub mod cluster;
pub mod crds;
mod data;
pub mod deliveries;
pub mod diff;
pub mod emulate;
mod http;
pub mod import;
mod logging;
mod output;
pub mod ping;
mod reach;
pub mod receive;
pub mod release;
mod roles;
mod sandbox;
pub mod send;
mod settings;
pub mod sources;
pub mod standalone;
pub mod store;
pub mod test;
pub mod uninstall_check;
pub mod validate;

use std::future::Future;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::runtime::Builder;

use crate::net::threads::half_of_the_cores;

/// Keeps Kong's event hooks and Auth0's event streams as they are declared, and delivers their events durably.
#[derive(Parser)]
#[command(name = "hookstream", version, propagate_version = true, after_help = EXAMPLE)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLE: &str = "Example: hookstream standalone --manifests deploy/samples/quickstart --data ./data";

#[derive(Subcommand)]
enum Command {
    Run(cluster::RunArgs),
    Controller(cluster::ControllerRoleArgs),
    Worker(cluster::WorkerOnlyArgs),
    Standalone(standalone::Args),
    Crds(crds::Args),
    Validate(validate::Args),
    Diff(diff::Args),
    Test(test::Args),
    Ping(ping::Args),
    Sources(sources::Args),
    #[command(subcommand)]
    Import(import::Vendor),
    #[command(subcommand)]
    Emulate(emulate::Vendor),
    Receive(receive::Args),
    Release(release::Args),
    Send(send::Args),
    #[command(subcommand)]
    Deliveries(deliveries::Command),
    UninstallCheck(uninstall_check::Args),
    #[command(subcommand)]
    Store(store::Command),
    #[command(hide = true)]
    Sandbox(sandbox::Args),
}

/// Why a command could not do what it was asked: one line, and the exit code (2 and above).
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub code: u8,
    pub message: String,
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Failure { code: 2, message: message.into() }
    }
}

/// Adds what was being done to an error, and makes it a failure of the command.
pub trait OrFail<T> {
    fn or_fail(self, doing: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: std::fmt::Display> OrFail<T> for Result<T, E> {
    fn or_fail(self, doing: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(format!("{}: {error}", doing())))
    }
}

/// What a command ends with: 0 done, 1 found something.
pub type Outcome = Result<ExitCode, Failure>;

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    // reqwest brings no cryptography of its own; an error only says that a provider is installed already.
    rustls::crypto::ring::default_provider().install_default().ok();
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Run(args) => beside_ingest(cluster::run(args)),
        Command::Controller(args) => block_on(cluster::controller(args)),
        Command::Worker(args) => beside_ingest(cluster::worker(args)),
        Command::Standalone(args) => beside_ingest(standalone::run(args)),
        Command::Crds(args) => crds::run(args),
        Command::Import(vendor) => block_on(import::run(vendor)),
        Command::Validate(args) => validate::run(&args),
        Command::Diff(args) => block_on(diff::run(args)),
        Command::Test(args) => block_on(test::run(args)),
        Command::Ping(args) => block_on(ping::run(args)),
        Command::Sources(args) => sources::run(args),
        Command::Emulate(vendor) => block_on(emulate::run(vendor)),
        Command::Receive(args) => block_on(receive::run(args)),
        Command::Release(args) => block_on(release::run(args)),
        Command::Send(args) => block_on(send::run(args)),
        Command::Deliveries(command) => block_on(deliveries::run(command)),
        Command::UninstallCheck(args) => block_on(uninstall_check::run(args)),
        Command::Store(command) => store::run(command),
        Command::Sandbox(args) => return sandbox::run(&args),
    };
    outcome.unwrap_or_else(|failure| {
        eprintln!("hookstream: {failure}");
        ExitCode::from(failure.code)
    })
}

/// Runs an asynchronous command to its end, on a runtime of its own.
fn block_on(command: impl Future<Output = Outcome> + Send + 'static) -> Outcome {
    run_on(&mut Builder::new_multi_thread(), command)
}

/// The same with one that takes in events, which has the other half of the cores.
fn beside_ingest(command: impl Future<Output = Outcome> + Send + 'static) -> Outcome {
    run_on(Builder::new_multi_thread().worker_threads(half_of_the_cores()), command)
}

fn run_on(runtime: &mut Builder, command: impl Future<Output = Outcome> + Send + 'static) -> Outcome {
    let runtime = runtime.enable_all().build().or_fail(|| "starting the runtime".into())?;
    // On one of the runtime's own threads: what talks to its tasks from another wakes a thread at every word.
    let outcome =
        runtime.block_on(runtime.spawn(command)).unwrap_or_else(|ended| match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(ended) => Err(Failure::new(ended.to_string())),
        });
    // A read of standard input that never ends must not keep the process.
    runtime.shutdown_background();
    outcome
}

/// Ready when the process is asked to stop: SIGINT or SIGTERM.
fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).or_fail(|| "listening for SIGINT".into())?;
    let mut terminate = signal(SignalKind::terminate()).or_fail(|| "listening for SIGTERM".into())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Prints a line on standard output. A reader that went away (`| head`) is no reason to fail, nor to panic as
/// `println!` would.
fn say(line: &str) {
    use std::io::Write;
    writeln!(std::io::stdout().lock(), "{line}").ok();
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory};

    use super::Cli;

    /// Every command with its words, `deliveries list`, but those that are hidden.
    fn commands(command: &Command, words: &str, all: &mut Vec<(String, Command)>) {
        for below in command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
            let words = format!("{words} {}", below.get_name()).trim().to_owned();
            commands(below, &words, all);
            all.push((words, below.clone()));
        }
    }

    fn all() -> Vec<(String, Command)> {
        let mut all = vec![(String::new(), Cli::command())];
        commands(&Cli::command(), "", &mut all);
        all
    }

    #[test]
    fn every_command_has_an_example() {
        for (words, mut command) in all() {
            let help = command.render_long_help().to_string();
            assert!(help.contains(&format!("Example: hookstream {words}")), "{words}: {help}");
        }
    }

    /// Here what one call is about is said in that call: a variable that somebody forgot must not choose what is replayed,
    /// run or let go of.
    const SAID_EACH_TIME: [&str; 6] =
        ["deliveries list", "deliveries show", "deliveries replay", "test", "release", "store backup"];

    #[test]
    fn every_flag_is_a_variable_too_and_is_described() {
        let mut missing = Vec::new();
        for (words, command) in all() {
            for flag in command.get_arguments() {
                let Some(long) = flag.get_long().filter(|long| !matches!(*long, "help" | "version")) else {
                    continue;
                };
                let name = format!("{words} --{long}");
                assert!(flag.get_help().is_some(), "{name} says nothing of itself");
                let variable = flag.get_env().map(|env| env.to_string_lossy().into_owned());
                let fits =
                    variable.as_deref().is_some_and(|v| v.starts_with("HOOKSTREAM_") || v == "POD_NAMESPACE");
                let said_each_time = variable.is_none() && SAID_EACH_TIME.contains(&words.as_str());
                if !fits && !said_each_time {
                    missing.push(name);
                }
            }
        }
        assert!(missing.is_empty(), "{missing:?}");
    }
}
