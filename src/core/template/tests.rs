use proptest::prelude::*;
use serde_json::json;

use super::*;

fn parts(text: &str) -> Vec<String> {
    fn format_parts(text: &str, parts: &[Part]) -> Vec<String> {
        let format_part = |part: &Part| match part {
            Part::Text(range) => format!("text {:?}", slice(text, range)),
            Part::Write { code, escape: true } => format!("escape {}", slice(text, code)),
            Part::Write { code, escape: false } => format!("raw {}", slice(text, code)),
            Part::Code(code) => format!("code {}", slice(text, code)),
            Part::Block { name, parts } => {
                format!("block {}: {}", slice(text, name), format_parts(text, parts).join(", "))
            }
        };
        parts.iter().map(format_part).collect()
    }
    format_parts(text, &Template::parse(text).unwrap().parts)
}

#[test]
fn finds_tags_and_trims_blanks() {
    for (text, expected) in [
        ("", vec![]),
        ("a {b} {\"c\": {}}", vec!["text \"a {b} {\\\"c\\\": {}}\""]),
        ("a{{ b.c }}d", vec!["text \"a\"", "escape b.c", "text \"d\""]),
        ("{* a *}", vec!["raw a"]),
        ("{{a}}{{b}}", vec!["escape a", "escape b"]),
        ("{{ a }\n}", vec!["text \"{{ a }\\n}\""]),
        ("{%", vec!["text \"{%\""]),
        ("{{}}", vec!["escape "]),
        (
            "x\n  {% if a then %}\ny\n\t{% end %}z",
            vec!["text \"x\\n\"", "code if a then", "text \"y\\n\"", "code end", "text \"z\""],
        ),
        ("a {# no {{ b }} #}\nc", vec!["text \"a \"", "text \"c\""]),
        (r"\{{a}}", vec!["text \"{{a}}\""]),
        (r"a\{% b %}", vec!["text \"a\"", "text \"{% b %}\""]),
        (r"\\{{a}}", vec!["text \"\\\\\"", "escape a"]),
        (r"\{(a)} \{[b]}", vec!["text \"{(a)} \"", "text \"{[b]}\""]),
        ("{-raw-}\n{{a}}\n{-raw-}\nb", vec!["text \"{{a}}\\n\"", "text \"b\""]),
        ("{-verbatim-}{%{-verbatim-}", vec!["text \"{%\""]),
        ("{- raw -}x{- raw -}", vec!["text \"x\""]),
        ("  {-a-}\n{{b}}\n{-a-}\nc", vec!["block a: escape b", "text \"c\""]),
        ("{-a-}{-b-}x{-b-}{-a-}", vec!["block a: block b: text \"x\""]),
        ("{-1}", vec!["text \"{-1}\""]),
        ("{-a-} open", vec!["text \"{-a-} open\""]),
        ("{(open", vec!["text \"{(open\""]),
        ("é{{ü}}ö", vec!["text \"é\"", "escape ü", "text \"ö\""]),
    ] {
        assert_eq!(parts(text), expected, "{text:?}");
    }
}

#[test]
fn rejects_files_and_layouts_with_position() {
    let nested: String = (0..20).map(|n| format!("{{-b{n}-}}")).collect();
    let closed: String = (0..20).rev().map(|n| format!("{{-b{n}-}}")).collect();
    for (text, line, column, message) in [
        ("a\n {(header.html)}", 2, 2, "{(file)} includes a file"),
        ("{[\"a\" .. b]}", 1, 1, "{[expression]} includes a file"),
        ("{-a-}\n {(x)}{-a-}", 2, 2, "{(file)}"),
        ("{{ include('a') }}", 1, 4, "include is not available"),
        ("{% include [[a]] %}", 1, 4, "include is not available"),
        ("x\n{% layout = 'a.html' %}", 2, 4, "layout is not available"),
        ("{* template.render('x') *}", 1, 4, "template.render is not available"),
        ("{* template.compile('x')() *}", 1, 4, "template.compile is not available"),
        (&format!("{nested}{closed}"), 1, 103, "nested deeper than 16 levels"),
    ] {
        let found = Template::parse(text).unwrap_err();
        assert!(found.message.contains(message), "{text}: {found}");
        assert_eq!((found.line, found.column), (line, column), "{text}: {found}");
    }
    for text in [
        "{{ 'include(x)' }}",
        "{% -- layout = 1 %}",
        "{{ a.include }}",
        "{% if layout == 1 then end %}",
        "{{ include }}",
    ] {
        assert!(Template::parse(text).is_ok(), "{text}");
    }
}

#[test]
fn maps_compiler_errors_to_template_position() {
    for (text, line, column, message) in [
        ("a\nb {% if x %}\n{% end %}", 3, 4, "'then' expected near 'end'"),
        ("{{ a b }}", 1, 6, "')' expected near 'b'"),
        ("\n\n{* a. *}", 3, 6, ""),
        ("{% for %}", 1, 7, ""),
        ("x{% if a then %}\n\ny", 1, 14, "'end' expected"),
        ("a\n{-b-}\n{{ = }}\n{-b-}", 3, 4, "unexpected symbol near '='"),
        ("é {{ = }}", 1, 6, "unexpected symbol near '='"),
    ] {
        let found = Template::check(text).unwrap_err();
        assert!(found.message.contains(message), "{text}: {found}");
        assert_eq!((found.line, found.column), (line, column), "{text}: {found}");
    }
    for text in [
        "",
        "{{ a }}",
        "{{ a.b:upper() }}",
        "{% local x = 1 %}{{x}}",
        "{-a-}{{b}}{-a-}{*blocks.a*}",
        "{% -- note %}x",
    ] {
        assert!(Template::check(text).is_ok(), "{text}");
    }
}

#[test]
fn renders_fields_without_lua() {
    let data = json!({"operation": "create", "entity": {"username": "a<b", "n": 5, "id": 12345678901234567_u64, "on": false,
        "tags": ["x", null, 1.5], "none": null}, "off": false, "yes": true, "empty": []});
    let context = context(Data::from(data), "crud", "consumers");
    for (text, rendered) in [
        ("{{ operation }}d", "created"),
        ("{{source}}/{* event *}", "crud/consumers"),
        ("{{ entity.username }} {* entity.username *}", "a&lt;b a<b"),
        ("{{ entity.n }} {{ entity.id }} {{ entity.on }}", "5 12345678901234567 false"),
        ("[{{ missing }}{{ entity.none }}{{ off }}{{ yes }}]", "[true]"),
        ("{{ context.operation }} {{ context.off }}", "create false"),
        ("{{ entity.username.x }}", ""),
        ("{* json(entity.tags) *}", "[\"x\",null,1.5]"),
        ("{* json(entity.username) *} {{ json(operation) }}", "\"a<b\" &quot;create&quot;"),
        ("{* json(missing) *} {* json(empty) *}", "null []"),
        (
            "{* json(entity) *}",
            r#"{"id":12345678901234567,"n":5,"on":false,"tags":["x",null,1.5],"username":"a<b"}"#,
        ),
        ("{{ entity.tags }}", "table: 0x00000000"),
        ("no tags", "no tags"),
    ] {
        let template = Template::parse(text).unwrap();
        assert!(template.only_fields(), "{text}");
        assert_eq!(template.render_fields(&context).unwrap(), rendered, "{text}");
    }
    for text in [
        "{{ string }}",
        "{{ a.b() }}",
        "{{ a .. b }}",
        "{% x = 1 %}",
        "{{ a.len }}",
        "{{ end }}",
        "{{}}",
        "{{ a[1] }}",
        "{{ 'x' }}",
        "{{ 1 }}",
        "{{ json }}",
    ] {
        let template = Template::parse(text).unwrap();
        assert!(!template.only_fields(), "{text}");
        assert!(template.render_fields(&context).is_err());
    }
    for (text, message) in [
        ("a\n {{ gone.x }}", "line 2, column 5: attempt to index global 'gone' (a nil value)"),
        ("{{ entity.none.x }}", "line 1, column 4: attempt to index field 'none' (a nil value)"),
        ("{{ entity.n.x }}", "line 1, column 4: attempt to index field 'n' (a number value)"),
    ] {
        assert_eq!(Template::parse(text).unwrap().render_fields(&context).unwrap_err().to_string(), message);
    }
}

/// Numbers keep the text of the event, and a member that Lua could not hold affects no other one.
#[test]
fn renders_numbers_as_the_sender_wrote_them() {
    let text = r#"{"price":1.10,"whole":1.0,"id":123456789012345678901,"far":1e999,"cut":"x\ud83d","list":[1.50,null]}"#;
    let context = context(Data::parse(text).unwrap(), "shop", "paid");
    for (text, rendered) in [
        ("{{ price }} {* whole *} {{ id }} {{ far }}", "1.10 1.0 123456789012345678901 1e999"),
        ("{* json(list) *} {* json(id) *} {{ cut }}", "[1.50,null] 123456789012345678901 x\u{fffd}"),
        (
            "{* json(context) *}",
            "{\"cut\":\"x\u{fffd}\",\"event\":\"paid\",\"far\":1e999,\"id\":123456789012345678901,\"list\":[1.50,null],\"price\":1.10,\"source\":\"shop\",\"whole\":1.0}",
        ),
    ] {
        assert_eq!(Template::parse(text).unwrap().render_fields(&context).unwrap(), rendered, "{text}");
    }
}

#[test]
fn finds_html_escaping_tags() {
    let template = Template::parse("{{a}}\n {-b-}{{ c }}{-b-}{*d*}").unwrap();
    let found: Vec<_> =
        template.html_escaped_tags().into_iter().map(|e| (e.line, e.column, e.code)).collect();
    assert_eq!(found, [(1, 3, "a"), (2, 10, "c")]);
}

#[test]
fn parses_many_unclosed_tags_quickly() {
    for tag in ["{{", "{%", "{-a-}x", "{#", "{(", "{[", "{*", "\\{{"] {
        Template::parse(&tag.repeat(40_000)).unwrap();
    }
}

proptest! {
    /// For every text that parses, each line of the generated Lua maps to a line of the template.
    #[test]
    fn parser_never_panics_and_lines_map_back(text in "([{}%*#()\\[\\]\\\\\n\"'=a. -]|raw|include|json|é){0,60}") {
        if let Ok(template) = Template::parse(&text) {
            let lines = text.matches('\n').count() + 1;
            let generated = template.generate();
            for line in 0..generated.lua.matches('\n').count() + 2 {
                prop_assert!((1..=lines).contains(&generated.line(line)));
            }
            template.html_escaped_tags();
            if template.only_fields() {
                template.render_fields(&Data::from(json!({"a": {"a": 1}}))).ok();
            }
            if let Err(found) = Template::check(&text) {
                prop_assert!((1..=lines).contains(&found.line), "{found}");
            }
        }
    }

    /// Whatever else an accepted event contains, a template renders its members.
    #[test]
    fn accepted_data_renders(text in crate::core::event::data::tests::json_text()) {
        let data = format!(r#"{{"name":"Ann","other":{text}}}"#);
        let context = super::context(Data::parse(&data).unwrap(), "s", "e");
        let template = Template::parse("{{ name }} {* json(other) *}").unwrap();
        let rendered = template.render_fields(&context).unwrap();
        let json = rendered.strip_prefix("Ann ").unwrap();
        prop_assert!(Data::parse(json).is_ok(), "{}", json);
        let wrapped = super::context(Data::parse(&text).unwrap(), "s", "e");
        prop_assert_eq!(Template::parse("{{ source }}").unwrap().render_fields(&wrapped).unwrap(), "s");
    }

    #[test]
    fn text_without_tags_renders_unchanged(text in "[^{\\\\]{0,80}") {
        prop_assert_eq!(Template::parse(&text).unwrap().render_fields(&Data::from(json!({}))).unwrap(), text);
    }

    #[test]
    fn numbers_round_trip_to_14_digits(number in proptest::num::f64::NORMAL) {
        let parsed: f64 = crate::core::lua::number_text(number).parse().unwrap();
        prop_assert!((parsed - number).abs() <= number.abs() * 1e-13);
    }
}

#[test]
fn finds_unclosed_tags() {
    let found = |text: &str| {
        let tags = Template::parse(text).unwrap().unclosed_tags();
        tags.into_iter().map(|tag| (tag.line, tag.column, tag.open)).collect::<Vec<_>>()
    };
    for (text, expected) in [
        ("a {{ b }} c", vec![]),
        ("{\"a\": {\"b\": 1}}", vec![]),
        ("a\n {{ b } c {{ d", vec![(2, 2, "{{")]),
        ("{{ a }} {* b", vec![(1, 9, "{*")]),
        ("{% if a then", vec![(1, 1, "{%")]),
        ("\\{{ a", vec![]),
        ("{-raw-}{{ a }}{-raw-}", vec![]),
    ] {
        assert_eq!(found(text), expected, "{text}");
    }
}
