//! Request bodies: JSON, or a form whose dotted keys are unfolded.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

use super::error::ApiError;

const MAX_PAIRS: usize = 1_000;
const MAX_DEPTH: usize = 8;

/// A body's members, and whether their types are still to be guessed.
pub(super) struct Body {
    pub members: Map<String, Value>,
    pub is_form: bool,
}

/// Reads a body by its content type. JSON is never unfolded: a member `config.url` stays an unknown field.
pub(super) fn parse(headers: &HeaderMap, bytes: &[u8]) -> Result<Body, ApiError> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let given = types.next().and_then(|value| value.to_str().ok()).unwrap_or_default();
    if types.next().is_some() {
        // That this is 400 is documented, its text is not.
        return Err(ApiError::plain(StatusCode::BAD_REQUEST, "Content-Type header is not unique"));
    }
    let media_type = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media_type.as_str() {
        "application/json" => match serde_json::from_slice(bytes) {
            Ok(Value::Object(members)) => Ok(Body { members, is_form: false }),
            _ => Err(ApiError::bad_json()),
        },
        "application/x-www-form-urlencoded" => Ok(Body { members: unfold(bytes)?, is_form: true }),
        // Nothing was sent: the required fields are missing, which is the better answer.
        "" if bytes.is_empty() => Ok(Body { members: Map::new(), is_form: false }),
        // Kong takes multipart/form-data too; no client of ours sends it.
        _ => Err(ApiError::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported Content-Type")),
    }
}

/// `a.b=1&a.c[]=2` becomes `{"a": {"b": "1", "c": ["2"]}}`.
fn unfold(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let refuse = |why| Err(ApiError::plain(StatusCode::BAD_REQUEST, why));
    let mut root = Map::new();
    for (count, (key, value)) in url::form_urlencoded::parse(bytes).enumerate() {
        let path: Vec<&str> = key.split('.').collect();
        if count >= MAX_PAIRS || path.len() > MAX_DEPTH {
            return refuse("too many form fields");
        }
        let Some((last, parents)) = path.split_last() else { continue };
        let mut level = &mut root;
        for parent in parents {
            let child = level.entry(*parent).or_insert_with(|| Map::new().into());
            let Value::Object(map) = child else {
                return refuse("form fields contradict each other");
            };
            level = map;
        }
        match last.split_once('[') {
            // `name[]` and `name[1]` alike add to the list, in the order they came.
            Some((name, index)) if index.ends_with(']') => {
                let list = level.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(list) = list else {
                    return refuse("form fields contradict each other");
                };
                list.push(value.into());
            }
            _ => {
                level.insert((*last).into(), value.into());
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

    fn with(content_type: &[&'static str], bytes: &[u8]) -> Result<Value, u16> {
        let mut headers = HeaderMap::new();
        for value in content_type {
            headers.append(CONTENT_TYPE, value.parse().unwrap());
        }
        parse(&headers, bytes).map(|body| body.members.into()).map_err(|error| error.status.as_u16())
    }

    #[test]
    fn content_types() {
        assert_eq!(with(&["Application/JSON; charset=utf-8"], b"{\"a.b\":1}"), Ok(json!({"a.b": 1})));
        assert_eq!(with(&["application/json"], b"[]"), Err(400));
        assert_eq!(with(&["application/json"], b"{"), Err(400));
        assert_eq!(with(&["text/plain"], b"{}"), Err(415));
        assert_eq!(with(&[], b"{}"), Err(415));
        assert_eq!(with(&[], b""), Ok(json!({})));
        assert_eq!(with(&["application/json", "application/json"], b"{}"), Err(400));
    }

    #[test]
    fn forms_are_unfolded() {
        let form = b"source=crud&config.url=http%3A%2F%2Fa%2F&config.headers.x-a=b+c&config.functions[]=1&config.functions[2]=2";
        assert_eq!(
            with(&["application/x-www-form-urlencoded"], form),
            Ok(
                json!({"source": "crud", "config": {"url": "http://a/", "headers": {"x-a": "b c"}, "functions": ["1", "2"]}})
            )
        );
        assert_eq!(with(&["application/x-www-form-urlencoded"], b"a=1&a.b=2"), Err(400));
        assert_eq!(with(&["application/x-www-form-urlencoded"], b"a=1&a[]=2"), Err(400));
        assert_eq!(with(&["application/x-www-form-urlencoded"], b"a.b.c.d.e.f.g.h.i=1"), Err(400));
    }

    proptest! {
        #[test]
        fn unfolding_never_panics(text in "[ab.=&\\[\\]%0-9]{0,60}") {
            prop_assert!(unfold(text.as_bytes()).map(|map| map.len() < 61).unwrap_or(true));
        }
    }
}
