//! Runs users' Lua in child processes.
//!
//! Purpose: renders templates and calls lambdas for hooks. An endless loop, a memory bomb or a crash of the interpreter
//! affects one invocation only.
//!
//! Invariants:
//! - No secret enters a child. A child inherits no memory, descriptor or environment of the worker.
//! - Every invocation has a deadline, after which the worker kills and replaces the child.
//! - Every message has a size limit, and the worker validates everything that a child sends.
//! - Namespaces, and then their hooks, share the children (`scheduler`) and the memory of messages fairly.
//! - The memory budget counts inputs and replies: the first bytes of a reply announce its length, and the worker reads on
//!   only once it has reserved that.
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
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::core::event::data::{Data, JsonStyle};
use crate::core::fair_shares::Owner;
use crate::core::output::{MAX_OUTPUT, Output, OutputBudget};
use crate::core::template::{Diagnostic, Template};
use crate::memory::Reservation;
pub use error::ScriptError;
pub use options::SandboxOptions;
use pool::Pool;
use protocol::{InvocationError, InvocationOutput, InvocationRequest, Reply};
use scheduler::FinishedInvocation;

/// The most parsed templates in the cache. The cache is cleared when it is full.
const MAX_CACHED_TEMPLATES: usize = 1024;

/// Messages up to this length are written and read on async threads. Longer ones may take over a millisecond, which would
/// delay the other tasks of the thread.
const MAX_INLINE: usize = 128 << 10;

/// The memory of an input besides its bytes.
const INPUT_OVERHEAD: u64 = 1024;

/// The hook for which a script runs.
#[derive(Clone, Copy, Debug)]
pub struct ScriptOwner<'a> {
    pub namespace: &'a Arc<str>,
    /// The uid of the hook.
    pub hook: &'a Arc<str>,
}

impl<'a> From<ScriptOwner<'a>> for Owner<'a> {
    fn from(ScriptOwner { namespace, hook }: ScriptOwner<'a>) -> Self {
        Owner::hook(namespace, hook)
    }
}

/// The variables of templates: see [`crate::core::template::context`].
#[derive(Clone, Debug)]
pub struct RenderContext {
    pub variables: Arc<Data<'static>>,
    /// About the length of the variables as JSON, for which memory is reserved.
    pub bytes: usize,
}

/// Rendered texts, with the memory that is reserved for them.
#[derive(Debug, Default)]
pub struct RenderedTexts {
    pub texts: Vec<String>,
    pub memory: Option<Reservation>,
}

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
    /// `within` is the caller's remaining time; the deadline of an invocation applies too.
    pub async fn render(
        &self,
        owner: ScriptOwner<'_>,
        templates: &[&str],
        context: &RenderContext,
        within: Duration,
    ) -> Result<RenderedTexts, ScriptError> {
        let mut rendered = Vec::with_capacity(templates.len());
        let mut in_child = Vec::new();
        let mut budget = OutputBudget::new(MAX_OUTPUT, &|| false);
        for text in templates {
            let template = self.template(text)?;
            if template.only_fields() {
                let mut out = Output::new(&mut budget, text.len());
                template.render_fields_into(&context.variables, &mut out)?;
                rendered.push(Some(out.into_text()));
            } else {
                rendered.push(None);
                in_child.push(*text);
            }
        }
        let (from_child, memory) = match in_child.is_empty() {
            true => (Vec::new(), None),
            false => self.render_in_child(owner, &in_child, context, within).await?,
        };
        let mut from_child = from_child.into_iter();
        let texts = rendered
            .into_iter()
            .map(|text| text.or_else(|| from_child.next()).ok_or(ScriptError::ScriptCrashed))
            .collect::<Result<_, _>>()?;
        Ok(RenderedTexts { texts, memory })
    }

    async fn render_in_child(
        &self,
        owner: ScriptOwner<'_>,
        templates: &[&str],
        context: &RenderContext,
        within: Duration,
    ) -> Result<(Vec<String>, Option<Reservation>), ScriptError> {
        let bytes = context.bytes + templates.iter().map(|text| text.len()).sum::<usize>();
        let encode = async {
            let templates: Vec<String> = templates.iter().map(|text| (*text).to_owned()).collect();
            let variables = context.variables.clone();
            let encode = move || encode_render(&templates, &variables);
            match bytes > MAX_INLINE {
                // Fails if it panics, which affects this invocation only.
                true => tokio::task::spawn_blocking(encode).await.map_err(|_| ScriptError::ScriptCrashed)?,
                false => encode(),
            }
        };
        let (output, memory) = self.run(owner, bytes, encode, within).await.map_err(|error| match error {
            InvocationFailure::TooBig(_) => ScriptError::OutputTooLarge,
            InvocationFailure::Other(error) => error,
        })?;
        match output {
            InvocationOutput::Texts(texts) if texts.len() == templates.len() => Ok((texts, memory)),
            _ => Err(ScriptError::ScriptCrashed),
        }
    }

    /// Calls a lambda and returns its result as JSON.
    pub async fn invoke(
        &self,
        owner: ScriptOwner<'_>,
        invocation: Invocation<'_>,
        within: Duration,
    ) -> Result<Value, ScriptError> {
        let Invocation { function, data, event, source, pid } = invocation;
        let bytes = function.len() + data.get().len() + event.len() + source.len();
        let request = InvocationRequest::Call {
            function: function.into(),
            data,
            event: event.into(),
            source: source.into(),
            pid,
        };
        // Copies the data, which costs little.
        let encode = async { encode(&request) };
        let (output, _memory) =
            self.run(owner, bytes, encode, within).await.map_err(|error| match error {
                InvocationFailure::TooBig(message) => ScriptError::ScriptTooBig(message),
                InvocationFailure::Other(error) => error,
            })?;
        match output {
            InvocationOutput::Value(value) => {
                serde_json::from_str(value.get()).map_err(|_| ScriptError::ScriptCrashed)
            }
            InvocationOutput::Texts(_) => Err(ScriptError::ScriptCrashed),
        }
    }

    /// `bytes`: the length of the input.
    async fn run(
        &self,
        owner: ScriptOwner<'_>,
        bytes: usize,
        encode: impl Future<Output = Result<Vec<u8>, ScriptError>>,
        within: Duration,
    ) -> Result<(InvocationOutput, Option<Reservation>), InvocationFailure> {
        // Twice: the JSON of a context exists beside the request while it is encoded, and the request beside the copy that is
        // written to the child.
        let bytes = (bytes as u64).saturating_mul(2).saturating_add(INPUT_OVERHEAD);
        let finished = self.pool.run(owner, bytes, encode, within).await.map_err(InvocationFailure::Other)?;
        let FinishedInvocation { reply: Reply { outcome, logs, .. }, budget, memory } = finished;
        for log in logs {
            log.emit(owner.hook);
        }
        let output = outcome.map_err(|error| match error {
            InvocationError::Error(message) => ScriptError::ScriptFailed(message).into(),
            InvocationError::Timeout => ScriptError::ScriptTimeout(budget).into(),
            InvocationError::Memory => ScriptError::ScriptMemory.into(),
            InvocationError::TooBig(message) => InvocationFailure::TooBig(message),
        })?;
        Ok((output, memory))
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

/// Why an invocation has no result.
enum InvocationFailure {
    /// Its output exceeds the limit of the child.
    TooBig(String),
    Other(ScriptError),
}

impl From<ScriptError> for InvocationFailure {
    fn from(error: ScriptError) -> Self {
        InvocationFailure::Other(error)
    }
}

fn encode_render(templates: &[String], variables: &Data<'_>) -> Result<Vec<u8>, ScriptError> {
    let context = RawValue::from_string(variables.to_json(JsonStyle::Original))
        .map_err(|error| ScriptError::ScriptFailed(error.to_string()))?;
    let templates = templates.iter().map(|text| text.as_str().into()).collect();
    encode(&InvocationRequest::Render { templates, context: &context })
}

fn encode(request: &InvocationRequest<'_>) -> Result<Vec<u8>, ScriptError> {
    protocol::encode_request(request).ok_or_else(|| {
        ScriptError::ScriptTooBig(format!("the script's input is over {} MiB", protocol::MAX_REQUEST >> 20))
    })
}
