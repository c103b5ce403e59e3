//! Finds the tags of a template by lua-resty-template's rules, including those for blanks and line ends. An incomplete tag
//! is text.

use std::ops::Range;

use super::Part;

/// Maximum nesting of named blocks.
const MAX_DEPTH: usize = 16;

/// The byte offset of a problem, and its message.
pub type ScanError = (usize, String);

/// Splits a template into its parts.
pub fn scan(text: &str) -> Result<Vec<Part>, ScanError> {
    Scanner { text, view: 0..text.len(), depth: 0, missing: [false; 6] }.parts()
}

struct Scanner<'a> {
    text: &'a str,
    /// The scanned range: the whole text, or the inside of a block.
    view: Range<usize>,
    depth: usize,
    /// Closing marks that do not occur in the rest of the text. Without this cache, many unclosed tags would cause
    /// quadratic searching.
    missing: [bool; 6],
}

impl Scanner<'_> {
    fn parts(mut self) -> Result<Vec<Part>, ScanError> {
        let mut parts = Vec::new();
        // Everything before `done` is in `parts`.
        let mut done = self.view.start;
        let mut next = self.find("{", done);
        while let Some(open) = next {
            let mut last = open;
            let inside = open + 2;
            let (escaped, backslashes) = self.escaped(open);
            match self.byte(open + 1) {
                Some(kind @ (b'{' | b'*')) => {
                    let (close, slot) = if kind == b'{' { ("}}", 0) } else { ("*}", 1) };
                    if let Some(end) = self.close(close, slot, inside) {
                        self.text_part(&mut parts, done..open - backslashes);
                        done = open;
                        if !escaped {
                            let code = self.trim(inside..end);
                            parts.push(Part::Write { code, escape: kind == b'{' });
                            (last, done) = (end + 1, end + 2);
                        }
                    }
                }
                Some(b'%') => {
                    if let Some(end) = self.close("%}", 2, inside) {
                        if escaped {
                            self.text_part(&mut parts, done..open - backslashes);
                            done = open;
                        } else {
                            self.text_part(&mut parts, done..self.before_blanks(open));
                            parts.push(Part::Code(self.trim(inside..end)));
                            done = self.after_newline(end + 2);
                            last = done - 1;
                        }
                    }
                }
                Some(kind @ (b'(' | b'[')) => {
                    let (close, slot) = if kind == b'(' { (")}", 3) } else { ("]}", 4) };
                    if self.close(close, slot, inside).is_some() {
                        if !escaped {
                            let tag = if kind == b'(' { "{(file)}" } else { "{[expression]}" };
                            return Err((
                                open,
                                format!(
                                    "{tag} includes a file, which templates cannot do: insert its text, or write \\{} for the literal characters",
                                    if kind == b'(' { "{(" } else { "{[" }
                                ),
                            ));
                        }
                        self.text_part(&mut parts, done..open - backslashes);
                        done = open;
                    }
                }
                Some(b'-') => {
                    if let Some((tag_end, end)) = self.block(open) {
                        if escaped {
                            self.text_part(&mut parts, done..open - backslashes);
                            done = open;
                        } else {
                            let name = self.trim(inside..tag_end - 2);
                            let after = self.after_newline(end + (tag_end - open));
                            if matches!(self.slice(&name), "raw" | "verbatim") {
                                self.text_part(&mut parts, done..open - backslashes);
                                self.text_part(&mut parts, self.after_newline(tag_end).min(end)..end);
                            } else {
                                self.text_part(&mut parts, done..self.before_blanks(open));
                                let parts_of_block = self.inside(open, tag_end..end)?;
                                parts.push(Part::Block { name, parts: parts_of_block });
                            }
                            done = after;
                            last = done - 1;
                        }
                    }
                }
                Some(b'#') => {
                    if let Some(end) = self.close("#}", 5, inside) {
                        self.text_part(&mut parts, done..open - backslashes);
                        done = open;
                        if !escaped {
                            done = self.after_newline(end + 2);
                            last = done - 1;
                        }
                    }
                }
                _ => {}
            }
            next = self.find("{", last + 1);
        }
        self.text_part(&mut parts, done..self.view.end);
        Ok(parts)
    }

    /// Returns the end of the opening `{-name-}` and the start of the closing one.
    fn block(&self, open: usize) -> Option<(usize, usize)> {
        let tag_end = self.find("-}", open + 2)? + 2;
        let end = self.find(self.slice(&(open..tag_end)), tag_end)?;
        Some((tag_end, end))
    }

    /// Scans the inside of a named block like a separate template, without the line ends next to its tags.
    fn inside(&self, open: usize, body: Range<usize>) -> Result<Vec<Part>, ScanError> {
        if self.depth == MAX_DEPTH {
            return Err((open, format!("blocks are nested deeper than {MAX_DEPTH} levels")));
        }
        let end = if self.slice(&body).ends_with('\n') { body.end - 1 } else { body.end };
        let view = self.after_newline(body.start).min(end)..end;
        Scanner { text: self.text, view, depth: self.depth + 1, missing: [false; 6] }.parts()
    }

    /// Returns whether the tag at `open` is escaped, and how many backslashes to remove. One backslash makes the tag text;
    /// two stand for one backslash.
    fn escaped(&self, open: usize) -> (bool, usize) {
        let is_backslash = |back: usize| {
            open.checked_sub(back).filter(|at| *at >= self.view.start).and_then(|at| self.byte(at))
                == Some(b'\\')
        };
        match (is_backslash(1), is_backslash(2)) {
            (true, true) => (false, 1),
            (true, false) => (true, 1),
            (false, _) => (false, 0),
        }
    }

    /// Returns the start of the blanks before a tag.
    fn before_blanks(&self, open: usize) -> usize {
        let before = self.slice(&(self.view.start..open));
        self.view.start + before.trim_end_matches([' ', '\t', '\x0b', '\0']).len()
    }

    fn after_newline(&self, at: usize) -> usize {
        if self.byte(at) == Some(b'\n') { at + 1 } else { at }
    }

    /// Finds a closing mark. `slot` is its index in `missing`.
    fn close(&mut self, mark: &str, slot: usize, from: usize) -> Option<usize> {
        let missing = self.missing.get(slot).copied().unwrap_or_default();
        let found = if missing { None } else { self.find(mark, from) };
        if let Some(slot) = self.missing.get_mut(slot) {
            *slot = found.is_none();
        }
        found
    }

    fn find(&self, what: &str, from: usize) -> Option<usize> {
        Some(from + self.text.get(from..self.view.end)?.find(what)?)
    }

    fn byte(&self, at: usize) -> Option<u8> {
        if at < self.view.end { self.text.as_bytes().get(at).copied() } else { None }
    }

    fn slice(&self, range: &Range<usize>) -> &str {
        super::slice(self.text, range)
    }

    fn trim(&self, range: Range<usize>) -> Range<usize> {
        let blank = |c: char| c.is_ascii_whitespace() || c == '\x0b';
        let code = self.slice(&range);
        let start = range.start + (code.len() - code.trim_start_matches(blank).len());
        start..start + code.trim_matches(blank).len()
    }

    fn text_part(&self, parts: &mut Vec<Part>, range: Range<usize>) {
        if range.start < range.end {
            parts.push(Part::Text(range));
        }
    }
}
