use super::*;

/// Data of any content type in structured, batch and binary mode: what filters, templates and Kong's body read, and what
/// both CloudEvents formats send.
#[test]
fn data_of_any_content_type_is_sent_as_it_was_received() {
    let structured = |members: &str| cloud(members).unwrap();
    let in_batch = |members: &str| {
        let one = format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"t"{members}}}"#);
        batch(&format!("[{one}]")).unwrap().remove(0)
    };
    for (members, view, body, content_type) in [
        (r#","data":{"x":1.0}"#, r#"{"x":1.0}"#, &br#"{"x":1.0}"#[..], Some("application/json")),
        (r#","data":"a""#, r#""a""#, br#""a""#, Some("application/json")),
        (
            r#","datacontenttype":"text/plain","data":"a\n\u00e9""#,
            r#""a\n\u00e9""#,
            "a\n\u{e9}".as_bytes(),
            Some("text/plain"),
        ),
        (r#","datacontenttype":"text/xml","data_base64":"PGEvPg==""#, r#""<a/>""#, b"<a/>", Some("text/xml")),
        (
            r#","datacontenttype":"image/png","data_base64":"AP8=""#,
            r#""AP8=""#,
            b"\x00\xff",
            Some("image/png"),
        ),
        (r#","data_base64":"AP8=""#, r#""AP8=""#, b"\x00\xff", None),
        (r#","data_base64":"eyJ4IjoxLjB9""#, r#"{"x":1.0}"#, br#"{"x":1.0}"#, None),
        (
            r#","datacontenttype":"text/plain","data":{"n":1}"#,
            r#"{"n":1}"#,
            br#"{"n":1}"#,
            Some("text/plain"),
        ),
        (r#","datacontenttype":"text/plain""#, "null", b"", Some("text/plain")),
        ("", "null", b"", None),
        (r#","data":null"#, "null", b"null", Some("application/json")),
    ] {
        for draft in [structured(members), in_batch(members)] {
            assert_eq!(draft.data.get(), view, "{members}");
            let event = accepted(draft);
            let sent = event.to_binary_cloudevent();
            assert_eq!(
                (sent.body.as_slice(), sent.content_type.as_deref()),
                (body, content_type),
                "{members}"
            );
            let out: Value = serde_json::from_slice(&event.to_cloudevent()).unwrap();
            let received: Value =
                serde_json::from_str(&format!("{{{}}}", members.trim_start_matches(','))).unwrap();
            for name in ["data", "data_base64"] {
                assert_eq!(out.get(name), received.get(name), "{name}: {members}");
            }
        }
    }
    // Binary mode in: text is text, other bytes are base64.
    for (content_type, body, name, sent) in [
        ("text/plain; charset=utf-8", "a\"b", "data", json!("a\"b")),
        ("application/xml", "<a/>", "data", json!("<a/>")),
        ("application/octet-stream", "abc", "data_base64", json!("YWJj")),
        ("text/plain; charset=latin1", "abc", "data_base64", json!("YWJj")),
        ("application/json", "[1]", "data", json!([1])),
    ] {
        let event = accepted(binary(&[], Some(content_type), body).unwrap());
        let out: Value = serde_json::from_slice(&event.to_cloudevent()).unwrap();
        assert_eq!((&out[name], &out["datacontenttype"]), (&sent, &json!(content_type)));
        assert!(!(out.get("data").is_some() && out.get("data_base64").is_some()));
        assert_eq!(event.to_binary_cloudevent().body, body.as_bytes());
    }
}

#[test]
fn text_and_bytes_in_kong_body_have_their_content_type() {
    let kong = |members: &str| text(accepted(cloud(members).unwrap()).to_kong());
    assert_eq!(
        kong(r#","datacontenttype":"text/plain","subject":"x","data":"a""#),
        r#"{"data":"a","attributes":{"datacontenttype":"text/plain"},"source":"shop","event":"paid"}"#
    );
    assert_eq!(
        kong(r#","data_base64":"AP8=""#),
        r#"{"data":"AP8=","attributes":{},"source":"shop","event":"paid"}"#
    );
    assert_eq!(kong(""), r#"{"source":"shop","event":"paid"}"#, "an event without data");
}

/// HTTP binding, 3.1.3.2.
#[test]
fn binary_mode_percent_encodes_attributes() {
    let draft =
        cloud(r#","subject":"a \"b\"\u20ac%","n":-3,"flag":true,"datacontenttype":"text/plain","data":"x""#);
    let event = accepted(draft.unwrap());
    let sent = event.to_binary_cloudevent();
    let sent_headers: Vec<_> =
        sent.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        sent_headers,
        [
            ("ce-specversion", "1.0"),
            ("ce-id", "1"),
            ("ce-source", "shop"),
            ("ce-type", "paid"),
            ("ce-time", "2023-11-14T22:13:20Z"),
            ("ce-flag", "true"),
            ("ce-n", "-3"),
            ("ce-subject", "a%20%22b%22%E2%82%AC%25"),
            ("ce-hookstreamhops", "1"),
        ]
    );
    let headers = sent.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let read = parse_request(sent.content_type.as_deref(), headers, &sent.body, 500).unwrap();
    let PublishedEvents::One(read) = read else { panic!("one event") };
    assert_eq!(read.attributes["subject"], event.attributes["subject"]);
    assert_eq!((read.data, read.source), (event.data, event.source));
}

#[test]
fn renders_kong_body() {
    let to_kong = |data: &str| {
        let mut event = accepted(published(r#"{"source":"s\"","event":"e"}"#).unwrap());
        event.data = RawValue::from_string(data.into()).unwrap().into();
        text(event.to_kong())
    };
    assert_eq!(
        to_kong(r#"{"b": 1.50,"a":{ "x" :1}}"#),
        r#"{"b":1.50,"a":{ "x" :1},"source":"s\"","event":"e"}"#
    );
    // A name keeps an escape that nothing else can express.
    assert_eq!(
        to_kong(r#"{"\u00e9\"":1e999,"\ud83d":"\ud83d"}"#),
        r#"{"é\"":1e999,"\ud83d":"\ud83d","source":"s\"","event":"e"}"#
    );
    // The event's own source and name replace members of data.
    assert_eq!(to_kong(r#"{"source":1,"a":2,"event":[]}"#), r#"{"a":2,"source":"s\"","event":"e"}"#);
    for data in ["null", "[1.0]", "3", r#""text""#] {
        assert_eq!(to_kong(data), format!(r#"{{"data":{data},"source":"s\"","event":"e"}}"#));
    }
}

#[test]
fn renders_cloudevent() {
    let draft = cloud(
        r#","subject":"o/1","n":-3,"flag":false,"datacontenttype":"application/vnd.x+json","data":{"b":1.50}"#,
    );
    let out = text(accepted(draft.unwrap()).to_cloudevent());
    assert!(out.ends_with(r#","data":{"b":1.50}}"#), "{out}");
    let value: Value = serde_json::from_str(&out).unwrap();
    for (name, want) in [
        ("specversion", Value::from("1.0")),
        ("id", "1".into()),
        ("source", "shop".into()),
        ("type", "paid".into()),
        ("subject", "o/1".into()),
        ("n", (-3).into()),
        ("flag", false.into()),
        ("datacontenttype", "application/vnd.x+json".into()),
        (HOPS_ATTRIBUTE, 1.into()),
    ] {
        assert_eq!(value[name], want, "{name}");
    }
}

#[test]
fn counts_hops_up_to_the_limit() {
    let mut draft = cloud("").unwrap();
    let mut rounds = 0;
    let rejection = loop {
        let out = accepted(draft).to_cloudevent();
        rounds += 1;
        match parse_published(Some("application/cloudevents+json"), &out) {
            Ok(next) => draft = next,
            Err(e) => break e,
        }
    };
    assert_eq!((rounds, rejection), (MAX_HOPS, InvalidEvent::TooManyHops));
    let of = |value: Value| hops(&BTreeMap::from([(HOPS_ATTRIBUTE.to_owned(), value)]));
    assert_eq!(of(3.into()), 3);
    assert_eq!(of("3".into()), 3);
    assert_eq!(of((-3).into()), 0);
    assert_eq!(of(true.into()), 0);
    for (text, count) in [("7", 7), ("99999999999", u32::MAX), ("", 0), ("-1", 0), ("+1", 0), ("1.0", 0)] {
        assert_eq!(hops_of(text), count, "{text}");
    }
    assert_eq!(hops(&BTreeMap::new()), 0);
}
