//! Properties of parsing and rendering.

use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;
use crate::core::event::data::Data;

/// Generates numbers in every JSON notation, also ones that no machine number can represent.
fn number() -> impl Strategy<Value = String> {
    "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,25})?([eE][+-]?[0-9]{1,4})?"
}

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        number(),
        any::<String>().prop_map(|s| serde_json::to_string(&s).unwrap()),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|items| format!("[{}]", items.join(", "))),
            prop::collection::btree_map("[a-z]{1,6}", inner, 0..5)
                .prop_map(|members| object(members.into_iter().rev())),
        ]
    })
}

fn object(members: impl Iterator<Item = (String, String)>) -> String {
    let members: Vec<_> =
        members.map(|(name, value)| format!("{}:{value}", serde_json::to_string(&name).unwrap())).collect();
    format!("{{{}}}", members.join(","))
}

fn name() -> impl Strategy<Value = String> {
    "\\PC{1,60}".prop_filter("a name", |s| s.len() <= MAX_NAME && !RESERVED_SOURCES.contains(&s.as_str()))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..200), kind in any::<Option<String>>()) {
        drop(parse_published(kind.as_deref(), &body));
        drop(parse_published(None, &body));
        drop(parse_published(Some("application/cloudevents+json"), &body));
        drop(parse_relayed(&body));
        drop(parse_request(Some("application/cloudevents-batch+json"), [], &body, 100));
        let headers = [("ce-specversion", &b"1.0"[..]), ("ce-id", &body), ("ce-source", b"s"), ("ce-type", &body), ("ce-x", &body)];
        drop(parse_request(kind.as_deref(), headers, &body, 100));
        drop(parse_request(None, headers, b"1", 100));
    }

    /// Slightly damaged events reach more code than random bytes.
    #[test]
    fn broken_events_never_panic(data in json(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut body = format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"t","event":"e","data":{data}}}"#).into_bytes();
        let at = at.index(body.len());
        if cut { body.truncate(at) } else { body[at] = byte }
        for draft in [parse_published(None, &body), parse_relayed(&body)].into_iter().flatten() {
            let event = accepted(draft);
            serde_json::from_slice::<Value>(&event.to_cloudevent()).ok();
            event.to_kong();
        }
    }

    #[test]
    fn preserves_data_text(data in json()) {
        let draft = published(&format!(r#"{{"source":"s","event":"e","data":{data}}}"#)).unwrap();
        prop_assert_eq!(draft.data.get(), &data);
        let cloud = text(accepted(draft).to_cloudevent());
        let back = parse_published(None, cloud.as_bytes()).unwrap();
        prop_assert_eq!(back.data.get(), &data);
    }

    /// `parse_relayed` reverses `to_kong`: same source, event and data.
    #[test]
    fn kong_format_round_trips(
        source in name(),
        event in name(),
        members in prop::collection::vec((any::<String>(), json()), 0..6),
    ) {
        let mut seen = std::collections::HashSet::from(["source".to_owned(), "event".to_owned()]);
        let members = members.into_iter().filter(|(name, _)| seen.insert(name.clone()));
        let data = object(members);
        let sent = Event {
            source,
            event,
            data: RawValue::from_string(data.clone()).unwrap().into(),
            ..accepted(cloud("").unwrap())
        };
        let draft = parse_relayed(&sent.to_kong()).unwrap();
        prop_assert_eq!((&draft.source, &draft.event, draft.data.get()), (&sent.source, &sent.event, data.as_str()));
        // Rendering the relayed event again gives the same bytes.
        prop_assert_eq!(Event { data: draft.data, ..sent.clone() }.to_kong(), sent.to_kong());
    }

    #[test]
    fn cloudevent_round_trips(
        id in "\\PC{1,40}",
        source in name(),
        kind in name(),
        attributes in prop::collection::btree_map("[a-z0-9]{1,20}", prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "\\PC{0,40}".prop_map(Value::from),
        ], 0..6),
    ) {
        let standard = ["specversion", "id", "source", "type", "time", "data", HOPS_ATTRIBUTE, "datacontenttype"];
        prop_assume!(attributes.keys().all(|name| !standard.contains(&name.as_str())));
        let sent = Event { id, source, event: kind, attributes, ..accepted(cloud(r#","data":1"#).unwrap()) };
        let mut back = parse_published(None, &sent.to_cloudevent()).unwrap();
        prop_assert_eq!(back.attributes.remove(HOPS_ATTRIBUTE), Some(1.into()));
        prop_assert_eq!(back.attributes.remove("datacontenttype"), Some("application/json".into()));
        prop_assert_eq!(accepted(back), sent);
    }

    /// Both formats send bytes of any content type unchanged.
    #[test]
    fn data_of_any_type_round_trips(
        body in prop_oneof![prop::collection::vec(any::<u8>(), 0..60), "\\PC{0,40}".prop_map(String::into_bytes)],
        content_type in prop_oneof!["text/plain", "text/xml; charset=utf-8", "application/octet-stream", "image/png"],
    ) {
        let first = binary_bytes(&[], Some(&content_type), &body).unwrap();
        prop_assert!(first.data.get().len() <= 2 * body.len() + 4, "the view is bounded");
        let mut event = accepted(first);
        for _ in 0..2 {
            prop_assert_eq!(&event.to_binary_cloudevent().body, &body);
            let mut next = parse_published(None, &event.to_cloudevent()).unwrap();
            next.attributes.remove(HOPS_ATTRIBUTE);
            let next = accepted(next);
            prop_assert_eq!(&next, &event);
            event = next;
        }
    }

    /// Duplicates are found even if one of the names is written with an escape.
    #[test]
    fn rejects_duplicate_members(data in json(), name in "[a-z]{1,5}", escaped in any::<bool>()) {
        prop_assume!(!["source", "event"].contains(&name.as_str()));
        let first = name.as_bytes()[0];
        let other = if escaped { format!("\\u{first:04x}{}", &name[1..]) } else { name.clone() };
        let members = format!(r#""{name}":{data},"X":0,"{other}":1"#);
        let body = format!(r#"{{"source":"s","event":"e","data":[{{"m":{{{members}}}}}]}}"#);
        let twice = InvalidEvent::NotJson(format!("the member data[0].m.{name} occurs twice"));
        prop_assert_eq!(published(&body).unwrap_err(), twice);
        // A vendor's event is accepted, and receivers get the member that filters read.
        let relayed = parse_relayed(format!(r#"{{"source":"s",{members},"event":"e"}}"#).as_bytes()).unwrap();
        prop_assert_eq!(relayed.data.get(), format!(r#"{{"X":0,"{name}":1}}"#));
    }

    /// Everything that any origin accepts is readable, and receivers get its text unchanged.
    #[test]
    fn accepted_data_is_readable_and_sent_unchanged(text in super::data::tests::json_text()) {
        let plain = published(&format!(r#"{{"source":"s","event":"e","data":{text}}}"#));
        let streamed = parse_streamed(
            format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"t","data":{text}}}"#).as_bytes(),
        );
        if let Err(error) = &plain {
            prop_assert!(error.to_string().ends_with("occurs twice"), "{}", error);
        }
        for draft in [Ok(streamed.unwrap()), plain].into_iter().flatten() {
            prop_assert_eq!(draft.data.get(), text.trim());
            prop_assert!(Data::parse(draft.data.get()).is_ok());
            let event = accepted(draft);
            let expected = format!(",\"data\":{}}}", text.trim());
            prop_assert!(super::text(event.to_cloudevent()).ends_with(&expected));
            let kong = super::text(event.to_kong());
            prop_assert!(Data::parse(&kong).is_ok());
            if !text.trim().starts_with('{') {
                prop_assert_eq!(kong, format!(r#"{{"data":{},"source":"s","event":"{}"}}"#, text.trim(), event.event));
            }
        }
        let relayed = parse_relayed(format!(r#"{{"source":"s","event":"e","member":{text}}}"#).as_bytes()).unwrap();
        prop_assert_eq!(relayed.data.get(), format!(r#"{{"member":{}}}"#, text.trim()));
    }
}
