//! Why an invocation failed.

use std::time::Duration;

use crate::core::template::Diagnostic;

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
    /// The invocation did not start, because no sandbox process is available.
    #[error("{0}")]
    SandboxUnavailable(String),
}

impl From<Diagnostic> for ScriptError {
    fn from(found: Diagnostic) -> Self {
        ScriptError::ScriptFailed(found.to_string())
    }
}
