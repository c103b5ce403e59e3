//! Why an invocation failed.

use std::time::Duration;

use crate::core::output::{MAX_OUTPUT, OutputError};
use crate::core::template::{Diagnostic, RenderError};

/// Why an invocation has no result. The text is for the hook's owner; it contains the line if Lua reported one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
pub enum ScriptError {
    /// The script raised an error or could not be compiled.
    #[error("{0}")]
    ScriptFailed(String),
    #[error("the script ran longer than {}ms", .0.as_millis())]
    ScriptTimeout(Duration),
    #[error("the script used more memory than the limit")]
    ScriptMemory,
    /// The child process died during the invocation.
    #[error("the sandbox process died while running the script")]
    ScriptCrashed,
    /// Its input or result exceeds the limit.
    #[error("{0}")]
    ScriptTooBig(String),
    /// Rendered texts exceed the output budget of an attempt.
    #[error("the output exceeds {} MiB", MAX_OUTPUT >> 20)]
    OutputTooLarge,
    /// The invocation did not start, because no sandbox process can run scripts.
    #[error("{0}")]
    SandboxUnavailable(String),
    /// Other invocations use all sandbox processes, their queue or their memory.
    #[error("{0}")]
    SandboxBusy(String),
}

impl From<Diagnostic> for ScriptError {
    fn from(found: Diagnostic) -> Self {
        ScriptError::ScriptFailed(found.to_string())
    }
}

impl From<RenderError> for ScriptError {
    fn from(error: RenderError) -> Self {
        match error {
            RenderError::Template(found) => found.into(),
            RenderError::Output(OutputError::TooLarge) => ScriptError::OutputTooLarge,
            RenderError::Output(OutputError::Late) => ScriptError::ScriptFailed(error.to_string()),
        }
    }
}
