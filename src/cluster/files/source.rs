//! The text of a document, from which the positions of its fields are found.
//!
//! Positions are found only for the documents of which something is reported, so reading costs nothing more.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use granit_parser::{Event, Parser, ScalarStyle, Span, StrInput};

/// A line and column of a file, which are counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl Position {
    /// Returns the position of a byte of a text.
    pub fn of_offset(text: &str, offset: usize) -> Position {
        let before = text.get(..offset).unwrap_or_default();
        let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
        Position { line: before.matches('\n').count() + 1, column }
    }
}

/// A problem of a file, with its position where it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    pub position: Option<Position>,
    pub message: String,
}

impl FileProblem {
    pub fn new(message: impl Into<String>) -> Self {
        FileProblem { position: None, message: message.into() }
    }
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Position { line, column }) = self.position {
            write!(f, "line {line}, column {column}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// The place of a document in its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DocumentPlace {
    /// The bytes of the document, of the decoded text.
    pub range: Range<usize>,
    /// The line in which it begins, counted from 1.
    pub first_line: usize,
    /// Its index in the `items` of that document.
    pub item: Option<usize>,
}

/// The text of a document.
pub struct DocumentSource {
    text: Arc<str>,
    place: DocumentPlace,
    /// None: the text cannot be parsed.
    root: OnceLock<Option<Node>>,
}

/// A node of the document, with its position.
struct Node {
    start: Position,
    content: Content,
}

enum Content {
    Scalar(ScalarSource),
    List(Vec<Node>),
    /// The members of a map, each with the position of its name.
    Map(Vec<(String, Position, Node)>),
}

/// Where the text of a scalar begins, if its lines and columns are those of the file plus this.
struct ScalarSource {
    /// The position of the first character.
    first: Option<Position>,
    /// The column at which each further line begins. None: the scalar has one line.
    indentation: Option<usize>,
}

impl DocumentSource {
    pub fn new(text: Arc<str>, place: DocumentPlace) -> Self {
        DocumentSource { text, place, root: OnceLock::new() }
    }

    /// Returns the text of the document; with the whole list if it is an item of one.
    pub fn text(&self) -> &str {
        self.text.get(self.place.range.clone()).unwrap_or_default()
    }

    /// Returns the position of an offset into `text`.
    pub fn position_of_offset(&self, offset: usize) -> Position {
        let position = Position::of_offset(self.text(), offset);
        Position { line: position.line + self.place.first_line - 1, ..position }
    }

    /// Returns the position of a field, such as `spec.handler.lambda.functions[0]`. If it is missing, that of the innermost
    /// field around it.
    pub fn position(&self, field: &str) -> Position {
        self.find(field).0
    }

    /// Returns the position of a line and column of a field's text. None if the file spells the text in other lines or with
    /// escapes, as a folded scalar does.
    pub fn position_in(&self, field: &str, line: usize, column: usize) -> Option<Position> {
        let (_, node) = self.find(field);
        let Some(Node { content: Content::Scalar(source), .. }) = node else { return None };
        match (source.first, source.indentation) {
            (Some(first), _) if line <= 1 => Some(Position { column: first.column + column - 1, ..first }),
            (Some(first), Some(indentation)) => {
                Some(Position { line: first.line + line - 1, column: indentation + column - 1 })
            }
            _ => None,
        }
    }

    fn find(&self, field: &str) -> (Position, Option<&Node>) {
        let root = self.root.get_or_init(|| self.parse());
        let Some(root) = root else { return (Position { line: self.place.first_line, column: 1 }, None) };
        match self.place.item {
            None => find(root, field),
            Some(item) => {
                let (start, node) = find(root, &format!("items[{item}]"));
                node.map_or((start, None), |node| find(node, field))
            }
        }
    }

    fn parse(&self) -> Option<Node> {
        let text = self.text();
        let options = granit_parser::options! { emit_comments: false };
        let mut reader = Reader {
            text,
            first_line: self.place.first_line,
            parser: Parser::new_from_str_with_options(text, options),
        };
        loop {
            let (event, span) = reader.next()?;
            match event {
                Event::StreamStart | Event::DocumentStart(..) => {}
                Event::StreamEnd => return None,
                event => return reader.node(&event, span),
            }
        }
    }
}

/// Finds a field below a node. Names may contain dots, so the longest one that fits is taken.
fn find<'n>(mut node: &'n Node, field: &str) -> (Position, Option<&'n Node>) {
    let (mut at, mut rest) = (node.start, field);
    loop {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if rest.is_empty() {
            return (at, Some(node));
        }
        let next = match &node.content {
            Content::Scalar(_) => None,
            Content::List(items) => index(rest).and_then(|(index, rest)| {
                let item = items.get(index)?;
                Some((item.start, item, rest))
            }),
            Content::Map(members) => members
                .iter()
                .filter_map(|(name, at, value)| Some((*at, value, after_name(rest, name)?)))
                .min_by_key(|(.., rest)| rest.len()),
        };
        let Some((start, value, after)) = next else { return (at, None) };
        (at, node, rest) = (start, value, after);
    }
}

/// Returns what follows a member's name in a path: `name` or `[name]`, then another member, an index, or the end.
fn after_name<'p>(path: &'p str, name: &str) -> Option<&'p str> {
    let in_brackets = || path.strip_prefix('[')?.strip_prefix(name)?.strip_prefix(']');
    let rest = path.strip_prefix(name).or_else(in_brackets)?;
    (rest.is_empty() || rest.starts_with(['.', '['])).then_some(rest)
}

/// Splits `[7].name` into the index and the rest.
fn index(path: &str) -> Option<(usize, &str)> {
    let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
    Some((index.parse().ok()?, rest))
}

struct Reader<'t> {
    text: &'t str,
    first_line: usize,
    parser: Parser<'t, StrInput<'t>>,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Option<(Event<'t>, Span)> {
        self.parser.next_event()?.ok()
    }

    /// Reads a node, whose first event was read. The parser bounds the depth.
    fn node(&mut self, event: &Event<'t>, span: Span) -> Option<Node> {
        let content = match event {
            Event::Scalar(value, style, ..) => Content::Scalar(self.scalar(value, *style, span)),
            Event::Alias(_) => Content::Scalar(ScalarSource { first: None, indentation: None }),
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if matches!(event, Event::SequenceEnd) {
                        break Content::List(items);
                    }
                    items.push(self.node(&event, span)?);
                }
            }
            Event::MappingStart(..) => {
                let mut members = Vec::new();
                loop {
                    let (event, key_span) = self.next()?;
                    if matches!(event, Event::MappingEnd) {
                        break Content::Map(members);
                    }
                    let name = match &event {
                        Event::Scalar(text, ..) => text.to_string(),
                        _ => String::new(),
                    };
                    self.node(&event, key_span)?;
                    let (event, span) = self.next()?;
                    members.push((name, self.position(key_span), self.node(&event, span)?));
                }
            }
            _ => return None,
        };
        Some(Node { start: self.position(span), content })
    }

    fn position(&self, span: Span) -> Position {
        Position { line: span.start.line() + self.first_line - 1, column: span.start.col() + 1 }
    }

    fn scalar(&self, value: &str, style: ScalarStyle, span: Span) -> ScalarSource {
        let start = self.position(span);
        let source = span.slice(self.text).unwrap_or_default();
        let is_one_line = !source.contains('\n');
        let first = match style {
            ScalarStyle::Plain if is_one_line => Some(start),
            // An escape has more characters in the file than in the text.
            ScalarStyle::SingleQuoted if is_one_line && !source.trim_matches('\'').contains("''") => {
                Some(Position { column: start.column + 1, ..start })
            }
            ScalarStyle::DoubleQuoted if is_one_line && !source.contains('\\') => {
                Some(Position { column: start.column + 1, ..start })
            }
            ScalarStyle::Literal => {
                // The span begins at the first line that is not empty.
                let empty_lines = value.chars().take_while(|c| *c == '\n').count();
                let first = start.line.checked_sub(empty_lines).map(|line| Position { line, ..start });
                return ScalarSource { first, indentation: Some(start.column) };
            }
            _ => None,
        };
        ScalarSource { first, indentation: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str, item: Option<usize>) -> DocumentSource {
        DocumentSource::new(text.into(), DocumentPlace { range: 0..text.len(), first_line: 1, item })
    }

    fn at(line: usize, column: usize) -> Position {
        Position { line, column }
    }

    #[test]
    fn finds_fields() {
        let text = "a:\n  b.c/d: 1\n  b: {e: [x, {f: 2}]}\n'q': 3\n";
        let source = source(text, None);
        for (field, position) in [
            ("", at(1, 1)),
            ("a", at(1, 1)),
            ("a.b.c/d", at(2, 3)),
            ("a[b.c/d]", at(2, 3)),
            ("a.b.e[0]", at(3, 11)),
            ("a.b.e[1].f", at(3, 15)),
            ("a.b.e[7]", at(3, 7)),
            ("a.missing.field", at(1, 1)),
            ("a.b.c/dd", at(3, 3)),
            ("q", at(4, 1)),
            ("other", at(1, 1)),
        ] {
            assert_eq!(source.position(field), position, "{field}");
        }
    }

    #[test]
    fn finds_items_of_lists_and_json() {
        let text = "kind: List\nitems:\n- a: 1\n- a:\n    b: 2\n";
        assert_eq!(source(text, Some(1)).position("a.b"), at(5, 5));
        assert_eq!(source(text, Some(1)).position(""), at(4, 3));
        let json = "{\n\t\"a\": {\"b\": [1,\n 2]}}";
        assert_eq!(source(json, None).position("a.b[1]"), at(3, 2));
    }

    #[test]
    fn finds_positions_within_texts() {
        let text = "a: x + y\nb: |\n  one\n    two\nc: >\n  one\n\n  two\nd: 'x'\ne: \"x\\ty\"\nf: |2\n   x\ng:\n  - |-\n\n    x\n  - a\n    b\n";
        let source = source(text, None);
        for (field, line, column, position) in [
            ("a", 1, 5, Some(at(1, 8))),
            ("b", 1, 1, Some(at(3, 3))),
            ("b", 2, 4, Some(at(4, 6))),
            ("c", 2, 2, None),
            ("d", 1, 1, Some(at(9, 5))),
            ("e", 1, 3, None),
            ("f", 1, 2, Some(at(12, 4))),
            ("g[0]", 2, 1, Some(at(16, 5))),
            ("g[1]", 1, 3, None),
            ("missing", 1, 1, None),
        ] {
            assert_eq!(source.position_in(field, line, column), position, "{field}");
        }
    }
}
