//! The W3C Trace Context of events. The worker takes it from the publish request, stores it as CloudEvents attributes
//! and sends it with every attempt, so that a trace connects sender and receiver.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

/// The name of the header and of the attribute that hold the context of a span.
pub const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";
/// Maximum length of `tracestate` in bytes, from the specification.
const MAX_STATE: usize = 512;
/// The flag of a trace that its sender records.
const SAMPLED: u8 = 1;

/// The context of a span, as `traceparent` states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    pub is_sampled: bool,
}

impl TraceParent {
    /// Parses version 00: version, trace id, span id and flags in lower-case hex; neither id may be all zeros.
    pub fn parse(text: &str) -> Option<TraceParent> {
        // `hex` accepts capitals, which the specification forbids.
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return None;
        }
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if version != "00" || parts.next().is_some() {
            return None;
        }
        let (mut trace_id, mut span_id, mut flag_bits) = ([0; 16], [0; 8], [0; 1]);
        hex::decode_to_slice(trace, &mut trace_id).ok()?;
        hex::decode_to_slice(span, &mut span_id).ok()?;
        hex::decode_to_slice(flags, &mut flag_bits).ok()?;
        let [flags] = flag_bits;
        let is_valid = trace_id != [0; 16] && span_id != [0; 8];
        is_valid.then_some(TraceParent { trace_id, span_id, is_sampled: flags & SAMPLED != 0 })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = if self.is_sampled { SAMPLED } else { 0 };
        write!(f, "00-{}-{}-{flags:02x}", hex::encode(self.trace_id), hex::encode(self.span_id))
    }
}

/// Returns the trace context of an event with these attributes, if it has a valid one.
pub fn parent_of(attributes: &BTreeMap<String, Value>) -> Option<TraceParent> {
    attributes.get(PARENT).and_then(Value::as_str).and_then(TraceParent::parse)
}

/// Copies the trace context from a request's headers to an event's attributes, unless the event already has one.
pub fn inherit_headers<'a>(
    attributes: &mut BTreeMap<String, Value>,
    header: impl Fn(&str) -> Option<&'a str>,
) {
    if attributes.contains_key(PARENT) {
        return;
    }
    let Some(parent) = header(PARENT).filter(|text| is_parent(text)) else { return };
    attributes.insert(PARENT.to_owned(), Value::from(parent));
    if let Some(state) = header(STATE).filter(|text| is_state(text)) {
        attributes.insert(STATE.to_owned(), Value::from(state));
    }
}

/// Returns the trace headers to send with an event: none, `traceparent`, or `traceparent` and `tracestate`.
pub fn headers(attributes: &BTreeMap<String, Value>) -> impl Iterator<Item = (&'static str, &str)> {
    let text = |name: &str| attributes.get(name).and_then(Value::as_str);
    let parent = text(PARENT).filter(|text| is_parent(text));
    let state = parent.and_then(|_| text(STATE)).filter(|text| is_state(text));
    [(PARENT, parent), (STATE, state)].into_iter().filter_map(|(name, value)| Some((name, value?)))
}

fn is_parent(text: &str) -> bool {
    TraceParent::parse(text).is_some()
}

fn is_state(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_STATE && text.bytes().all(|b| (0x20..0x7f).contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn forwarded(
        parent: &str,
        state: Option<&str>,
        mut before: BTreeMap<String, Value>,
    ) -> Vec<(String, String)> {
        inherit_headers(&mut before, |name| if name == PARENT { Some(parent) } else { state });
        headers(&before).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn forwards_trace_context() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(forwarded(TRACE, None, BTreeMap::new()), [pair(PARENT, TRACE)]);
        assert_eq!(forwarded(TRACE, Some("a=b"), BTreeMap::new()), [pair(PARENT, TRACE), pair(STATE, "a=b")]);
        let own = "00-11111111111111111111111111111111-2222222222222222-00";
        let existing = BTreeMap::from([(PARENT.to_owned(), Value::from(own))]);
        assert_eq!(forwarded(TRACE, Some("a=b"), existing), [pair(PARENT, own)]);
    }

    #[test]
    fn parses_and_writes_a_span_context() {
        let parsed = TraceParent::parse(TRACE).unwrap();
        assert_eq!((parsed.to_string().as_str(), parsed.is_sampled), (TRACE, true));
        let unsampled = TraceParent::parse(&TRACE.replace("-01", "-02")).unwrap();
        assert!(!unsampled.is_sampled && unsampled.to_string().ends_with("-00"), "{unsampled}");
    }

    #[test]
    fn drops_invalid_trace_context() {
        for text in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e473x-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert_eq!(forwarded(text, Some("a=b"), BTreeMap::new()), [], "{text}");
            let stored = BTreeMap::from([(PARENT.to_owned(), Value::from(text))]);
            assert_eq!(headers(&stored).count(), 0, "{text}");
        }
        assert_eq!(forwarded(TRACE, Some("a\r\nb"), BTreeMap::new()).len(), 1);
    }
}
