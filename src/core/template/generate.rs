//! The Lua of a template, and the way back from its lines to the template's.

use std::fmt::Write as _;
use std::ops::Range;

use super::{Diagnostic, Part, slice};

/// The Lua of a template.
#[derive(Clone, Debug)]
pub struct Generated {
    /// A chunk that returns the rendered text. Its environment has `template` and what the template may see.
    pub lua: String,
    /// For each line of the Lua, the template's.
    lines: Vec<usize>,
    /// Where the template's own code stands in the Lua, in order.
    marks: Vec<(Range<usize>, usize)>,
}

impl Generated {
    /// The template's line for a line of the Lua.
    pub fn line(&self, lua: usize) -> usize {
        lua.checked_sub(1).and_then(|at| self.lines.get(at)).or(self.lines.last()).copied().unwrap_or(1)
    }

    /// What the compiler found, told of the template.
    pub fn told(&self, text: &str, found: Diagnostic) -> Diagnostic {
        let line_start: usize =
            self.lua.split_inclusive('\n').take(found.line.saturating_sub(1)).map(str::len).sum();
        let in_line = self.lua.get(line_start..).unwrap_or_default();
        let column: usize = in_line.chars().take(found.column.saturating_sub(1)).map(char::len_utf8).sum();
        let offset = line_start + column;
        // What is found after a piece of code (its end, the next statement) is told at the code's end.
        let mark = self.marks.iter().rev().find(|(lua, _)| lua.start <= offset);
        let at = mark.map_or(0, |(lua, start)| start + (offset.min(lua.end) - lua.start));
        Diagnostic::at(text, at, found.message)
    }
}

pub fn generate(text: &str, parts: &[Part]) -> Generated {
    let mut made = Generated { lua: String::new(), lines: Vec::new(), marks: Vec::new() };
    let writer = &mut Writer { text, made: &mut made, line: 1, upto: 0, blocks: 0 };
    // Blocks come first: they see nothing of what the template's own code makes local.
    writer.statement("local ___b={}");
    writer.blocks(parts);
    writer.blocks = 0;
    writer.body(parts);
    made
}

struct Writer<'a> {
    text: &'a str,
    made: &'a mut Generated,
    /// The template's line at the offset `upto`.
    line: usize,
    upto: usize,
    blocks: usize,
}

impl Writer<'_> {
    fn blocks(&mut self, parts: &[Part]) {
        for part in parts {
            if let Part::Block { parts, .. } = part {
                self.blocks += 1;
                let number = self.blocks;
                self.statement(&format!("___b[{number}]=function() local ___b={{}}"));
                // Blocks of the block are its own.
                let outer = std::mem::replace(&mut self.blocks, 0);
                self.blocks(parts);
                self.blocks = 0;
                self.body(parts);
                self.blocks = outer;
                self.statement("end");
            }
        }
    }

    fn body(&mut self, parts: &[Part]) {
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
                    let how = if *escape { "escape" } else { "output" };
                    self.code(&format!("___[#___+1]=template.{how}("), code, ");\n");
                }
                Part::Code(code) => self.code("", code, "\n"),
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

    fn code(&mut self, before: &str, code: &Range<usize>, after: &str) {
        let line = self.line_at(code.start);
        let start = self.made.lua.len() + before.len();
        self.made.marks.push((start..start + code.len(), code.start));
        let whole = format!("{before}{}{after}", slice(self.text, code));
        self.push(line, &whole);
    }

    fn statement(&mut self, lua: &str) {
        let line = self.line;
        self.push(line, &format!("{lua}\n"));
    }

    /// Adds whole lines; the first is the template's `line`, the others follow it.
    fn push(&mut self, line: usize, lua: &str) {
        self.made.lua.push_str(lua);
        self.made.lines.extend(line..line + lua.matches('\n').count());
    }

    fn line_at(&mut self, offset: usize) -> usize {
        // Blocks are written before what stands before them.
        if offset < self.upto {
            (self.line, self.upto) = (1, 0);
        }
        self.line += slice(self.text, &(self.upto..offset)).matches('\n').count();
        self.upto = offset;
        self.line
    }
}

/// A Lua string on one line.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '\n' => quoted.push_str("\\n"),
            '"' | '\\' => quoted.extend(['\\', c]),
            // All three digits: what follows may be one.
            c if c.is_ascii_control() => drop(write!(quoted, "\\{:03}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
