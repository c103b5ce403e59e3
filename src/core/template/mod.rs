//! Templates in the language of lua-resty-template, without files and layouts.
//!
//! Parses a template, reports problems with line and column, and generates Lua for the sandbox. Templates that only
//! substitute fields are rendered here.
//!
//! Invariants: no Lua runs here; parsing untrusted text either succeeds or returns a [`Diagnostic`]; rendering here gives
//! the same bytes as rendering in the sandbox, except that numbers keep the text that the event's sender wrote, which Lua
//! does not have.
//!
//! Out of scope: running the Lua (`sandbox`), using the rendered text (`worker::handlers`).

mod code;
mod fields;
mod generate;
mod scan;
#[cfg(test)]
mod tests;

use std::ops::Range;

use super::event::data::{Data, Object};
pub use super::lua::Diagnostic;
use super::output::{MAX_OUTPUT, Output, OutputBudget, OutputError};
use fields::FieldError;
pub use generate::Generated;

/// Maximum length of a template in bytes.
const MAX_BYTES: usize = 256 << 10;

/// A parsed template.
#[derive(Clone, Debug)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
    /// The pieces of a template that only substitutes fields.
    fields: Option<Vec<fields::Piece>>,
}

/// A part of a template. Ranges are byte offsets into its text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Range<usize>),
    /// An expression whose value is inserted.
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

/// Why a template could not be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    #[error(transparent)]
    Template(#[from] Diagnostic),
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// A `{{ }}` tag of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EscapedTag<'a> {
    pub line: usize,
    pub column: usize,
    pub code: &'a str,
}

/// The beginning of a tag whose end is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnclosedTag {
    pub line: usize,
    pub column: usize,
    pub open: &'static str,
    pub close: &'static str,
}

impl Template {
    /// Parses a template. Rejects Lua that templates may not use, but does not compile it: see [`Template::check`].
    pub fn parse(text: &str) -> Result<Template, Diagnostic> {
        if text.len() > MAX_BYTES {
            return Err(Diagnostic {
                line: 1,
                column: 1,
                message: format!("the template has {} bytes, the limit is {MAX_BYTES}", text.len()),
            });
        }
        let diagnostic = |(offset, message): (usize, String)| Diagnostic::at(text, offset, message);
        let parts = scan::scan(text).map_err(diagnostic)?;
        code::check(text, &parts).map_err(diagnostic)?;
        let fields = fields::pieces(text, &parts);
        Ok(Template { text: text.to_owned(), parts, fields })
    }

    /// Parses a template and compiles its Lua, without running it.
    pub fn check(text: &str) -> Result<Template, Diagnostic> {
        let template = Template::parse(text)?;
        if !template.only_fields() {
            let generated = template.generate();
            super::lua::check(&generated.lua).map_err(|found| generated.map_diagnostic(text, found))?;
        }
        Ok(template)
    }

    /// Returns true if the template only substitutes dotted fields (`{{ a.b }}`, `{* a.b *}`, `{* json(a.b) *}`).
    /// [`Template::render_fields`] renders such a template without Lua.
    pub fn only_fields(&self) -> bool {
        self.fields.is_some()
    }

    /// Appends the rendered text of a template for which [`Template::only_fields`] is true; for `context` see [`context`].
    /// As in Lua, accessing a field of nil is an error. Returns an error for other templates.
    pub fn render_fields_into(
        &self,
        context: &Data<'_>,
        out: &mut Output<'_, '_>,
    ) -> Result<(), RenderError> {
        let diagnostic = |at: usize, message: String| Diagnostic::at(&self.text, at, message);
        match &self.fields {
            Some(pieces) => fields::render(&self.text, pieces, context, out).map_err(|error| match error {
                FieldError::Lua(at, message) => diagnostic(at, message).into(),
                FieldError::Output(error) => error.into(),
            }),
            None => Err(diagnostic(0, "this template needs Lua".into()).into()),
        }
    }

    /// Renders a template like [`Template::render_fields_into`], up to [`MAX_OUTPUT`] bytes.
    pub fn render_fields(&self, context: &Data<'_>) -> Result<String, RenderError> {
        let mut budget = OutputBudget::new(MAX_OUTPUT, &|| false);
        let mut out = Output::new(&mut budget, self.text.len());
        self.render_fields_into(context, &mut out)?;
        Ok(out.into_text())
    }

    /// Returns the length of the template in bytes.
    pub fn source_len(&self) -> usize {
        self.text.len()
    }

    /// Returns how many fields [`Template::render_fields`] inserts.
    pub fn field_count(&self) -> usize {
        let is_field = |piece: &&fields::Piece| matches!(piece, fields::Piece::Field { .. });
        self.fields.iter().flatten().filter(is_field).count()
    }

    /// Generates a Lua chunk that returns the rendered text, with a mapping from its lines to those of the template.
    pub fn generate(&self) -> Generated {
        generate::generate(&self.text, &self.parts)
    }

    /// Returns the first tag of each kind that is text because its end is missing.
    pub fn unclosed_tags(&self) -> Vec<UnclosedTag> {
        fn texts<'p>(parts: &'p [Part], found: &mut Vec<&'p Range<usize>>) {
            for part in parts {
                match part {
                    Part::Text(range) => found.push(range),
                    Part::Block { parts, .. } => texts(parts, found),
                    Part::Write { .. } | Part::Code(_) => {}
                }
            }
        }
        let mut ranges = Vec::new();
        texts(&self.parts, &mut ranges);
        let first_unclosed = |(open, close): (&'static str, &'static str)| {
            let last_close = self.text.rfind(close);
            let offsets = ranges.iter().flat_map(|range| {
                slice(&self.text, range).match_indices(open).map(|(at, _)| range.start + at)
            });
            let is_escaped = |at: usize| self.text.get(..at).is_some_and(|before| before.ends_with('\\'));
            let at = offsets
                .filter(|at| !is_escaped(*at))
                .find(|at| last_close.is_none_or(|close| close < *at))?;
            let Diagnostic { line, column, .. } = Diagnostic::at(&self.text, at, String::new());
            Some(UnclosedTag { line, column, open, close })
        };
        [("{{", "}}"), ("{*", "*}"), ("{%", "%}")].into_iter().filter_map(first_unclosed).collect()
    }

    /// Returns the `{{ }}` tags. They escape for HTML, which is rarely correct in JSON.
    pub fn html_escaped_tags(&self) -> Vec<EscapedTag<'_>> {
        fn walk<'a>(text: &'a str, parts: &[Part], found: &mut Vec<EscapedTag<'a>>) {
            for part in parts {
                match part {
                    Part::Write { code, escape: true } => {
                        let Diagnostic { line, column, .. } = Diagnostic::at(text, code.start, String::new());
                        found.push(EscapedTag { line, column, code: slice(text, code) });
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

/// Returns the variables of a template: the members of `data` (or `data` itself, if it is not an object), `source` and
/// `event`.
pub fn context<'d>(data: Data<'d>, source: &str, event: &str) -> Data<'d> {
    let mut members = match data {
        Data::Object(members) => members,
        other => Object::new(vec![("data".into(), other)]),
    };
    members.insert("source", Data::Text(source.to_owned().into()));
    members.insert("event", Data::Text(event.to_owned().into()));
    Data::Object(members)
}

/// Returns a part of the text. Ranges are found by searching for ASCII, so they never split a character.
fn slice<'a>(text: &'a str, range: &Range<usize>) -> &'a str {
    text.get(range.clone()).unwrap_or_default()
}
