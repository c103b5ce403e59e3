//! CloudEvents in binary mode: headers hold the attributes, the body holds the data.

use std::collections::BTreeMap;

use super::CONTENT_TYPE_ATTRIBUTE;
use super::attributes::{check_attribute_name, check_rfc3339, text_attribute};
use super::draft::EventDraft;
use super::payload::EventData;
use super::rejection::{InvalidEvent, MAX_ATTRIBUTES, MAX_ID, MAX_NAME};

/// Parses a request in binary mode (HTTP binding, 3.1). `headers` holds the `ce-` headers, without that prefix.
pub(super) fn parse_binary(
    headers: &[(&str, &[u8])],
    content_type: Option<&str>,
    body: &[u8],
) -> Result<EventDraft, InvalidEvent> {
    let mut unparsed: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        if unparsed.insert((*name).to_owned(), decode_header_value(name, value)?).is_some() {
            return Err(invalid_header(name, "it occurs twice"));
        }
    }
    match unparsed.remove("specversion").as_deref() {
        Some("1.0") => {}
        Some(other) => return Err(InvalidEvent::SpecVersion(other.chars().take(16).collect())),
        None => return Err(InvalidEvent::Missing("specversion")),
    }
    let mut take = |name: &'static str, max: usize| match unparsed.remove(name) {
        Some(text) if text.is_empty() => {
            Err(InvalidEvent::WrongType { field: name.into(), want: "a string that is not empty" })
        }
        Some(text) if text.len() > max => Err(InvalidEvent::TooLong { field: name.into(), max }),
        other => Ok(other),
    };
    let id = take("id", MAX_ID)?.ok_or(InvalidEvent::Missing("id"))?;
    let source = take("source", MAX_NAME)?.ok_or(InvalidEvent::Missing("source"))?;
    let event = take("type", MAX_NAME)?.ok_or(InvalidEvent::Missing("type"))?;
    let time = take("time", 64)?;
    if let Some(time) = &time {
        check_rfc3339(time)?;
    }
    // In binary mode the body is the data, and Content-Type is its type.
    for name in [CONTENT_TYPE_ATTRIBUTE, "data", "data_base64"] {
        if unparsed.contains_key(name) {
            return Err(invalid_header(name, "the body holds the data: use Content-Type for its type"));
        }
    }
    let mut attributes = BTreeMap::new();
    for (name, text) in unparsed {
        attributes.insert(check_attribute_name(&name)?.to_owned(), text_attribute(&name, text)?);
    }
    if let Some(content_type) = content_type.map(str::trim).filter(|t| !t.is_empty()) {
        let value = text_attribute(CONTENT_TYPE_ATTRIBUTE, content_type.to_owned())?;
        attributes.insert(CONTENT_TYPE_ATTRIBUTE.to_owned(), value);
    }
    if attributes.len() > MAX_ATTRIBUTES {
        return Err(InvalidEvent::TooManyAttributes);
    }
    let data = EventData::from_body(body, content_type)?;
    Ok(EventDraft { id: Some(id), source, event, time, data, attributes })
}

fn invalid_header(name: &str, problem: &'static str) -> InvalidEvent {
    InvalidEvent::Header(format!("ce-{name:.64}"), problem)
}

/// Decodes a header's value: removes quotes, then percent-decodes once (HTTP binding, 3.1.3.2).
fn decode_header_value(name: &str, value: &[u8]) -> Result<String, InvalidEvent> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.trim_ascii();
    if let [b'"', inner @ .., b'"'] = rest {
        let mut escaped = false;
        for byte in inner {
            match byte {
                b'\\' if !escaped => escaped = true,
                b'"' if !escaped => return Err(invalid_header(name, "its quotes do not match")),
                _ => {
                    escaped = false;
                    bytes.push(*byte);
                }
            }
        }
        if escaped {
            return Err(invalid_header(name, "its quotes do not match"));
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
        let [high, low, tail @ ..] = rest else {
            return Err(invalid_header(name, "a % without two hexadecimal digits"));
        };
        let (Some(high), Some(low)) = (digit(high), digit(low)) else {
            return Err(invalid_header(name, "a % without two hexadecimal digits"));
        };
        decoded.push(u8::try_from(high * 16 + low).unwrap_or_default());
        rest = tail;
    }
    let text = String::from_utf8(decoded).map_err(|_| invalid_header(name, "it is not UTF-8"))?;
    // Attributes are sent to receivers, some of them in headers.
    if text.chars().any(char::is_control) {
        return Err(invalid_header(name, "it contains control characters"));
    }
    Ok(text)
}
