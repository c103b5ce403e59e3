//! Published events in every content mode. An accepted event must serialize to valid JSON, and its data must be readable.
#![no_main]

use hookstream::core::event::data::{Data, JsonStyle};
use hookstream::core::event::{Event, EventDraft, MAX_BATCH, Origin, PublishedEvents, parse_request};
use libfuzzer_sys::fuzz_target;

const TYPES: [Option<&str>; 8] = [
    None,
    Some("application/json"),
    Some("application/cloudevents+json"),
    Some("application/cloudevents-batch+json"),
    Some("application/vnd.x+json; charset=utf-8"),
    Some("text/plain"),
    Some("application/cloudevents+avro"),
    Some(";"),
];

fuzz_target!(|data: &[u8]| {
    let [kind, cut, rest @ ..] = data else { return };
    let content_type = TYPES[usize::from(*kind) % TYPES.len()];
    let (value, body) = rest.split_at(usize::from(*cut).min(rest.len()));
    drop(parse_request(content_type, [], rest, 1 << 16));
    let headers = [
        ("ce-specversion", &b"1.0"[..]),
        ("ce-id", b"1"),
        ("ce-source", value),
        ("ce-type", b"t"),
        ("ce-x", value),
    ];
    for published in
        [parse_request(content_type, [], rest, 1 << 16), parse_request(content_type, headers, body, 1 << 16)]
    {
        match published {
            Ok(PublishedEvents::One(draft)) => check_serialization(draft),
            Ok(PublishedEvents::Batch(drafts)) => {
                assert!(drafts.len() <= MAX_BATCH);
                drafts.into_iter().for_each(check_serialization);
            }
            Err(rejected) => assert!(rejected.to_string().len() < 2048),
        }
    }
});

fn check_serialization(draft: EventDraft) {
    let data = Data::parse(draft.data.get()).expect("accepted data is readable");
    let canonical = data.to_json(JsonStyle::Canonical);
    let again = Data::parse(&canonical).expect("the canonical form is JSON").to_json(JsonStyle::Canonical);
    assert_eq!(again, canonical);
    let event = Event {
        id: draft.id.unwrap_or_default(),
        namespace: "n".into(),
        origin: Origin::Api,
        source: draft.source,
        event: draft.event,
        time: draft.time.unwrap_or_default(),
        data: draft.data,
        attributes: draft.attributes,
    };
    for bytes in [event.to_kong(), event.to_cloudevent()] {
        serde_json::from_slice::<&serde_json::value::RawValue>(&bytes).expect("valid JSON");
    }
}
