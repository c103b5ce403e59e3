//! The rules of a schema (`x-kubernetes-validations`), evaluated.
//!
//! The rules are our own, out of the CRDs, so that the crate's evaluator, which has no bound, will do here.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use cel::extractors::This;
use cel::{Context, Program};
use parking_lot::Mutex;
use regex::Regex;
use serde_json::Value;
use url::Url;

/// Rules and patterns, compiled once: a folder may hold many thousands of objects. The CRDs bound their number.
static PROGRAMS: LazyLock<Mutex<HashMap<String, Arc<Program>>>> = LazyLock::new(Mutex::default);
static PATTERNS: LazyLock<Mutex<HashMap<String, Regex>>> = LazyLock::new(Mutex::default);

/// The rules of a schema that are not about a change.
#[cfg(test)]
pub fn of(schema: &Value) -> impl Iterator<Item = &str> {
    all(schema)
        .filter_map(|rule| rule.get("rule").and_then(Value::as_str))
        .filter(|rule| !is_about_a_change(rule))
}

fn all(schema: &Value) -> impl Iterator<Item = &Value> {
    schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten()
}

fn is_about_a_change(rule: &str) -> bool {
    rule.contains("oldSelf")
}

pub fn compile(rule: &str) -> Result<Arc<Program>, String> {
    if let Some(program) = PROGRAMS.lock().get(rule) {
        return Ok(program.clone());
    }
    let program = Arc::new(Program::compile(rule).map_err(|error| error.to_string())?);
    PROGRAMS.lock().insert(rule.to_owned(), program.clone());
    Ok(program)
}

/// True where the text matches; false too for what is no pattern.
pub fn matches(text: &str, pattern: &str) -> bool {
    if let Some(regex) = PATTERNS.lock().get(pattern) {
        return regex.is_match(text);
    }
    let Ok(regex) = Regex::new(&from_go(pattern)) else { return false };
    let matches = regex.is_match(text);
    PATTERNS.lock().insert(pattern.to_owned(), regex);
    matches
}

/// The API server's expressions are Go's, in which a bracket within brackets is only itself; here it would begin a class
/// within the class.
fn from_go(pattern: &str) -> String {
    let mut ours = String::with_capacity(pattern.len() + 4);
    // Within brackets: how many members came.
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
                ours.push('\\');
                members = Some(count + 1);
            }
            (_, Some(count)) => members = Some(count + 1),
            (_, None) => {}
        }
        ours.push(c);
    }
    ours
}

/// What the broken rules say.
pub fn broken(schema: &Value, value: &Value) -> Vec<String> {
    let text = |rule: &Value, name: &str| rule.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
    let told = |rule: &Value| {
        let expression = text(rule, "rule").filter(|rule| !is_about_a_change(rule))?;
        match holds(&expression, value) {
            Ok(true) => None,
            Ok(false) => Some(text(rule, "message").unwrap_or(expression)),
            // It would be refused there too, if with other words.
            Err(error) => Some(format!("cannot be checked: {expression}: {error}")),
        }
    };
    all(schema).filter_map(told).collect()
}

fn holds(rule: &str, value: &Value) -> Result<bool, String> {
    let program = compile(rule)?;
    let mut context = Context::default();
    context.add_variable_from_value("self", to_cel(value));
    // What Kubernetes adds to CEL, as far as the rules use it. A name that the crate has is its own.
    context
        .add_function("matches", |This(text): This<Arc<String>>, pattern: Arc<String>| {
            matches(&text, &pattern)
        })
        .ok();
    context.add_function("lowerAscii", |This(text): This<Arc<String>>| text.to_ascii_lowercase()).ok();
    context.add_function("isURL", |text: Arc<String>| Url::parse(&text).is_ok()).ok();
    match program.execute(&context) {
        Ok(cel::Value::Bool(answer)) => Ok(answer),
        Ok(_) => Err("it is neither true nor false".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn to_cel(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(b) => cel::Value::Bool(*b),
        // Schemas know whole numbers of one kind only.
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
