use hookstream::core::event::data::Data;
use hookstream::core::template::context;
use hookstream::sandbox::ScriptError;
use serde_json::json;

use super::{Scripts, assert_no_failures};

fn event() -> Data<'static> {
    let data = json!({
        "operation": "create", "yes": true, "off": false, "nothing": null,
        "entity": {"username": "a<b>&\"'/", "n": 5, "half": 0.5, "id": 123_456_789_012_345_678_u64, "on": false, "none": null},
        "tags": ["x", null, {"y": 1}], "small": {"z": 1, "n": null, "on": [false]}, "empty": [], "type": "a member", "blocks": {"given": "from data"},
    });
    context(Data::from(data), "crud", "consumers")
}

/// The template language of lua-resty-template, row by row.
#[tokio::test]
async fn templates_match_lua_resty_template() {
    let scripts = Scripts::start(30, |_| {}).await;
    let mut failures = Vec::new();
    for (template, rendered) in [
        // Expressions.
        ("{{ entity.username }}", "a&lt;b&gt;&amp;&quot;&#39;&#47;"),
        ("{* entity.username *}", "a<b>&\"'/"),
        ("{{ operation:upper() .. '!' }} {{ 1 + 2 }} {{ #tags }}", "CREATE! 3 3"),
        ("{{ entity.n }} {{ entity.half }} {{ entity.id }}", "5 0.5 123456789012345678"),
        ("[{{ missing }}{{ nothing }}{{ entity.none }}{{}}{* nil *}]", "[]"),
        ("{{ yes }} {{ off }} {{ entity.on }} {{ context.off }}", "true  false false"),
        ("{{ cjson.null }}{* ngx.null *}{{ tags[2] }}", ""),
        ("{{ function() return '<' end }}{* function() return function() return '<' end end *}", "<<"),
        ("{{ string.upper('a') }} {{ type }} {{ context.type }}", "A a member a member"),
        ("{{ source }}/{{ event }} {{ context.source }}", "crud/consumers crud"),
        ("{{ 'a', true }} {{ '{', true }}", "a &#123;"),
        ("{{ escape('<') }} {* template.escape('<') *} {* template.output(nil) *}", "&amp;lt; &lt; "),
        ("{{ (tostring(entity):gsub('0x%x+', 'address')) }}", "table: address"),
        (
            "{* json(tags) *} {* json(empty) *} {* json('a\"') *} {* json(missing) *} {* json(off) *}",
            "[\"x\",null,{\"y\":1}] [] \"a\\\"\" null null",
        ),
        ("{* json({b = 1, a = {1, 2}}) *}", "{\"a\":[1,2],\"b\":1}"),
        ("{{ json(operation) }}", "&quot;create&quot;"),
        ("{{\n  operation\n}}", "create"),
        // Code.
        ("{% for i, tag in ipairs({'a', 'b'}) do %}{{ i }}{{ tag }},{% end %}", "1a,2b,"),
        ("a\n{% if yes then %}\n  b\n{% else %}\n  c\n{% end %}\nd", "a\n  b\nd"),
        ("a {% if true then %}b{% end %} c", "ab c"),
        ("a\n\t {% local x = 1 %}\n\n{{ x }}", "a\n\n1"),
        ("{% local s = '%' .. '}' %}{{ s }}", "%}"),
        ("{% -- a note %}a{% --[[ another\none ]] %}b", "ab"),
        ("{% x = 5 %}{{ x }}{{ context.x }}", "5"),
        ("{% context.y = 6 %}{{ y }}", "6"),
        (
            "{% local function bold(s) return '<b>' .. template.escape(s) .. '</b>' end %}{* bold('&') *}",
            "<b>&amp;</b>",
        ),
        ("{% echo('a', nil, 1, '<') %}", "anil1<"),
        ("{% for k, v in pairs({a = 1}) do echo(k, '=', v) end %}", "a=1"),
        ("{% goto done %}a{% ::done:: %}b", "b"),
        ("{% ___[#___ + 1] = 'by hand' %}", "by hand"),
        ("{% (function() echo('x') end)() %}", "x"),
        // Comments and escapes.
        ("a{# {{ no }} {% no %} #}b", "ab"),
        ("a\n{# note #}\nb", "a\nb"),
        ("\\{{ no }} \\{* no *} \\{% no %} \\{# no #}{% %}", "{{ no }} {* no *} {% no %} {# no #}"),
        ("\\\\{{ operation }}{% %}", "\\create"),
        ("\\{(a)} \\{[b]} \\{-c-}d{-c-}{% %}", "{(a)} {[b]} {-c-}d{-c-}"),
        ("{\"json\": {\"a\": [1]}} {a} { {{ operation }} }", "{\"json\": {\"a\": [1]}} {a} { create }"),
        // Raw and named blocks.
        ("{-raw-}{{ no }}{% no %}{-raw-}{% %}", "{{ no }}{% no %}"),
        ("a\n{-verbatim-}\n{{ no }}\n{-verbatim-}\nb{% %}", "a\n{{ no }}\nb"),
        ("{-title-}<{{ operation }}>{-title-}[{* blocks.title *}]", "[<create>]"),
        ("{-a-}1{-a-}{-b-}2{-b-}{* blocks.b *}{* blocks.a *}{{ blocks.none }}", "21"),
        ("a\n  {-b-}\n  in\n  {-b-}\nc{* blocks.b *}", "a\nc  in\n  "),
        ("{-outer-}{-inner-}x{-inner-}[{* blocks.inner *}]{-outer-}{* blocks.outer *}", "[x]"),
        ("{% local x = 1 %}{-b-}{{ x }}{-b-}[{* blocks.b *}]", "[]"),
        ("{% x = 1 %}{-b-}{{ x }}{-b-}[{* blocks.b *}]", "[1]"),
        ("{-b-}{% echo('in') %}{-b-}out{* blocks.b *}", "outin"),
        ("{-b-}1{-b-}{* blocks.given *}", "from data"),
        // Text that would end a long string literal, control characters, Unicode.
        ("]=] ]] \"'\\ \t\u{1}9 é{% %}", "]=] ]] \"'\\ \t\u{1}9 é"),
        ("", ""),
    ] {
        let result = scripts.render_data(template, &event()).await;
        if result.as_deref() != Ok(rendered) {
            failures.push(format!("{template:?}: expected {rendered:?}, got {result:?}"));
        }
    }
    assert_no_failures(&failures);
}

/// A template with fields only is rendered without Lua, to the same bytes as with Lua. Only numbers differ that Lua's 14
/// digits cannot hold: see `numbers_are_exact_without_lua`.
#[tokio::test]
async fn field_templates_render_the_same_without_lua() {
    let scripts = Scripts::start(31, |_| {}).await;
    let mut failures = Vec::new();
    for field in [
        "operation",
        "entity.username",
        "entity.n",
        "entity.half",
        "entity.on",
        "entity.none",
        "missing",
        "off",
        "yes",
        "nothing",
        "context.off",
        "context.entity.n",
        "operation.x",
        "tags.x",
        "json(tags)",
        "json(small)",
        "json(empty)",
        "json(off)",
        "json(missing)",
        "json(entity.half)",
        "source",
        "context.event",
    ] {
        for template in [format!("<{{{{ {field} }}}}>"), format!("<{{* {field} *}}>")] {
            let by_lua = format!("{{% %}}{template}");
            let (without_lua, with_lua) = (
                scripts.render_data(&template, &event()).await,
                scripts.render_data(&by_lua, &event()).await,
            );
            if without_lua.is_err() || without_lua != with_lua {
                failures.push(format!("{template}: {without_lua:?} without Lua, {with_lua:?} with Lua"));
            }
        }
    }
    assert_no_failures(&failures);
    for field in ["missing.x", "entity.none.x", "off.x", "entity.n.x", "yes.x", "nothing.x", "entity.on.x"] {
        let template = format!("{{{{ {field} }}}}");
        let error_text = |outcome: Result<String, ScriptError>| {
            let text = outcome.unwrap_err().to_string();
            text.split_once(": ").unwrap().1.to_owned()
        };
        let with_lua = error_text(scripts.render_data(&format!("{{% %}}{template}"), &event()).await);
        assert_eq!(error_text(scripts.render_data(&template, &event()).await), with_lua, "{template}");
    }
    // A field of the data takes precedence over a helper of the same name.
    for json in [json!("x"), json!(1), json!(true), json!(false), json!(null), json!([1]), json!({})] {
        let data = context(Data::from(json!({"json": json, "a": 1})), "s", "e");
        let template = "{* json(a) *}";
        let outcome_text = |outcome: Result<String, ScriptError>| match outcome {
            Ok(text) => text,
            Err(error) => error.to_string().split_once(": ").unwrap().1.to_owned(),
        };
        let with_lua = outcome_text(scripts.render_data(&format!("{{% %}}{template}"), &data).await);
        assert_eq!(outcome_text(scripts.render_data(template, &data).await), with_lua, "{json}");
    }
}

/// Without Lua a number keeps the text of the event. Lua has doubles, which it prints with 14 digits.
#[tokio::test]
async fn numbers_are_exact_without_lua() {
    let scripts = Scripts::start(36, |_| {}).await;
    let text = r#"{"id":123456789012345678,"price":1.10,"far":1e999,"cut":"x\ud83d","\ud83d":1}"#;
    let data = context(Data::parse(text).unwrap(), "crud", "consumers");
    let mut failures = Vec::new();
    for (template, rendered) in [
        ("{{ id }} {{ price }} {{ far }} {{ cut }}", "123456789012345678 1.10 1e999 x\u{fffd}"),
        ("{% %}{{ id }} {{ price }} {{ far }} {{ cut }}", "1.2345678901235e+17 1.1 inf x\u{fffd}"),
        ("{* json(id) *} {* json(price) *}", "123456789012345678 1.10"),
        ("{% %}{* json(id) *} {* json(price) *}", "1.2345678901234568e+17 1.1"),
        ("{% if far == math.huge and context['\u{fffd}'] == 1 then %}yes{% end %}", "yes"),
    ] {
        let result = scripts.render_data(template, &data).await;
        if result.as_deref() != Ok(rendered) {
            failures.push(format!("{template:?}: expected {rendered:?}, got {result:?}"));
        }
    }
    assert_no_failures(&failures);
}

#[tokio::test]
async fn errors_name_the_template_line() {
    let scripts = Scripts::start(32, |_| {}).await;
    let mut failures = Vec::new();
    for (template, message) in [
        (
            "a\n{% -- note %}b\n{{ missing.x .. '' }}",
            "template:3: attempt to index global 'missing' (a nil value)",
        ),
        ("{-a-}\n{{ error('here') }}\n{-a-}", "template:2: here"),
        ("\n\n{% if %}", "template:3: unexpected symbol near 'if'"),
        ("{{ _G['include'] or include }}{% local i = include i('x') %}", "include is not available"),
        ("{% local t = template t.render('x') %}", "template.render is not available in a template"),
        ("{% local l = 1 layout\n= 'x' %}", "layout is not available"),
        ("{% os.execute('x') %}", "os.execute is not available in a template"),
        ("{(file)}", "line 1, column 1: {(file)} includes a file"),
        ("{% error({}) %}", "it raised a table"),
    ] {
        let error = scripts.render_data(template, &event()).await.unwrap_err().to_string();
        if !error.contains(message) {
            failures.push(format!("{template:?}: expected {message}, got {error}"));
        }
    }
    assert_no_failures(&failures);
}

/// Several templates of one request return in order, whether they need Lua or not.
#[tokio::test]
async fn renders_several_templates_in_order() {
    let scripts = Scripts::start(33, |_| {}).await;
    let templates = ["{{ operation }}", "{{ 1 + 1 }}", "", "{* operation:upper() *}", "{{ source }}"];
    let rendered = scripts.render_all(&templates, &event(), super::CALL_DEADLINE).await;
    assert_eq!(rendered.unwrap(), ["create", "2", "", "CREATE", "crud"]);
    assert_eq!(scripts.render_all(&[], &event(), super::CALL_DEADLINE).await, Ok(vec![]));
}
