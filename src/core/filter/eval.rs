//! Evaluation, step by step, with a budget.

use std::cmp::Ordering;
use std::rc::Rc;

use super::compile::{Arith, Each, Node, Order, Root, Test, To};
use super::value::{Answer, Fault, Val, compare_numbers, failed, is_number};
use super::{BUDGET, Facts, FilterError, bounded};

/// Levels of a value that is compared: data has at most 127 (the JSON parser's bound), the rest is made by the filter.
const MAX_VALUE_DEPTH: u32 = 256;

pub fn decide<'a>(root: &'a Node, facts: &'a Facts<'a>) -> Result<bool, FilterError> {
    let mut run = Run { facts, left: BUDGET, locals: Vec::new() };
    match run.eval(root) {
        Ok(Val::Bool(answer)) => Ok(answer),
        Ok(other) => Err(FilterError::NotBoolean(other.kind())),
        Err(Fault::Costly) => Err(FilterError::TooCostly),
        Err(Fault::Failed(problem)) => Err(FilterError::Failed(bounded(&problem))),
        Err(Fault::Unreadable(error)) => Err(error),
    }
}

struct Run<'a> {
    facts: &'a Facts<'a>,
    left: u32,
    /// The variables of the macros under way.
    locals: Vec<Val<'a>>,
}

impl<'a> Run<'a> {
    fn charge(&mut self, steps: usize) -> Result<(), Fault> {
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        self.left = self.left.checked_sub(steps).ok_or(Fault::Costly)?;
        Ok(())
    }

    fn eval(&mut self, node: &'a Node) -> Answer<'a> {
        self.charge(1)?;
        match node {
            Node::Null => Ok(Val::Null),
            Node::Bool(b) => Ok(Val::Bool(*b)),
            Node::Int(n) => Ok(Val::Int(*n)),
            Node::UInt(n) => Ok(Val::UInt(*n)),
            Node::Double(n) => Ok(Val::Double(*n)),
            Node::Text(text) => Ok(Val::Text(text)),
            Node::Root(root) => self.root(*root),
            Node::Local(n) => match self.locals.get(*n) {
                Some(value) => Ok(value.clone()),
                None => failed("a variable has no value"),
            },
            Node::Select(of, name) => {
                let of = self.eval(of)?;
                match self.member(&of, name)? {
                    Some(value) => Ok(value),
                    None => failed(format!("there is no member {name:.64}")),
                }
            }
            Node::Has(of, name) => {
                let of = self.eval(of)?;
                Ok(Val::Bool(self.member(&of, name)?.is_some()))
            }
            Node::Index(of, at) => self.index(of, at),
            Node::List(nodes) => {
                let list = nodes.iter().map(|node| self.eval(node)).collect::<Result<Vec<_>, _>>()?;
                Ok(Val::MadeList(Rc::new(list)))
            }
            Node::Map(entries) => self.map(entries),
            Node::Not(of) => match self.eval(of)? {
                Val::Bool(b) => Ok(Val::Bool(!b)),
                other => failed(format!("! takes a boolean, not {}", other.kind())),
            },
            Node::Negate(of) => match self.eval(of)? {
                Val::Int(n) => {
                    n.checked_neg().map_or_else(|| failed("the number is too big"), |n| Ok(Val::Int(n)))
                }
                Val::Double(n) => Ok(Val::Double(-n)),
                other => failed(format!("- takes an int or a double, not {}", other.kind())),
            },
            Node::And(nodes) => self.decide(nodes, false),
            Node::Or(nodes) => self.decide(nodes, true),
            Node::If(test, yes, no) => match self.eval(test)? {
                Val::Bool(true) => self.eval(yes),
                Val::Bool(false) => self.eval(no),
                other => failed(format!("?: takes a boolean, not {}", other.kind())),
            },
            Node::Equal(a, b) => {
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                Ok(Val::Bool(self.equal(&a, &b, 0)?))
            }
            Node::Differ(a, b) => {
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                Ok(Val::Bool(!self.equal(&a, &b, 0)?))
            }
            Node::Order(order, a, b) => {
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                self.order(*order, &a, &b)
            }
            Node::Arith(op, a, b) => {
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                self.arith(*op, &a, &b)
            }
            Node::In(a, b) => {
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                self.contained(&a, &b)
            }
            Node::Size(of) => {
                let of = self.eval(of)?;
                self.size(&of)
            }
            Node::Test(test, a, b) => {
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                self.test(*test, &a, &b)
            }
            Node::Matches(of, regex) => {
                let of = self.eval(of)?;
                let Some(text) = of.text() else {
                    return failed(format!("matches() takes a text, not {}", of.kind()));
                };
                // At worst every byte meets every state of the expression, of which there are hundreds.
                self.charge(text.len())?;
                Ok(Val::Bool(regex.is_match(text)))
            }
            Node::Convert(to, of) => {
                let of = self.eval(of)?;
                self.convert(*to, &of)
            }
            Node::Each { what, over, test, give } => self.each(*what, over, test.as_deref(), give.as_deref()),
        }
    }

    fn root(&self, root: Root) -> Answer<'a> {
        let facts: &'a Facts<'a> = self.facts;
        match root {
            Root::Source => Ok(Val::Text(facts.event().family())),
            Root::Event => Ok(Val::Text(&facts.event().event)),
            Root::Data => facts.data().map(Val::of).map_err(|error| Fault::Unreadable(error.clone())),
            Root::Attributes => Ok(Val::of(facts.attributes())),
        }
    }

    fn member(&mut self, of: &Val<'a>, name: &str) -> Result<Option<Val<'a>>, Fault> {
        match of {
            Val::Map(map) => Ok(map.get(name).map(Val::of)),
            Val::MadeMap(entries) => {
                self.charge(entries.len())?;
                Ok(entries.iter().find(|(key, _)| key.text() == Some(name)).map(|(_, value)| value.clone()))
            }
            other => failed(format!("{} has no member {name:.64}", other.kind())),
        }
    }

    fn index(&mut self, of: &'a Node, at: &'a Node) -> Answer<'a> {
        let (of, at) = (self.eval(of)?, self.eval(at)?);
        if of.list_len().is_some() {
            let n = match at {
                Val::Int(n) => usize::try_from(n).ok(),
                Val::UInt(n) => usize::try_from(n).ok(),
                Val::Double(n) if n.fract() == 0.0 && (0.0..4e9).contains(&n) => Some(n as usize),
                other => return failed(format!("a list has no place {}", other.kind())),
            };
            return match n.and_then(|n| of.nth(n)) {
                Some(value) => Ok(value),
                None => failed("the list has no such place"),
            };
        }
        match self.lookup(&of, &at)? {
            Some(value) => Ok(value),
            None => failed("the map has no such key"),
        }
    }

    /// The value of a key in a map.
    fn lookup(&mut self, of: &Val<'a>, key: &Val<'a>) -> Result<Option<Val<'a>>, Fault> {
        match of {
            Val::Map(map) => Ok(key.text().and_then(|key| map.get(key)).map(Val::of)),
            Val::MadeMap(entries) => {
                for (known, value) in entries.iter() {
                    if self.equal(known, key, 0)? {
                        return Ok(Some(value.clone()));
                    }
                }
                Ok(None)
            }
            other => failed(format!("{} has no keys", other.kind())),
        }
    }

    fn map(&mut self, nodes: &'a [(Node, Node)]) -> Answer<'a> {
        let mut entries: Vec<(Val<'a>, Val<'a>)> = Vec::with_capacity(nodes.len());
        for (key, value) in nodes {
            let (key, value) = (self.eval(key)?, self.eval(value)?);
            if !matches!(key, Val::Bool(_) | Val::Int(_) | Val::UInt(_) | Val::Text(_) | Val::Made(_)) {
                return failed(format!("{} cannot be a key", key.kind()));
            }
            for (known, _) in &entries {
                if self.equal(known, &key, 0)? {
                    return failed("a key stands twice in the map");
                }
            }
            entries.push((key, value));
        }
        Ok(Val::MadeMap(Rc::new(entries)))
    }

    /// `&&` (until false) and `||` (until true): an error counts only where no other operand decides.
    fn decide(&mut self, nodes: &'a [Node], until: bool) -> Answer<'a> {
        let mut fault = None;
        for node in nodes {
            match self.eval(node) {
                Ok(Val::Bool(b)) if b == until => return Ok(Val::Bool(until)),
                Ok(Val::Bool(_)) => {}
                Ok(other) => {
                    let op = if until { "||" } else { "&&" };
                    let problem = Fault::Failed(format!("{op} takes booleans, not {}", other.kind()));
                    fault.get_or_insert(problem);
                }
                Err(Fault::Costly) => return Err(Fault::Costly),
                Err(other) => drop(fault.get_or_insert(other)),
            }
        }
        fault.map_or(Ok(Val::Bool(!until)), Err)
    }

    fn equal(&mut self, a: &Val<'a>, b: &Val<'a>, depth: u32) -> Result<bool, Fault> {
        self.charge(1)?;
        if depth > MAX_VALUE_DEPTH {
            return failed("the values are nested too deep to be compared");
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
                if !self.equal(&a, &b, depth + 1)? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        match (a, b) {
            (Val::Null, Val::Null) => Ok(true),
            (Val::Bool(a), Val::Bool(b)) => Ok(a == b),
            (Val::Map(_) | Val::MadeMap(_), Val::Map(_) | Val::MadeMap(_)) => self.equal_maps(a, b, depth),
            _ => Ok(compare_numbers(a, b) == Some(Ordering::Equal)),
        }
    }

    fn equal_maps(&mut self, a: &Val<'a>, b: &Val<'a>, depth: u32) -> Result<bool, Fault> {
        let entries = self.entries(a)?;
        if entries.len() != self.entries(b)?.len() {
            return Ok(false);
        }
        for (key, value) in entries {
            match self.lookup(b, &key)? {
                Some(other) if self.equal(&value, &other, depth + 1)? => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    fn entries(&mut self, of: &Val<'a>) -> Result<Vec<(Val<'a>, Val<'a>)>, Fault> {
        match of {
            Val::Map(map) => {
                self.charge(map.len())?;
                Ok(map.iter().map(|(key, value)| (Val::Text(key), Val::of(value))).collect())
            }
            Val::MadeMap(entries) => {
                self.charge(entries.len())?;
                Ok(entries.to_vec())
            }
            _ => Ok(Vec::new()),
        }
    }

    fn order(&mut self, order: Order, a: &Val<'a>, b: &Val<'a>) -> Answer<'a> {
        let compared = match (a, b) {
            (Val::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
            _ => match (a.text(), b.text()) {
                (Some(a), Some(b)) => {
                    self.charge(a.len().min(b.len()) / 32)?;
                    Some(a.cmp(b))
                }
                _ if is_number(a) && is_number(b) => compare_numbers(a, b),
                _ => return failed(format!("{} cannot be compared with {}", a.kind(), b.kind())),
            },
        };
        Ok(Val::Bool(compared.is_some_and(|compared| match order {
            Order::Less => compared.is_lt(),
            Order::LessOrEqual => compared.is_le(),
            Order::Greater => compared.is_gt(),
            Order::GreaterOrEqual => compared.is_ge(),
        })))
    }

    fn arith(&mut self, op: Arith, a: &Val<'a>, b: &Val<'a>) -> Answer<'a> {
        let made = match (a, b) {
            (Val::Int(a), Val::Int(b)) => match op {
                Arith::Add => a.checked_add(*b),
                Arith::Subtract => a.checked_sub(*b),
                Arith::Multiply => a.checked_mul(*b),
                Arith::Divide => a.checked_div(*b),
                Arith::Modulo => a.checked_rem(*b),
            }
            .map(Val::Int),
            (Val::UInt(a), Val::UInt(b)) => match op {
                Arith::Add => a.checked_add(*b),
                Arith::Subtract => a.checked_sub(*b),
                Arith::Multiply => a.checked_mul(*b),
                Arith::Divide => a.checked_div(*b),
                Arith::Modulo => a.checked_rem(*b),
            }
            .map(Val::UInt),
            (Val::Double(a), Val::Double(b)) => match op {
                Arith::Add => Some(a + b),
                Arith::Subtract => Some(a - b),
                Arith::Multiply => Some(a * b),
                Arith::Divide => Some(a / b),
                Arith::Modulo => return failed("% takes whole numbers"),
            }
            .map(Val::Double),
            _ => return self.join(op, a, b),
        };
        made.map_or_else(|| failed("the number is too big, or divided by zero"), Ok)
    }

    fn join(&mut self, op: Arith, a: &Val<'a>, b: &Val<'a>) -> Answer<'a> {
        if let (Arith::Add, Some(a), Some(b)) = (op, a.text(), b.text()) {
            self.charge((a.len() + b.len()) / 8)?;
            return Ok(Val::Made(format!("{a}{b}").into()));
        }
        if let (Arith::Add, Some(first), Some(second)) = (op, a.list_len(), b.list_len()) {
            self.charge(first + second)?;
            let both = (0..first).filter_map(|n| a.nth(n)).chain((0..second).filter_map(|n| b.nth(n)));
            return Ok(Val::MadeList(Rc::new(both.collect())));
        }
        failed(format!(
            "{} and {} are no operands of one operator: say int(), double() or string() where they differ",
            a.kind(),
            b.kind()
        ))
    }

    fn contained(&mut self, a: &Val<'a>, b: &Val<'a>) -> Answer<'a> {
        if let Some(len) = b.list_len() {
            for n in 0..len {
                if let Some(element) = b.nth(n)
                    && self.equal(a, &element, 0)?
                {
                    return Ok(Val::Bool(true));
                }
            }
            return Ok(Val::Bool(false));
        }
        match b {
            Val::Map(_) | Val::MadeMap(_) => Ok(Val::Bool(self.lookup(b, a)?.is_some())),
            other => failed(format!("in takes a list or a map, not {}", other.kind())),
        }
    }

    fn size(&mut self, of: &Val<'a>) -> Answer<'a> {
        let size = match of {
            Val::Map(map) => map.len(),
            Val::MadeMap(entries) => entries.len(),
            _ => match (of.list_len(), of.text()) {
                (Some(len), _) => len,
                (None, Some(text)) => {
                    self.charge(text.len() / 16)?;
                    text.chars().count()
                }
                (None, None) => return failed(format!("{} has no size", of.kind())),
            },
        };
        Ok(Val::Int(i64::try_from(size).unwrap_or(i64::MAX)))
    }

    fn test(&mut self, test: Test, a: &Val<'a>, b: &Val<'a>) -> Answer<'a> {
        let (Some(text), Some(part)) = (a.text(), b.text()) else {
            let of = if a.text().is_some() { b.kind() } else { a.kind() };
            return failed(format!("contains(), startsWith() and endsWith() take texts, not {of}"));
        };
        self.charge((text.len() + part.len()) / 8)?;
        Ok(Val::Bool(match test {
            Test::Contains => text.contains(part),
            Test::StartsWith => text.starts_with(part),
            Test::EndsWith => text.ends_with(part),
        }))
    }

    fn convert(&mut self, to: To, of: &Val<'a>) -> Answer<'a> {
        let made = match (to, of) {
            (To::Int, Val::Int(n)) => Some(Val::Int(*n)),
            (To::Int, Val::UInt(n)) => i64::try_from(*n).ok().map(Val::Int),
            (To::Int, Val::Double(n)) => (*n > -9_223_372_036_854_775_808.0
                && *n < 9_223_372_036_854_775_808.0)
                .then_some(Val::Int(*n as i64)),
            (To::UInt, Val::UInt(n)) => Some(Val::UInt(*n)),
            (To::UInt, Val::Int(n)) => u64::try_from(*n).ok().map(Val::UInt),
            (To::UInt, Val::Double(n)) => {
                (*n > -1.0 && *n < 18_446_744_073_709_551_616.0).then_some(Val::UInt(*n as u64))
            }
            (To::Double, Val::Double(n)) => Some(Val::Double(*n)),
            (To::Double, Val::Int(n)) => Some(Val::Double(*n as f64)),
            (To::Double, Val::UInt(n)) => Some(Val::Double(*n as f64)),
            (To::Bool, Val::Bool(b)) => Some(Val::Bool(*b)),
            (To::Text, Val::Text(_) | Val::Made(_)) => Some(of.clone()),
            (To::Text, Val::Int(n)) => Some(Val::Made(n.to_string().into())),
            (To::Text, Val::UInt(n)) => Some(Val::Made(n.to_string().into())),
            (To::Text, Val::Double(n)) => Some(Val::Made(n.to_string().into())),
            (To::Text, Val::Bool(b)) => Some(Val::Text(if *b { "true" } else { "false" })),
            _ => match (to, of.text()) {
                (To::Int, Some(text)) => text.parse().ok().map(Val::Int),
                (To::UInt, Some(text)) => text.parse().ok().map(Val::UInt),
                (To::Double, Some(text)) => {
                    self.charge(text.len() / 8)?;
                    text.parse().ok().map(Val::Double)
                }
                (To::Bool, Some("1" | "t" | "T" | "true" | "TRUE" | "True")) => Some(Val::Bool(true)),
                (To::Bool, Some("0" | "f" | "F" | "false" | "FALSE" | "False")) => Some(Val::Bool(false)),
                _ => None,
            },
        };
        let name = match to {
            To::Int => "int",
            To::UInt => "uint",
            To::Double => "double",
            To::Text => "string",
            To::Bool => "bool",
        };
        made.map_or_else(|| failed(format!("{} is no {name}", of.kind())), Ok)
    }

    fn each(
        &mut self,
        what: Each,
        over: &'a Node,
        test: Option<&'a Node>,
        give: Option<&'a Node>,
    ) -> Answer<'a> {
        let over = self.eval(over)?;
        let over = match over {
            Val::Map(_) | Val::MadeMap(_) => {
                let keys = self.entries(&over)?.into_iter().map(|(key, _)| key).collect();
                Val::MadeList(Rc::new(keys))
            }
            other => other,
        };
        let Some(len) = over.list_len() else {
            return failed(format!(
                "all(), exists(), map() and filter() take a list or a map, not {}",
                over.kind()
            ));
        };
        let mut list = Vec::new();
        let (mut found, mut fault) = (0_usize, None);
        for n in 0..len {
            self.charge(1)?;
            let Some(element) = over.nth(n) else { break };
            self.locals.push(element.clone());
            let tested = test.map_or(Ok(Val::Bool(true)), |test| self.eval(test));
            let given = match (&tested, give) {
                (Ok(Val::Bool(true)), Some(give)) => self.eval(give),
                _ => Ok(element),
            };
            self.locals.pop();
            let tested = match tested {
                Ok(Val::Bool(b)) => Ok(b),
                Ok(other) => failed(format!("the test's answer is {}, not true or false", other.kind())),
                Err(error) => Err(error),
            };
            match (what, tested) {
                (_, Err(Fault::Costly)) => return Err(Fault::Costly),
                (Each::All, Ok(false)) => return Ok(Val::Bool(false)),
                (Each::Exists, Ok(true)) => return Ok(Val::Bool(true)),
                // As `&&` and `||` do: an error counts only where no other element decides.
                (Each::All | Each::Exists, Err(error)) => drop(fault.get_or_insert(error)),
                (_, Err(error)) => return Err(error),
                (Each::ExistsOne, Ok(true)) => found += 1,
                (Each::Map | Each::Filter, Ok(true)) => list.push(given?),
                (_, Ok(_)) => {}
            }
        }
        if let Some(fault) = fault {
            return Err(fault);
        }
        Ok(match what {
            Each::All => Val::Bool(true),
            Each::Exists => Val::Bool(false),
            Each::ExistsOne => Val::Bool(found == 1),
            Each::Map | Each::Filter => Val::MadeList(Rc::new(list)),
        })
    }
}
