//! From foreign bytes to events.
//!
//! CloudEvents 1.0 over HTTP (structured, binary, batch), plain `{"source","event","data"}`, and Kong's relays. HTTP is
//! not known here: headers are names and bytes.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::binary::binary_draft;
use super::members::Members;
use super::{MAX_HOPS, RESERVED_SOURCES, hops};
use crate::core::time::Millis;

/// Events of one batch.
pub const MAX_BATCH: usize = 1000;
/// Levels that data may nest: what every later reader here (filters, gates, templates) can read.
pub const MAX_DEPTH: usize = 127;

pub const MAX_NAME: usize = 253;
pub(super) const MAX_ID: usize = 512;
pub(super) const MAX_ATTRIBUTES: usize = 64;
const MAX_ATTRIBUTE_NAME: usize = 64;
const MAX_ATTRIBUTE: usize = 4096;
/// An event as its sender wrote it.
#[derive(Clone, Debug)]
pub struct Draft {
    pub id: Option<String>,
    pub source: String,
    pub event: String,
    pub time: Option<String>,
    pub data: Box<RawValue>,
    pub attributes: BTreeMap<String, Value>,
}

/// Why bytes are no event. The reason goes to the sender.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
pub enum BadEvent {
    #[error("the body is no JSON object: {0}")]
    NotJson(String),
    #[error("the body is no JSON list of events: {0}")]
    NotJsonList(String),
    #[error("the data is no JSON: {0}")]
    DataNotJson(String),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{field} must be {want}")]
    WrongType { field: String, want: &'static str },
    #[error("{field} is longer than {max} bytes")]
    TooLong { field: String, max: usize },
    #[error("more than {MAX_ATTRIBUTES} attributes")]
    TooManyAttributes,
    #[error("specversion {0} is not known: send CloudEvents 1.0")]
    SpecVersion(String),
    #[error(
        "content type {0} is not taken: data must be JSON, so send application/json, application/cloudevents+json or \
         application/cloudevents-batch+json"
    )]
    ContentType(String),
    #[error("the header {0} is no CloudEvents attribute: {1}")]
    Header(String, &'static str),
    #[error("data_base64 holds no JSON: {0}")]
    Base64(&'static str),
    #[error("data is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("a batch may hold {MAX_BATCH} events")]
    TooMany,
    #[error("an event of a batch may have {0} bytes")]
    TooBig(usize),
    #[error("the source {0} is reserved for the vendor's own events: choose another")]
    ReservedSource(String),
    #[error("the event went through {MAX_HOPS} hooks: two of them feed each other")]
    TooManyHops,
}

/// What one request published.
#[derive(Clone, Debug)]
pub enum Published {
    One(Draft),
    Batch(Vec<Draft>),
}

/// Why a request was refused, and which event of a batch it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Rejected {
    pub index: Option<usize>,
    pub bad: BadEvent,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => write!(f, "event {index} of the batch: {}", self.bad),
            None => self.bad.fmt(f),
        }
    }
}

impl From<BadEvent> for Rejected {
    fn from(bad: BadEvent) -> Self {
        Rejected { index: None, bad }
    }
}

/// How an event stands in a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Batch,
    Structured,
    /// Attributes in headers, data in the body.
    Binary,
    Plain,
}

fn essence(content_type: Option<&str>) -> Option<String> {
    content_type.map(|t| t.split(';').next().unwrap_or(t).trim().to_ascii_lowercase())
}

/// True for a batch, which may be larger than one event.
pub fn is_batch(content_type: Option<&str>) -> bool {
    essence(content_type).as_deref() == Some("application/cloudevents-batch+json")
}

fn is_json(essence: &str) -> bool {
    matches!(essence, "application/json" | "text/json") || essence.ends_with("+json")
}

/// Reads what an API caller published. `headers`: all of them, their names in lower case; those that begin with `ce-` are
/// looked at. `max_event_bytes` bounds each event of a batch; the body as a whole is bounded by who read it.
pub fn parse_request<'h>(
    content_type: Option<&str>,
    headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    body: &[u8],
    max_event_bytes: usize,
) -> Result<Published, Rejected> {
    let essence = essence(content_type);
    let refused = |essence: &str| Rejected::from(BadEvent::ContentType(essence.chars().take(128).collect()));
    let attributes: Vec<(&str, &[u8])> =
        headers.into_iter().filter_map(|(name, value)| Some((name.strip_prefix("ce-")?, value))).collect();
    // The content type goes before the headers (HTTP binding, 3): a structured event may repeat attributes there.
    let mode = match essence.as_deref() {
        Some("application/cloudevents+json") => Mode::Structured,
        Some("application/cloudevents-batch+json") => Mode::Batch,
        Some(other) if other.starts_with("application/cloudevents") => return Err(refused(other)),
        other if attributes.iter().any(|(name, _)| *name == "specversion") => match other {
            Some(other) if !is_json(other) => return Err(refused(other)),
            _ => Mode::Binary,
        },
        None | Some("application/json") => Mode::Plain,
        Some(other) => return Err(refused(other)),
    };
    match mode {
        Mode::Batch => batch(body, max_event_bytes).map(Published::Batch),
        Mode::Binary => {
            let draft = binary_draft(&attributes, content_type, body).and_then(checked);
            Ok(Published::One(draft?))
        }
        Mode::Structured | Mode::Plain => {
            let members = Members::parse(body)?;
            let structured = mode == Mode::Structured || members.get("specversion").is_some();
            let draft = if structured { structured_draft(&members) } else { plain_draft(&members) };
            Ok(Published::One(draft.and_then(checked)?))
        }
    }
}

/// Reads one event that an API caller published: a structured CloudEvent, or plain `{"source","event","data"}`.
pub fn parse_published(content_type: Option<&str>, body: &[u8]) -> Result<Draft, BadEvent> {
    match parse_request(content_type, [], body, usize::MAX) {
        Ok(Published::One(draft)) => Ok(draft),
        Ok(Published::Batch(_)) => {
            Err(BadEvent::ContentType("application/cloudevents-batch+json, for one event,".into()))
        }
        Err(rejected) => Err(rejected.bad),
    }
}

fn batch(body: &[u8], max_event_bytes: usize) -> Result<Vec<Draft>, Rejected> {
    let Batch(events) = serde_json::from_slice(body)
        .map_err(|error| BadEvent::NotJsonList(error.to_string().chars().take(256).collect()))?;
    if events.len() > MAX_BATCH {
        return Err(BadEvent::TooMany.into());
    }
    let read = |raw: &RawValue| {
        if raw.get().len() > max_event_bytes {
            return Err(BadEvent::TooBig(max_event_bytes));
        }
        checked(structured_draft(&Members::parse(raw.get().as_bytes())?)?)
    };
    let one = |(index, raw)| read(raw).map_err(|bad| Rejected { index: Some(index), bad });
    events.into_iter().enumerate().map(one).collect()
}

/// The events of a batch, as text; at most one more than may be.
struct Batch<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Batch<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Batch<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of CloudEvents")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut events = Vec::new();
                while let Some(event) = seq.next_element::<&'de RawValue>()? {
                    // The rest is read and let go: a body of nothing but commas and digits must not fill the memory.
                    if events.len() <= MAX_BATCH {
                        events.push(event);
                    }
                }
                Ok(Batch(events))
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// What holds for every event of an API caller.
fn checked(draft: Draft) -> Result<Draft, BadEvent> {
    readable(&draft.data)?;
    let own = [
        ("source", Some(&draft.source)),
        ("the event's name", Some(&draft.event)),
        ("id", draft.id.as_ref()),
    ];
    let own = own.into_iter().filter_map(|(name, text)| Some((name, text?.as_str())));
    let others = draft.attributes.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)));
    own.chain(others).try_for_each(|(name, text)| plain_text(name, text))?;
    if RESERVED_SOURCES.contains(&draft.source.as_str()) {
        return Err(BadEvent::ReservedSource(draft.source));
    }
    if hops(&draft.attributes) >= MAX_HOPS {
        return Err(BadEvent::TooManyHops);
    }
    Ok(draft)
}

/// Refuses data that nobody could read later.
fn readable(data: &RawValue) -> Result<(), BadEvent> {
    if deeper_than(data.get(), MAX_DEPTH) {
        return Err(BadEvent::TooDeep);
    }
    // Kong's format takes data apart: where a name stands twice in it, nobody could say which one was meant.
    if data.get().starts_with('{') {
        Members::parse(data.get().as_bytes())?;
    }
    Ok(())
}

/// True where valid JSON nests deeper than `max`. Without recursion, for that is what it guards.
fn deeper_than(json: &str, max: usize) -> bool {
    // What does not open so often cannot be so deep: that is quicker to see, many bytes at a time (the brackets differ in
    // one bit, and a count of 255 fits a byte).
    let opens = |part: &[u8]| usize::from(part.iter().map(|byte| u8::from(byte | 0x20 == b'{')).sum::<u8>());
    if json.as_bytes().chunks(255).map(opens).sum::<usize>() <= max {
        return false;
    }
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                if depth > max {
                    return true;
                }
            }
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// Reads what Kong relayed: the members of data with `source` and `event`.
pub fn parse_relayed(body: &[u8]) -> Result<Draft, BadEvent> {
    let members = Members::parse(body)?;
    let source = members.text("source", MAX_NAME)?.ok_or(BadEvent::Missing("source"))?;
    let event = members.text("event", MAX_NAME)?.ok_or(BadEvent::Missing("event"))?;
    let data = members.without(&["source", "event"]).to_raw()?;
    if deeper_than(data.get(), MAX_DEPTH) {
        return Err(BadEvent::TooDeep);
    }
    Ok(Draft { id: None, source, event, time: None, data, attributes: BTreeMap::new() })
}

/// Reads what Auth0 sent: a structured CloudEvent, whatever its content type says, for that is not documented.
pub fn parse_streamed(body: &[u8]) -> Result<Draft, BadEvent> {
    let draft = structured_draft(&Members::parse(body)?)?;
    readable(&draft.data)?;
    Ok(draft)
}

fn plain_draft(members: &Members<'_>) -> Result<Draft, BadEvent> {
    let known = ["id", "source", "event", "time", "data"];
    if let Some((name, _)) = members.0.iter().find(|(name, _)| !known.contains(&name.as_ref())) {
        return Err(BadEvent::WrongType {
            field: name.chars().take(64).collect(),
            want: "left out: a plain event has source, event, data, and perhaps id and time",
        });
    }
    Ok(Draft {
        id: members.text("id", MAX_ID)?,
        source: members.text("source", MAX_NAME)?.ok_or(BadEvent::Missing("source"))?,
        event: members.text("event", MAX_NAME)?.ok_or(BadEvent::Missing("event"))?,
        time: time_of(members)?,
        data: members.get("data").map_or_else(|| RawValue::NULL.to_owned(), ToOwned::to_owned),
        attributes: BTreeMap::new(),
    })
}

fn structured_draft(members: &Members<'_>) -> Result<Draft, BadEvent> {
    match members.text("specversion", 16)?.as_deref() {
        Some("1.0") => {}
        Some(other) => return Err(BadEvent::SpecVersion(other.to_owned())),
        None => return Err(BadEvent::Missing("specversion")),
    }
    let data = match members.get("data_base64").filter(|raw| raw.get() != "null") {
        None => members.get("data").map_or_else(|| RawValue::NULL.to_owned(), ToOwned::to_owned),
        Some(_) if members.get("data").is_some() => {
            return Err(BadEvent::Base64("data stands beside it: send one of them"));
        }
        Some(raw) => base64_data(raw)?,
    };
    let mut attributes = BTreeMap::new();
    for (name, raw) in &members.0 {
        let own = matches!(
            name.as_ref(),
            "specversion" | "id" | "source" | "type" | "time" | "data" | "data_base64"
        );
        // CloudEvents: an attribute that is null is one that was left out.
        if own || raw.get() == "null" {
            continue;
        }
        attributes.insert(name.to_string(), attribute(name, raw)?);
    }
    if attributes.len() > MAX_ATTRIBUTES {
        return Err(BadEvent::TooManyAttributes);
    }
    Ok(Draft {
        id: Some(members.text("id", MAX_ID)?.ok_or(BadEvent::Missing("id"))?),
        source: members.text("source", MAX_NAME)?.ok_or(BadEvent::Missing("source"))?,
        event: members.text("type", MAX_NAME)?.ok_or(BadEvent::Missing("type"))?,
        time: time_of(members)?,
        data,
        attributes,
    })
}

/// Binary data is taken where it is JSON after all, as some SDKs send it.
fn base64_data(raw: &RawValue) -> Result<Box<RawValue>, BadEvent> {
    let text: String = serde_json::from_str(raw.get()).map_err(|_| BadEvent::Base64("it is no text"))?;
    let bytes = STANDARD.decode(text).map_err(|_| BadEvent::Base64("it is no base64"))?;
    serde_json::from_slice(&bytes).map_err(|_| BadEvent::Base64("only JSON data is taken"))
}

fn time_of(members: &Members<'_>) -> Result<Option<String>, BadEvent> {
    let time = members.text("time", 64)?;
    if let Some(time) = &time {
        rfc3339(time)?;
    }
    Ok(time)
}

pub(super) fn rfc3339(time: &str) -> Result<(), BadEvent> {
    // The parser knows more forms than RFC 3339, and the text goes out again to receivers that do not.
    if Millis::parse(time).is_none() || !rfc3339_form(time) {
        return Err(BadEvent::WrongType { field: "time".into(), want: "an RFC 3339 time" });
    }
    Ok(())
}

/// `yyyy-mm-ddThh:mm:ss`, perhaps a fraction, and `Z` or `+hh:mm`; that the numbers are a time is not looked at.
fn rfc3339_form(time: &str) -> bool {
    let digits = |text: &str, form: &str| {
        text.len() == form.len()
            && text
                .bytes()
                .zip(form.bytes())
                .all(|(b, f)| if f == b'0' { b.is_ascii_digit() } else { b == f })
    };
    let upper = time.to_ascii_uppercase();
    let Some((seconds, rest)) = upper.split_at_checked(19) else { return false };
    let offset = match rest.strip_prefix('.') {
        Some(fraction) => {
            let offset = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            if offset.len() == fraction.len() {
                return false;
            }
            offset
        }
        None => rest,
    };
    digits(seconds, "0000-00-00T00:00:00")
        && (offset == "Z" || digits(offset, "+00:00") || digits(offset, "-00:00"))
}

/// The names of attributes are lower-case letters and digits.
pub(super) fn attribute_name(name: &str) -> Result<&str, BadEvent> {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if name.is_empty() || name.len() > MAX_ATTRIBUTE_NAME || !plain {
        return Err(BadEvent::WrongType {
            field: name.chars().take(64).collect(),
            want: "an attribute's name of lower-case letters and digits",
        });
    }
    Ok(name)
}

/// CloudEvents (2.2) knows no control characters in attributes, which are printed and may become headers.
fn plain_text(field: &str, text: &str) -> Result<(), BadEvent> {
    if text.chars().any(char::is_control) {
        return Err(BadEvent::WrongType {
            field: field.to_owned(),
            want: "a text without control characters",
        });
    }
    Ok(())
}

pub(super) fn bounded_text(name: &str, text: String) -> Result<Value, BadEvent> {
    if text.len() > MAX_ATTRIBUTE {
        return Err(BadEvent::TooLong { field: name.to_owned(), max: MAX_ATTRIBUTE });
    }
    Ok(Value::String(text))
}

/// CloudEvents attributes are texts, booleans or whole numbers of 32 bits.
fn attribute(name: &str, raw: &RawValue) -> Result<Value, BadEvent> {
    attribute_name(name)?;
    if raw.get().len() > MAX_ATTRIBUTE {
        return Err(BadEvent::TooLong { field: name.to_owned(), max: MAX_ATTRIBUTE });
    }
    match serde_json::from_str(raw.get()) {
        Ok(value @ (Value::String(_) | Value::Bool(_))) => Ok(value),
        Ok(Value::Number(n)) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => Ok(Value::Number(n)),
        _ => Err(BadEvent::WrongType { field: name.to_owned(), want: "a text, a boolean or a whole number" }),
    }
}
