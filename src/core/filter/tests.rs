use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::*;
use crate::core::event::{DataForm, EventData, Origin};

pub(super) fn event_with(data: &str) -> Event {
    Event {
        id: "1".into(),
        namespace: "n".into(),
        origin: Origin::Api,
        source: "crud".into(),
        event: "consumers".into(),
        time: "2023-11-14T22:13:20Z".into(),
        data: RawValue::from_string(data.into()).unwrap().into(),
        attributes: [("subject".to_owned(), json!("o/1")), ("n".to_owned(), json!(3))].into(),
    }
}

pub(super) fn data() -> Value {
    json!({"operation": "create", "n": 5, "big": 18_446_744_073_709_551_615_u64, "half": 2.5, "neg": -3, "yes": true,
           "nothing": null, "text": "grün", "entity": {"id": 7, "tags": ["a", "b", "b"], "odd key": 1},
           "list": [1, 2.0, 3, "x", null], "items": [{"n": 1}, {"n": 2}, {"m": 3}], "empty": []})
}

fn run(text: &str) -> Result<bool, FilterError> {
    Filter::compile(text)?.matches(&event_with(&data().to_string()))
}

#[test]
fn data_of_another_type_is_null() {
    let typed = |data: &str, content_type: &str, form: DataForm| {
        let mut event = event_with(data);
        event.data = EventData::new(RawValue::from_string(data.into()).unwrap(), form);
        event.attributes.insert("datacontenttype".into(), json!(content_type));
        event
    };
    let matches = |event: &Event, text: &str| Filter::compile(text).unwrap().matches(event);
    for event in [
        typed("\"text\"", "text/plain", DataForm::Inline),
        typed("\"<a/>\"", "text/plain", DataForm::Encoded),
        typed("\"AAA=\"", "image/png", DataForm::Bytes),
        typed("null", "text/plain", DataForm::Absent),
    ] {
        let text = "data == null && attributes.datacontenttype in ['text/plain', 'image/png']";
        assert_eq!(matches(&event, text), Ok(true), "{event:?}");
    }
    for (data, form) in [("\"text\"", DataForm::Inline), ("\"text\"", DataForm::Encoded)] {
        let event = typed(data, "application/vnd.x+json", form);
        assert_eq!(matches(&event, "data == 'text'"), Ok(true));
    }
    // Older versions accepted any JSON with any content type, and so does this one.
    assert_eq!(matches(&typed("{\"n\":1}", "text/plain", DataForm::Inline), "data.n == 1"), Ok(true));
}

#[test]
fn evaluates_expressions() {
    for text in [
        "true",
        "source == 'crud' && event == \"consumers\"",
        "attributes.subject.startsWith('o/') && attributes.n == 3",
        "data.operation in ['create', 'update']",
        "!(data.operation == 'delete')",
        "has(data.entity) && !has(data.missing) && has(data.nothing) && has(data.entity.id)",
        "data.entity['odd key'] == 1 && data['n'] == 5 && data.list[0] == 1 && data.list[1.0] == 2",
        "data.n == 5.0 && data.half > 2 && data.n < 5.5 && data.n != 5.5 && data.big > data.n && 5u == data.n",
        "-1.0 == -1 && -1.5 < -1 && 1.5 > 1 && 0 - 1 == -1.0",
        "data.neg == -3 && -data.neg == 3 && -2.5 < data.half",
        "data.nothing == null && data.n != null && data.n != '5'",
        "size(data.text) == 4 && data.text.size() == 4 && size(data.list) == 5 && size(data.entity) == 3",
        "data.text.contains('rü') && data.text.endsWith('n')",
        "data.text.matches('^gr.n$') && matches(data.operation, 'c(re)+ate')",
        "data.entity.tags.exists(t, t == 'b') && data.entity.tags.all(t, size(t) == 1)",
        "data.entity.tags.exists_one(t, t == 'a') && !data.entity.tags.existsOne(t, t == 'b')",
        "data.items.filter(i, has(i.n)).map(i, i.n) == [1, 2]",
        "data.items.map(i, has(i.n), i.n * 10) == [10, 20]",
        "data.items.exists(i, i.n == 2)",
        "!data.items.all(i, i.n == 2)",
        "data.entity.all(k, k in ['id', 'tags', 'odd key'])",
        "attributes.id == '1' && attributes.time == '2023-11-14T22:13:20Z' && has(attributes.id)",
        "type(data.n) == int && type(data.half) == double && type(data.big) == uint && type(data.text) == string",
        "type(data.list) == list && type(data) == map && type(data.nothing) == null_type && type(true) == bool",
        "type(type(data.n)) == type && type(data.n) != type('5') && type(data.n) in [int, double]",
        "dyn(data.n) == 5 && dyn(data.text).size() == 4 && [dyn(1), dyn('a')].exists(x, type(x) == string)",
        "data.list.exists(int, int == 3)",
        "data.missing == 1 || true",
        "!(data.missing == 1 && false)",
        "data.n > 3 ? data.yes : data.missing",
        "[1, 2] + [3] == [1, 2, 3] && 'a' + 'b' == 'ab'",
        "{'a': 1, 'b': [2]} == {'b': [2.0], 'a': 1u} && {'a': 1}.a == 1 && 'a' in {'a': 1}",
        "'entity' in data && !('x' in data.entity) && 2 in data.list && !(4 in data.list)",
        "int('5') == data.n && string(data.n) == '5' && double(data.n) == 5.0 && uint(5) == 5u && bool('true')",
        "int(2.9) == 2 && string(2.5) == '2.5' && string(true) == 'true'",
        "7 / 2 == 3 && 7 % 4 == 3 && 2.0 * data.half == 5.0 && 7u - 2u == 5u",
        "'a' < 'b' && false < true && 'a' <= 'a' && 2 >= 2.0",
        "[[1, 2], [3]].exists(x, x.exists(y, y == 3))",
        "data.items.exists(data, data.n == 1)",
        "data == data && data.entity == {'id': 7, 'tags': ['a', 'b', 'b'], 'odd key': 1}",
        "data.empty.all(x, x.nonsense) && !data.empty.exists(x, true)",
        r#"'\u00fc' == 'ü' && r'\n' == '\\n' && "a" == 'a'"#,
    ] {
        assert_eq!(run(text), Ok(true), "{text}");
        assert_eq!(run(&format!("!({text})")), Ok(false), "!({text})");
    }
}

#[test]
fn reports_evaluation_errors() {
    for (text, problem) in [
        ("data.missing == 1", "the member missing does not exist, in data.missing"),
        ("data.n.x == 1", "an int (5) has no member x, in data.n.x"),
        ("data.nothing.x == 1", "null has no member x"),
        ("data.list[9] == 1", "out of range: an int (9), in data.list[9]"),
        ("data.list[-1] == 1", "out of range"),
        ("data.list['x'] == 1", "must be a whole number, not a string ('x'), in data.list['x']"),
        ("data.entity[1] == 1", "no such key: an int (1), in data.entity[1]"),
        ("data.n && true", "&& takes booleans, not an int (5), in data.n && true"),
        ("data.n > 'a'", "an int (5) cannot be compared with a string ('a'), in data.n > 'a'"),
        (
            "data.n + 1.5 > 2.0",
            "an int (5) and a double (1.5) cannot be operands of one operator: convert one with int(), double() or string(), in data.n + 1.5",
        ),
        ("data.n / 0 == 1", "divisor is zero, in data.n / 0"),
        ("9223372036854775807 + data.n > 0", "too big"),
        ("data.n in 5", "in takes a list"),
        ("size(data.n) == 1", "an int (5) has no size, in size(data.n)"),
        ("data.n.contains('a')", "take strings, not an int"),
        ("int('x') == 1", "int() cannot convert a string ('x'), in int('x')"),
        ("data.n.all(x, true)", "take a list or a map, not an int (5), in data.n.all(x, true)"),
        ("data.items.all(i, has(i.n) ? true : i.n == 1)", "the member n does not exist"),
        ("data.items.filter(i, i.n == 1) == []", "the member n does not exist"),
        ("{data.text: 1, 'grün': 2} == {}", "twice"),
        ("data.missing == 1 && true", "the member missing does not exist"),
    ] {
        match run(text) {
            Err(error @ FilterError::Failed { .. }) => {
                assert!(error.to_string().contains(problem), "{text}: {error}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    assert_eq!(run("data.operation"), Err(FilterError::NotBoolean("a string ('create')".into())));
    assert_eq!(run("data.yes ? data.n : true"), Err(FilterError::NotBoolean("an int (5)".into())));
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let unreadable = Filter::compile("data == 1").unwrap().matches(&event_with(&deep));
    assert!(matches!(unreadable, Err(FilterError::Unreadable(_))), "{unreadable:?}");
    let untouched = Filter::compile("source == 'crud'").unwrap().matches(&event_with(&deep));
    assert_eq!(untouched, Ok(true), "data that the filter does not use is not parsed");
}

/// A value that a filter cannot represent affects only the comparison that needs it.
#[test]
fn unrepresentable_values_fail_only_where_they_are_needed() {
    let event = event_with(
        r#"{"n":1,"cut":"x\ud83d","\ud83d":2,"big":18446744073709551617,"far":1e999,"exact":18446744073709551616,
            "list":[18446744073709551617,5],"deep":{"big":-1e999}}"#,
    );
    for text in [
        "data.n == 1",
        "data.cut.startsWith('x') && size(data.cut) == 2 && data.cut == 'x\u{fffd}' && data['\u{fffd}'] == 2",
        "has(data.big) && has(data.far) && size(data.list) == 2 && 'big' in data",
        "data.big != null && data.big != 'x' && !(data.big == [])",
        "data.big == 1 || data.n == 1",
        "data.list.exists(x, x == 5) && 5 in [5, data.big]",
        "string(data.big) == '18446744073709551617' && string(data.far) == '1e999'",
        "double(data.big) == 18446744073709551616.0 && data.exact == 18446744073709551616.0",
    ] {
        assert_eq!(Filter::compile(text).unwrap().matches(&event), Ok(true), "{text}");
    }
    let big = "a number (18446744073709551617)";
    for (text, problem) in [
        (
            "data.big == 18446744073709551615u",
            format!("{big} fits no int, uint or double, in data.big == 18446744073709551615u"),
        ),
        ("data.n == 1 && data.big > 5", format!("{big} fits no int, uint or double, in data.big > 5")),
        ("data.far < 1.0", "a number (1e999) fits no int, uint or double, in data.far < 1.0".into()),
        (
            "data.deep.big in [1, 2]",
            "a number (-1e999) fits no int, uint or double, in data.deep.big in [1, 2]".into(),
        ),
        ("data == data", format!("{big} fits no int, uint or double, in data == data")),
        ("data.list.all(x, x > 1)", format!("{big} fits no int, uint or double, in x > 1")),
        ("data.big + 1 > 0", format!("{big} fits no int, uint or double, in data.big + 1")),
        ("int(data.big) == 1", format!("int() cannot convert {big}, in int(data.big)")),
        ("double(data.far) > 1.0", "double() cannot convert a number (1e999), in double(data.far)".into()),
        ("-data.big < 0", format!("- takes an int or a double, not {big}, in -data.big")),
    ] {
        let error = Filter::compile(text).unwrap().matches(&event).unwrap_err();
        assert_eq!(error.to_string(), problem, "{text}");
    }
}

#[test]
fn error_messages_are_bounded() {
    let event = event_with(&format!(r#"{{"t":"a\n{}","n":{}}}"#, "ü".repeat(10_000), "9".repeat(10_000)));
    let error = Filter::compile("data.t > 1").unwrap().matches(&event).unwrap_err().to_string();
    assert!(error.starts_with("a string ('a üü") && error.contains("ü...') cannot be compared"), "{error}");
    for text in [format!("data.n == 1 || data.t > [{}1]", "1, ".repeat(1000)), "data.n > 1".to_owned()] {
        let error = Filter::compile(&text).unwrap().matches(&event).unwrap_err().to_string();
        assert!(error.chars().count() < 400, "{error}");
    }
}

/// An expression in an error message is written as its author would write it.
#[test]
fn writes_expressions_as_cel() {
    for text in [
        "data.a.b['c d'][0] == 1",
        "has(data.a.b) && (size(data.l) > 2u || !(data.x != 1.5))",
        "data.l.exists(x, x.n in [1, 'a\\'b', null, true]) ? data.y < 1 : source.matches('^a\\\\.b$')",
        "data.l.filter(x, x > -1).map(y, (y + 1) * 2) == [{'a': 1}]",
        "string(data.n).startsWith('1') && attributes.subject.contains(event)",
        "data.l.map(x, x > 1, double(x)).all(y, y >= 1.0) && data.l.exists_one(z, z <= 5)",
    ] {
        let Filter(compiled) = Filter::compile(text).unwrap();
        assert_eq!(compiled.root.text(), text);
    }
    let Filter(long) = Filter::compile(&format!("data.t == '{}'", "ü".repeat(1000))).unwrap();
    assert!(long.root.text().len() <= 131 && long.root.text().ends_with("..."), "{}", long.root.text());
}

#[test]
fn rejects_invalid_filters_with_position() {
    for (text, at, problem) in [
        ("", (1, 1), ""),
        ("data.x ==", (1, 10), "mismatched input"),
        ("true &&\n dat.x == 1", (2, 2), "unknown name dat: use source"),
        ("items.all(i, j == 1)", (1, 1), "unknown name items"),
        ("data.items.all(i, j == 1)", (1, 19), "unknown name j"),
        ("data.x.lower() == 'a'", (1, 13), "unknown function lower"),
        ("timestamp('x') == 1", (1, 10), "unknown function"),
        ("size(1, 2) == 1", (1, 5), "unknown function size, or wrong arguments"),
        ("data.list.all(1, true)", (1, 15), "must be a variable name"),
        ("has(data)", (1, 5), "has() takes a member"),
        ("b'x' == data.x", (1, 1), "no bytes"),
        ("a.b{c: 1} == 1", (1, 4), "messages are not supported"),
        ("data.x.matches(data.y)", (1, 20), "string literal"),
        ("data.x.matches('(')", (1, 16), "is not a regular expression: unclosed group"),
        ("data.x.matches('\\\\w{1000}')", (1, 16), "is not a regular expression"),
        ("data.?x == 1", (1, 5), ""),
        ("1 + 1", (1, 3), "the result is a number"),
        ("'x'", (1, 1), "the result is a string"),
        ("data.list.map(x, x)", (1, 14), "the result is a list"),
    ] {
        match Filter::compile(text) {
            Err(FilterError::Invalid { line, column, problem: got }) => {
                assert!(got.contains(problem), "{text}: {got}");
                assert_eq!((line, column), at, "{text}: {got}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    assert_eq!(Filter::compile(&" ".repeat(4097)), Err(FilterError::TooLong));
    let error = Filter::compile(&format!("{} == 1", "x".repeat(3000))).unwrap_err();
    assert!(error.to_string().len() < 300, "{error}");
}

/// A run over many manifests compiles all filters on one thread.
#[test]
fn filters_of_one_thread_compile_as_on_threads_of_their_own() {
    let sum = format!("{}1 == data.n", "1+".repeat(1900));
    let nested = "(".repeat(4000);
    let texts = ["data.n == 5", &sum, "data.n = 5", "missing == 1", "data.n ==", &nested];
    let compile = || texts.map(|text| Filter::compile(text).map(|filter| filter.text().to_owned()));
    let apart = compile();
    assert!(apart[0].is_ok() && apart[1..].iter().all(Result::is_err), "{apart:?}");
    let (thread, together) =
        run_with_parser_stack(|| (std::thread::current().id(), compile())).unwrap().unwrap();
    assert_eq!(together, apart);
    assert_ne!(thread, std::thread::current().id());
    // A panic of the function reaches the caller, and the thread that called it stays as it was.
    assert!(run_with_parser_stack(|| panic!("a check that fails")).unwrap().is_err());
    assert!(!parser_stack::has_parser_stack());
}

/// The `cel` crate's own evaluator is the reference.
#[test]
fn agrees_with_reference_evaluator() {
    let values = [
        "data.n",
        "data.half",
        "data.big",
        "data.text",
        "data.list",
        "data.entity",
        "data.nothing",
        "data.yes",
        "1",
        "2.5",
        "5u",
        "'grün'",
        "[1, 2.0]",
        "{'id': 7}",
        "null",
        "data.missing",
        "-3",
        "'a'",
    ];
    let operators = ["==", "!=", "<", "<=", ">", ">=", "+", "-", "*", "/", "%", "in", "&&", "||"];
    let mut compared = 0;
    for a in values {
        for b in values {
            for op in operators {
                let text = match op {
                    "+" | "-" | "*" | "/" | "%" => format!("({a} {op} {b}) == {a}"),
                    _ => format!("{a} {op} {b}"),
                };
                compared += usize::from(agree(&text));
            }
        }
        for text in [
            format!("size({a}) == 1"),
            format!("{a}.all(x, x == 1)"),
            format!("{a}.exists(x, x == 1)"),
            format!("{a}.map(x, [x]) == [[1]]"),
            format!("{a}.filter(x, x != 1) == [2]"),
            format!("string({a}) == '5'"),
            format!("int({a}) == 5"),
            format!("double({a}) == 5.0"),
            format!("{a}.contains('a')"),
            format!("!{a}"),
            format!("{a}[0] == 1"),
            format!("{a}.id == 7"),
            format!("has({a}.id)"),
            format!("{a}.exists_one(x, x == 1)"),
        ] {
            compared += usize::from(agree(&text));
        }
    }
    assert!(compared > 800, "{compared}");
}

/// Returns true if both evaluators have a result. Panics if the results differ.
fn agree(text: &str) -> bool {
    let Ok(ours) = run(text) else { return false };
    let mut context = cel::Context::default();
    context.add_variable("data", data()).unwrap();
    let Ok(program) = cel::Program::compile(text) else { return false };
    match program.execute(&context) {
        Ok(cel::Value::Bool(theirs)) => assert_eq!(ours, theirs, "{text}"),
        _ => return false,
    }
    true
}

/// The most expensive filters within the limits finish soon, on a stack as small as a worker thread's.
#[test]
fn worst_cases_neither_hang_nor_overflow() {
    let many = (0..20_000).map(|n| format!("{{\"n\":{n},\"t\":\"{n}\"}}")).collect::<Vec<_>>().join(",");
    let long = "ab ".repeat(150_000);
    let big = event_with(&format!(
        r#"{{"l":[{many}],"t":"{long}","d":{}1{},"n":{}}}"#,
        "[".repeat(120),
        "]".repeat(120),
        "9".repeat(1 << 20)
    ));
    let chained = |link: &str| format!("data.l{} == []", link.repeat(40));
    let texts = [
        "data.l.all(a, data.l.all(b, data.l.all(c, a != b || b != c || a == c || true)))".to_owned(),
        "data.l.all(a, data.l == data.l)".to_owned(),
        "data.l.all(a, a in data.l)".to_owned(),
        "data.l.all(a, !(a in data.l) || data.t.contains('abc'))".to_owned(),
        "data.l.all(a, !data.t.matches('(a|b|ab|.)*c(x|y){20}$'))".to_owned(),
        "data.l.all(a, !data.t.matches('(\\\\w+\\\\s+){30}x'))".to_owned(),
        chained(".map(x, [x, x])"),
        chained(".map(x, x)"),
        format!("[data.t]{} == []", ".map(x, x + x)".repeat(60)),
        format!("[data.l]{} == []", ".map(x, x + x)".repeat(60)),
        format!("{} == ''", vec!["data.t"; 60].join(" + ")),
        "data.l.map(a, data.t + 'x') == []".to_owned(),
        "data.l.all(a, double(data.n) > 1.0 || true)".to_owned(),
        "data.l.all(a, string(data.n) != 'x')".to_owned(),
        "data.l.all(a, data.n > 1 || data.n == a.n || true)".to_owned(),
        format!("{} == 1", (0..500).map(|_| "a").fold("data.d".to_owned(), |t, _| t + "[0]")),
        format!("data.d{} == 1", "[0]".repeat(60)),
        format!("{}1{} == data.d", "[".repeat(40), "]".repeat(40)),
        format!("{}true{}", "[1].all(x, ".repeat(30), ")".repeat(30)),
        format!("data.l{} == data.l", ".map(x, [[[[[[[[[[[[x]]]]]]]]]]]])".repeat(40)),
        "data.d == data.d".to_owned(),
        vec!["data.t == 'x'"; 250].join(" || "),
        format!("{}true{}", "(".repeat(46), ")".repeat(46)),
        format!("{}true", "!".repeat(4000)),
        format!("{}1 == 1", "1+".repeat(2000)),
        format!("data{} == 1", ".a".repeat(2000)),
        "(".repeat(4096),
        "[".repeat(4096),
        "{1:".repeat(1300),
        "a?b:".repeat(1000),
        "-".repeat(4096),
        "\"".repeat(4095),
        "@".repeat(4096),
        "f(".repeat(2048),
    ];
    let small_stack = std::thread::Builder::new().stack_size(1 << 20).spawn(move || {
        for text in texts {
            let started = Instant::now();
            let short: String = text.chars().take(80).collect();
            match Filter::compile(&text) {
                Ok(filter) => drop(filter.matches(&big)),
                Err(error) => assert!(error.to_string().len() < 400),
            }
            let elapsed = started.elapsed();
            assert!(elapsed < Duration::from_secs(10), "{short}: {elapsed:?}");
            println!("{elapsed:?} {short}");
        }
    });
    small_stack.unwrap().join().unwrap();
}

#[test]
fn exhausted_budget_is_never_ignored() {
    let big = event_with(&format!("[{}1]", "1,".repeat(100_000)));
    for text in ["data.all(a, data.all(b, true)) || true", "data.exists(a, !data.all(b, true)) && false"] {
        assert_eq!(Filter::compile(text).unwrap().matches(&big), Err(FilterError::TooCostly), "{text}");
    }
}

#[test]
fn filters_compare_by_text_and_accept_any_json() {
    let filter = Filter::compile("data.n == 5").unwrap();
    assert_eq!(filter, Filter::compile("data.n == 5").unwrap());
    assert_eq!(filter.text(), "data.n == 5");
    assert_eq!(format!("{filter:?}"), "Filter(\"data.n == 5\")");
    for data in ["null", "[]", "3", "\"x\""] {
        assert!(filter.matches(&event_with(data)).is_err(), "{data}");
    }
    assert_eq!(Filter::compile("data == null").unwrap().matches(&event_with("null")), Ok(true));
}
