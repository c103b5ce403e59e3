//! Texts of senders as PostgreSQL stores them. Its `text` has no U+0000, so that one character is escaped.

use std::borrow::Cow;

/// A private character that begins an escape.
const ESCAPE: char = '\u{F8FF}';

/// Returns the text as it is stored.
pub(super) fn stored(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', ESCAPE]) {
        return Cow::Borrowed(text);
    }
    let mut stored = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '\0' => stored.extend([ESCAPE, '0']),
            ESCAPE => stored.extend([ESCAPE, '1']),
            other => stored.push(other),
        }
    }
    Cow::Owned(stored)
}

/// Returns the text that was stored.
pub(super) fn original(stored: String) -> String {
    if !stored.contains(ESCAPE) {
        return stored;
    }
    let mut text = String::with_capacity(stored.len());
    let mut characters = stored.chars();
    while let Some(character) = characters.next() {
        match character {
            ESCAPE => text.push(if characters.next() == Some('0') { '\0' } else { ESCAPE }),
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_stored_without_nul_and_read_back() {
        for text in ["", "plain", "a\0b", "\0", "\u{F8FF}", "\u{F8FF}0\0\u{F8FF}1", "ö\u{1F980}"] {
            let stored = stored(text);
            assert!(!stored.contains('\0'), "{text:?}");
            assert_eq!(original(stored.into_owned()), text);
        }
    }
}
