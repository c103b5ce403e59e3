//! The operators and functions of filters: comparison, arithmetic, membership, conversion.

use std::cmp::Ordering;
use std::rc::Rc;

use super::compile::{Arithmetic, ComparisonOperator, StringTest, TargetType};
use super::eval::Evaluator;
use super::value::{
    EvalError, EvalResult, Problem, Val, check_representable, compare_numbers, failed, is_number,
};

/// Maximum depth of compared values. Data has at most 127 levels (the JSON parser's limit); the filter adds the others.
const MAX_VALUE_DEPTH: u32 = 256;

impl<'a> Evaluator<'a, '_> {
    pub(super) fn equals(&mut self, a: &Val<'a>, b: &Val<'a>, depth: u32) -> Result<bool, EvalError<'a>> {
        self.charge(1)?;
        if depth > MAX_VALUE_DEPTH {
            return failed(Problem::Text("the values are nested too deeply to be compared"));
        }
        if let (Some(a), Some(b)) = (a.text(), b.text()) {
            self.charge(a.len().min(b.len()) / 32)?;
            return Ok(a == b);
        }
        if let (Some(len), Some(other)) = (a.list_len(), b.list_len()) {
            if len != other {
                return Ok(false);
            }
            for n in 0..len {
                let (Some(a), Some(b)) = (a.nth(n), b.nth(n)) else { return Ok(false) };
                if !self.equals(&a, &b, depth + 1)? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        match (a, b) {
            (Val::Null, Val::Null) => Ok(true),
            (Val::Bool(a), Val::Bool(b)) => Ok(a == b),
            (Val::Type(a), Val::Type(b)) => Ok(a == b),
            (Val::Map(_) | Val::OwnedMap(_), Val::Map(_) | Val::OwnedMap(_)) => self.map_equals(a, b, depth),
            _ => {
                check_representable(a, b)?;
                Ok(compare_numbers(a, b) == Some(Ordering::Equal))
            }
        }
    }

    pub(super) fn map_equals(&mut self, a: &Val<'a>, b: &Val<'a>, depth: u32) -> Result<bool, EvalError<'a>> {
        let entries = self.entries(a)?;
        if entries.len() != self.entries(b)?.len() {
            return Ok(false);
        }
        for (key, value) in entries {
            match self.lookup(b, &key)? {
                Some(other) if self.equals(&value, &other, depth + 1)? => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    pub(super) fn entries(&mut self, of: &Val<'a>) -> Result<Vec<(Val<'a>, Val<'a>)>, EvalError<'a>> {
        match of {
            Val::Map(map) => {
                self.charge(map.len())?;
                Ok(map.iter().map(|(key, value)| (Val::Text(key), Val::of(value))).collect())
            }
            Val::OwnedMap(entries) => {
                self.charge(entries.len())?;
                Ok(entries.to_vec())
            }
            _ => Ok(Vec::new()),
        }
    }

    pub(super) fn compare(&mut self, order: ComparisonOperator, a: &Val<'a>, b: &Val<'a>) -> EvalResult<'a> {
        let compared = match (a, b) {
            (Val::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
            _ => match (a.text(), b.text()) {
                (Some(a), Some(b)) => {
                    self.charge(a.len().min(b.len()) / 32)?;
                    Some(a.cmp(b))
                }
                _ if is_number(a) && is_number(b) => {
                    check_representable(a, b)?;
                    compare_numbers(a, b)
                }
                _ => {
                    let problem = Problem::Values(a.clone(), " cannot be compared with ", b.clone(), "");
                    return failed(problem);
                }
            },
        };
        Ok(Val::Bool(compared.is_some_and(|compared| match order {
            ComparisonOperator::Less => compared.is_lt(),
            ComparisonOperator::LessOrEqual => compared.is_le(),
            ComparisonOperator::Greater => compared.is_gt(),
            ComparisonOperator::GreaterOrEqual => compared.is_ge(),
        })))
    }

    pub(super) fn calculate(&mut self, op: Arithmetic, a: &Val<'a>, b: &Val<'a>) -> EvalResult<'a> {
        let result = match (a, b) {
            (Val::Int(a), Val::Int(b)) => match op {
                Arithmetic::Add => a.checked_add(*b),
                Arithmetic::Subtract => a.checked_sub(*b),
                Arithmetic::Multiply => a.checked_mul(*b),
                Arithmetic::Divide => a.checked_div(*b),
                Arithmetic::Modulo => a.checked_rem(*b),
            }
            .map(Val::Int),
            (Val::UInt(a), Val::UInt(b)) => match op {
                Arithmetic::Add => a.checked_add(*b),
                Arithmetic::Subtract => a.checked_sub(*b),
                Arithmetic::Multiply => a.checked_mul(*b),
                Arithmetic::Divide => a.checked_div(*b),
                Arithmetic::Modulo => a.checked_rem(*b),
            }
            .map(Val::UInt),
            (Val::Double(a), Val::Double(b)) => match op {
                Arithmetic::Add => Some(a + b),
                Arithmetic::Subtract => Some(a - b),
                Arithmetic::Multiply => Some(a * b),
                Arithmetic::Divide => Some(a / b),
                Arithmetic::Modulo => return failed(Problem::Text("% takes whole numbers")),
            }
            .map(Val::Double),
            _ => return self.concatenate(op, a, b),
        };
        let problem = "the result is too big, or the divisor is zero";
        result.map_or_else(|| failed(Problem::Text(problem)), Ok)
    }

    pub(super) fn concatenate(&mut self, op: Arithmetic, a: &Val<'a>, b: &Val<'a>) -> EvalResult<'a> {
        if let (Arithmetic::Add, Some(a), Some(b)) = (op, a.text(), b.text()) {
            self.charge((a.len() + b.len()) / 8)?;
            return Ok(Val::OwnedText(format!("{a}{b}").into()));
        }
        if let (Arithmetic::Add, Some(first), Some(second)) = (op, a.list_len(), b.list_len()) {
            self.charge(first + second)?;
            let both = (0..first).filter_map(|n| a.nth(n)).chain((0..second).filter_map(|n| b.nth(n)));
            return Ok(Val::OwnedList(Rc::new(both.collect())));
        }
        check_representable(a, b)?;
        failed(Problem::Values(
            a.clone(),
            " and ",
            b.clone(),
            " cannot be operands of one operator: convert one with int(), double() or string()",
        ))
    }

    pub(super) fn is_in(&mut self, a: &Val<'a>, b: &Val<'a>) -> EvalResult<'a> {
        if let Some(len) = b.list_len() {
            for n in 0..len {
                if let Some(element) = b.nth(n)
                    && self.equals(a, &element, 0)?
                {
                    return Ok(Val::Bool(true));
                }
            }
            return Ok(Val::Bool(false));
        }
        match b {
            Val::Map(_) | Val::OwnedMap(_) => Ok(Val::Bool(self.lookup(b, a)?.is_some())),
            other => failed(Problem::Value("in takes a list or a map, not ", other.clone(), "")),
        }
    }

    pub(super) fn size(&mut self, of: &Val<'a>) -> EvalResult<'a> {
        let size = match of {
            Val::Map(map) => map.len(),
            Val::OwnedMap(entries) => entries.len(),
            _ => match (of.list_len(), of.text()) {
                (Some(len), _) => len,
                (None, Some(text)) => {
                    self.charge(text.len() / 16)?;
                    text.chars().count()
                }
                (None, None) => return failed(Problem::Value("", of.clone(), " has no size")),
            },
        };
        Ok(Val::Int(i64::try_from(size).unwrap_or(i64::MAX)))
    }

    pub(super) fn test_strings(&mut self, test: StringTest, a: &Val<'a>, b: &Val<'a>) -> EvalResult<'a> {
        let (Some(text), Some(part)) = (a.text(), b.text()) else {
            let other = if a.text().is_some() { b } else { a };
            let problem = "contains(), startsWith() and endsWith() take strings, not ";
            return failed(Problem::Value(problem, other.clone(), ""));
        };
        self.charge((text.len() + part.len()) / 8)?;
        Ok(Val::Bool(match test {
            StringTest::Contains => text.contains(part),
            StringTest::StartsWith => text.starts_with(part),
            StringTest::EndsWith => text.ends_with(part),
        }))
    }

    pub(super) fn convert(&mut self, to: TargetType, of: &Val<'a>) -> EvalResult<'a> {
        let converted = match (to, of) {
            (TargetType::Int, Val::Int(n)) => Some(Val::Int(*n)),
            (TargetType::Int, Val::UInt(n)) => i64::try_from(*n).ok().map(Val::Int),
            (TargetType::Int, Val::Double(n)) => (*n > -9_223_372_036_854_775_808.0
                && *n < 9_223_372_036_854_775_808.0)
                .then_some(Val::Int(*n as i64)),
            (TargetType::UInt, Val::UInt(n)) => Some(Val::UInt(*n)),
            (TargetType::UInt, Val::Int(n)) => u64::try_from(*n).ok().map(Val::UInt),
            (TargetType::UInt, Val::Double(n)) => {
                (*n > -1.0 && *n < 18_446_744_073_709_551_616.0).then_some(Val::UInt(*n as u64))
            }
            (TargetType::Double, Val::Double(n)) => Some(Val::Double(*n)),
            (TargetType::Double, Val::Int(n)) => Some(Val::Double(*n as f64)),
            (TargetType::Double, Val::UInt(n)) => Some(Val::Double(*n as f64)),
            // The nearest double, as for other whole numbers.
            (TargetType::Double, Val::BigNumber(number)) => {
                self.charge(number.text().len() / 8)?;
                Some(number.as_f64()).filter(|n| n.is_finite()).map(Val::Double)
            }
            (TargetType::Bool, Val::Bool(b)) => Some(Val::Bool(*b)),
            (TargetType::Text, Val::Text(_) | Val::OwnedText(_)) => Some(of.clone()),
            (TargetType::Text, Val::Int(n)) => Some(Val::OwnedText(n.to_string().into())),
            (TargetType::Text, Val::UInt(n)) => Some(Val::OwnedText(n.to_string().into())),
            (TargetType::Text, Val::Double(n)) => Some(Val::OwnedText(n.to_string().into())),
            (TargetType::Text, Val::BigNumber(number)) => {
                self.charge(number.text().len() / 8)?;
                Some(Val::OwnedText(number.text().into()))
            }
            (TargetType::Text, Val::Bool(b)) => Some(Val::Text(if *b { "true" } else { "false" })),
            _ => match (to, of.text()) {
                (TargetType::Int, Some(text)) => text.parse().ok().map(Val::Int),
                (TargetType::UInt, Some(text)) => text.parse().ok().map(Val::UInt),
                (TargetType::Double, Some(text)) => {
                    self.charge(text.len() / 8)?;
                    text.parse().ok().map(Val::Double)
                }
                (TargetType::Bool, Some("1" | "t" | "T" | "true" | "TRUE" | "True")) => Some(Val::Bool(true)),
                (TargetType::Bool, Some("0" | "f" | "F" | "false" | "FALSE" | "False")) => {
                    Some(Val::Bool(false))
                }
                _ => None,
            },
        };
        let problem = match to {
            TargetType::Int => "int() cannot convert ",
            TargetType::UInt => "uint() cannot convert ",
            TargetType::Double => "double() cannot convert ",
            TargetType::Text => "string() cannot convert ",
            TargetType::Bool => "bool() cannot convert ",
        };
        converted.map_or_else(|| failed(Problem::Value(problem, of.clone(), "")), Ok)
    }
}
