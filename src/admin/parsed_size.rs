//! Computes the memory of parsed JSON before it is parsed. A few bytes of text can need a hundred times as much: `[{"":1},
//! ...]` has a map node for every seven bytes.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// What an allocation needs besides its contents.
const ALLOCATION: usize = 16;
/// A map node, and the part of one for each entry: nodes that are filled in order stay half empty.
const MAP_NODE: usize = 640;
const MAP_ENTRY: usize = 120;

/// Returns an upper bound of the bytes that the value in `text` needs when it is parsed. Fails if it is not one value.
pub fn parsed_size(text: &[u8]) -> serde_json::Result<usize> {
    serde_json::from_slice::<ParsedSize>(text).map(|size| size.0.saturating_add(size_of::<Value>()))
}

/// The bytes of a value beyond `size_of::<Value>()`.
struct ParsedSize(usize);

impl<'de> Deserialize<'de> for ParsedSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

struct SizeVisitor;

impl<'de> Visitor<'de> for SizeVisitor {
    type Value = ParsedSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<ParsedSize, E> {
        Ok(ParsedSize(0))
    }

    fn visit_i64<E>(self, _: i64) -> Result<ParsedSize, E> {
        Ok(ParsedSize(0))
    }

    fn visit_u64<E>(self, _: u64) -> Result<ParsedSize, E> {
        Ok(ParsedSize(0))
    }

    fn visit_f64<E>(self, _: f64) -> Result<ParsedSize, E> {
        Ok(ParsedSize(0))
    }

    fn visit_unit<E>(self) -> Result<ParsedSize, E> {
        Ok(ParsedSize(0))
    }

    fn visit_str<E>(self, text: &str) -> Result<ParsedSize, E> {
        Ok(ParsedSize(text.len().saturating_add(ALLOCATION)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<ParsedSize, A::Error> {
        let mut size = ALLOCATION;
        while let Some(element) = list.next_element::<ParsedSize>()? {
            // A list that grows has up to twice the capacity that it needs.
            size = size.saturating_add(element.0).saturating_add(2 * size_of::<Value>());
        }
        Ok(ParsedSize(size))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ParsedSize, A::Error> {
        let mut size = 0_usize;
        while let Some((key, value)) = map.next_entry::<ParsedSize, ParsedSize>()? {
            let node = if size == 0 { MAP_NODE } else { MAP_ENTRY };
            size = size.saturating_add(node).saturating_add(key.0).saturating_add(value.0);
        }
        Ok(ParsedSize(size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(text: &str) -> usize {
        parsed_size(text.as_bytes()).unwrap()
    }

    #[test]
    fn small_texts_with_large_parsed_forms_are_recognized() {
        assert!(size("7") < 64 && size("null") < 64 && size("\"abc\"") < 64);
        let long = format!("\"{}\"", "x".repeat(1000));
        assert!((1000..1100).contains(&size(&long)), "a long text has its own size: {}", size(&long));
        for (element, factor) in [("{\"\":1}", 80), ("1", 30), ("[]", 20), ("\"\"", 20)] {
            let text = format!("[{}{element}]", format!("{element},").repeat(999));
            assert!(size(&text) > text.len() * factor, "{element}: {} of {}", size(&text), text.len());
        }
    }

    #[test]
    fn rejects_what_is_not_one_value() {
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        for text in ["", "{", "{}{}", "<html>", "[1,]", &deep] {
            assert!(parsed_size(text.as_bytes()).is_err(), "{text}");
        }
    }
}
