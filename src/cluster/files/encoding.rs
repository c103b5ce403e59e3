//! Decodes the text of a file: UTF-8, or UTF-16 with a byte order mark, which Windows PowerShell's `>` writes.

/// Decodes a text. An error: it is in another encoding.
pub fn decode_text(bytes: &[u8]) -> Result<String, String> {
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

fn decode_utf8(bytes: &[u8]) -> Result<String, String> {
    let text = str::from_utf8(bytes).map_err(|error| {
        let line = bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line}: not UTF-8: save the file as UTF-8")
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
            assert_eq!(decode_text(&[mark, bytes].concat()).as_deref(), Ok(text), "{mark:?}");
        }
        assert!(decode_text(b"a: 1\nb: \xE9").unwrap_err().contains("line 2"));
    }
}
