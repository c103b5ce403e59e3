//! Reads an event's data from a flag, a file or standard input.

use std::fs;
use std::io::{self, Read};

use serde_json::value::RawValue;

use super::failure::{Failure, OrFail};

/// Reads JSON from a flag's value: JSON itself, `@FILE`, or `-` (also `@-`) for standard input. Files and standard
/// input may have at most `max_bytes`. The digits of numbers stay unchanged.
pub fn read_event_data(text: &str, max_bytes: u64) -> Result<Box<RawValue>, Failure> {
    let file_name = if text == "-" { Some("-") } else { text.strip_prefix('@') };
    let (origin, json) = match file_name {
        None => ("--data".to_owned(), text.to_owned()),
        Some("-") => {
            ("standard input".to_owned(), read_limited(io::stdin().lock(), max_bytes, "standard input")?)
        }
        Some(path) => {
            let file = fs::File::open(path).or_fail(|| format!("reading {path}"))?;
            (path.to_owned(), read_limited(file, max_bytes, path)?)
        }
    };
    serde_json::from_str(&json).or_fail(|| format!("{origin} is not JSON (give a file as @FILE)"))
}

fn read_limited(from: impl Read, max_bytes: u64, origin: &str) -> Result<String, Failure> {
    let mut text = String::new();
    from.take(max_bytes + 1).read_to_string(&mut text).or_fail(|| format!("reading {origin}"))?;
    if text.len() as u64 > max_bytes {
        return Err(Failure::new(format!("{origin} has more than {max_bytes} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preserves_data_and_bounds_files() {
        assert_eq!(read_event_data(r#"{"n": 1.10}"#, 64).unwrap().get(), r#"{"n": 1.10}"#);
        assert!(read_event_data("nope", 64).unwrap_err().message.starts_with("--data is not JSON"));
        assert!(
            read_event_data("@/no/such/file", 64).unwrap_err().message.starts_with("reading /no/such/file")
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "[1]\n").unwrap();
        assert_eq!(read_event_data(&format!("@{}", file.path().display()), 64).unwrap().get(), "[1]");
        fs::write(file.path(), " ".repeat(65)).unwrap();
        let long = read_event_data(&format!("@{}", file.path().display()), 64).unwrap_err();
        assert!(long.message.ends_with("has more than 64 bytes"), "{}", long.message);
    }
}
