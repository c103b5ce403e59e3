mod properties;

use super::*;

fn published(body: &str) -> Result<Draft, BadEvent> {
    parse_published(None, body.as_bytes())
}

fn cloud(members: &str) -> Result<Draft, BadEvent> {
    let body = format!(r#"{{"specversion":"1.0","id":"1","source":"shop","type":"paid"{members}}}"#);
    parse_published(Some("application/cloudevents+json; charset=utf-8"), body.as_bytes())
}

/// A binary event that is right but for what is added.
fn binary(more: &[(&str, &str)], content_type: Option<&str>, body: &str) -> Result<Draft, BadEvent> {
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "shop"),
        ("ce-type", "paid"),
        ("host", "h"),
    ];
    let headers = headers.iter().chain(more).map(|(name, value)| (*name, value.as_bytes()));
    match parse_request(content_type, headers, body.as_bytes(), 500) {
        Ok(Published::One(draft)) => Ok(draft),
        Ok(Published::Batch(_)) => unreachable!(),
        Err(rejected) => Err(rejected.bad),
    }
}

fn batch_of(body: &str) -> Result<Vec<Draft>, Rejected> {
    match parse_request(Some("application/cloudevents-batch+json; charset=UTF-8"), [], body.as_bytes(), 500)?
    {
        Published::Batch(drafts) => Ok(drafts),
        Published::One(_) => unreachable!(),
    }
}

fn batch(body: &str) -> Result<Vec<Draft>, BadEvent> {
    batch_of(body).map_err(|rejected| rejected.bad)
}

fn accepted(draft: Draft) -> Event {
    Event {
        id: draft.id.unwrap_or_else(|| "made".into()),
        namespace: "shop".into(),
        origin: Origin::Api,
        source: draft.source,
        event: draft.event,
        time: draft.time.unwrap_or_else(|| "2023-11-14T22:13:20Z".into()),
        data: draft.data,
        attributes: draft.attributes,
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn plain_events() {
    let draft = published(r#"{"source":"shop","event":"paid","data":{"b":1,"a":2}}"#).unwrap();
    assert_eq!(
        (draft.source.as_str(), draft.event.as_str(), draft.data.get()),
        ("shop", "paid", r#"{"b":1,"a":2}"#)
    );
    assert_eq!((draft.id, draft.time), (None, None));
    let draft =
        published(r#"{"id":"7","source":"s","event":"e","time":"2023-11-14T22:13:20.1+01:00","data":null}"#);
    let draft = draft.unwrap();
    assert_eq!(draft.id.as_deref(), Some("7"));
    assert_eq!(draft.time.as_deref(), Some("2023-11-14T22:13:20.1+01:00"), "as the sender wrote it");
    assert_eq!(published(r#"{"source":"s","event":"e"}"#).unwrap().data.get(), "null");
    assert_eq!(published(r#"{"source":"s","event":"e","data":[1, 2]}"#).unwrap().data.get(), "[1, 2]");
    // Null counts as missing, where a text may be missing.
    assert_eq!(published(r#"{"id":null,"source":"s","event":"e"}"#).unwrap().id, None);
    parse_published(Some("Application/JSON;charset=utf-8"), br#"{"source":"s","event":"e"}"#).unwrap();
}

#[test]
fn structured_events() {
    let draft =
        cloud(r#","time":"2023-11-14T22:13:20Z","subject":"o/1","n":-3,"flag":true,"data":{"x":1.0}"#)
            .unwrap();
    assert_eq!(
        (draft.id.as_deref(), draft.source.as_str(), draft.event.as_str()),
        (Some("1"), "shop", "paid")
    );
    assert_eq!(draft.data.get(), r#"{"x":1.0}"#);
    let attributes: Vec<_> = draft.attributes.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
    assert_eq!(attributes, [("flag", true.into()), ("n", (-3).into()), ("subject", "o/1".into())]);
    // `specversion` tells a CloudEvent, whatever the content type.
    published(r#"{"specversion":"1.0","id":"1","source":"s","type":"t"}"#).unwrap();
    // A null attribute is one that is not there (CloudEvents 1.0, JSON format, 2.2).
    assert!(cloud(r#","subject":null"#).unwrap().attributes.is_empty());
    assert!(cloud(r#","data_base64":null"#).is_ok());
}

#[test]
fn binary_events() {
    let more = [
        ("ce-time", "2023-11-14T22:13:20Z"),
        ("ce-subject", "a%20%22b%22%E2%82%AC%25"),
        ("ce-quoted", r#""a \"b\" c%20d""#),
        ("ce-comexampleext1", "5"),
        ("x-other", "%"),
    ];
    let draft = binary(&more, Some("application/vnd.shop+json; charset=utf-8"), r#" {"x":1.0} "#).unwrap();
    assert_eq!(
        (draft.id.as_deref(), draft.source.as_str(), draft.event.as_str(), draft.data.get()),
        (Some("1"), "shop", "paid", r#"{"x":1.0}"#)
    );
    assert_eq!(draft.time.as_deref(), Some("2023-11-14T22:13:20Z"));
    let attributes: Vec<_> =
        draft.attributes.iter().map(|(n, v)| (n.as_str(), v.as_str().unwrap())).collect();
    assert_eq!(
        attributes,
        [
            ("comexampleext1", "5"),
            ("datacontenttype", "application/vnd.shop+json; charset=utf-8"),
            ("quoted", "a \"b\" c d"),
            ("subject", "a \"b\"\u{20ac}%"),
        ]
    );
    let draft = binary(&[], None, "").unwrap();
    assert_eq!(draft.data.get(), "null");
    assert!(draft.attributes.is_empty());
    assert_eq!(binary(&[], Some("application/json"), "3").unwrap().data.get(), "3");
    assert_eq!(binary(&[("ce-hookstreamhops", "8")], None, "").unwrap_err(), BadEvent::TooManyHops);
    for (more, content_type, reason) in [
        (
            &[("ce-subject", "100%")][..],
            None,
            "ce-subject is no CloudEvents attribute: a % without two digits",
        ),
        (&[("ce-subject", "%4")], None, "two digits"),
        (&[("ce-subject", "%zz")], None, "two digits"),
        (&[("ce-subject", "%ff")], None, "no UTF-8"),
        (&[("ce-subject", "%0d%0aSet-Cookie: x")], None, "control characters"),
        (&[("ce-subject", r#""a"b""#)], None, "quotes are wrong"),
        (&[("ce-subject", r#""a\""#)], None, "quotes are wrong"),
        (&[("ce-my_name", "x")], None, "lower-case letters and digits"),
        (&[("ce-", "x")], None, "lower-case letters and digits"),
        (&[("ce-datacontenttype", "x")], None, "use Content-Type"),
        (&[("ce-data", "x")], None, "use Content-Type"),
        (&[("ce-time", "yesterday")], None, "RFC 3339"),
        (&[], Some("text/plain"), "content type text/plain is not taken"),
        (&[], Some("application/octet-stream"), "data must be JSON"),
    ] {
        let error = binary(more, content_type, "1").unwrap_err().to_string();
        assert!(error.contains(reason), "{more:?}: {error}");
    }
    // A structured event may repeat its attributes in headers: the body is what counts.
    let body = br#"{"specversion":"1.0","id":"9","source":"s","type":"t"}"#;
    let headers: [(&str, &[u8]); 2] = [("ce-specversion", b"1.0"), ("ce-id", b"%")];
    let got = parse_request(Some("application/cloudevents+json"), headers, body, 500).unwrap();
    assert!(matches!(got, Published::One(draft) if draft.id.as_deref() == Some("9")));
    // Without the version it is no CloudEvent.
    let got = parse_request(None, [("ce-id", &b"1"[..])], br#"{"source":"s","event":"e"}"#, 500).unwrap();
    assert!(matches!(got, Published::One(draft) if draft.id.is_none()));
}

#[test]
fn batches() {
    let one = |id: &str| format!(r#"{{"specversion":"1.0","id":"{id}","source":"s","type":"t"}}"#);
    let drafts = batch(&format!("[{}, {}]", one("1"), one("2"))).unwrap();
    assert_eq!(drafts.iter().filter_map(|d| d.id.as_deref()).collect::<Vec<_>>(), ["1", "2"]);
    assert!(batch("[]").unwrap().is_empty());
    assert_eq!(batch(&format!("[{}]", vec![one("1"); 1000].join(","))).unwrap().len(), 1000);
    for (second, reason) in [
        (r#"{"source":"s","event":"e"}"#, "specversion is missing"),
        ("5", "no JSON object"),
        (r#"{"specversion":"1.0","id":"1","source":"auth0","type":"t"}"#, "reserved"),
        (
            &format!(
                r#"{{"specversion":"1.0","id":"1","source":"s","type":"t","data":"{}"}}"#,
                "x".repeat(500)
            ),
            "500 bytes",
        ),
    ] {
        let rejected = batch_of(&format!("[{},{second}]", one("1"))).unwrap_err();
        assert_eq!(rejected.index, Some(1));
        let text = rejected.to_string();
        assert!(text.starts_with("event 1 of the batch: ") && text.contains(reason), "{text}");
    }
    assert!(is_batch(Some("Application/CloudEvents-Batch+JSON;x=y")) && !is_batch(Some("application/json")));
}

#[test]
fn base64_data_that_is_json() {
    assert_eq!(cloud(r#","data_base64":"eyJ4IjoxLjB9""#).unwrap().data.get(), r#"{"x":1.0}"#);
}

#[test]
fn depth() {
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let data = published(&format!(r#"{{"source":"s","event":"e","data":{}}}"#, nested(127))).unwrap().data;
    serde_json::from_str::<Value>(data.get()).expect("what is taken can be read");
    let braces = format!(r#"{{"source":"s","event":"e","data":{}}}"#, Value::from("[{\"".repeat(500)));
    published(&braces).expect("brackets in a text are no depth");
    assert_eq!(
        parse_relayed(format!(r#"{{"source":"s","event":"e","d":{}}}"#, nested(127)).as_bytes()).unwrap_err(),
        BadEvent::TooDeep
    );
}

/// Every reason, and that no variant was forgotten.
#[test]
fn reasons() {
    let long = "x".repeat(5000);
    let many: String = (0..65).map(|n| format!(r#","a{n}":1"#)).collect();
    let plain = |members: &str| published(&format!(r#"{{"source":"s","event":"e"{members}}}"#));
    let table = [
        (published(""), "NotJson", "no JSON"),
        (published("[]"), "NotJson", "a JSON object"),
        (published("{} x"), "NotJson", "trailing"),
        (published(r#"{"source":"s","source":"t","event":"e"}"#), "NotJson", "source stands in it twice"),
        (
            published(r#"{"source":"s","\u0073ource":"t","event":"e"}"#),
            "NotJson",
            "source stands in it twice",
        ),
        (published("{\"source\":\"\u{1}\"}"), "NotJson", "control character"),
        (parse_published(None, b"{\"source\":\"\xff\"}"), "NotJson", ""),
        (published(&"[".repeat(100_000)), "NotJson", ""),
        (published(r#"{"event":"e"}"#), "Missing", "source is missing"),
        (published(r#"{"source":"s"}"#), "Missing", "event is missing"),
        (published(r#"{"source":null,"event":"e"}"#), "Missing", "source is missing"),
        (parse_published(Some("application/cloudevents+json"), b"{}"), "Missing", "specversion is missing"),
        (published(r#"{"specversion":"1.0","source":"s","type":"t"}"#), "Missing", "id is missing"),
        (published(r#"{"specversion":"1.0","id":"1","source":"s"}"#), "Missing", "type is missing"),
        (published(r#"{"specversion":null,"id":"1","source":"s","type":"t"}"#), "Missing", "specversion"),
        (published(r#"{"source":1,"event":"e"}"#), "WrongType", "source must be a text"),
        (published(r#"{"source":"","event":"e"}"#), "WrongType", "not empty"),
        (plain(r#","more":1"#), "WrongType", "more must be left out"),
        (plain(r#","time":"yesterday""#), "WrongType", "RFC 3339"),
        (plain(r#","time":7"#), "WrongType", "time must be a text"),
        (plain(r#","time":"2023-11-14""#), "WrongType", "RFC 3339"),
        (plain(r#","time":"2023-11-14T22:13Z""#), "WrongType", "RFC 3339"),
        (plain(r#","time":"2023-11-14 22:13:20Z""#), "WrongType", "RFC 3339"),
        (plain(r#","time":"2023-11-14T22:13:20.Z""#), "WrongType", "RFC 3339"),
        (plain(r#","time":"2023-11-14T22:13:20+01:00[Europe/Berlin]""#), "WrongType", "RFC 3339"),
        (plain(r#","time":"2023-13-14T22:13:20Z""#), "WrongType", "RFC 3339"),
        (plain(r#","data":{"a":1,"a":2}"#), "NotJson", "a stands in it twice"),
        (cloud(r#","data":{"a":1,"a":2}"#), "NotJson", "a stands in it twice"),
        (cloud(r#","data_base64":"eA==""#), "Base64", "only JSON"),
        (cloud(r#","data_base64":"e""#), "Base64", "no base64"),
        (cloud(r#","data_base64":5"#), "Base64", "no text"),
        (cloud(r#","data_base64":"MQ==","data":1"#), "Base64", "send one"),
        (plain(&format!(r#","data":{}{}"#, "[".repeat(128), "]".repeat(128))), "TooDeep", "127"),
        (cloud(r#","Upper":1"#), "WrongType", "lower-case"),
        (cloud(r#","x_y":1"#), "WrongType", "lower-case"),
        (cloud(r#","":1"#), "WrongType", "lower-case"),
        (cloud(r#","subject":"a\r\nx-admin: true""#), "WrongType", "subject must be a text without control"),
        (plain(r#","id":"\u001b[2J""#), "WrongType", "id must be a text without control"),
        (
            published(r#"{"source":"a\u0000","event":"e"}"#),
            "WrongType",
            "source must be a text without control",
        ),
        (
            published(r#"{"source":"s","event":"e\u009b"}"#),
            "WrongType",
            "event's name must be a text without control",
        ),
        (cloud(r#","n":1.5"#), "WrongType", "whole number"),
        (cloud(r#","n":2147483648"#), "WrongType", "whole number"),
        (cloud(r#","n":{}"#), "WrongType", "whole number"),
        (published(&format!(r#"{{"source":"{}","event":"e"}}"#, &long[..254])), "TooLong", "253"),
        (plain(&format!(r#","id":"{}""#, &long[..513])), "TooLong", "512"),
        (cloud(&format!(r#","n":"{long}""#)), "TooLong", "4096"),
        (cloud(&many), "TooManyAttributes", "64"),
        (published(r#"{"specversion":"0.3","id":"1","source":"s","type":"t"}"#), "SpecVersion", "0.3"),
        (parse_published(Some("text/plain"), b"{}"), "ContentType", "text/plain"),
        (parse_published(Some("application/cloudevents-batch+json"), b"[]"), "ContentType", "batch"),
        (parse_published(Some("application/cloudevents+avro"), b"{}"), "ContentType", "avro"),
        (
            binary(&[("ce-id", "2")], None, "").map(|_| unreachable!()),
            "Header",
            "ce-id is no CloudEvents attribute: it stands there twice",
        ),
        (binary(&[], None, "{").map(|_| unreachable!()), "DataNotJson", "EOF"),
        (batch("{}").map(|_| unreachable!()), "NotJsonList", "a list of CloudEvents"),
        (batch(&format!("[{}1]", "1,".repeat(1000))).map(|_| unreachable!()), "TooMany", "1000"),
        (
            batch(&format!(r#"[{}]"#, "x".repeat(0) + &"9".repeat(600))).map(|_| unreachable!()),
            "TooBig",
            "500",
        ),
        (published(r#"{"source":"auth0","event":"e"}"#), "ReservedSource", "auth0"),
        (published(r#"{"source":"kong:event_hooks","event":"e"}"#), "ReservedSource", "kong:event_hooks"),
        (
            published(r#"{"specversion":"1.0","id":"1","source":"auth0","type":"t"}"#),
            "ReservedSource",
            "auth0",
        ),
        (cloud(r#","hookstreamhops":8"#), "TooManyHops", "8 hooks"),
        (cloud(r#","hookstreamhops":"8""#), "TooManyHops", "8 hooks"),
        (cloud(r#","hookstreamhops":2147483647"#), "TooManyHops", "8 hooks"),
        (cloud(r#","hookstreamhops":"99999999999999999999""#), "TooManyHops", "8 hooks"),
    ];
    let mut seen = std::collections::BTreeSet::new();
    for (n, (got, variant, words)) in table.into_iter().enumerate() {
        let error = got.expect_err(&format!("row {n} ({variant} {words})"));
        assert!(error.to_string().contains(words), "row {n}: {error}");
        let name: &'static str = error.into();
        assert_eq!(name, variant, "row {n} ({words})");
        seen.insert(name);
    }
    assert_eq!(seen.len(), 16, "a variant is not reached: {seen:?}");
}

/// What a sender may write at most passes.
#[test]
fn bounds() {
    let long = "x".repeat(5000);
    published(&format!(r#"{{"id":"{}","source":"{}","event":"e"}}"#, &long[..512], &long[..253])).unwrap();
    let many: String = (0..64).map(|n| format!(r#","a{n}":1"#)).collect();
    assert_eq!(cloud(&many).unwrap().attributes.len(), 64);
    cloud(&format!(r#","n":"{}""#, &long[..4094])).unwrap();
    cloud(r#","n":2147483647,"m":-2147483648,"hookstreamhops":7"#).unwrap();
}

/// A reason is shown to the sender: it must not become as long as what was sent.
#[test]
fn reasons_are_short() {
    let long = "x".repeat(1 << 20);
    for got in [
        published(&format!(r#"{{"{long}":1,"{long}":2}}"#)),
        published(&format!(r#"{{"{long}":1}}"#)),
        parse_published(Some(&long), b"{}"),
        cloud(&format!(r#","{long}":1"#)),
        published(&format!(r#"{{"source":{long}}}"#)),
        published(&format!(r#""{long}""#)),
        published(&format!(r#"{{"source":"s","event":"e","data":{{"{long}":1,"{long}":2}}}}"#)),
    ] {
        let reason = got.unwrap_err().to_string();
        assert!(reason.len() < 400, "{}", reason.len());
    }
}

#[test]
fn relayed_events() {
    let draft =
        parse_relayed(br#"{"entity":{"z":1,"a":1.10},"source":"crud","event":"consumers","n":1e400}"#)
            .unwrap();
    assert_eq!((draft.source.as_str(), draft.event.as_str()), ("crud", "consumers"));
    assert_eq!(draft.data.get(), r#"{"entity":{"z":1,"a":1.10},"n":1e400}"#);
    assert_eq!(parse_relayed(br#"{"source":"s","event":"e"}"#).unwrap().data.get(), "{}");
    // What only a vendor may emit comes this way.
    parse_relayed(br#"{"source":"kong:event_hooks","event":"ping"}"#).unwrap();
    for (body, reason) in [
        (&br#"{"event":"e"}"#[..], "source is missing"),
        (br#"{"source":"s"}"#, "event is missing"),
        (br#"{"source":"s","event":"e","x":1,"x":2}"#, "x stands in it twice"),
        (br#""x""#, "no JSON object"),
    ] {
        let error = parse_relayed(body).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn kongs_body() {
    let to_kong = |data: &str| {
        let mut event = accepted(published(r#"{"source":"s\"","event":"e"}"#).unwrap());
        event.data = RawValue::from_string(data.into()).unwrap();
        text(event.to_kong())
    };
    assert_eq!(
        to_kong(r#"{"b": 1.50,"a":{ "x" :1}}"#),
        r#"{"b":1.50,"a":{ "x" :1},"source":"s\"","event":"e"}"#
    );
    // These two win, and stand in it once.
    assert_eq!(to_kong(r#"{"source":1,"a":2,"event":[]}"#), r#"{"a":2,"source":"s\"","event":"e"}"#);
    for data in ["null", "[1.0]", "3", r#""text""#] {
        assert_eq!(to_kong(data), format!(r#"{{"data":{data},"source":"s\"","event":"e"}}"#));
    }
}

#[test]
fn cloudevents_body() {
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
fn hops_are_counted_until_the_end() {
    let mut draft = cloud("").unwrap();
    let mut rounds = 0;
    let refused = loop {
        let out = accepted(draft).to_cloudevent();
        rounds += 1;
        match parse_published(Some("application/cloudevents+json"), &out) {
            Ok(next) => draft = next,
            Err(e) => break e,
        }
    };
    assert_eq!((rounds, refused), (MAX_HOPS, BadEvent::TooManyHops));
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

#[test]
fn origins() {
    for origin in [Origin::Api, Origin::Relay("a/b".into()), Origin::Stream(String::new())] {
        assert_eq!(Origin::try_from(origin.to_string()), Ok(origin));
    }
    Origin::try_from("api/x".to_owned()).unwrap_err();
    Origin::try_from("else".to_owned()).unwrap_err();
}
