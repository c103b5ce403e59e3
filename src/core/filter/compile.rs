//! From text to a tree with resolved names.

use cel::Env;
use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators};
use regex::{Regex, RegexBuilder};

use super::{FilterError, bounded};

/// Levels of the tree; evaluation recurses as deep. Chains of `&&` and `||` count as one.
const MAX_DEPTH: usize = 64;
/// What the parser counts as levels (parentheses, lists, arguments).
const MAX_PARSER_DEPTH: u16 = 48;
/// The parser recurses over sums and member chains, which its own limit does not count: 2,000 links overflow 2 MiB and stay
/// within 16 MiB where nothing is optimised. Address space, of which only what is used takes memory.
const PARSER_STACK: usize = 64 * 1024 * 1024;
/// Bytes of a compiled regular expression: what it can cost for each byte of text.
const MAX_REGEX: usize = 64 * 1024;

const FUNCTIONS: &str = "has, size, contains, startsWith, endsWith, matches, int, uint, double, string, bool, \
                         all, exists, exists_one, map, filter";

/// What is evaluated.
pub enum Node {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    Text(String),
    Root(Root),
    /// The variable of the n-th macro around this place, counted from outside.
    Local(usize),
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
    Differ(Box<Node>, Box<Node>),
    Order(Order, Box<Node>, Box<Node>),
    Arith(Arith, Box<Node>, Box<Node>),
    In(Box<Node>, Box<Node>),
    Size(Box<Node>),
    Test(Test, Box<Node>, Box<Node>),
    Matches(Box<Node>, Regex),
    Convert(To, Box<Node>),
    Each {
        what: Each,
        over: Box<Node>,
        test: Option<Box<Node>>,
        give: Option<Box<Node>>,
    },
}

#[derive(Clone, Copy)]
pub enum Root {
    Source,
    Event,
    Data,
    Attributes,
}

#[derive(Clone, Copy)]
pub enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy)]
pub enum Arith {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

#[derive(Clone, Copy)]
pub enum Test {
    Contains,
    StartsWith,
    EndsWith,
}

#[derive(Clone, Copy)]
pub enum To {
    Int,
    UInt,
    Double,
    Text,
    Bool,
}

/// The macros over a list, or the keys of a map.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Each {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
}

/// Compiles on a thread of its own, which is gone before this returns.
pub fn compile(text: &str) -> Result<Node, FilterError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("filter".into())
            .stack_size(PARSER_STACK)
            .spawn_scoped(scope, || parse(text))
            .map_err(|error| FilterError::Unavailable(error.to_string()))?;
        // A panic of the parser is a filter that cannot be used, and no end of the process.
        thread.join().unwrap_or_else(|_| Err(invalid(text, 0, "the parser failed on it".to_owned())))
    })
}

fn parse(text: &str) -> Result<Node, FilterError> {
    // Without macros: they stay the calls that they were written as.
    let parser = Env::default().with_optional_support(false).parser().max_recursion_depth(MAX_PARSER_DEPTH);
    let (expression, info) = parser.parse_with_source_info(text).map_err(|errors| {
        let Some(first) = errors.errors.first() else { return invalid(text, 0, "is no CEL".to_owned()) };
        let problem = match first.msg.strip_prefix("Syntax error: ").unwrap_or(&first.msg) {
            deep if deep.contains("Recursion limit") => "is nested too deep",
            other => other,
        };
        let at = |n: isize| usize::try_from(n).unwrap_or_default().max(1);
        FilterError::Invalid { line: at(first.pos.0), column: at(first.pos.1), problem: bounded(problem) }
    })?;
    let mut compiler = Compiler { text, info: &info, locals: Vec::new() };
    let root = compiler.node(&expression, 0)?;
    match never_boolean(&root) {
        Some(kind) => Err(compiler.at(&expression, format!("the answer is {kind}, not true or false"))),
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
    FilterError::Invalid { line, column, problem: bounded(&problem) }
}

/// A filter that can answer with nothing but this would hold every event: it is refused at once.
fn never_boolean(node: &Node) -> Option<&'static str> {
    match node {
        Node::Null => Some("null"),
        Node::Int(_) | Node::UInt(_) | Node::Double(_) | Node::Negate(_) | Node::Size(_) => Some("a number"),
        Node::Arith(..) => Some("a number, a text or a list"),
        Node::Text(_) | Node::Root(Root::Source | Root::Event) => Some("a text"),
        Node::List(_) | Node::Each { what: Each::Map | Each::Filter, .. } => Some("a list"),
        Node::Map(_) | Node::Root(Root::Attributes) => Some("a map"),
        Node::Convert(To::Int | To::UInt | To::Double, _) => Some("a number"),
        Node::Convert(To::Text, _) => Some("a text"),
        _ => None,
    }
}

struct Compiler<'a> {
    text: &'a str,
    info: &'a SourceInfo,
    /// The variables of the macros around this place.
    locals: Vec<String>,
}

impl Compiler<'_> {
    fn at(&self, expr: &IdedExpr, problem: impl Into<String>) -> FilterError {
        let offset = self.info.offset_for(expr.id).map_or(0, |(start, _)| start as usize);
        invalid(self.text, offset, problem.into())
    }

    fn boxed(&mut self, expr: &IdedExpr, depth: usize) -> Result<Box<Node>, FilterError> {
        self.node(expr, depth).map(Box::new)
    }

    fn node(&mut self, expr: &IdedExpr, depth: usize) -> Result<Node, FilterError> {
        if depth >= MAX_DEPTH {
            return Err(self.at(expr, "is nested too deep"));
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
                LiteralValue::Bytes(_) => return Err(self.at(expr, "there are no bytes in JSON: use a text")),
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
                        return Err(self.at(expr, "there are no messages: use a map"));
                    };
                    entries.push((self.node(&entry.key, depth)?, self.node(&entry.value, depth)?));
                }
                Node::Map(entries)
            }
            Expr::Call(call) => self.call(expr, call, depth)?,
            Expr::Struct(_) => return Err(self.at(expr, "there are no messages: use a map")),
            Expr::Comprehension(_) | Expr::Unspecified => return Err(self.at(expr, "is no CEL")),
        })
    }

    fn name(&self, expr: &IdedExpr, name: &str) -> Result<Node, FilterError> {
        if let Some(local) = self.locals.iter().rposition(|local| local == name) {
            return Ok(Node::Local(local));
        }
        Ok(Node::Root(match name {
            "source" => Root::Source,
            "event" => Root::Event,
            "data" => Root::Data,
            "attributes" => Root::Attributes,
            _ => {
                let problem =
                    format!("no such name: {name:.64} (there are source, event, data and attributes)");
                return Err(self.at(expr, problem));
            }
        }))
    }

    fn call(&mut self, expr: &IdedExpr, call: &CallExpr, depth: usize) -> Result<Node, FilterError> {
        let name = call.func_name.as_str();
        let unknown =
            || format!("no such function, or not with such arguments: {name:.64} (there are {FUNCTIONS})");
        match (&call.target, call.args.as_slice()) {
            (None, [a]) => Ok(match name {
                operators::LOGICAL_NOT => Node::Not(self.boxed(a, depth)?),
                operators::NEGATE => Node::Negate(self.boxed(a, depth)?),
                operators::HAS => {
                    let Expr::Select(select) = &a.expr else {
                        return Err(self.at(a, "has() asks for a member: has(data.name)"));
                    };
                    Node::Has(self.boxed(&select.operand, depth)?, select.field.clone())
                }
                "size" => Node::Size(self.boxed(a, depth)?),
                "int" => Node::Convert(To::Int, self.boxed(a, depth)?),
                "uint" => Node::Convert(To::UInt, self.boxed(a, depth)?),
                "double" => Node::Convert(To::Double, self.boxed(a, depth)?),
                "string" => Node::Convert(To::Text, self.boxed(a, depth)?),
                "bool" => Node::Convert(To::Bool, self.boxed(a, depth)?),
                _ => return Err(self.at(expr, unknown())),
            }),
            (None, [_, _]) if name == operators::LOGICAL_AND => Ok(Node::And(self.chain(expr, name, depth)?)),
            (None, [_, _]) if name == operators::LOGICAL_OR => Ok(Node::Or(self.chain(expr, name, depth)?)),
            (None, [a, b]) if name == "matches" => self.matches(a, b, depth),
            (None, [a, b]) => {
                let Some(make) = operator(name) else { return Err(self.at(expr, unknown())) };
                Ok(make(self.boxed(a, depth)?, self.boxed(b, depth)?))
            }
            (None, [a, b, c]) if name == operators::CONDITIONAL => {
                Ok(Node::If(self.boxed(a, depth)?, self.boxed(b, depth)?, self.boxed(c, depth)?))
            }
            (Some(target), []) if name == "size" => Ok(Node::Size(self.boxed(target, depth)?)),
            (Some(target), [b]) if name == "matches" => self.matches(target, b, depth),
            (Some(target), [b]) => {
                let test = match name {
                    "contains" => Test::Contains,
                    "startsWith" => Test::StartsWith,
                    "endsWith" => Test::EndsWith,
                    _ => return Err(self.at(expr, unknown())),
                };
                Ok(Node::Test(test, self.boxed(target, depth)?, self.boxed(b, depth)?))
            }
            (Some(target), [variable, rest @ ..]) => {
                let (what, test, give) = match (name, rest) {
                    ("all", [test]) => (Each::All, Some(test), None),
                    ("exists", [test]) => (Each::Exists, Some(test), None),
                    ("exists_one" | "existsOne", [test]) => (Each::ExistsOne, Some(test), None),
                    ("filter", [test]) => (Each::Filter, Some(test), None),
                    ("map", [give]) => (Each::Map, None, Some(give)),
                    ("map", [test, give]) => (Each::Map, Some(test), Some(give)),
                    _ => return Err(self.at(expr, unknown())),
                };
                let Expr::Ident(variable) = &variable.expr else {
                    return Err(self.at(variable, "must be a name, as x in all(x, x > 1)"));
                };
                let over = self.boxed(target, depth)?;
                self.locals.push(variable.clone());
                let test = test.map(|t| self.boxed(t, depth)).transpose();
                let give = give.map(|g| self.boxed(g, depth)).transpose();
                self.locals.pop();
                Ok(Node::Each { what, over, test: test?, give: give? })
            }
            _ => Err(self.at(expr, unknown())),
        }
    }

    /// The operands of a chain of `&&` or of `||`: a list of a hundred values to compare with is no deep nesting.
    fn chain(&mut self, expr: &IdedExpr, name: &str, depth: usize) -> Result<Vec<Node>, FilterError> {
        let mut waiting = vec![expr];
        let mut nodes = Vec::new();
        while let Some(expr) = waiting.pop() {
            match &expr.expr {
                Expr::Call(call) if call.func_name == name => waiting.extend(call.args.iter().rev()),
                _ => nodes.push(self.node(expr, depth)?),
            }
        }
        Ok(nodes)
    }

    fn matches(&mut self, text: &IdedExpr, pattern: &IdedExpr, depth: usize) -> Result<Node, FilterError> {
        // A pattern out of the data would be compiled for every event, at the sender's will.
        let Expr::Literal(LiteralValue::String(literal)) = &pattern.expr else {
            return Err(self.at(pattern, "matches() takes its pattern as a text in quotes"));
        };
        let regex = RegexBuilder::new(literal.inner())
            .size_limit(MAX_REGEX)
            .dfa_size_limit(1 << 20)
            .nest_limit(32)
            .build()
            .map_err(|error| self.at(pattern, format!("is no regular expression: {}", one_line(&error))))?;
        Ok(Node::Matches(self.boxed(text, depth)?, regex))
    }
}

/// The last line of a regular expression's error says what is wrong; those before repeat the pattern.
fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

type Binary = fn(Box<Node>, Box<Node>) -> Node;

fn operator(name: &str) -> Option<Binary> {
    Some(match name {
        operators::EQUALS => Node::Equal,
        operators::NOT_EQUALS => Node::Differ,
        operators::LESS => |a, b| Node::Order(Order::Less, a, b),
        operators::LESS_EQUALS => |a, b| Node::Order(Order::LessOrEqual, a, b),
        operators::GREATER => |a, b| Node::Order(Order::Greater, a, b),
        operators::GREATER_EQUALS => |a, b| Node::Order(Order::GreaterOrEqual, a, b),
        operators::ADD => |a, b| Node::Arith(Arith::Add, a, b),
        operators::SUBSTRACT => |a, b| Node::Arith(Arith::Subtract, a, b),
        operators::MULTIPLY => |a, b| Node::Arith(Arith::Multiply, a, b),
        operators::DIVIDE => |a, b| Node::Arith(Arith::Divide, a, b),
        operators::MODULO => |a, b| Node::Arith(Arith::Modulo, a, b),
        operators::IN => Node::In,
        operators::INDEX => Node::Index,
        _ => return None,
    })
}
