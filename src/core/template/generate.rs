//! Generates the Lua of a template, with a mapping from its lines back to those of the template.

use std::fmt::Write as _;
use std::ops::Range;

use super::{Diagnostic, Part, slice};

/// The generated Lua of a template.
#[derive(Clone, Debug)]
pub struct Generated {
    /// A chunk that returns the rendered text. Its environment contains `template` and the template's variables.
    pub lua: String,
    /// The template's line for each line of the Lua.
    lines: Vec<usize>,
    /// The ranges of the template's own code in the Lua, with their offsets in the template, in order.
    code_ranges: Vec<(Range<usize>, usize)>,
}

impl Generated {
    /// Returns the template's line for a line of the Lua.
    pub fn line(&self, lua: usize) -> usize {
        lua.checked_sub(1).and_then(|at| self.lines.get(at)).or(self.lines.last()).copied().unwrap_or(1)
    }

    /// Translates a diagnostic of the Lua compiler to the template's position.
    pub fn map_diagnostic(&self, text: &str, found: Diagnostic) -> Diagnostic {
        let line_start: usize =
            self.lua.split_inclusive('\n').take(found.line.saturating_sub(1)).map(str::len).sum();
        let in_line = self.lua.get(line_start..).unwrap_or_default();
        let column: usize = in_line.chars().take(found.column.saturating_sub(1)).map(char::len_utf8).sum();
        let offset = line_start + column;
        // A problem behind a piece of code (its end, the next statement) is reported at the end of that code.
        let range = self.code_ranges.iter().rev().find(|(lua, _)| lua.start <= offset);
        let at = range.map_or(0, |(lua, start)| start + (offset.min(lua.end) - lua.start));
        Diagnostic::at(text, at, found.message)
    }
}

/// Generates the Lua of a parsed template.
pub fn generate(text: &str, parts: &[Part]) -> Generated {
    let mut generated = Generated { lua: String::new(), lines: Vec::new(), code_ranges: Vec::new() };
    let writer = &mut Writer { text, generated: &mut generated, line: 1, line_offset: 0, blocks: 0 };
    // Write blocks first, so that they cannot access local variables of the template's own code.
    writer.statement("local ___b={}");
    writer.write_blocks(parts);
    writer.blocks = 0;
    writer.write_body(parts);
    generated
}

struct Writer<'a> {
    text: &'a str,
    generated: &'a mut Generated,
    /// The template's line at `line_offset`.
    line: usize,
    line_offset: usize,
    /// Number of blocks written at the current level.
    blocks: usize,
}

impl Writer<'_> {
    fn write_blocks(&mut self, parts: &[Part]) {
        for part in parts {
            if let Part::Block { parts, .. } = part {
                self.blocks += 1;
                let number = self.blocks;
                self.statement(&format!("___b[{number}]=function() local ___b={{}}"));
                // Nested blocks are numbered separately.
                let outer = std::mem::replace(&mut self.blocks, 0);
                self.write_blocks(parts);
                self.blocks = 0;
                self.write_body(parts);
                self.blocks = outer;
                self.statement("end");
            }
        }
    }

    fn write_body(&mut self, parts: &[Part]) {
        self.statement(
            "local ___,blocks,layout={},blocks or {} \
             local function include() return template.include() end \
             local function echo(...) return template.echo(___,...) end",
        );
        for part in parts {
            match part {
                Part::Text(range) => {
                    let line = self.line_at(range.start);
                    let quoted = quote(slice(self.text, range));
                    self.push(line, &format!("___[#___+1]={quoted};\n"));
                }
                Part::Write { code, escape } => {
                    let function = if *escape { "escape" } else { "output" };
                    self.write_code(&format!("___[#___+1]=template.{function}("), code, ");\n");
                }
                Part::Code(code) => self.write_code("", code, "\n"),
                Part::Block { name, .. } => {
                    self.blocks += 1;
                    let line = self.line_at(name.start);
                    let name = quote(slice(self.text, name));
                    self.push(line, &format!("blocks[{name}]=___b[{}]();\n", self.blocks));
                }
            }
        }
        self.statement("if layout then template.layout() end return template.concat(___)");
    }

    fn write_code(&mut self, before: &str, code: &Range<usize>, after: &str) {
        let line = self.line_at(code.start);
        let start = self.generated.lua.len() + before.len();
        self.generated.code_ranges.push((start..start + code.len(), code.start));
        let whole = format!("{before}{}{after}", slice(self.text, code));
        self.push(line, &whole);
    }

    fn statement(&mut self, lua: &str) {
        let line = self.line;
        self.push(line, &format!("{lua}\n"));
    }

    /// Appends whole lines. The first one maps to the template's `line`, the following ones to the lines after it.
    fn push(&mut self, line: usize, lua: &str) {
        self.generated.lua.push_str(lua);
        self.generated.lines.extend(line..line + lua.matches('\n').count());
    }

    fn line_at(&mut self, offset: usize) -> usize {
        // Blocks are written before the text that precedes them, so the offset may move back.
        if offset < self.line_offset {
            (self.line, self.line_offset) = (1, 0);
        }
        self.line += slice(self.text, &(self.line_offset..offset)).matches('\n').count();
        self.line_offset = offset;
        self.line
    }
}

/// Quotes a text as a Lua string on one line.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '\n' => quoted.push_str("\\n"),
            '"' | '\\' => quoted.extend(['\\', c]),
            // Write all three digits, because the next character may be a digit.
            c if c.is_ascii_control() => drop(write!(quoted, "\\{:03}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
