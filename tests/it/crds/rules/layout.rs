//! Writes manifests with each field on a line of its own, and knows where each field is.

use std::fmt::Write as _;

use serde_json::Value;

/// The text of a manifest, in YAML's flow style, and the places of its fields.
#[derive(Default)]
pub struct Layout {
    pub text: String,
    /// Paths such as `spec.handler.lambda.functions[0]`, with the line and the column of the field's name or of the list's
    /// item, counted from 1.
    places: Vec<(String, (usize, usize))>,
}

impl Layout {
    pub fn of(manifest: &Value) -> Self {
        let mut layout = Layout::default();
        layout.places.push((String::new(), (1, 1)));
        layout.write(manifest, "", 0);
        layout
    }

    /// Returns the place of a field, or of the innermost field around it if the manifest does not have it.
    pub fn place(&self, field: &str) -> (usize, usize) {
        let contains = |path: &str| {
            let rest = field.strip_prefix(path);
            rest.is_some_and(|rest| path.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let found = self.places.iter().filter(|(path, _)| contains(path)).max_by_key(|(path, _)| path.len());
        found.unwrap().1
    }

    fn write(&mut self, value: &Value, path: &str, depth: usize) {
        let members: Vec<(String, String, &Value)> = match value {
            Value::Object(members) if !members.is_empty() => members
                .iter()
                .map(|(name, value)| {
                    let separator = if path.is_empty() { "" } else { "." };
                    (format!("{path}{separator}{name}"), format!("{}: ", Value::from(name.as_str())), value)
                })
                .collect(),
            Value::Array(items) if !items.is_empty() => {
                let item = |(index, item)| (format!("{path}[{index}]"), String::new(), item);
                items.iter().enumerate().map(item).collect()
            }
            _ => return write!(self.text, "{value}").unwrap(),
        };
        let (open, close) = if value.is_array() { ('[', ']') } else { ('{', '}') };
        self.text.push(open);
        for (path, name, value) in members {
            let indentation = 2 * (depth + 1);
            write!(self.text, "\n{:indentation$}", "").unwrap();
            self.places.push((path.clone(), (self.text.matches('\n').count() + 1, indentation + 1)));
            self.text.push_str(&name);
            self.write(value, &path, depth + 1);
            self.text.push(',');
        }
        self.text.pop();
        write!(self.text, "\n{:1$}{close}", "", 2 * depth).unwrap();
    }
}
