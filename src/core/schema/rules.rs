//! Evaluates the CEL rules of a schema (`x-kubernetes-validations`).
//!
//! The rules come from our own CRDs, so the `cel` crate's evaluator, which has no cost limit, is safe here.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use cel::extractors::This;
use cel::{Context, Env, Program};
use parking_lot::RwLock;
use regex::Regex;
use serde_json::Value;

use crate::core::{duration, urls};

/// Compiled rules and patterns, cached because a folder may contain thousands of objects. The CRDs bound their number.
static PROGRAMS: LazyLock<RwLock<HashMap<String, Arc<Program>>>> = LazyLock::new(RwLock::default);
/// The functions of CEL. Declaring them takes as long as dozens of evaluations.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));
static PATTERNS: LazyLock<RwLock<HashMap<String, Arc<Regex>>>> = LazyLock::new(RwLock::default);

/// Returns the rules of a schema except transition rules.
#[cfg(test)]
pub fn of(schema: &Value) -> impl Iterator<Item = &str> {
    all(schema)
        .filter_map(|rule| rule.get("rule").and_then(Value::as_str))
        .filter(|rule| !is_transition_rule(rule))
}

fn all(schema: &Value) -> impl Iterator<Item = &Value> {
    schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten()
}

fn is_transition_rule(rule: &str) -> bool {
    rule.contains("oldSelf")
}

pub fn compile(rule: &str) -> Result<Arc<Program>, String> {
    let known = PROGRAMS.read().get(rule).cloned();
    if let Some(program) = known {
        return Ok(program);
    }
    let program = Arc::new(Program::compile(rule).map_err(|error| error.to_string())?);
    PROGRAMS.write().insert(rule.to_owned(), program.clone());
    Ok(program)
}

/// Returns true if the text matches the pattern, and false if the pattern is invalid.
pub fn matches(text: &str, pattern: &str) -> bool {
    let known = PATTERNS.read().get(pattern).cloned();
    if let Some(regex) = known {
        return regex.is_match(text);
    }
    let Ok(regex) = Regex::new(&translate_go_pattern(pattern)) else { return false };
    let matches = regex.is_match(text);
    PATTERNS.write().insert(pattern.to_owned(), Arc::new(regex));
    matches
}

/// Translates a pattern from Go's syntax, which the API server uses. In Go, a bracket within a character class is a
/// literal; in the `regex` crate it would start a nested class.
fn translate_go_pattern(pattern: &str) -> String {
    let mut translated = String::with_capacity(pattern.len() + 4);
    // Within a character class: the number of members so far.
    let mut members: Option<usize> = None;
    let mut escaped = false;
    for c in pattern.chars() {
        let plain = !std::mem::replace(&mut escaped, false);
        match (c, members) {
            ('\\', _) if plain => escaped = true,
            ('[', None) if plain => members = Some(0),
            ('^', Some(0)) if plain => {}
            (']', Some(1..)) if plain => members = None,
            ('[' | ']' | '&' | '~', Some(count)) if plain => {
                translated.push('\\');
                members = Some(count + 1);
            }
            (_, Some(count)) => members = Some(count + 1),
            (_, None) => {}
        }
        translated.push(c);
    }
    translated
}

/// Returns the messages of all violated rules.
pub fn violated(schema: &Value, value: &Value) -> Vec<String> {
    // Converting the value costs more than a rule, so all rules share it.
    let mut shared = None;
    let text = |rule: &Value, name: &str| rule.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
    let mut violation = |rule: &Value| {
        let expression = text(rule, "rule").filter(|rule| !is_transition_rule(rule))?;
        match holds(&expression, shared.get_or_insert_with(|| context_of(value))) {
            Ok(true) => None,
            Ok(false) => Some(text(rule, "message").unwrap_or(expression)),
            // The API server rejects the object too, with a different message.
            Err(error) => Some(format!("cannot be checked: {expression}: {error}")),
        }
    };
    all(schema).filter_map(&mut violation).collect()
}

fn holds(rule: &str, context: &Context<'static, 'static>) -> Result<bool, String> {
    match compile(rule)?.execute(context) {
        Ok(cel::Value::Bool(answer)) => Ok(answer),
        Ok(_) => Err("the result is not a boolean".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Returns the variables and functions of the rules of a value.
fn context_of(value: &Value) -> Context<'static, 'static> {
    let mut context = Context::with_env(ENVIRONMENT.clone());
    context.add_variable_from_value("self", to_cel(value));
    // The Kubernetes extensions to CEL that our rules use. If the crate defines a function with this name, `add_function`
    // fails and the crate's function is used.
    context
        .add_function("matches", |This(text): This<Arc<String>>, pattern: Arc<String>| {
            matches(&text, &pattern)
        })
        .ok();
    context.add_function("lowerAscii", |This(text): This<Arc<String>>| text.to_ascii_lowercase()).ok();
    // In milliseconds, because our rules only compare durations. Another rule rejects a text that is no duration.
    context
        .add_function("duration", |text: Arc<String>| {
            duration::parse(&text).map_or(0, |parsed| i64::try_from(parsed.as_millis()).unwrap_or(i64::MAX))
        })
        .ok();
    context.add_function("isURL", |text: Arc<String>| urls::is_url(&text)).ok();
    context
}

fn to_cel(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(b) => cel::Value::Bool(*b),
        // OpenAPI schemas have one integer type only.
        Value::Number(n) => match n.as_i64() {
            Some(whole) => cel::Value::Int(whole),
            None => cel::Value::Float(n.as_f64().unwrap_or_default()),
        },
        Value::String(text) => cel::Value::String(Arc::new(text.clone())),
        Value::Array(list) => cel::Value::List(Arc::new(list.iter().map(to_cel).collect())),
        Value::Object(map) => {
            let members = map.iter().filter(|(_, value)| !value.is_null());
            members.map(|(name, value)| (name.clone(), to_cel(value))).collect::<HashMap<_, _>>().into()
        }
    }
}
