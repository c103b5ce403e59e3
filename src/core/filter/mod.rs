//! Filters: CEL expressions over `source`, `event`, `data` and `attributes`. Data that is not JSON is null.
//!
//! The `cel` crate parses the text. This module converts the result to its own tree and evaluates that. The crate's
//! evaluator has no cost limit: it copies whole values, and an expression of 4 KiB can run for hours. An evaluation of
//! more than `BUDGET` steps fails. So neither the author of a filter nor the sender of an event can block the worker.
//!
//! Limits:
//! - the text: 4 KiB;
//! - its nesting, in the parser and in the tree;
//! - the parser's stack: it runs on a thread with a large one, because a sum of 2,000 terms overflows 2 MiB;
//! - regular expressions: literals only, limited in compiled size, linear time;
//! - the steps of an evaluation, which also limit its memory: a step creates at most one element or 8 bytes of text.
//!
//! Invariants: compiling a filter detects unknown names and functions. `&&` and `||` may ignore an error of one operand,
//! but never an exhausted budget. No number of the event is rounded for a comparison: an integer that no type of CEL holds
//! makes the comparison fail.

mod compile;
mod eval;
mod operators;
mod parser_stack;
mod parts;
mod print;
mod value;

use std::cell::OnceCell;
use std::fmt;
use std::sync::Arc;

use super::event::Event;
use super::event::data::{Data, Object, UnreadableData};
use compile::Node;
pub use parser_stack::run_with_parser_stack;
pub use parts::FilterPart;

/// Maximum length of a filter's text in bytes.
pub const MAX_TEXT: usize = 4096;
/// Maximum number of steps of one evaluation; about 20 ms.
pub const BUDGET: u32 = 1_000_000;
/// Maximum length in characters of a problem in an error message.
const MAX_PROBLEM: usize = 256;

/// A compiled filter.
#[derive(Clone)]
pub struct Filter(Arc<Compiled>);

struct Compiled {
    text: String,
    root: Node,
}

/// Why a filter is invalid, or why its evaluation has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
pub enum FilterError {
    #[error("is longer than {MAX_TEXT} bytes")]
    TooLong,
    #[error("line {line}, column {column}: {problem}")]
    Invalid { line: usize, column: usize, problem: String },
    /// The system cannot create a thread for the parser.
    #[error("cannot be compiled now: {0}")]
    Unavailable(String),
    #[error("the result is {0}, not true or false")]
    NotBoolean(String),
    #[error("the evaluation takes more than {BUDGET} steps on this event")]
    TooCostly,
    /// Names the value and the innermost expression that failed.
    #[error("{problem}, in {expression}")]
    Failed { problem: String, expression: String },
    #[error("the event's data cannot be read: {0}")]
    Unreadable(#[from] UnreadableData),
}

/// The input of filters: an event with lazily parsed data, which all filters of the event share.
pub struct FilterInput<'a> {
    event: &'a Event,
    data: OnceCell<Result<Data<'a>, UnreadableData>>,
    attributes: OnceCell<Data<'a>>,
}

impl<'a> FilterInput<'a> {
    pub fn new(event: &'a Event) -> Self {
        FilterInput { event, data: OnceCell::new(), attributes: OnceCell::new() }
    }

    pub fn event(&self) -> &'a Event {
        self.event
    }

    /// Returns the parsed view of the data, which the first caller parses. Text and bytes are a string.
    pub fn data(&self) -> Result<&Data<'a>, UnreadableData> {
        self.data.get_or_init(|| Data::parse(self.event.data.get())).as_ref().map_err(|error| *error)
    }

    fn attributes(&self) -> &Data<'a> {
        self.attributes.get_or_init(|| {
            let attributes = self.event.attributes.iter();
            let members = attributes.map(|(name, value)| (name.as_str().into(), Data::from(value.clone())));
            let own = [("id", &self.event.id), ("time", &self.event.time)];
            let own = own.map(|(name, text)| (name.into(), Data::Text(text.as_str().into())));
            Data::Object(Object::new(members.chain(own).collect()))
        })
    }
}

impl Filter {
    /// Compiles a filter. The error contains line and column.
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

    /// Returns true if the event matches. On an error the event is undecided, neither matched nor dropped.
    pub fn matches(&self, event: &Event) -> Result<bool, FilterError> {
        self.matches_input(&FilterInput::new(event))
    }

    /// Like [`Filter::matches`], with parsed data that several filters share.
    pub fn matches_input(&self, input: &FilterInput<'_>) -> Result<bool, FilterError> {
        eval::evaluate(&self.0.root, input)
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

/// Truncates a problem for use in condition messages and responses, which should not contain whole expressions.
fn truncate(text: &str) -> String {
    text.chars().take(MAX_PROBLEM).collect()
}

#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;
