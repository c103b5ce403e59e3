//! Lua of users, run in child processes.
//!
//! Purpose: renders templates and calls lambdas for hooks, and harms nobody: an endless loop, a memory bomb or a crash
//! of the interpreter costs one call.
//!
//! Invariants: no secret enters a child; a child has nothing of the worker's memory, descriptors or environment; every
//! call has a deadline, after which its child is killed and replaced; every message has a bound; hooks take turns.
//!
//! Left to others: what a template means (`core::template`), what a result leads to (`worker::handlers`).

use std::time::Duration;

use serde_json::Value;

/// Why a call gave no result. The text is for the hook's owner; it names the line where Lua told one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
pub enum ScriptError {
    /// It raised an error, or could not be compiled.
    #[error("{0}")]
    ScriptFailed(String),
    #[error("it ran longer than {}ms", .0.as_millis())]
    ScriptTimeout(Duration),
    #[error("it used more memory than a script may")]
    ScriptMemory,
    /// The child died under it.
    #[error("the sandbox process died under it")]
    ScriptCrashed,
    /// Its input or result is over the bound.
    #[error("{0}")]
    ScriptTooBig(String),
    /// Nothing was run: no sandbox can be had.
    #[error("{0}")]
    SandboxUnavailable(String),
}

/// What a lambda is called with.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The text of the chunk that returns the function.
    pub function: &'a str,
    pub data: &'a Value,
    pub event: &'a str,
    pub source: &'a str,
    /// The process id that the function is told.
    pub pid: u32,
}

/// The pool of children. Cheap to clone.
#[derive(Clone)]
pub struct Sandbox {}

impl Sandbox {
    /// Renders templates with one context, in order. `hook` is its uid: hooks take turns. `within`: what the caller has
    /// left; the script's own deadline counts too.
    pub async fn render(
        &self,
        _hook: &str,
        _templates: &[&str],
        _context: &Value,
        _within: Duration,
    ) -> Result<Vec<String>, ScriptError> {
        Err(ScriptError::SandboxUnavailable("not built".into()))
    }

    /// Calls a lambda; its result as JSON.
    pub async fn call(&self, _hook: &str, _call: Call<'_>, _within: Duration) -> Result<Value, ScriptError> {
        Err(ScriptError::SandboxUnavailable("not built".into()))
    }
}
