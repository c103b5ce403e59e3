//! Reads JSON text and hands its values to a [`Build`].
//!
//! The only reader of event data: filters, gates, templates and Lua build their values with it, so none of them rejects a
//! text that another one accepts. It accepts every JSON text up to a nesting depth: numbers of any size, which stay text,
//! and half of a surrogate pair, which reads as U+FFFD.

use std::borrow::Cow;

use crate::core::json_string::plain_prefix;

/// Receives the values of a JSON text, inner values first.
pub trait Build<'t> {
    type Value;
    type List;
    type Object;
    type Name;
    type Error: From<UnreadableData>;

    fn null(&mut self) -> Result<Self::Value, Self::Error>;
    fn boolean(&mut self, value: bool) -> Result<Self::Value, Self::Error>;
    /// `text` is a number in JSON's notation.
    fn number(&mut self, text: &'t str) -> Result<Self::Value, Self::Error>;
    fn text(&mut self, text: EscapedText<'t>) -> Result<Self::Value, Self::Error>;
    fn start_list(&mut self) -> Result<Self::List, Self::Error>;
    fn add_item(&mut self, list: &mut Self::List, item: Self::Value) -> Result<(), Self::Error>;
    fn end_list(&mut self, list: Self::List) -> Result<Self::Value, Self::Error>;
    fn start_object(&mut self) -> Result<Self::Object, Self::Error>;
    /// Called before the member's value is read.
    fn name(&mut self, object: &mut Self::Object, name: EscapedText<'t>) -> Result<Self::Name, Self::Error>;
    fn add_member(
        &mut self,
        object: &mut Self::Object,
        name: Self::Name,
        value: Self::Value,
    ) -> Result<(), Self::Error>;
    fn end_object(&mut self, object: Self::Object) -> Result<Self::Value, Self::Error>;
}

/// Why a text cannot be read, and at which byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at byte {at}")]
pub struct UnreadableData {
    pub problem: ReadProblem,
    pub at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadProblem {
    #[error("the text ends too early")]
    End,
    #[error("an unexpected character")]
    Unexpected,
    #[error("text after the value")]
    Trailing,
    #[error("a control character in a string")]
    ControlCharacter,
    #[error("an invalid escape")]
    Escape,
    #[error("an invalid number")]
    Number,
    #[error("invalid UTF-8")]
    Utf8,
    #[error("too many levels of nesting")]
    TooDeep,
}

/// The text of a JSON string as written, without its quotes. Its escapes are valid.
#[derive(Clone, Copy, Debug)]
pub struct EscapedText<'t> {
    text: &'t str,
    has_escapes: bool,
}

impl<'t> EscapedText<'t> {
    /// Returns the text of a JSON string that a parser has validated. `json` includes the quotes.
    pub fn of_valid(json: &'t str) -> Self {
        let text = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(json);
        EscapedText { text, has_escapes: text.contains('\\') }
    }

    /// Decodes the escapes. Half of a surrogate pair becomes U+FFFD, as invalid UTF-8 does in other readers.
    pub fn decode(self) -> Cow<'t, str> {
        let escaped = Some(self.text).filter(|_| self.has_escapes).and_then(|text| text.split_once('\\'));
        let Some((plain, mut rest)) = escaped else { return Cow::Borrowed(self.text) };
        let mut out = String::with_capacity(self.text.len());
        out.push_str(plain);
        loop {
            let mut after = rest.chars();
            match after.next() {
                Some('b') => out.push('\u{8}'),
                Some('f') => out.push('\u{c}'),
                Some('n') => out.push('\n'),
                Some('r') => out.push('\r'),
                Some('t') => out.push('\t'),
                Some('u') => {
                    let (character, remaining) = decode_unicode(after.as_str());
                    out.push(character);
                    after = remaining.chars();
                }
                Some(same) => out.push(same),
                None => {}
            }
            let Some((plain, next)) = after.as_str().split_once('\\') else {
                out.push_str(after.as_str());
                return Cow::Owned(out);
            };
            out.push_str(plain);
            rest = next;
        }
    }
}

/// Decodes the digits after `\u`, with the second half of a surrogate pair if it follows. Returns the rest of the text.
fn decode_unicode(text: &str) -> (char, &str) {
    let unit = |text: &str| u32::from_str_radix(text.get(..4)?, 16).ok();
    let (first, rest) = (unit(text), text.get(4..).unwrap_or(""));
    let Some(first) = first else { return (char::REPLACEMENT_CHARACTER, rest) };
    if let 0xD800..0xDC00 = first
        && let Some(escaped) = rest.strip_prefix("\\u")
        && let Some(second @ 0xDC00..0xE000) = unit(escaped)
    {
        let pair = char::from_u32(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00));
        return (pair.unwrap_or(char::REPLACEMENT_CHARACTER), escaped.get(4..).unwrap_or(""));
    }
    (char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), rest)
}

/// Reads a JSON text that nests at most `max_depth` levels.
pub fn read<'t, B: Build<'t>>(text: &'t str, max_depth: usize, build: &mut B) -> Result<B::Value, B::Error> {
    let mut reader = Reader { text, at: 0, levels_left: max_depth };
    let value = reader.value(build)?;
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(reader.error(ReadProblem::Trailing).into()),
    }
}

struct Reader<'t> {
    text: &'t str,
    /// The offset of the next byte.
    at: usize,
    levels_left: usize,
}

impl<'t> Reader<'t> {
    fn error(&self, problem: ReadProblem) -> UnreadableData {
        let ended = self.at >= self.text.len() && problem != ReadProblem::TooDeep;
        UnreadableData { problem: if ended { ReadProblem::End } else { problem }, at: self.at }
    }

    fn rest(&self) -> &'t [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    /// Returns the next byte that is not blank.
    fn peek(&mut self) -> Option<u8> {
        // One comparison for the usual case: the reader calls this several times for each member.
        loop {
            match self.text.as_bytes().get(self.at) {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                other => return other.copied(),
            }
        }
    }

    fn value<B: Build<'t>>(&mut self, build: &mut B) -> Result<B::Value, B::Error> {
        match self.peek() {
            Some(b'"') => build.text(self.string()?),
            Some(b'{') => self.nested(|reader| reader.object(build)),
            Some(b'[') => self.nested(|reader| reader.list(build)),
            Some(b'-' | b'0'..=b'9') => build.number(self.number()?),
            Some(b'n') => self.keyword("null").map_err(B::Error::from).and_then(|()| build.null()),
            Some(b't') => self.keyword("true").map_err(B::Error::from).and_then(|()| build.boolean(true)),
            Some(b'f') => self.keyword("false").map_err(B::Error::from).and_then(|()| build.boolean(false)),
            _ => Err(self.error(ReadProblem::Unexpected).into()),
        }
    }

    /// Reads a list or an object. The recursion is bounded by the number of levels.
    fn nested<T, E: From<UnreadableData>>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let levels = self.levels_left.checked_sub(1);
        self.levels_left = levels.ok_or_else(|| self.error(ReadProblem::TooDeep))?;
        self.at += 1;
        let value = read(self)?;
        self.levels_left += 1;
        Ok(value)
    }

    fn list<B: Build<'t>>(&mut self, build: &mut B) -> Result<B::Value, B::Error> {
        let mut list = build.start_list()?;
        if self.peek() == Some(b']') {
            self.at += 1;
            return build.end_list(list);
        }
        loop {
            let item = self.value(build)?;
            build.add_item(&mut list, item)?;
            if self.is_last(b']')? {
                return build.end_list(list);
            }
        }
    }

    fn object<B: Build<'t>>(&mut self, build: &mut B) -> Result<B::Value, B::Error> {
        let mut object = build.start_object()?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return build.end_object(object);
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.error(ReadProblem::Unexpected).into());
            }
            let name = build.name(&mut object, self.string()?)?;
            if self.peek() != Some(b':') {
                return Err(self.error(ReadProblem::Unexpected).into());
            }
            self.at += 1;
            let value = self.value(build)?;
            build.add_member(&mut object, name, value)?;
            if self.is_last(b'}')? {
                return build.end_object(object);
            }
        }
    }

    /// Skips a comma, or the end of a list or an object, which is `end`. True: the end.
    fn is_last(&mut self, end: u8) -> Result<bool, UnreadableData> {
        let next = self.peek();
        if next != Some(b',') && next != Some(end) {
            return Err(self.error(ReadProblem::Unexpected));
        }
        self.at += 1;
        Ok(next == Some(end))
    }

    fn keyword(&mut self, word: &str) -> Result<(), UnreadableData> {
        if !self.rest().starts_with(word.as_bytes()) {
            return Err(self.error(ReadProblem::Unexpected));
        }
        self.at += word.len();
        Ok(())
    }

    fn slice(&self, start: usize, end: usize) -> &'t str {
        // Both are offsets of ASCII characters, so they never split a character.
        self.text.get(start..end).unwrap_or_default()
    }

    fn string(&mut self) -> Result<EscapedText<'t>, UnreadableData> {
        let start = self.at + 1;
        self.at = start;
        let mut has_escapes = false;
        loop {
            self.at += plain_prefix(self.rest());
            match self.rest() {
                [b'"', ..] => {
                    let text = self.slice(start, self.at);
                    self.at += 1;
                    return Ok(EscapedText { text, has_escapes });
                }
                [b'\\', b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => self.at += 2,
                [b'\\', b'u', a, b, c, d, ..] if [a, b, c, d].iter().all(|byte| byte.is_ascii_hexdigit()) => {
                    self.at += 6;
                }
                [b'\\', ..] => return Err(self.error(ReadProblem::Escape)),
                _ => return Err(self.error(ReadProblem::ControlCharacter)),
            }
            has_escapes = true;
        }
    }

    fn number(&mut self) -> Result<&'t str, UnreadableData> {
        let start = self.at;
        if self.rest().first() == Some(&b'-') {
            self.at += 1;
        }
        let first = self.rest().first().copied();
        let whole_digits = self.digits()?;
        if first == Some(b'0') && whole_digits > 1 {
            return Err(UnreadableData { problem: ReadProblem::Number, at: start });
        }
        if self.rest().first() == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.rest().first() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.rest().first() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(self.slice(start, self.at))
    }

    /// Skips digits, at least one, and returns how many.
    fn digits(&mut self) -> Result<usize, UnreadableData> {
        let count = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 {
            return Err(self.error(ReadProblem::Number));
        }
        self.at += count;
        Ok(count)
    }
}
