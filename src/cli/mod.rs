//! The command line: a file a subcommand.
//!
//! Purpose: read flags and `HOOKSTREAM_*` variables, wire the parts together, turn outcomes into exit codes.
//!
//! Invariants: exit codes are 0 done, 1 found something, 2 and above could not do it; what goes wrong is one line on
//! standard error that says what to do; no subcommand holds logic that another part could need.
//!
//! Left to others: everything else.

pub mod crds;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Keeps Kong event hooks declared in Kubernetes, and delivers their events durably.
#[derive(Parser)]
#[command(name = "hookstream", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Crds(crds::Args),
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
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Crds(args) => crds::run(args),
    };
    outcome.unwrap_or_else(|failure| {
        eprintln!("hookstream: {failure}");
        ExitCode::from(failure.code)
    })
}
