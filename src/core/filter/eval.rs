//! Evaluates a filter's expression tree within a budget of steps.

use std::rc::Rc;

use super::compile::{MacroKind, Node, Root};
use super::value::{EvalError, EvalResult, Problem, Val, failed};
use super::{BUDGET, FilterError, FilterInput};

/// Evaluates an expression whose result must be a boolean.
pub fn evaluate<'a>(root: &'a Node, input: &'a FilterInput<'_>) -> Result<bool, FilterError> {
    let mut evaluator = Evaluator { input, remaining: BUDGET, locals: Vec::new() };
    match evaluator.eval(root)? {
        Val::Bool(result) => Ok(result),
        other => Err(FilterError::NotBoolean(other.describe())),
    }
}

/// Evaluates several expressions within one budget. Each result must be a boolean.
pub fn evaluate_each<'a>(nodes: &[&'a Node], input: &'a FilterInput<'_>) -> Vec<Result<bool, FilterError>> {
    let mut evaluator = Evaluator { input, remaining: BUDGET, locals: Vec::new() };
    let evaluate = |node: &&'a Node| match evaluator.eval(node)? {
        Val::Bool(result) => Ok(result),
        other => Err(FilterError::NotBoolean(other.describe())),
    };
    nodes.iter().map(evaluate).collect()
}

pub(super) struct Evaluator<'a, 'e> {
    input: &'a FilterInput<'e>,
    /// Steps left in the budget.
    remaining: u32,
    /// The variables of the active macros.
    locals: Vec<Val<'a>>,
}

impl<'a, 'e> Evaluator<'a, 'e> {
    /// Charges steps to the budget. Fails when it is exhausted.
    pub(super) fn charge(&mut self, steps: usize) -> Result<(), EvalError<'a>> {
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        self.remaining = self.remaining.checked_sub(steps).ok_or(EvalError::Costly)?;
        Ok(())
    }

    fn eval(&mut self, node: &'a Node) -> EvalResult<'a> {
        self.charge(1)?;
        self.operate(node).map_err(|error| error.at(node))
    }

    fn operate(&mut self, node: &'a Node) -> EvalResult<'a> {
        match node {
            Node::Null => Ok(Val::Null),
            Node::Bool(b) => Ok(Val::Bool(*b)),
            Node::Int(n) => Ok(Val::Int(*n)),
            Node::UInt(n) => Ok(Val::UInt(*n)),
            Node::Double(n) => Ok(Val::Double(*n)),
            Node::Text(text) => Ok(Val::Text(text)),
            Node::Root(root) => self.root(*root),
            Node::Local(n, _) => match self.locals.get(*n) {
                Some(value) => Ok(value.clone()),
                None => failed(Problem::Text("a variable has no value")),
            },
            Node::Select(of, name) => {
                let of = self.eval(of)?;
                match self.member(&of, name)? {
                    Some(value) => Ok(value),
                    None => failed(Problem::NoMember(name)),
                }
            }
            Node::Has(of, name) => {
                let of = self.eval(of)?;
                Ok(Val::Bool(self.member(&of, name)?.is_some()))
            }
            Node::Index(of, at) => self.index(of, at),
            Node::List(nodes) => {
                let list = nodes.iter().map(|node| self.eval(node)).collect::<Result<Vec<_>, _>>()?;
                Ok(Val::OwnedList(Rc::new(list)))
            }
            Node::Map(entries) => self.map(entries),
            Node::Not(of) => match self.eval(of)? {
                Val::Bool(b) => Ok(Val::Bool(!b)),
                other => failed(Problem::Value("! takes a boolean, not ", other, "")),
            },
            Node::Negate(of) => match self.eval(of)? {
                Val::Int(n) => {
                    let problem = Problem::Text("the number is too big");
                    n.checked_neg().map_or_else(|| failed(problem), |n| Ok(Val::Int(n)))
                }
                Val::Double(n) => Ok(Val::Double(-n)),
                other => failed(Problem::Value("- takes an int or a double, not ", other, "")),
            },
            Node::And(nodes) => self.decide(nodes, false),
            Node::Or(nodes) => self.decide(nodes, true),
            Node::If(test, yes, no) => match self.eval(test)? {
                Val::Bool(true) => self.eval(yes),
                Val::Bool(false) => self.eval(no),
                other => failed(Problem::Value("?: takes a boolean, not ", other, "")),
            },
            Node::Equal(a, b) => {
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                Ok(Val::Bool(self.equals(&a, &b, 0)?))
            }
            Node::NotEqual(a, b) => {
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                Ok(Val::Bool(!self.equals(&a, &b, 0)?))
            }
            Node::ComparisonOperator(order, a, b) => {
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                self.compare(*order, &a, &b)
            }
            Node::Arithmetic(op, a, b) => {
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                self.calculate(*op, &a, &b)
            }
            Node::In(a, b) => {
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                self.is_in(&a, &b)
            }
            Node::Size(of) => {
                let of = self.eval(of)?;
                self.size(&of)
            }
            Node::StringTest(test, a, b) => {
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                self.test_strings(*test, &a, &b)
            }
            Node::Matches(of, regex) => {
                let of = self.eval(of)?;
                let Some(text) = of.text() else {
                    return failed(Problem::Value("matches() takes a string, not ", of, ""));
                };
                // In the worst case every byte visits every state of the expression, of which there are hundreds.
                self.charge(text.len())?;
                Ok(Val::Bool(regex.is_match(text)))
            }
            Node::Convert(to, of) => {
                let of = self.eval(of)?;
                self.convert(*to, &of)
            }
            Node::Type(named) => Ok(Val::Type(*named)),
            Node::TypeOf(of) => match self.eval(of)? {
                big @ Val::BigNumber(_) => failed(Problem::Value("", big, " fits no int, uint or double")),
                other => Ok(Val::Type(other.cel_type())),
            },
            Node::Macro { kind, over, predicate, transform, .. } => {
                self.run_macro(*kind, over, predicate.as_deref(), transform.as_deref())
            }
        }
    }

    fn root(&self, root: Root) -> EvalResult<'a> {
        let input: &'a FilterInput<'e> = self.input;
        match root {
            Root::Source => Ok(Val::Text(input.event().family())),
            Root::Event => Ok(Val::Text(&input.event().event)),
            Root::Data if !input.event().has_json_data() => Ok(Val::Null),
            Root::Data => input.data().map(Val::of).map_err(EvalError::Unreadable),
            Root::Attributes => Ok(Val::of(input.attributes())),
        }
    }

    fn member(&mut self, of: &Val<'a>, name: &'a str) -> Result<Option<Val<'a>>, EvalError<'a>> {
        match of {
            Val::Map(map) => Ok(map.get(name).map(Val::of)),
            Val::OwnedMap(entries) => {
                self.charge(entries.len())?;
                Ok(entries.iter().find(|(key, _)| key.text() == Some(name)).map(|(_, value)| value.clone()))
            }
            other => failed(Problem::NotAMap(other.clone(), name)),
        }
    }

    fn index(&mut self, of: &'a Node, at: &'a Node) -> EvalResult<'a> {
        let (of, at) = (self.eval(of)?, self.eval(at)?);
        if of.list_len().is_some() {
            let n = match at {
                Val::Int(n) => usize::try_from(n).ok(),
                Val::UInt(n) => usize::try_from(n).ok(),
                Val::Double(n) if n.fract() == 0.0 && (0.0..4e9).contains(&n) => Some(n as usize),
                other => {
                    return failed(Problem::Value("a list index must be a whole number, not ", other, ""));
                }
            };
            return match n.and_then(|n| of.nth(n)) {
                Some(value) => Ok(value),
                None => failed(Problem::Value("the list index is out of range: ", at, "")),
            };
        }
        match self.lookup(&of, &at)? {
            Some(value) => Ok(value),
            None => failed(Problem::Value("the map has no such key: ", at, "")),
        }
    }

    /// Returns the value of a key in a map.
    pub(super) fn lookup(&mut self, of: &Val<'a>, key: &Val<'a>) -> Result<Option<Val<'a>>, EvalError<'a>> {
        match of {
            Val::Map(map) => Ok(key.text().and_then(|key| map.get(key)).map(Val::of)),
            Val::OwnedMap(entries) => {
                for (existing, value) in entries.iter() {
                    if self.equals(existing, key, 0)? {
                        return Ok(Some(value.clone()));
                    }
                }
                Ok(None)
            }
            other => failed(Problem::Value("", other.clone(), " has no keys")),
        }
    }

    fn map(&mut self, nodes: &'a [(Node, Node)]) -> EvalResult<'a> {
        let mut entries: Vec<(Val<'a>, Val<'a>)> = Vec::with_capacity(nodes.len());
        for (key, value) in nodes {
            let (key, value) = (self.eval(key)?, self.eval(value)?);
            if !matches!(key, Val::Bool(_) | Val::Int(_) | Val::UInt(_) | Val::Text(_) | Val::OwnedText(_)) {
                return failed(Problem::Value("", key, " cannot be a key"));
            }
            for (existing, _) in &entries {
                if self.equals(existing, &key, 0)? {
                    return failed(Problem::Value("a key occurs twice in the map: ", key, ""));
                }
            }
            entries.push((key, value));
        }
        Ok(Val::OwnedMap(Rc::new(entries)))
    }

    /// Evaluates `&&` (until an operand is false) or `||` (until an operand is true). An error counts only if no other
    /// operand decides the result.
    fn decide(&mut self, nodes: &'a [Node], until: bool) -> EvalResult<'a> {
        let mut error = None;
        for node in nodes {
            match self.eval(node) {
                Ok(Val::Bool(b)) if b == until => return Ok(Val::Bool(until)),
                Ok(Val::Bool(_)) => {}
                Ok(other) => {
                    let problem = if until { "|| takes booleans, not " } else { "&& takes booleans, not " };
                    error = error.or_else(|| failed::<()>(Problem::Value(problem, other, "")).err());
                }
                Err(EvalError::Costly) => return Err(EvalError::Costly),
                Err(other) => drop(error.get_or_insert(other)),
            }
        }
        error.map_or(Ok(Val::Bool(!until)), Err)
    }

    /// Evaluates a macro over a list or the keys of a map.
    fn run_macro(
        &mut self,
        kind: MacroKind,
        over: &'a Node,
        predicate: Option<&'a Node>,
        transform: Option<&'a Node>,
    ) -> EvalResult<'a> {
        let over = self.eval(over)?;
        let over = match over {
            Val::Map(_) | Val::OwnedMap(_) => {
                let keys = self.entries(&over)?.into_iter().map(|(key, _)| key).collect();
                Val::OwnedList(Rc::new(keys))
            }
            other => other,
        };
        let Some(len) = over.list_len() else {
            let problem = "all(), exists(), map() and filter() take a list or a map, not ";
            return failed(Problem::Value(problem, over, ""));
        };
        let mut list = Vec::new();
        let (mut matched, mut error) = (0_usize, None);
        for n in 0..len {
            self.charge(1)?;
            let Some(element) = over.nth(n) else { break };
            self.locals.push(element.clone());
            let tested = predicate.map_or(Ok(Val::Bool(true)), |predicate| self.eval(predicate));
            let transformed = match (&tested, transform) {
                (Ok(Val::Bool(true)), Some(transform)) => self.eval(transform),
                _ => Ok(element),
            };
            self.locals.pop();
            let tested = match tested {
                Ok(Val::Bool(b)) => Ok(b),
                Ok(other) => {
                    failed(Problem::Value("the predicate's result is ", other, ", not true or false"))
                }
                Err(error) => Err(error),
            };
            match (kind, tested) {
                (_, Err(EvalError::Costly)) => return Err(EvalError::Costly),
                (MacroKind::All, Ok(false)) => return Ok(Val::Bool(false)),
                (MacroKind::Exists, Ok(true)) => return Ok(Val::Bool(true)),
                // As with `&&` and `||`, an error counts only if no other element decides the result.
                (MacroKind::All | MacroKind::Exists, Err(other)) => drop(error.get_or_insert(other)),
                (_, Err(error)) => return Err(error),
                (MacroKind::ExistsOne, Ok(true)) => matched += 1,
                (MacroKind::Map | MacroKind::Filter, Ok(true)) => list.push(transformed?),
                (_, Ok(_)) => {}
            }
        }
        if let Some(error) = error {
            return Err(error);
        }
        Ok(match kind {
            MacroKind::All => Val::Bool(true),
            MacroKind::Exists => Val::Bool(false),
            MacroKind::ExistsOne => Val::Bool(matched == 1),
            MacroKind::Map | MacroKind::Filter => Val::OwnedList(Rc::new(list)),
        })
    }
}
