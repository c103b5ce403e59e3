use proptest::prelude::*;
use serde_json::json;

use super::*;

fn parse(text: &str) -> Data<'_> {
    Data::parse(text).unwrap_or_else(|error| panic!("{text:.200}: {error}"))
}

fn canonical(number: &str) -> String {
    Number::new(number).canonical().into_owned()
}

#[test]
fn reads_values() {
    let data = parse(r#" {"b":[1,-2.50,1E+2,"x\n\u00e9\ud83d\ude00\/"],"a":{"":null},"t":true,"f":false} "#);
    assert_eq!(
        data.to_json(JsonStyle::Original),
        "{\"a\":{\"\":null},\"b\":[1,-2.50,1E+2,\"x\\né\u{1f600}/\"],\"f\":false,\"t\":true}"
    );
    assert_eq!(
        data.to_json(JsonStyle::WithoutNulls),
        data.to_json(JsonStyle::Original).replace("\"\":null", "")
    );
    assert_eq!(parse("[]"), Data::List(vec![]));
    assert_eq!(parse("{}"), Data::Object(Object::default()));
    assert_eq!(parse(r#"{"a":1,"b":2,"a":3}"#).to_json(JsonStyle::Original), r#"{"a":3,"b":2}"#);
    assert_eq!(parse(r#"{"a":1,"\u0061":{"a":2},"a":4}"#).to_json(JsonStyle::Original), r#"{"a":4}"#);
}

#[test]
fn half_of_a_surrogate_pair_reads_as_replacement_character() {
    for (escaped, text) in [
        (r"\ud83d", "\u{fffd}"),
        (r"\ud83d\ud83d", "\u{fffd}\u{fffd}"),
        (r"\ud83d\ude00", "\u{1f600}"),
        (r"\ude00\ud83d", "\u{fffd}\u{fffd}"),
        (r"a\uD83Dz", "a\u{fffd}z"),
        (r"\ud83d\u0041", "\u{fffd}A"),
        (r"\ud83d\n", "\u{fffd}\n"),
        (r"\ud83dé", "\u{fffd}é"),
        (r"\udbff\udfff", "\u{10ffff}"),
    ] {
        assert_eq!(parse(&format!("\"{escaped}\"")), Data::Text(text.into()), "{escaped}");
        let data = format!("{{\"{escaped}\":1}}");
        assert!(parse(&data).get(text).is_some(), "{escaped}");
    }
}

#[test]
fn rejects_invalid_text_with_position() {
    for (text, problem, at) in [
        ("", ReadProblem::End, 0),
        ("[1,", ReadProblem::End, 3),
        ("[1,]", ReadProblem::Unexpected, 3),
        ("{\"a\"1}", ReadProblem::Unexpected, 4),
        ("{a:1}", ReadProblem::Unexpected, 1),
        ("\"a", ReadProblem::End, 2),
        ("\"a\u{1}\"", ReadProblem::ControlCharacter, 2),
        ("\"\\x\"", ReadProblem::Escape, 1),
        ("\"\\u12g4\"", ReadProblem::Escape, 1),
        ("01", ReadProblem::Number, 0),
        ("-", ReadProblem::End, 1),
        ("1.x", ReadProblem::Number, 2),
        ("nul", ReadProblem::Unexpected, 0),
        ("1 2", ReadProblem::Trailing, 2),
        ("[1}", ReadProblem::Unexpected, 2),
    ] {
        assert_eq!(Data::parse(text).unwrap_err(), UnreadableData { problem, at }, "{text}");
    }
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    parse(&nested(MAX_READ_DEPTH));
    let error = Data::parse(&nested(MAX_READ_DEPTH + 1)).unwrap_err();
    assert_eq!(error.to_string(), "too many levels of nesting at byte 128");
    assert_eq!(Data::parse(&"[".repeat(1 << 20)).unwrap_err().problem, ReadProblem::TooDeep);
}

#[test]
fn equal_numbers_have_the_same_canonical_form() {
    for (equal, form) in [
        (&["1", "1.0", "10e-1", "1e0", "0.1E+1", "1.000", "100e-0002"][..], "1"),
        (&["0", "-0", "0.0", "-0e5", "0e999999999999999999999"], "0"),
        (&["-5", "-5.0", "-50e-1"], "-5"),
        (&["1.5", "15e-1", "0.15e1", "1.50"], "1.5"),
        (&["0.0001", "1e-4"], "0.0001"),
        (&["0.00001", "1e-5"], "0.00001"),
        (&["0.0000015", "15e-7"], "1.5e-6"),
        (
            &["18446744073709551615", "18446744073709551615.0", "1.8446744073709551615e19"],
            "18446744073709551615",
        ),
        (&["18446744073709551616", "18446744073709551616.0"], "1.8446744073709551616e+19"),
        (&["18446744073709551617"], "1.8446744073709551617e+19"),
        (&["-9223372036854775808", "-9223372036854775808e0"], "-9223372036854775808"),
        (&["1e999", "10e998", "0.1e1000"], "1e+999"),
        (&["1e-999", "0.1e-998"], "1e-999"),
        (&["1e999999999", "10e999999998"], "1e+999999999"),
    ] {
        for number in equal {
            assert_eq!(canonical(number), form, "{number}");
        }
    }
    // An exponent of any length costs nothing, and different numbers stay different.
    let huge = |exponent: &str| canonical(&format!("1e{exponent}"));
    let nines = "9".repeat(100_000);
    assert_ne!(huge(&nines), huge(&format!("-{nines}")));
    assert_ne!(huge("99999999999999999999"), huge("99999999999999999998"));
    assert_eq!(huge("99999999999999999999"), huge("+0099999999999999999999"));
}

#[test]
fn machine_numbers_are_exact_or_absent() {
    use MachineNumber::{Double, Int, UInt};
    for (text, want) in [
        ("1", Some(Int(1))),
        ("-9223372036854775808", Some(Int(i64::MIN))),
        ("9223372036854775808", Some(UInt(1 << 63))),
        ("18446744073709551615", Some(UInt(u64::MAX))),
        ("18446744073709551616", Some(Double(18_446_744_073_709_551_616.0))),
        ("18446744073709551617", None),
        ("-9223372036854775809", None),
        ("100000000000000000000", Some(Double(1e20))),
        ("1.5", Some(Double(1.5))),
        ("1e2", Some(Double(100.0))),
        ("1e999", None),
        ("-1e999", None),
    ] {
        assert_eq!(Number::new(text).machine(), want, "{text}");
    }
    assert_eq!(Number::new("1".repeat(1 << 20)).machine(), None);
    assert_eq!(Number::new("-1e999").as_f64(), f64::NEG_INFINITY);
    assert_eq!(Number::new("18446744073709551617").as_f64(), 18_446_744_073_709_551_616.0);
}

#[test]
fn finds_duplicate_names_at_every_depth() {
    let path = |text: &str| match check_unique_names(text, MAX_DEPTH, "data") {
        Err(NameProblem::Duplicate(path)) => path,
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(path(r#"{"a":1,"a":2}"#), "data.a");
    assert_eq!(path(r#"{"a":1,"\u0061":2}"#), "data.a");
    assert_eq!(path(r#"{"m":{"x":1},"n":{"a":{"b":1},"a":2}}"#), "data.n.a");
    assert_eq!(path(r#"[0,[{"a":1},{"b":[],"c":{},"b":1}]]"#), "data[1][1].b");
    for text in [r#"{"a":{"a":{"a":1}}}"#, r#"[{"a":1},{"a":1}]"#, r#"{"a":[{"b":1}],"b":2}"#, "1"] {
        assert_eq!(check_unique_names(text, MAX_DEPTH, "data"), Ok(()), "{text}");
    }
    let members = |last: &str| {
        let many: String = (0..100).map(|n| format!("\"n{n}\":1,")).collect();
        format!("{{\"m\":{{{many}\"{last}\":1}},\"n1\":2}}")
    };
    assert_eq!(check_unique_names(&members("other"), MAX_DEPTH, "data"), Ok(()));
    assert_eq!(path(&members("n7")), "data.m.n7");
    let long = format!("{}1{}", format!("{{\"{}\":", "x".repeat(1000)).repeat(50), "}".repeat(50));
    let twice = long.replace(":1}", ":1,\"y\":1,\"y\":1}");
    assert!(path(&twice).chars().count() <= 128 && path(&twice).ends_with(".y"));
    let deep = format!("{}{}", "[".repeat(MAX_DEPTH + 1), "]".repeat(MAX_DEPTH + 1));
    assert!(matches!(
        check_unique_names(&deep, MAX_DEPTH, "data"),
        Err(NameProblem::Unreadable(UnreadableData { problem: ReadProblem::TooDeep, .. }))
    ));
}

#[test]
fn inserts_members_in_order() {
    let Data::Object(mut object) = parse(r#"{"b":1,"d":2}"#) else { panic!() };
    for name in ["c", "b", "a"] {
        object.insert(name, Data::Null);
    }
    let names: Vec<&str> = object.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    assert_eq!((object.len(), object.get("b"), object.get("x")), (4, Some(&Data::Null), None));
}

/// Generates JSON text in every notation that the publish API accepts, with blanks, escapes and numbers of any size.
pub fn json_text() -> impl Strategy<Value = String> {
    let number = "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,12})?";
    let string =
        "\"([ !#-\\[\\]-~é\u{1f600}]|\\\\[\"\\\\/bfnrt]|\\\\u[0-9a-fA-F]{4}|\\\\ud[89a-f][0-9]{2}){0,12}\"";
    let leaf = prop_oneof![Just("null".to_owned()), Just("true".to_owned()), number, string];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        let members = prop::collection::vec((string, "[ \t\n]{0,2}", inner.clone()), 0..6);
        prop_oneof![
            prop::collection::vec(inner, 0..6).prop_map(|items| format!("[{} ]", items.join(" , "))),
            members.prop_map(|members| {
                let members = members.iter().map(|(name, blank, value)| format!("{name}{blank}:{value}"));
                format!("{{{}}}", members.collect::<Vec<_>>().join(","))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1024, ..ProptestConfig::default() })]

    /// The reader accepts exactly what the JSON parser accepts that ingest uses.
    #[test]
    fn accepts_the_same_texts_as_ingest(text in json_text(), at in any::<prop::sample::Index>(), other in "[\"{}\\[\\]:,\\\\0-9eE.+u -]?", cut in any::<bool>()) {
        let at = at.index(text.len());
        let at = text.floor_char_boundary(at);
        let damaged = if cut { text[..at].to_owned() } else { format!("{}{other}{}", &text[..at], &text[at..]) };
        for text in [text, damaged] {
            let accepted = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
            prop_assert_eq!(Data::parse(&text).is_ok(), accepted, "{}", text);
        }
    }

    /// Where serde_json can represent a text, the values are the same.
    #[test]
    fn agrees_with_serde_json(text in json_text()) {
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            let ours = parse(&text);
            let read_again: Value = serde_json::from_str(&ours.to_json(JsonStyle::Original)).unwrap();
            prop_assert_eq!(&read_again, &value);
        }
        // Its own output is readable and stable.
        for style in [JsonStyle::Original, JsonStyle::Canonical] {
            let json = parse(&text).to_json(style);
            prop_assert_eq!(parse(&json).to_json(style), json.clone());
            prop_assert_eq!(parse(&json).to_json(JsonStyle::Canonical), parse(&text).to_json(JsonStyle::Canonical));
        }
    }

    /// Gate state that earlier versions stored stays valid: for ordinary data the canonical text is serde_json's.
    #[test]
    fn canonical_form_of_ordinary_data_is_that_of_serde_json(
        int in any::<i64>(), uint in any::<u64>(), digits in -999_999_999_999_999_i64..=999_999_999_999_999, places in 1..=22_usize,
        text in any::<String>(),
    ) {
        let value = json!({"int": int, "uint": uint, "text": text, "list": [text, null, true], "": {}});
        prop_assert_eq!(parse(&value.to_string()).to_json(JsonStyle::Canonical), value.to_string());
        let double = format!("{digits}e-{places}");
        let value: Value = serde_json::from_str(&double).unwrap();
        let is_whole = value.as_f64().is_some_and(|n| n.fract() == 0.0);
        if !is_whole {
            prop_assert_eq!(canonical(&double), value.to_string(), "{}", double);
            prop_assert_eq!(canonical(&value.to_string()), value.to_string());
        }
    }

    /// Two texts have the same canonical form if and only if the numbers are equal.
    #[test]
    fn canonical_forms_compare_like_the_numbers(digits in 1..1_000_000_u64, more in 0..30_usize, shift in -30..30_i64) {
        let zeros = "0".repeat(more);
        let lengthened = format!("{digits}{zeros}e{}", shift - i64::try_from(more).unwrap());
        prop_assert_eq!(canonical(&format!("{digits}e{shift}")), canonical(&lengthened));
        let decimal = format!("0.{zeros}{digits}e{}", shift + i64::try_from(more + digits.to_string().len()).unwrap());
        prop_assert_eq!(canonical(&format!("{digits}e{shift}")), canonical(&decimal));
        prop_assert_ne!(canonical(&format!("{digits}e{shift}")), canonical(&format!("{}e{shift}", digits + 1)));
    }

    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        drop(Data::parse(&text));
        drop(check_unique_names(&text, MAX_DEPTH, "data"));
    }
}
