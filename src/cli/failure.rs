//! The errors of commands, and their exit codes.

use std::process::ExitCode;

/// The result of a command: exit code 0 for success, 1 for a negative finding; a failure has code 2 or above.
pub type CommandResult = Result<ExitCode, Failure>;

/// A failed command: one line for standard error, and the exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub code: u8,
    pub message: String,
}

impl Failure {
    /// Creates a failure with exit code 2.
    pub fn new(message: impl Into<String>) -> Self {
        Failure { code: 2, message: message.into() }
    }
}

/// Converts errors into failures.
pub trait OrFail<T> {
    /// Turns an error into a failure of the command. Prefixes it with the action that failed.
    fn or_fail(self, action: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: std::fmt::Display> OrFail<T> for Result<T, E> {
    fn or_fail(self, action: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(format!("{}: {error}", action())))
    }
}
