//! Values of a filter's evaluation.

use std::cmp::Ordering;
use std::fmt;
use std::rc::Rc;

use super::compile::Node;
use super::{FilterError, truncate};
use crate::core::event::data::{Data, MachineNumber, Number, Object, UnreadableData};

/// Maximum length in characters of an event's value in an error message.
const MAX_SHOWN: usize = 64;

/// A value. Values of the event are borrowed; values that the filter creates are shared, so that a copy is one step.
#[derive(Clone)]
pub enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    /// A number of the event that no type of CEL holds: comparing it or calculating with it is an error.
    BigNumber(&'a Number<'a>),
    Text(&'a str),
    OwnedText(Rc<str>),
    List(&'a [Data<'a>]),
    OwnedList(Rc<Vec<Val<'a>>>),
    Map(&'a Object<'a>),
    OwnedMap(Rc<Vec<(Val<'a>, Val<'a>)>>),
    Type(CelType),
}

/// The types of CEL, by which `type()` classifies values. No value of an event is of the type `bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum CelType {
    NullType,
    Bool,
    Int,
    #[strum(serialize = "uint")]
    UInt,
    Double,
    String,
    Bytes,
    List,
    Map,
    Type,
}

/// Why an expression has no value.
pub enum EvalError<'a> {
    /// The budget is exhausted, which ends the evaluation.
    Costly,
    /// `&&` and `||` may ignore this error of one operand.
    Failed(Box<Failure<'a>>),
    Unreadable(UnreadableData),
}

/// A failed operation. It becomes text only if it decides the result, because `&&`, `||` and macros may ignore it.
pub struct Failure<'a> {
    problem: Problem<'a>,
    /// The innermost expression that failed.
    expression: Option<&'a Node>,
}

/// What failed, with the values that caused it.
pub enum Problem<'a> {
    Text(&'static str),
    NoMember(&'a str),
    /// The value cannot have members, here this one.
    NotAMap(Val<'a>, &'a str),
    /// A text, the value, a text.
    Value(&'static str, Val<'a>, &'static str),
    /// A value, a text, another value, a text.
    Values(Val<'a>, &'static str, Val<'a>, &'static str),
}

pub type EvalResult<'a> = Result<Val<'a>, EvalError<'a>>;

pub fn failed<'a, T>(problem: Problem<'a>) -> Result<T, EvalError<'a>> {
    Err(EvalError::Failed(Box::new(Failure { problem, expression: None })))
}

impl<'a> EvalError<'a> {
    /// Records the expression that failed, unless an inner one is recorded.
    pub fn at(mut self, node: &'a Node) -> Self {
        if let EvalError::Failed(failure) = &mut self {
            failure.expression.get_or_insert(node);
        }
        self
    }
}

impl From<EvalError<'_>> for FilterError {
    fn from(error: EvalError<'_>) -> Self {
        match error {
            EvalError::Costly => FilterError::TooCostly,
            EvalError::Unreadable(error) => FilterError::Unreadable(error),
            EvalError::Failed(failure) => FilterError::Failed {
                problem: truncate(&failure.problem.to_string()),
                expression: failure.expression.map(Node::text).unwrap_or_default(),
            },
        }
    }
}

impl fmt::Display for Problem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Text(text) => f.write_str(text),
            Problem::NoMember(name) => write!(f, "the member {name:.64} does not exist"),
            Problem::NotAMap(value, name) => write!(f, "{} has no member {name:.64}", value.describe()),
            Problem::Value(before, value, after) => write!(f, "{before}{}{after}", value.describe()),
            Problem::Values(a, between, b, after) => {
                write!(f, "{}{between}{}{after}", a.describe(), b.describe())
            }
        }
    }
}

impl<'a> Val<'a> {
    /// Borrows a value of the event.
    pub fn of(value: &'a Data<'a>) -> Self {
        match value {
            Data::Null => Val::Null,
            Data::Bool(b) => Val::Bool(*b),
            Data::Number(number) => match number.machine() {
                Some(MachineNumber::Int(n)) => Val::Int(n),
                Some(MachineNumber::UInt(n)) => Val::UInt(n),
                Some(MachineNumber::Double(n)) => Val::Double(n),
                None => Val::BigNumber(number),
            },
            Data::Text(text) => Val::Text(text),
            Data::List(list) => Val::List(list),
            Data::Object(map) => Val::Map(map),
        }
    }

    /// Returns the type for error messages, with its article.
    fn kind(&self) -> &'static str {
        match self {
            Val::Null => "null",
            Val::Bool(_) => "a boolean",
            Val::Int(_) => "an int",
            Val::UInt(_) => "a uint",
            Val::Double(_) => "a double",
            Val::BigNumber(_) => "a number",
            Val::Text(_) | Val::OwnedText(_) => "a string",
            Val::List(_) | Val::OwnedList(_) => "a list",
            Val::Map(_) | Val::OwnedMap(_) => "a map",
            Val::Type(_) => "a type",
        }
    }

    /// Returns the type of the value. A number that no type holds counts as a double.
    pub fn cel_type(&self) -> CelType {
        match self {
            Val::Null => CelType::NullType,
            Val::Bool(_) => CelType::Bool,
            Val::Int(_) => CelType::Int,
            Val::UInt(_) => CelType::UInt,
            Val::Double(_) | Val::BigNumber(_) => CelType::Double,
            Val::Text(_) | Val::OwnedText(_) => CelType::String,
            Val::List(_) | Val::OwnedList(_) => CelType::List,
            Val::Map(_) | Val::OwnedMap(_) => CelType::Map,
            Val::Type(_) => CelType::Type,
        }
    }

    /// Returns the type and, of a scalar, the beginning of its text.
    pub fn describe(&self) -> String {
        let kind = self.kind();
        match self {
            Val::Bool(b) => format!("{kind} ({b})"),
            Val::Int(n) => format!("{kind} ({n})"),
            Val::UInt(n) => format!("{kind} ({n})"),
            Val::Double(n) => format!("{kind} ({n:?})"),
            Val::BigNumber(number) => format!("{kind} ({})", shorten(number.text())),
            Val::Text(text) => format!("{kind} ('{}')", shorten(text)),
            Val::OwnedText(text) => format!("{kind} ('{}')", shorten(text)),
            Val::Type(named) => format!("{kind} ({})", <&str>::from(named)),
            Val::Null | Val::List(_) | Val::OwnedList(_) | Val::Map(_) | Val::OwnedMap(_) => kind.to_owned(),
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

/// Returns the first `MAX_SHOWN` characters of a text on one line.
fn shorten(text: &str) -> String {
    let mut shown: String =
        text.chars().take(MAX_SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
}

/// Returns true for a number of any type.
pub fn is_number(value: &Val<'_>) -> bool {
    matches!(value, Val::Int(_) | Val::UInt(_) | Val::Double(_) | Val::BigNumber(_))
}

/// Fails if one of two numbers fits no type, because a comparison by its rounded value could be wrong.
pub fn check_representable<'a>(a: &Val<'a>, b: &Val<'a>) -> Result<(), EvalError<'a>> {
    let big = [a, b].into_iter().find(|value| matches!(value, Val::BigNumber(_)));
    match big.filter(|_| is_number(a) && is_number(b)) {
        Some(big) => failed(Problem::Value("", big.clone(), " fits no int, uint or double")),
        None => Ok(()),
    }
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
