//! Values of a filter's evaluation.

use std::cmp::Ordering;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::FilterError;

/// A value. Values of the event are borrowed; values that the filter creates are shared, so that a copy is one step.
#[derive(Clone)]
pub enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    Text(&'a str),
    OwnedText(Rc<str>),
    List(&'a [Value]),
    OwnedList(Rc<Vec<Val<'a>>>),
    Map(&'a Map<String, Value>),
    OwnedMap(Rc<Vec<(Val<'a>, Val<'a>)>>),
}

/// Why an expression has no value.
pub enum EvalError {
    /// The budget is exhausted, which ends the evaluation.
    Costly,
    /// `&&` and `||` may ignore this error of one operand.
    Failed(String),
    Unreadable(FilterError),
}

pub type EvalResult<'a> = Result<Val<'a>, EvalError>;

pub fn failed<T>(problem: impl Into<String>) -> Result<T, EvalError> {
    Err(EvalError::Failed(problem.into()))
}

impl<'a> Val<'a> {
    /// Borrows a JSON value.
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

    /// Returns the type for error messages, with its article.
    pub fn kind(&self) -> &'static str {
        match self {
            Val::Null => "null",
            Val::Bool(_) => "a boolean",
            Val::Int(_) => "an int",
            Val::UInt(_) => "a uint",
            Val::Double(_) => "a double",
            Val::Text(_) | Val::OwnedText(_) => "a string",
            Val::List(_) | Val::OwnedList(_) => "a list",
            Val::Map(_) | Val::OwnedMap(_) => "a map",
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Val::Text(text) => Some(text),
            Val::OwnedText(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the length of a list, or `None` for other values.
    pub fn list_len(&self) -> Option<usize> {
        match self {
            Val::List(list) => Some(list.len()),
            Val::OwnedList(list) => Some(list.len()),
            _ => None,
        }
    }

    pub fn nth(&self, n: usize) -> Option<Val<'a>> {
        match self {
            Val::List(list) => list.get(n).map(Val::of),
            Val::OwnedList(list) => list.get(n).cloned(),
            _ => None,
        }
    }
}

pub fn is_number(value: &Val<'_>) -> bool {
    matches!(value, Val::Int(_) | Val::UInt(_) | Val::Double(_))
}

/// Compares numbers of all three types exactly, as CEL defines. Returns `None` if one of them is not a number or NaN.
pub fn compare_numbers(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    let whole = |value: &Val<'_>| match value {
        Val::Int(n) => Some(i128::from(*n)),
        Val::UInt(n) => Some(i128::from(*n)),
        _ => None,
    };
    match (a, b) {
        (Val::Double(a), Val::Double(b)) => a.partial_cmp(b),
        (Val::Double(a), b) => compare_double_to_whole(*a, whole(b)?),
        (a, Val::Double(b)) => compare_double_to_whole(*b, whole(a)?).map(Ordering::reverse),
        (a, b) => Some(whole(a)?.cmp(&whole(b)?)),
    }
}

fn compare_double_to_whole(a: f64, b: i128) -> Option<Ordering> {
    if a.is_nan() {
        return None;
    }
    // The cast saturates far outside the range of `int` and `uint`.
    match (a.trunc() as i128).cmp(&b) {
        Ordering::Equal => a.fract().partial_cmp(&0.0),
        other => Some(other),
    }
}
