//! Translates patterns of PCRE, which `ngx.re` takes in OpenResty, into those of the `regex` crate, whose time is linear.
//!
//! Rejects what the crate would understand differently. What it does not support at all (back-references, look-around) it
//! rejects itself.

/// Translates a pattern. `is_extended`: it may contain comments (option `x`). `\w`, `\d`, `\s` and `\b` know only ASCII, also in
/// patterns that match characters instead of bytes.
pub fn translate(pattern: &str, is_extended: bool) -> Result<String, String> {
    let mut translator = Translator { rest: pattern, out: String::with_capacity(pattern.len() + 16) };
    while let Some(c) = translator.take() {
        match c {
            '\\' => translator.escape()?,
            '[' => translator.class()?,
            '(' => translator.group()?,
            // A brace that starts no quantifier is a literal.
            '{' if translator.skip_quantifier() => translator.after_quantifier()?,
            '{' => translator.out.push_str("\\{"),
            '#' if is_extended => drop(translator.take_until("\n")),
            '*' | '+' | '?' => translator.quantifier(c)?,
            c => translator.out.push(c),
        }
    }
    Ok(translator.out)
}

const POSSESSIVE: &str = "possessive quantifiers are not supported";

struct Translator<'p> {
    rest: &'p str,
    out: String,
}

impl<'p> Translator<'p> {
    fn take(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next()?;
        self.rest = chars.as_str();
        Some(c)
    }

    fn skip(&mut self, prefix: &str) -> bool {
        match self.rest.strip_prefix(prefix) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Takes the text before `end`, and `end`. Without `end`, takes the rest.
    fn take_until(&mut self, end: &str) -> &'p str {
        let (text, rest) = self.rest.split_once(end).unwrap_or((self.rest, ""));
        self.rest = rest;
        text
    }

    /// Writes a quantifier, with the `?` that makes it lazy.
    fn quantifier(&mut self, c: char) -> Result<(), String> {
        self.out.push(c);
        self.after_quantifier()
    }

    fn after_quantifier(&mut self) -> Result<(), String> {
        if self.rest.starts_with('+') {
            return Err(POSSESSIVE.to_owned());
        }
        if self.skip("?") {
            self.out.push('?');
        }
        Ok(())
    }

    /// Writes a quantifier such as `{2,3}` whose brace was taken. False: it is none.
    fn skip_quantifier(&mut self) -> bool {
        let Some((bounds, rest)) = self.rest.split_once('}') else { return false };
        let (least, most) = bounds.split_once(',').unwrap_or((bounds, ""));
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if least.is_empty() || !is_number(least) || !is_number(most) {
            return false;
        }
        self.rest = rest;
        self.out.push('{');
        self.out.push_str(bounds);
        self.out.push('}');
        true
    }

    /// Writes the start of a group whose parenthesis was taken.
    fn group(&mut self) -> Result<(), String> {
        if self.skip("?#") {
            self.take_until(")");
            return Ok(());
        }
        for (start, what) in
            [("?>", "atomic groups"), ("?|", "branch resets"), ("?(", "conditions"), ("*", "verbs")]
        {
            if self.rest.starts_with(start) {
                return Err(format!("{what} are not supported"));
            }
        }
        self.out.push('(');
        if self.skip("?'") {
            let name = self.take_until("'");
            self.out.push_str("?<");
            self.out.push_str(name);
            self.out.push('>');
        } else if self.skip("?") {
            // Otherwise it would be read as a quantifier.
            self.out.push('?');
        }
        Ok(())
    }

    /// Writes an escape outside a class whose backslash was taken.
    fn escape(&mut self) -> Result<(), String> {
        let Some(c) = self.take() else { return Err("\\ at the end of the pattern".to_owned()) };
        match c {
            'd' | 'D' | 'w' | 'W' | 's' | 'S' | 'h' | 'H' | 'v' | 'V' | 'N' => {
                self.out.push_str(&class_of(c));
            }
            'b' | 'B' => {
                self.out.push_str("(?-u:\\");
                self.out.push(c);
                self.out.push(')');
            }
            'R' => self.out.push_str("(?:\\r\\n|[\\n\\x0B\\f\\r])"),
            'K' | 'G' | 'Z' | 'X' | 'C' | 'g' | 'k' => return Err(format!("\\{c} is not supported")),
            '1'..='9' => return Err("back-references are not supported".to_owned()),
            'Q' => {
                for c in self.take_until("\\E").chars() {
                    literal(&mut self.out, c);
                }
            }
            'E' => {}
            c => self.character(c)?,
        }
        Ok(())
    }

    /// Writes the escape of one character, which has the same form in a class.
    fn character(&mut self, c: char) -> Result<(), String> {
        match c {
            'a' | 'f' | 'n' | 'r' | 't' | 'A' | 'z' | 'p' | 'P' => {
                self.out.push('\\');
                self.out.push(c);
            }
            'e' => self.out.push_str("\\x1B"),
            '0' => {
                let end = self.rest.bytes().take(2).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
                let (digits, rest) = self.rest.split_at_checked(end).unwrap_or(("", self.rest));
                self.rest = rest;
                let code = u8::from_str_radix(digits, 8).unwrap_or_default();
                self.out.push_str(&format!("\\x{code:02X}"));
            }
            'x' if self.rest.starts_with('{') => self.out.push_str("\\x"),
            'x' => {
                let end = self.rest.bytes().take(2).take_while(u8::is_ascii_hexdigit).count();
                let (digits, rest) = self.rest.split_at_checked(end).unwrap_or(("", self.rest));
                self.rest = rest;
                self.out.push_str(&format!("\\x{digits:0>2}"));
            }
            c if c.is_ascii_alphanumeric() => return Err(format!("\\{c} is not supported")),
            c => literal(&mut self.out, c),
        }
        Ok(())
    }

    /// Writes a class whose bracket was taken.
    fn class(&mut self) -> Result<(), String> {
        self.out.push('[');
        if self.skip("^") {
            self.out.push('^');
        }
        let mut before = ClassItem::Set;
        let mut is_first = true;
        loop {
            let Some(c) = self.take() else { return Err("a class has no ]".to_owned()) };
            // The end of a range starts no other range.
            let character = if before == ClassItem::Range { ClassItem::Set } else { ClassItem::Character };
            before = match c {
                ']' if !is_first => {
                    self.out.push(']');
                    return Ok(());
                }
                '[' if self.rest.starts_with(':') => {
                    let Some((name, rest)) = self.rest.split_once(":]") else {
                        return Err("a class has no :]".to_owned());
                    };
                    self.rest = rest;
                    self.out.push_str(&format!("[{name}:]"));
                    ClassItem::Set
                }
                '\\' => {
                    if self.class_escape()? {
                        ClassItem::Set
                    } else {
                        character
                    }
                }
                '-' if before == ClassItem::Character && !self.rest.starts_with(']') => {
                    self.out.push('-');
                    ClassItem::Range
                }
                c => {
                    literal(&mut self.out, c);
                    character
                }
            };
            is_first = false;
        }
    }

    /// Writes an escape in a class whose backslash was taken. Returns true if it stands for a set of characters.
    fn class_escape(&mut self) -> Result<bool, String> {
        let Some(c) = self.take() else { return Err("a class has no ]".to_owned()) };
        match c {
            'd' | 'D' | 'w' | 'W' | 's' | 'S' | 'h' | 'H' | 'v' | 'V' => {
                self.out.push_str(&class_of(c));
                return Ok(true);
            }
            'b' => self.out.push_str("\\x08"),
            '1'..='7' => return Err("octal codes without a leading 0 are not supported".to_owned()),
            'A' | 'z' => return Err(format!("\\{c} is not supported in a class")),
            'p' | 'P' => {
                self.character(c)?;
                return Ok(true);
            }
            c => self.character(c)?,
        }
        Ok(false)
    }
}

/// What precedes a hyphen in a class.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ClassItem {
    /// A character, which may start a range.
    Character,
    /// The start and the hyphen of a range.
    Range,
    /// Nothing, a set of characters or a complete range: a hyphen is a literal.
    Set,
}

/// Returns the class that an escape stands for, as PCRE defines it without its Unicode properties.
fn class_of(escape: char) -> String {
    let members = match escape.to_ascii_lowercase() {
        'd' => "0-9",
        'w' => "0-9A-Za-z_",
        's' => "\\t\\n\\x0B\\f\\r\\x20",
        'h' => "\\t\\x20",
        'v' => "\\n\\x0B\\f\\r",
        // `\N`: anything except a line end.
        _ => return "[^\\n]".to_owned(),
    };
    let negation = if escape.is_ascii_uppercase() { "^" } else { "" };
    format!("[{negation}{members}]")
}

/// Writes a character that stands for itself, also with the option `x` and in a class.
fn literal(out: &mut String, c: char) {
    match c {
        '\n' => out.push_str("\\n"),
        '\t' => out.push_str("\\t"),
        '\r' => out.push_str("\\r"),
        // An escaped angle bracket would be the edge of a word.
        '<' | '>' => out.push(c),
        c if c.is_ascii_punctuation() || c == ' ' => {
            out.push('\\');
            out.push(c);
        }
        c => out.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn translates_differences() {
        assert_eq!(translate("a # (b\n[ #]", true).as_deref(), Ok(r"a [\ \#]"));
        for (pattern, translated) in [
            ("a.b*?c+$", "a.b*?c+$"),
            (r"\d+\.\w", r"[0-9]+\.[0-9A-Za-z_]"),
            (r"[\w-.]", r"[[0-9A-Za-z_]\-\.]"),
            (r"[^\]a[&&]", r"[^\]a\[\&\&]"),
            ("[]a]", r"[\]a]"),
            ("[a-z -]", r"[a-z\ \-]"),
            ("[+--]", r"[\+-\-]"),
            ("[a-c-e]", r"[a-c\-e]"),
            ("[-a]", r"[\-a]"),
            ("[[:alpha:]-_]", r"[[:alpha:]\-\_]"),
            ("{a}x{2}{3,}b{,2}", r"\{a}x{2}{3,}b\{,2}"),
            (r"\<a\>\/\e\x4\012", r"<a>\/\x1B\x04\x0A"),
            (r"\Qa.b\E.", r"a\.b."),
            ("a(?#c)b(?'n'c)(?<m>d)(?i:e)", "ab(?<n>c)(?<m>d)(?i:e)"),
            (r"\bx\B", r"(?-u:\b)x(?-u:\B)"),
        ] {
            assert_eq!(translate(pattern, false).as_deref(), Ok(translated), "{pattern}");
        }
        for pattern in [
            "a++", "a*+", "a?+", "a{2}+", "(?>a)", r"(a)\1", r"\Z", r"\Ka", "[a", r"\", r"[\1]", "(?|a)",
            r"\y",
        ] {
            assert!(translate(pattern, false).is_err(), "{pattern}");
        }
    }
}
