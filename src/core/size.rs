//! Sizes in bytes, with optional binary units: `512MiB`, `1GiB`.

/// The error for a text that is not a valid size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a size such as 512MiB or 1GiB (units KiB, MiB, GiB, TiB, or bytes without one)")]
pub struct SizeError;

/// Parses `^[0-9]+(KiB|MiB|GiB|TiB)?$` up to 64 bits. Rejects decimal units: a user would notice the difference between
/// `1GB` and `1GiB` only when the disk is full.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let (digits, shift) = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)]
        .into_iter()
        .find_map(|(unit, shift)| text.strip_suffix(unit).map(|digits| (digits, shift)))
        .unwrap_or((text, 0));
    // `parse` alone would accept a sign.
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(SizeError);
    }
    let number: u64 = digits.parse().map_err(|_| SizeError)?;
    number.checked_mul(1 << shift).ok_or(SizeError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parses_sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("1KiB", 1 << 10),
            ("512MiB", 512 << 20),
            ("1GiB", 1 << 30),
            ("2TiB", 2 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "MiB",
            "1GB",
            "1G",
            "1.5GiB",
            "-1",
            "+1",
            "1 GiB",
            "1gib",
            "16777216TiB",
            "18446744073709551616",
        ] {
            assert_eq!(parse(text), Err(SizeError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*|[0-9]{0,25}(KiB|MiB|GiB|TiB)?") {
            prop_assert!(parse(&text).is_err() || text.starts_with(|c: char| c.is_ascii_digit()));
        }
    }
}
