//! The trace of an event, and the ids of its spans.

use crate::core::digest::hash_parts;
use crate::core::event::{Event, hops};
use crate::core::trace::{TraceParent, parent_of};

/// The trace of an event that is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EventTrace {
    pub trace_id: [u8; 16],
    /// The sender's span. None: the trace begins here.
    pub parent: Option<[u8; 8]>,
    /// The ingest span, which is the parent of the event's attempts.
    pub ingest: [u8; 8],
}

impl EventTrace {
    /// Returns the trace of an event, or None if it is not recorded. The sender's decision applies to a trace that began at
    /// the sender, and `sample_ratio` to others.
    pub fn of(event: &Event, sample_ratio: f64) -> Option<EventTrace> {
        let (trace_id, parent) = match parent_of(&event.attributes) {
            Some(TraceParent { is_sampled: false, .. }) => return None,
            Some(TraceParent { trace_id, span_id, .. }) => (trace_id, Some(span_id)),
            None => {
                let Event { namespace, source, id, time, .. } = event;
                let trace_id = hash::<16>(&[
                    b"trace",
                    namespace.as_bytes(),
                    source.as_bytes(),
                    id.as_bytes(),
                    time.as_bytes(),
                ]);
                if !is_sampled(trace_id, sample_ratio) {
                    return None;
                }
                (trace_id, None)
            }
        };
        // The hops tell the spans of an event apart that a hook sends to another worker under its id.
        let hops = hops(&event.attributes).to_be_bytes();
        let Event { namespace, source, id, .. } = event;
        let parts = [b"ingest", &trace_id[..], namespace.as_bytes(), source.as_bytes(), id.as_bytes(), &hops];
        Some(EventTrace { trace_id, parent, ingest: hash::<8>(&parts) })
    }

    /// Returns the context of one of the trace's spans.
    pub fn context(&self, span_id: [u8; 8]) -> TraceParent {
        TraceParent { trace_id: self.trace_id, span_id, is_sampled: true }
    }
}

/// Returns an id for a span that nothing refers to later.
pub(super) fn random_span_id() -> [u8; 8] {
    fastrand::u64(1..).to_be_bytes()
}

/// Returns the first bytes of a hash, which are never all zeros in practice.
fn hash<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut id = [0; N];
    for (byte, hashed) in id.iter_mut().zip(hash_parts(parts)) {
        *byte = hashed;
    }
    id
}

/// Decides by the trace's id, so that ingest and attempts decide alike.
fn is_sampled(trace_id: [u8; 16], ratio: f64) -> bool {
    let [a, b, c, d, ..] = trace_id;
    f64::from(u32::from_be_bytes([a, b, c, d])) < ratio * (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::trace::PARENT;
    use crate::traces::testing::event;

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn event_with(id: &str, parent: &str) -> Event {
        let attributes = [(PARENT.to_owned(), parent.into())].into();
        Event { attributes, ..event(id) }
    }

    #[test]
    fn sender_decides_for_its_own_trace() {
        let trace = EventTrace::of(&event_with("1", SAMPLED), 0.0).unwrap();
        assert_eq!(trace.context(trace.parent.unwrap()).to_string(), SAMPLED);
        assert_eq!(EventTrace::of(&event_with("1", &SAMPLED.replace("-01", "-00")), 1.0), None);
    }

    #[test]
    fn ids_are_the_same_after_a_restart_and_differ_between_events() {
        for parent in ["", SAMPLED] {
            let of = |id: &str| EventTrace::of(&event_with(id, parent), 1.0).unwrap();
            assert_eq!(of("1"), of("1"));
            assert_ne!(of("1").ingest, of("2").ingest);
        }
        let hop = |count: u32| {
            let mut event = event_with("1", SAMPLED);
            event.attributes.insert(crate::core::event::HOPS_ATTRIBUTE.to_owned(), count.into());
            EventTrace::of(&event, 1.0).unwrap().ingest
        };
        assert_ne!(hop(1), hop(2));
    }

    #[test]
    fn records_the_ratio_of_traces_that_begin_here() {
        let count =
            |ratio| (0..10_000).filter(|n| EventTrace::of(&event(&n.to_string()), ratio).is_some()).count();
        assert_eq!((count(0.0), count(1.0)), (0, 10_000));
        assert!((2_300..2_700).contains(&count(0.25)), "{}", count(0.25));
    }
}
