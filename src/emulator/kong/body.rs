//! Parses request bodies: JSON, or a form whose dotted keys become nested members.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

use super::error::ApiError;

const MAX_PAIRS: usize = 1_000;
const MAX_DEPTH: usize = 8;

/// A parsed request body.
pub(super) struct Body {
    pub members: Map<String, Value>,
    /// All values are strings; [`super::validate::coerce`] converts them to the types of the fields.
    pub is_form: bool,
}

/// Parses a body by its content type. A dotted member of JSON is not nested: `config.url` stays an unknown field.
pub(super) fn parse(headers: &HeaderMap, bytes: &[u8]) -> Result<Body, ApiError> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let content_type = types.next().and_then(|value| value.to_str().ok()).unwrap_or_default();
    if types.next().is_some() {
        // The status 400 is documented, its text is not.
        return Err(ApiError::without_code(StatusCode::BAD_REQUEST, "Content-Type header is not unique"));
    }
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media_type.as_str() {
        "application/json" => match serde_json::from_slice(bytes) {
            Ok(Value::Object(members)) => Ok(Body { members, is_form: false }),
            _ => Err(ApiError::bad_json()),
        },
        "application/x-www-form-urlencoded" => Ok(Body { members: parse_form(bytes)?, is_form: true }),
        // An empty body lacks the required fields, which is a more useful error than the content type.
        "" if bytes.is_empty() => Ok(Body { members: Map::new(), is_form: false }),
        // Kong accepts multipart/form-data too; no client of this project sends it.
        _ => Err(ApiError::without_code(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported Content-Type")),
    }
}

/// Parses a form into nested members: `a.b=1&a.c[]=2` becomes `{"a": {"b": "1", "c": ["2"]}}`.
fn parse_form(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let reject = |message| Err(ApiError::without_code(StatusCode::BAD_REQUEST, message));
    let mut root = Map::new();
    for (count, (key, value)) in url::form_urlencoded::parse(bytes).enumerate() {
        let path: Vec<&str> = key.split('.').collect();
        if count >= MAX_PAIRS || path.len() > MAX_DEPTH {
            return reject("too many form fields");
        }
        let Some((last, parents)) = path.split_last() else { continue };
        let mut members = &mut root;
        for parent in parents {
            let child = members.entry(*parent).or_insert_with(|| Map::new().into());
            let Value::Object(map) = child else {
                return reject("form fields contradict each other");
            };
            members = map;
        }
        match last.split_once('[') {
            // `name[]` and `name[1]` both append to the list, in the order of the form.
            Some((name, index)) if index.ends_with(']') => {
                let list = members.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(list) = list else {
                    return reject("form fields contradict each other");
                };
                list.push(value.into());
            }
            _ => {
                members.insert((*last).into(), value.into());
            }
        }
    }
    Ok(root)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse_with(content_type: &[&'static str], bytes: &[u8]) -> Result<Value, u16> {
        let mut headers = HeaderMap::new();
        for value in content_type {
            headers.append(CONTENT_TYPE, value.parse().unwrap());
        }
        parse(&headers, bytes).map(|body| body.members.into()).map_err(|error| error.status.as_u16())
    }

    #[test]
    fn parses_by_content_type() {
        assert_eq!(parse_with(&["Application/JSON; charset=utf-8"], b"{\"a.b\":1}"), Ok(json!({"a.b": 1})));
        assert_eq!(parse_with(&["application/json"], b"[]"), Err(400));
        assert_eq!(parse_with(&["application/json"], b"{"), Err(400));
        assert_eq!(parse_with(&["text/plain"], b"{}"), Err(415));
        assert_eq!(parse_with(&[], b"{}"), Err(415));
        assert_eq!(parse_with(&[], b""), Ok(json!({})));
        assert_eq!(parse_with(&["application/json", "application/json"], b"{}"), Err(400));
    }

    #[test]
    fn nests_dotted_form_keys() {
        let form = b"source=crud&config.url=http%3A%2F%2Fa%2F&config.headers.x-a=b+c&config.functions[]=1&config.functions[2]=2";
        assert_eq!(
            parse_with(&["application/x-www-form-urlencoded"], form),
            Ok(
                json!({"source": "crud", "config": {"url": "http://a/", "headers": {"x-a": "b c"}, "functions": ["1", "2"]}})
            )
        );
        assert_eq!(parse_with(&["application/x-www-form-urlencoded"], b"a=1&a.b=2"), Err(400));
        assert_eq!(parse_with(&["application/x-www-form-urlencoded"], b"a=1&a[]=2"), Err(400));
        assert_eq!(parse_with(&["application/x-www-form-urlencoded"], b"a.b.c.d.e.f.g.h.i=1"), Err(400));
    }

    proptest! {
        #[test]
        fn form_parsing_never_panics(text in "[ab.=&\\[\\]%0-9]{0,60}") {
            prop_assert!(parse_form(text.as_bytes()).map(|map| map.len() < 61).unwrap_or(true));
        }
    }
}
