//! The values that a filter computes with.

use std::cmp::Ordering;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::FilterError;

/// A value. What comes from the event is borrowed; what the filter makes is shared, so that a copy is one step.
#[derive(Clone)]
pub enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    Text(&'a str),
    Made(Rc<str>),
    List(&'a [Value]),
    MadeList(Rc<Vec<Val<'a>>>),
    Map(&'a Map<String, Value>),
    MadeMap(Rc<Vec<(Val<'a>, Val<'a>)>>),
}

/// Why there is no value.
pub enum Fault {
    /// Out of steps: ends the evaluation.
    Costly,
    /// What `&&` and `||` may leave aside.
    Failed(String),
    Unreadable(FilterError),
}

pub type Answer<'a> = Result<Val<'a>, Fault>;

pub fn failed<T>(problem: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Failed(problem.into()))
}

impl<'a> Val<'a> {
    pub fn of(value: &'a Value) -> Self {
        match value {
            Value::Null => Val::Null,
            Value::Bool(b) => Val::Bool(*b),
            Value::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(n), _) => Val::Int(n),
                (None, Some(n)) => Val::UInt(n),
                (None, None) => Val::Double(n.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => Val::Text(text),
            Value::Array(list) => Val::List(list),
            Value::Object(map) => Val::Map(map),
        }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Val::Null => "null",
            Val::Bool(_) => "a boolean",
            Val::Int(_) => "an int",
            Val::UInt(_) => "a uint",
            Val::Double(_) => "a double",
            Val::Text(_) | Val::Made(_) => "a text",
            Val::List(_) | Val::MadeList(_) => "a list",
            Val::Map(_) | Val::MadeMap(_) => "a map",
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Val::Text(text) => Some(text),
            Val::Made(text) => Some(text),
            _ => None,
        }
    }

    /// The elements of a list.
    pub fn list_len(&self) -> Option<usize> {
        match self {
            Val::List(list) => Some(list.len()),
            Val::MadeList(list) => Some(list.len()),
            _ => None,
        }
    }

    pub fn nth(&self, n: usize) -> Option<Val<'a>> {
        match self {
            Val::List(list) => list.get(n).map(Val::of),
            Val::MadeList(list) => list.get(n).cloned(),
            _ => None,
        }
    }
}

pub fn is_number(value: &Val<'_>) -> bool {
    matches!(value, Val::Int(_) | Val::UInt(_) | Val::Double(_))
}

/// Numbers of all three types on one line, as CEL has it, to the digit. None: one is no number, or NaN.
pub fn compare_numbers(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    let whole = |value: &Val<'_>| match value {
        Val::Int(n) => Some(i128::from(*n)),
        Val::UInt(n) => Some(i128::from(*n)),
        _ => None,
    };
    match (a, b) {
        (Val::Double(a), Val::Double(b)) => a.partial_cmp(b),
        (Val::Double(a), b) => double_to_whole(*a, whole(b)?),
        (a, Val::Double(b)) => double_to_whole(*b, whole(a)?).map(Ordering::reverse),
        (a, b) => Some(whole(a)?.cmp(&whole(b)?)),
    }
}

fn double_to_whole(a: f64, b: i128) -> Option<Ordering> {
    if a.is_nan() {
        return None;
    }
    // Saturates far outside of what a whole number here can be.
    match (a.trunc() as i128).cmp(&b) {
        Ordering::Equal => a.fract().partial_cmp(&0.0),
        other => Some(other),
    }
}
