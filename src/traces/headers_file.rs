//! The file with the headers of the requests to the collector, which may contain secrets.

use std::path::PathBuf;

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Why a file cannot be used. The texts never contain a value.
#[derive(Debug, thiserror::Error)]
pub enum HeadersFileError {
    #[error("{path}: {source}", path = path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path}, line {line}: write a header as `name: value`", path = path.display())]
    Invalid { path: PathBuf, line: usize },
}

/// A file with one header a line, such as `authorization: Bearer TOKEN`. Lines that are empty or begin with `#` are ignored.
#[derive(Clone)]
pub struct HeadersFile {
    path: PathBuf,
    /// The headers at the last read that succeeded.
    headers: HeaderMap,
}

impl HeadersFile {
    /// Reads the file.
    pub fn open(path: PathBuf) -> Result<HeadersFile, HeadersFileError> {
        let mut file = HeadersFile { path, headers: HeaderMap::new() };
        let text = std::fs::read_to_string(&file.path);
        file.update(text)?;
        Ok(file)
    }

    /// Reads the file again, because a mounted Secret may be replaced. Returns the former headers if that fails.
    pub async fn read(&mut self) -> &HeaderMap {
        let text = tokio::fs::read_to_string(&self.path).await;
        if let Err(error) = self.update(text) {
            tracing::warn!(%error, "headers of the trace collector cannot be read, using the former ones");
        }
        &self.headers
    }

    fn update(&mut self, text: std::io::Result<String>) -> Result<(), HeadersFileError> {
        let text = text.map_err(|source| HeadersFileError::Unreadable { path: self.path.clone(), source })?;
        let headers = parse(&text);
        self.headers = headers.map_err(|line| HeadersFileError::Invalid { path: self.path.clone(), line })?;
        Ok(())
    }
}

/// Parses headers. An error is the number of the line.
fn parse(text: &str) -> Result<HeaderMap, usize> {
    let mut headers = HeaderMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let parsed = line.split_once(':').and_then(|(name, value)| {
            let mut value = HeaderValue::from_str(value.trim()).ok()?;
            value.set_sensitive(true);
            Some((name.trim().parse::<HeaderName>().ok()?, value))
        });
        let (name, value) = parsed.ok_or(number + 1)?;
        headers.insert(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_headers_and_names_the_line_of_an_error() {
        let headers = parse("# key\n\nAuthorization: Bearer a:b\r\nx-scope:  team \n").unwrap();
        assert_eq!(
            (headers.len(), &headers["authorization"], &headers["x-scope"]),
            (2, &"Bearer a:b".parse().unwrap(), &"team".parse().unwrap())
        );
        assert!(headers["authorization"].is_sensitive());
        assert_eq!(parse("a: b\nno header\n").unwrap_err(), 2);
        assert_eq!(parse("a b: c").unwrap_err(), 1);
    }

    #[tokio::test]
    async fn keeps_the_former_headers_while_the_file_is_invalid() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("headers");
        std::fs::write(&path, "x-key: one").unwrap();
        let mut file = HeadersFile::open(path.clone()).unwrap();
        std::fs::write(&path, "s3cret").unwrap();
        assert_eq!(file.read().await["x-key"], "one");
        let Err(error) = HeadersFile::open(path.clone()) else { panic!("an error") };
        assert!(!error.to_string().contains("s3cret") && error.to_string().contains("line 1"), "{error}");
        std::fs::write(&path, "x-key: two").unwrap();
        assert_eq!(file.read().await["x-key"], "two");
    }
}
