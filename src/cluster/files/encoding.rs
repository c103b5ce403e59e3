//! Decodes the text of a file: UTF-8, or UTF-16 with a byte order mark, which Windows PowerShell's `>` writes.

use super::source::{FileProblem, Position};

/// Decodes a text. An error: it is in another encoding.
pub fn decode_text(bytes: &[u8]) -> Result<String, FileProblem> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let (pairs, odd) = bytes.as_chunks::<2>();
        let units = pairs.iter().map(|pair| unit(*pair));
        // A cut file: half of a character is left.
        let odd = (!odd.is_empty()).then_some(char::REPLACEMENT_CHARACTER);
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).chain(odd).collect()
    };
    match bytes {
        [0xFF, 0xFE, rest @ ..] => Ok(utf16(rest, u16::from_le_bytes)),
        [0xFE, 0xFF, rest @ ..] => Ok(utf16(rest, u16::from_be_bytes)),
        [0xEF, 0xBB, 0xBF, rest @ ..] => decode_utf8(rest),
        bytes => decode_utf8(bytes),
    }
}

fn decode_utf8(bytes: &[u8]) -> Result<String, FileProblem> {
    let text = str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let before = String::from_utf8_lossy(before);
        let message = "not UTF-8: save the file as UTF-8".to_owned();
        FileProblem { position: Some(Position::of_offset(&before, before.len())), message }
    })?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_byte_order_marks() {
        let text = "a: é😀\n";
        let utf16: Vec<u16> = text.encode_utf16().collect();
        let little: Vec<u8> = utf16.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let big: Vec<u8> = utf16.iter().flat_map(|unit| unit.to_be_bytes()).collect();
        for (mark, bytes) in [
            (&[][..], text.as_bytes()),
            (&[0xEF, 0xBB, 0xBF], text.as_bytes()),
            (&[0xFF, 0xFE], &little),
            (&[0xFE, 0xFF], &big),
        ] {
            assert_eq!(decode_text(&[mark, bytes].concat()).unwrap(), text, "{mark:?}");
        }
        let problem = decode_text(b"a: 1\nb: \xE9").unwrap_err();
        assert_eq!(problem.position, Some(Position { line: 2, column: 4 }));
    }
}
