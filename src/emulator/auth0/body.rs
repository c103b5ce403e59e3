//! Parses request bodies, with the error messages of the API for missing, mistyped and unknown properties.

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use serde_json::{Map, Value};

use super::error::ApiError;

/// Parses a JSON body. The API also accepts forms; how they nest is not documented, and no client of this project
/// sends them.
pub(super) fn parse_json(parts: &Parts, body: &[u8]) -> Result<Value, ApiError> {
    let content_type =
        parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported Media Type"));
    }
    serde_json::from_slice(body)
        .map_err(|_| ApiError::new(StatusCode::BAD_REQUEST, "Invalid request payload JSON format"))
}

/// A JSON object whose members are removed one by one; [`Object::reject_unknown`] rejects the rest.
pub(super) struct Object {
    path: String,
    members: Map<String, Value>,
}

impl Object {
    /// `path` is the property that holds the object; it is empty for the whole body.
    pub fn new(path: &str, value: Value) -> Result<Object, ApiError> {
        match value {
            Value::Object(members) => Ok(Object { path: path.into(), members }),
            other => Err(wrong_type("object", &other, if path.is_empty() { "body" } else { path }, "")),
        }
    }

    /// Returns the path of a member in the whole body.
    fn property_path(&self, name: &str) -> String {
        if self.path.is_empty() { name.into() } else { format!("{}.{name}", self.path) }
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn contains(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.members.remove(name)
    }

    /// Removes a string and checks its length, in characters.
    pub fn take_string(
        &mut self,
        name: &str,
        about: &str,
        (min, max): (usize, usize),
    ) -> Result<Option<String>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let Value::String(text) = value else {
            return Err(wrong_type("string", &value, &self.property_path(name), about));
        };
        let length = text.chars().count();
        if length < min {
            let reason = format!("String is too short ({length} chars), minimum {min}");
            return Err(ApiError::body(&reason, &self.property_path(name), about));
        }
        if length > max {
            let reason = format!("String is too long ({length} chars), maximum {max}");
            return Err(ApiError::body(&reason, &self.property_path(name), about));
        }
        Ok(Some(text))
    }

    pub fn take_boolean(&mut self, name: &str, about: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type("boolean", &other, &self.property_path(name), about)),
        }
    }

    pub fn take_array(&mut self, name: &str, about: &str) -> Result<Option<Vec<Value>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(other) => Err(wrong_type("array", &other, &self.property_path(name), about)),
        }
    }

    pub fn take_object(&mut self, name: &str) -> Result<Option<Object>, ApiError> {
        let path = self.property_path(name);
        self.take(name).map(|value| Object::new(&path, value)).transpose()
    }

    /// Makes the error for a missing member.
    pub fn missing(&self, name: &str) -> ApiError {
        let property = if self.path.is_empty() { name } else { &self.path };
        ApiError::body(&format!("Missing required property: {name}"), property, "")
    }

    /// Makes the error for a value of the right type that is not allowed.
    pub fn invalid(&self, reason: &str, name: &str, about: &str) -> ApiError {
        ApiError::body(reason, &self.property_path(name), about)
    }

    /// Rejects members that have not been removed.
    pub fn reject_unknown(self) -> Result<(), ApiError> {
        match self.members.keys().next() {
            None => Ok(()),
            Some(name) => {
                let reason = format!("Additional properties not allowed: {name}");
                Err(ApiError::body(&reason, &self.property_path(name), ""))
            }
        }
    }
}

/// Parses a map whose values are all strings.
pub(super) fn string_map(
    path: &str,
    value: Value,
) -> Result<impl Iterator<Item = (String, String)>, ApiError> {
    let object = Object::new(path, value)?;
    let wrong = object.members.iter().find(|(_, value)| !value.is_string());
    if let Some((name, value)) = wrong {
        return Err(wrong_type("string", value, &object.property_path(name), ""));
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
