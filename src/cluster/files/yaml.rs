//! Reads a YAML document into JSON, as kubectl converts it.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use serde_json::{Map, Value};

use super::yaml_scalar::Scalar;

/// The namespace of the tags that start with `!!`.
const YAML_TAGS: &str = "tag:yaml.org,2002:";
/// Up to this many nodes, nearly all of a document may come from aliases.
const FEW_NODES: f64 = 400_000.0;
/// From this many nodes on, a tenth of a document may come from aliases.
const MANY_NODES: f64 = 4_000_000.0;
/// The most nodes within anchors. Nodes within nested anchors count several times, because each anchor keeps a copy.
const MAX_ANCHORED: usize = 4_000_000;

/// A problem at a line and column, which are counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct YamlProblem {
    pub line: usize,
    pub column: usize,
    pub message: String,
}

/// A document, and what its author should know.
#[derive(Debug)]
pub struct YamlDocument {
    pub value: Value,
    pub warnings: Vec<YamlProblem>,
}

/// Reads the first document of a text; an empty text is null. As with kubectl, a member that occurs twice has its last value, and
/// what follows `...` is ignored. Both are warnings, because the author likely did not mean it.
pub fn read_yaml(text: &str) -> Result<YamlDocument, YamlProblem> {
    check_characters(text)?;
    let options = granit_parser::options! { emit_comments: false };
    let mut loader = Loader {
        text,
        parser: Parser::new_from_str_with_options(text, options),
        anchors: HashMap::new(),
        decoded: 0,
        aliased: 0,
        anchored: 0,
        warnings: Vec::new(),
    };
    loop {
        let (event, span) = loader.next()?;
        match event {
            Event::StreamStart | Event::DocumentStart(..) => {}
            Event::StreamEnd => return Ok(YamlDocument { value: Value::Null, warnings: Vec::new() }),
            event => {
                let value = loader.node(event, span)?.into_value(span)?;
                loader.check_end()?;
                return Ok(YamlDocument { value, warnings: loader.warnings });
            }
        }
    }
}

/// Rejects control characters, which YAML allows only as escapes.
fn check_characters(text: &str) -> Result<(), YamlProblem> {
    let is_allowed = |c: char| !c.is_control() || matches!(c, '\t' | '\n' | '\r' | '\u{85}');
    let Some(at) = text.find(|c| !is_allowed(c)) else { return Ok(()) };
    let before = text.get(..at).unwrap_or_default();
    let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
    let message = "control characters are not allowed: write them as an escape in double quotes".to_owned();
    Err(YamlProblem { line: before.matches('\n').count() + 1, column, message })
}

/// A node that has been read.
#[derive(Clone)]
enum Node {
    Scalar(Scalar),
    Collection(Value),
}

impl Node {
    fn into_value(self, span: Span) -> Result<Value, YamlProblem> {
        match self {
            Node::Scalar(scalar) => scalar.into_value().map_err(|message| problem(span, message)),
            Node::Collection(value) => Ok(value),
        }
    }

    fn into_name(self, span: Span) -> Result<String, YamlProblem> {
        match self {
            Node::Scalar(scalar) => scalar.into_name(),
            Node::Collection(_) => Err("a list or map is not the name of a member".to_owned()),
        }
        .map_err(|message| problem(span, message))
    }
}

struct Loader<'t> {
    text: &'t str,
    parser: Parser<'t, StrInput<'t>>,
    /// Complete nodes with an anchor, each with its number of nodes.
    anchors: HashMap<usize, (Node, usize)>,
    /// Nodes so far, and those of them that came from aliases.
    decoded: usize,
    aliased: usize,
    /// Nodes that are kept for anchors.
    anchored: usize,
    warnings: Vec<YamlProblem>,
}

impl<'t> Loader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), YamlProblem> {
        match self.parser.next_event() {
            Some(Ok(found)) => Ok(found),
            Some(Err(error)) => Err(of_scan_error(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    /// Reads a node, whose first event was read. The parser bounds the depth.
    fn node(&mut self, event: Event<'t>, span: Span) -> Result<Node, YamlProblem> {
        let before = self.decoded;
        self.decoded += 1;
        let (node, anchor) = match event {
            Event::Alias(id) => return self.alias(id, span),
            Event::Scalar(text, style, anchor, tag) => {
                if style == ScalarStyle::DoubleQuoted {
                    let source = span.slice(self.text).unwrap_or_default();
                    check_escapes(source).map_err(|message| problem(span, message))?;
                }
                let scalar =
                    Scalar::resolve(&text, style == ScalarStyle::Plain, tag_name(tag.as_deref()).as_deref());
                (Node::Scalar(scalar.map_err(|message| problem(span, message))?), anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if matches!(event, Event::SequenceEnd) {
                        break;
                    }
                    items.push(self.node(event, span)?.into_value(span)?);
                }
                (Node::Collection(Value::Array(items)), anchor)
            }
            Event::MappingStart(_, anchor, _) => (Node::Collection(Value::Object(self.members()?)), anchor),
            _ => return Err(problem(span, "a value is missing".to_owned())),
        };
        if anchor != 0 {
            let size = self.decoded - before;
            self.anchored += size;
            if self.anchored > MAX_ANCHORED {
                return Err(problem(span, "the document has too many nested anchors"));
            }
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok(node)
    }

    /// Copies the node of an anchor. Few aliases could otherwise describe more nodes than fit into the memory.
    fn alias(&mut self, id: usize, span: Span) -> Result<Node, YamlProblem> {
        let Some((node, size)) = self.anchors.get(&id) else {
            return Err(problem(span, "the value of an anchor contains itself".to_owned()));
        };
        self.decoded += size;
        self.aliased += size;
        #[expect(clippy::cast_precision_loss, reason = "a file has fewer nodes than 2^53")]
        let (decoded, aliased) = (self.decoded as f64, self.aliased as f64);
        let above = ((decoded - FEW_NODES) / (MANY_NODES - FEW_NODES)).clamp(0.0, 1.0);
        if self.aliased > 100 && self.decoded > 1000 && aliased / decoded > 0.99 - 0.89 * above {
            return Err(problem(span, "the document has too many aliases".to_owned()));
        }
        Ok(node.clone())
    }

    /// Reads the members of a mapping. As in kubectl, a member that is merged by `<<` replaces an earlier one.
    fn members(&mut self) -> Result<Map<String, Value>, YamlProblem> {
        let mut members = Map::new();
        let mut names = HashSet::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(members);
            }
            let is_merge = is_merge(&event);
            let key = self.node(event, span)?;
            let (event, value_span) = self.next()?;
            let value = self.node(event, value_span)?.into_value(value_span)?;
            if is_merge {
                merge(&mut members, value).map_err(|message| problem(value_span, message))?;
                continue;
            }
            let name = key.into_name(span)?;
            if !names.insert(name.clone()) {
                let message = format!("{name:.64} occurs twice in one map: the last value counts");
                self.warnings.push(problem(span, message));
            }
            members.insert(name, value);
        }
    }

    /// Warns of a text after `...`, and rejects another text after the document.
    fn check_end(&mut self) -> Result<(), YamlProblem> {
        let mut found = loop {
            match self.next() {
                Ok((Event::DocumentEnd, _)) => {}
                Ok((Event::StreamEnd, _)) => return Ok(()),
                Ok((_, span)) => break problem(span, AFTER_DOCUMENT),
                Err(error) => break error,
            }
        };
        if !self.text.lines().any(|line| line.trim_end() == "...") {
            return Err(found);
        }
        AFTER_END.clone_into(&mut found.message);
        self.warnings.push(found);
        Ok(())
    }
}

const AFTER_DOCUMENT: &str = "text after the document: indent it, or start another document with ---";
const AFTER_END: &str =
    "what follows the end of the document (...) is ignored: start another document with ---";

/// Rejects escapes of JSON that YAML 1.1 does not have.
fn check_escapes(source: &str) -> Result<(), &'static str> {
    let mut rest = source;
    while let Some((_, escape)) = rest.split_once('\\') {
        if escape.starts_with('/') {
            return Err("YAML has no escape \\/: write / alone");
        }
        let code = escape.strip_prefix('u').and_then(|digits| u32::from_str_radix(digits.get(..4)?, 16).ok());
        if code.is_some_and(|code| (0xD800..0xE000).contains(&code)) {
            return Err("YAML has no surrogate pairs: write the character itself, or \\U and eight digits");
        }
        // Skip the character after the backslash, which may be a backslash.
        let mut chars = escape.chars();
        chars.next();
        rest = chars.as_str();
    }
    Ok(())
}

/// Returns the name of a tag that starts with `!!`; empty for another tag.
fn tag_name(tag: Option<&Tag>) -> Option<Cow<'_, str>> {
    tag.map(|tag| tag.suffix_in_namespace(YAML_TAGS).unwrap_or_default())
}

fn is_merge(key: &Event<'_>) -> bool {
    match key {
        Event::Scalar(text, style, _, tag) if text == "<<" => match tag_name(tag.as_deref()).as_deref() {
            None => *style == ScalarStyle::Plain,
            Some(tag) => tag == "merge",
        },
        _ => false,
    }
}

/// Merges a map, or a list of maps of which earlier ones take precedence.
fn merge(members: &mut Map<String, Value>, value: Value) -> Result<(), &'static str> {
    const PROBLEM: &str = "<< merges a map or a list of maps";
    match value {
        Value::Object(merged) => members.extend(merged),
        Value::Array(maps) => {
            for map in maps.into_iter().rev() {
                let Value::Object(merged) = map else { return Err(PROBLEM) };
                members.extend(merged);
            }
        }
        _ => return Err(PROBLEM),
    }
    Ok(())
}

fn problem(span: Span, message: impl Into<String>) -> YamlProblem {
    YamlProblem { line: span.start.line(), column: span.start.col() + 1, message: message.into() }
}

fn of_scan_error(error: &ScanError) -> YamlProblem {
    YamlProblem { line: error.marker().line(), column: error.marker().col() + 1, message: error.info() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Value {
        read_yaml(text).unwrap().value
    }

    #[test]
    fn reads_keys_merges_and_aliases() {
        for (text, value) in [
            ("", json!(null)),
            ("# only a comment\n", json!(null)),
            ("{y: 1, 010: 2, 1.50: 3, on: [no]}", json!({"true": [false], "8": 2, "1.5": 3})),
            ("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}", json!({"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 3}})),
            ("a: &x {p: 1}\nb: {p: 3, <<: *x}", json!({"a": {"p": 1}, "b": {"p": 1}})),
            ("b: {<<: [{p: 1}, {p: 2, q: 2}]}", json!({"b": {"p": 1, "q": 2}})),
            ("'<<': {p: 1}", json!({"<<": {"p": 1}})),
            ("a: &n 010\nb: *n\n*n : c", json!({"a": 8, "b": 8, "8": "c"})),
            ("a: |\n  yes\n\nb: >-\n  x\n  y", json!({"a": "yes\n", "b": "x y"})),
            ("{\"a\":1,\"b\":[\"c\\u00e9\"]}", json!({"a": 1, "b": ["cé"]})),
            ("a: ! 12\nb: !!str 12\nc: !x 12", json!({"a": "12", "b": "12", "c": "12"})),
        ] {
            assert_eq!(read(text), value, "{text}");
        }
    }

    /// `hookstream import` prints manifests, which kubectl must read as they were meant.
    #[test]
    fn reads_what_the_program_writes() {
        for text in [
            "y",
            "N",
            "yes",
            "on",
            "Off",
            "TRUE",
            "010",
            "08",
            "0o17",
            "0x1F",
            "0b-11",
            "1_000",
            "1e1",
            ".5",
            "1.",
            "+5",
            "-",
            "~",
            "null",
            "",
            ".inf",
            "=",
            "<<",
            "2026-11-29",
            "12:30:45",
            "a: b",
            "a #b",
            "{a}",
            "@a",
            "%a",
            "---",
            "...",
            " x",
            "x ",
            "a\n b\n",
            "a\r\nb",
            "\u{1}",
            "\u{85}",
            "é😀",
            "'",
            "\"",
            "\\/",
            "&a",
            "*a",
            "!a",
            "? a",
            "- a",
        ] {
            let value = json!({"value": text, "list": [text], text: 1});
            let yaml = crate::api::to_yaml(&value).unwrap();
            assert_eq!(read(&yaml), value, "{yaml}");
        }
    }

    #[test]
    fn names_the_position_of_a_problem() {
        for (text, line, column) in [
            ("a: 1\nb: [", 2, 5),
            ("a: 1\n? [x]\n: 2", 2, 3),
            ("a: .inf", 1, 4),
            ("~: 1", 1, 1),
            ("a: &x [*x]", 1, 8),
            ("a: *x", 1, 4),
            ("<<: 1", 1, 5),
            ("a: b\u{1}", 1, 5),
            ("a: 1\n%b: 2\n", 2, 1),
            ("a: \"\\\\\\/\"", 1, 4),
            ("a: \"\\ud83d\\ude00\"", 1, 4),
        ] {
            let found = read_yaml(text).unwrap_err();
            assert_eq!(found.line, line, "{text}: {found:?}");
            assert!(column == found.column || text.ends_with('['), "{text}: {found:?}");
        }
    }

    #[test]
    fn warns_of_what_kubectl_ignores() {
        let read = read_yaml("a: 1\nb: 2\na: 3\n").unwrap();
        assert_eq!(read.value, json!({"a": 3, "b": 2}));
        assert_eq!((read.warnings[0].line, read.warnings[0].column), (3, 1));
        let read = read_yaml("a: 1\n...\nb: 2\n").unwrap();
        assert_eq!(read.value, json!({"a": 1}));
        assert!(read.warnings[0].message.contains("ignored"));
        assert!(read_yaml("a: 1\n...\n").unwrap().warnings.is_empty());
    }

    #[test]
    fn rejects_an_explosion_of_aliases() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..9 {
            let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
            text += &format!("a{n}: &a{n} [{aliases}]\n");
        }
        assert!(read_yaml(&text).unwrap_err().message.contains("too many aliases"));
    }
}
