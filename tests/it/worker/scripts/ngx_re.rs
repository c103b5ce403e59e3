//! `ngx.re` and the settings of cjson, with the results that the documents of lua-nginx-module and lua-cjson state.

use serde_json::{Value, json};

use super::{Scripts, assert_no_failures};

async fn assert_results(tag: u64, rows: &[(&str, Value)]) {
    let scripts = Scripts::start(tag, |_| {}).await;
    let mut failures = Vec::new();
    for (body, expected) in rows {
        let result = scripts.run("hook", body).await;
        if result.as_ref() != Ok(expected) {
            failures.push(format!("{body}: expected {expected}, got {result:?}"));
        }
    }
    assert_no_failures(&failures);
}

#[tokio::test]
async fn ngx_re_finds_like_openresty() {
    let rows: &[(&str, Value)] = &[
        (r"local m = ngx.re.match('hello, 1234', '[0-9]+') return m[0]", json!("1234")),
        (
            r"local m = ngx.re.match('hello, 1234', '([0-9])[0-9]+') return {m[0], m[1], #m}",
            json!(["1234", "1", 1]),
        ),
        (
            r"local m = ngx.re.match('hello, 1234', '([0-9])(?<remaining>[0-9]+)') return {m[0], m[1], m[2], m.remaining}",
            json!(["1234", "1", "234", "234"]),
        ),
        (
            r"local m = ngx.re.match('hello, world', '(world)|(hello)|(?<named>howdy)') return {m[0], m[1], m[2], m[3], m.named}",
            json!(["hello", false, "hello", false, false]),
        ),
        (
            r"return {ngx.re.match('hello', 'x') == nil, select('#', ngx.re.match('hello', 'x'))}",
            json!([true, 2]),
        ),
        (
            r"local ctx = {} local m = ngx.re.match('1234, hello', '[0-9]+', '', ctx) return {m[0], ctx.pos}",
            json!(["1234", 5]),
        ),
        (
            r"local ctx = {pos = 2} local m = ngx.re.match('1234, hello', '[0-9]+', 'jo', ctx) return {m[0], ctx.pos}",
            json!(["234", 5]),
        ),
        (
            r"local ctx = {pos = 99} return {ngx.re.match('12', '[0-9]+', nil, ctx) == nil, ctx.pos}",
            json!([true, 99]),
        ),
        (r"local ctx = {pos = 2} return ngx.re.match('ab', '^b', '', ctx) == nil", json!(true)),
        (
            r"local t = {} local m = ngx.re.match('ab', '(b)', '', nil, t) return {m == t, t[0], t[1]}",
            json!([true, "b", "b"]),
        ),
        (r"return {ngx.re.find('hello, 1234', '([0-9]+)', 'jo')}", json!([8, 11])),
        (r"return {ngx.re.find('hello, 1234', '([0-9])([0-9]+)', 'jo', nil, 2)}", json!([9, 11])),
        (r"return {ngx.re.find('a', '(x)|a', '', nil, 1) == nil, ngx.re.find('', '')}", json!([true, 1, 0])),
        (
            r"local ctx = {pos = 3} local from = ngx.re.find('abab', 'ab', '', ctx) return {from, ctx.pos}",
            json!([3, 5]),
        ),
        // Options.
        (r"return ngx.re.match('HELLO', 'hello', 'i')[0]", json!("HELLO")),
        (r"return ngx.re.match('a\nb', '^b', 'm')[0]", json!("b")),
        (r"return ngx.re.match('a\nb', 'a.b', 's')[0]", json!("a\nb")),
        (r"return ngx.re.match('ab', ' a  b # both', 'x')[0]", json!("ab")),
        (r"return {#ngx.re.match('é', '.')[0], #ngx.re.match('é', '.', 'u')[0]}", json!([1, 2])),
        (
            r"return {ngx.re.match('ba', 'a', 'a') == nil, ngx.re.match('ab', 'a', 'ajo')[0]}",
            json!([true, "a"]),
        ),
        // Backslashes as in a script of Kong.
        (r"return ngx.re.match('id: 42', [[\bid:\s*(\d+)$]])[1]", json!("42")),
        (r"return ngx.re.match('a-b.c', '[\\w-.]+')[0]", json!("a-b.c")),
        (r"return ngx.re.match('x{y}', '{([^}]*)}')[1]", json!("y")),
        (r"return ngx.re.match(12345, 3)[0]", json!("3")),
    ];
    assert_results(122, rows).await;
}

#[tokio::test]
async fn ngx_re_replaces_like_openresty() {
    let rows: &[(&str, Value)] = &[
        (r"return {ngx.re.sub('hello, 1234', '([0-9])[0-9]', '[$0][$1]')}", json!(["hello, [12][1]34", 1])),
        (r"return {ngx.re.sub('hello, 1234', '[0-9]', '${0}00')}", json!(["hello, 100234", 1])),
        (r"return {ngx.re.sub('hello, 1234', '[0-9]', '$$')}", json!(["hello, $234", 1])),
        (
            r"return {ngx.re.sub('hello, 1234', '( [0-9] ) [0-9]', function(m) return '[' .. m[0] .. '][' .. m[1] .. ']' end, 'x')}",
            json!(["hello, [12][1]34", 1]),
        ),
        (
            r"return {ngx.re.gsub('hello, world', '([a-z])[a-z]+', '[$0,$1]', 'i')}",
            json!(["[hello,h], [world,w]", 2]),
        ),
        (
            r"return {ngx.re.gsub('hello, world', '([a-z])[a-z]+', function(m) return '[' .. m[0] .. ',' .. m[1] .. ']' end, 'i')}",
            json!(["[hello,h], [world,w]", 2]),
        ),
        (r"return {ngx.re.gsub('abc', 'x', 'y')}", json!(["abc", 0])),
        (r"return {ngx.re.gsub('abc', 'b*', '-')}", json!(["-a--c-", 4])),
        (r"return {ngx.re.gsub('é', '', '-', 'u')}", json!(["-é-", 2])),
        (r"return {ngx.re.gsub('a1b2', '[0-9]', function(m) return m[0] * 2 end)}", json!(["a2b4", 2])),
        (r"return {ngx.re.gsub('ab', '(x)|b', '<$1$9>')}", json!(["a<>", 1])),
        (r"return {ngx.re.gsub('a.b', '[.]', '%0$0')}", json!(["a%0.b", 1])),
        (r"return ngx.re.gsub('ab', '', function() return '$0' end)", json!("$0a$0b$0")),
    ];
    assert_results(123, rows).await;
}

#[tokio::test]
async fn ngx_re_reports_what_it_does_not_support() {
    let rows: Vec<(String, Value)> = [
        ("(?=a)", "look-around"),
        ("(?<!a)b", "look-around"),
        (r"(a)\1", "back-references are not supported"),
        ("a++", "possessive quantifiers"),
        ("(?>a)", "atomic groups"),
        ("(a", "unclosed group"),
        ("[a", "a class has no ]"),
        ("(?:a{1000}){1000}", "too large a program"),
    ]
    .into_iter()
    .map(|(pattern, part)| {
        let call = format!(
            "local p = [[{pattern}]] local m, one = ngx.re.match('a', p) local _, _, two = ngx.re.find('a', p) local new, n, three = ngx.re.gsub('a', p, '') \
             return {{m == nil and new == nil and n == nil, one == two and two == three, one:find('{part}', 1, true) ~= nil or one}}"
        );
        (call, json!([true, true, true]))
    })
    .collect();
    let mut rows: Vec<(&str, Value)> =
        rows.iter().map(|(call, result)| (call.as_str(), result.clone())).collect();
    rows.extend([
        (
            "return {select(3, ngx.re.sub('a', 'a', '$name')):find('write $$ for a dollar', 1, true) ~= nil}",
            json!([true]),
        ),
        (
            "local ok, why = pcall(function() ngx.re.match('a', 'a', 'd') end) return why",
            json!("lambda:2: bad argument to ngx.re.match: the option 'd' is not supported"),
        ),
        (
            "local ok, why = pcall(function() ngx.re.gmatch('a', 'a') end) return why",
            json!("lambda:2: ngx.re.gmatch is not available in a lambda"),
        ),
        (
            "local ok, why = pcall(function() ngx.re.gsub('a', 'a', function() end) end) return why",
            json!("lambda:2: bad argument to ngx.re.gsub (the function must return a string, not a nil)"),
        ),
        ("return (select(2, ngx.re.match(('a'):rep(2097152), 'a')))", json!("the subject is over 1024 KiB")),
        ("return (select(2, ngx.re.match('a', ('a'):rep(9000))))", json!("the regex is over 8 KiB")),
        (
            "return (select(2, ngx.re.match('\\255', 'a', 'u')))",
            json!("the subject is not UTF-8, which the option u requires"),
        ),
        // Linear in the subject: a backtracking engine would never end.
        ("return ngx.re.match(('a'):rep(100000), '(a*)*b') == nil", json!(true)),
    ]);
    assert_results(124, &rows).await;
}

#[tokio::test]
async fn cjson_has_its_settings() {
    let rows: &[(&str, Value)] = &[
        (
            "local before = cjson.encode({}) local set = cjson.encode_empty_table_as_object(false) return {before, set, cjson.encode({a = {}})}",
            json!(["{}", false, r#"{"a":[]}"#]),
        ),
        (
            "cjson.encode_empty_table_as_object('off') local off = cjson.encode({}) cjson.encode_empty_table_as_object('on') return {off, cjson.encode({}), cjson.encode_empty_table_as_object()}",
            json!(["[]", "{}", true]),
        ),
        // The settings of the rows above are gone, and json() has its own.
        ("return cjson.encode({})", json!("{}")),
        ("return {cjson.encode_sparse_array()}", json!([false, 2, 10])),
        (
            "return {pcall(cjson.encode, {[1] = 'a', [100] = 'b'})}",
            json!([false, "lambda:2: cannot serialise table: excessively sparse array"]),
        ),
        (
            "local settings = {cjson.encode_sparse_array(true)} return {settings, cjson.encode({[1] = 'a', [100] = 'b'})}",
            json!([[true, 2, 10], r#"{"1":"a","100":"b"}"#]),
        ),
        (
            "cjson.encode_sparse_array(false, 0) return {#cjson.encode({[100] = 'b'}), cjson.encode({[3] = 'c'})}",
            json!([500, "[null,null,\"c\"]"]),
        ),
        ("cjson.encode_sparse_array(nil, 2, 2) return pcall(cjson.encode, {[5] = 1})", json!(false)),
        (
            "local text = '{\"a\":[]}' local plain = cjson.encode(cjson.decode(text)) local set = cjson.decode_array_with_array_mt(true) return {plain, set, cjson.encode(cjson.decode(text))}",
            json!([r#"{"a":{}}"#, true, r#"{"a":[]}"#]),
        ),
        (
            "local own = cjson.new() own.encode_empty_table_as_object(false) own.decode_array_with_array_mt(true) return {own.encode({}), cjson.encode({}), own.encode(own.decode('[]')), own.null == cjson.null, own.encode(own.empty_array)}",
            json!(["[]", "{}", "[]", true, "[]"]),
        ),
        (
            "local safe = require('cjson.safe') local own = safe.new() return {select('#', own.decode('[')), own.encode(print) == nil}",
            json!([2, true]),
        ),
        (
            "local safe = require('cjson.safe') safe.encode_empty_table_as_object(false) return {safe.encode({}), cjson.encode({})}",
            json!(["[]", "{}"]),
        ),
        (
            "return {cjson.encode(setmetatable({}, cjson.empty_array_mt)), cjson.encode(setmetatable({a = 1}, cjson.empty_array_mt)), cjson.encode(setmetatable({'x', nil, 'y', a = 1}, cjson.array_mt))}",
            json!(["[]", r#"{"a":1}"#, r#"["x",null,"y"]"#]),
        ),
        (
            "return {pcall(cjson.encode_sparse_array, true, -1)}",
            json!([false, "bad argument to encode_sparse_array (expected integer between 0 and 2147483647)"]),
        ),
        (
            "local ok, why = pcall(function() cjson.encode_empty_table_as_object('maybe') end) return why",
            json!(
                "lambda:2: bad argument to encode_empty_table_as_object (true, false, 'on' or 'off' expected)"
            ),
        ),
        // The size of the JSON bounds a list without a limit of its holes.
        (
            "cjson.encode_sparse_array(false, 0) return select(2, pcall(cjson.encode, {[2000000000] = 1}))",
            json!("lambda:2: cannot serialise, the JSON is over 4096 KiB"),
        ),
    ];
    assert_results(125, rows).await;
}
