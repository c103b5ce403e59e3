//! Writes text as JSON strings, with the escapes that serde_json uses: gates compare hashes of this text.

/// Writes a string as JSON, with its quotes, in pieces.
pub fn write_json_string<E>(text: &str, mut write: impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
    write("\"")?;
    escape_json(text, &mut write)?;
    write("\"")
}

/// Writes the inside of a JSON string in pieces.
pub fn escape_json<E>(text: &str, write: &mut impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
    let mut rest = text;
    // The offset of an ASCII character, or the end, so it never splits a character.
    while let Some((plain, special)) = rest.split_at_checked(plain_prefix(rest.as_bytes())) {
        write(plain)?;
        let mut after = special.chars();
        match after.next() {
            None => break,
            Some('"') => write("\\\"")?,
            Some('\\') => write("\\\\")?,
            Some('\u{8}') => write("\\b")?,
            Some('\u{c}') => write("\\f")?,
            Some('\n') => write("\\n")?,
            Some('\r') => write("\\r")?,
            Some('\t') => write("\\t")?,
            Some(control) => write(&format!("\\u{:04x}", u32::from(control)))?,
        }
        rest = after.as_str();
    }
    Ok(())
}

/// Returns how many bytes precede the first quote, backslash or control character, or the length if there is none.
/// Examines eight bytes at a time, because most of an event is text.
pub fn plain_prefix(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
    // The highest bit of each byte that is zero or below `n`. Borrows may set it for later bytes too, not for earlier ones.
    let is_zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGH_BITS;
    let is_below = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word & HIGH_BITS;
    let (mut length, mut rest) = (0, bytes);
    while let Some((chunk, after)) = rest.split_first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let special = is_zero(word ^ (ONES * u64::from(b'"')))
            | is_zero(word ^ (ONES * u64::from(b'\\')))
            | is_below(word, 0x20);
        if special != 0 {
            return length + (special.trailing_zeros() / 8) as usize;
        }
        length += 8;
        rest = after;
    }
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    length + rest.iter().position(is_special).unwrap_or(rest.len())
}
