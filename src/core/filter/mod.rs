//! Filters: CEL over `source`, `event`, `data` and `attributes`.
//!
//! The `cel` crate reads the text. What it read is turned into a tree of our own, and evaluated here, for the crate's
//! evaluator has no bound: it copies whole values, and an expression of 4 KiB can keep it busy for hours. Here every step
//! costs, and at `BUDGET` steps the answer is an error. So whoever may write a filter cannot hang the worker, whatever
//! the data.
//!
//! What is bounded: the text (4 KiB), its nesting (the parser's and the tree's), the stack of the parser (it runs on its
//! own, for a sum of 2,000 terms overflows 2 MiB), regular expressions (literals, compiled with a bound, linear in time),
//! and the steps of an evaluation, which bound its memory too: a step makes at most one element or 8 bytes of text.
//!
//! Invariants: an unknown name or function is found when the filter is compiled; running out of steps is never taken
//! for an answer, as other errors are by `&&` and `||`.

mod compile;
mod eval;
mod value;

use std::cell::OnceCell;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::event::Event;
use compile::Node;

/// Bytes of a filter's text.
pub const MAX_TEXT: usize = 4096;
/// Steps that one evaluation may take; some 20 ms.
pub const BUDGET: u32 = 1_000_000;
/// Characters of what an error repeats.
const MAX_PROBLEM: usize = 256;

/// A compiled filter.
#[derive(Clone)]
pub struct Filter(Arc<Compiled>);

struct Compiled {
    text: String,
    root: Node,
}

/// Why a filter cannot be used, or does not decide an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
pub enum FilterError {
    #[error("is longer than {MAX_TEXT} bytes")]
    TooLong,
    #[error("line {line}, column {column}: {problem}")]
    Invalid { line: usize, column: usize, problem: String },
    /// The machine has no thread left for the parser.
    #[error("cannot be compiled now: {0}")]
    Unavailable(String),
    #[error("the answer is {0}, not true or false")]
    NotBoolean(&'static str),
    #[error("it takes more than {BUDGET} steps on this event")]
    TooCostly,
    #[error("{0}")]
    Failed(String),
    #[error("the event's data cannot be read: {0}")]
    Unreadable(String),
}

/// An event as filters see it. Its data is parsed once, when it is first needed, for all filters that look at it.
pub struct Facts<'a> {
    event: &'a Event,
    data: OnceCell<Result<Value, FilterError>>,
    attributes: OnceCell<Value>,
}

impl<'a> Facts<'a> {
    pub fn new(event: &'a Event) -> Self {
        Facts { event, data: OnceCell::new(), attributes: OnceCell::new() }
    }

    pub fn event(&self) -> &'a Event {
        self.event
    }

    /// The data, where it can be read: the parser refuses numbers that no machine number holds.
    pub fn data(&self) -> Result<&Value, &FilterError> {
        let read = || {
            serde_json::from_str(self.event.data.get())
                .map_err(|error| FilterError::Unreadable(bounded(&error.to_string())))
        };
        self.data.get_or_init(read).as_ref()
    }

    fn attributes(&self) -> &Value {
        self.attributes.get_or_init(|| {
            Value::Object(self.event.attributes.iter().map(|(n, v)| (n.clone(), v.clone())).collect())
        })
    }
}

impl Filter {
    /// Compiles a filter. The error says where.
    pub fn compile(text: &str) -> Result<Filter, FilterError> {
        if text.len() > MAX_TEXT {
            return Err(FilterError::TooLong);
        }
        let root = compile::compile(text)?;
        Ok(Filter(Arc::new(Compiled { text: text.to_owned(), root })))
    }

    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// True where the event is to be delivered. An error does not decide it.
    pub fn matches(&self, event: &Event) -> Result<bool, FilterError> {
        self.matches_facts(&Facts::new(event))
    }

    /// The same, for an event that several filters look at.
    pub fn matches_facts(&self, facts: &Facts<'_>) -> Result<bool, FilterError> {
        eval::decide(&self.0.root, facts)
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for Filter {}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Filter").field(&self.0.text).finish()
    }
}

/// What goes into messages stays short: a condition's message and an answer are no place for whole expressions.
fn bounded(text: &str) -> String {
    text.chars().take(MAX_PROBLEM).collect()
}

#[cfg(test)]
mod tests;
