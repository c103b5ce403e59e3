//! Lua of users, run in child processes.
//!
//! Purpose: renders templates and calls lambdas for hooks, and harms nobody: an endless loop, a memory bomb or a crash
//! of the interpreter costs one call.
//!
//! Invariants: no secret enters a child; a child has nothing of the worker's memory, descriptors or environment; every
//! call has a deadline, after which its child is killed and replaced; every message has a bound, and nothing that a child
//! says is believed; hooks take turns.
//!
//! Left to others: what a template means (`core::template`), what a result leads to (`worker::handlers`).

pub mod child;
mod pool;
mod process;
pub mod protocol;
mod serve;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use crate::core::template::{Diagnostic, Template};
use pool::Pool;
use protocol::{Answer, Failed, Job, Reply};

/// How many templates are kept read. One that fell out is read again.
const TEMPLATES: usize = 1024;

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

impl From<Diagnostic> for ScriptError {
    fn from(found: Diagnostic) -> Self {
        ScriptError::ScriptFailed(found.to_string())
    }
}

/// What a lambda is called with.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The text of the chunk that returns the function.
    pub function: &'a str,
    pub data: &'a RawValue,
    pub event: &'a str,
    pub source: &'a str,
    /// The process id that the function is told.
    pub pid: u32,
}

/// How scripts are run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long one call may run.
    pub timeout: Duration,
    /// The Lua memory of one child, in bytes.
    pub memory: u64,
    /// The most children; each runs one call at a time.
    pub processes: usize,
    /// The program that the children run, with the subcommand `sandbox`.
    pub program: PathBuf,
    /// Run scripts where the kernel refuses to confine them.
    pub allow_unsandboxed: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            timeout: Duration::from_secs(1),
            memory: 64 << 20,
            processes: std::thread::available_parallelism().map_or(1, usize::from),
            program: PathBuf::from("/proc/self/exe"),
            allow_unsandboxed: false,
        }
    }
}

/// The pool of children. Cheap to clone; the children end with the last clone.
#[derive(Clone)]
pub struct Sandbox {
    pool: Arc<Pool>,
    templates: Arc<Mutex<HashMap<String, Arc<Template>>>>,
}

impl Sandbox {
    /// Starts a first child, to see whether scripts can be run here. Where they cannot, that is logged, and calls that
    /// need Lua answer [`ScriptError::SandboxUnavailable`] with the reason: all of them where the kernel does not confine
    /// the child, else until one starts.
    pub async fn start(options: Options) -> Sandbox {
        let pool = Pool::start(options).await;
        if let Some(why) = pool.unavailable() {
            tracing::warn!("lambdas and templates with code cannot run: {why}");
        }
        Sandbox { pool, templates: Arc::default() }
    }

    /// Why no script could be run at the start.
    pub fn unavailable(&self) -> Option<String> {
        self.pool.unavailable()
    }

    /// Renders templates with one context, in order. `hook` is its uid: hooks take turns. `context`: see
    /// [`crate::core::template::context`]. `within`: what the caller has left; the script's own deadline counts too.
    pub async fn render(
        &self,
        hook: &str,
        templates: &[&str],
        context: &Value,
        within: Duration,
    ) -> Result<Vec<String>, ScriptError> {
        let mut rendered = Vec::with_capacity(templates.len());
        let mut in_child = Vec::new();
        for text in templates {
            let template = self.template(text)?;
            if template.only_fields() {
                rendered.push(Some(template.render_fields(context)?));
            } else {
                rendered.push(None);
                in_child.push(*text);
            }
        }
        let mut answers = if in_child.is_empty() {
            Vec::new()
        } else {
            let context =
                to_raw_value(context).map_err(|error| ScriptError::ScriptFailed(error.to_string()))?;
            let templates = in_child.iter().map(|text| (*text).into()).collect();
            match self.run(hook, Job::Render { templates, context: &context }, within).await? {
                Answer::Texts(texts) if texts.len() == in_child.len() => texts,
                _ => return Err(ScriptError::ScriptCrashed),
            }
        }
        .into_iter();
        rendered
            .into_iter()
            .map(|text| text.or_else(|| answers.next()).ok_or(ScriptError::ScriptCrashed))
            .collect()
    }

    /// Calls a lambda; its result as JSON.
    pub async fn call(&self, hook: &str, call: Call<'_>, within: Duration) -> Result<Value, ScriptError> {
        let Call { function, data, event, source, pid } = call;
        let job =
            Job::Call { function: function.into(), data, event: event.into(), source: source.into(), pid };
        match self.run(hook, job, within).await? {
            Answer::Value(value) => serde_json::from_str(value.get()).map_err(|_| ScriptError::ScriptCrashed),
            Answer::Texts(_) => Err(ScriptError::ScriptCrashed),
        }
    }

    async fn run(&self, hook: &str, job: Job<'_>, within: Duration) -> Result<Answer, ScriptError> {
        let (Reply { outcome, logs, .. }, budget) = self.pool.run(hook, &job, within).await?;
        for log in logs {
            log.tell(hook);
        }
        outcome.map_err(|failed| match failed {
            Failed::Error(message) => ScriptError::ScriptFailed(message),
            Failed::Timeout => ScriptError::ScriptTimeout(budget),
            Failed::Memory => ScriptError::ScriptMemory,
            Failed::TooBig(message) => ScriptError::ScriptTooBig(message),
        })
    }

    /// A template, read once.
    fn template(&self, text: &str) -> Result<Arc<Template>, Diagnostic> {
        if let Some(template) = self.templates.lock().get(text) {
            return Ok(template.clone());
        }
        let template = Arc::new(Template::parse(text)?);
        let mut templates = self.templates.lock();
        if templates.len() >= TEMPLATES {
            templates.clear();
        }
        templates.insert(text.to_owned(), template.clone());
        Ok(template)
    }
}
