//! Parses request bodies into event drafts.
//!
//! Supports CloudEvents 1.0 over HTTP (structured, binary and batch mode, data of any content type), plain `{"source","event","data"}`, and Kong's
//! relays. Does not depend on an HTTP library: headers are passed as names and bytes.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::attributes::{check_no_control_characters, check_rfc3339, parse_attribute};
use super::binary::parse_binary;
use super::data::{NameProblem, ReadProblem, UnreadableData, check_unique_names};
use super::draft::{EventDraft, PublishedEvents};
use super::hops::{MAX_HOPS, hops};
use super::members::{Duplicates, Member, Members};
use super::payload::EventData;
use super::rejection::{
    EventRejection, InvalidEvent, MAX_ATTRIBUTES, MAX_BATCH, MAX_DEPTH, MAX_ID, MAX_NAME,
};
use super::{CONTENT_TYPE_ATTRIBUTE, RESERVED_SOURCES};

/// How a request encodes its events.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Batch,
    Structured,
    /// Attributes in headers, data in the body.
    Binary,
    /// `{"source","event","data"}`.
    Plain,
}

/// Returns the media type in lower case, without parameters.
fn media_type(content_type: Option<&str>) -> Option<String> {
    content_type.map(|t| t.split(';').next().unwrap_or(t).trim().to_ascii_lowercase())
}

/// Returns true for the content type of a batch, whose body may be larger than a single event.
pub fn is_batch(content_type: Option<&str>) -> bool {
    media_type(content_type).as_deref() == Some("application/cloudevents-batch+json")
}

/// Parses a publish request of an API client.
///
/// `headers` yields all request headers with lower-case names; only those that start with `ce-` are used.
/// `max_event_bytes` limits each event of a batch; the caller limits the body as a whole.
pub fn parse_request<'h>(
    content_type: Option<&str>,
    headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    body: &[u8],
    max_event_bytes: usize,
) -> Result<PublishedEvents, EventRejection> {
    let media_type = media_type(content_type);
    let unsupported = |media_type: &str| {
        EventRejection::from(InvalidEvent::ContentType(media_type.chars().take(128).collect()))
    };
    let attributes: Vec<(&str, &[u8])> =
        headers.into_iter().filter_map(|(name, value)| Some((name.strip_prefix("ce-")?, value))).collect();
    // The content type takes precedence over the headers (HTTP binding, 3): a structured event may repeat its attributes
    // in headers.
    let mode = match media_type.as_deref() {
        Some("application/cloudevents+json") => Mode::Structured,
        Some("application/cloudevents-batch+json") => Mode::Batch,
        Some(other) if other.starts_with("application/cloudevents") => return Err(unsupported(other)),
        _ if attributes.iter().any(|(name, _)| *name == "specversion") => Mode::Binary,
        None | Some("application/json") => Mode::Plain,
        Some(other) => return Err(unsupported(other)),
    };
    match mode {
        Mode::Batch => parse_batch(body, max_event_bytes).map(PublishedEvents::Batch),
        Mode::Binary => {
            let draft = parse_binary(&attributes, content_type, body).and_then(validate_published);
            Ok(PublishedEvents::One(draft?))
        }
        Mode::Structured | Mode::Plain => {
            let members = Members::parse(body, Duplicates::Reject)?;
            let structured = mode == Mode::Structured || members.get("specversion").is_some();
            let draft = if structured { parse_structured(&members) } else { parse_plain(&members) };
            Ok(PublishedEvents::One(draft.and_then(validate_published)?))
        }
    }
}

/// Parses a single event of an API client: a structured CloudEvent, or plain `{"source","event","data"}`.
pub fn parse_published(content_type: Option<&str>, body: &[u8]) -> Result<EventDraft, InvalidEvent> {
    match parse_request(content_type, [], body, usize::MAX) {
        Ok(PublishedEvents::One(draft)) => Ok(draft),
        Ok(PublishedEvents::Batch(_)) => {
            Err(InvalidEvent::ContentType("application/cloudevents-batch+json, for one event,".into()))
        }
        Err(rejected) => Err(rejected.error),
    }
}

fn parse_batch(body: &[u8], max_event_bytes: usize) -> Result<Vec<EventDraft>, EventRejection> {
    let Batch(events) = serde_json::from_slice(body)
        .map_err(|error| InvalidEvent::NotJsonList(error.to_string().chars().take(256).collect()))?;
    if events.len() > MAX_BATCH {
        return Err(InvalidEvent::TooMany.into());
    }
    let parse_one = |raw: &RawValue| {
        if raw.get().len() > max_event_bytes {
            return Err(InvalidEvent::TooBig(max_event_bytes));
        }
        validate_published(parse_structured(&Members::parse(raw.get().as_bytes(), Duplicates::Reject)?)?)
    };
    let indexed = |(index, raw)| parse_one(raw).map_err(|error| EventRejection { index: Some(index), error });
    events.into_iter().enumerate().map(indexed).collect()
}

/// The events of a batch as JSON text, at most `MAX_BATCH + 1` of them.
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
                    // Skip the rest, so that a body of millions of one-byte events does not fill the memory.
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

/// Applies the rules for events of API clients: readable data with unique names, no control characters, no reserved
/// source, and fewer than `MAX_HOPS` hops.
fn validate_published(draft: EventDraft) -> Result<EventDraft, InvalidEvent> {
    check_unique_names(draft.data.get(), MAX_DEPTH, "data").map_err(|problem| match problem {
        NameProblem::Unreadable(UnreadableData { problem: ReadProblem::TooDeep, .. }) => {
            InvalidEvent::TooDeep
        }
        NameProblem::Unreadable(error) => InvalidEvent::DataNotJson(error.to_string()),
        // Receivers could read another value than the worker.
        NameProblem::Duplicate(path) => InvalidEvent::NotJson(format!("the member {path} occurs twice")),
    })?;
    let required = [
        ("source", Some(&draft.source)),
        ("the event's name", Some(&draft.event)),
        ("id", draft.id.as_ref()),
    ];
    let required = required.into_iter().filter_map(|(name, text)| Some((name, text?.as_str())));
    let attributes =
        draft.attributes.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)));
    required.chain(attributes).try_for_each(|(name, text)| check_no_control_characters(name, text))?;
    if RESERVED_SOURCES.contains(&draft.source.as_str()) {
        return Err(InvalidEvent::ReservedSource(draft.source));
    }
    if hops(&draft.attributes) >= MAX_HOPS {
        return Err(InvalidEvent::TooManyHops);
    }
    Ok(draft)
}

/// Rejects data that nests deeper than filters, gates and handlers can read.
fn check_depth(data: &RawValue) -> Result<(), InvalidEvent> {
    if is_deeper_than(data.get(), MAX_DEPTH) { Err(InvalidEvent::TooDeep) } else { Ok(()) }
}

/// Returns true if valid JSON nests deeper than `max`. Not recursive, because it protects recursive parsers.
fn is_deeper_than(json: &str, max: usize) -> bool {
    // Fast path: with at most `max` opening brackets the nesting cannot exceed `max`. The compiler vectorizes this count:
    // `[` and `{` differ in one bit, and a count of at most 255 fits a byte.
    let opening =
        |part: &[u8]| usize::from(part.iter().map(|byte| u8::from(byte | 0x20 == b'{')).sum::<u8>());
    if json.as_bytes().chunks(255).map(opening).sum::<usize>() <= max {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > max {
                    return true;
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// Parses a relay of Kong: `source` and `event` beside the members of data.
pub fn parse_relayed(body: &[u8]) -> Result<EventDraft, InvalidEvent> {
    let members = Members::parse(body, Duplicates::UseLast)?;
    let source = members.text("source", MAX_NAME)?.ok_or(InvalidEvent::Missing("source"))?;
    let event = members.text("event", MAX_NAME)?.ok_or(InvalidEvent::Missing("event"))?;
    let data = members.without(&["source", "event"]).to_raw()?;
    check_depth(&data)?;
    Ok(EventDraft { id: None, source, event, time: None, data: data.into(), attributes: BTreeMap::new() })
}

/// Parses a delivery of Auth0: a structured CloudEvent. Ignores the content type, which Auth0 does not document.
pub fn parse_streamed(body: &[u8]) -> Result<EventDraft, InvalidEvent> {
    let draft = parse_structured(&Members::parse(body, Duplicates::UseLast)?)?;
    check_depth(draft.data.view())?;
    Ok(draft)
}

/// Parses the data with which a user tests a hook: a JSON object. Also returns its member `event`, if it is a text.
pub fn parse_test_data(body: &[u8]) -> Result<(Box<RawValue>, Option<String>), InvalidEvent> {
    let event = Members::parse(body, Duplicates::UseLast)?.text("event", MAX_NAME);
    let data: &RawValue =
        serde_json::from_slice(body).map_err(|error| InvalidEvent::NotJson(error.to_string()))?;
    check_depth(data)?;
    Ok((data.to_owned(), event.unwrap_or(None)))
}

fn parse_plain(members: &Members<'_>) -> Result<EventDraft, InvalidEvent> {
    let known = ["id", "source", "event", "time", "data"];
    if let Some(member) = members.iter().find(|member| !known.contains(&member.name.as_ref())) {
        return Err(InvalidEvent::WrongType {
            field: member.name.chars().take(64).collect(),
            want: "left out: a plain event has source, event, data and, optionally, id and time",
        });
    }
    Ok(EventDraft {
        id: members.text("id", MAX_ID)?,
        source: members.text("source", MAX_NAME)?.ok_or(InvalidEvent::Missing("source"))?,
        event: members.text("event", MAX_NAME)?.ok_or(InvalidEvent::Missing("event"))?,
        time: parse_time(members)?,
        data: parse_data(members),
        attributes: BTreeMap::new(),
    })
}

fn parse_structured(members: &Members<'_>) -> Result<EventDraft, InvalidEvent> {
    match members.text("specversion", 16)?.as_deref() {
        Some("1.0") => {}
        Some(other) => return Err(InvalidEvent::SpecVersion(other.to_owned())),
        None => return Err(InvalidEvent::Missing("specversion")),
    }
    let mut attributes = BTreeMap::new();
    for Member { name, value: raw, .. } in members.iter() {
        let is_handled = matches!(
            name.as_ref(),
            "specversion" | "id" | "source" | "type" | "time" | "data" | "data_base64"
        );
        // CloudEvents: a null attribute counts as absent.
        if is_handled || raw.get() == "null" {
            continue;
        }
        attributes.insert(name.to_string(), parse_attribute(name, raw)?);
    }
    if attributes.len() > MAX_ATTRIBUTES {
        return Err(InvalidEvent::TooManyAttributes);
    }
    let content_type = match attributes.get(CONTENT_TYPE_ATTRIBUTE) {
        Some(Value::String(text)) => Some(text.as_str()),
        Some(_) => {
            return Err(InvalidEvent::WrongType { field: CONTENT_TYPE_ATTRIBUTE.into(), want: "a string" });
        }
        None => None,
    };
    let data = match members.get("data_base64").filter(|raw| raw.get() != "null") {
        None => parse_data(members),
        Some(_) if members.get("data").is_some() => {
            return Err(InvalidEvent::Base64("data is present too: send one of them"));
        }
        Some(raw) => EventData::from_base64(raw, content_type)?,
    };
    Ok(EventDraft {
        id: Some(members.text("id", MAX_ID)?.ok_or(InvalidEvent::Missing("id"))?),
        source: members.text("source", MAX_NAME)?.ok_or(InvalidEvent::Missing("source"))?,
        event: members.text("type", MAX_NAME)?.ok_or(InvalidEvent::Missing("type"))?,
        time: parse_time(members)?,
        data,
        attributes,
    })
}

/// Returns the member `data`.
fn parse_data(members: &Members<'_>) -> EventData {
    members.get("data").map_or_else(EventData::absent, |raw| raw.to_owned().into())
}

fn parse_time(members: &Members<'_>) -> Result<Option<String>, InvalidEvent> {
    let time = members.text("time", 64)?;
    if let Some(time) = &time {
        check_rfc3339(time)?;
    }
    Ok(time)
}
