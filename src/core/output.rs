//! Bounds what is rendered from an event: bytes, and time.
//!
//! An `OutputBudget` belongs to one attempt and is shared by everything that the attempt renders: headers, body and
//! payload. Text is encoded (for JSON or a form) while it is appended, so an attempt holds its output once and in its
//! final form, and encoding counts like any other output.
//!
//! Invariants: bytes are counted before they are appended, so no output is longer than its budget, not even for a
//! moment; a rendering does a bounded amount of work between two checks of the deadline.
//!
//! Out of scope: which texts to render (`core::hook`, `core::template`), the clock behind the deadline (the caller).

use serde_json::Value;
use url::form_urlencoded::byte_serialize;

use super::json_string::{escape_json, write_json_string};

/// The most bytes that one attempt renders: headers, body and payload together. The sandbox uses it for the texts of one
/// invocation.
pub const MAX_OUTPUT: usize = 4 << 20;

/// The output that the dispatcher counts for each attempt, besides as many bytes as the event has. A larger output needs
/// memory of its own.
pub const COUNTED_OUTPUT: usize = 4 << 10;

/// The work between two checks of the deadline, in bytes of output.
const CHECK_INTERVAL: usize = 64 << 10;
/// The work that one append or one skipped value costs besides its bytes.
const STEP_WORK: usize = 16;

/// Why rendering ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    #[error("the output exceeds {} MiB", MAX_OUTPUT >> 20)]
    TooLarge,
    #[error("rendering did not end within the timeout")]
    Late,
}

/// The bytes and the time that an attempt may still use for rendering.
pub struct OutputBudget<'a> {
    remaining: usize,
    /// Work until the next check of the deadline.
    until_check: usize,
    is_late: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> OutputBudget<'a> {
    /// Creates a budget of `limit` bytes. `is_late` returns true when the time is up; it is called about once for each
    /// 64 KiB of output.
    pub fn new(limit: usize, is_late: &'a (dyn Fn() -> bool + Sync)) -> Self {
        OutputBudget { remaining: limit, until_check: CHECK_INTERVAL, is_late }
    }

    /// Returns the bytes that may still be rendered.
    pub fn remaining(&self) -> usize {
        self.remaining
    }

    /// Uses bytes of the budget. Fails if fewer remain, or if the time is up.
    pub fn take(&mut self, bytes: usize) -> Result<(), OutputError> {
        self.remaining = self.remaining.checked_sub(bytes).ok_or(OutputError::TooLarge)?;
        let work = bytes.saturating_add(STEP_WORK);
        if work < self.until_check {
            self.until_check -= work;
            return Ok(());
        }
        self.until_check = CHECK_INTERVAL;
        if (self.is_late)() { Err(OutputError::Late) } else { Ok(()) }
    }

    /// Counts a value that was examined and produced no output. It costs one byte: otherwise a template could examine a
    /// large event any number of times within the budget.
    pub fn skip(&mut self) -> Result<(), OutputError> {
        self.take(1)
    }
}

/// How text is encoded while it is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Plain,
    /// The inside of a JSON string.
    Json,
    /// A name or value of `application/x-www-form-urlencoded`.
    Form,
}

/// A text that is rendered within a budget.
pub struct Output<'b, 'a> {
    text: String,
    encoding: Encoding,
    budget: &'b mut OutputBudget<'a>,
}

impl<'b, 'a> Output<'b, 'a> {
    /// Creates an empty text. `expected`: its probable length, for which memory is reserved.
    pub fn new(budget: &'b mut OutputBudget<'a>, expected: usize) -> Self {
        let text = String::with_capacity(expected.min(budget.remaining));
        Output { text, encoding: Encoding::Plain, budget }
    }

    /// Returns the rendered text.
    pub fn into_text(self) -> String {
        self.text
    }

    /// Sets the encoding of the text that follows.
    pub fn set_encoding(&mut self, encoding: Encoding) {
        self.encoding = encoding;
    }

    /// Appends a text in the current encoding.
    pub fn push(&mut self, text: &str) -> Result<(), OutputError> {
        match self.encoding {
            Encoding::Plain => self.append(text),
            Encoding::Json => escape_json(text, &mut |piece| self.append(piece)),
            Encoding::Form => byte_serialize(text.as_bytes()).try_for_each(|piece| self.append(piece)),
        }
    }

    /// Appends a text that the caller no longer needs. Takes its memory over instead of copying it where that is possible.
    pub fn push_owned(&mut self, text: String) -> Result<(), OutputError> {
        if self.encoding == Encoding::Plain && self.text.is_empty() {
            self.budget.take(text.len())?;
            self.text = text;
            return Ok(());
        }
        self.push(&text)
    }

    /// Appends a text, escaped for HTML.
    pub fn push_html(&mut self, text: &str) -> Result<(), OutputError> {
        for (plain, special) in split_at_special(text, |byte| html_entity(byte).is_some()) {
            self.push(plain)?;
            if let Some(entity) = special.and_then(html_entity) {
                self.push(entity)?;
            }
        }
        Ok(())
    }

    /// Appends a string as JSON, with its quotes, in the current encoding.
    pub fn push_json_string(&mut self, text: &str) -> Result<(), OutputError> {
        write_json_string(text, |piece| self.push(piece))
    }

    /// Appends null, a boolean or a number as JSON, in the current encoding. Lists, maps and strings have functions of
    /// their own, because their callers render their contents; here they are serialized as they are.
    pub fn push_scalar(&mut self, value: &Value) -> Result<(), OutputError> {
        match value {
            Value::Null => self.push("null"),
            Value::Bool(true) => self.push("true"),
            Value::Bool(false) => self.push("false"),
            Value::String(text) => self.push_json_string(text),
            other => self.push(&other.to_string()),
        }
    }

    /// Counts a value that produced no output. See [`OutputBudget::skip`].
    pub fn skip(&mut self) -> Result<(), OutputError> {
        self.budget.skip()
    }

    /// Counts a text, then appends it. Never allocates more than the budget allows, although the memory doubles when it
    /// grows.
    fn append(&mut self, text: &str) -> Result<(), OutputError> {
        self.budget.take(text.len())?;
        let needed = self.text.len() + text.len();
        if needed > self.text.capacity() {
            let doubled = (self.text.capacity() * 2).max(64);
            let capacity = doubled.min(needed + self.budget.remaining).max(needed);
            self.text.reserve_exact(capacity - self.text.len());
        }
        self.text.push_str(text);
        Ok(())
    }
}

/// Splits a text behind each ASCII byte that is special. Yields the text before that byte, and the byte.
fn split_at_special(text: &str, is_special: impl Fn(u8) -> bool) -> impl Iterator<Item = (&str, Option<u8>)> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let at = text.bytes().position(|byte| byte.is_ascii() && is_special(byte));
        match at {
            Some(at) => {
                rest = text.get(at + 1..);
                Some((text.get(..at).unwrap_or_default(), text.as_bytes().get(at).copied()))
            }
            None => {
                rest = None;
                Some((text, None))
            }
        }
    })
}

fn html_entity(byte: u8) -> Option<&'static str> {
    Some(match byte {
        b'&' => "&amp;",
        b'<' => "&lt;",
        b'>' => "&gt;",
        b'"' => "&quot;",
        b'\'' => "&#39;",
        b'/' => "&#47;",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;

    const IN_TIME: &(dyn Fn() -> bool + Sync) = &|| false;

    fn render(encoding: Encoding, text: &str) -> String {
        let mut budget = OutputBudget::new(MAX_OUTPUT, IN_TIME);
        let mut out = Output::new(&mut budget, 0);
        out.set_encoding(encoding);
        out.push(text).unwrap();
        out.into_text()
    }

    #[test]
    fn stops_before_the_budget_is_exceeded() {
        let mut budget = OutputBudget::new(10, IN_TIME);
        let mut out = Output::new(&mut budget, 0);
        out.push("12345678").unwrap();
        assert_eq!(out.push(&"x".repeat(1 << 20)), Err(OutputError::TooLarge));
        assert_eq!(out.text.len(), 8);
        assert!(out.text.capacity() <= 64, "{}", out.text.capacity());
        out.set_encoding(Encoding::Json);
        assert_eq!(out.push("\n\n"), Err(OutputError::TooLarge), "escaping counts");
    }

    #[test]
    fn a_budget_is_shared_by_all_texts() {
        let mut budget = OutputBudget::new(10, IN_TIME);
        Output::new(&mut budget, 0).push("123456").unwrap();
        assert_eq!(budget.remaining(), 4);
        assert_eq!(Output::new(&mut budget, 0).push_owned("12345".into()), Err(OutputError::TooLarge));
    }

    #[test]
    fn memory_never_exceeds_the_budget() {
        let mut budget = OutputBudget::new(1000, IN_TIME);
        let mut out = Output::new(&mut budget, 0);
        while out.push("0123456").is_ok() {
            assert!(out.text.capacity() <= 1000, "{}", out.text.capacity());
        }
        assert_eq!(out.text.len(), 994);
    }

    #[test]
    fn checks_the_deadline_periodically() {
        let checks = AtomicUsize::new(0);
        let is_late = || checks.fetch_add(1, Ordering::Relaxed) == 2;
        let mut budget = OutputBudget::new(MAX_OUTPUT, &is_late);
        let mut out = Output::new(&mut budget, 0);
        let mut steps = 0;
        let error = loop {
            steps += 1;
            if let Err(error) = out.skip() {
                break error;
            }
        };
        assert_eq!((error, checks.into_inner()), (OutputError::Late, 3));
        assert!(steps < 3 * CHECK_INTERVAL / STEP_WORK, "{steps} values without output");
    }

    #[test]
    fn takes_memory_over_without_a_copy() {
        let text = "x".repeat(1000);
        let at = text.as_ptr();
        let mut budget = OutputBudget::new(MAX_OUTPUT, IN_TIME);
        let mut out = Output::new(&mut budget, 0);
        out.push_owned(text).unwrap();
        let taken = out.into_text();
        assert_eq!(taken.as_ptr(), at);
        assert_eq!(budget.remaining(), MAX_OUTPUT - 1000);
    }

    proptest! {
        #[test]
        fn encodes_json_like_serde(text in "[\\x00-\\x7f]{0,40}|\\PC{0,20}") {
            let expected = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(format!("\"{}\"", render(Encoding::Json, &text)), expected.clone());
            let mut budget = OutputBudget::new(MAX_OUTPUT, IN_TIME);
            let mut out = Output::new(&mut budget, 0);
            out.push_json_string(&text).unwrap();
            prop_assert_eq!(out.into_text(), expected);
        }

        #[test]
        fn encodes_forms_like_the_url_crate(text in "[\\x00-\\x7f]{0,40}|\\PC{0,20}") {
            let expected: String = byte_serialize(text.as_bytes()).collect();
            prop_assert_eq!(render(Encoding::Form, &text), expected);
        }
    }
}
