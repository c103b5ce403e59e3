//! What the Lua of a template may not name: files and layouts. Looked for token by token, so that a string or a comment
//! may say anything. What a script builds at run time is refused there.

use super::scan::Wrong;
use super::{Part, slice};

/// What `template.` has here.
pub const HELPERS: [&str; 5] = ["escape", "output", "echo", "concat", "json"];

pub fn refuse(text: &str, parts: &[Part]) -> Result<(), Wrong> {
    for part in parts {
        match part {
            Part::Write { code, .. } | Part::Code(code) => {
                refuse_code(slice(text, code)).map_err(|(at, why)| (code.start + at, why))?;
            }
            Part::Block { parts, .. } => refuse(text, parts)?,
            Part::Text(_) => {}
        }
    }
    Ok(())
}

fn refuse_code(code: &str) -> Result<(), Wrong> {
    let one_text = "a template here is one text, without files and layouts";
    let tokens = tokens(code);
    for (index, &(at, token)) in tokens.iter().enumerate() {
        let token_at = |index: usize| tokens.get(index).map_or("", |(_, token)| *token);
        if index > 0 && matches!(token_at(index - 1), "." | ":") {
            continue;
        }
        let (after, then) = (token_at(index + 1), token_at(index + 2));
        match token {
            "include" if matches!(after, "(" | "{" | STRING) => {
                return Err((at, format!("include is not available: {one_text}")));
            }
            "layout" if after == "=" && then != "=" => {
                return Err((at, format!("layout is not available: {one_text}")));
            }
            "template" if after == "." && !HELPERS.contains(&then) => {
                return Err((
                    at,
                    format!(
                        "template.{then} is not available: {one_text}; template.escape and template.output are there"
                    ),
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Stands for any string.
const STRING: &str = "\"";

/// Names, strings and single characters, with where they begin.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(rest) = code.get(at..).filter(|rest| !rest.is_empty()) {
        let first = rest.chars().next().unwrap_or_default();
        if first.is_ascii_whitespace() {
            at += 1;
        } else if let Some(comment) = rest.strip_prefix("--") {
            at += 2 + long_string(comment).unwrap_or_else(|| comment.find('\n').unwrap_or(comment.len()));
        } else if let Some(length) = quoted(rest).or_else(|| long_string(rest)) {
            tokens.push((at, STRING));
            at += length;
        } else {
            let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let length = rest.find(|c| !name(c)).filter(|n| *n > 0);
            let length = if name(first) { length.unwrap_or(rest.len()) } else { first.len_utf8() };
            tokens.push((at, rest.get(..length).unwrap_or_default()));
            at += length;
        }
    }
    tokens
}

/// The length of the quoted string at the start, to its end or to where it breaks off.
fn quoted(text: &str) -> Option<usize> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut skip = false;
    for (at, c) in text.char_indices().skip(1) {
        if !std::mem::take(&mut skip) {
            skip = c == '\\';
            if c == quote {
                return Some(at + 1);
            }
        }
    }
    Some(text.len())
}

/// The length of the `[[...]]` or `[==[...]==]` at the start.
fn long_string(text: &str) -> Option<usize> {
    let rest = text.strip_prefix('[')?;
    let level = rest.len() - rest.trim_start_matches('=').len();
    let body = rest.get(level..)?.strip_prefix('[')?;
    let close = format!("]{}]", "=".repeat(level));
    let open = level + 2;
    Some(body.find(&close).map_or(text.len(), |end| open + end + close.len()))
}
