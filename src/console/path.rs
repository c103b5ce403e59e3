//! Builds the paths of pages and of the API. Encodes every part, because event ids are any text.

use std::fmt::Write as _;

use url::form_urlencoded;

/// A path with a query.
#[derive(Clone, Debug)]
pub struct Path {
    path: String,
    query: String,
}

impl Path {
    /// Starts with a path that is written as it is.
    pub fn new(path: &str) -> Self {
        Path { path: path.to_owned(), query: String::new() }
    }

    /// Adds a segment.
    pub fn segment(mut self, text: &str) -> Self {
        if !self.path.ends_with('/') {
            self.path.push('/');
        }
        encode(text, &mut self.path);
        self
    }

    /// Adds a parameter.
    pub fn query(mut self, name: &str, value: &str) -> Self {
        let mut serializer = form_urlencoded::Serializer::new(std::mem::take(&mut self.query));
        serializer.append_pair(name, value);
        self.query = serializer.finish();
        self
    }

    /// Adds a parameter, unless its value is empty.
    pub fn query_some(self, name: &str, value: &str) -> Self {
        if value.is_empty() { self } else { self.query(name, value) }
    }
}

/// Adds the result of an action to the address of a page. Replaces the one of an earlier action.
pub fn with_done(address: &str, done: &str) -> Path {
    let (path, query) = address.split_once('?').unwrap_or((address, ""));
    let kept = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name != "done");
    kept.fold(Path::new(path), |path, (name, value)| path.query(&name, &value)).query("done", done)
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.path)?;
        if self.query.is_empty() { Ok(()) } else { write!(f, "?{}", self.query) }
    }
}

impl maud::Render for Path {
    fn render_to(&self, buffer: &mut String) {
        self.to_string().as_str().render_to(buffer);
    }
}

/// Percent-encodes a segment: everything but the unreserved characters of RFC 3986.
fn encode(text: &str, path: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _infallible = write!(path, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_segments_and_parameters() {
        let path =
            Path::new("/console/").segment("a/b ?#<\"").query("x", "1&2").query_some("y", "").query("z", "ä");
        assert_eq!(path.to_string(), "/console/a%2Fb%20%3F%23%3C%22?x=1%262&z=%C3%A4");
        assert_eq!(Path::new("/v1").segment("events").to_string(), "/v1/events");
    }

    #[test]
    fn result_replaces_the_last_one() {
        for (address, done, want) in [
            ("/console/hooks", "paused", "/console/hooks?done=paused"),
            ("/console/a%2Fb?x=1&done=sent&y=", "replayed", "/console/a%2Fb?x=1&y=&done=replayed"),
        ] {
            assert_eq!(with_done(address, done).to_string(), want);
        }
    }
}
