//! Runs users' Lua in child processes.
//!
//! Purpose: renders templates and calls lambdas for hooks. An endless loop, a memory bomb or a crash of the interpreter
//! affects one invocation only.
//!
//! Invariants:
//! - No secret enters a child. A child inherits no memory, descriptor or environment of the worker.
//! - Every invocation has a deadline, after which the worker kills and replaces the child.
//! - Every message has a size limit, and the worker validates everything that a child sends.
//! - Hooks share the children fairly (`scheduler`).
//!
//! Reading order: `pool` (queueing an invocation), `scheduler` (choosing the next hook), `serve` (exchanging requests
//! and replies with one child), `process` (starting and killing), `protocol` (the messages), `child` (the code that
//! runs in a child).
//!
//! Out of scope: parsing and compiling templates (`core::template`), the outcome of an attempt (`worker::handlers`).

pub mod child;
mod error;
mod options;
mod pool;
mod process;
pub mod protocol;
mod scheduler;
mod serve;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::core::event::data::{Data, JsonStyle};
use crate::core::output::{MAX_OUTPUT, Output, OutputBudget};
use crate::core::template::{Diagnostic, Template};
pub use error::ScriptError;
pub use options::SandboxOptions;
use pool::Pool;
use protocol::{InvocationError, InvocationOutput, InvocationRequest, Reply};

/// The most parsed templates in the cache. The cache is cleared when it is full.
const MAX_CACHED_TEMPLATES: usize = 1024;

/// An invocation of a lambda.
#[derive(Clone, Debug)]
pub struct Invocation<'a> {
    /// The text of the chunk that returns the function.
    pub function: &'a str,
    pub data: &'a RawValue,
    pub event: &'a str,
    pub source: &'a str,
    /// The process id that the function receives.
    pub pid: u32,
}

/// A handle to the pool of children. Cheap to clone; the children end with the last clone.
#[derive(Clone)]
pub struct Sandbox {
    pool: Arc<Pool>,
    templates: Arc<Mutex<HashMap<String, Arc<Template>>>>,
}

impl Sandbox {
    /// Starts a first child, to find out whether scripts can run here.
    ///
    /// If it does not start, logs the reason. Invocations then fail with [`ScriptError::SandboxUnavailable`]:
    /// permanently if the kernel does not confine the child, otherwise until a child starts.
    pub async fn start(options: SandboxOptions) -> Sandbox {
        let pool = Pool::start(options).await;
        if let Some(reason) = pool.unavailable() {
            tracing::warn!(%reason, "sandbox unavailable, lambdas and templates with code cannot run");
        }
        Sandbox { pool, templates: Arc::default() }
    }

    /// Returns why the first child did not start.
    pub fn unavailable(&self) -> Option<String> {
        self.pool.unavailable()
    }

    /// Renders templates with one context and returns the texts in order.
    ///
    /// `hook` is the uid of the hook, by which the scheduler shares the children fairly. `context`: see
    /// [`crate::core::template::context`]. `within` is the caller's remaining time; the deadline of an invocation
    /// applies too.
    pub async fn render(
        &self,
        hook: &str,
        templates: &[&str],
        context: &Data<'_>,
        within: Duration,
    ) -> Result<Vec<String>, ScriptError> {
        let mut rendered = Vec::with_capacity(templates.len());
        let mut in_child = Vec::new();
        let mut budget = OutputBudget::new(MAX_OUTPUT, &|| false);
        for text in templates {
            let template = self.template(text)?;
            if template.only_fields() {
                let mut out = Output::new(&mut budget, text.len());
                template.render_fields_into(context, &mut out)?;
                rendered.push(Some(out.into_text()));
            } else {
                rendered.push(None);
                in_child.push(*text);
            }
        }
        let mut from_child = if in_child.is_empty() {
            Vec::new()
        } else {
            let context = RawValue::from_string(context.to_json(JsonStyle::Original))
                .map_err(|error| ScriptError::ScriptFailed(error.to_string()))?;
            let templates = in_child.iter().map(|text| (*text).into()).collect();
            let request = InvocationRequest::Render { templates, context: &context };
            match self.run(hook, request, within).await? {
                InvocationOutput::Texts(texts) if texts.len() == in_child.len() => texts,
                _ => return Err(ScriptError::ScriptCrashed),
            }
        }
        .into_iter();
        rendered
            .into_iter()
            .map(|text| text.or_else(|| from_child.next()).ok_or(ScriptError::ScriptCrashed))
            .collect()
    }

    /// Calls a lambda and returns its result as JSON.
    pub async fn invoke(
        &self,
        hook: &str,
        invocation: Invocation<'_>,
        within: Duration,
    ) -> Result<Value, ScriptError> {
        let Invocation { function, data, event, source, pid } = invocation;
        let request = InvocationRequest::Call {
            function: function.into(),
            data,
            event: event.into(),
            source: source.into(),
            pid,
        };
        match self.run(hook, request, within).await? {
            InvocationOutput::Value(value) => {
                serde_json::from_str(value.get()).map_err(|_| ScriptError::ScriptCrashed)
            }
            InvocationOutput::Texts(_) => Err(ScriptError::ScriptCrashed),
        }
    }

    async fn run(
        &self,
        hook: &str,
        request: InvocationRequest<'_>,
        within: Duration,
    ) -> Result<InvocationOutput, ScriptError> {
        let (Reply { outcome, logs, .. }, budget) = self.pool.run(hook, &request, within).await?;
        for log in logs {
            log.emit(hook);
        }
        outcome.map_err(|error| match error {
            InvocationError::Error(message) => ScriptError::ScriptFailed(message),
            InvocationError::Timeout => ScriptError::ScriptTimeout(budget),
            InvocationError::Memory => ScriptError::ScriptMemory,
            InvocationError::TooBig(_) if matches!(request, InvocationRequest::Render { .. }) => {
                ScriptError::OutputTooLarge
            }
            InvocationError::TooBig(message) => ScriptError::ScriptTooBig(message),
        })
    }

    /// Returns a parsed template, from the cache if possible.
    fn template(&self, text: &str) -> Result<Arc<Template>, Diagnostic> {
        if let Some(template) = self.templates.lock().get(text) {
            return Ok(template.clone());
        }
        let template = Arc::new(Template::parse(text)?);
        let mut templates = self.templates.lock();
        if templates.len() >= MAX_CACHED_TEMPLATES {
            templates.clear();
        }
        templates.insert(text.to_owned(), template.clone());
        Ok(template)
    }
}
