//! Writes an expression as CEL, for error messages.

use std::fmt::{self, Write};

use super::compile::{Arithmetic, ComparisonOperator, MacroKind, Node, Root, StringTest, TargetType};

/// Maximum length of an expression in an error message, in bytes.
const MAX_LENGTH: usize = 128;

impl Node {
    /// Returns the expression, truncated to `MAX_LENGTH` bytes.
    pub fn text(&self) -> String {
        let mut out = Limited { text: String::new() };
        if self.write(&mut out).is_err() {
            out.text.push_str("...");
        }
        out.text
    }

    fn write(&self, out: &mut Limited) -> fmt::Result {
        match self {
            Node::Null => out.write_str("null"),
            Node::Bool(value) => write!(out, "{value}"),
            Node::Int(value) => write!(out, "{value}"),
            Node::UInt(value) => write!(out, "{value}u"),
            Node::Double(value) => write!(out, "{value:?}"),
            Node::Text(value) => write_text(out, value),
            Node::Root(root) => out.write_str(match root {
                Root::Source => "source",
                Root::Event => "event",
                Root::Data => "data",
                Root::Attributes => "attributes",
            }),
            Node::Local(_, name) => out.write_str(name),
            Node::Select(of, name) => {
                of.write_operand(out)?;
                write!(out, ".{name}")
            }
            Node::Has(of, name) => {
                out.write_str("has(")?;
                of.write_operand(out)?;
                write!(out, ".{name})")
            }
            Node::Index(of, at) => {
                of.write_operand(out)?;
                out.write_char('[')?;
                at.write(out)?;
                out.write_char(']')
            }
            Node::List(items) => {
                out.write_char('[')?;
                write_list(out, items)?;
                out.write_char(']')
            }
            Node::Map(entries) => {
                out.write_char('{')?;
                for (index, (key, value)) in entries.iter().enumerate() {
                    out.write_str(if index > 0 { ", " } else { "" })?;
                    key.write(out)?;
                    out.write_str(": ")?;
                    value.write(out)?;
                }
                out.write_char('}')
            }
            Node::Not(of) => {
                out.write_char('!')?;
                of.write_operand(out)
            }
            Node::Negate(of) => {
                out.write_char('-')?;
                of.write_operand(out)
            }
            Node::And(nodes) => write_chain(out, nodes, " && "),
            Node::Or(nodes) => write_chain(out, nodes, " || "),
            Node::If(test, yes, no) => {
                test.write_term(out)?;
                out.write_str(" ? ")?;
                yes.write_term(out)?;
                out.write_str(" : ")?;
                no.write_term(out)
            }
            Node::Equal(a, b) => write_binary(out, a, "==", b),
            Node::NotEqual(a, b) => write_binary(out, a, "!=", b),
            Node::ComparisonOperator(order, a, b) => {
                let operator = match order {
                    ComparisonOperator::Less => "<",
                    ComparisonOperator::LessOrEqual => "<=",
                    ComparisonOperator::Greater => ">",
                    ComparisonOperator::GreaterOrEqual => ">=",
                };
                write_binary(out, a, operator, b)
            }
            Node::Arithmetic(op, a, b) => {
                let operator = match op {
                    Arithmetic::Add => "+",
                    Arithmetic::Subtract => "-",
                    Arithmetic::Multiply => "*",
                    Arithmetic::Divide => "/",
                    Arithmetic::Modulo => "%",
                };
                write_binary(out, a, operator, b)
            }
            Node::In(a, b) => write_binary(out, a, "in", b),
            Node::Size(of) => write_call(out, "size", of),
            Node::StringTest(test, a, b) => {
                a.write_operand(out)?;
                out.write_str(match test {
                    StringTest::Contains => ".contains(",
                    StringTest::StartsWith => ".startsWith(",
                    StringTest::EndsWith => ".endsWith(",
                })?;
                b.write(out)?;
                out.write_char(')')
            }
            Node::Matches(of, regex) => {
                of.write_operand(out)?;
                out.write_str(".matches(")?;
                write_text(out, regex.as_str())?;
                out.write_char(')')
            }
            Node::Convert(to, of) => {
                let name = match to {
                    TargetType::Int => "int",
                    TargetType::UInt => "uint",
                    TargetType::Double => "double",
                    TargetType::Text => "string",
                    TargetType::Bool => "bool",
                };
                write_call(out, name, of)
            }
            Node::Type(named) => out.write_str(named.into()),
            Node::TypeOf(of) => write_call(out, "type", of),
            Node::Macro { kind, over, variable, predicate, transform } => {
                over.write_operand(out)?;
                let name = match kind {
                    MacroKind::All => "all",
                    MacroKind::Exists => "exists",
                    MacroKind::ExistsOne => "exists_one",
                    MacroKind::Map => "map",
                    MacroKind::Filter => "filter",
                };
                write!(out, ".{name}({variable}")?;
                for argument in [predicate, transform].into_iter().flatten() {
                    out.write_str(", ")?;
                    argument.write(out)?;
                }
                out.write_char(')')
            }
        }
    }

    /// Writes the expression as an operand of an operator that binds tightly.
    fn write_operand(&self, out: &mut Limited) -> fmt::Result {
        let needs_parentheses = matches!(
            self,
            Node::Equal(..)
                | Node::NotEqual(..)
                | Node::ComparisonOperator(..)
                | Node::Arithmetic(..)
                | Node::In(..)
        );
        if needs_parentheses { self.write_in_parentheses(out) } else { self.write_term(out) }
    }

    /// Writes the expression as an operand of `&&`, `||` or `?:`, which bind loosely.
    fn write_term(&self, out: &mut Limited) -> fmt::Result {
        let needs_parentheses = matches!(self, Node::And(_) | Node::Or(_) | Node::If(..));
        if needs_parentheses { self.write_in_parentheses(out) } else { self.write(out) }
    }

    fn write_in_parentheses(&self, out: &mut Limited) -> fmt::Result {
        out.write_char('(')?;
        self.write(out)?;
        out.write_char(')')
    }
}

fn write_binary(out: &mut Limited, a: &Node, operator: &str, b: &Node) -> fmt::Result {
    a.write_operand(out)?;
    write!(out, " {operator} ")?;
    b.write_operand(out)
}

fn write_chain(out: &mut Limited, nodes: &[Node], operator: &str) -> fmt::Result {
    for (index, node) in nodes.iter().enumerate() {
        out.write_str(if index > 0 { operator } else { "" })?;
        node.write_term(out)?;
    }
    Ok(())
}

fn write_list(out: &mut Limited, nodes: &[Node]) -> fmt::Result {
    for (index, node) in nodes.iter().enumerate() {
        out.write_str(if index > 0 { ", " } else { "" })?;
        node.write(out)?;
    }
    Ok(())
}

fn write_call(out: &mut Limited, name: &str, argument: &Node) -> fmt::Result {
    write!(out, "{name}(")?;
    argument.write(out)?;
    out.write_char(')')
}

/// Writes a string literal, without line breaks.
fn write_text(out: &mut Limited, text: &str) -> fmt::Result {
    out.write_char('\'')?;
    for c in text.chars() {
        match c {
            '\'' | '\\' => write!(out, "\\{c}")?,
            '\n' => out.write_str("\\n")?,
            c if c.is_control() => write!(out, "\\u{:04x}", u32::from(c))?,
            c => out.write_char(c)?,
        }
    }
    out.write_char('\'')
}

/// A text that accepts up to `MAX_LENGTH` bytes. The first text that exceeds them ends the writing.
struct Limited {
    text: String,
}

impl Write for Limited {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let capacity = MAX_LENGTH.saturating_sub(self.text.len());
        if text.len() <= capacity {
            self.text.push_str(text);
            return Ok(());
        }
        self.text.push_str(text.get(..text.floor_char_boundary(capacity)).unwrap_or_default());
        Err(fmt::Error)
    }
}
