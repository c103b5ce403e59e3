//! Templates: lua-resty-template's language, less files and layouts.
//!
//! Purpose: reads a template, says what is wrong with it by line and column, and turns it into Lua for the sandbox, or
//! renders it here where it only substitutes fields.
//!
//! Invariants: no Lua runs here; reading never fails on foreign bytes but by a [`Diagnostic`]; what is rendered here is
//! byte for byte what the sandbox would render.
//!
//! Left to others: running the Lua (`sandbox`), what the text is for (`worker::handlers`).

mod code;
mod fields;
mod generate;
mod scan;
#[cfg(test)]
mod tests;

use std::ops::Range;

use serde_json::{Map, Value};

pub use super::lua::Diagnostic;
pub use fields::escape_into;
pub use generate::Generated;

/// The longest template in bytes.
const MAX_BYTES: usize = 256 << 10;

/// A template that was read.
#[derive(Clone, Debug)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
    /// Where it substitutes fields and does nothing else: how.
    fields: Option<Vec<fields::Piece>>,
}

/// A part of a template; ranges are byte offsets into its text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Range<usize>),
    /// An expression whose value is written.
    Write {
        code: Range<usize>,
        escape: bool,
    },
    Code(Range<usize>),
    /// `{-name-}...{-name-}`.
    Block {
        name: Range<usize>,
        parts: Vec<Part>,
    },
}

/// A `{{ }}` of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Escaped<'a> {
    pub line: usize,
    pub column: usize,
    pub code: &'a str,
}

impl Template {
    /// Reads a template. Its Lua is looked at for what no template may use, but not compiled: see [`Template::check`].
    pub fn parse(text: &str) -> Result<Template, Diagnostic> {
        if text.len() > MAX_BYTES {
            return Err(Diagnostic {
                line: 1,
                column: 1,
                message: format!("the template has {} bytes, and may have {MAX_BYTES}", text.len()),
            });
        }
        let refused = |(offset, message): (usize, String)| Diagnostic::at(text, offset, message);
        let parts = scan::scan(text).map_err(refused)?;
        code::refuse(text, &parts).map_err(refused)?;
        let fields = fields::pieces(text, &parts);
        Ok(Template { text: text.to_owned(), parts, fields })
    }

    /// Reads a template and compiles its Lua, without running it.
    pub fn check(text: &str) -> Result<Template, Diagnostic> {
        let template = Template::parse(text)?;
        if !template.only_fields() {
            let generated = template.generate();
            super::lua::check(&generated.lua).map_err(|found| generated.told(text, found))?;
        }
        Ok(template)
    }

    /// True where it substitutes dotted fields (`{{ a.b }}`, `{* a.b *}`, `{* json(a.b) *}`) and does nothing else:
    /// [`Template::render_fields`] renders it, and no Lua is needed.
    pub fn only_fields(&self) -> bool {
        self.fields.is_some()
    }

    /// Renders a template that is [`Template::only_fields`]; `context`: see [`context`]. As in Lua, a field of what is
    /// not there is an error. Another template is refused.
    pub fn render_fields(&self, context: &Value) -> Result<String, Diagnostic> {
        let told = |(offset, message): (usize, String)| Diagnostic::at(&self.text, offset, message);
        match &self.fields {
            Some(pieces) => fields::render(&self.text, pieces, context).map_err(told),
            None => Err(told((0, "this template needs Lua".into()))),
        }
    }

    /// Its Lua: a chunk that returns the rendered text, and which of its lines is which of the template's.
    pub fn generate(&self) -> Generated {
        generate::generate(&self.text, &self.parts)
    }

    /// Its `{{ }}`, which escape for HTML and so are rarely right in JSON.
    pub fn escaped(&self) -> Vec<Escaped<'_>> {
        fn walk<'a>(text: &'a str, parts: &[Part], found: &mut Vec<Escaped<'a>>) {
            for part in parts {
                match part {
                    Part::Write { code, escape: true } => {
                        let Diagnostic { line, column, .. } = Diagnostic::at(text, code.start, String::new());
                        found.push(Escaped { line, column, code: slice(text, code) });
                    }
                    Part::Block { parts, .. } => walk(text, parts, found),
                    Part::Text(_) | Part::Write { .. } | Part::Code(_) => {}
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.text, &self.parts, &mut found);
        found
    }
}

/// What templates see of an event: the members of `data` (data that is no object under `data`), `source` and `event`.
pub fn context(data: &Value, source: &str, event: &str) -> Value {
    let mut members = match data {
        Value::Object(members) => members.clone(),
        other => Map::from_iter([("data".to_owned(), other.clone())]),
    };
    members.insert("source".into(), source.into());
    members.insert("event".into(), event.into());
    Value::Object(members)
}

/// A part of the text. Ranges come from looking for ASCII, so that they never cut a character.
fn slice<'a>(text: &'a str, range: &Range<usize>) -> &'a str {
    text.get(range.clone()).unwrap_or_default()
}
