//! An event's data as a flag gives it.

use std::fs;
use std::io::{self, Read};

use serde_json::value::RawValue;

use super::{Failure, OrFail};

/// `text` as a flag has it: JSON, `@FILE`, or `-` (also `@-`) for standard input; of at most so many bytes. Numbers keep
/// their digits.
pub fn read(text: &str, most: u64) -> Result<Box<RawValue>, Failure> {
    let name = if text == "-" { Some("-") } else { text.strip_prefix('@') };
    let (what, json) = match name {
        None => ("--data".to_owned(), text.to_owned()),
        Some("-") => ("standard input".to_owned(), read_all(io::stdin().lock(), most, "standard input")?),
        Some(path) => {
            let file = fs::File::open(path).or_fail(|| format!("reading {path}"))?;
            (path.to_owned(), read_all(file, most, path)?)
        }
    };
    serde_json::from_str(&json).or_fail(|| format!("{what} is not JSON (a file is given as @FILE)"))
}

fn read_all(from: impl Read, most: u64, what: &str) -> Result<String, Failure> {
    let mut text = String::new();
    from.take(most + 1).read_to_string(&mut text).or_fail(|| format!("reading {what}"))?;
    if text.len() as u64 > most {
        return Err(Failure::new(format!("{what} holds more than {most} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_kept_as_written() {
        assert_eq!(read(r#"{"n": 1.10}"#, 64).unwrap().get(), r#"{"n": 1.10}"#);
        assert!(read("nope", 64).unwrap_err().message.starts_with("--data is not JSON"));
        assert!(read("@/no/such/file", 64).unwrap_err().message.starts_with("reading /no/such/file"));
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "[1]\n").unwrap();
        assert_eq!(read(&format!("@{}", file.path().display()), 64).unwrap().get(), "[1]");
        fs::write(file.path(), " ".repeat(65)).unwrap();
        let long = read(&format!("@{}", file.path().display()), 64).unwrap_err();
        assert!(long.message.ends_with("holds more than 64 bytes"), "{}", long.message);
    }
}
