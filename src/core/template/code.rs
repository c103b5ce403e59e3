//! Rejects templates whose Lua uses files or layouts. Checks tokens, so strings and comments may contain any text. The
//! sandbox rejects the same functions at run time.

use super::scan::ScanError;
use super::{Part, slice};

/// The members of `template` that are available.
pub const HELPERS: [&str; 5] = ["escape", "output", "echo", "concat", "json"];

/// Checks the Lua of all parts.
pub fn check(text: &str, parts: &[Part]) -> Result<(), ScanError> {
    for part in parts {
        match part {
            Part::Write { code, .. } | Part::Code(code) => {
                check_code(slice(text, code)).map_err(|(at, problem)| (code.start + at, problem))?;
            }
            Part::Block { parts, .. } => check(text, parts)?,
            Part::Text(_) => {}
        }
    }
    Ok(())
}

fn check_code(code: &str) -> Result<(), ScanError> {
    let one_text = "templates cannot use files and layouts";
    let tokens = tokens(code);
    for (index, &(at, token)) in tokens.iter().enumerate() {
        let token_at = |index: usize| tokens.get(index).map_or("", |(_, token)| *token);
        if index > 0 && matches!(token_at(index - 1), "." | ":") {
            continue;
        }
        let (next, second) = (token_at(index + 1), token_at(index + 2));
        match token {
            "include" if matches!(next, "(" | "{" | STRING) => {
                return Err((at, format!("include is not available: {one_text}")));
            }
            "layout" if next == "=" && second != "=" => {
                return Err((at, format!("layout is not available: {one_text}")));
            }
            "template" if next == "." && !HELPERS.contains(&second) => {
                return Err((
                    at,
                    format!(
                        "template.{second} is not available: {one_text}; use template.escape or template.output"
                    ),
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The token for any string literal.
const STRING: &str = "\"";

/// Splits Lua into names, strings and single characters, with their offsets.
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
            let is_name_char = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let length = rest.find(|c| !is_name_char(c)).filter(|n| *n > 0);
            let length = if is_name_char(first) { length.unwrap_or(rest.len()) } else { first.len_utf8() };
            tokens.push((at, rest.get(..length).unwrap_or_default()));
            at += length;
        }
    }
    tokens
}

/// Returns the length of the quoted string at the start. An unterminated string extends to the end of the text.
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

/// Returns the length of the `[[...]]` or `[==[...]==]` at the start.
fn long_string(text: &str) -> Option<usize> {
    let rest = text.strip_prefix('[')?;
    let level = rest.len() - rest.trim_start_matches('=').len();
    let body = rest.get(level..)?.strip_prefix('[')?;
    let close = format!("]{}]", "=".repeat(level));
    let open = level + 2;
    Some(body.find(&close).map_or(text.len(), |end| open + end + close.len()))
}
