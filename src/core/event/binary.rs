//! CloudEvents in binary mode: the attributes are headers, the data is the body.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::parse::{
    BadEvent, Draft, MAX_ATTRIBUTES, MAX_ID, MAX_NAME, attribute_name, bounded_text, rfc3339,
};

/// Binary mode (HTTP binding, 3.1): `ce-` headers are the attributes, the body is the data.
pub(super) fn binary_draft(
    headers: &[(&str, &[u8])],
    content_type: Option<&str>,
    body: &[u8],
) -> Result<Draft, BadEvent> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        if all.insert((*name).to_owned(), header_value(name, value)?).is_some() {
            return Err(header(name, "it stands there twice"));
        }
    }
    match all.remove("specversion").as_deref() {
        Some("1.0") => {}
        Some(other) => return Err(BadEvent::SpecVersion(other.chars().take(16).collect())),
        None => return Err(BadEvent::Missing("specversion")),
    }
    let mut own = |name: &'static str, max: usize| match all.remove(name) {
        Some(text) if text.is_empty() => {
            Err(BadEvent::WrongType { field: name.into(), want: "a text that is not empty" })
        }
        Some(text) if text.len() > max => Err(BadEvent::TooLong { field: name.into(), max }),
        other => Ok(other),
    };
    let id = own("id", MAX_ID)?.ok_or(BadEvent::Missing("id"))?;
    let source = own("source", MAX_NAME)?.ok_or(BadEvent::Missing("source"))?;
    let event = own("type", MAX_NAME)?.ok_or(BadEvent::Missing("type"))?;
    let time = own("time", 64)?;
    if let Some(time) = &time {
        rfc3339(time)?;
    }
    // The type of the data is the body's own, and the data is the body.
    for taken in ["datacontenttype", "data", "data_base64"] {
        if all.contains_key(taken) {
            return Err(header(taken, "the body says it: use Content-Type"));
        }
    }
    let mut attributes = BTreeMap::new();
    for (name, text) in all {
        attributes.insert(attribute_name(&name)?.to_owned(), bounded_text(&name, text)?);
    }
    if let Some(content_type) = content_type.map(str::trim).filter(|t| !t.is_empty()) {
        let name = "datacontenttype";
        attributes.insert(name.to_owned(), bounded_text(name, content_type.to_owned())?);
    }
    if attributes.len() > MAX_ATTRIBUTES {
        return Err(BadEvent::TooManyAttributes);
    }
    let data = if body.is_empty() {
        RawValue::NULL.to_owned()
    } else {
        serde_json::from_slice(body)
            .map_err(|e| BadEvent::DataNotJson(e.to_string().chars().take(256).collect()))?
    };
    Ok(Draft { id: Some(id), source, event, time, data, attributes })
}

fn header(name: &str, problem: &'static str) -> BadEvent {
    BadEvent::Header(format!("ce-{name:.64}"), problem)
}

/// A header's value as text: quotes taken off, then percent-decoded, once (HTTP binding, 3.1.3.2).
fn header_value(name: &str, value: &[u8]) -> Result<String, BadEvent> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.trim_ascii();
    if let [b'"', inner @ .., b'"'] = rest {
        let mut escaped = false;
        for byte in inner {
            match byte {
                b'\\' if !escaped => escaped = true,
                b'"' if !escaped => return Err(header(name, "its quotes are wrong")),
                _ => {
                    escaped = false;
                    bytes.push(*byte);
                }
            }
        }
        if escaped {
            return Err(header(name, "its quotes are wrong"));
        }
        rest = &[];
    }
    bytes.extend_from_slice(rest);
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes.as_slice();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            decoded.push(*first);
            continue;
        }
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        let [high, low, tail @ ..] = rest else { return Err(header(name, "a % without two digits")) };
        let (Some(high), Some(low)) = (digit(high), digit(low)) else {
            return Err(header(name, "a % without two digits"));
        };
        decoded.push(u8::try_from(high * 16 + low).unwrap_or_default());
        rest = tail;
    }
    let text = String::from_utf8(decoded).map_err(|_| header(name, "it is no UTF-8"))?;
    // Attributes go out again, in headers too.
    if text.chars().any(char::is_control) {
        return Err(header(name, "it holds control characters"));
    }
    Ok(text)
}
