//! Compiles a filter's text to a tree with resolved names.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cel::Env;
use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators};
use regex::{Regex, RegexBuilder};

use super::parser_stack::{has_parser_stack, run_with_parser_stack};
use super::value::CelType;
use super::{FilterError, truncate};

/// Maximum depth of the tree, which also bounds the recursion of the evaluation. A chain of `&&` or `||` is one level.
const MAX_DEPTH: usize = 64;
/// Maximum depth of what the parser counts as levels: parentheses, lists and arguments.
const MAX_PARSER_DEPTH: u16 = 48;
/// Maximum size of a compiled regular expression in bytes, which bounds its cost for each byte of text.
const MAX_REGEX: usize = 64 * 1024;

const FUNCTIONS: &str = "has, size, contains, startsWith, endsWith, matches, int, uint, double, string, bool, \
                         dyn, type, all, exists, exists_one, map, filter";

/// A node of the expression tree.
pub enum Node {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    Text(String),
    Root(Root),
    /// The variable of the n-th enclosing macro, counted from the outermost, with its name.
    Local(usize, String),
    Select(Box<Node>, String),
    Has(Box<Node>, String),
    Index(Box<Node>, Box<Node>),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    Not(Box<Node>),
    Negate(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
    If(Box<Node>, Box<Node>, Box<Node>),
    Equal(Box<Node>, Box<Node>),
    NotEqual(Box<Node>, Box<Node>),
    ComparisonOperator(ComparisonOperator, Box<Node>, Box<Node>),
    Arithmetic(Arithmetic, Box<Node>, Box<Node>),
    In(Box<Node>, Box<Node>),
    Size(Box<Node>),
    StringTest(StringTest, Box<Node>, Box<Node>),
    Matches(Box<Node>, Regex),
    Convert(TargetType, Box<Node>),
    /// The name of a type.
    Type(CelType),
    TypeOf(Box<Node>),
    Macro {
        kind: MacroKind,
        over: Box<Node>,
        variable: String,
        predicate: Option<Box<Node>>,
        transform: Option<Box<Node>>,
    },
}

/// The variables that a filter can use.
#[derive(Clone, Copy)]
pub enum Root {
    Source,
    Event,
    Data,
    Attributes,
}

/// The ordering operators.
#[derive(Clone, Copy)]
pub enum ComparisonOperator {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// The arithmetic operators; `+` also concatenates.
#[derive(Clone, Copy)]
pub enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

/// The functions that search in a string.
#[derive(Clone, Copy)]
pub enum StringTest {
    Contains,
    StartsWith,
    EndsWith,
}

/// The result types of the conversion functions.
#[derive(Clone, Copy)]
pub enum TargetType {
    Int,
    UInt,
    Double,
    Text,
    Bool,
}

/// The macros that iterate over a list or the keys of a map.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum MacroKind {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
}

thread_local! {
    /// Without macro expansion: macros stay calls and become `Node::Macro`.
    static ENV: Env = Env::default().with_optional_support(false);
}

/// Compiles a filter: on this thread if it has the parser's stack, otherwise on one that ends before this function returns.
pub fn compile(text: &str) -> Result<Node, FilterError> {
    let parsed = if has_parser_stack() {
        // Nothing is shared with the parser that a panic could leave half-changed.
        catch_unwind(AssertUnwindSafe(|| parse(text)))
    } else {
        run_with_parser_stack(|| parse(text)).map_err(|error| FilterError::Unavailable(error.to_string()))?
    };
    // A panic of the parser makes the filter invalid, but must not end the process.
    parsed.unwrap_or_else(|_| Err(invalid(text, 0, "the parser crashed on this filter".to_owned())))
}

fn parse(text: &str) -> Result<Node, FilterError> {
    let parser = ENV.with(Env::parser).max_recursion_depth(MAX_PARSER_DEPTH);
    let (expression, info) = parser.parse_with_source_info(text).map_err(|errors| {
        let Some(first) = errors.errors.first() else {
            return invalid(text, 0, "is not valid CEL".to_owned());
        };
        let problem = match first.msg.strip_prefix("Syntax error: ").unwrap_or(&first.msg) {
            deep if deep.contains("Recursion limit") => "is nested too deeply",
            // The lexer's message quotes the character, and what follows if that is unexpected too.
            equals if equals.starts_with("token recognition error at: '=") => "a comparison is written ==",
            and if and.starts_with("token recognition error at: '&") => "and is written &&",
            or if or.starts_with("token recognition error at: '|") => "or is written ||",
            other => other,
        };
        let at = |n: isize| usize::try_from(n).unwrap_or_default().max(1);
        FilterError::Invalid { line: at(first.pos.0), column: at(first.pos.1), problem: truncate(problem) }
    })?;
    let mut compiler = Compiler { text, info: &info, locals: Vec::new() };
    let root = compiler.node(&expression, 0)?;
    match non_boolean_type(&root) {
        Some(kind) => Err(compiler.error_at(&expression, format!("the result is {kind}, not true or false"))),
        None => Ok(root),
    }
}

fn invalid(text: &str, offset: usize, problem: String) -> FilterError {
    let (mut line, mut column) = (1, 1);
    for c in text.chars().take(offset) {
        if c == '\n' {
            (line, column) = (line + 1, 1);
        } else {
            column += 1;
        }
    }
    FilterError::Invalid { line, column, problem: truncate(&problem) }
}

/// Returns the type of an expression whose result is never a boolean. Such a filter could never decide an event, so the
/// compiler rejects it.
fn non_boolean_type(node: &Node) -> Option<&'static str> {
    match node {
        Node::Null => Some("null"),
        Node::Int(_) | Node::UInt(_) | Node::Double(_) | Node::Negate(_) | Node::Size(_) => Some("a number"),
        Node::Arithmetic(..) => Some("a number, a string or a list"),
        Node::Text(_) | Node::Root(Root::Source | Root::Event) => Some("a string"),
        Node::List(_) | Node::Macro { kind: MacroKind::Map | MacroKind::Filter, .. } => Some("a list"),
        Node::Map(_) | Node::Root(Root::Attributes) => Some("a map"),
        Node::Convert(TargetType::Int | TargetType::UInt | TargetType::Double, _) => Some("a number"),
        Node::Convert(TargetType::Text, _) => Some("a string"),
        Node::Type(_) | Node::TypeOf(_) => Some("a type"),
        _ => None,
    }
}

struct Compiler<'a> {
    text: &'a str,
    info: &'a SourceInfo,
    /// The variables of the enclosing macros.
    locals: Vec<String>,
}

impl Compiler<'_> {
    fn error_at(&self, expr: &IdedExpr, problem: impl Into<String>) -> FilterError {
        let offset = self.info.offset_for(expr.id).map_or(0, |(start, _)| start as usize);
        invalid(self.text, offset, problem.into())
    }

    fn boxed(&mut self, expr: &IdedExpr, depth: usize) -> Result<Box<Node>, FilterError> {
        self.node(expr, depth).map(Box::new)
    }

    fn node(&mut self, expr: &IdedExpr, depth: usize) -> Result<Node, FilterError> {
        if depth >= MAX_DEPTH {
            return Err(self.error_at(expr, "is nested too deeply"));
        }
        let depth = depth + 1;
        Ok(match &expr.expr {
            Expr::Literal(literal) => match literal {
                LiteralValue::Boolean(b) => Node::Bool(*b.inner()),
                LiteralValue::Int(n) => Node::Int(*n.inner()),
                LiteralValue::UInt(n) => Node::UInt(*n.inner()),
                LiteralValue::Double(n) => Node::Double(*n.inner()),
                LiteralValue::String(text) => Node::Text(text.inner().to_owned()),
                LiteralValue::Null => Node::Null,
                LiteralValue::Bytes(_) => return Err(self.error_at(expr, "JSON has no bytes: use a string")),
            },
            Expr::Ident(name) => self.name(expr, name)?,
            Expr::Select(select) => Node::Select(self.boxed(&select.operand, depth)?, select.field.clone()),
            Expr::List(list) => {
                Node::List(list.elements.iter().map(|e| self.node(e, depth)).collect::<Result<_, _>>()?)
            }
            Expr::Map(map) => {
                let mut entries = Vec::with_capacity(map.entries.len());
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else {
                        return Err(self.error_at(expr, "messages are not supported: use a map"));
                    };
                    entries.push((self.node(&entry.key, depth)?, self.node(&entry.value, depth)?));
                }
                Node::Map(entries)
            }
            Expr::Call(call) => self.call(expr, call, depth)?,
            Expr::Struct(_) => return Err(self.error_at(expr, "messages are not supported: use a map")),
            Expr::Comprehension(_) | Expr::Unspecified => return Err(self.error_at(expr, "is not valid CEL")),
        })
    }

    fn name(&self, expr: &IdedExpr, name: &str) -> Result<Node, FilterError> {
        if let Some(local) = self.locals.iter().rposition(|local| local == name) {
            return Ok(Node::Local(local, name.to_owned()));
        }
        Ok(Node::Root(match name {
            "source" => Root::Source,
            "event" => Root::Event,
            "data" => Root::Data,
            "attributes" => Root::Attributes,
            _ => {
                if let Ok(named) = name.parse() {
                    return Ok(Node::Type(named));
                }
                let problem = format!("unknown name {name:.64}: use source, event, data or attributes");
                return Err(self.error_at(expr, problem));
            }
        }))
    }

    fn call(&mut self, expr: &IdedExpr, call: &CallExpr, depth: usize) -> Result<Node, FilterError> {
        let name = call.func_name.as_str();
        let unknown =
            || format!("unknown function {name:.64}, or wrong arguments: the functions are {FUNCTIONS}");
        match (&call.target, call.args.as_slice()) {
            (None, [a]) => Ok(match name {
                operators::LOGICAL_NOT => Node::Not(self.boxed(a, depth)?),
                operators::NEGATE => Node::Negate(self.boxed(a, depth)?),
                operators::HAS => {
                    let Expr::Select(select) = &a.expr else {
                        return Err(self.error_at(a, "has() takes a member: has(data.name)"));
                    };
                    Node::Has(self.boxed(&select.operand, depth)?, select.field.clone())
                }
                "size" => Node::Size(self.boxed(a, depth)?),
                "int" => Node::Convert(TargetType::Int, self.boxed(a, depth)?),
                "uint" => Node::Convert(TargetType::UInt, self.boxed(a, depth)?),
                "double" => Node::Convert(TargetType::Double, self.boxed(a, depth)?),
                "string" => Node::Convert(TargetType::Text, self.boxed(a, depth)?),
                "bool" => Node::Convert(TargetType::Bool, self.boxed(a, depth)?),
                "type" => Node::TypeOf(self.boxed(a, depth)?),
                // Every expression is dynamically typed here.
                "dyn" => self.node(a, depth)?,
                _ => return Err(self.error_at(expr, unknown())),
            }),
            (None, [_, _]) if name == operators::LOGICAL_AND => Ok(Node::And(self.chain(expr, name, depth)?)),
            (None, [_, _]) if name == operators::LOGICAL_OR => Ok(Node::Or(self.chain(expr, name, depth)?)),
            (None, [a, b]) if name == "matches" => self.matches(a, b, depth),
            (None, [a, b]) => {
                let Some(make) = operator(name) else { return Err(self.error_at(expr, unknown())) };
                Ok(make(self.boxed(a, depth)?, self.boxed(b, depth)?))
            }
            (None, [a, b, c]) if name == operators::CONDITIONAL => {
                Ok(Node::If(self.boxed(a, depth)?, self.boxed(b, depth)?, self.boxed(c, depth)?))
            }
            (Some(target), []) if name == "size" => Ok(Node::Size(self.boxed(target, depth)?)),
            (Some(target), [b]) if name == "matches" => self.matches(target, b, depth),
            (Some(target), [b]) => {
                let test = match name {
                    "contains" => StringTest::Contains,
                    "startsWith" => StringTest::StartsWith,
                    "endsWith" => StringTest::EndsWith,
                    _ => return Err(self.error_at(expr, unknown())),
                };
                Ok(Node::StringTest(test, self.boxed(target, depth)?, self.boxed(b, depth)?))
            }
            (Some(target), [variable, rest @ ..]) => {
                let (kind, predicate, transform) = match (name, rest) {
                    ("all", [predicate]) => (MacroKind::All, Some(predicate), None),
                    ("exists", [predicate]) => (MacroKind::Exists, Some(predicate), None),
                    ("exists_one" | "existsOne", [predicate]) => {
                        (MacroKind::ExistsOne, Some(predicate), None)
                    }
                    ("filter", [predicate]) => (MacroKind::Filter, Some(predicate), None),
                    ("map", [transform]) => (MacroKind::Map, None, Some(transform)),
                    ("map", [predicate, transform]) => (MacroKind::Map, Some(predicate), Some(transform)),
                    _ => return Err(self.error_at(expr, unknown())),
                };
                let Expr::Ident(variable) = &variable.expr else {
                    return Err(self.error_at(variable, "must be a variable name, as x in all(x, x > 1)"));
                };
                let over = self.boxed(target, depth)?;
                self.locals.push(variable.clone());
                let predicate = predicate.map(|p| self.boxed(p, depth)).transpose();
                let transform = transform.map(|t| self.boxed(t, depth)).transpose();
                self.locals.pop();
                let (variable, predicate, transform) = (variable.clone(), predicate?, transform?);
                Ok(Node::Macro { kind, over, variable, predicate, transform })
            }
            _ => Err(self.error_at(expr, unknown())),
        }
    }

    /// Flattens a chain of `&&` or `||`, so that a comparison with a hundred values is not deeply nested.
    fn chain(&mut self, expr: &IdedExpr, name: &str, depth: usize) -> Result<Vec<Node>, FilterError> {
        let mut pending = vec![expr];
        let mut nodes = Vec::new();
        while let Some(expr) = pending.pop() {
            match &expr.expr {
                Expr::Call(call) if call.func_name == name => pending.extend(call.args.iter().rev()),
                _ => nodes.push(self.node(expr, depth)?),
            }
        }
        Ok(nodes)
    }

    fn matches(&mut self, text: &IdedExpr, pattern: &IdedExpr, depth: usize) -> Result<Node, FilterError> {
        // A pattern from the data would have to be compiled for every event, under the sender's control.
        let Expr::Literal(LiteralValue::String(literal)) = &pattern.expr else {
            return Err(self.error_at(pattern, "matches() takes its pattern as a string literal"));
        };
        let regex = RegexBuilder::new(literal.inner())
            .size_limit(MAX_REGEX)
            .dfa_size_limit(1 << 20)
            .nest_limit(32)
            .build()
            .map_err(|error| {
                self.error_at(pattern, format!("is not a regular expression: {}", last_line(&error)))
            })?;
        Ok(Node::Matches(self.boxed(text, depth)?, regex))
    }
}

/// Returns the last line of an error, which names the problem. The lines before it repeat the pattern.
fn last_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

type Binary = fn(Box<Node>, Box<Node>) -> Node;

fn operator(name: &str) -> Option<Binary> {
    Some(match name {
        operators::EQUALS => Node::Equal,
        operators::NOT_EQUALS => Node::NotEqual,
        operators::LESS => |a, b| Node::ComparisonOperator(ComparisonOperator::Less, a, b),
        operators::LESS_EQUALS => |a, b| Node::ComparisonOperator(ComparisonOperator::LessOrEqual, a, b),
        operators::GREATER => |a, b| Node::ComparisonOperator(ComparisonOperator::Greater, a, b),
        operators::GREATER_EQUALS => {
            |a, b| Node::ComparisonOperator(ComparisonOperator::GreaterOrEqual, a, b)
        }
        operators::ADD => |a, b| Node::Arithmetic(Arithmetic::Add, a, b),
        operators::SUBSTRACT => |a, b| Node::Arithmetic(Arithmetic::Subtract, a, b),
        operators::MULTIPLY => |a, b| Node::Arithmetic(Arithmetic::Multiply, a, b),
        operators::DIVIDE => |a, b| Node::Arithmetic(Arithmetic::Divide, a, b),
        operators::MODULO => |a, b| Node::Arithmetic(Arithmetic::Modulo, a, b),
        operators::IN => Node::In,
        operators::INDEX => Node::Index,
        _ => return None,
    })
}
