//! The data of an event as it is stored: a JSON view, and the form in which CloudEvents carry it.
//!
//! Data of any content type has a JSON view, which the store, templates, scripts, logs and the API use: JSON as its
//! original text, text as a string, other bytes as a string with their base64. So the store needs no column for bytes.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::data::EscapedText;
use super::rejection::InvalidEvent;
use crate::core::json_string::write_json_string;

/// The longest view of text, as a multiple of the text. Only text with many control characters needs more; it is kept as
/// bytes, so that a sender cannot multiply the size of its event.
const MAX_TEXT_GROWTH: usize = 2;

/// How a CloudEvent carries the data.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    strum::IntoStaticStr,
    strum::EnumString,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum DataForm {
    /// As `data`: JSON, or a string with the text.
    #[default]
    Inline,
    /// There is no data. The view is null.
    Absent,
    /// As `data_base64`. The view is the JSON or the text that the base64 contains.
    Encoded,
    /// As `data_base64`. The view is a string with the base64.
    Bytes,
}

/// The data of an event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventData {
    view: Box<RawValue>,
    #[serde(default)]
    form: DataForm,
}

impl EventData {
    /// Creates data from its stored parts.
    pub fn new(view: Box<RawValue>, form: DataForm) -> Self {
        EventData { view, form }
    }

    pub fn absent() -> Self {
        EventData::new(RawValue::NULL.to_owned(), DataForm::Absent)
    }

    /// Returns the JSON text of the view.
    pub fn get(&self) -> &str {
        self.view.get()
    }

    pub fn view(&self) -> &RawValue {
        &self.view
    }

    pub fn form(&self) -> DataForm {
        self.form
    }

    /// Creates the data of a `data_base64` member. `raw` is its value as JSON.
    pub(super) fn from_base64(raw: &RawValue, content_type: Option<&str>) -> Result<Self, InvalidEvent> {
        let base64: Cow<'_, str> = match raw.get().starts_with('"') {
            true => EscapedText::of_valid(raw.get()).decode(),
            false => return Err(InvalidEvent::Base64("it is not a string")),
        };
        let bytes =
            STANDARD.decode(base64.as_bytes()).map_err(|_| InvalidEvent::Base64("it is not base64"))?;
        match MediaType::of(content_type) {
            MediaType::Json => {
                let view = serde_json::from_slice(&bytes)
                    .map_err(|_| InvalidEvent::Base64("it does not contain JSON, its datacontenttype"))?;
                Ok(EventData::new(view, DataForm::Encoded))
            }
            MediaType::Unknown => match exact_json(&bytes) {
                Some(view) => Ok(EventData::new(view, DataForm::Encoded)),
                None => Ok(EventData::new(raw.to_owned(), DataForm::Bytes)),
            },
            MediaType::Text => match text_view(&bytes) {
                Some(view) => Ok(EventData::new(view, DataForm::Encoded)),
                None => Ok(EventData::new(raw.to_owned(), DataForm::Bytes)),
            },
            MediaType::Bytes => Ok(EventData::new(raw.to_owned(), DataForm::Bytes)),
        }
    }

    /// Creates the data of a request in binary mode from its body.
    pub(super) fn from_body(body: &[u8], content_type: Option<&str>) -> Result<Self, InvalidEvent> {
        if body.is_empty() {
            return Ok(EventData::absent());
        }
        let view = match MediaType::of(content_type) {
            MediaType::Json => Some(
                serde_json::from_slice(body)
                    .map_err(|e| InvalidEvent::DataNotJson(e.to_string().chars().take(256).collect()))?,
            ),
            MediaType::Unknown => serde_json::from_slice(body).ok(),
            MediaType::Text => text_view(body),
            MediaType::Bytes => None,
        };
        match view {
            Some(view) => Ok(EventData::new(view, DataForm::Inline)),
            None => to_raw(format!("\"{}\"", STANDARD.encode(body)))
                .map(|view| EventData::new(view, DataForm::Bytes)),
        }
    }

    /// Returns the bytes that a request in binary mode carries. `is_json`: the data is a JSON value, not a text.
    pub(super) fn body(&self, is_json: bool) -> Cow<'_, [u8]> {
        let text = || EscapedText::of_valid(self.get()).decode();
        match self.form {
            DataForm::Absent => Cow::Borrowed(&[]),
            DataForm::Inline | DataForm::Encoded if is_json => Cow::Borrowed(self.get().as_bytes()),
            DataForm::Inline | DataForm::Encoded => match text() {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            },
            // Checked when the event was accepted.
            DataForm::Bytes => Cow::Owned(STANDARD.decode(text().as_bytes()).unwrap_or_default()),
        }
    }

    /// Returns the value of `data_base64` as JSON, if the data is sent as base64.
    pub(super) fn base64_json(&self, is_json: bool) -> Option<Cow<'_, str>> {
        match self.form {
            DataForm::Absent | DataForm::Inline => None,
            DataForm::Encoded => Some(format!("\"{}\"", STANDARD.encode(self.body(is_json))).into()),
            DataForm::Bytes => Some(self.get().into()),
        }
    }
}

/// JSON data that is sent as `data`.
impl From<Box<RawValue>> for EventData {
    fn from(view: Box<RawValue>) -> Self {
        EventData::new(view, DataForm::Inline)
    }
}

impl PartialEq for EventData {
    fn eq(&self, other: &Self) -> bool {
        (self.get(), self.form) == (other.get(), other.form)
    }
}

/// What a content type says about bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MediaType {
    Json,
    /// Text in UTF-8, unless the bytes are not UTF-8.
    Text,
    Bytes,
    /// There is no content type.
    Unknown,
}

impl MediaType {
    pub(super) fn of(content_type: Option<&str>) -> Self {
        let Some(content_type) = content_type.map(str::trim).filter(|text| !text.is_empty()) else {
            return MediaType::Unknown;
        };
        let (name, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
        let name = name.trim().to_ascii_lowercase();
        let (kind, subtype) = name.split_once('/').unwrap_or((name.as_str(), ""));
        let syntax = subtype.rsplit_once('+').map_or(subtype, |(_, suffix)| suffix);
        if syntax == "json" {
            return MediaType::Json;
        }
        let is_text = kind == "text"
            || matches!(syntax, "xml" | "yaml" | "x-yaml" | "javascript" | "x-javascript" | "ecmascript")
            || matches!(subtype, "x-www-form-urlencoded" | "graphql" | "sql" | "toml" | "xhtml")
            || matches!(subtype, "x-ndjson" | "ndjson" | "jsonl" | "json-seq" | "xml-dtd");
        match is_text && is_utf8(parameters) {
            true => MediaType::Text,
            false => MediaType::Bytes,
        }
    }
}

/// Returns true if the parameters of a media type name no charset, or one of which UTF-8 is a superset. Text of another
/// charset would be sent with other bytes than it was received.
fn is_utf8(parameters: &str) -> bool {
    let charset = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
    });
    charset.is_none_or(|name| {
        ["utf-8", "utf8", "us-ascii", "ascii"].iter().any(|known| name.eq_ignore_ascii_case(known))
    })
}

/// Parses JSON without blanks around it, so that no byte is lost. For bytes without a content type.
fn exact_json(bytes: &[u8]) -> Option<Box<RawValue>> {
    let view: Box<RawValue> = serde_json::from_slice(bytes).ok()?;
    (view.get().len() == bytes.len()).then_some(view)
}

/// Returns text as a JSON string. `None`: the bytes are not UTF-8, or the string would be too long.
fn text_view(bytes: &[u8]) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let max = bytes.len().saturating_mul(MAX_TEXT_GROWTH).saturating_add(2);
    let mut json = String::with_capacity(text.len() + 2);
    write_json_string(text, |piece| {
        json.push_str(piece);
        if json.len() > max { Err(()) } else { Ok(()) }
    })
    .ok()?;
    to_raw(json).ok()
}

fn to_raw(json: String) -> Result<Box<RawValue>, InvalidEvent> {
    RawValue::from_string(json).map_err(|error| InvalidEvent::DataNotJson(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_name_json_text_or_bytes() {
        for (content_type, want) in [
            (None, MediaType::Unknown),
            (Some(" "), MediaType::Unknown),
            (Some("application/json"), MediaType::Json),
            (Some("Text/JSON; charset=utf-8"), MediaType::Json),
            (Some("application/vnd.x+json"), MediaType::Json),
            (Some("text/plain"), MediaType::Text),
            (Some("text/xml; charset=\"UTF-8\""), MediaType::Text),
            (Some("application/soap+xml;action=x"), MediaType::Text),
            (Some("application/x-ndjson"), MediaType::Text),
            (Some("text/plain; charset=iso-8859-1"), MediaType::Bytes),
            (Some("application/xml; charset=utf-16"), MediaType::Bytes),
            (Some("application/octet-stream"), MediaType::Bytes),
            (Some("image/png"), MediaType::Bytes),
            (Some("application/jsonp"), MediaType::Bytes),
            (Some("json"), MediaType::Bytes),
        ] {
            assert_eq!(MediaType::of(content_type), want, "{content_type:?}");
        }
    }

    #[test]
    fn view_of_a_body_keeps_every_byte() {
        for (body, content_type, view, form) in [
            (&b""[..], Some("text/plain"), "null", DataForm::Absent),
            (b" [1.50] ", Some("application/json"), "[1.50]", DataForm::Inline),
            (b"a \"b\"\n\xc3\xa9", Some("text/plain"), "\"a \\\"b\\\"\\n\u{e9}\"", DataForm::Inline),
            (b"\xff\xfe", Some("text/plain"), "\"//4=\"", DataForm::Bytes),
            (b"\x01\x01\x01", Some("text/plain"), "\"AQEB\"", DataForm::Bytes),
            (b"text", Some("image/png"), "\"dGV4dA==\"", DataForm::Bytes),
            (b"{}", None, "{}", DataForm::Inline),
            (b"\x00", None, "\"AA==\"", DataForm::Bytes),
        ] {
            let data = EventData::from_body(body, content_type).unwrap();
            assert_eq!((data.get(), data.form()), (view, form), "{body:?}");
            let sent = data.body(MediaType::of(content_type) == MediaType::Json || content_type.is_none());
            assert_eq!(sent.trim_ascii(), body.trim_ascii(), "{body:?}");
            assert!(data.get().len() <= 2 * body.len() + 4);
        }
        assert!(EventData::from_body(b"{", Some("application/json")).is_err());
    }

    #[test]
    fn base64_is_sent_as_it_was_received() {
        let read = |base64: &str, content_type| {
            let raw = RawValue::from_string(base64.to_owned()).unwrap();
            EventData::from_base64(&raw, content_type)
        };
        for (base64, content_type, view, form) in [
            ("\"eyJhIjoxfQ==\"", Some("application/json"), "{\"a\":1}", DataForm::Encoded),
            ("\"eyJhIjoxfQ==\"", None, "{\"a\":1}", DataForm::Encoded),
            ("\"IDU=\"", None, "\"IDU=\"", DataForm::Bytes),
            ("\"aGVsbG8=\"", Some("text/plain"), "\"hello\"", DataForm::Encoded),
            ("\"aGVsbG8=\"", Some("image/png"), "\"aGVsbG8=\"", DataForm::Bytes),
            ("\"\\/\\/4=\"", Some("text/plain"), "\"\\/\\/4=\"", DataForm::Bytes),
            ("\"\"", Some("image/png"), "\"\"", DataForm::Bytes),
        ] {
            let data = read(base64, content_type).unwrap();
            assert_eq!((data.get(), data.form()), (view, form), "{base64}");
            let is_json = matches!(view.chars().next(), Some('{'));
            assert_eq!(data.base64_json(is_json).as_deref(), Some(base64));
        }
        assert!(read("\"e\"", None).is_err() && read("5", None).is_err());
        assert!(read("\"aGVsbG8=\"", Some("application/json")).is_err());
    }
}
