//! Checks the syntax of scripts and formats values as Lua does, without running Lua.

use mlua::chunk::ChunkMode;
use mlua::{Lua, LuaOptions, StdLib};
use serde_json::Value;

/// Memory limit of the compiler in bytes.
const COMPILER_MEMORY: usize = 64 << 20;
/// Maximum number of occurrences of a token that are tried to find the column of a syntax error.
const MAX_TRIES: usize = 64;

/// A problem in a text. Lines and columns are counted from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct Diagnostic {
    pub line: usize,
    pub column: usize,
    pub message: String,
}

impl Diagnostic {
    /// Creates a diagnostic for a byte offset of a text.
    pub fn at(text: &str, offset: usize, message: String) -> Diagnostic {
        let before = text.get(..offset).unwrap_or(text);
        let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
        Diagnostic { line: before.matches('\n').count() + 1, column, message }
    }
}

/// Checks the syntax of a chunk by compiling it. Rejects bytecode and runs nothing.
pub fn check(text: &str) -> Result<(), Diagnostic> {
    let unavailable = |error: mlua::Error| Diagnostic { line: 1, column: 1, message: error.to_string() };
    let lua = Lua::new_with(StdLib::NONE, LuaOptions::new()).map_err(unavailable)?;
    lua.set_memory_limit(COMPILER_MEMORY).map_err(unavailable)?;
    match compile(&lua, text) {
        Ok(()) => Ok(()),
        Err((line, message)) => {
            let column = find_column(&lua, text, line, &message);
            Err(Diagnostic { line, column, message })
        }
    }
}

/// Compiles a chunk. The error holds line and message.
fn compile(lua: &Lua, text: &str) -> Result<(), (usize, String)> {
    let chunk = lua.load(text).set_name("=chunk").set_mode(ChunkMode::Text);
    let message = match chunk.into_function() {
        Ok(_) => return Ok(()),
        Err(mlua::Error::SyntaxError { message, .. }) => message,
        Err(mlua::Error::MemoryError(_)) => "the script needs too much memory to compile".to_owned(),
        Err(other) => other.to_string(),
    };
    let located = message.strip_prefix("chunk:").and_then(|rest| rest.split_once(": "));
    Err(match located.and_then(|(line, rest)| Some((line.parse().ok()?, rest))) {
        Some((line, rest)) => (line, rest.to_owned()),
        None => (1, message),
    })
}

/// Finds the column of a syntax error. The compiler reports the line and the token near which it stopped, but no column.
/// If the token occurs several times, the first occurrence is chosen at which the truncated text fails with the same error.
fn find_column(lua: &Lua, text: &str, line: usize, message: &str) -> usize {
    let start: usize = text.split_inclusive('\n').take(line - line.min(1)).map(str::len).sum();
    let content = text.get(start..).unwrap_or_default().split('\n').next().unwrap_or_default();
    let end_column = content.chars().count() + 1;
    let Some((_, token)) = message.split_once(" near '") else { return 1 };
    let token = token.strip_suffix('\'').unwrap_or(token);
    if token == "<eof>" || token.is_empty() {
        return end_column;
    }
    let expected = (line, message.to_owned());
    let occurrences = content.match_indices(token).take(MAX_TRIES);
    let found = occurrences.map(|(at, _)| at).find(|at| {
        let prefix = text.get(..start + at + token.len()).unwrap_or(text);
        compile(lua, prefix).is_err_and(|error| error == expected)
    });
    let at = found.or_else(|| content.find(token)).unwrap_or_default();
    content.get(..at).map_or(1, |before| before.chars().count() + 1)
}

/// Formats a number as Lua prints it, with 14 significant digits.
pub fn number_text(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() {
            "nan"
        } else if number > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    }
    let scientific = format!("{number:.13e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let trim = |text: &str| -> String {
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text.to_owned()
        }
    };
    if (-4..14).contains(&exponent) {
        let decimals = usize::try_from(13 - exponent).unwrap_or_default();
        trim(&format!("{number:.decimals$}"))
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{}e{sign}{:02}", trim(digits), exponent.abs())
    }
}

/// Converts a Lua number to JSON. Whole numbers up to 2^53 get no fraction. Numbers that are not finite become null.
pub fn json_number(number: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.trunc() == number && number.abs() <= EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
        return Value::from(number as i64);
    }
    serde_json::Number::from_f64(number).map_or(Value::Null, Value::Number)
}

const KEYWORDS: [&str; 22] = [
    "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in", "local",
    "nil", "not", "or", "repeat", "return", "then", "true", "until", "while",
];

pub fn is_keyword(name: &str) -> bool {
    KEYWORDS.contains(&name)
}

/// Names with a predefined meaning in a template's Lua, unless the event's data redefines them.
const GLOBALS: [&str; 42] = [
    "_G",
    "_VERSION",
    "___",
    "___b",
    "assert",
    "bit",
    "blocks",
    "cjson",
    "concat",
    "coroutine",
    "echo",
    "error",
    "escape",
    "getmetatable",
    "include",
    "ipairs",
    "json",
    "kong",
    "layout",
    "math",
    "next",
    "ngx",
    "os",
    "output",
    "pairs",
    "pcall",
    "print",
    "rawequal",
    "rawget",
    "rawset",
    "require",
    "select",
    "setmetatable",
    "string",
    "table",
    "template",
    "tonumber",
    "tostring",
    "type",
    "unpack",
    "xpcall",
    "rawlen",
];

pub fn is_global(name: &str) -> bool {
    GLOBALS.contains(&name)
}

const STRING_METHODS: [&str; 14] = [
    "byte", "char", "dump", "find", "format", "gmatch", "gsub", "len", "lower", "match", "rep", "reverse",
    "sub", "upper",
];

pub fn is_string_method(name: &str) -> bool {
    STRING_METHODS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_line_and_column_of_syntax_errors() {
        assert_eq!(check("return function (data) return true end"), Ok(()));
        assert_eq!(check("goto done ::done:: return bit"), Ok(()));
        assert_eq!(check(""), Ok(()));
        for (text, line, column, message) in [
            ("return function ()\n  local x = = 1\nend", 2, 13, "unexpected symbol near '='"),
            ("x = ')' .. )", 1, 12, "unexpected symbol near ')'"),
            ("return function ()", 1, 19, "'end' expected near '<eof>'"),
            ("x = 'abc", 1, 9, "unfinished string near '<eof>'"),
            ("y = 1 x = 'abc\n'", 1, 11, "unfinished string near ''abc'"),
            ("\u{1b}LJ\u{2}", 1, 1, ""),
            ("goto nowhere", 1, 1, "undefined label 'nowhere'"),
        ] {
            let found = check(text).unwrap_err();
            assert!(found.message.contains(message), "{text}: {found}");
            if !message.is_empty() {
                assert_eq!((found.line, found.column), (line, column), "{text}: {found}");
            }
        }
        assert_eq!(
            check("\n\nif x the").unwrap_err().to_string(),
            "line 3, column 6: 'then' expected near 'the'"
        );
    }

    #[test]
    fn compiling_pathological_texts_terminates() {
        for text in ["(".repeat(100_000), "{".repeat(100_000), "x=".repeat(50_000), "a.".repeat(100_000)] {
            assert!(check(&text).is_err());
        }
    }

    #[test]
    fn formats_numbers_as_lua_does() {
        for (number, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (1_627_588_552.0, "1627588552"),
            (1.5, "1.5"),
            (0.1 + 0.2, "0.3"),
            (1e14, "1e+14"),
            (99_999_999_999_999.0, "99999999999999"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (-12345.678, "-12345.678"),
            (1e300, "1e+300"),
            (12_345_678_901_234_567.0, "1.2345678901235e+16"),
        ] {
            assert_eq!(number_text(number), text);
        }
    }
}
