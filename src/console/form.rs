//! Queries and form bodies: pairs of names and values, bounded.

use axum::extract::Request;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, Limited};
use serde_json::value::RawValue;
use url::form_urlencoded;

use super::problem::Problem;

/// The largest body of a form in bytes: a typed event, or 500 selected deliveries.
const MAX_BODY: usize = 3 << 20;
/// The most fields of a form.
const MAX_FIELDS: usize = 2000;

/// The fields of a form or a query, in their order.
#[derive(Clone, Debug, Default)]
pub struct Form(Vec<(String, String)>);

impl Form {
    pub fn parse(bytes: &[u8]) -> Self {
        Form(form_urlencoded::parse(bytes).into_owned().take(MAX_FIELDS).collect())
    }

    /// Returns a field without the blanks around it; an empty text if it is missing.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value.trim())
    }

    /// Returns all values of a field that are not empty.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let values = self.0.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.trim());
        values.filter(|value| !value.is_empty())
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(found, _)| found == name)
    }

    /// Returns the field `data` as JSON, with the notation of its numbers; an empty object if it is empty.
    pub fn data(&self) -> Result<Box<RawValue>, Problem> {
        let data = Some(self.get("data")).filter(|data| !data.is_empty()).unwrap_or("{}");
        serde_json::from_str(data)
            .map_err(|error| Problem::new(400, "BadData", format!("the data is not JSON: {error}")))
    }

    /// Returns all fields.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Reads the body of a form.
pub async fn read_form(request: Request) -> Result<Form, Problem> {
    let is_form = request.headers().get(CONTENT_TYPE).is_some_and(|found| {
        found.as_bytes().split(|byte| *byte == b';').next() == Some(b"application/x-www-form-urlencoded")
    });
    if !is_form {
        return Err(Problem::new(415, "ContentType", "the console accepts its own forms only"));
    }
    let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
    let body = body.map_err(|_| Problem::new(413, "TooBig", "the form is too large or ended early"))?;
    Ok(Form::parse(&body.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_repeated_and_missing_fields() {
        let form = Form::parse(b"a=1&b=+x+&a=2&a=&c");
        assert_eq!((form.get("b"), form.get("none")), ("x", ""));
        assert_eq!(form.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert!(form.has("c") && !form.has("d"));
        let many = "x=1&".repeat(MAX_FIELDS + 5);
        assert_eq!(Form::parse(many.as_bytes()).fields().count(), MAX_FIELDS);
    }
}
