//! Reading request bodies: what is missing, of the wrong type or too much is told as the API tells it.

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use serde_json::{Map, Value};

use super::error::ApiError;

/// The JSON of a body. The API takes forms, too; how they nest is not documented, and no client of ours sends them.
pub(super) fn json(parts: &Parts, body: &[u8]) -> Result<Value, ApiError> {
    let given = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = given.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported Media Type"));
    }
    serde_json::from_slice(body)
        .map_err(|_| ApiError::new(StatusCode::BAD_REQUEST, "Invalid request payload JSON format"))
}

/// An object whose members are taken one by one; what is left at the end is refused.
pub(super) struct Object {
    path: String,
    members: Map<String, Value>,
}

impl Object {
    /// `path` is empty for the whole body.
    pub fn new(path: &str, value: Value) -> Result<Object, ApiError> {
        match value {
            Value::Object(members) => Ok(Object { path: path.into(), members }),
            other => Err(wrong_type("object", &other, if path.is_empty() { "body" } else { path }, "")),
        }
    }

    fn at(&self, name: &str) -> String {
        if self.path.is_empty() { name.into() } else { format!("{}.{name}", self.path) }
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.members.remove(name)
    }

    /// A text of so many characters.
    pub fn text(
        &mut self,
        name: &str,
        about: &str,
        (least, most): (usize, usize),
    ) -> Result<Option<String>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let Value::String(text) = value else {
            return Err(wrong_type("string", &value, &self.at(name), about));
        };
        let length = text.chars().count();
        if length < least {
            let reason = format!("String is too short ({length} chars), minimum {least}");
            return Err(ApiError::body(&reason, &self.at(name), about));
        }
        if length > most {
            let reason = format!("String is too long ({length} chars), maximum {most}");
            return Err(ApiError::body(&reason, &self.at(name), about));
        }
        Ok(Some(text))
    }

    pub fn boolean(&mut self, name: &str, about: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type("boolean", &other, &self.at(name), about)),
        }
    }

    pub fn list(&mut self, name: &str, about: &str) -> Result<Option<Vec<Value>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(other) => Err(wrong_type("array", &other, &self.at(name), about)),
        }
    }

    pub fn object(&mut self, name: &str) -> Result<Option<Object>, ApiError> {
        let path = self.at(name);
        self.take(name).map(|value| Object::new(&path, value)).transpose()
    }

    pub fn missing(&self, name: &str) -> ApiError {
        let property = if self.path.is_empty() { name } else { &self.path };
        ApiError::body(&format!("Missing required property: {name}"), property, "")
    }

    /// A value that is of the right type, but not allowed.
    pub fn refuse(&self, reason: &str, name: &str, about: &str) -> ApiError {
        ApiError::body(reason, &self.at(name), about)
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<(), ApiError> {
        match self.members.keys().next() {
            None => Ok(()),
            Some(name) => {
                let reason = format!("Additional properties not allowed: {name}");
                Err(ApiError::body(&reason, &self.at(name), ""))
            }
        }
    }
}

/// A map from texts to texts.
pub(super) fn texts(path: &str, value: Value) -> Result<impl Iterator<Item = (String, String)>, ApiError> {
    let object = Object::new(path, value)?;
    let wrong = object.members.iter().find(|(_, value)| !value.is_string());
    if let Some((name, value)) = wrong {
        return Err(wrong_type("string", value, &object.at(name), ""));
    }
    Ok(object.members.into_iter().map(|(name, value)| (name, value.as_str().unwrap_or_default().to_owned())))
}

fn wrong_type(expected: &str, found: &Value, property: &str, about: &str) -> ApiError {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    ApiError::body(&format!("Expected type {expected} but found type {found}"), property, about)
}
