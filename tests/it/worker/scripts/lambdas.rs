use hookstream::sandbox::ScriptError;
use serde_json::{Value, json};

use super::{Scripts, assert_no_failures};

/// The arguments of a lambda and its Lua dialect.
#[tokio::test]
async fn lambdas_have_kong_environment() {
    let scripts = Scripts::start(20, |_| {}).await;
    let rows: &[(&str, Value)] = &[
        ("return true", json!(true)),
        ("", json!(null)),
        ("return data.entity.username, 2", json!("ada")),
        ("return {event, source, pid}", json!(["consumers", "crud", 7])),
        (
            "return {data.entity.none == nil, data.list[2] == cjson.null, #data.list, type(data.empty)}",
            json!([true, true, 3, "table"]),
        ),
        ("return data", json!({"entity": {"username": "ada"}, "list": [1, null, "x"], "empty": []})),
        // LuaJIT's dialect: goto, bit, hexadecimal, escapes.
        ("goto done do return 1 end ::done:: return bit.bor(1, 0x10)", json!(17)),
        ("return bit.tohex(255) .. '\\x41\\z\n  b'", json!("000000ffAb")),
        (
            "return {7 / 2, 2 ^ 10, 1e100, -0.5, 9007199254740991}",
            json!([3.5, 1024, 1e100, -0.5, 9_007_199_254_740_991_i64]),
        ),
        ("return _VERSION", json!("Lua 5.1")),
        (
            "return table.concat({'a', 'b'}, ',') .. string.format('%05.2f', math.pi) .. ('x'):rep(3)",
            json!("a,b03.14xxx"),
        ),
        ("function string:shout() return self:upper() .. '!' end return ('a'):shout()", json!("A!")),
        (
            "local co = coroutine.wrap(function(a) local b = coroutine.yield(a + 1) return b * 2 end) return {co(1), co(5)}",
            json!([2, 10]),
        ),
        ("local ok, why = pcall(error, {code = 7}) return {ok, why.code}", json!([false, 7])),
        ("return select('#', unpack({1, nil, 3}, 1, 3))", json!(3)),
        (
            "return type(os.time()) .. os.date('!%Y-%m-%d', 0) .. os.time({year = 2001, month = 9, day = 9, hour = 1, min = 46, sec = 40})",
            json!("number1970-01-011000000000"),
        ),
        ("return os.date('%H:%M', 0) .. type(os.clock())", json!("00:00number")),
        // cjson.
        (
            "return cjson.encode({a = 1, b = {1, 2.5, cjson.null}, c = 'x\"\\n', [2] = true})",
            json!(r#"{"2":true,"a":1,"b":[1,2.5,null],"c":"x\"\n"}"#),
        ),
        (
            "return {cjson.encode({}), cjson.encode(cjson.empty_array), cjson.encode(setmetatable({}, cjson.array_mt))}",
            json!(["{}", "[]", "[]"]),
        ),
        (
            "local t = cjson.decode('{\"a\": [1, null, {\"b\": null}]}') return {t.a[1], t.a[2] == cjson.null, t.a[3].b == ngx.null}",
            json!([1, true, true]),
        ),
        ("return select(2, pcall(cjson.decode, '{'))", json!("lambda:2: the text ends too early at byte 1")),
        (
            "local v, why = require('cjson.safe').decode('[') return v == nil and type(why) == 'string'",
            json!(true),
        ),
        (
            "local v, why = require('cjson.safe').encode(print) return {v == nil, why}",
            json!([true, "cannot serialise function: type not supported"]),
        ),
        ("return tostring(cjson.null)", json!("userdata: NULL")),
        ("return cjson.encode(cjson.decode('12345678901234567890'))", json!("1.2345678901234567e+19")),
        (
            "local t = require 'table.new'(1, 1) require 'table.clear'(t) return require 'bit' == bit and #t",
            json!(0),
        ),
        // ngx.
        (
            "local before, time, after = ngx.now(), ngx.time(), ngx.now() return time > 1700000000 and math.floor(before) <= time and time <= after",
            json!(true),
        ),
        (
            "return #ngx.today() .. #ngx.localtime() .. #ngx.utctime() .. ngx.http_time(0)",
            json!("101919Thu, 01 Jan 1970 00:00:00 GMT"),
        ),
        (
            "return {ngx.encode_base64('a?>'), ngx.encode_base64('a', true), ngx.decode_base64('YT8+'), ngx.decode_base64('!') == nil}",
            json!(["YT8+", "YQ", "a?>", true]),
        ),
        (
            "return {ngx.escape_uri('a b/é'), ngx.unescape_uri('a%20b+c%zz')}",
            json!(["a%20b%2F%C3%A9", "a b c%zz"]),
        ),
        (
            "return {ngx.md5('a'), #ngx.md5_bin('a'), ngx.encode_base64(ngx.sha1_bin('a')), ngx.encode_base64(ngx.hmac_sha1('key', 'text'))}",
            json!([
                "0cc175b9c0f1b6a831c399e269772661",
                16,
                "hvfkN/qlp/zhXR3cuerq6jd2Z7g=",
                "Np4pWetJRQM4shJ0j3fY3tdIR7s="
            ]),
        ),
        ("return {ngx.ERR, ngx.WARN, ngx.NOTICE, ngx.INFO, ngx.DEBUG}", json!([4, 5, 6, 7, 8])),
        (
            "ngx.log(ngx.ERR, 'a', nil, 1, true) kong.log('a') kong.log.err('b', {}) print('c') return true",
            json!(true),
        ),
    ];
    let mut failures = Vec::new();
    for (body, expected) in rows {
        let result = scripts.run("hook", body).await;
        if result.as_ref() != Ok(expected) {
            failures.push(format!("{body}: expected {expected}, got {result:?}"));
        }
    }
    assert_no_failures(&failures);
}

/// An error names the line, as in Lua.
#[tokio::test]
async fn errors_name_the_line() {
    let scripts = Scripts::start(21, |_| {}).await;
    let seed = "return function (data, event, source, pid)\n  local user = data.entity.username\n  error(\"Event hook on consumer \" .. user .. \"\")\nend\n";
    let mut failures = Vec::new();
    for (text, message) in [
        (seed, "lambda:3: Event hook on consumer ada"),
        (
            "return function (data)\n return data.gone.x\nend",
            "lambda:2: attempt to index field 'gone' (a nil value)",
        ),
        ("return function (data)\n\n error('plain', 0)\nend", "plain"),
        ("error('at load')", "lambda:1: at load"),
        (
            "return 1",
            "lambda: the text returns a number, and must return a function (data, event, source, pid)",
        ),
        ("", "lambda: the text returns a nil, and must return a function (data, event, source, pid)"),
        ("return function (\n", "lambda:2: <name> or '...' expected near '<eof>'"),
        (
            "return function ()\n io.write('x') end",
            "lambda:2: attempt to index global 'io' (a nil value): io is not available in a lambda",
        ),
        ("return function ()\n ngx.exit(200) end", "lambda:2: ngx.exit is not available in a lambda"),
        (
            "return function () return print end",
            "lambda: its result: cannot serialise function: type not supported",
        ),
    ] {
        let outcome = scripts.call("hook", text).await;
        if outcome != Err(ScriptError::ScriptFailed(message.into())) {
            failures.push(format!("{text}: expected {message}, got {outcome:?}"));
        }
    }
    assert_no_failures(&failures);
}

/// Input and output are bounded, and a caller above a bound gets an error.
#[tokio::test]
async fn oversized_input_and_output_are_rejected() {
    let scripts = Scripts::start(22, |_| {}).await;
    let oversized = super::raw(&json!({"text": "x".repeat(33 << 20)}));
    let call = hookstream::sandbox::Invocation {
        function: "return function () return true end",
        data: &oversized,
        event: "e",
        source: "s",
        pid: 1,
    };
    let error = scripts.invoke("hook", call, super::CALL_DEADLINE).await.unwrap_err();
    assert!(matches!(&error, ScriptError::ScriptTooBig(message) if message.contains("32 MiB")), "{error}");
    // The deepest allowed data, as a variable of a template, and a deeper one.
    let deep = |levels| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    assert_eq!(scripts.render("{{ #a }}", &json!({"a": deep(127)})).await, Ok("1".into()));
    let error = scripts.render("{{ #a }}", &json!({"a": deep(128)})).await.unwrap_err();
    assert!(error.to_string().contains("cannot be given to Lua"), "{error}");
    let error = scripts.render("{* string.rep('x', 5e6) *}", &json!({})).await.unwrap_err();
    assert_eq!(error, ScriptError::OutputTooLarge);
    // Far more than the buffer of a pipe, in both directions.
    let text = scripts.render("{{ a }}{% %}", &json!({"a": "y".repeat(3 << 20)})).await.unwrap();
    assert_eq!(text.len(), 3 << 20);
}
