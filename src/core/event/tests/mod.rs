mod properties;
mod rendering;

use serde_json::json;
use serde_json::value::RawValue;

use super::*;

fn published(body: &str) -> Result<EventDraft, InvalidEvent> {
    parse_published(None, body.as_bytes())
}

fn cloud(members: &str) -> Result<EventDraft, InvalidEvent> {
    let body = format!(r#"{{"specversion":"1.0","id":"1","source":"shop","type":"paid"{members}}}"#);
    parse_published(Some("application/cloudevents+json; charset=utf-8"), body.as_bytes())
}

/// Parses a valid binary-mode event with additional headers.
fn binary(more: &[(&str, &str)], content_type: Option<&str>, body: &str) -> Result<EventDraft, InvalidEvent> {
    binary_bytes(more, content_type, body.as_bytes())
}

fn binary_bytes(
    more: &[(&str, &str)],
    content_type: Option<&str>,
    body: &[u8],
) -> Result<EventDraft, InvalidEvent> {
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "shop"),
        ("ce-type", "paid"),
        ("host", "h"),
    ];
    let headers = headers.iter().chain(more).map(|(name, value)| (*name, value.as_bytes()));
    match parse_request(content_type, headers, body, 500) {
        Ok(PublishedEvents::One(draft)) => Ok(draft),
        Ok(PublishedEvents::Batch(_)) => unreachable!(),
        Err(rejected) => Err(rejected.error),
    }
}

fn batch_of(body: &str) -> Result<Vec<EventDraft>, EventRejection> {
    match parse_request(Some("application/cloudevents-batch+json; charset=UTF-8"), [], body.as_bytes(), 500)?
    {
        PublishedEvents::Batch(drafts) => Ok(drafts),
        PublishedEvents::One(_) => unreachable!(),
    }
}

fn batch(body: &str) -> Result<Vec<EventDraft>, InvalidEvent> {
    batch_of(body).map_err(|rejected| rejected.error)
}

fn accepted(draft: EventDraft) -> Event {
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
fn parses_plain_events() {
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
    assert_eq!(draft.time.as_deref(), Some("2023-11-14T22:13:20.1+01:00"), "kept as the sender wrote it");
    assert_eq!(published(r#"{"source":"s","event":"e"}"#).unwrap().data.get(), "null");
    assert_eq!(published(r#"{"source":"s","event":"e","data":[1, 2]}"#).unwrap().data.get(), "[1, 2]");
    // Null counts as missing for optional members.
    assert_eq!(published(r#"{"id":null,"source":"s","event":"e"}"#).unwrap().id, None);
    parse_published(Some("Application/JSON;charset=utf-8"), br#"{"source":"s","event":"e"}"#).unwrap();
}

#[test]
fn parses_structured_events() {
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
    // `specversion` marks a CloudEvent, with any content type.
    published(r#"{"specversion":"1.0","id":"1","source":"s","type":"t"}"#).unwrap();
    // A null attribute counts as absent (CloudEvents 1.0, JSON format, 2.2).
    assert!(cloud(r#","subject":null"#).unwrap().attributes.is_empty());
    assert!(cloud(r#","data_base64":null"#).is_ok());
}

#[test]
fn parses_binary_events() {
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
    assert_eq!(binary(&[("ce-hookstreamhops", "8")], None, "").unwrap_err(), InvalidEvent::TooManyHops);
    for (more, content_type, reason) in [
        (
            &[("ce-subject", "100%")][..],
            None,
            "ce-subject is not a valid CloudEvents attribute: a % without two hexadecimal digits",
        ),
        (&[("ce-subject", "%4")], None, "two hexadecimal digits"),
        (&[("ce-subject", "%zz")], None, "two hexadecimal digits"),
        (&[("ce-subject", "%ff")], None, "not UTF-8"),
        (&[("ce-subject", "%0d%0aSet-Cookie: x")], None, "control characters"),
        (&[("ce-subject", r#""a"b""#)], None, "quotes do not match"),
        (&[("ce-subject", r#""a\""#)], None, "quotes do not match"),
        (&[("ce-my_name", "x")], None, "lower-case letters and digits"),
        (&[("ce-", "x")], None, "lower-case letters and digits"),
        (&[("ce-datacontenttype", "x")], None, "use Content-Type"),
        (&[("ce-data", "x")], None, "use Content-Type"),
        (&[("ce-time", "yesterday")], None, "RFC 3339"),
    ] {
        let error = binary(more, content_type, "1").unwrap_err().to_string();
        assert!(error.contains(reason), "{more:?}: {error}");
    }
    // A structured event may repeat its attributes in headers; the body takes precedence.
    let body = br#"{"specversion":"1.0","id":"9","source":"s","type":"t"}"#;
    let headers: [(&str, &[u8]); 2] = [("ce-specversion", b"1.0"), ("ce-id", b"%")];
    let got = parse_request(Some("application/cloudevents+json"), headers, body, 500).unwrap();
    assert!(matches!(got, PublishedEvents::One(draft) if draft.id.as_deref() == Some("9")));
    // Without the version it is not a CloudEvent.
    let got = parse_request(None, [("ce-id", &b"1"[..])], br#"{"source":"s","event":"e"}"#, 500).unwrap();
    assert!(matches!(got, PublishedEvents::One(draft) if draft.id.is_none()));
}

#[test]
fn parses_batches() {
    let one = |id: &str| format!(r#"{{"specversion":"1.0","id":"{id}","source":"s","type":"t"}}"#);
    let drafts = batch(&format!("[{}, {}]", one("1"), one("2"))).unwrap();
    assert_eq!(drafts.iter().filter_map(|d| d.id.as_deref()).collect::<Vec<_>>(), ["1", "2"]);
    assert!(batch("[]").unwrap().is_empty());
    assert_eq!(batch(&format!("[{}]", vec![one("1"); 1000].join(","))).unwrap().len(), 1000);
    for (second, reason) in [
        (r#"{"source":"s","event":"e"}"#, "specversion is missing"),
        ("5", "not a JSON object"),
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
fn rejects_deeply_nested_data() {
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let data = published(&format!(r#"{{"source":"s","event":"e","data":{}}}"#, nested(127))).unwrap().data;
    serde_json::from_str::<Value>(data.get()).expect("accepted data can be parsed");
    let braces = format!(r#"{{"source":"s","event":"e","data":{}}}"#, Value::from("[{\"".repeat(500)));
    published(&braces).expect("brackets in a string are not nesting");
    assert_eq!(
        parse_relayed(format!(r#"{{"source":"s","event":"e","d":{}}}"#, nested(127)).as_bytes()).unwrap_err(),
        InvalidEvent::TooDeep
    );
}

/// Covers every variant of `InvalidEvent`.
#[test]
fn rejects_with_reason() {
    let long = "x".repeat(5000);
    let many: String = (0..65).map(|n| format!(r#","a{n}":1"#)).collect();
    let plain = |members: &str| published(&format!(r#"{{"source":"s","event":"e"{members}}}"#));
    let table = [
        (published(""), "NotJson", "not a JSON object"),
        (published("[]"), "NotJson", "a JSON object"),
        (published("{} x"), "NotJson", "trailing"),
        (published(r#"{"source":"s","source":"t","event":"e"}"#), "NotJson", "source occurs twice"),
        (published(r#"{"source":"s","\u0073ource":"t","event":"e"}"#), "NotJson", "source occurs twice"),
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
        (published(r#"{"source":1,"event":"e"}"#), "WrongType", "source must be a string"),
        (published(r#"{"source":"","event":"e"}"#), "WrongType", "not empty"),
        (plain(r#","more":1"#), "WrongType", "more must be left out"),
        (plain(r#","time":"yesterday""#), "WrongType", "RFC 3339"),
        (plain(r#","time":7"#), "WrongType", "time must be a string"),
        (plain(r#","time":"2023-11-14""#), "WrongType", "RFC 3339"),
        (plain(r#","time":"2023-11-14T22:13Z""#), "WrongType", "RFC 3339"),
        (plain(r#","time":"2023-11-14 22:13:20Z""#), "WrongType", "RFC 3339"),
        (plain(r#","time":"2023-11-14T22:13:20.Z""#), "WrongType", "RFC 3339"),
        (plain(r#","time":"2023-11-14T22:13:20+01:00[Europe/Berlin]""#), "WrongType", "RFC 3339"),
        (plain(r#","time":"2023-13-14T22:13:20Z""#), "WrongType", "RFC 3339"),
        (plain(r#","data":{"a":1,"a":2}"#), "NotJson", "data.a occurs twice"),
        (plain(r#","data":{"m":[0,{"a":1,"\u0061":2}]}"#), "NotJson", "data.m[1].a occurs twice"),
        (plain(r#","data":[{"a":1,"a":2}]"#), "NotJson", "data[0].a occurs twice"),
        (cloud(r#","data":{"a":1,"a":2}"#), "NotJson", "data.a occurs twice"),
        (cloud(r#","data_base64":"eyJhIjp7ImIiOjEsImIiOjJ9fQ==""#), "NotJson", "data.a.b occurs twice"),
        (binary(&[], None, r#"{"a":{"b":1,"b":2}}"#), "NotJson", "data.a.b occurs twice"),
        (
            cloud(r#","datacontenttype":"application/json","data_base64":"eA==""#),
            "Base64",
            "does not contain JSON",
        ),
        (cloud(r#","data_base64":"e""#), "Base64", "not base64"),
        (cloud(r#","data_base64":5"#), "Base64", "not a string"),
        (cloud(r#","data_base64":"MQ==","data":1"#), "Base64", "send one"),
        (plain(&format!(r#","data":{}{}"#, "[".repeat(128), "]".repeat(128))), "TooDeep", "127"),
        (cloud(r#","Upper":1"#), "WrongType", "lower-case"),
        (cloud(r#","x_y":1"#), "WrongType", "lower-case"),
        (cloud(r#","":1"#), "WrongType", "lower-case"),
        (
            cloud(r#","subject":"a\r\nx-admin: true""#),
            "WrongType",
            "subject must be a string without control",
        ),
        (plain(r#","id":"\u001b[2J""#), "WrongType", "id must be a string without control"),
        (
            published(r#"{"source":"a\u0000","event":"e"}"#),
            "WrongType",
            "source must be a string without control",
        ),
        (
            published(r#"{"source":"s","event":"e\u009b"}"#),
            "WrongType",
            "event's name must be a string without control",
        ),
        (cloud(r#","datacontenttype":5"#), "WrongType", "datacontenttype must be a string"),
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
            "ce-id is not a valid CloudEvents attribute: it occurs twice",
        ),
        (binary(&[], Some("application/json"), "{").map(|_| unreachable!()), "DataNotJson", "EOF"),
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
    assert_eq!(seen.len(), 16, "a variant is not covered: {seen:?}");
}

#[test]
fn accepts_events_at_every_limit() {
    let long = "x".repeat(5000);
    published(&format!(r#"{{"id":"{}","source":"{}","event":"e"}}"#, &long[..512], &long[..253])).unwrap();
    let many: String = (0..64).map(|n| format!(r#","a{n}":1"#)).collect();
    assert_eq!(cloud(&many).unwrap().attributes.len(), 64);
    cloud(&format!(r#","n":"{}""#, &long[..4094])).unwrap();
    cloud(r#","n":2147483647,"m":-2147483648,"hookstreamhops":7"#).unwrap();
}

/// The sender receives the message, which must not repeat a large input.
#[test]
fn error_messages_are_bounded() {
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
fn parses_relayed_events() {
    let draft =
        parse_relayed(br#"{"entity":{"z":1,"a":1.10},"source":"crud","event":"consumers","n":1e400}"#)
            .unwrap();
    assert_eq!((draft.source.as_str(), draft.event.as_str()), ("crud", "consumers"));
    assert_eq!(draft.data.get(), r#"{"entity":{"z":1,"a":1.10},"n":1e400}"#);
    assert_eq!(parse_relayed(br#"{"source":"s","event":"e"}"#).unwrap().data.get(), "{}");
    // Of a name that occurs twice, the last member counts.
    let twice = parse_relayed(br#"{"source":"x","a":1,"source":"s","a":{"b":1,"b":2},"event":"e"}"#).unwrap();
    assert_eq!((twice.source.as_str(), twice.data.get()), ("s", r#"{"a":{"b":1,"b":2}}"#));
    // Half of a surrogate pair, in a name too.
    let cut = parse_relayed(br#"{"\ud83d":"\ud83d","source":"s","event":"e"}"#).unwrap();
    assert_eq!(cut.data.get(), r#"{"\ud83d":"\ud83d"}"#);
    // Relays may carry reserved sources.
    parse_relayed(br#"{"source":"kong:event_hooks","event":"ping"}"#).unwrap();
    for (body, reason) in [
        (&br#"{"event":"e"}"#[..], "source is missing"),
        (br#"{"source":"s"}"#, "event is missing"),
        (br#""x""#, "not a JSON object"),
    ] {
        let error = parse_relayed(body).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

/// Names that occur twice: vendors drop a rejected event, so the worker accepts theirs.
#[test]
fn streams_use_the_last_of_two_members() {
    let body = br#"{"specversion":"1.0","id":"1","id":"2","source":"s","type":"t","data":{"a":1,"a":{"b":1,"b":2}}}"#;
    let draft = parse_streamed(body).unwrap();
    assert_eq!(draft.id.as_deref(), Some("2"));
    assert_eq!(draft.data.get(), r#"{"a":1,"a":{"b":1,"b":2}}"#);
    let kong = text(accepted(draft).to_kong());
    assert_eq!(kong, r#"{"a":{"b":1,"b":2},"source":"s","event":"t"}"#);
}

#[test]
fn parses_data_of_tests() {
    let parse =
        |body: &str| parse_test_data(body.as_bytes()).map(|(data, event)| (data.get().to_owned(), event));
    let body = r#"{"event": "e", "n": 1e999, "\ud83d": "\ud83d"}"#;
    assert_eq!(parse(body), Ok((body.to_owned(), Some("e".to_owned()))));
    assert_eq!(parse(r#"{"event": 5}"#), Ok((r#"{"event": 5}"#.to_owned(), None)));
    assert_eq!(parse("{}"), Ok(("{}".to_owned(), None)));
    assert!(parse("[]").unwrap_err().to_string().contains("a JSON object"));
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(127), "]".repeat(127));
    assert_eq!(parse(&deep), Err(InvalidEvent::TooDeep));
}

#[test]
fn origin_round_trips_through_text() {
    for origin in [Origin::Api, Origin::Relay("a/b".into()), Origin::Stream(String::new())] {
        assert_eq!(Origin::try_from(origin.to_string()), Ok(origin));
    }
    Origin::try_from("api/x".to_owned()).unwrap_err();
    Origin::try_from("else".to_owned()).unwrap_err();
}
